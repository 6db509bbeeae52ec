"""What the DynUNet of `benchmarks.dynunet` sees: plans by data set, classes, training volumes in
memory, patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    SpatialPadd,
)
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from boltzmed.cards import DatasetCard
from boltzmed.geometry import spacing_mm
from boltzmed.transforms.window import WindowIntensity

FOREGROUND_SHARE = 2 / 3
"""Of the patches: they lie around a voxel of a class drawn among those of the volume, so that small
ones are seen.
"""
CENTRES = 500
"""Voxels that are kept for each class of a volume to lay patches around."""


@dataclass(frozen=True)
class Plan:
    """How a data set meets the network; axes are those of a cached volume: rows, columns, slices.

    Attributes:
        patch: voxels; what is smaller is padded.
        strides: of the network's levels; `patch` is divisible by their product.
        filters: of the levels.
        spacing_mm: volumes are resampled to it, None leaves them as they are.
        flips: axes along which a mirrored image is as likely as the image.
        rotations: largest angles about the axes, in radians.
        batch: patches in a step.
    """

    patch: tuple[int, int, int]
    strides: tuple[int | tuple[int, int, int], ...]
    filters: tuple[int, ...]
    spacing_mm: tuple[float, float, float] | None
    flips: tuple[int, ...]
    rotations: tuple[float, float, float]
    batch: int = 2


PLANS = {
    "msd_hippocampus": Plan(
        (56, 40, 40), (1, 2, 2, 2), (16, 32, 64, 128), None, (1,), (0.3, 0.3, 0.3)
    ),
    "lidc_idri": Plan(
        (48, 48, 16),
        (1, 2, 2, (2, 2, 1)),
        (16, 32, 64, 128),
        (0.7, 0.7, 1.25),
        (0, 1, 2),
        (0.2, 0.2, 3.1),
        batch=4,
    ),
    "phantom": Plan(
        (96, 96, 48), (1, 2, 2, 2, 2), (16, 32, 64, 128, 128), (2.5, 2.5, 4.0), (), (0.1, 0.1, 0.2)
    ),
}


class Classes:
    """The network's classes: label values that belong to the same targets; 0 is the rest.

    Args:
        values: target → its label values.
    """

    def __init__(self, values: Mapping[str, tuple[int, ...]]) -> None:
        self.values = dict(values)
        labels = sorted({label for found in values.values() for label in found})
        owners = {
            label: frozenset(t for t, found in values.items() if label in found) for label in labels
        }
        kinds = list(dict.fromkeys(owners.values()))
        self.count = 1 + len(kinds)
        self.members = {
            target: [1 + k for k, kind in enumerate(kinds) if target in kind] for target in values
        }
        self.table = np.zeros(256, np.uint8)
        for label, owner in owners.items():
            self.table[label] = 1 + kinds.index(owner)


@dataclass
class Volume:
    """A training volume: image (C,H,W,K) float16 in [0,1], classes (1,H,W,K) uint8, class → some of
    its voxels.
    """

    image: Tensor
    classes: Tensor
    centres: list[NDArray[np.int64]]


class Preparation:
    """Studies → what the network sees, and its output back to their grid."""

    def __init__(self, card: DatasetCard, plan: Plan) -> None:
        self.plan = plan
        self.windows = list(
            dict.fromkeys(target.window for target in card.targets.values() if target.labels)
        )

    def image(self, study: Mapping[str, Any]) -> Tensor:
        """Return (C,H',W',K') in [0,1], one channel for each window."""
        voxels = torch.as_tensor(np.asarray(study["image"]))[0]
        picture = study["prompts"][0].window_name == "picture"
        windows = [study["prompts"][0].window] if picture else self.windows
        image = torch.stack([WindowIntensity(window)(voxels) / 255 for window in windows])
        return self._resize(image, self.shape(study), "trilinear")

    def classes(self, study: Mapping[str, Any], classes: Classes) -> Tensor:
        """Return (1,H',W',K') uint8."""
        if study["study"].label_values != classes.values:
            raise ValueError(
                f"{study['study'].case}: expected the label values of the first case, found others"
            )
        found = torch.from_numpy(classes.table[study["study"].labels])[None]
        return self._resize(found.float(), self.shape(study), "nearest-exact").to(torch.uint8)

    def shape(self, study: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the grid on which the network sees a study."""
        shape = study["study"].labels.shape
        if self.plan.spacing_mm is None:
            return shape
        native_mm = spacing_mm(np.asarray(study["image"].affine))
        return tuple(
            max(1, round(n * s / t))
            for n, s, t in zip(shape, native_mm, self.plan.spacing_mm, strict=True)
        )

    def restore(self, logits: Tensor, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return the likeliest class of each voxel of the study's grid, of logits (L,H',W',K')."""
        best, found = torch.full(shape, -torch.inf), torch.zeros(shape, dtype=torch.uint8)
        for number, scores in enumerate(logits):  # class by class: all at once would take gigabytes
            scores = self._resize(scores[None], shape, "trilinear")[0]
            found[scores > best] = number
            best = torch.maximum(best, scores)
        return found.numpy()

    @staticmethod
    def _resize(values: Tensor, shape: tuple[int, ...], mode: str) -> Tensor:
        return (
            values if values.shape[1:] == shape else interpolate(values[None], shape, mode=mode)[0]
        )


def load_volumes(studies: Any, preparation: Preparation) -> tuple[list[Volume], Classes]:
    """Read all training volumes into memory."""
    volumes: list[Volume] = []
    for index in tqdm(range(len(studies)), desc="volumes"):
        study = studies[index]
        if index == 0:
            classes = Classes(study["study"].label_values)
        found = preparation.classes(study, classes)
        random = np.random.default_rng(index)
        places = [np.argwhere(found[0].numpy() == number) for number in range(1, classes.count)]
        centres = [random.permutation(p)[:CENTRES] for p in places if len(p)]
        volumes.append(Volume(preparation.image(study).half(), found, centres))
    return volumes, classes


def build_augmentation(plan: Plan) -> Compose:
    """Mirror, turn and zoom a larger box, cut the patch out of its middle, then change its grey
    values.
    """
    both = ("image", "label")
    zooms = ((-0.2, 0.25),) * 3
    shifts = [side // 16 for side in plan.patch]
    return Compose(
        [
            SpatialPadd(both, box_shape(plan)),
            *(RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in plan.flips),
            RandAffined(
                both,
                spatial_size=plan.patch,
                prob=0.7,
                rotate_range=plan.rotations,
                scale_range=zooms,
                translate_range=shifts,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandGaussianNoised("image", prob=0.15, std=0.05),
            RandGaussianSmoothd("image", prob=0.1),
            RandScaleIntensityd("image", prob=0.3, factors=0.25),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
        ]
    )


def box_shape(plan: Plan) -> list[int]:
    """The box of which a patch is turned and cut."""
    return [side + 2 * (side // 8) for side in plan.patch]


def draw_box(volume: Volume, box: list[int], random: np.random.Generator) -> dict[str, Tensor]:
    """Cut a box around a random voxel, inside the volume wherever that is large enough."""
    shape = volume.classes.shape[1:]
    centre = random.integers(shape)
    if volume.centres and random.random() < FOREGROUND_SHARE:
        centre = random.choice(volume.centres[random.integers(len(volume.centres))])
    starts = [
        int(np.clip(c - b // 2, 0, max(s - b, 0)))
        for c, b, s in zip(centre, box, shape, strict=True)
    ]
    cut = (
        slice(None),
        *(slice(start, start + side) for start, side in zip(starts, box, strict=True)),
    )
    return {"image": volume.image[cut].float(), "label": volume.classes[cut].float()}
