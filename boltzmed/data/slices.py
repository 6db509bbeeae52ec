"""Training and validation items: one slice, one window, up to P prompts.

Every random number of an item is keyed by (seed, epoch, sample, purpose), so that an item is the
same whatever worker, process or order made it. The sampler hands the epoch over with the index; no
state is shared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import Compose, MapTransform
from torch.utils.data import Dataset

from boltzmed.cards import DatasetCard
from boltzmed.data.regions import foreign_targets
from boltzmed.data.slice_sources import SliceEntry, SliceSource
from boltzmed.errors import unwrapped_input_errors
from boltzmed.strata import assign_area_bins
from boltzmed.transforms.augment import Augmentation, draw_augmentation
from boltzmed.transforms.network_input import (
    InputSize,
    NetworkInputd,
    channel_indices,
    read_input_sizes,
)
from boltzmed.transforms.tokenize import TokenizePromptsd, tokenize_prompts
from boltzmed.transforms.window import Window, WindowIntensity

SMALL_AREA_FRACTION = 0.001
"""Below this share of the padded square an object counts as small when slices are weighted."""

_PURPOSES = {"order": 0, "targets": 1, "augmentation": 2, "draws": 3}


def keyed_generator(seed: int, epoch: int, sample: int, purpose: str) -> np.random.Generator:
    """Return the generator of one (seed, epoch, sample, purpose); equal keys give equal streams."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, sample, _PURPOSES[purpose]]))


@dataclass(frozen=True)
class SliceRequest:
    """What an item is made of, drawn before anything is read.

    Attributes:
        source: where the slice lies.
        entry: which slice, under which window.
        targets: names of the T targets that are asked for, 1 ≤ T ≤ P.
        prompts: a text for each of them.
    """

    source: SliceSource
    entry: SliceEntry
    targets: list[str]
    prompts: list[str]


class LoadSlicesd(MapTransform):
    """MONAI transform: a ``SliceRequest`` becomes raw slices with their labels.

    The slices that the network's three channels need, (U,H,W) float32 at the file's intensities,
    take the request's place; labels (1,H,W) uint8 of the slice itself, the window and the number of
    slices stand beside them.

    Args:
        keys: of the request.
        label_key: where the labels go.
    """

    def __init__(self, keys: KeysCollection = "image", *, label_key: str = "label") -> None:
        super().__init__(keys)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with the slices."""
        item = dict(data)
        for key in self.key_iterator(item):
            request: SliceRequest = item[key]
            entry = request.entry
            count = request.source.count(entry.case)
            # Three equal channels are one until the end.
            needed = sorted(set(channel_indices(entry.slice_index, count, item["channels"])))
            slices, labels, window = request.source.read(entry, needed)
            item[key] = torch.from_numpy(np.ascontiguousarray(slices, np.float32))
            item[self.label_key] = torch.from_numpy(labels)[None]
            item["window"] = WindowIntensity(window, keep_zeros=entry.window is None)
            item["slice_count"] = count
        return item


class SeparateTargetsd(MapTransform):
    """MONAI transform: labels (1,S,S) become a mask (P,S,S) float32 in {0,1} for each prompt.

    Args:
        keys: of the labels.
        values_key: of a tuple of label values for each prompt; empty for an empty mask.
    """

    def __init__(self, keys: KeysCollection = "label", *, values_key: str = "label_values") -> None:
        super().__init__(keys)
        self.values_key = values_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with masks."""
        item = dict(data)
        for key in self.key_iterator(item):
            labels = item[key][0].numpy()
            masks = np.zeros((len(item[self.values_key]), *labels.shape), np.float32)
            for mask, values in zip(masks, item[self.values_key], strict=True):
                for value in values:
                    mask += labels == value  # a pixel has one value
            item[key] = torch.from_numpy(masks)
        return item


def compose_preprocessing() -> Compose:
    """Return the preprocessing that ``train.yaml`` lists."""
    transforms = [LoadSlicesd(), NetworkInputd(), SeparateTargetsd(), TokenizePromptsd()]
    return Compose(transforms, log_stats=False)


