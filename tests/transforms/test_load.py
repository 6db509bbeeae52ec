"""A study read in the pipeline: its volume, and what stays true of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, ScaleIntensityd, Spacingd

from boltzmed.errors import InputError, unwrapped_input_errors
from boltzmed.transforms.load import LoadStudyd
from boltzmed.volumes import read_volume, write_ct_series, write_image
from tests.transforms.drawn_masks import place_affine

SHAPE = (9, 8, 4)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    voxels = np.random.default_rng(0).integers(-500, 500, SHAPE).astype(np.int16)
    write_image(voxels, place_affine((-1, -1, 1)), tmp_path / "study.nii.gz")
    return tmp_path / "study.nii.gz"


def test_the_path_becomes_the_volume(study):
    item = LoadStudyd()({"image": study, "prompts": ["liver"]})
    image = item["image"]
    expected = read_volume(study)
    assert isinstance(image, MetaTensor) and image.shape == (1, *SHAPE)
    assert torch.equal(image, expected) and torch.equal(image.affine, expected.affine)
    assert item["prompts"] == ["liver"]


def test_the_study_says_what_it_is_and_where_its_voxels_are(study):
    kept = LoadStudyd()({"image": study})["study"]
    assert (kept.case, kept.file) == ("study", "study.nii.gz")
    assert kept.grid.shape == (1, *SHAPE)
    np.testing.assert_allclose(np.asarray(kept.grid.affine), place_affine((-1, -1, 1)), atol=1e-5)
    assert kept.grid.untyped_storage().nbytes() == 4  # of its own memory
    assert 0 < kept.read_seconds < 60


def test_a_series_is_named_by_its_folder_and_keeps_its_headers(tmp_path):
    voxels = np.zeros(SHAPE, np.int16)
    write_ct_series(voxels, place_affine((-1, -1, 1)), tmp_path / "series", seed=3)
    item = LoadStudyd()({"image": tmp_path / "series"})
    assert (item["study"].case, item["study"].file) == ("series", "series")
    assert item["study"].grid.meta["source_format"] == item["image"].meta["source_format"]
    assert item["study"].grid.meta["modality"] == "CT"


def test_the_study_stays_as_it_was_whatever_is_done_to_the_image(study):
    transforms = [
        LoadStudyd(),
        Spacingd(keys="image", pixdim=(2.0, 2.0, 2.0)),
        ScaleIntensityd(keys="image"),
    ]
    item = Compose(transforms)({"image": study})
    assert item["image"].shape[1:] != SHAPE
    assert item["study"].grid.shape[1:] == SHAPE
    np.testing.assert_allclose(
        np.asarray(item["study"].grid.affine), place_affine((-1, -1, 1)), atol=1e-5
    )
    assert not item["study"].grid.applied_operations


@pytest.mark.parametrize("modality", ["CT", "MR", None])
def test_the_modality_is_as_told_where_the_file_says_nothing(study, modality):
    item = LoadStudyd(modality=modality)({"image": study})
    assert item["image"].meta["modality"] == modality


def test_other_keys_are_possible_and_may_be_absent(study):
    item = LoadStudyd(keys="ct", study_key="of_ct")({"ct": study})
    assert item["of_ct"].case == "study" and item["ct"].shape == (1, *SHAPE)
    assert LoadStudyd(allow_missing_keys=True)({"other": 1}) == {"other": 1}
    with pytest.raises(KeyError, match="image"):
        LoadStudyd()({"other": 1})


def test_what_is_no_volume_is_told_in_one_line_inside_a_pipeline(tmp_path):
    (tmp_path / "text.nii.gz").write_text("no image")
    with (
        pytest.raises(InputError, match=r"text\.nii\.gz: expected .*NIfTI") as refused,
        unwrapped_input_errors(),
    ):
        Compose([LoadStudyd()], log_stats=False)({"image": tmp_path / "text.nii.gz"})
    assert "\n" not in str(refused.value)
