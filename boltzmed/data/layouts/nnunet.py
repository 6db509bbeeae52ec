"""nnU-Net v2's raw data sets: `DatasetNNN_Name/{dataset.json, imagesTr/CASE_0000.nii.gz,
labelsTr/CASE.nii.gz}`.

Layout option of a card: `channel`, which one where `dataset.json` has several. `imagesTs` has no
labels and is not listed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from boltzmed.cards import DatasetCard
from boltzmed.masks.label_names import labelled_targets
from boltzmed.data.layouts.case import LabelledVolume, SourceCase
from boltzmed.data.layouts.dataset_json import (
    check_labels,
    choose_channel,
    get_field,
    read_dataset_json,
)
from boltzmed.data.layouts.label_maps import pair_files, read_label_map

_ENDINGS = (".nii.gz", ".nii")


def list_cases(source: Path, card: DatasetCard) -> list[SourceCase]:
    """The training cases of a raw data set, by name.

    Raises:
        ValueError: no such folder, a `dataset.json` of another form or of another data set than the
            card's, several channels of which the card chooses none, files that are no NIfTI, or not
            as many cases as it says.
    """
    labelled_targets(card)
    content = read_dataset_json(source)
    if "channel_names" not in content and "modality" in content:
        raise ValueError(
            "dataset.json: expected channel_names as nnU-Net v2 has them, received modality; a"
            " Decathlon task or nnU-Net v1 needs a card with `reader: decathlon`"
        )
    channel = choose_channel(get_field(content, "channel_names", dict), card)
    ending = content.get("file_ending")
    if ending not in _ENDINGS:
        raise ValueError(
            f"dataset.json: expected file_ending .nii.gz or .nii, received {ending!r}; convert the"
            " images"
        )
    _check_labels(get_field(content, "labels", dict), card)
    if "dataset" in content:
        named = get_field(content, "dataset", dict)
        cases = [_named_case(source, case, record, channel) for case, record in named.items()]
    else:
        cases = _listed_cases(source, ending, channel)
    # A label may be missing from a copy just as an image may: nnU-Net says how many there were.
    if len(cases) != (count := get_field(content, "numTraining", int)):
        raise ValueError(
            f"dataset.json: expected {count} training cases as numTraining says, found"
            f" {len(cases)}; copy the folder again or correct it"
        )
    return sorted(cases, key=lambda found: found.case)


def read_case(found: SourceCase, card: DatasetCard) -> LabelledVolume:
    """Reads one case; InputError in one line that names it."""
    return read_label_map(found, card)


def _check_labels(labels: dict[str, Any], card: DatasetCard) -> None:
    """Compare label values; a region is the list of those it is made of, and "ignore" marks voxels
    without an answer.

    A card may name that value as one of its labels. If it doesn't, a label map that uses it is
    refused.
    """
    regions = {
        name: value if isinstance(value, list) else [value] for name, value in labels.items()
    }
    values = [value for region in regions.values() for value in region]
    check_labels(values, card, ignored=regions.get("ignore", ()))


def _listed_cases(source: Path, ending: str, channel: int) -> list[SourceCase]:
    images, labels = source / "imagesTr", source / "labelsTr"
    for folder in (images, labels):
        if not folder.is_dir():
            raise ValueError(
                f"{source}: expected {folder.name} beside dataset.json, found no such folder;"
                " copy it"
            )
    image_name = re.compile(rf"(.+)_\d{{4}}{re.escape(ending)}")
    label_name = re.compile(rf"(.+){re.escape(ending)}")
    names = set()
    for folder, pattern in ((images, image_name), (labels, label_name)):
        for path in folder.iterdir():
            if not path.name.startswith(".") and (match := pattern.fullmatch(path.name)):
                names.add(match[1])
    return [
        pair_files(
            case,
            images / f"{case}_{channel:04d}{ending}",
            labels / f"{case}{ending}",
            subset="training",
        )
        for case in names
    ]


def _named_case(source: Path, case: str, record: Any, channel: int) -> SourceCase:
    images = record.get("images") if isinstance(record, dict) else None
    label = record.get("label") if isinstance(record, dict) else None
    if (
        not isinstance(images, list)
        or not isinstance(label, str)
        or not all(isinstance(i, str) for i in images)
    ):
        raise ValueError(
            f"dataset.json: dataset: {case}: expected images and label, received {record!r}"
        )
    if channel >= len(images):
        raise ValueError(
            f"dataset.json: dataset: {case}: expected channel {channel}, received {len(images)}"
            " images"
        )
    return pair_files(case, source / images[channel], source / label, subset="training")
