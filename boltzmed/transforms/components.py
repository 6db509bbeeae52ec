"""MONAI transforms of masks by their connected components: measured, and filtered.

A component is what touches by face, edge or corner (26 neighbours).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import NDArray

from boltzmed.geometry import voxel_volume_mm3
from boltzmed.transforms.packed_masks import PackedMasks


@dataclass(frozen=True)
class Components:
    """The components of one prompt's mask.

    Attributes:
        numbers_KHW: int32 (K,H,W), 0 outside, else the component's number from 1.
        voxels: (C,) how many each has.
        max_probability: (C,) in [0,1].
        mean_probability: (C,) in [0,1].
    """

    numbers_KHW: NDArray[np.int32]
    voxels: NDArray[np.int64]
    max_probability: NDArray[np.float64]
    mean_probability: NDArray[np.float64]

    def largest_first(self) -> NDArray[np.int64]:
        """Return the components' places, those of equal size in their order."""
        return np.argsort(-self.voxels, kind="stable")


def find_components(masks: PackedMasks, prompt: int) -> Components:
    """Return the components of one prompt's mask."""
    from scipy.ndimage import generate_binary_structure, label

    slices = masks.slices(prompt)
    numbers, count = label(slices, structure=generate_binary_structure(3, 3))
    voxels = np.zeros(count, np.int64)
    sums = np.zeros(count)
    largest = np.zeros(count)
    # Slice by slice: a large study's voxels with their probabilities as numbers would take
    # gigabytes.
    for mask, numbered, probabilities in zip(
        slices, numbers, masks.probabilities(prompt), strict=True
    ):
        owner = numbered[mask > 0] - 1
        voxels += np.bincount(owner, minlength=count)
        sums += np.bincount(owner, weights=probabilities, minlength=count)
        np.maximum.at(largest, owner, probabilities)
    return Components(numbers, voxels, largest, sums / np.maximum(voxels, 1))


class MeasureMasksd(MapTransform):
    """Measure masks: volume of each prompt's, volume and probabilities of each component.

    Args:
        keys: of the ``PackedMasks``.
        study_key: of the study, whose grid says how large a voxel is.
        output_key: where a mapping for each prompt goes: ``volume_mm3``, and ``components``, the
            largest first, each with ``volume_mm3``, ``max_probability``, ``mean_probability``.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        *,
        study_key: str = "study",
        output_key: str = "measures",
    ) -> None:
        super().__init__(keys)
        self.study_key = study_key
        self.output_key = output_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with the measures."""
        item = dict(data)
        voxel_mm3 = voxel_volume_mm3(np.asarray(item[self.study_key].grid.affine))
        for key in self.key_iterator(item):
            masks: PackedMasks = item[key]
            item[self.output_key] = [
                _measure(find_components(masks, prompt), voxel_mm3) for prompt in range(len(masks))
            ]
        return item


def _measure(components: Components, voxel_mm3: float) -> dict[str, Any]:
    listed = []
    for place in components.largest_first():
        listed.append(
            {
                "volume_mm3": round(float(components.voxels[place] * voxel_mm3), 3),
                "max_probability": round(float(components.max_probability[place]), 4),
                "mean_probability": round(float(components.mean_probability[place]), 4),
            }
        )
    volume_mm3 = round(float(components.voxels.sum() * voxel_mm3), 3)
    return {"volume_mm3": volume_mm3, "components": listed}


class FilterComponentsd(MapTransform):
    """Take components out of masks, by size, score and number; without arguments none.

    Args:
        keys: of the ``PackedMasks``.
        min_volume_mm3: smaller components go.
        min_score: components whose highest probability is lower go.
        max_components: of what is left the largest stay, so many; None for all.
        study_key: of the study, whose grid says how large a voxel is.

    Raises:
        ValueError: a volume below 0, a score outside [0,1] or fewer components than one.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        *,
        min_volume_mm3: float = 0.0,
        min_score: float = 0.0,
        max_components: int | None = None,
        study_key: str = "study",
    ) -> None:
        super().__init__(keys)
        if not 0 <= min_volume_mm3 < np.inf:
            raise ValueError(f"min_volume_mm3: expected 0 or more mm³, received {min_volume_mm3}")
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score: expected a probability, received {min_score}")
        if max_components is not None and max_components < 1:
            raise ValueError(f"max_components: expected 1 or more, received {max_components}")
        self.min_volume_mm3 = min_volume_mm3
        self.min_score = min_score
        self.max_components = max_components
        self.study_key = study_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with filtered masks; the same ones where nothing is filtered."""
        item = dict(data)
        if not self.min_volume_mm3 and not self.min_score and self.max_components is None:
            return item
        voxel_mm3 = voxel_volume_mm3(np.asarray(item[self.study_key].grid.affine))
        for key in self.key_iterator(item):
            item[key] = self._filter(item[key], voxel_mm3)
        return item

    def _filter(self, masks: PackedMasks, voxel_mm3: float) -> PackedMasks:
        bits = masks.bits_PKHW.copy()
        probabilities = [list(slices) for slices in masks.mask_probabilities]
        for prompt in range(len(masks)):
            components = find_components(masks, prompt)
            kept = np.zeros(len(components.voxels) + 1, bool)
            kept[self._choose(components, voxel_mm3) + 1] = True
            for k, numbered in enumerate(components.numbers_KHW):
                inside = kept[numbered]
                stays = inside[numbered > 0]
                bits[prompt, k] = np.packbits(inside, axis=-1)
                probabilities[prompt][k] = probabilities[prompt][k][stays]
        return replace(masks, bits_PKHW=bits, mask_probabilities=probabilities)

    def _choose(self, components: Components, voxel_mm3: float) -> NDArray[np.int64]:
        order = components.largest_first()
        large = components.voxels[order] * voxel_mm3 >= self.min_volume_mm3
        sure = components.max_probability[order] >= self.min_score
        return order[large & sure][: self.max_components]