class PromptSliceDataset(Dataset[Any]):
    """Slices of labelled volumes, each with up to ``prompts_per_image`` prompts of one window.

    An item is ``{"image" (3,S,S) float32 in [0,255], "label" (P,S,S) float32 in {0,1}, "input_ids"
    (P,T) int64, "prompt_valid" (P,) bool, "draw_key" () int64, "case" str, "slice_index" int,
    "target" list of P names}``. A prompt of a target that is known to be absent from the slice has
    an empty mask.

    Args:
        sources: where slices come from (``open_sources``), each with its own card for windows
            and prompts.
        image_size: side S of the square that the network sees, in pixels.
        prompts_per_image: P.
        channels: ``"repeat"`` or ``"neighbours"`` (see ``channel_indices``).
        seed: first part of every random key.
        augment_probability: fraction of items that get the augmentation of the paper's A.5; 0
            switches it off.
        quarter_turns: whether that turns images, or shifts and scales them alone; or the names of
            the cards whose images it turns.
        negative_probability: fraction of prompt slots given to a target absent from the slice
            (empty mask).
        prompt_variants: ``"random"`` draws among the card's prompts, ``"first"`` takes the first.
        input_sizes: card → how large its slices are for the network, one size or several that take
            turns; see ``InputSize``. Cards that are not named are magnified or reduced to
            ``image_size``.
        out_of_region_probability: fraction of items that ask for other cards' targets instead, of
            body regions that the card's images do not show; all masks are empty. They teach the
            presence head.
        transform: the preprocessing; ``compose_preprocessing`` by default.

    Raises:
        ValueError: a fraction outside 0 … 1, no prompt, or a card that is not there.
    """

    # Twelve parameters: each is an option of train.yaml of its own.
    def __init__(
        self,
        sources: Sequence[SliceSource],
        *,
        image_size: int,
        prompts_per_image: int = 6,
        channels: str = "repeat",
        seed: int = 0,
        augment_probability: float = 0.5,
        quarter_turns: bool | Sequence[str] = True,
        negative_probability: float = 0.2,
        prompt_variants: str = "random",
        input_sizes: Mapping[str, Mapping[str, int] | Sequence[Mapping[str, int]]] | None = None,
        out_of_region_probability: float = 0.0,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        fractions = {
            "negative_probability": negative_probability,
            "out_of_region_probability": out_of_region_probability,
            "augment_probability": augment_probability,
        }
        for name, value in fractions.items():
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(f"{name}: expected 0 to 1, received {value!r}")
        if not isinstance(prompts_per_image, int) or prompts_per_image < 1:
            raise ValueError(
                f"prompts_per_image: expected 1 or more, received {prompts_per_image!r}"
            )
        self.sources = list(sources)
        self.image_size = image_size
        self.prompts_per_image = prompts_per_image
        self.channels = channels
        self.seed = seed
        self.augment_probability = augment_probability
        self.negative_probability = negative_probability
        self.prompt_variants = prompt_variants
        self.out_of_region_probability = out_of_region_probability
        self.transform = compose_preprocessing() if transform is None else transform
        cards = {source.card.name: source.card for source in self.sources}
        self.input_sizes = _choose_sizes(read_input_sizes(input_sizes), list(cards), image_size)
        self._turned = _turned_cards(quarter_turns, list(cards))
        self._out_of_region = {
            name: _list_out_of_region(card, self.sources) for name, card in cards.items()
        }
        self.entries = [entry for source in self.sources for entry in source.entries]
        self._source_of = [source for source in self.sources for _ in source.entries]
        for card in cards.values():
            for target in card.targets.values():
                tokenize_prompts(target.prompts)  # refuses one that is too long before training

    def __len__(self) -> int:
        return len(self.entries)

    def weights(self, small_weight: float = 1.0, balance: Sequence[str] = ()) -> np.ndarray:
        """Return a sampling weight per entry, of mean 1 before ``small_weight``.

        Args:
            small_weight: factor above 0 where a small target shows.
            balance: of ``"target"`` and ``"size"``: groups of objects (a data set's target, an area
                bin, or both) that shall be drawn equally often. An entry counts as the mean over
                its objects of one over the number of objects in their group. Slices that show
                nothing keep the mean weight.

        Raises:
            ValueError: A ``small_weight`` of 0 or less, or an unknown ``balance``.
        """
        if not isinstance(small_weight, int | float) or not small_weight > 0:
            raise ValueError(f"small_weight: expected a number above 0, received {small_weight!r}")
        if unknown := set(balance) - {"target", "size"}:
            raise ValueError(
                f"balance: expected some of target, size, received {', '.join(sorted(unknown))}"
            )
        groups = [
            [
                (
                    source.card.name if "target" in balance else "",
                    name if "target" in balance else "",
                    size,
                )
                for name, size in self._sizes(entry, by_size="size" in balance)
            ]
            for entry, source in zip(self.entries, self._source_of, strict=True)
        ]
        counts = Counter(group for found in groups for group in found)
        rare = np.array(
            [
                np.mean([1 / counts[group] for group in found]) if found else np.nan
                for found in groups
            ]
        )
        shown = rare[~np.isnan(rare)]
        weights = (
            np.where(np.isnan(rare), 1.0, rare / shown.mean()) if shown.size else np.ones(len(rare))
        )
        small = [
            any(0 < a < SMALL_AREA_FRACTION for a in entry.area_fractions.values())
            for entry in self.entries
        ]
        return weights * np.where(small, small_weight, 1.0)

    def card_of(self, index: int) -> str:
        """Return the name of the card that an entry belongs to."""
        return self._source_of[index].card.name

    def __getitem__(self, key: int | tuple[int, ...] | list[tuple[int, ...]]) -> Any:
        """Return an entry's item.

        Args:
            key: the entry; (epoch, entry); (epoch, entry, number of the input size); or a list of
                such, for a list of items.
        """
        if isinstance(key, list):
            return [self[one] for one in key]
        epoch, index, turn = (*key, 0)[:3] if isinstance(key, tuple) else (0, key, 0)
        request = self._draw_request(epoch, index)
        entry = request.entry
        missing = self.prompts_per_image - len(request.targets)
        draws = keyed_generator(self.seed, epoch, index, "draws")
        data = {
            "image": request,
            "prompts": request.prompts + [request.prompts[0]] * missing,
            "label_values": self._list_values(request) + [()] * missing,
            "slice_index": entry.slice_index,
            "channels": self.channels,
            "input_size": self.input_sizes[request.source.card.name][turn],
            "augmentation": self._draw_augmentation(epoch, index),
        }
        with unwrapped_input_errors():
            item = self.transform(data)
        return {
            "image": item["image"],
            "label": item["label"],
            "input_ids": item["input_ids"],
            "prompt_valid": torch.arange(self.prompts_per_image) < len(request.targets),
            "draw_key": torch.tensor(int(draws.integers(2**62))),
            "case": entry.case,
            "slice_index": entry.slice_index,
            "target": [*request.targets, *[""] * missing],
        }

    def _draw_request(self, epoch: int, index: int) -> SliceRequest:
        """Draw what an entry is asked for."""
        entry = self.entries[index]
        source = self._source_of[index]
        generator = keyed_generator(self.seed, epoch, index, "targets")
        windows = self._out_of_region[source.card.name]
        if not windows or generator.random() >= self.out_of_region_probability:
            targets, prompts = self._draw_targets(entry, source, generator)
            return SliceRequest(source, entry, targets, prompts)
        window, variants = windows[int(generator.integers(len(windows)))]
        order = generator.permutation(len(variants))[: self.prompts_per_image]
        names = list(variants)
        targets = [names[k] for k in order]
        prompts = []
        for name in targets:
            texts = variants[name]
            prompts.append(texts[int(generator.integers(len(texts)))])
        empty = SliceEntry(entry.case, entry.slice_index, window, {})
        return SliceRequest(source, empty, targets, prompts)

    def _draw_augmentation(self, epoch: int, index: int) -> Augmentation | None:
        generator = keyed_generator(self.seed, epoch, index, "augmentation")
        augmentation = draw_augmentation(generator, probability=self.augment_probability)
        if augmentation is not None and self.card_of(index) not in self._turned:
            return replace(augmentation, quarter_turns=0)
        return augmentation

    @staticmethod
    def _list_values(request: SliceRequest) -> list[tuple[int, ...]]:
        """For each target its label values, none where the slice does not show it."""
        values: list[tuple[int, ...]] = []
        for name in request.targets:
            shown = bool(request.entry.area_fractions.get(name))
            case = request.entry.case
            values.append(tuple(request.source.label_values(case, name)) if shown else ())
        return values

    def _draw_targets(
        self, entry: SliceEntry, source: SliceSource, generator: np.random.Generator
    ) -> tuple[list[str], list[str]]:
        present = [name for name, area in entry.area_fractions.items() if area > 0]
        absent = [name for name, area in entry.area_fractions.items() if area == 0]
        chosen = []
        others = list(present)
        if present:  # the smallest object of a slice is always asked for; the rest is drawn
            chosen = [min(present, key=lambda name: entry.area_fractions[name])]
            others.remove(chosen[0])
        while len(chosen) < self.prompts_per_image and (others or absent):
            negative = absent and (not others or generator.random() < self.negative_probability)
            if (
                chosen
                and negative
                and not others
                and generator.random() >= self.negative_probability
            ):
                break
            pool = absent if negative else others
            chosen.append(pool.pop(int(generator.integers(len(pool)))))
        prompts = []
        for name in chosen:
            texts = source.card.targets[name].prompts
            first = self.prompt_variants == "first"
            prompts.append(texts[0 if first else int(generator.integers(len(texts)))])
        return chosen, prompts

    @staticmethod
    def _sizes(entry: SliceEntry, *, by_size: bool) -> list[tuple[str, int]]:
        """Names of the objects on a slice with their area bins, bin 0 for all unless asked for."""
        shown = {name: area for name, area in entry.area_fractions.items() if area > 0}
        bins = assign_area_bins(list(shown.values())).tolist() if by_size else [0] * len(shown)
        return list(zip(shown, bins, strict=True))


def _turned_cards(quarter_turns: Any, names: Sequence[str]) -> set[str]:
    """Those of the cards whose images the augmentation turns."""
    if isinstance(quarter_turns, bool):
        return set(names) if quarter_turns else set()
    if (
        not isinstance(quarter_turns, Sequence)
        or isinstance(quarter_turns, str)
        or set(quarter_turns) - set(names)
    ):
        known = ", ".join(dict.fromkeys(names))
        raise ValueError(
            f"quarter_turns: expected True, False or some of {known}, received {quarter_turns!r}"
        )
    return set(quarter_turns)


def _list_out_of_region(
    card: DatasetCard, sources: Sequence[SliceSource]
) -> list[tuple[Window | None, dict[str, tuple[str, ...]]]]:
    """Windows, each with the targets that are asked under it, by name, and their prompts."""
    by_window: dict[Window | None, dict[str, tuple[str, ...]]] = {}
    for target, window in foreign_targets(card, [source.card for source in sources]):
        by_window.setdefault(window, {})[target.name] = target.prompts
    return list(by_window.items())


def _choose_sizes(
    requested: Mapping[str, tuple[InputSize, ...]], cards: Sequence[str], image_size: int
) -> dict[str, tuple[InputSize, ...]]:
    """Card → its input sizes; ValueError for a card that is not there."""
    unknown = set(requested) - set(cards)
    if unknown:
        raise ValueError(
            f"input_sizes: expected some of {', '.join(cards)}, received"
            f" {', '.join(sorted(unknown))}"
        )
    return {card: requested.get(card, (InputSize(image_size),)) for card in cards}
