"""Whether two masks lie on one grid, and how one is brought onto the other's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from boltzmed.geometry import spacing_mm

_SAME_GRID_MM = 1e-2
"""How far apart a corner may lie on two grids that are one: writers round their headers."""


def is_same_grid(shape: Sequence[int], affine_ras: NDArray, other_shape: Sequence[int], other_ras: NDArray) -> bool:
    """Whether two volumes (I,J,K) have the same voxels: one shape, and no corner further apart than a rounding."""
    if tuple(shape) != tuple(other_shape):
        return False
    corners = np.stack([*np.meshgrid(*((0, size - 1) for size in shape), indexing="ij"), np.ones((2, 2, 2))])
    apart = (affine_ras - other_ras)[:3] @ corners.reshape(4, -1)
    return bool(np.linalg.norm(apart, axis=0).max() <= _SAME_GRID_MM)


def resample_nearest(voxels: NDArray, affine_ras: NDArray, shape: Sequence[int], onto_ras: NDArray) -> NDArray:
    """Give each voxel of a grid the value of the nearest voxel of another volume; 0 outside it (-inf for floats)."""
    index = np.linalg.inv(affine_ras) @ onto_ras
    outside = -np.inf if voxels.dtype.kind == "f" else 0
    source = voxels.astype(np.uint8) if voxels.dtype == bool else voxels
    # "grid-constant": the outer half of the outermost voxels is theirs, too.
    found = affine_transform(
        source, index[:3, :3], index[:3, 3], tuple(shape), order=0, mode="grid-constant", cval=outside
    )
    return found.astype(voxels.dtype)


def describe_grid(shape: Sequence[int], affine_ras: NDArray) -> str:
    """Shape, voxel edges and position in words."""
    edges = " x ".join(f"{edge:.4g}" for edge in spacing_mm(affine_ras))
    origin = ", ".join(f"{value:.4g}" for value in affine_ras[:3, 3])
    return f"{tuple(int(size) for size in shape)} voxels of {edges} mm from ({origin})"
