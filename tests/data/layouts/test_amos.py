"""AMOS22 gives a card the numbers it asks for, from both folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boltzmed.data.layouts.amos import list_cases, read_case


@pytest.fixture
def ct(make_card):
    return make_card({"reader": "amos22", "numbers": (1, 500)})


@pytest.fixture
def amos(tmp_path: Path, write_pair) -> Path:
    for ending, number in (("Tr", 1), ("Tr", 500), ("Tr", 501), ("Va", 8), ("Va", 600)):
        name = f"amos_{number:04d}.nii.gz"
        write_pair(
            tmp_path / f"images{ending}" / name, tmp_path / f"labels{ending}" / name, start=-number
        )
    write_pair(tmp_path / "imagesTs" / "amos_0009.nii.gz", None)
    (tmp_path / "imagesTr" / "._amos_0002.nii.gz").touch()
    return tmp_path


def test_numbers_choose_cases(amos: Path, ct, make_card, write_pair):
    cases = list_cases(amos, ct)
    assert [(found.case, found.subset, found.problem) for found in cases] == [
        ("amos_0001", "training", None),
        ("amos_0008", "validation", None),
        ("amos_0500", "training", None),
    ]
    hu, labels = write_pair(None, None, start=-8)
    volume = read_case(cases[1], ct)
    assert np.array_equal(volume.image[0], hu) and np.array_equal(volume.labels, labels)
    mr = make_card({"reader": "amos22", "numbers": (501, 9999)}, modality="MR")
    assert [found.case for found in list_cases(amos, mr)] == ["amos_0501", "amos_0600"]
    assert read_case(list_cases(amos, mr)[0], mr).image.meta["modality"] == "MR"


def test_half_a_pair_is_a_problem(amos: Path, ct):
    (amos / "labelsTr" / "amos_0001.nii.gz").unlink()
    (amos / "imagesVa" / "amos_0008.nii.gz").unlink()
    problems = {found.case: found.problem for found in list_cases(amos, ct)}
    assert problems == {
        "amos_0001": (
            "case amos_0001: expected label amos_0001.nii.gz, found nothing there; copy it again"
        ),
        "amos_0008": (
            "case amos_0008: expected image amos_0008.nii.gz, found nothing there; copy it again"
        ),
        "amos_0500": None,
    }


def test_other_folders_and_files_are_refused(
    amos: Path, ct, make_card, tmp_path_factory: pytest.TempPathFactory
):
    with pytest.raises(
        ValueError,
        match=r"expected a folder with imagesTr, labelsTr, imagesVa and labelsVa, found no",
    ):
        list_cases(tmp_path_factory.mktemp("empty"), ct)
    with pytest.raises(
        ValueError, match=r"card toy: expected `numbers: \[first, last\]` in its layout"
    ):
        list_cases(amos, make_card({"reader": "amos22"}))
    (amos / "labelsVa" / "amos_0008.nii").touch()
    with pytest.raises(
        ValueError,
        match=r"labelsVa: expected files such as amos_0001.nii.gz, received amos_0008.nii;",
    ):
        list_cases(amos, ct)
