"""Masks of several prompts over one volume, bit-packed, from inference to postprocessing.

Array suffixes: P prompts, K slices, H W native pixels, I J K the file's own axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boltzmed.transforms.network_input import InputSize
from boltzmed.transforms.slices import SlicePlan
from boltzmed.transforms.window import Window


@dataclass(frozen=True)
class PackedMasks:
    """Masks of P prompts: a bit a voxel, and a byte of probability for each voxel of a mask.

    Attributes:
        plan: how slices were cut; its ``stack`` brings them back to the file's array order.
        bits_PKHW: uint8 (P,K,H,ceil(W/8)), eight voxels a byte.
        mask_probabilities: per prompt and slice the probabilities of the mask's voxels in row
            order, uint8 in units of 1/255.
        windows: per prompt the window that was applied, (low, high) in HU or in raw MR units.
        input_sizes: per prompt how large its slices were for the network.
        presence_PK: presence probabilities in [0,1]; None where the network has no presence head.
        smoothed_PK: the same smoothed along the slices, which then decided; None where nothing was
            smoothed.
    """

    plan: SlicePlan
    bits_PKHW: NDArray[np.uint8]
    mask_probabilities: list[list[NDArray[np.uint8]]]
    windows: list[Window | None]
    input_sizes: list[InputSize]
    presence_PK: NDArray[np.float32] | None = None
    smoothed_PK: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.bits_PKHW)

    def slices(self, prompt: int) -> NDArray[np.uint8]:
        """Return one prompt's mask as slices (K,H,W), uint8 in {0,1}."""
        return np.unpackbits(self.bits_PKHW[prompt], axis=-1, count=self.plan.slice_shape[1])

    def volume(self, prompt: int) -> NDArray[np.uint8]:
        """Return one prompt's mask (I,J,K) in the file's own array order, uint8 in {0,1}."""
        return np.ascontiguousarray(self.plan.stack(self.slices(prompt)))

    def probabilities(self, prompt: int) -> Iterator[NDArray[np.float32]]:
        """Yield slice by slice the probabilities of one mask's voxels, in row order."""
        for stored in self.mask_probabilities[prompt]:
            yield stored.astype(np.float32) / np.float32(255)

    def presence(self, prompt: int) -> list[float] | None:
        """Return one prompt's presence of each slice; None without a presence head."""
        if self.presence_PK is None:
            return None
        values: list[float] = self.presence_PK[prompt].tolist()
        return values

    def probability_volume(self, prompt: int) -> NDArray[np.float32]:
        """Return the probabilities (I,J,K) of one mask's voxels, 0 outside."""
        slices = self.slices(prompt)
        probabilities = np.zeros(slices.shape, np.float32)
        stored_slices = self.probabilities(prompt)
        for inside, mask, stored in zip(probabilities, slices, stored_slices, strict=True):
            inside[mask > 0] = stored
        return self.plan.stack(probabilities)
