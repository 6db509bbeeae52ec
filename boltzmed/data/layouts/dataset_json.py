"""``dataset.json``, which lists a data set, as the Decathlon began it and nnU-Net goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from boltzmed.cards import DatasetCard
from boltzmed.masks.dataset_json import DATASET_JSON, read_json
from boltzmed.masks.label_values import list_values

_MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR"}
_LISTED = 5
"""So many folders are named when one has to be chosen."""


def read_dataset_json(source: Path) -> dict[str, Any]:
    """Read ``dataset.json`` of a data set's folder.

    Raises:
        ValueError: there is none, with the folder to pass where one is near; or it is damaged.
    """
    if (source / DATASET_JSON).is_file():
        return read_json(source / DATASET_JSON)
    expected = f"{source}: expected a folder with {DATASET_JSON}"
    if not source.exists():
        raise ValueError(f"{expected}, found no such folder; check the path")
    if not source.is_dir():
        raise ValueError(f"{expected}, received a file; unpack it and pass the folder")
    inner = sorted(path.parent.name for path in source.glob(f"*/{DATASET_JSON}"))
    advice = "check the path"
    if inner:
        more = ", …" if len(inner) > _LISTED else ""
        advice = f"pass one of the folders in it: {', '.join(inner[:_LISTED])}{more}"
    elif (source.parent / DATASET_JSON).is_file():
        advice = "pass the folder above it"
    raise ValueError(f"{expected}, found none there; {advice}")


def get_field(content: Mapping[str, Any], field: str, kind: type) -> Any:
    """Return a field of ``dataset.json``; ValueError unless it is there and of its kind."""
    value = content.get(field)
    if not isinstance(value, kind):
        raise ValueError(
            f"{DATASET_JSON}: expected {field}, a {kind.__name__}, received {type(value).__name__};"
            " is it the dataset.json of the layout that the card names?"
        )
    return value


def check_labels(values: Iterable[Any], card: DatasetCard, *, ignored: Iterable[Any] = ()) -> None:
    """Raise ValueError unless a data set's label values are the card's.

    Args:
        values: of the data set.
        card: whose they should be.
        ignored: may be in either or not.
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
    """Return which channel is read: the only one, or the ``channel`` of the card's layout.

    Args:
        names: a data set's channels, "0" → "CT".
        card: its layout may choose one, and its modality has to be the channel's.

    Raises:
        ValueError: there are several channels and none is chosen, or the one that is chosen is not
            there or of another modality.
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
