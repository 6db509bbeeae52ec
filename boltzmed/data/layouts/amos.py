"""AMOS22: ``{imagesTr, labelsTr, imagesVa, labelsVa}/amos_0001.nii.gz``.

Numbers up to 500 are CT, those above MRI. Layout option of a card: ``numbers: [first, last]``, both
included, which cases are the card's. ``imagesTs`` has no labels and is not listed.
"""

from __future__ import annotations

import re
from pathlib import Path

from boltzmed.cards import DatasetCard
from boltzmed.data.layouts.case import LabelledVolume, SourceCase
from boltzmed.data.layouts.label_maps import pair_files, read_label_map
from boltzmed.masks.label_names import labelled_targets

_SUBSETS = {"Tr": "training", "Va": "validation"}
_NAME = re.compile(r"(amos_(\d+))\.nii\.gz")


def list_cases(source: Path, card: DatasetCard) -> list[SourceCase]:
    """List the cases whose numbers are the card's, by name.

    Raises:
        ValueError: no such folder, a file of another name in it, or a card that does not say which
            numbers it means.
    """
    labelled_targets(card)
    if "numbers" not in card.layout:
        raise ValueError(
            f"card {card.name}: expected `numbers: [first, last]` in its layout, found none; CT is"
            " [1, 500]"
        )
    first, last = card.layout["numbers"]
    if not (source / "imagesTr").is_dir() and not (source / "imagesVa").is_dir():
        raise ValueError(
            f"{source}: expected a folder with imagesTr, labelsTr, imagesVa and labelsVa, found no"
            " images; pass the folder amos22 of the unpacked archive"
        )
    cases = []
    for ending, subset in _SUBSETS.items():
        images = source / f"images{ending}"
        labels = source / f"labels{ending}"
        for case, number in sorted(_list_numbers(images) | _list_numbers(labels)):
            if first <= number <= last:
                file = f"{case}.nii.gz"
                cases.append(pair_files(case, images / file, labels / file, subset=subset))
    return sorted(cases, key=lambda case: case.case)


def read_case(case: SourceCase, card: DatasetCard) -> LabelledVolume:
    """Read one case; InputError in one line that names it."""
    return read_label_map(case, card)


def _list_numbers(folder: Path) -> set[tuple[str, int]]:
    """Return (case, number) of every file; a folder that is not there has none."""
    numbers: set[tuple[str, int]] = set()
    if not folder.is_dir():
        return numbers
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise ValueError(
                f"{folder.name}: expected files such as amos_0001.nii.gz, received {path.name};"
                " move it out or pass the folder as it was published"
            )
        numbers.add((match[1], int(match[2])))
    return numbers
