"""Studies without their voxels: references by target, and grids that take no memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from boltzmed.studies import LabelledStudy, Study, empty_grid
from tests.transforms.drawn_masks import make_image, place_affine

SHAPE = (5, 4, 3)
AFFINE = place_affine((-1, 1, 1))


@pytest.fixture
def labelled() -> LabelledStudy:
    labels = np.zeros(SHAPE, np.uint8)
    labels[0], labels[1], labels[2, 0, 0] = 3, 4, 9
    return LabelledStudy(
        case="a",
        patient="p",
        labels=labels,
        label_values={"lung": (3, 4), "nodule": (4,), "nothing": (), "heart": (7,)},
        grid=empty_grid(make_image(SHAPE, AFFINE)),
        requested_slices=(None,),
        read_seconds=0.0,
    )


def test_a_reference_is_the_union_of_its_targets_labels(labelled):
    lung = labelled.reference("lung")
    assert lung.dtype == np.uint8 and set(np.unique(lung)) == {0, 1}
    assert np.array_equal(lung, np.isin(labelled.labels, (3, 4)))
    assert np.array_equal(labelled.reference("nodule"), labelled.labels == 4)


@pytest.mark.parametrize("target", ["nothing", "heart", "unknown", None])
def test_a_target_without_voxels_or_labels_has_an_empty_reference(labelled, target):
    reference = labelled.reference(target)
    assert reference.shape == SHAPE and not reference.any()


def test_a_grid_has_shape_affine_and_headers_but_no_voxels():
    image = make_image((50, 60, 70), AFFINE, study_uid="1.2.3")
    grid = empty_grid(image)
    assert grid.shape == image.shape and torch.equal(grid.affine, image.affine)
    assert grid.meta["study_uid"] == "1.2.3" and grid.meta["modality"] == "CT"
    assert grid.untyped_storage().nbytes() == 4 and not grid.any()


def test_a_grid_does_not_follow_the_image():
    image = make_image(SHAPE, AFFINE)
    grid = empty_grid(image)
    image.affine[0, 3] += 10
    image.meta["modality"] = "MR"
    np.testing.assert_allclose(np.asarray(grid.affine), AFFINE)
    assert grid.meta["modality"] == "CT"


def test_studies_cannot_be_changed():
    study = Study("a", "a.nii", empty_grid(make_image(SHAPE, AFFINE)), 0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        study.case = "b"  # type: ignore[misc]
