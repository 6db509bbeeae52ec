"""Where voxels lie: affines, spacing, orientation.

Everything in boltzmed speaks RAS millimetres: an affine ``affine_ras`` (4, 4) takes voxel indices
(i, j, k, 1) to patient coordinates whose axes grow to the patient's right, front and head (NIfTI's
convention). DICOM's axes grow to the left, back and head (LPS, PS3.3 C.7.6.2.1.1). The one matrix
between the two stands here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from nibabel.orientations import aff2axcodes
from numpy.typing import ArrayLike, NDArray

#: Takes LPS coordinates to RAS ones; its own inverse.
RAS_FROM_LPS: NDArray[np.float64] = np.diag([-1.0, -1.0, 1.0, 1.0])

#: A voxel edge shorter than this is no voxel (mm); real microscopy-like CT stays above 1e-3.
SMALLEST_SPACING_MM = 1e-6

# : Smallest volume of the cell spanned by the three unit axes. 1 for right angles, 0.5 for a shear
# by 60 degrees.
SMALLEST_UNIT_CELL = 1e-3

#: How far apart a corner may lie on two grids that are one: writers round their headers.
SAME_GRID_MM = 1e-2


class ImagePlane(NamedTuple):
    """One DICOM image plane (PS3.3 C.7.6.2), in LPS millimetres."""

    position_lps: NDArray[np.float64]  # (3,) centre of the first pixel: ImagePositionPatient
    along_row_lps: NDArray[
        np.float64
    ]  # (3,) unit vector in which the column index grows: ImageOrientationPatient[:3]
    along_column_lps: NDArray[
        np.float64
    ]  # (3,) unit vector in which the row index grows: ImageOrientationPatient[3:]
    row_gap_mm: float  # distance of neighbouring rows: PixelSpacing[0]
    column_gap_mm: float  # distance of neighbouring columns: PixelSpacing[1]

    @property
    def normal_lps(self) -> NDArray[np.float64]:
        """Unit normal (3,), right-handed with the two in-plane directions."""
        normal = np.cross(self.along_row_lps, self.along_column_lps)
        return normal / np.linalg.norm(normal)


def flip_lps_ras(affine: ArrayLike) -> NDArray[np.float64]:
    """Turn an affine (4, 4) to LPS into the same affine to RAS, or back (the flip is its own
    inverse).
    """
    return RAS_FROM_LPS @ np.asarray(affine, dtype=np.float64)


def check_affine(affine_ras: ArrayLike) -> NDArray[np.float64]:
    """Return the affine as float64 (4, 4) or say why it places no voxels.

    Raises:
        ValueError: wrong shape, a value that is not finite, a last row other than 0 0 0 1, an axis
            of no length, or axes that span no volume.
    """
    affine = np.asarray(affine_ras, dtype=np.float64)
    if affine.shape != (4, 4):
        raise ValueError(f"expected a 4x4 affine, got shape {affine.shape}")
    if not np.isfinite(affine).all():
        raise ValueError("expected a finite affine, got NaN or infinite entries")
    if not np.array_equal(affine[3], [0, 0, 0, 1]):
        raise ValueError(f"expected an affine whose last row is 0 0 0 1, got {affine[3].tolist()}")
    spacing = spacing_mm(affine)
    if (spacing < SMALLEST_SPACING_MM).any():
        raise ValueError(f"expected positive voxel sizes, got {_list_mm(spacing)} mm")
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < SMALLEST_UNIT_CELL:
        raise ValueError(
            "expected three independent voxel axes, got an affine that flattens the volume"
        )
    return affine


def spacing_mm(affine_ras: ArrayLike) -> NDArray[np.float64]:
    """Voxel edge lengths (3,) in mm along I, J, K: the lengths of the affine's columns."""
    return np.linalg.norm(np.asarray(affine_ras, dtype=np.float64)[:3, :3], axis=0)


def voxel_volume_mm3(affine_ras: ArrayLike) -> float:
    """Volume of one voxel in mm³, exact for sheared grids too (the determinant, not the product of
    the edges).
    """
    return float(abs(np.linalg.det(np.asarray(affine_ras, dtype=np.float64)[:3, :3])))


def orientation_codes(affine_ras: ArrayLike) -> tuple[str, str, str]:
    """The anatomical direction closest to each voxel axis, such as ``("L", "P", "S")``; each axis
    is used once.
    """
    first, second, third = aff2axcodes(np.asarray(affine_ras, dtype=np.float64))
    return str(first), str(second), str(third)


def shear_degrees(affine_ras: ArrayLike) -> float:
    """Largest departure from right angles between two voxel axes; 0 for a grid of cuboids."""
    matrix = np.asarray(affine_ras, dtype=np.float64)[:3, :3]
    axes = matrix / np.linalg.norm(matrix, axis=0)
    cosines = (axes.T @ axes)[np.triu_indices(3, k=1)]
    return float(np.degrees(np.arcsin(np.clip(np.abs(cosines), 0.0, 1.0))).max())


def volume_affine_ras(plane: ImagePlane, slice_step_lps: ArrayLike) -> NDArray[np.float64]:
    """Affine of a stack of image planes stored as (I columns, J rows, K slices); PS3.3 equation
    C.7.6.2.1-1.

    Args:
        plane: the first slice.
        slice_step_lps: (3,) vector from one slice's position to the next one's, mm.
    """
    affine_lps = np.eye(4)
    affine_lps[:3, 0] = plane.along_row_lps * plane.column_gap_mm
    affine_lps[:3, 1] = plane.along_column_lps * plane.row_gap_mm
    affine_lps[:3, 2] = np.asarray(slice_step_lps, dtype=np.float64)
    affine_lps[:3, 3] = plane.position_lps
    return flip_lps_ras(affine_lps)


def image_plane(affine_ras: ArrayLike, slice_index: int = 0) -> ImagePlane:
    """The DICOM image plane of slice K = ``slice_index`` of a volume; undoes `volume_affine_ras`."""
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
    """Whether two volumes (I,J,K) have the same voxels: one shape, and no corner further apart than
    a rounding.
    """
    if tuple(shape) != tuple(other_shape):
        return False
    corners = np.stack(
        [*np.meshgrid(*((0, size - 1) for size in shape), indexing="ij"), np.ones((2, 2, 2))]
    )
    apart = (affine_ras - other_ras)[:3] @ corners.reshape(4, -1)
    return bool(np.linalg.norm(apart, axis=0).max() <= SAME_GRID_MM)


def describe_grid(shape: Sequence[int], affine_ras: NDArray[np.float64]) -> str:
    """Shape, voxel edges and position in words."""
    edges = " x ".join(f"{edge:.4g}" for edge in spacing_mm(affine_ras))
    origin = ", ".join(f"{value:.4g}" for value in affine_ras[:3, 3])
    return f"{tuple(int(size) for size in shape)} voxels of {edges} mm from ({origin})"


def _list_mm(values: Sequence[float] | NDArray[np.float64]) -> str:
    return " x ".join(f"{value:g}" for value in values)
