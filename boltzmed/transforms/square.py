"""A slice's own grid, the square that the network sees, and the way back.

Shapes: N slices, C channels, P prompts; H, W native pixels; D the square's side, at least max(H,
W); S the network's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class SquareGrid:
    """The square that a slice of ``height`` × ``width`` pixels is padded to, and its resized form.

    Padding is zeros, equal at both sides; when the difference is odd, the first side (top or left)
    gets one fewer. Pixels are areas throughout (``align_corners=False``), so that resizing there
    and back moves nothing.

    Args:
        height: native pixels, at least 1.
        width: native pixels, at least 1.
        image_size: side of the network's image, at least 1.
        min_side: the square is padded to this side at least, so that a crop keeps the scale it had
            in its image (``min_side`` equal to ``image_size``: a pixel stays a pixel) instead of
            being magnified.
    """

    height: int
    width: int
    image_size: int
    min_side: int = 1

    def __post_init__(self) -> None:
        for name in ("height", "width", "image_size", "min_side"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"square grid: expected {name} of at least 1, received {getattr(self, name)}"
                )

    @property
    def side(self) -> int:
        """Return the side of the square in native pixels."""
        return max(self.height, self.width, self.min_side)

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Return the padding (left, right, top, bottom) in native pixels, torch's order."""
        extra_width = self.side - self.width
        extra_height = self.side - self.height
        left = extra_width // 2
        top = extra_height // 2
        return left, extra_width - left, top, extra_height - top

    def pad(self, image: torch.Tensor) -> torch.Tensor:
        """Pad (…,H,W) of any dtype with zeros to (…,D,D); the input itself when it is square."""
        self._expect(image, (self.height, self.width))
        return F.pad(image, self.padding) if any(self.padding) else image

    def crop(self, image: torch.Tensor) -> torch.Tensor:
        """Take the padding off: (…,D,D) → (…,H,W), a view."""
        self._expect(image, (self.side, self.side))
        left, _, top, _ = self.padding
        return image[..., top : top + self.height, left : left + self.width]

    def to_image(self, slices: torch.Tensor) -> torch.Tensor:
        """Pad windowed slices and resize them for the network.

        Args:
            slices: (N,C,H,W), values 0 … 255.

        Returns:
            (N,C,S,S) float32, bicubic with anti-aliasing, clamped to 0 … 255 (cubic resizing
            overshoots at edges).
        """
        padded = self.pad(slices).to(torch.float32)
        if self.side == self.image_size:
            return padded
        size = (self.image_size, self.image_size)
        return F.interpolate(
            padded, size, mode="bicubic", align_corners=False, antialias=True
        ).clamp_(0.0, 255.0)

    def to_target(self, masks: torch.Tensor) -> torch.Tensor:
        """Pad and resize masks for training at the network's size, as published. Nothing else may
        resize a mask.

        Args:
            masks: (N,P,H,W), bool or integer.

        Returns:
            (N,P,S,S) of the same dtype, nearest neighbour by pixel centres.
        """
        padded = self.pad(masks)
        if self.side == self.image_size:
            return padded
        # Gathering the nearest rows and columns keeps the dtype; interpolate() would go through
        # float.
        centres = (torch.arange(self.image_size, device=masks.device) + 0.5) * (
            self.side / self.image_size
        )
        nearest = centres.long().clamp_(max=self.side - 1)
        return padded[..., nearest[:, None], nearest[None, :]]

    def to_native(self, logits: torch.Tensor) -> torch.Tensor:
        """Resize logits to the native square and take the padding off.

        Args:
            logits: (N,P,h,w) floating point, of any square resolution.

        Returns:
            (N,P,H,W) of the same dtype, bilinear. Threshold these; a thresholded mask is never
            resized.
        """
        if logits.ndim != 4 or logits.shape[-1] != logits.shape[-2]:
            raise ValueError(f"logits: expected square (N,P,h,h), received {tuple(logits.shape)}")
        if logits.shape[-1] != self.side:
            logits = F.interpolate(
                logits, (self.side, self.side), mode="bilinear", align_corners=False
            )
        return self.crop(logits)

    @staticmethod
    def _expect(image: torch.Tensor, size: tuple[int, int]) -> None:
        if tuple(image.shape[-2:]) != size:
            raise ValueError(
                f"expected slices of {size[0]} x {size[1]} pixels, received shape"
                f" {tuple(image.shape)}"
            )
