"""Cut a volume into slices as the network sees them, and stack slices back: exact inverses.

The network sees anatomy in one pose whatever the file's array order: patient axes are found from
the affine (each array axis is taken for the patient axis closest to it; nothing is ever resampled),
then axes are permuted and flipped.

Shapes: I, J, K the file's array axes; slices (K', H, W), K' the number of slices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import ArrayLike, NDArray

from boltzmed.geometry import check_affine, orientation_codes

Array = TypeVar("Array", np.ndarray, torch.Tensor)

PLANES: Mapping[str, tuple[str, str, str] | None] = {
    "axial": ("S", "P", "L"),
    "coronal": ("A", "I", "L"),
    "sagittal": ("R", "I", "P"),
    "array": None,
}
"""Plane → the patient directions in which slices, rows (H) and columns (W) follow each other.

Axial: slices from feet to head, H from front to back, W from the patient's right to left. Coronal:
slices from back to front, H from head to feet, W right to left. Sagittal: slices from left to
right, H from head to feet, W from front to back. Array: the file's own order, slice k being
``volume[:, :, k]`` (the published benchmark was cut so).
"""

_OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "I": "S", "S": "I"}


@dataclass(frozen=True)
class SlicePlan:
    """How one volume's array becomes slices: ``axes`` permutes, then ``flips`` reverses.

    Args:
        plane: a key of ``PLANES``.
        shape: (I,J,K) of the volume.
        axes: the array axes that become slices, H and W.
        flips: whether the slice order, H and W run against those array axes.
    """

    plane: str
    shape: tuple[int, int, int]
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def from_affine(
        cls, affine_ras: ArrayLike, shape: Sequence[int], plane: str = "axial"
    ) -> SlicePlan:
        """Plan the cut of a volume.

        Args:
            affine_ras: (4,4) voxel indices to RAS mm; any obliquity.
            shape: (I,J,K), or longer, the last three counting.
            plane: a key of ``PLANES``.

        Raises:
            ValueError: an unknown plane, fewer than three axes, an empty volume or an affine that
                places no voxels.
        """
        if plane not in PLANES:
            raise ValueError(f"plane: expected one of {', '.join(PLANES)}, received {plane!r}")
        if len(shape) < 3 or min(shape[-3:]) < 1:
            raise ValueError(
                "expected a volume of three axes with at least one voxel each, received shape"
                f" {tuple(shape)}"
            )
        size = (int(shape[-3]), int(shape[-2]), int(shape[-1]))
        codes = orientation_codes(check_affine(affine_ras))
        wanted = PLANES[plane]
        if wanted is None:
            return cls(plane, size, (2, 0, 1), (False, False, False))
        axes = [
            codes.index(code) if code in codes else codes.index(_OPPOSITE[code]) for code in wanted
        ]
        flips = [code not in codes for code in wanted]
        return cls(plane, size, (axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))

    @property
    def count(self) -> int:
        """Return the number of slices, K'."""
        return self.shape[self.axes[0]]

    @property
    def slice_shape(self) -> tuple[int, int]:
        """Return (H, W) of a slice."""
        return self.shape[self.axes[1]], self.shape[self.axes[2]]

    def slices_affine(self, affine_ras: ArrayLike) -> NDArray[np.float64]:
        """Return the affine (4,4) from (k', h, w) to RAS mm, of the same voxels."""
        array_from_slices = np.zeros((4, 4))
        array_from_slices[3, 3] = 1.0
        for column, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            array_from_slices[axis, column] = -1.0 if flip else 1.0
            array_from_slices[axis, 3] = self.shape[axis] - 1 if flip else 0.0
        return np.asarray(affine_ras, dtype=np.float64) @ array_from_slices

    def cut(self, volume: Array) -> Array:
        """Cut (…,I,J,K) into (…,K',H,W).

        A NumPy result is a view. A tensor's is one unless something must be flipped (tensors have
        no negative strides); ``slice_at`` then spares memory. A MetaTensor gives a plain tensor,
        since its affine no longer holds.
        """
        array: Any = _plain(volume)
        self._expect(array, self.shape)
        cut: Array = _flip(_permute(array, self.axes), self.flips)
        return cut

    def stack(self, slices: Array) -> Array:
        """Stack (…,K',H,W) to (…,I,J,K); undoes ``cut`` exactly, views as there."""
        array: Any = _plain(slices)
        self._expect(array, (self.count, *self.slice_shape))
        back = (self.axes.index(0), self.axes.index(1), self.axes.index(2))
        stacked: Array = _permute(_flip(array, self.flips), back)
        return stacked

    def slice_at(self, volume: Array, index: int) -> Array:
        """Return slice ``index`` (0 … K'-1) of (…,I,J,K) as (…,H,W), copying that slice at most."""
        image = self._array_slice(volume, index)
        if self.axes[1] > self.axes[2]:
            image = image.swapaxes(-1, -2)
        flipped: Array = _flip(image, self.flips[1:])
        return flipped

    def slices_at(self, volume: Array, indices: Sequence[int]) -> Array:
        """Return some slices of (…,I,J,K), repetition allowed, as a new array (…,n,H,W)."""
        images = [self.slice_at(volume, index) for index in indices]
        stacked: Any
        if isinstance(volume, np.ndarray):
            stacked = np.stack(images, axis=-3)
        else:
            stacked = torch.stack(images, dim=-3)
        return stacked  # type: ignore[no-any-return]

    def _array_slice(self, volume: Any, index: int) -> Any:
        array = _plain(volume)
        self._expect(array, self.shape)
        if not 0 <= index < self.count:
            raise ValueError(f"slice: expected 0 to {self.count - 1}, received {index}")
        place: list[Any] = [slice(None)] * 3
        place[self.axes[0]] = self.count - 1 - index if self.flips[0] else index
        return array[(..., *place)]

    @staticmethod
    def _expect(array: Any, shape: tuple[int, int, int]) -> None:
        if tuple(array.shape[-3:]) != shape:
            raise ValueError(
                f"expected an array of {' x '.join(map(str, shape))}, received shape"
                f" {tuple(array.shape)}"
            )


def _plain(array: Any) -> Any:
    return array.as_tensor() if isinstance(array, MetaTensor) else array


def _permute(array: Any, axes: tuple[int, int, int]) -> Any:
    """Reorders the last three axes."""
    leading = array.ndim - 3
    order = (*range(leading), *(leading + axis for axis in axes))
    return array.transpose(order) if isinstance(array, np.ndarray) else array.permute(order)


def _flip(array: Any, flips: Sequence[bool]) -> Any:
    """Reverses the last len(flips) axes where True."""
    dims = tuple(array.ndim - len(flips) + position for position, flip in enumerate(flips) if flip)
    if not dims:
        return array
    return np.flip(array, dims) if isinstance(array, np.ndarray) else torch.flip(array, dims)
