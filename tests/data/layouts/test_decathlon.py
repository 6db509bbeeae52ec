"""A Decathlon task lists what its dataset.json does, and no card reads another task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from boltzmed.data.layouts.decathlon import list_cases, read_case
from boltzmed.errors import InputError
from tests.data.layouts.conftest import write_dataset_json


def write_json(
    folder: Path, names: tuple[str, ...] = ("toy_002", "toy_001"), **changes: Any
) -> Path:
    content = {
        "name": "Toy",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "organ", "2": "lesion"},
        "training": [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names
        ],
        "test": ["./imagesTs/toy_003.nii.gz"],
        **changes,
    }
    return write_dataset_json(folder, content)


@pytest.fixture
def card(make_card):
    return make_card({"reader": "decathlon"})


@pytest.fixture
def task(tmp_path: Path, write_pair) -> Path:
    folder = write_json(tmp_path / "Task99_Toy")
    for number in (1, 2):
        name = f"toy_{number:03d}.nii.gz"
        write_pair(folder / "imagesTr" / name, folder / "labelsTr" / name, start=-1000 * number)
        (folder / "imagesTr" / f"._{name}").write_bytes(b"\0")
    return folder


def test_training_cases_are_listed_in_order_and_read(task: Path, card, write_pair):
    cases = list_cases(task, card)
    assert [(found.case, found.subset, found.problem) for found in cases] == [
        ("toy_001", "training", None),
        ("toy_002", "training", None),
    ]
    hu, labels = write_pair(None, None, start=-2000)
    volume = read_case(cases[1], card)
    assert np.array_equal(volume.image[0], hu) and np.array_equal(volume.labels, labels)


def test_what_macos_leaves_is_no_case(task: Path, card):
    write_json(task, ("toy_001", "._toy_001"))
    assert [found.case for found in list_cases(task, card)] == ["toy_001"]


def test_a_missing_file_is_the_problem_of_its_case(task: Path, card):
    (task / "labelsTr" / "toy_001.nii.gz").unlink()
    one, two = list_cases(task, card)
    assert (
        one.problem
        == "case toy_001: expected label toy_001.nii.gz, found nothing there; copy it again"
    )
    assert two.problem is None
    with pytest.raises(InputError, match=r"^case toy_001: expected label"):
        read_case(one, card)


def test_the_folder_to_pass_is_named(task: Path, card, tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"found none there; pass one of the folders in it: Task99_Toy$"
    ):
        list_cases(tmp_path, card)
    with pytest.raises(ValueError, match=r"pass the folder above it"):
        list_cases(task / "imagesTr", card)
    with pytest.raises(ValueError, match=r"found no such folder; check the path"):
        list_cases(tmp_path / "Task98", card)
    (tmp_path / "Task99_Toy.tar").touch()
    with pytest.raises(ValueError, match=r"received a file; unpack it"):
        list_cases(tmp_path / "Task99_Toy.tar", card)


@pytest.mark.parametrize(
    "labels, received",
    [
        ({"0": "background", "1": "organ"}, "0, 1"),
        ({str(n): str(n) for n in range(4)}, "0, 1, 2, 3"),
    ],
)
def test_another_tasks_labels_are_refused_at_once(task: Path, card, labels, received: str):
    write_json(task, labels=labels)
    with pytest.raises(
        ValueError,
        match=f"^dataset.json: expected labels 0, 1, 2 as on card toy, received {received};",
    ):
        list_cases(task, card)


def test_a_card_may_say_which_task_is_its_own(task: Path, make_card):
    assert len(list_cases(task, make_card({"reader": "decathlon", "task": "toy"}))) == 2
    with pytest.raises(ValueError, match=r"expected task Pancreas as on card toy, received Toy"):
        list_cases(task, make_card({"reader": "decathlon", "task": "Pancreas"}))


def test_another_modality_is_refused(task: Path, make_card):
    with pytest.raises(ValueError, match=r"expected MR as on card toy, received CT"):
        list_cases(task, make_card({"reader": "decathlon"}, modality="MR"))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"labels": None}, "expected labels, a dict, received NoneType"),
        ({"labels": {"background": "0"}}, "whole numbers"),
        ({"modality": "CT"}, "expected modality, a dict, received str"),
        ({"modality": {}}, "expected channel 0 that card toy chooses, received none"),
        ({"training": {}}, "expected training, a list, received dict"),
        ({"training": ["./imagesTr/toy_001.nii.gz"]}, r"training\[0\]: expected image and label"),
        ({"training": [{"image": "a.nii"}]}, r"training\[0\]: expected image and label"),
    ],
)
def test_another_form_of_dataset_json_is_refused(task: Path, card, changes, words: str):
    write_json(task, **changes)
    with pytest.raises(ValueError, match=f"^dataset.json: .*{words}"):
        list_cases(task, card)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"[" * 100000])
def test_another_content_of_dataset_json_is_refused(task: Path, card, content: bytes):
    (task / "dataset.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"^dataset.json: expected"):
        list_cases(task, card)


def test_one_of_several_channels_is_chosen_by_the_card(
    task: Path, card, make_card, write_pair, affine_ras
):
    hu, labels = write_pair(None, None)
    channels = np.stack([hu, hu[::-1]], axis=-1)
    nibabel.save(nibabel.Nifti1Image(channels, affine_ras), task / "imagesTr" / "toy_001.nii.gz")
    with pytest.raises(InputError, match=r"^case toy_001: toy_001.nii.gz: expected one 3D volume"):
        read_case(list_cases(task, card)[0], card)
    write_json(task, modality={"0": "T2", "1": "ADC"})
    with pytest.raises(
        ValueError, match=r"expected one channel, received 0 T2, 1 ADC; choose one by `channel: 0`"
    ):
        list_cases(task, card)
    for channel in (0, 1):
        chosen = make_card({"reader": "decathlon", "channel": channel}, modality="MR")
        volume = read_case(list_cases(task, chosen)[0], chosen)
        assert np.array_equal(volume.image[0], channels[..., channel]) and np.array_equal(
            volume.labels, labels
        )
    with pytest.raises(
        ValueError, match=r"expected channel 2 that card toy chooses, received 0 T2, 1 ADC"
    ):
        list_cases(task, make_card({"reader": "decathlon", "channel": 2}))
    with pytest.raises(
        InputError,
        match=r"^case toy_002: toy_002.nii.gz: expected a channel from 0 to 0, received 1",
    ):
        read_case(list_cases(task, chosen)[1], chosen)


def test_hippocampus(shared_data, make_card):
    card = make_card(
        {"reader": "decathlon", "task": "Hippocampus"},
        {"anterior": (1,), "posterior": (2,)},
        modality="MR",
    )
    folder = shared_data("Task04_Hippocampus")
    cases = list_cases(folder, card)
    assert len(cases) == 218 and cases[0].case == "hippocampus_003"
    assert {(found.subset, found.problem) for found in cases} == {("training", None)}
    for found in (cases[0], cases[100], cases[217]):
        volume = read_case(found, card)
        assert set(np.unique(volume.labels)) == {0, 1, 2}
        label = nibabel.load(folder / "labelsTr" / f"{found.case}.nii.gz")
        assert np.array_equal(volume.labels, np.asarray(label.dataobj))
        assert volume.image.shape[1:] == label.shape
    for change in ({"values": (0, 1)}, {"modality": "CT"}):
        other = make_card({"reader": "decathlon"}, {"cancer": (1,)}, **{"modality": "MR", **change})
        with pytest.raises(ValueError, match=r"^dataset.json: expected"):
            list_cases(folder, other)
