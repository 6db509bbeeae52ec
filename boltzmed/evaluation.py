"""Masks against references → rows of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boltzmed.geometry import voxel_volume_mm3
from boltzmed.metrics.overlap import dice
from boltzmed.results import CaseResult
from boltzmed.transforms.slices import SlicePlan


def score_mask(
    prediction: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    affine_ras: NDArray[np.float64],
    *,
    identity: Mapping[str, Any],
    plane: str = "axial",
    presence: Sequence[float] | None = None,
) -> list[CaseResult]:
    """Score one target of one case: a row per slice, then one for the volume.

    Slices where neither mask has a voxel give a row without a Dice.

    Args:
        prediction, reference: (I,J,K) on one grid; not 0 is inside.
        affine_ras: Of that grid, to RAS mm.
        identity: The fields of :class:`CaseResult` that say what was scored: ``method, dataset, patient, case,
            target, prompt, seed``.
        plane: How slices are cut.
        presence: Presence probability of each slice, if there is one.

    Raises:
        ValueError: The masks are on different grids.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"{identity.get('case')}: expected prediction and reference on one grid, received "
            f"{prediction.shape} and {reference.shape} voxels; segment the image that the reference belongs to"
        )
    plan = SlicePlan.from_affine(affine_ras, reference.shape, plane)
    voxel_mm3, side2 = voxel_volume_mm3(affine_ras), max(plan.slice_shape) ** 2
    rows, largest = [], 0
    pairs = zip(plan.cut(prediction), plan.cut(reference), strict=True)
    for index, (predicted, present) in enumerate(pairs):
        pixels = int(np.count_nonzero(present))
        largest = max(largest, pixels)
        rows.append(
            CaseResult(
                **identity,
                level="slice",
                axis=plane,
                slice_index=index,
                dice=dice(predicted, present),
                area_fraction=pixels / side2,
                volume_mm3=pixels * voxel_mm3,
                reference_empty=pixels == 0,
                prediction_empty=not predicted.any(),
                presence_score=None if presence is None else float(presence[index]),
            )
        )
    whole = CaseResult(
        **identity,
        level="volume",
        axis=plane,
        slice_index=None,
        dice=dice(prediction, reference),
        area_fraction=largest / side2,
        volume_mm3=int(np.count_nonzero(reference)) * voxel_mm3,
        reference_empty=largest == 0,
        prediction_empty=not prediction.any(),
        presence_score=None if presence is None else float(max(presence)),
    )
    return [*rows, whole]
