"""Distances between the surfaces of two masks: HD95, average symmetric surface distance, normalised
surface Dice.

HD95 and the average distance run between surface voxels, those of a mask that share a face (in a
slice an edge) with the outside, in MONAI's and medpy's code, too. Two single voxels are as far
apart as their centres; each voxel has the same weight. HD95 is MONAI's: a percentile of each
direction, the larger of the two (medpy's is one of both together).

Normalised surface Dice is a share of area and runs between surface elements, as in DeepMind's code
for it (Nikolov et al., JMIR 2021): every corner where 2×2×2 voxels (2×2 pixels) are neither all
inside nor all outside, weighted by the area (length) that marching cubes (squares) would lay there,
from MONAI's tables.

What lies beyond the array counts as outside. Tools differ in all of this, and so do their numbers
for the same masks (Podobnik and Vrtovec, arXiv:2410.02630): distances compare only where they were
computed alike.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from monai.metrics.utils import get_code_to_measure_table, get_mask_edges
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree

NSD_TOLERANCE_MM = 2.0
"""Default tolerance: what the Medical Segmentation Decathlon allows at the border of a lung tumour.
"""

_SQUARE = np.sin(np.radians(0.01))
"""Largest cosine between voxel axes that count as perpendicular."""

_ROUNDING = 1e-9
"""Relative; a distance that is the tolerance but for rounding is within it."""


class SurfaceComparison(NamedTuple):
    """How far two surfaces are apart.

    Attributes:
        hd95_mm: Hausdorff distance at 95 %: the 95th percentile (interpolated) of the distances of
            one surface's voxels to the other surface, the larger of both directions.
        assd_mm: Average symmetric surface distance: the mean of these distances, of both directions
            together.
        nsd: Normalised surface Dice: the share of both surfaces' area that lies within the
            tolerance, in [0,1]. None on sheared grids: areas are known for cuboids alone.
    """

    hd95_mm: float | None
    assd_mm: float | None
    nsd: float | None


def compare_surfaces(
    prediction: NDArray,
    reference: NDArray,
    steps_mm: ArrayLike,
    *,
    tolerance_mm: float = NSD_TOLERANCE_MM,
) -> SurfaceComparison:
    """Compare the surfaces of two masks in mm.

    Args:
        prediction: (I,J,K) or (H,W) of one shape; not 0 is inside.
        reference: (I,J,K) or (H,W) of one shape; not 0 is inside.
        steps_mm: Voxel edges along those axes, (axes,), of a grid with right angles; or, of any
            grid, (axes, 3): the steps in space from a voxel to the next one along each axis:
            columns of an affine.
        tolerance_mm: Of the normalised surface Dice; a distance of exactly that is within it.

    Returns:
        The comparison. Where one mask is empty there are no distances (None) and nsd is 0; where
        both are, all are None.

    Raises:
        ValueError: The shapes differ, or the steps are none of theirs.
    """
    steps = np.asarray(steps_mm, dtype=np.float64)
    if prediction.shape != reference.shape or steps.shape not in (
        (prediction.ndim,),
        (prediction.ndim, 3),
    ):
        raise ValueError(
            "expected masks of one shape and a spacing for each axis, received "
            f"{prediction.shape}, {reference.shape} and {steps.tolist()} mm"
        )
    if steps.ndim == 2:
        lengths = np.linalg.norm(steps, axis=1)
        cosines = np.abs(steps @ steps.T / np.outer(lengths, lengths))[
            np.triu_indices(len(steps), k=1)
        ]
        steps = lengths if (cosines < _SQUARE).all() else steps
    spacing = steps if steps.ndim == 1 else None
    predicted, present = prediction != 0, reference != 0
    if not predicted.any() or not present.any():
        return SurfaceComparison(
            None, None, None if spacing is None or predicted.any() == present.any() else 0.0
        )
    places = map(np.argwhere, get_mask_edges(predicted, present, crop=False))
    edges = [each @ steps if spacing is None else each * spacing for each in places]
    directed = _query_distances(*edges), _query_distances(*edges[::-1])
    return SurfaceComparison(
        float(max(np.percentile(distances, 95) for distances in directed)),
        float(np.concatenate(directed).mean()),
        None if spacing is None else _surface_dice(predicted, present, spacing, tolerance_mm),
    )


def _surface_dice(
    predicted: NDArray, present: NDArray, spacing_mm: NDArray, tolerance_mm: float
) -> float:
    (places, areas), (other_places, other_areas) = (
        _list_elements(mask, spacing_mm) for mask in (predicted, present)
    )
    limit = tolerance_mm * (1 + _ROUNDING)
    within = areas[_query_distances(places, other_places) <= limit].sum()
    within += other_areas[_query_distances(other_places, places) <= limit].sum()
    return float(within / (areas.sum() + other_areas.sum()))


def _list_elements(
    mask: NDArray, spacing_mm: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places (N, axes) in mm and areas (N,) in mm² of a mask's surface elements (lengths in mm of a
    slice's).
    """
    areas, weights = _measure_table(tuple(spacing_mm))
    padded = np.pad(mask, 1).astype(np.uint8)
    # As MONAI's get_mask_edges(spacing=…), which convolves floats and takes gigabytes for a large
    # study.
    codes = np.zeros([size - 1 for size in padded.shape], np.uint8)
    for corner in np.ndindex(weights.shape):
        shifted = tuple(
            slice(start, start + size) for start, size in zip(corner, codes.shape, strict=True)
        )
        codes += padded[shifted] * weights[corner]
    places = np.nonzero((codes != 0) & (codes != weights.sum()))
    return np.stack(places, axis=1) * spacing_mm, areas[codes[places]]


@lru_cache(maxsize=64)
def _measure_table(spacing_mm: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Area by neighbourhood code, and what each voxel of a neighbourhood adds to its code."""
    areas, kernel = get_code_to_measure_table(spacing_mm)
    return areas.numpy().astype(np.float64), kernel[0, 0].numpy().astype(np.uint8)


def _query_distances(places_mm: NDArray, others_mm: NDArray) -> NDArray[np.float64]:
    # Grids make an unbalanced tree as good as a balanced one, and it is built several times faster.
    return KDTree(others_mm, leafsize=32, balanced_tree=False, compact_nodes=False).query(
        places_mm
    )[0]
