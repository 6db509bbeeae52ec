"""Training and validation items: one slice, one window, up to P prompts.

Every random number of an item is keyed by (seed, epoch, sample, purpose), so that an item is the
same whatever worker, process or order made it. The sampler hands the epoch over with the index; no
state is shared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from boltzmed.cards import DatasetCard
from boltzmed.data.labels import foreign_targets
from boltzmed.data.slice_sources import SliceEntry, SliceSource
from boltzmed.strata import assign_area_bins
from boltzmed.transforms.augment import apply_augmentation, draw_augmentation
from boltzmed.transforms.channels import channel_indices
from boltzmed.transforms.square import Frame, SquareGrid, read_frames
from boltzmed.transforms.tokenize import tokenize_prompts
from boltzmed.transforms.window import Window, WindowIntensity

SMALL_AREA_FRACTION = 0.001
"""Below this share of the padded square an object counts as small when slices are weighted."""

_PURPOSES = {"order": 0, "targets": 1, "augmentation": 2, "draws": 3}


def keyed_generator(seed: int, epoch: int, sample: int, purpose: str) -> np.random.Generator:
    """Return the generator of one (seed, epoch, sample, purpose); equal keys give equal streams."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, sample, _PURPOSES[purpose]]))


class PromptSliceDataset(Dataset):
    """Slices of labelled volumes, each with up to ``prompts_per_image`` prompts of one window.

    An item is ``{"image" (3,S,S) float32 in [0,255], "label" (P,S,S) float32 in {0,1}, "input_ids"
    (P,T) int64, "prompt_valid" (P,) bool, "draw_key" () int64, "case" str, "slice_index" int,
    "target" list of P names}``. A prompt of a target that is known to be absent from the slice has
    an empty mask.

    Args:
        sources: Where slices come from (:func:`open_sources`), each with its own card for windows
            and prompts.
        image_size: Side S of the square that the network sees, in pixels.
        prompts_per_image: P.
        channels: ``"repeat"`` or ``"neighbours"`` (see :func:`channel_indices`).
        seed: First part of every random key.
        augment_probability: Share of items that get the augmentation of the paper's A.5; 0 switches
            it off.
        quarter_turns: Whether that turns images, or shifts and scales them alone; or the names of
            the cards whose images it turns.
        negative_probability: Share of prompt slots given to a target absent from the slice (empty
            mask).
        phrasings: ``"random"`` draws among the card's prompts, ``"first"`` takes the first one.
        frames: Card name → how its slices meet the network, one way or several that take turns; see
            :class:`Frame`. Cards that are not named are magnified or reduced to ``image_size``.
        foreign_probability: Share of items that ask for other cards' targets instead, of body
            regions that the card's images do not show; all masks are empty. A lesson for the
            presence gate.
    """

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
        phrasings: str = "random",
        frames: Mapping[str, Mapping[str, int] | Sequence[Mapping[str, int]]] | None = None,
        foreign_probability: float = 0.0,
    ) -> None:
        self.sources = list(sources)
        self.image_size, self.prompts_per_image = image_size, prompts_per_image
        self.channels, self.seed = channels, seed
        self.augment_probability = augment_probability
        self.negative_probability = negative_probability
        self.phrasings, self.foreign_probability = phrasings, foreign_probability
        given = {
            "negative_probability": negative_probability,
            "foreign_probability": foreign_probability,
        }
        for name, value in {**given, "augment_probability": augment_probability}.items():
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(f"{name}: expected 0 to 1, received {value!r}")
        if not isinstance(prompts_per_image, int) or prompts_per_image < 1:
            raise ValueError(
                f"prompts_per_image: expected 1 or more, received {prompts_per_image!r}"
            )
        asked = read_frames(frames)
        names = [source.card.name for source in self.sources]
        if unknown := set(asked) - set(names):
            raise ValueError(
                f"frames: expected some of {', '.join(dict.fromkeys(names))}, received"
                f" {', '.join(sorted(unknown))}"
            )
        self.frames = {
            s.card.name: asked.get(s.card.name, (Frame(image_size),)) for s in self.sources
        }
        self._turned = _turned_cards(quarter_turns, names)
        self._foreign = {s.card.name: _foreign_prompts(s.card, self.sources) for s in self.sources}
        self.entries = [entry for source in self.sources for entry in source.entries]
        self._source_of = [source for source in self.sources for _ in source.entries]
        cards = [source.card for source in self.sources]
        prompts = {
            prompt
            for card in cards
            for target in card.targets.values()
            for prompt in target.prompts
        }
        self._tokens = {prompt: tokenize_prompts([prompt])[0] for prompt in sorted(prompts)}

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
        """Return the item of an entry; its key may also be (epoch, entry) or (epoch, entry, frame);
        a list, a list.
        """
        if isinstance(key, list):
            return [self[one] for one in key]
        epoch, index, turn = (*key, 0)[:3] if isinstance(key, tuple) else (0, key, 0)
        entry, source = self.entries[index], self._source_of[index]
        frame = self.frames[source.card.name][turn]
        generator = keyed_generator(self.seed, epoch, index, "targets")
        foreign = self._foreign[source.card.name]
        if foreign and generator.random() < self.foreign_probability:
            window, names = foreign[int(generator.integers(len(foreign)))]
            entry = SliceEntry(entry.case, entry.slice_index, window, {})
            order = generator.permutation(len(names))[: self.prompts_per_image]
            targets, phrasings = [names[k][0] for k in order], [names[k][1] for k in order]
            prompts = [texts[int(generator.integers(len(texts)))] for texts in phrasings]
        else:
            targets, prompts = self._draw_targets(entry, source, generator)
        indices = channel_indices(entry.slice_index, source.count(entry.case), self.channels)
        # Three equal channels are one until the end.
        slices, labels, window = source.read(entry, sorted(set(indices)))
        image = WindowIntensity(window, keep_zeros=entry.window is None)(
            np.ascontiguousarray(slices, np.float32)
        )

        grid = SquareGrid(labels.shape[0], labels.shape[1], frame.image_size, frame.min_side)
        image_t = grid.to_image(image[None])[0]
        labels_t = grid.to_target(torch.from_numpy(labels)[None, None])[0]
        generator = keyed_generator(self.seed, epoch, index, "augmentation")
        drawn = draw_augmentation(generator, probability=self.augment_probability)
        if drawn is not None and source.card.name not in self._turned:
            drawn = replace(drawn, quarter_turns=0)
        image_t, labels_t = apply_augmentation(image_t, labels_t, drawn)
        if len(image_t) == 1:
            image_t = image_t.expand(3, -1, -1)
        elif len(image_t) == 2:  # the outermost slice stands in for its missing neighbour
            image_t = image_t[
                torch.tensor([sorted(set(indices)).index(position) for position in indices])
            ]

        masks = np.zeros((self.prompts_per_image, frame.image_size, frame.image_size), np.float32)
        labels = labels_t[0].numpy()
        for mask, name in zip(masks, targets, strict=False):
            if entry.area_fractions.get(name):
                for value in source.label_values(entry.case, name):
                    mask += labels == value  # a pixel has one value
        missing = self.prompts_per_image - len(targets)
        draw_key = int(keyed_generator(self.seed, epoch, index, "draws").integers(2**62))
        return {
            "image": image_t,
            "label": torch.from_numpy(masks),
            "input_ids": torch.stack(
                [self._tokens[p] for p in prompts] + [self._tokens[prompts[0]]] * missing
            ),
            "prompt_valid": torch.arange(self.prompts_per_image) < len(targets),
            "draw_key": torch.tensor(draw_key),
            "case": entry.case,
            "slice_index": entry.slice_index,
            "target": [*targets, *[""] * missing],
        }

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
        phrasings = [source.card.targets[name].prompts for name in chosen]
        drawn = [
            0 if self.phrasings == "first" else int(generator.integers(len(p))) for p in phrasings
        ]
        return chosen, [p[i] for p, i in zip(phrasings, drawn, strict=True)]

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


def _foreign_prompts(
    card: DatasetCard, sources: Sequence[SliceSource]
) -> list[tuple[Window | None, list[tuple[str, tuple[str, ...]]]]]:
    """Windows, each with the (name, phrasings) of the `foreign_targets` that are asked under it."""
    found: dict[Window | None, dict[str, tuple[str, ...]]] = {}
    for target, window in foreign_targets(card, [source.card for source in sources]):
        found.setdefault(window, {})[target.name] = target.prompts
    return [(window, list(names.items())) for window, names in found.items()]
