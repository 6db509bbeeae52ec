"""A slice's way into the network, and a mask's way back: the one home of both.

Training items, inference and the pictures of sampling call ``NetworkInput``: which slices are
needed for an index, windowed and squared, perhaps augmented, stacked to three channels; and logits
back to the slice's own grid.

Shapes: U slices that are needed, N images, P prompts, H and W native pixels, S the network's side.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from boltzmed.transforms.augment import apply_augmentation
from boltzmed.transforms.square import SquareGrid
from boltzmed.transforms.window import WindowIntensity

CHANNEL_MODES = ("repeat", "neighbours")
"""The network's three channels: a slice thrice, or a slice between its neighbours."""

_STRIDE = 32
"""Sides of true scale are multiples of it, as the network wants them."""


@dataclass(frozen=True)
class InputSize:
    """How large a slice is for the network: padded to a square, then resized.

    ``image_size`` alone magnifies a crop until it fills the image; ``min_side`` equal to it keeps a
    crop's true scale.

    Args:
        image_size: side of the network's image, in its pixels.
        min_side: side of the square in native pixels, at least.
    """

    image_size: int
    min_side: int = 1

    def around(self, height: int, width: int) -> InputSize:
        """Return this size, or where it keeps true scale and slices are larger, one that does too.

        Its sides are then the next multiple of 32 pixels, as the network wants them. For inference:
        a batch of training has one size, to which a larger slice is reduced.
        """
        side = -(-max(height, width) // _STRIDE) * _STRIDE
        keeps_scale = self.image_size == self.min_side
        return InputSize(side, side) if keeps_scale and self.image_size < side else self


def read_input_sizes(settings: Mapping[str, Any] | None) -> dict[str, tuple[InputSize, ...]]:
    """Return card → its input sizes, as a config or a checkpoint has them.

    Args:
        settings: card → a mapping of ``InputSize``'s fields, or a list of such.

    Raises:
        ValueError: anything else; the line names the card.
    """
    if not isinstance(settings, Mapping | None):
        raise ValueError(f"input_sizes: expected a mapping of card names, received {settings!r}")
    sizes: dict[str, tuple[InputSize, ...]] = {}
    for card, entry in (settings or {}).items():
        entries = [entry] if isinstance(entry, Mapping) else entry
        try:
            sizes[card] = tuple(InputSize(**fields) for fields in entries)
        except TypeError:
            sizes[card] = ()
        sides = [side for size in sizes[card] for side in (size.image_size, size.min_side)]
        if not sides or not all(type(side) is int and side >= 1 for side in sides):
            raise ValueError(
                f"input_sizes: {card}: expected {{image_size: 128}}, perhaps with min_side, or a"
                f" list of such, in whole pixels, received {entry!r}"
            )
    return sizes


def channel_indices(index: int, count: int, mode: str = "repeat") -> tuple[int, int, int]:
    """Return which slices fill the three channels of slice ``index`` of ``count``.

    ``"repeat"`` gives (k, k, k); ``"neighbours"`` gives (k-1, k, k+1), the outermost slices
    standing in for what lies beyond.

    Raises:
        ValueError: an unknown mode or an index outside 0 … count-1.
    """
    if mode not in CHANNEL_MODES:
        raise ValueError(f"channels: expected one of {', '.join(CHANNEL_MODES)}, received {mode!r}")
    if not 0 <= index < count:
        raise ValueError(f"slice: expected 0 to {count - 1}, received {index}")
    if mode == "repeat":
        return index, index, index
    return max(index - 1, 0), index, min(index + 1, count - 1)


class NetworkInput:
    """The way of one volume's slices into the network.

    Args:
        slice_shape: (H, W) of a slice, in native pixels.
        count: number of slices of the volume.
        input_size: how large they are for the network.
        channels: one of ``CHANNEL_MODES``.
    """

    def __init__(
        self, slice_shape: tuple[int, int], count: int, input_size: InputSize, channels: str
    ) -> None:
        self.count = count
        self.channels = channels
        self.grid = SquareGrid(*slice_shape, input_size.image_size, input_size.min_side)

    def needed_slices(self, indices: Sequence[int]) -> list[int]:
        """Return the slices that images of these indices are made of, ascending, each once."""
        rows = [channel_indices(index, self.count, self.channels) for index in indices]
        return sorted({needed for row in rows for needed in row})

    def square(self, slices: np.ndarray | torch.Tensor, window: WindowIntensity) -> torch.Tensor:
        """Window slices (U,H,W) of raw intensities and make them square: (U,S,S), 0 … 255."""
        return self.grid.to_image(window(slices)[None])[0]

    def stack(self, squared: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
        """Make images (N,3,S,S) of squared slices (U,S,S), those of ``needed_slices(indices)``.

        A single slice in three equal channels is a view without memory of its own.
        """
        if len(squared) == 1:
            return squared[:, None].expand(len(indices), 3, -1, -1)
        needed = self.needed_slices(indices)
        places = [
            [needed.index(k) for k in channel_indices(index, self.count, self.channels)]
            for index in indices
        ]
        return squared[torch.tensor(places)]

    def to_target(self, masks: torch.Tensor) -> torch.Tensor:
        """Bring masks or labels (…,H,W) to the network's side: (…,S,S), see ``SquareGrid``."""
        return self.grid.to_target(masks)

    def to_native(self, logits: torch.Tensor) -> torch.Tensor:
        """Bring mask logits (N,P,h,w) back to the slice's own pixels: (N,P,H,W)."""
        return self.grid.to_native(logits)


class NetworkInputd(MapTransform):
    """MONAI transform: raw slices with their labels to the network's image and labels.

    The dictionary holds the slices (U,H,W) of ``needed_slices`` under the first key, labels (1,H,W)
    under the second, and beside them ``slice_index``, ``slice_count``, ``channels``, ``window``
    (``WindowIntensity``), ``input_size`` and ``augmentation`` (or None). The image becomes
    (3,S,S) float32 in 0 … 255, the labels (1,S,S).

    Args:
        keys: of the slices and of the labels.
    """

    def __init__(self, keys: KeysCollection = ("image", "label")) -> None:
        super().__init__(keys)
        if len(self.keys) != 2:
            raise ValueError(f"keys: expected those of slices and labels, received {self.keys}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with image and labels as the network takes them."""
        item = dict(data)
        image_key, label_key = self.keys
        slices, labels = item[image_key], item[label_key]
        height, width = slices.shape[-2:]
        way = NetworkInput(
            (int(height), int(width)), item["slice_count"], item["input_size"], item["channels"]
        )
        image = way.square(slices, item["window"])
        target = way.to_target(labels[None])[0]
        image, target = apply_augmentation(image, target, item["augmentation"])
        item[image_key] = way.stack(image, [item["slice_index"]])[0]
        item[label_key] = target
        return item
