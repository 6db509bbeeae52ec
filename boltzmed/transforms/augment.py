"""The paper's augmentation (appendix A.5): quarter turns, shifted centre, changed scale; never a mirror.

Left and right are part of a prompt's meaning, so a mirrored image would teach the wrong organ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

PROBABILITY = 0.5
LARGEST_SHIFT = 0.1
LARGEST_SCALING = 0.1
"""Shift of the crop's centre and change of its side, both as fractions of the image's side."""


@dataclass(frozen=True)
class Augmentation:
    """One draw: turn by `quarter_turns` x 90 degrees counter-clockwise, then crop.

    The crop is centred `shift_h`, `shift_w` (fractions of the side) from the image's centre and `scale` times as wide
    as the image; it is resampled to the image's size. Scale above 1 makes things smaller.
    """

    quarter_turns: int = 0
    shift_h: float = 0.0
    shift_w: float = 0.0
    scale: float = 1.0


def draw_augmentation(
    generator: torch.Generator | np.random.Generator, *, probability: float = PROBABILITY
) -> Augmentation | None:
    """Draws an augmentation; None means that the sample stays as it is.

    Five uniform numbers are consumed in any case, so that later draws of the generator do not depend on this one's
    outcome. The same generator state gives the same augmentation.
    """
    if isinstance(generator, torch.Generator):
        device = generator.device
        uniforms = torch.rand(5, generator=generator, dtype=torch.float64, device=device).tolist()
    else:
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
    """Turns and crops an image with its masks, pixel for pixel alike.

    Args:
        image: (C,S,S) float32 or float64; resampled bilinearly, zero outside.
        masks: (P,S,S) of any dtype; nearest neighbour, zero outside.
        augmentation: None changes nothing. A turn without shift and scaling is exact.

    Returns:
        (image, masks) of the same shapes and dtypes.

    Raises:
        ValueError: image or masks are not square, or differ in size.
    """
    if image.shape[-1] != image.shape[-2] or image.shape[-2:] != masks.shape[-2:]:
        raise ValueError(
            f"augmentation: expected a square image and masks of its size, got {tuple(image.shape)} and "
            f"{tuple(masks.shape)}"
        )
    if augmentation is None:
        return image, masks
    if augmentation.quarter_turns % 4:
        image = torch.rot90(image, augmentation.quarter_turns, (-2, -1))
        masks = torch.rot90(masks, augmentation.quarter_turns, (-2, -1))
    if augmentation.shift_h == 0 and augmentation.shift_w == 0 and augmentation.scale == 1:
        return image, masks
    # In grid_sample's coordinates the image spans -1 … 1, so a fraction of the side counts twice.
    theta = torch.tensor(
        [[augmentation.scale, 0, 2 * augmentation.shift_w], [0, augmentation.scale, 2 * augmentation.shift_h]],
        dtype=image.dtype,
        device=image.device,
    )
    grid = F.affine_grid(theta[None], [1, 1, *image.shape[-2:]], align_corners=False)
    moved = F.grid_sample(image[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    # Label values up to 2^24 pass through float32 unchanged.
    moved_masks = F.grid_sample(
        masks[None].to(image.dtype), grid, mode="nearest", padding_mode="zeros", align_corners=False
    )[0]
    return moved, moved_masks.to(masks.dtype)


def augment(
    image: torch.Tensor,
    masks: torch.Tensor,
    generator: torch.Generator | np.random.Generator,
    *,
    probability: float = PROBABILITY,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws an augmentation from `generator` and applies it; see `draw_augmentation` and `apply_augmentation`."""
    return apply_augmentation(image, masks, draw_augmentation(generator, probability=probability))
