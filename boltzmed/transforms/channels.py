"""The network's three channels: a slice thrice, or a slice between its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch

CHANNEL_MODES = ("repeat", "neighbours")


def channel_indices(index: int, count: int, mode: str = "repeat") -> tuple[int, int, int]:
    """Returns which slices fill the three channels of slice `index` of `count`.

    "repeat" gives (k, k, k); "neighbours" gives (k-1, k, k+1), the outermost slices standing in for
    what lies beyond.

    Raises:
        ValueError: an unknown mode or an index outside 0 … count-1.
    """
    if mode not in CHANNEL_MODES:
        raise ValueError(f"channels: expected one of {', '.join(CHANNEL_MODES)}, got {mode!r}")
    if not 0 <= index < count:
        raise ValueError(f"slice: expected 0 to {count - 1}, got {index}")
    if mode == "repeat":
        return index, index, index
    return max(index - 1, 0), index, min(index + 1, count - 1)


def stack_channels(
    slices: torch.Tensor, mode: str = "repeat", *, indices: Sequence[int] | None = None
) -> torch.Tensor:
    """Makes three-channel images of windowed slices.

    Args:
        slices: (K,H,W), all slices of the stack, since neighbours are looked up in it.
        mode: one of `CHANNEL_MODES`.
        indices: which slices to make images of; all by default.

    Returns:
        (N,3,H,W). For "repeat" of all slices a view without memory of its own.
    """
    if slices.ndim != 3:
        raise ValueError(f"expected slices (K,H,W), got shape {tuple(slices.shape)}")
    count = int(slices.shape[0])
    if mode == "repeat":
        chosen = (
            slices
            if indices is None
            else slices[[channel_indices(k, count, mode)[1] for k in indices]]
        )
        return chosen[:, None].expand(-1, 3, -1, -1)
    order = [
        channel_indices(k, count, mode) for k in (range(count) if indices is None else indices)
    ]
    return slices[torch.tensor(order, dtype=torch.int64, device=slices.device).reshape(-1, 3)]
