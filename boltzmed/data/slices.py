"""Training and validation items: one slice, one window, up to P prompts.

Every random number of an item is keyed by (seed, epoch, sample, purpose), so that an item is the same whatever
worker, process or order made it. The sampler hands the epoch over with the index; no state is shared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from boltzmed.cards import DatasetCard, load_card
from boltzmed.data.labels import as_labels, check_grid, labelled_targets
from boltzmed.transforms.augment import augment
from boltzmed.transforms.channels import channel_indices
from boltzmed.transforms.slices import SlicePlan
from boltzmed.transforms.square import SquareGrid
from boltzmed.transforms.tokenize import tokenize_prompts
from boltzmed.transforms.window import Window, WindowIntensity
from boltzmed.volumes import map_nifti

SMALL_AREA_FRACTION = 0.001
"""Below this share of the padded square an object counts as small when slices are weighted."""

_PURPOSES = {"order": 0, "targets": 1, "augmentation": 2, "draws": 3}


def keyed_generator(seed: int, epoch: int, sample: int, purpose: str) -> np.random.Generator:
    """Return the generator of one (seed, epoch, sample, purpose); equal keys give equal streams."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, sample, _PURPOSES[purpose]]))


@dataclass(frozen=True)
class SliceEntry:
    """One slice of one case under one window, with the area fraction of every target that the window shows."""

    case_index: int
    slice_index: int
    window: Window | None
    area_fractions: dict[str, float]
    """Target name → mask pixels over the padded square's pixels; 0 where the target is absent."""


def read_datalist(path: str | Path | None, key: str = "training") -> list[dict[str, str]]:
    """Read a MONAI datalist whose paths are relative to its own folder.

    Args:
        path: JSON file with a list of ``{"image", "label", "case", "patient"}`` under ``key``.
        key: The list to take.

    Raises:
        ValueError: The file, the list or one of the named images is missing, or no file was named (None).
    """
    if path is None:
        raise ValueError(
            "expected --datalist FILE.json, received none; `boltzmed phantom` writes images and such a list"
        )
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: expected a datalist JSON file, found none; write one with `boltzmed phantom`")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected a datalist in JSON, received something else ({error})") from error
    if not isinstance(content, dict) or not content.get(key):
        raise ValueError(f"{path}: expected a list named {key!r}, received {list(content)[:5]}")
    cases = []
    for record in content[key]:
        case = dict(record)
        if missing := {"image", "label", "case"} - set(case):
            raise ValueError(f"{path}: expected image, label and case in every record, one lacks {min(missing)}")
        for field in ("image", "label"):
            file = path.parent / record[field]
            if not file.is_file():
                raise ValueError(f"{path}: case {record.get('case')}: {field} {record[field]} does not exist beside it")
            case[field] = str(file)
        cases.append(case)
    return cases


