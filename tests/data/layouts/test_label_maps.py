"""A label map comes with the voxels of its image, or with one line that says what is wrong in which
case.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from boltzmed.data.layouts.label_maps import pair_files, read_label_map
from boltzmed.errors import InputError
from boltzmed.volumes import write_ct_series, write_image


@pytest.fixture
def card(make_card):
    return make_card({"reader": "pairs"})


def expect_line(found, card, *words: str) -> None:
    """Reading gives one line that begins with the case and names no folder."""
    with pytest.raises(InputError) as raised:
        read_label_map(found, card)
    line = str(raised.value)
    assert line.startswith(f"case {found.case}: ") and "\n" not in line
    assert str(found.image[0].parent) not in line
    for word in words:
        assert word in line


def test_voxels_and_values_are_the_files_and_the_cards(
    tmp_path: Path, write_pair, affine_ras, card
):
    hu, labels = write_pair(tmp_path / "a.nii.gz", tmp_path / "a_label.nii")
    found = pair_files(
        "a", tmp_path / "a.nii.gz", tmp_path / "a_label.nii", patient="p", split="test"
    )
    assert (found.problem, found.patient, found.split, found.subset) == (None, "p", "test", None)
    volume = read_label_map(found, card)
    assert np.array_equal(volume.image[0], hu) and np.allclose(
        volume.image.affine, affine_ras, atol=1e-4
    )
    assert volume.labels.dtype == np.uint8 and np.array_equal(volume.labels, labels)
    assert volume.values == {"organ": (1, 2), "lesion": (2,)}
    assert volume.image.meta["modality"] == "CT"
    assert (volume.window, volume.has_spacing) == (None, True) and not volume.findings


def test_floating_labels_are_whole_numbers(tmp_path: Path, write_pair, affine_ras, card):
    _, labels = write_pair(tmp_path / "a.nii", None)
    write_image(labels.astype(np.float32), affine_ras, tmp_path / "l.nii")
    found = pair_files("a", tmp_path / "a.nii", tmp_path / "l.nii")
    assert np.array_equal(read_label_map(found, card).labels, labels)
    write_image(labels * np.float32(0.5), affine_ras, tmp_path / "l.nii")
    expect_line(found, card, "whole numbers from 0 to 255, received 0.5")


def test_an_image_may_be_a_dicom_series(tmp_path: Path, write_pair, affine_ras, card):
    hu, labels = write_pair(None, tmp_path / "l.nii.gz")
    write_ct_series(hu, affine_ras, tmp_path / "series", seed=3)
    volume = read_label_map(pair_files("a", tmp_path / "series", tmp_path / "l.nii.gz"), card)
    assert np.array_equal(volume.image[0], hu) and np.array_equal(volume.labels, labels)
    with pytest.raises(
        InputError,
        match=r"^case a: series: expected a NIfTI file to pick channel 0 of, received DICOM",
    ):
        read_label_map(pair_files("a", tmp_path / "series", tmp_path / "l.nii.gz"), card, channel=0)


def test_missing_files_are_a_problem(tmp_path: Path, write_pair, card):
    write_pair(tmp_path / "a.nii", None)
    found = pair_files("a", tmp_path / "a.nii", tmp_path / "l.nii")
    assert found.problem == "case a: expected label l.nii, found nothing there; copy it again"
    expect_line(found, card, found.problem)
    both = pair_files("b", tmp_path / "no.nii", tmp_path / ("l" * 300 + ".nii"))
    assert both.problem.startswith("case b: expected image no.nii and label lll")


def test_unknown_values_are_named(tmp_path: Path, write_pair, affine_ras, card):
    _, labels = write_pair(tmp_path / "a.nii", None)
    labels[0, 0, 0], labels[6, 5, 4] = 7, 3
    write_image(labels, affine_ras, tmp_path / "l.nii")
    found = pair_files("a", tmp_path / "a.nii", tmp_path / "l.nii")
    expect_line(found, card, "l.nii: expected the labels 0, 1, 2 of card toy, received 3, 7;")


@pytest.mark.parametrize("value", [0, -1024])
def test_an_image_without_contrast_is_none(
    tmp_path: Path, write_pair, affine_ras, card, value: int
):
    write_pair(None, tmp_path / "l.nii")
    write_image(np.full((7, 6, 5), value, np.int16), affine_ras, tmp_path / "a.nii")
    found = pair_files("a", tmp_path / "a.nii", tmp_path / "l.nii")
    expect_line(found, card, f"received {value} in every voxel of a.nii")


def test_another_grid_is_refused(tmp_path: Path, write_pair, affine_ras, card):
    _, labels = write_pair(tmp_path / "a.nii", tmp_path / "l.nii")
    found = pair_files("a", tmp_path / "a.nii", tmp_path / "l.nii")
    write_image(labels, affine_ras + 0.01 * np.eye(4, k=3), tmp_path / "l.nii")
    expect_line(found, card, "expected image and label on one grid")
    write_image(labels[1:], affine_ras, tmp_path / "l.nii")
    expect_line(found, card, "expected image and label on one grid", "(7, 6, 5)", "(6, 6, 5)")


@pytest.mark.parametrize("broken", ["image", "label"])
@pytest.mark.parametrize("content", [b"", b"text", gzip.compress(b"x" * 1000, mtime=0)[:20]])
def test_broken_files_are_told_by_case(
    tmp_path: Path, write_pair, card, broken: str, content: bytes
):
    write_pair(tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    (tmp_path / f"{broken}.nii.gz").write_bytes(content)
    found = pair_files("a", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    expect_line(found, card, f"{broken}.nii.gz: expected a")


def test_other_kinds_of_file_are_refused(tmp_path: Path, write_pair, card):
    write_pair(None, tmp_path / "l.nii")
    (tmp_path / "a.mha").write_bytes(b"ObjectType = Image")
    (tmp_path / "empty").mkdir()
    expect_line(
        pair_files("a", tmp_path / "a.mha", tmp_path / "l.nii"),
        card,
        "a.mha: expected .nii, .nii.gz",
    )
    expect_line(pair_files("a", tmp_path / "empty", tmp_path / "l.nii"), card, "empty")


def test_the_cards_modality_must_not_contradict_the_file(
    tmp_path: Path, write_pair, affine_ras, make_card
):
    hu, _ = write_pair(None, tmp_path / "l.nii")
    write_ct_series(hu, affine_ras, tmp_path / "series", seed=3)
    card = make_card({"reader": "pairs"}, modality="MR")
    expect_line(
        pair_files("a", tmp_path / "series", tmp_path / "l.nii"),
        card,
        "expected modality MR, received CT",
    )
