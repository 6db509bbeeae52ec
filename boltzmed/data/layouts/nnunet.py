"""nnU-Net v2's raw data sets: ``DatasetNNN_Name/{dataset.json, imagesTr, labelsTr}``.

Images are ``imagesTr/CASE_0000.nii.gz``, their labels ``labelsTr/CASE.nii.gz``. Layout option of a
card: ``channel``, which one where ``dataset.json`` has several. ``imagesTs`` has no labels and is
not listed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from boltzmed.cards import DatasetCard
from boltzmed.data.layouts.case import LabelledVolume, SourceCase
from boltzmed.data.layouts.dataset_json import (
    check_labels,
    choose_channel,
    get_field,
    read_dataset_json,
)
from boltzmed.data.layouts.label_maps import pair_files, read_label_map
from boltzmed.masks.label_names import labelled_targets

_ENDINGS = (".nii.gz", ".nii")


def list_cases(source: Path, card: DatasetCard) -> list[SourceCase]:
    """List the training cases of a raw data set, by name.

    Raises:
        ValueError: no such folder, a ``dataset.json`` of another form or of another data set than
            the card's, several channels of which the card chooses none, files that are no NIfTI, or
            not as many cases as it says.
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
        cases = []
        for case, record in get_field(content, "dataset", dict).items():
            cases.append(_named_case(source, case, record, channel))
    else:
        cases = _listed_cases(source, ending, channel)
    # A label may be missing from a copy just as an image may: nnU-Net says how many there were.
    count = get_field(content, "numTraining", int)
    if len(cases) != count:
        raise ValueError(
            f"dataset.json: expected {count} training cases as numTraining says, found"
            f" {len(cases)}; copy the folder again or correct it"
        )
    return sorted(cases, key=lambda case: case.case)


def read_case(case: SourceCase, card: DatasetCard) -> LabelledVolume:
    """Read one case; InputError in one line that names it."""
    return read_label_map(case, card)


def _check_labels(labels: dict[str, Any], card: DatasetCard) -> None:
    """Compare label values with the card's.

    A region is the list of those it is made of. "ignore" marks voxels without an answer: a card may
    name that value as one of its labels, and if it doesn't, a label map that uses it is refused.
    """
    values = []
    ignored = []
    for name, value in labels.items():
        region = value if isinstance(value, list) else [value]
        values += region
        if name == "ignore":
            ignored = region
    check_labels(values, card, ignored=ignored)


def _listed_cases(source: Path, ending: str, channel: int) -> list[SourceCase]:
    images = source / "imagesTr"
    labels = source / "labelsTr"
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
            match = pattern.fullmatch(path.name)
            if match and not path.name.startswith("."):
                names.add(match[1])
    cases = []
    for case in names:
        image = images / f"{case}_{channel:04d}{ending}"
        label = labels / f"{case}{ending}"
        cases.append(pair_files(case, image, label, subset="training"))
    return cases


def _named_case(source: Path, name: str, record: Any, channel: int) -> SourceCase:
    match record:
        case {"images": [*images], "label": str(label)} if all(isinstance(i, str) for i in images):
            if channel >= len(images):
                raise ValueError(
                    f"dataset.json: dataset: {name}: expected channel {channel}, received"
                    f" {len(images)} images"
                )
            return pair_files(name, source / images[channel], source / label, subset="training")
        case _:
            raise ValueError(
                f"dataset.json: dataset: {name}: expected images and label, received {record!r}"
            )
