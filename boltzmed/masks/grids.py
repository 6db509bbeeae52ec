"""Grids of masks: whether two are one, and how a mask is brought onto another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from boltzmed.errors import InputError
from boltzmed.geometry import describe_grid, is_same_grid


class Grid(NamedTuple):
    """Where voxels lie.

    Attributes:
        shape: (I,J,K).
        affine_ras: (4,4) voxel indices to RAS mm.
    """

    shape: Sequence[int]
    affine_ras: NDArray[np.float64]

    def is_same(self, other: Grid) -> bool:
        """Return whether another grid has the same voxels, up to rounding."""
        return is_same_grid(*self, *other)

    def __str__(self) -> str:
        return describe_grid(*self)


def check_grid(
    name: str, expected: Grid, received: Grid, *, of: str = "image", what: str = "label"
) -> None:
    """Refuse a mask that is not on the grid of what it belongs to, in one voxel order.

    Args:
        name: of the case or file, for the message.
        expected: the grid of what the mask belongs to.
        received: the mask's.
        of: what the mask belongs to.
        what: the mask is called.

    Raises:
        InputError: the grids differ.
    """
    if not expected.is_same(received):
        raise InputError(
            f"{name}: expected {of} and {what} on one grid, received {expected} and {received};"
            f" resample the {what} to the {of}"
        )


def resample_nearest(voxels: NDArray[Any], affine_ras: NDArray[Any], onto: Grid) -> NDArray[Any]:
    """Give each voxel of a grid the value of the nearest voxel of another volume.

    Args:
        voxels: (I,J,K) bool, whole numbers or floats.
        affine_ras: (4,4) of those voxels.
        onto: the grid.

    Returns:
        Voxels of the grid's shape and the volume's dtype: outside of it 0, or -inf for floats.
    """
    index = np.linalg.inv(affine_ras) @ onto.affine_ras
    outside = -np.inf if voxels.dtype.kind == "f" else 0
    source = voxels.astype(np.uint8) if voxels.dtype == bool else voxels
    resampled: NDArray[Any] = affine_transform(
        source,
        index[:3, :3],
        index[:3, 3],
        tuple(onto.shape),
        order=0,
        mode="grid-constant",  # the outer half of the outermost voxels is theirs, too
        cval=outside,
    )
    return resampled.astype(voxels.dtype)
