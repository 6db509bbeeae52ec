"""Masks for tests, drawn by hand instead of by a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from boltzmed.cards import PromptTarget
from boltzmed.studies import Study, empty_grid
from boltzmed.transforms.network_input import InputSize
from boltzmed.transforms.packed_masks import PackedMasks
from boltzmed.transforms.slices import SlicePlan

SPACING_MM = (0.8, 1.0, 2.5)


def place_affine(signs: Sequence[int], spacing_mm: Sequence[float] = SPACING_MM) -> NDArray:
    """Affine (4,4) of array axes along R, A and S or against them."""
    affine = np.diag([*(sign * step for sign, step in zip(signs, spacing_mm, strict=True)), 1.0])
    affine[:3, 3] = -31.5, 12.25, 90.0
    return affine


def make_image(shape: Sequence[int], affine: NDArray, **meta: object) -> MetaTensor:
    """A volume (1,I,J,K) of noise."""
    voxels = np.random.default_rng(0).normal(0, 100, (1, *shape)).astype(np.float32)
    meta = {"case": "study", "modality": "CT", "source_format": "nifti", **meta}
    return MetaTensor(torch.from_numpy(voxels), affine=torch.from_numpy(affine.copy()), meta=meta)


def make_study(image: MetaTensor) -> Study:
    """What ``LoadStudyd`` keeps of a volume."""
    return Study(case="study", file="study.nii.gz", grid=empty_grid(image), read_seconds=0.5)


def make_prompt(text: str, target: str | None = None) -> PromptTarget:
    """What a prompt was looked up to mean."""
    return PromptTarget(text, target, "phantom", "CT", "abdomen", (-150.0, 250.0))


def pack_masks(
    masks_PIJK: NDArray,
    stored_PIJK: NDArray[np.uint8],
    affine: NDArray,
    plane: str = "axial",
    *,
    presence_PK: NDArray[np.float32] | None = None,
    smoothed_PK: NDArray[np.float32] | None = None,
) -> PackedMasks:
    """Pack masks with their probabilities (in units of 1/255) as the inferer does."""
    plan = SlicePlan.from_affine(affine, masks_PIJK.shape[1:], plane)
    bits = []
    probabilities = []
    for mask, stored in zip(masks_PIJK, stored_PIJK, strict=True):
        slices = plan.cut(np.asarray(mask, bool))
        bits.append(np.packbits(slices, axis=-1))
        probabilities.append(
            [values[inside] for values, inside in zip(plan.cut(stored), slices, strict=True)]
        )
    count = len(masks_PIJK)
    return PackedMasks(
        plan=plan,
        bits_PKHW=np.stack(bits),
        mask_probabilities=probabilities,
        windows=[(-150.0, 250.0)] * count,
        input_sizes=[InputSize(512)] * count,
        presence_PK=presence_PK,
        smoothed_PK=smoothed_PK,
    )
