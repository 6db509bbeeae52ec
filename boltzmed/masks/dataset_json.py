"""``dataset.json``, by which nnU-Net numbers the classes of a folder's masks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from operator import index
from pathlib import Path
from typing import Any

from boltzmed.cards import DatasetCard
from boltzmed.masks.label_names import LabelNames, labelled_targets, name_by_card

DATASET_JSON = "dataset.json"
PLANS_JSON = "plans.json"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a mapping.

    Raises:
        ValueError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(
            f"{path.name}: expected a file to read, received {error.strerror}; check it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path.name}: expected JSON, received something else ({error}); copy it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path.name}: expected a mapping at its top, received a {type(content).__name__};"
            " copy it again"
        )
    return content


def find_label_names(folder: Path, card: DatasetCard) -> LabelNames:
    """Return what the label maps of a folder hold: by ``dataset.json``, else by the card.

    The Decathlon's own ``dataset.json`` leads from values to names, nnU-Net's from names to values.
    By the former, values are the card's.

    Args:
        folder: of the masks.
        card: of the data set.

    Raises:
        ValueError: see `read_label_names`.
    """
    place = _find_place(folder)
    if place is None:
        return name_by_card(card)
    labels = read_json(place / DATASET_JSON).get("labels")
    if isinstance(labels, dict) and all(str(name).isdecimal() for name in labels):
        return name_by_card(card)
    return read_label_names(folder, card)


def read_label_names(folder: Path, card: DatasetCard) -> LabelNames:
    """Read ``dataset.json`` beside masks or up to two folders above, where nnU-Net leaves it.

    One that `boltzmed nnunet export` wrote says itself what its targets are. In any other, a target
    is the label of its name, or the labels named as all of the card's that make it up; upper and
    lower case don't matter.

    Args:
        folder: of predictions, or of a raw data set's label maps.
        card: whose targets are looked for.

    Returns:
        The names; ``dataset`` as the file has it, else the folder's name.

    Raises:
        ValueError: there is none, it is damaged, of another card, without any of its targets, or
            ``plans.json`` beside it is of another data set.
    """
    place = _find_place(folder)
    if place is None:
        raise ValueError(
            f"{folder}: expected {DATASET_JSON} in it or in the two folders above, found none; copy"
            " nnU-Net's there"
        )
    content = read_json(place / DATASET_JSON)
    name = content["name"] if isinstance(content.get("name"), str) else folder.name
    try:
        values = {label: _read_values(value) for label, value in content["labels"].items()}
        exported = content.get("boltzmed")
        exported_card = exported["card"] if exported else card.name
        targets = _read_exported(exported, card) if exported and exported_card == card.name else {}
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{place}: expected {DATASET_JSON} with labels and their values, found none; copy it"
            " again"
        ) from None
    if exported_card != card.name:
        raise ValueError(
            f"{folder}: expected masks of card {card.name}, received those of {exported_card}; pass"
            " that card"
        )
    if exported:
        _check_plans(place, name)
    targets = targets or _match_names(values, card)
    if not targets:
        raise ValueError(
            f"{place}: expected {DATASET_JSON} with labels called as those of card {card.name}"
            f" ({', '.join(card.labels.values())}) or as its targets, received"
            f" {', '.join(values)}; pass its own card"
        )
    return LabelNames(targets, frozenset().union(*values.values()), DATASET_JSON, name)


def _find_place(folder: Path) -> Path | None:
    for place in (folder, *folder.resolve().parents[:2]):
        if (place / DATASET_JSON).is_file():
            return place
    return None


def _read_values(value: Any) -> frozenset[int]:
    # A region of several values is a list.
    return frozenset(map(index, value if isinstance(value, list) else [value]))


def _read_exported(exported: Mapping[str, Any], card: DatasetCard) -> dict[str, frozenset[int]]:
    """Target → values, as `boltzmed nnunet export` wrote them."""
    targets = {}
    for name, values in exported["targets"].items():
        targets[card.target(name).name] = frozenset(map(index, values))
    return targets


def _check_plans(place: Path, name: str) -> None:
    """Raise ValueError for ``plans.json`` of another data set."""
    if not (place / PLANS_JSON).is_file():
        return
    planned = read_json(place / PLANS_JSON).get("dataset_name")
    if planned != name:
        raise ValueError(
            f"{place}: expected {DATASET_JSON} and {PLANS_JSON} of one data set, received {name}"
            f" and {planned}; copy both from one folder"
        )


def _match_names(
    values: Mapping[str, frozenset[int]], card: DatasetCard
) -> dict[str, frozenset[int]]:
    """Target → values, by the names of a data set's labels."""
    by_name = {label.casefold(): numbers for label, numbers in values.items()}
    targets = {}
    for target in labelled_targets(card):
        parts = [card.labels[value].casefold() for value in target.labels]
        for labels in ([target.name.casefold()], parts):
            if set(labels) <= set(by_name):
                targets[target.name] = frozenset().union(*(by_name[label] for label in labels))
                break
    return targets
