"""Where voxels lie: affines, spacing, orientation.

All of boltzmed works in RAS millimetres: an affine ``affine_ras`` (4, 4) takes voxel indices
(i, j, k, 1) to patient coordinates whose axes point to the patient's right, front and head (NIfTI's
convention). DICOM's axes point to the left, back and head (LPS, PS3.3 C.7.6.2.1.1). The one matrix
between the two stands here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from nibabel.orientations import aff2axcodes
from numpy.typing import ArrayLike, NDArray

RAS_FROM_LPS: NDArray[np.float64] = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Takes LPS coordinates to RAS ones; its own inverse."""

SMALLEST_SPACING_MM = 1e-6
"""A shorter voxel edge is a broken header; even micro-CT stays above 1e-3."""

SMALLEST_UNIT_CELL = 1e-3
"""Smallest volume spanned by the three unit axes: 1 for right angles, 0.5 for a shear of 60°."""

SAME_GRID_MM = 1e-2
"""How far apart a corner may lie on two grids that are the same: writers round their headers."""


class ImagePlane(NamedTuple):
    """One DICOM image plane (PS3.3 C.7.6.2), in LPS millimetres.

    Attributes:
        position_lps: (3,) centre of the first pixel, ImagePositionPatient.
        along_row_lps: (3,) unit vector in which the column index grows,
            ImageOrientationPatient[:3].
        along_column_lps: (3,) unit vector in which the row index grows,
            ImageOrientationPatient[3:].
        row_gap_mm: distance of neighbouring rows, PixelSpacing[0].
        column_gap_mm: distance of neighbouring columns, PixelSpacing[1].
    """

    position_lps: NDArray[np.float64]
    along_row_lps: NDArray[np.float64]
    along_column_lps: NDArray[np.float64]
    row_gap_mm: float
    column_gap_mm: float

    @property
    def normal_lps(self) -> NDArray[np.float64]:
        """Unit normal (3,), right-handed with the two in-plane directions."""
        normal: NDArray[np.float64] = np.cross(self.along_row_lps, self.along_column_lps)
        return normal / np.linalg.norm(normal)


def flip_lps_ras(affine: ArrayLike) -> NDArray[np.float64]:
    """Turn an affine (4, 4) to LPS into the same affine to RAS, or back: the flip undoes itself."""
    return RAS_FROM_LPS @ np.asarray(affine, dtype=np.float64)


def check_affine(affine_ras: ArrayLike) -> NDArray[np.float64]:
    """Return the affine as float64 (4, 4).

    Raises:
        ValueError: wrong shape, a value that is not finite, a last row other than 0 0 0 1, an axis
            of no length, or axes that span no volume.
    """
    affine = np.asarray(affine_ras, dtype=np.float64)
    if affine.shape != (4, 4):
        raise ValueError(f"expected a 4x4 affine, received shape {affine.shape}")
    if not np.isfinite(affine).all():
        raise ValueError("expected a finite affine, received NaN or infinite entries")
    if not np.array_equal(affine[3], [0, 0, 0, 1]):
        raise ValueError(
            f"expected an affine whose last row is 0 0 0 1, received {affine[3].tolist()}"
        )
    spacing = spacing_mm(affine)
    if (spacing < SMALLEST_SPACING_MM).any():
        sizes = _join_numbers(spacing, " x ")
        raise ValueError(f"expected positive voxel sizes, received {sizes} mm")
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < SMALLEST_UNIT_CELL:
        raise ValueError(
            "expected three independent voxel axes, received an affine that flattens the volume"
        )
    return affine


def spacing_mm(affine_ras: ArrayLike) -> NDArray[np.float64]:
    """Return the voxel's edges (3,) in mm along I, J, K: the lengths of the affine's columns."""
    matrix = np.asarray(affine_ras, dtype=np.float64)[:3, :3]
    edges: NDArray[np.float64] = np.linalg.norm(matrix, axis=0)
    return edges


