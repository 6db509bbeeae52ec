"""MONAI transform that brings masks back to the study's own grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform
from monai.transforms.utils import allow_missing_keys_mode, convert_applied_interp_mode
from numpy.typing import ArrayLike, NDArray

from boltzmed.geometry import describe_grid, is_same_grid
from boltzmed.transforms.packed_masks import PackedMasks
from boltzmed.transforms.slices import SlicePlan

_SLICE_TOLERANCE = 0.01
"""Slices count as the same up to this fraction of the gap between two of them."""


def is_on_grid(image: MetaTensor, grid: MetaTensor) -> bool:
    """Whether two volumes (1,I,J,K) have the same voxels in the same order."""
    return is_same_grid(
        tuple(image.shape[1:]),
        np.asarray(image.affine),
        tuple(grid.shape[1:]),
        np.asarray(grid.affine),
    )


def check_restorable(image: MetaTensor, grid: MetaTensor, case: str) -> None:
    """Refuse an image that a transform moved off its study's grid without a record of how.

    Args:
        image: (1,I,J,K) as preprocessing left it.
        grid: the study's own.
        case: the study's name.

    Raises:
        ValueError: the grids differ, and no invertible transform of MONAI says how.
    """
    if not isinstance(image, MetaTensor):
        raise ValueError(
            f"{case}: expected preprocessing to keep the image a MetaTensor with its affine,"
            f" received a {type(image).__name__}; use transforms that keep it"
        )
    if not is_on_grid(image, grid) and not image.applied_operations:
        raise ValueError(
            f"{case}: expected preprocessing that keeps the image's grid or can be inverted, so"
            " that masks come out on the study's own, received one that leads from"
            f" {_describe(grid)} to {_describe(image)} without a record; use an invertible"
            " transform of MONAI"
        )


def _describe(volume: MetaTensor) -> str:
    return describe_grid(tuple(volume.shape[1:]), np.asarray(volume.affine))


def _are_same_slices(
    plan: SlicePlan, affine_ras: ArrayLike, other_plan: SlicePlan, other_affine_ras: ArrayLike
) -> bool:
    """Whether slice k of two cuts lies in the same plane of the patient, for every k."""
    if plan.count != other_plan.count:
        return False
    slices_affine = plan.slices_affine(affine_ras)
    other_affine = other_plan.slices_affine(other_affine_ras)
    normal = np.cross(other_affine[:3, 1], other_affine[:3, 2])
    normal /= np.linalg.norm(normal)
    # How far a step to the next slice, row and column, and the first voxel, lie along the normal.
    heights_mm = normal @ slices_affine[:3]
    other_heights_mm = normal @ other_affine[:3]
    # Differences of steps add up along the slices.
    extents = np.array([plan.count, *plan.slice_shape, 1])
    differences_mm = np.abs(heights_mm - other_heights_mm) * extents
    return bool(differences_mm.sum() <= _SLICE_TOLERANCE * abs(other_heights_mm[0]))


class RestoreGridd(MapTransform):
    """Bring masks to the study's grid by inverting what preprocessing did, nearest neighbour.

    Where preprocessing kept the grid, masks pass as they are. Presence has a value a slice: where
    slices are not the study's own any more, it is left out.

    Args:
        keys: of the ``PackedMasks``.
        transform: the preprocessing.
        image_key: of the image, whose record of operations is inverted.
        study_key: of the study, which knows its grid.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        *,
        transform: Compose,
        image_key: str = "image",
        study_key: str = "study",
    ) -> None:
        super().__init__(keys)
        self.transform = transform
        self.image_key = image_key
        self.study_key = study_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with masks on the study's grid.

        Raises:
            ValueError: the inversion does not lead back to it.
        """
        item = dict(data)
        image = item[self.image_key]
        study = item[self.study_key]
        if is_on_grid(image, study.grid):
            return item
        for key in self.key_iterator(item):
            item[key] = self._restore(item[key], image, study.grid, study.case)
        return item

    def _restore(
        self, masks: PackedMasks, image: MetaTensor, grid: MetaTensor, case: str
    ) -> PackedMasks:
        plan = SlicePlan.from_affine(np.asarray(grid.affine), grid.shape, masks.plan.plane)
        height, width = plan.slice_shape
        bits = np.zeros((len(masks), plan.count, height, (width + 7) // 8), np.uint8)
        probabilities = []
        for prompt in range(len(masks)):
            slices = plan.cut(self._invert(masks, prompt, image, grid, case))
            bits[prompt] = np.packbits(slices > 0, axis=-1)
            probabilities.append([(values[values > 0] - 1).astype(np.uint8) for values in slices])
        same_slices = _are_same_slices(masks.plan, image.affine, plan, grid.affine)
        return replace(
            masks,
            plan=plan,
            bits_PKHW=bits,
            mask_probabilities=probabilities,
            presence_PK=masks.presence_PK if same_slices else None,
            smoothed_PK=masks.smoothed_PK if same_slices else None,
        )

    def _invert(
        self, masks: PackedMasks, prompt: int, image: MetaTensor, grid: MetaTensor, case: str
    ) -> NDArray[np.float32]:
        """Return (I,J,K) on the study's grid: 0 outside the mask, else 1 + its stored byte."""
        voxels = masks.probability_volume(prompt) * np.float32(255)
        voxels[masks.volume(prompt) > 0] += 1
        # Nearest neighbour, so that a mask stays a mask.
        operations = convert_applied_interp_mode(
            deepcopy(image.applied_operations), mode="nearest", align_corners=None
        )
        moved = MetaTensor(
            torch.from_numpy(np.ascontiguousarray(voxels))[None],
            affine=image.affine,
            meta=dict(image.meta),
            applied_operations=operations,
        )
        with allow_missing_keys_mode(self.transform):
            data = self.transform.inverse({self.image_key: moved})  # type: ignore[no-untyped-call]
        restored = data[self.image_key]
        if not is_on_grid(restored, grid):
            raise ValueError(
                f"{case}: expected preprocessing whose inverse leads back to the study's grid,"
                f" {_describe(grid)}, received {_describe(restored)}; take the transform out, or"
                " use an invertible one of MONAI"
            )
        voxels_IJK: NDArray[np.float32] = np.rint(restored[0].numpy())
        return voxels_IJK