class PromptSliceDataset(Dataset):
    """Slices of labelled volumes, each with up to ``prompts_per_image`` prompts of one window.

    An item is ``{"image" (3,S,S) float32 in [0,255], "label" (P,S,S) float32 in {0,1}, "input_ids" (P,T) int64,
    "prompt_valid" (P,) bool, "draw_key" () int64, "case" str, "target" list of P names}``.

    Uncompressed NIfTI is memory-mapped, so that an item reads its slices alone; compressed files work, slowly.

    Args:
        cases: Records with ``image``, ``label``, ``case`` (see :func:`read_datalist`).
        card: The card, or its name: labels → targets → windows and prompts.
        image_size: Side S of the square that the network sees, in pixels.
        prompts_per_image: P.
        channels: ``"repeat"`` or ``"neighbours"`` (see :func:`channel_indices`).
        plane: Slice plane of the network (see :class:`SlicePlan`).
        seed: First part of every random key.
        augment_probability: Share of items that get the augmentation of the paper's A.5; 0 switches it off.
        negative_probability: Share of prompt slots given to a target absent from the slice (empty mask).
        phrasings: ``"random"`` draws among the card's prompts, ``"first"`` takes the first one.
        min_pixels: Native pixels under which a target counts as absent from a slice.
    """

    def __init__(
        self,
        cases: Sequence[dict[str, Any]],
        card: DatasetCard | str,
        *,
        image_size: int,
        prompts_per_image: int = 6,
        channels: str = "repeat",
        plane: str = "axial",
        seed: int = 0,
        augment_probability: float = 0.5,
        negative_probability: float = 0.2,
        phrasings: str = "random",
        min_pixels: int = 4,
    ) -> None:
        self.cases = list(cases)
        self.card = load_card(card) if isinstance(card, str) else card
        labelled_targets(self.card)
        self.image_size, self.prompts_per_image = image_size, prompts_per_image
        self.channels, self.plane, self.seed = channels, plane, seed
        self.augment_probability, self.negative_probability = augment_probability, negative_probability
        self.phrasings, self.min_pixels = phrasings, min_pixels
        self._tokens = {
            prompt: tokenize_prompts([prompt])[0] for target in self.card.targets.values() for prompt in target.prompts
        }
        self.entries = [entry for index in range(len(self.cases)) for entry in self._index_case(index)]
        if not self.entries:
            raise ValueError(f"card {self.card.name}: none of its targets is on any slice of {len(self.cases)} cases")

    def __len__(self) -> int:
        return len(self.entries)

    def weights(self, small_weight: float = 1.0) -> np.ndarray:
        """Return a sampling weight per entry: ``small_weight`` where a small target shows, 1 elsewhere."""
        small = [any(0 < a < SMALL_AREA_FRACTION for a in entry.area_fractions.values()) for entry in self.entries]
        return np.where(small, small_weight, 1.0)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        entry = self.entries[index]
        image, labels = self._read(entry)
        targets, prompts = self._draw_targets(entry, keyed_generator(self.seed, epoch, index, "targets"))
        # A target under min_pixels counts as absent, and an absent one has no pixel.
        shown = [self.card.targets[name].labels if entry.area_fractions[name] else () for name in targets]
        masks = np.stack([np.isin(labels, values) for values in shown])

        grid = SquareGrid(labels.shape[0], labels.shape[1], self.image_size)
        image_t = grid.to_image(image[None])[0]
        masks_t = grid.to_target(torch.from_numpy(masks.astype(np.float32))[None])[0]
        generator = keyed_generator(self.seed, epoch, index, "augmentation")
        image_t, masks_t = augment(image_t, masks_t, generator, probability=self.augment_probability)

        missing = self.prompts_per_image - len(targets)
        tokens = torch.stack([self._tokens[p] for p in prompts] + [self._tokens[prompts[0]]] * missing)
        valid = torch.arange(self.prompts_per_image) < len(targets)
        draw_key = int(keyed_generator(self.seed, epoch, index, "draws").integers(2**62))
        return {
            "image": image_t,
            "label": torch.cat([masks_t, masks_t.new_zeros(missing, *masks_t.shape[1:])]),
            "input_ids": tokens,
            "prompt_valid": valid,
            "draw_key": torch.tensor(draw_key),
            "case": self.cases[entry.case_index]["case"],
            "slice_index": entry.slice_index,
            "target": [*targets, *[""] * missing],
        }

    def _draw_targets(self, entry: SliceEntry, generator: np.random.Generator) -> tuple[list[str], list[str]]:
        present = [name for name, area in entry.area_fractions.items() if area > 0]
        absent = [name for name, area in entry.area_fractions.items() if area == 0]
        # The smallest object of a slice is always asked for; the rest is drawn.
        smallest = min(present, key=lambda name: entry.area_fractions[name])
        others = [name for name in present if name != smallest]
        chosen = [smallest]
        while len(chosen) < self.prompts_per_image and (others or absent):
            negative = absent and (not others or generator.random() < self.negative_probability)
            if negative and not others and generator.random() >= self.negative_probability:
                break
            pool = absent if negative else others
            chosen.append(pool.pop(int(generator.integers(len(pool)))))
        phrasings = [self.card.targets[name].prompts for name in chosen]
        drawn = [0 if self.phrasings == "first" else int(generator.integers(len(p))) for p in phrasings]
        return chosen, [p[i] for p, i in zip(phrasings, drawn, strict=True)]

    def _read(self, entry: SliceEntry) -> tuple[torch.Tensor, np.ndarray]:
        """Windowed channels (3,H,W) and labels (H,W) of one slice, read without the rest of the volume."""
        case = self.cases[entry.case_index]
        volume, affine_ras = map_nifti(case["image"])
        labels = map_nifti(case["label"])[0]
        plan = SlicePlan.from_affine(affine_ras, volume.shape, self.plane)
        indices = channel_indices(entry.slice_index, plan.count, self.channels)
        window = WindowIntensity(entry.window).measured_on(volume)
        windowed = window(np.ascontiguousarray(plan.slices_at(volume, indices), dtype=np.float32))
        return windowed, as_labels(case["case"], np.ascontiguousarray(plan.slice_at(labels, entry.slice_index)))

    def _index_case(self, case_index: int) -> Iterator[SliceEntry]:
        case = self.cases[case_index]
        labels, affine_ras = map_nifti(case["label"])
        image, image_affine_ras = map_nifti(case["image"])
        check_grid(case["case"], image.shape, image_affine_ras, labels.shape, affine_ras)
        slices = SlicePlan.from_affine(affine_ras, labels.shape, self.plane).cut(as_labels(case["case"], labels))
        side = max(slices.shape[1:])
        by_window: dict[Window | None, list[str]] = {}
        for name, target in self.card.targets.items():
            by_window.setdefault(target.window, []).append(name)
        for slice_index, labels_hw in enumerate(slices):
            counts = np.bincount(labels_hw.reshape(-1), minlength=256)
            pixels = {name: int(counts[list(target.labels)].sum()) for name, target in self.card.targets.items()}
            for window, names in by_window.items():
                areas = {n: pixels[n] / side**2 if pixels[n] >= self.min_pixels else 0.0 for n in names}
                if any(areas.values()):
                    yield SliceEntry(case_index, slice_index, window, areas)


class KeyedSampler(DistributedSampler):
    """Yields ``(epoch, index)``: ``samples_per_epoch`` entries without repetition, drawn by weight, shared by ranks.

    It is a ``DistributedSampler`` so that the trainer tells it the epoch; with one process it has one rank. With
    ``fixed`` every epoch is the first one, the same samples and prompts: what validation compares has to be the same.
    """

    def __init__(
        self,
        dataset: PromptSliceDataset,
        *,
        samples_per_epoch: int,
        small_weight: float = 1.0,
        seed: int = 0,
        fixed: bool = False,
    ) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        ranks = torch.distributed.get_world_size() if distributed else 1
        super().__init__(dataset, num_replicas=ranks, rank=torch.distributed.get_rank() if distributed else 0)
        self.seed, self.fixed = seed, fixed
        self.samples_per_epoch = min(samples_per_epoch, len(dataset)) // ranks * ranks
        weights = dataset.weights(small_weight)
        self.probabilities = weights / weights.sum()

    def __len__(self) -> int:
        return self.samples_per_epoch // self.num_replicas

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        epoch = 0 if self.fixed else self.epoch
        generator = keyed_generator(self.seed, epoch, 0, "order")
        drawn = generator.choice(len(self.probabilities), self.samples_per_epoch, replace=False, p=self.probabilities)
        return iter([(epoch, int(index)) for index in drawn[self.rank :: self.num_replicas]])
