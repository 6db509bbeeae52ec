"""The JSON files that list a data set; `dataset.json` above all, as the Decathlon began it and
nnU-Net goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from boltzmed.cards import DatasetCard
from boltzmed.data.layouts.label_maps import list_values

DATASET_JSON = "dataset.json"
_MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR"}
_LISTED = 5
"""So many folders are named when one has to be chosen."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a mapping; ValueError names the file and what is wrong."""
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
            f"{path.name}: expected a mapping at its top, received a {type(content).__name__}"
        )
    return content


def read_dataset_json(source: Path) -> dict[str, Any]:
    """Read `dataset.json` of a data set's folder; ValueError says which folder to pass where this
    one has none.
    """
    if (source / DATASET_JSON).is_file():
        return read_json(source / DATASET_JSON)
    found, advice = "none there", "check the path"
    if not source.exists():
        found = "no such folder"
    elif not source.is_dir():
        found, advice = "a file", "unpack it and pass the folder"
    elif inner := sorted(path.parent.name for path in source.glob(f"*/{DATASET_JSON}")):
        more = ", …" if len(inner) > _LISTED else ""
        advice = f"pass one of the folders in it: {', '.join(inner[:_LISTED])}{more}"
    elif (source.parent / DATASET_JSON).is_file():
        advice = "pass the folder above it"
    raise ValueError(f"{source}: expected a folder with {DATASET_JSON}, found {found}; {advice}")


def get_field(content: Mapping[str, Any], field: str, kind: type) -> Any:
    """A field of `dataset.json`; ValueError unless it is there and of its kind."""
    value = content.get(field)
    if not isinstance(value, kind):
        raise ValueError(
            f"{DATASET_JSON}: expected {field}, a {kind.__name__}, received {type(value).__name__};"
            " is it the dataset.json of the layout that the card names?"
        )
    return value


def check_labels(values: Iterable[Any], card: DatasetCard, *, ignored: Iterable[Any] = ()) -> None:
    """Raise ValueError unless a data set's label values are the card's; the ignored ones may be in
    either or not.
    """
    try:
        received = {int(value) for value in values}
        expected = set(card.labels)
        optional = {int(value) for value in ignored}
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{DATASET_JSON}: expected label values that are whole numbers ({error})"
        ) from error
    if received - optional != expected - optional:
        raise ValueError(
            f"{DATASET_JSON}: expected labels {list_values(expected)} as on card {card.name},"
            f" received {list_values(received)}; pass the card of this data set"
        )


def choose_channel(names: Mapping[str, Any], card: DatasetCard) -> int:
    """Which channel is read: the only one, or the `channel` of the card's layout; ValueError where
    that is unclear.

    Args:
        names: a data set's channels, "0" -> "CT".
        card: its layout may choose one, and its modality has to be the channel's.
    """
    listing = ", ".join(f"{number} {name}" for number, name in names.items())
    chosen = card.layout.get("channel")
    if chosen is None and len(names) > 1:
        raise ValueError(
            f"{DATASET_JSON}: expected one channel, received {listing}; choose one by `channel: 0`"
            f" in the layout of card {card.name}"
        )
    channel = 0 if chosen is None else chosen
    if str(channel) not in names:
        raise ValueError(
            f"{DATASET_JSON}: expected channel {channel} that card {card.name} chooses, received"
            f" {listing or 'none'}"
        )
    modality = _MODALITIES.get(str(names[str(channel)]).strip().upper())
    if modality not in (None, card.modality):
        raise ValueError(
            f"{DATASET_JSON}: expected {card.modality} as on card {card.name}, received {modality};"
            " pass the card of this data set"
        )
    return channel
