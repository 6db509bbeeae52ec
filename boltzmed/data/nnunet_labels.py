"""Which label values of a folder's masks a target is, where nnU-Net's `dataset.json` numbers the
classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import index
from pathlib import Path

from boltzmed.cards import DatasetCard
from boltzmed.data.labels import labelled_targets
from boltzmed.data.layouts.dataset_json import DATASET_JSON, read_json

PLANS_JSON = "plans.json"


@dataclass(frozen=True)
class PredictedDataset:
    """The data set that a folder of nnU-Net's masks belongs to: predictions, or label maps of the
    raw data set.

    Attributes:
        name: as `dataset.json` has it, else the folder's.
        targets: target -> the values that are it.
        values: all values that a mask may hold.
    """

    name: str
    targets: Mapping[str, frozenset[int]]
    values: frozenset[int]


def read_predicted_dataset(folder: Path, card: DatasetCard) -> PredictedDataset:
    """Reads `dataset.json` beside predictions or up to two folders above, where nnU-Net leaves it.

    One that `export_dataset` wrote says itself what its targets are. In any other, a target is the
    label of its name, or the labels named as all of the card's that make it up; upper and lower
    case don't matter.

    Raises:
        ValueError: There is none, it is damaged, of another card, without any of its targets, or
            `plans.json` beside it is of another data set.
    """
    places = _list_places(folder)
    if not places:
        raise ValueError(
            f"{folder}: expected {DATASET_JSON} in it or in the two folders above, found none; copy"
            " nnU-Net's there"
        )
    content = read_json(places[0] / DATASET_JSON)
    name = content["name"] if isinstance(content.get("name"), str) else folder.name
    planned = (
        read_json(places[0] / PLANS_JSON).get("dataset_name")
        if (places[0] / PLANS_JSON).is_file()
        else name
    )
    try:
        # A region of several values is a list.
        values = {
            n: frozenset(map(index, v if isinstance(v, list) else [v]))
            for n, v in content["labels"].items()
        }
        ours = content.get("boltzmed")
        of_card, numbers = (ours["card"], ours["targets"]) if ours else (card.name, {})
        if of_card == card.name:
            targets = {
                card.target(target).name: frozenset(map(index, numbers[target]))
                for target in numbers
            }
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{places[0]}: expected {DATASET_JSON} with labels and their values, found none; copy"
            " it again"
        ) from None
    if of_card != card.name:
        raise ValueError(
            f"{folder}: expected masks of card {card.name}, found those of {of_card}; pass that"
            " card"
        )
    if ours and planned != name:
        raise ValueError(
            f"{places[0]}: expected {DATASET_JSON} and {PLANS_JSON} of one data set, found {name}"
            f" and {planned}"
        )
    targets = targets or _find_by_name(values, card)
    if not targets:
        raise ValueError(
            f"{places[0]}: expected {DATASET_JSON} with labels called as those of card {card.name}"
            f" ({', '.join(card.labels.values())}) or as its targets, found {', '.join(values)};"
            " pass its own card"
        )
    return PredictedDataset(name, targets, frozenset().union(*values.values()))


def find_predicted_dataset(folder: Path, card: DatasetCard) -> PredictedDataset:
    """As `read_predicted_dataset`; where nnU-Net left no `dataset.json`, masks have the card's own
    values.

    The Decathlon's own, which nnU-Net's is made after, leads from values to names.

    Raises:
        ValueError: See `read_predicted_dataset`.
    """
    places = _list_places(folder)
    labels = read_json(places[0] / DATASET_JSON).get("labels") if places else {}
    if isinstance(labels, dict) and all(str(name).isdecimal() for name in labels):
        own = {
            target.name: frozenset(target.labels)
            for target in card.targets.values()
            if target.labels
        }
        return PredictedDataset(card.name, own, frozenset(card.labels))
    return read_predicted_dataset(folder, card)


def _list_places(folder: Path) -> list[Path]:
    return [
        place
        for place in (folder, *folder.resolve().parents[:2])
        if (place / DATASET_JSON).is_file()
    ]


def _find_by_name(
    values: Mapping[str, frozenset[int]], card: DatasetCard
) -> dict[str, frozenset[int]]:
    folded = {name.casefold(): numbers for name, numbers in values.items()}
    found = {}
    for target in labelled_targets(card):
        parts = [card.labels[value].casefold() for value in target.labels]
        for names in ([target.name.casefold()], parts):
            if target.name not in found and set(names) <= set(folded):
                found[target.name] = frozenset().union(*(folded[name] for name in names))
    return found
