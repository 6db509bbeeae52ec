"""Overlap of two masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dice(prediction: NDArray, reference: NDArray) -> float | None:
    """Return 2 |prediction ∩ reference| / (|prediction| + |reference|), in [0,1] (Dice 1945).

    Args:
        prediction, reference: Masks of one shape; not 0 is inside.

    Returns:
        The coefficient; 0 where exactly one of them is empty, None where both are (0/0).

    Raises:
        ValueError: The shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"expected masks of one shape, received {prediction.shape} and {reference.shape}")
    predicted, present = prediction != 0, reference != 0
    total = int(np.count_nonzero(predicted)) + int(np.count_nonzero(present))
    return 2 * int(np.count_nonzero(predicted & present)) / total if total else None
