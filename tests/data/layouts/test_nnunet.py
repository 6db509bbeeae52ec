"""nnU-Net's raw folders: cases by file name or dataset.json, channels, regions, labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boltzmed.data.layouts.nnunet import list_cases, read_case
from boltzmed.errors import InputError
from boltzmed.volumes import write_image
from tests.data.layouts.conftest import write_dataset_json

LABELS = {"background": 0, "organ": 1, "lesion": 2}


def write_json(folder: Path, **changes: Any) -> Path:
    content = {
        "channel_names": {"0": "CT"},
        "labels": LABELS,
        "numTraining": 2,
        "file_ending": ".nii.gz",
        **changes,
    }
    return write_dataset_json(folder, content)


@pytest.fixture
def card(make_card):
    return make_card({"reader": "nnunet"})


@pytest.fixture
def raw(tmp_path: Path, write_pair) -> Path:
    folder = write_json(tmp_path / "Dataset999_Toy")
    for number, case in enumerate(("b_0001", "a")):
        write_pair(
            folder / "imagesTr" / f"{case}_0000.nii.gz",
            folder / "labelsTr" / f"{case}.nii.gz",
            start=-1000 * number,
        )
    write_pair(folder / "imagesTs" / "c_0000.nii.gz", None)
    (folder / "imagesTr" / "._a_0000.nii.gz").touch()
    return folder


def test_training_cases_are_listed_and_read(raw: Path, card, write_pair):
    cases = list_cases(raw, card)
    assert [(found.case, found.subset, found.problem) for found in cases] == [
        ("a", "training", None),
        ("b_0001", "training", None),
    ]
    hu, labels = write_pair(None, None, start=-1000)
    volume = read_case(cases[0], card)
    assert np.array_equal(volume.image[0], hu) and np.array_equal(volume.labels, labels)
    assert volume.values == {"organ": (1, 2), "lesion": (2,)}


def test_the_published_example_fits_a_card(raw: Path, card):
    example = (
        Path(__file__).resolve().parents[4] / "shared" / "reference" / "nnunet" / "dataset.json"
    )
    if not example.exists():
        pytest.skip("needs ../shared/reference/nnunet/dataset.json")
    (raw / "dataset.json").write_text(example.read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match=r"expected 6 training cases as numTraining says, found 2"):
        list_cases(raw, card)


def test_uncompressed_files(tmp_path: Path, card, write_pair):
    folder = write_json(tmp_path / "Dataset998_Toy", file_ending=".nii", numTraining=1)
    write_pair(folder / "imagesTr" / "a_0000.nii", folder / "labelsTr" / "a.nii")
    assert [found.case for found in list_cases(folder, card)] == ["a"]


def test_half_a_pair_is_a_problem(raw: Path, card):
    (raw / "imagesTr" / "a_0000.nii.gz").unlink()
    (raw / "labelsTr" / "b_0001.nii.gz").unlink()
    assert [found.problem for found in list_cases(raw, card)] == [
        "case a: expected image a_0000.nii.gz, found nothing there; copy it again",
        "case b_0001: expected label b_0001.nii.gz, found nothing there; copy it again",
    ]


def test_the_card_chooses_a_channel(raw: Path, card, make_card, write_pair):
    write_json(raw, channel_names={"0": "T2", "1": "ADC"})
    with pytest.raises(
        ValueError, match=r"expected one channel, received 0 T2, 1 ADC; choose one by `channel: 0`"
    ):
        list_cases(raw, card)
    hu, _ = write_pair(raw / "imagesTr" / "a_0001.nii.gz", None, start=77)
    second = make_card({"reader": "nnunet", "channel": 1}, modality="MR")
    one, other = list_cases(raw, second)
    assert np.array_equal(read_case(one, second).image[0], hu)
    assert other.problem.startswith("case b_0001: expected image b_0001_0001.nii.gz")
    with pytest.raises(ValueError, match=r"expected channel 2"):
        list_cases(raw, make_card({"reader": "nnunet", "channel": 2}))
    with pytest.raises(ValueError, match=r"expected MR as on card toy, received CT"):
        list_cases(write_json(raw), make_card({"reader": "nnunet"}, modality="MR"))


def test_images_may_be_named_in_dataset_json(raw: Path, card, tmp_path: Path, write_pair):
    hu, _ = write_pair(tmp_path / "elsewhere" / "x.nii.gz", tmp_path / "y.nii.gz", start=5)
    named = {
        "two": {"images": ["../elsewhere/x.nii.gz"], "label": str(tmp_path / "y.nii.gz")},
        "one": {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/gone.nii.gz"},
    }
    one, two = list_cases(write_json(raw, dataset=named), card)
    assert (one.case, one.problem) == (
        "one",
        "case one: expected label gone.nii.gz, found nothing there; copy it again",
    )
    assert two.problem is None and np.array_equal(read_case(two, card).image[0], hu)


@pytest.mark.parametrize(
    "record",
    [None, {"images": "a.nii.gz", "label": "l"}, {"images": [1], "label": "l"}, {"images": ["a"]}],
)
def test_a_wrong_record_is_named(raw: Path, card, record):
    with pytest.raises(
        ValueError, match=r"^dataset.json: dataset: a: expected images and label, received"
    ):
        list_cases(write_json(raw, dataset={"a": record}), card)


def test_a_record_without_the_channel_is_named(raw: Path, card):
    with pytest.raises(
        ValueError, match=r"^dataset.json: dataset: a: expected channel 0, received 0 images"
    ):
        list_cases(write_json(raw, dataset={"a": {"images": [], "label": "l"}}), card)


def test_regions_are_the_labels_they_are_made_of(raw: Path, card):
    write_json(
        raw, labels={"background": 0, "whole": [1, 2], "lesion": [2]}, regions_class_order=[1, 2]
    )
    assert len(list_cases(raw, card)) == 2


def test_ignored_voxels_need_a_card_that_names_them(
    raw: Path, card, make_card, write_pair, affine_ras
):
    write_json(raw, labels={**LABELS, "ignore": 3})
    _, labels = write_pair(None, None)
    labels[0] = 3
    write_image(labels, affine_ras, raw / "labelsTr" / "a.nii.gz")
    with pytest.raises(
        InputError, match=r"^case a: a.nii.gz: expected the labels 0, 1, 2 of card toy, received 3"
    ):
        read_case(list_cases(raw, card)[0], card)
    naming = make_card({"reader": "nnunet"}, values=(0, 1, 2, 3))
    assert np.array_equal(read_case(list_cases(raw, naming)[0], naming).labels, labels)


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"labels": {"background": 0, "organ": 1}},
            "expected labels 0, 1, 2 as on card toy, received 0, 1;",
        ),
        (
            {"labels": {**LABELS, "other": 3}},
            "expected labels 0, 1, 2 as on card toy, received 0, 1, 2, 3;",
        ),
        ({"labels": {"0": "background"}}, "whole numbers"),
        ({"labels": {"background": None}}, "whole numbers"),
        ({"labels": None}, "expected labels, a dict"),
        (
            {"file_ending": ".nrrd"},
            "expected file_ending .nii.gz or .nii, received '.nrrd'; convert",
        ),
        ({"file_ending": None}, "expected file_ending .nii.gz or .nii, received None"),
        ({"channel_names": None}, "expected channel_names, a dict"),
        ({"channel_names": None, "modality": {"0": "CT"}}, "needs a card with `reader: decathlon`"),
        ({"numTraining": None}, "expected numTraining, a int"),
        ({"numTraining": 3}, "expected 3 training cases as numTraining says, found 2;"),
    ],
)
def test_another_dataset_is_refused(raw: Path, card, changes, words: str):
    with pytest.raises(ValueError, match=f"^dataset.json: .*{words}"):
        list_cases(write_json(raw, **changes), card)


def test_another_folder_is_refused(raw: Path, card, tmp_path: Path):
    with pytest.raises(ValueError, match=r"pass one of the folders in it: Dataset999_Toy$"):
        list_cases(tmp_path, card)
    with pytest.raises(
        ValueError, match=r"expected imagesTr beside dataset.json, found no such folder"
    ):
        list_cases(write_json(tmp_path / "Dataset998_Toy"), card)
