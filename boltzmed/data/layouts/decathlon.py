"""The Medical Segmentation Decathlon: ``TaskNN_Name/{dataset.json, imagesTr, labelsTr, imagesTs}``.

Layout options of a card: ``channel``, which one of a task with several (Prostate, BrainTumour), and
``task``, the name in ``dataset.json`` ("Hippocampus"), since many tasks have the same label values.
The task's own test images have no labels and are not listed.
"""

from __future__ import annotations

from pathlib import Path

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
from boltzmed.volumes.nifti import case_name


def list_cases(source: Path, card: DatasetCard) -> list[SourceCase]:
    """List the labelled cases of a task's folder, by name.

    Raises:
        ValueError: no such folder, a ``dataset.json`` of another form, or one that is not the
            card's: other label values, another task or modality, several channels of which the card
            chooses none.
    """
    labelled_targets(card)
    content = read_dataset_json(source)
    task = card.layout.get("task")
    if task is not None and str(content.get("name")).casefold() != task.casefold():
        raise ValueError(
            f"dataset.json: expected task {task} as on card {card.name}, received"
            f" {content.get('name')}; pass the card of this task"
        )
    check_labels(get_field(content, "labels", dict), card)
    choose_channel(get_field(content, "modality", dict), card)
    cases = []
    for index, record in enumerate(get_field(content, "training", list)):
        match record:
            case {"image": str(image_name), "label": str(label_name)}:
                image = source / image_name
                label = source / label_name
            case _:
                raise ValueError(
                    f"dataset.json: training[{index}]: expected image and label, received"
                    f" {record!r}"
                )
        if not image.name.startswith("._"):  # what macOS puts beside each file of an archive
            cases.append(pair_files(case_name(image), image, label, subset="training"))
    return sorted(cases, key=lambda case: case.case)


def read_case(case: SourceCase, card: DatasetCard) -> LabelledVolume:
    """Read one case; InputError in one line that names it."""
    return read_label_map(case, card, channel=card.layout.get("channel"))
