"""Which values of nnU-Net's masks a target is: chosen for the way out, read from `dataset.json` on the way back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path

from boltzmed.cards import DatasetCard
from boltzmed.data.labels import labelled_targets
from boltzmed.data.layouts.dataset_json import DATASET_JSON, read_json

MODES = ("multiclass", "experts")
PLANS_JSON = "plans.json"


@dataclass(frozen=True)
class RawPlan:
    """A raw data set to be written.

    Attributes:
        number, name: of `DatasetNNN_NAME`.
        classes: name -> the card's label values that become this class; numbered from 1 in this order.
        targets: target -> the numbers of the classes that make it up.
    """

    number: int
    name: str
    classes: Mapping[str, tuple[int, ...]]
    targets: Mapping[str, list[int]]

    @property
    def folder(self) -> str:
        """`DatasetNNN_NAME`."""
        return f"Dataset{self.number:03d}_{self.name}"


@dataclass(frozen=True)
class PredictedDataset:
    """The data set that a folder of predictions belongs to.

    Attributes:
        name: as `dataset.json` has it, else the folder's.
        targets: target -> the values that are it.
        values: all values that a mask may hold.
    """

    name: str
    targets: Mapping[str, frozenset[int]]
    values: frozenset[int]


def plan_datasets(card: DatasetCard, first: int, name: str, targets: Sequence[str] | None, mode: str) -> list[RawPlan]:
    """One raw data set ("multiclass"), or one for each target ("experts") with consecutive numbers.

    Raises:
        ValueError: An unknown mode or target, a name that is no plain file name, or a number outside 1 to 999.
    """
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(MODES)}, received {mode!r}")
    if not re.fullmatch("[A-Za-z0-9_-]+", name):
        raise ValueError(f"name: expected ASCII letters, digits, - and _, received {name!r}; pass another --name")
    chosen = labelled_targets(card, targets)
    last = first + (len(chosen) if mode == "experts" else 1) - 1
    if not 1 <= first <= last <= 999:
        raise ValueError(f"id: expected numbers from 1 to 999, received {first} to {last}")
    if mode == "multiclass":
        values = sorted({value for target in chosen for value in target.labels})
        makes_up = {t.name: [n for n, value in enumerate(values, start=1) if value in t.labels] for t in chosen}
        return [RawPlan(first, name, {card.labels[value]: (value,) for value in values}, makes_up)]
    return [
        RawPlan(number, f"{name}_{re.sub('[^A-Za-z0-9]+', '-', t.name)}", {t.name: t.labels}, {t.name: [1]})
        for number, t in enumerate(chosen, start=first)
    ]


def read_predicted_dataset(folder: Path, card: DatasetCard) -> PredictedDataset:
    """Reads `dataset.json` beside predictions or up to two folders above, where nnU-Net leaves it.

    One that `export_dataset` wrote says itself what its targets are. In any other, a target is the label of its name,
    or the labels named as all of the card's that make it up; upper and lower case don't matter.

    Raises:
        ValueError: There is none, it is damaged, of another card, without any of its targets, or `plans.json` beside
            it is of another data set.
    """
    places = _list_places(folder)
    if not places:
        raise ValueError(
            f"{folder}: expected {DATASET_JSON} in it or in the two folders above, found none; copy nnU-Net's there"
        )
    content = read_json(places[0] / DATASET_JSON)
    name = content["name"] if isinstance(content.get("name"), str) else folder.name
    planned = read_json(places[0] / PLANS_JSON).get("dataset_name") if (places[0] / PLANS_JSON).is_file() else name
    try:
        # A region of several values is a list.
        values = {n: frozenset(map(index, v if isinstance(v, list) else [v])) for n, v in content["labels"].items()}
        ours = content.get("boltzmed")
        of_card, numbers = (ours["card"], ours["targets"]) if ours else (card.name, {})
        if of_card == card.name:
            targets = {card.target(target).name: frozenset(map(index, numbers[target])) for target in numbers}
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{places[0]}: expected {DATASET_JSON} with labels and their values, found none; copy it again"
        ) from None
    if of_card != card.name:
        raise ValueError(f"{folder}: expected masks of card {card.name}, found those of {of_card}")
    if ours and planned != name:
        raise ValueError(
            f"{places[0]}: expected {DATASET_JSON} and {PLANS_JSON} of one data set, found {name} and {planned}"
        )
    targets = targets or _find_by_name(values, card)
    if not targets:
        raise ValueError(
            f"{places[0]}: expected {DATASET_JSON} with labels called as those of card {card.name} "
            f"({', '.join(card.labels.values())}) or as its targets, found {', '.join(values)}; pass another cache"
        )
    return PredictedDataset(name, targets, frozenset().union(*values.values()))


def find_predicted_dataset(folder: Path, card: DatasetCard) -> PredictedDataset | None:
    """As `read_predicted_dataset`; None where nnU-Net left no `dataset.json`, so that masks have the card's values.

    The Decathlon's own, which nnU-Net's is made after, leads from values to names.

    Raises:
        ValueError: See `read_predicted_dataset`.
    """
    places = _list_places(folder)
    labels = read_json(places[0] / DATASET_JSON).get("labels") if places else {}
    if isinstance(labels, dict) and all(str(name).isdecimal() for name in labels):
        return None
    return read_predicted_dataset(folder, card)


def _list_places(folder: Path) -> list[Path]:
    return [place for place in (folder, *folder.resolve().parents[:2]) if (place / DATASET_JSON).is_file()]


def _find_by_name(values: Mapping[str, frozenset[int]], card: DatasetCard) -> dict[str, frozenset[int]]:
    folded = {name.casefold(): numbers for name, numbers in values.items()}
    found = {}
    for target in labelled_targets(card):
        parts = [card.labels[value].casefold() for value in target.labels]
        for names in ([target.name.casefold()], parts):
            if target.name not in found and set(names) <= set(folded):
                found[target.name] = frozenset().union(*(folded[name] for name in names))
    return found