def voxel_volume_mm3(affine_ras: ArrayLike) -> float:
    """Return the volume of one voxel in mm³.

    It is the affine's determinant, exact for sheared grids, where the product of the edges is not.
    """
    return float(abs(np.linalg.det(np.asarray(affine_ras, dtype=np.float64)[:3, :3])))


def orientation_codes(affine_ras: ArrayLike) -> tuple[str, str, str]:
    """Return the anatomical direction closest to each voxel axis, such as ``("L", "P", "S")``.

    Each anatomical axis is used once.
    """
    affine = np.asarray(affine_ras, dtype=np.float64)
    first, second, third = aff2axcodes(affine)  # type: ignore[no-untyped-call]
    return str(first), str(second), str(third)


def shear_degrees(affine_ras: ArrayLike) -> float:
    """Return the largest departure from 90° between two voxel axes, 0 for a grid of cuboids."""
    matrix = np.asarray(affine_ras, dtype=np.float64)[:3, :3]
    axes = matrix / np.linalg.norm(matrix, axis=0)
    cosines = (axes.T @ axes)[np.triu_indices(3, k=1)]
    return float(np.degrees(np.arcsin(np.clip(np.abs(cosines), 0.0, 1.0))).max())


def volume_affine_ras(plane: ImagePlane, slice_step_lps: ArrayLike) -> NDArray[np.float64]:
    """Return the affine of a stack of image planes (I columns, J rows, K slices).

    Source: PS3.3 equation C.7.6.2.1-1.

    Args:
        plane: the first slice.
        slice_step_lps: (3,) vector from one slice's position to the next, mm.
    """
    affine_lps = np.eye(4)
    affine_lps[:3, 0] = plane.along_row_lps * plane.column_gap_mm
    affine_lps[:3, 1] = plane.along_column_lps * plane.row_gap_mm
    affine_lps[:3, 2] = np.asarray(slice_step_lps, dtype=np.float64)
    affine_lps[:3, 3] = plane.position_lps
    return flip_lps_ras(affine_lps)


def image_plane(affine_ras: ArrayLike, slice_index: int = 0) -> ImagePlane:
    """Return the DICOM image plane of slice K = ``slice_index``; undoes `volume_affine_ras`."""
    affine_lps = flip_lps_ras(check_affine(affine_ras))
    gaps = spacing_mm(affine_lps)
    return ImagePlane(
        position_lps=affine_lps[:3, 3] + slice_index * affine_lps[:3, 2],
        along_row_lps=affine_lps[:3, 0] / gaps[0],
        along_column_lps=affine_lps[:3, 1] / gaps[1],
        row_gap_mm=float(gaps[1]),
        column_gap_mm=float(gaps[0]),
    )


def is_same_grid(
    shape: Sequence[int],
    affine_ras: NDArray[np.float64],
    other_shape: Sequence[int],
    other_ras: NDArray[np.float64],
) -> bool:
    """Return whether two volumes (I, J, K) have the same voxels.

    They have one shape, and no corner further apart than a rounding (``SAME_GRID_MM``).
    """
    if tuple(shape) != tuple(other_shape):
        return False
    ends = [(0, size - 1) for size in shape]
    corners = np.stack([*np.meshgrid(*ends, indexing="ij"), np.ones((2, 2, 2))])
    apart = (affine_ras - other_ras)[:3] @ corners.reshape(4, -1)
    return bool(np.linalg.norm(apart, axis=0).max() <= SAME_GRID_MM)


def describe_grid(shape: Sequence[int], affine_ras: NDArray[np.float64]) -> str:
    """Return shape, voxel edges and position in words, for messages."""
    sizes = tuple(map(int, shape))
    edges = _join_numbers(spacing_mm(affine_ras), " x ")
    origin = _join_numbers(affine_ras[:3, 3], ", ")
    return f"{sizes} voxels of {edges} mm from ({origin})"


def _join_numbers(values: NDArray[np.float64], separator: str) -> str:
    return separator.join(f"{value:.4g}" for value in values)
