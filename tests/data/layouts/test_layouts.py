"""Which reader a source goes to, and names that cannot stand for one case."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from boltzmed.data.layouts import READERS, list_source_cases, read_source_case
from boltzmed.errors import InputError


@pytest.fixture
def task(tmp_path: Path, write_pair) -> Path:
    """A Decathlon task that is a MONAI datalist, too."""
    folder = tmp_path / "Task99_Toy"
    write_pair(folder / "imagesTr" / "a.nii.gz", folder / "labelsTr" / "a.nii.gz")
    record = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    content = {
        "modality": {"0": "CT"},
        "labels": {"0": "none", "1": "organ", "2": "lesion"},
        "training": [record],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("module", READERS.values())
def test_every_reader_lists_and_reads(module: str):
    reader = import_module(f"boltzmed.data.layouts.{module}")
    assert callable(reader.list_cases) and callable(reader.read_case)


def test_a_folder_goes_to_the_cards_reader_and_a_table_to_pairs(task: Path, make_card, write_pair):
    _, labels = write_pair(None, None)
    decathlon, amos = (
        make_card({"reader": "decathlon"}),
        make_card({"reader": "amos22", "numbers": (1, 500)}),
    )
    (task.parent / "pairs.csv").write_text(
        "image,label,case\nTask99_Toy/imagesTr/a.nii.gz,Task99_Toy/labelsTr/a.nii.gz,b\n"
    )
    for source, card, name in (
        (task, decathlon, "a"),
        (str(task), decathlon, "a"),
        (task / "dataset.json", make_card({}), "a"),
        (task.parent / "pairs.csv", amos, "b"),
    ):
        (found,) = list_source_cases(source, card)
        assert (found.case, found.problem) == (name, None)
        assert np.array_equal(read_source_case(found, card, source).labels, labels)
    with pytest.raises(ValueError, match=r"expected a folder with imagesTr, labelsTr"):
        list_source_cases(task.parent, amos)


@pytest.mark.parametrize("layout", [{}, {"reader": "brats"}])
def test_a_folder_needs_a_card_with_a_layout(task: Path, make_card, layout):
    with pytest.raises(
        ValueError,
        match=r"^card toy: expected a layout .*; pass a .csv or .json that names its images",
    ):
        list_source_cases(task, make_card(layout))


def test_no_case_is_told(task: Path, make_card, tmp_path: Path):
    (tmp_path / "imagesTr").mkdir()
    with pytest.raises(
        ValueError, match=r"expected cases of card toy \(CT\), found none; check the path"
    ):
        list_source_cases(tmp_path, make_card({"reader": "amos22", "numbers": (1, 500)}))


def test_names_that_occur_twice_are_problems(tmp_path: Path, make_card, write_pair):
    card = make_card({"reader": "pairs"})
    for folder in "ab":
        write_pair(tmp_path / folder / "image.nii", tmp_path / folder / "label.nii")
    rows = [
        "image,label,case",
        "a/image.nii,a/label.nii,",
        "b/image.nii,b/label.nii,",
        "b/image.nii,b/label.nii,c",
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    cases = list_source_cases(tmp_path / "pairs.csv", card)
    problem = (
        "case image: expected one case of that name, received 2, of a/image.nii and b/image.nii;"
        " give each its"
    )
    assert [(found.case, (found.problem or "")[: len(problem)]) for found in cases] == [
        ("c", ""),
        ("image", problem),
        ("image", problem),
    ]
    with pytest.raises(InputError, match=r"^case image: expected one case of that name"):
        read_source_case(cases[1], card, tmp_path / "pairs.csv")


@pytest.mark.parametrize("name", ["a/b", "..", ".a", "a\\b", "a\nb", "é" * 101])
def test_names_that_no_file_can_have_are_problems(tmp_path: Path, make_card, write_pair, name: str):
    write_pair(tmp_path / "image.nii", tmp_path / "label.nii")
    content = {"training": [{"image": "image.nii", "label": "label.nii", "case": name}]}
    (tmp_path / "list.json").write_text(json.dumps(content))
    (found,) = list_source_cases(tmp_path / "list.json", make_card({}))
    assert (
        found.problem.startswith("case ")
        and "expected a name" in found.problem
        and "\n" not in found.problem
    )


@pytest.mark.parametrize("name", ["é" * 100, "a b", "LIDC-IDRI-0001_R_1", "症例"])
def test_other_names_are_none(tmp_path: Path, make_card, write_pair, name: str):
    write_pair(tmp_path / "image.nii", tmp_path / "label.nii")
    content = {"training": [{"image": "image.nii", "label": "label.nii", "case": name}]}
    (tmp_path / "list.json").write_text(json.dumps(content))
    (found,) = list_source_cases(tmp_path / "list.json", make_card({}))
    assert found.problem is None
