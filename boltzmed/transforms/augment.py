"""The paper's augmentation (appendix A.5): quarter turns, shifted centre, changed scale; never a
mirror.

Left and right are part of a prompt's meaning, so a mirrored image would teach the wrong organ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

PROBABILITY = 0.5
LARGEST_SHIFT = 0.1
LARGEST_SCALING = 0.1
"""Shift of the crop's centre and change of its side, both as fractions of the image's side."""


@dataclass(frozen=True)
class Augmentation:
    """One draw: turn by ``quarter_turns`` × 90 degrees counter-clockwise, then crop.

    The crop is centred ``shift_h``, ``shift_w`` (fractions of the side) from the image's centre and
    ``scale`` times as wide as the image; it is resampled to the image's size. Scale above 1 makes
    things smaller.
    """

    quarter_turns: int = 0
    shift_h: float = 0.0
    shift_w: float = 0.0
    scale: float = 1.0


def draw_augmentation(
    generator: np.random.Generator, *, probability: float = PROBABILITY
) -> Augmentation | None:
    """Draw an augmentation; None means that the sample stays as it is.

    Five uniform numbers are consumed in any case, so that later draws of the generator do not
    depend on this one's outcome. The same generator state gives the same augmentation.
    """
    uniforms = generator.random(5).tolist()
    if uniforms[0] >= probability:
        return None
    return Augmentation(
        quarter_turns=int(uniforms[1] * 4),
        shift_h=(2 * uniforms[2] - 1) * LARGEST_SHIFT,
        shift_w=(2 * uniforms[3] - 1) * LARGEST_SHIFT,
        scale=1 + (2 * uniforms[4] - 1) * LARGEST_SCALING,
    )


def apply_augmentation(
    image: torch.Tensor, masks: torch.Tensor, augmentation: Augmentation | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn and crop an image with its masks, pixel for pixel alike.

    Args:
        image: (C,S,S) float32 or float64, on the CPU; resampled bilinearly, zero outside.
        masks: (P,S,S) of any dtype, on the CPU; nearest neighbour, zero outside.
        augmentation: None changes nothing. A turn without shift and scaling is exact.

    Returns:
        (image, masks) of the same shapes and dtypes.

    Raises:
        ValueError: image or masks are not square, or differ in size.
    """
    if image.shape[-1] != image.shape[-2] or image.shape[-2:] != masks.shape[-2:]:
        raise ValueError(
            "augmentation: expected a square image and masks of its size, received"
            f" {tuple(image.shape)}"
            f" and {tuple(masks.shape)}"
        )
    if augmentation is None:
        return image, masks
    if augmentation.quarter_turns % 4:
        image = torch.rot90(image, augmentation.quarter_turns, (-2, -1))
        masks = torch.rot90(masks, augmentation.quarter_turns, (-2, -1))
    if augmentation.shift_h == 0 and augmentation.shift_w == 0 and augmentation.scale == 1:
        return image, masks
    # Nothing is turned any more, so that rows and columns are resampled one after the other, in
    # NumPy, whose `take` along rows is several times faster than torch's.
    rows = _source_positions(image.shape[-2], augmentation.scale, augmentation.shift_h)
    columns = _source_positions(image.shape[-1], augmentation.scale, augmentation.shift_w)
    moved = _interpolate(_interpolate(image.numpy(), rows, -2), columns, -1)
    moved_masks = _pick(_pick(masks.numpy(), np.rint(rows), -2), np.rint(columns), -1)
    return torch.from_numpy(moved), torch.from_numpy(moved_masks)


def _source_positions(size: int, scale: float, shift: float) -> NDArray[np.float64]:
    """Where each output pixel's centre comes from, in pixels of the input (pixel i has its centre
    at i).
    """
    return (
        (np.arange(size, dtype=np.float64) + 0.5 - size / 2) * scale + size / 2 - 0.5 + shift * size
    )


def _interpolate(image: NDArray[Any], positions: NDArray[np.float64], axis: int) -> NDArray[Any]:
    """Linear between two neighbours along an axis; what lies beyond the image is zero."""
    lower = np.floor(positions)
    fraction = positions - lower
    along = (slice(None), None) if axis == -2 else slice(None)
    moved = _pick(image, lower, axis)
    moved *= (1 - fraction).astype(image.dtype)[along]
    upper = _pick(image, lower + 1, axis)
    upper *= fraction.astype(image.dtype)[along]
    moved += upper
    return moved


def _pick(image: NDArray[Any], positions: NDArray[np.float64], axis: int) -> NDArray[Any]:
    """A copy of some rows (axis -2) or columns (-1) by ascending numbers; zero beyond the image."""
    size = image.shape[axis]
    picked = image.take(positions.astype(np.intp), axis, mode="clip")
    first, last = np.searchsorted(positions, (0, size))
    for beyond in (slice(None, first), slice(last, None)):
        picked[(..., beyond, slice(None)) if axis == -2 else (..., beyond)] = 0
    return picked
