"""Overlap of two masks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class VoxelCounts(NamedTuple):
    """How many voxels lie in both masks, in the prediction alone and in the reference alone."""

    both: int
    prediction_only: int
    reference_only: int

    @property
    def predicted(self) -> int:
        """Voxels of the prediction."""
        return self.both + self.prediction_only

    @property
    def referenced(self) -> int:
        """Voxels of the reference."""
        return self.both + self.reference_only

    @property
    def dice(self) -> float | None:
        """2 |prediction ∩ reference| / (|prediction| + |reference|), see ``dice``."""
        total = self.predicted + self.referenced
        return 2 * self.both / total if total else None

    @property
    def iou(self) -> float | None:
        """|prediction ∩ reference| / |prediction ∪ reference| (Jaccard 1901); None where both are
        empty.
        """
        union = self.both + self.prediction_only + self.reference_only
        return self.both / union if union else None


def count_voxels(prediction: NDArray, reference: NDArray) -> VoxelCounts:
    """Count the voxels of two masks of one shape; not 0 is inside.

    Raises:
        ValueError: The shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"expected masks of one shape, received {prediction.shape} and {reference.shape}"
        )
    predicted, present = prediction != 0, reference != 0
    both = int(np.count_nonzero(predicted & present))
    return VoxelCounts(
        both, int(np.count_nonzero(predicted)) - both, int(np.count_nonzero(present)) - both
    )


def dice(prediction: NDArray, reference: NDArray) -> float | None:
    """Return 2 |prediction ∩ reference| / (|prediction| + |reference|), in [0,1] (Dice 1945).

    Args:
        prediction: Masks of one shape; not 0 is inside.
        reference: Masks of one shape; not 0 is inside.

    Returns:
        The coefficient; 0 where exactly one of them is empty, None where both are (0/0).

    Raises:
        ValueError: The shapes differ.
    """
    return count_voxels(prediction, reference).dice


def bounding_box(*masks: NDArray) -> tuple[slice, ...]:
    """Return the smallest box that holds every voxel of some masks of one shape; an empty one where
    there is none.
    """
    box = []
    for axis in range(masks[0].ndim):
        others = tuple(other for other in range(masks[0].ndim) if other != axis)
        set_at = np.flatnonzero(np.logical_or.reduce([mask.any(axis=others) for mask in masks]))
        box.append(slice(int(set_at[0]), int(set_at[-1]) + 1) if len(set_at) else slice(0, 0))
    return tuple(box)
