"""Intensity windows: HU (CT) or percentiles of the volume (MR) to the network's 0 … 255."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.transforms import Transform

Window = tuple[float, float]

LOWER_PERCENTILE = 0.5
UPPER_PERCENTILE = 99.5
"""The percentiles of the published preprocessing, taken over the voxels above zero of the whole
volume.
"""


def measure_percentiles(volume: torch.Tensor | np.ndarray) -> Window:
    """Return the 0.5th and 99.5th percentile of the voxels above zero, interpolated linearly.

    Args:
        volume: the whole volume, any shape; a single slice would give each slice a brightness of
            its own.

    Returns:
        (low, high) in the volume's own units; (0, 0) when no voxel is above zero.
    """
    values = np.asarray(volume)
    positive = values[values > 0].astype(np.float32, copy=False)
    if positive.size == 0:
        return 0.0, 0.0
    low, high = np.percentile(positive, (LOWER_PERCENTILE, UPPER_PERCENTILE), overwrite_input=True)
    return float(low), float(high)


class WindowIntensity(Transform):
    """Clip to a window and scale it linearly to 0 … 255, as float32 without rounding.

    For CT the window is (low, high) in HU. For MR it is None: percentiles of the volume
    (``measure_percentiles``), and voxels that are exactly zero stay zero. ``measured_on`` binds
    such a window to one volume, so that its slices can be windowed one at a time. Where high equals
    low (a constant or all-zero volume) the result is all zeros.

    Args:
        window: (low, high), or None for percentiles.
        keep_zeros: voxels of exactly 0 become 0 whatever the window says; by default only for
            percentiles. In HU, 0 is water, so it must stay False there.

    Raises:
        ValueError: the window is not two finite numbers in ascending order.
    """

    def __init__(self, window: Sequence[float] | None, *, keep_zeros: bool | None = None) -> None:
        if window is not None:
            low, high = window if len(window) == 2 else (np.nan, np.nan)
            if not (np.isfinite(low) and np.isfinite(high) and low <= high):
                raise ValueError(
                    "window: expected (low, high) with low < high or None for percentiles, received"
                    f" {window!r}"
                )
        self.window: Window | None = (
            None if window is None else (float(window[0]), float(window[1]))
        )
        self.keep_zeros = (window is None) if keep_zeros is None else keep_zeros

    def measured_on(self, volume: torch.Tensor | np.ndarray) -> WindowIntensity:
        """Return this transform with its percentiles measured on a whole volume; itself if the
        window is numbers.
        """
        if self.window is not None:
            return self
        return WindowIntensity(measure_percentiles(volume), keep_zeros=self.keep_zeros)

    def __call__(self, image: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Windows a volume, slices or one slice of any shape; a MetaTensor keeps its geometry, the
        input its values.

        With a percentile window that was not bound by ``measured_on``, ``image`` must be the whole
        volume.
        """
        tensor = torch.as_tensor(image)
        low, high = measure_percentiles(tensor) if self.window is None else self.window
        if not high > low:
            return torch.zeros_like(tensor, dtype=torch.float32)
        # In float32 from the start: float64 volumes would double the memory and change nothing
        # visible.
        scaled = (
            tensor.to(torch.float32, copy=True)
            .clamp_(low, high)
            .sub_(low)
            .mul_(255.0 / (high - low))
        )
        # 255 / (high - low) is rounded, and may leave the top a few ulp above 255.
        scaled.clamp_(0.0, 255.0)
        return scaled.masked_fill_(tensor == 0, 0.0) if self.keep_zeros else scaled
