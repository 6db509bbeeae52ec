"""Masks against references: a row per slice in the network's order, one for the volume, sizes in true units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from boltzmed.evaluation import score_mask
from boltzmed.results import CaseResult

IDENTITY = {"method": "hand", "dataset": "phantom", "patient": "p1", "case": "c1"}
IDENTITY |= {"target": "liver", "prompt": "liver in abdomen CT", "seed": 0}
LPS = np.diag([-0.5, -0.5, 3.0, 1.0])  # voxels of 0.75 mm³; slice k is volume[:, :, k]


def score(prediction: np.ndarray, reference: np.ndarray, affine: np.ndarray = LPS, **options: Any) -> list[CaseResult]:
    return score_mask(prediction.astype(np.uint8), reference.astype(np.uint8), affine, identity=IDENTITY, **options)


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """(10, 8, 4) voxels: a hit on slice 1, half a hit on slice 2, a false positive on slice 3, nothing on slice 0."""
    prediction, reference = np.zeros((2, 10, 8, 4))
    prediction[2:4, 2:4, 1] = reference[2:4, 2:4, 1] = 1
    reference[0:2, 0, 2], prediction[1:3, 0, 2] = 1, 1
    prediction[5:8, 5:7, 3] = 1
    return prediction, reference


def test_a_row_for_each_slice_and_one_for_the_volume(pair):
    *slices, volume = score(*pair)
    assert [(row.level, row.slice_index) for row in slices] == [("slice", k) for k in range(4)]
    assert [row.dice for row in slices] == [None, 1.0, 0.5, 0.0]
    assert [row.reference_empty for row in slices] == [True, False, False, True]
    assert [row.prediction_empty for row in slices] == [True, False, False, False]
    assert (volume.level, volume.slice_index) == ("volume", None)
    assert volume.dice == pytest.approx(2 * 5 / (12 + 6))
    assert not volume.reference_empty and not volume.prediction_empty


def test_sizes_are_the_references_own(pair):
    *slices, volume = score(*pair)
    # Slices of 8 x 10 pixels stand in a square of 10 x 10.
    assert [row.area_fraction for row in slices] == [0.0, 0.04, 0.02, 0.0]
    assert volume.area_fraction == 0.04  # its largest slice's
    assert [row.volume_mm3 for row in slices] == pytest.approx([0, 4 * 0.75, 2 * 0.75, 0])
    assert volume.volume_mm3 == pytest.approx(6 * 0.75)


def test_every_row_says_what_was_scored(pair):
    for row in score(*pair, plane="coronal"):
        assert {name: getattr(row, name) for name in IDENTITY} == IDENTITY
        assert row.axis == "coronal" and row.presence_score is None


def test_slices_run_from_feet_to_head_whatever_the_file(pair):
    expected = score(*pair)
    for axes, signs in (((0, 1, 2), (-1, -1, -1)), ((2, 1, 0), (1, 1, 1)), ((1, 2, 0), (-1, 1, -1))):
        # The same anatomy, with the array's axes in another order and direction.
        affine = np.eye(4)
        affine[:3, :3] = LPS[:3, axes] * signs
        flipped = [axis for axis, sign in enumerate(signs) if sign < 0]
        assert score(*(np.flip(mask.transpose(axes), flipped) for mask in pair), affine) == expected


@pytest.mark.parametrize(("plane", "count", "side"), [("axial", 4, 10), ("coronal", 8, 10), ("sagittal", 10, 8)])
def test_planes(pair, plane, count, side):
    *slices, volume = score(*pair, plane=plane)
    assert len(slices) == count
    assert sum(row.area_fraction for row in slices) * side**2 == pytest.approx(6)
    assert volume.volume_mm3 == pytest.approx(6 * 0.75) and volume.dice == pytest.approx(10 / 18)


def test_labels_other_than_one_are_inside_too(pair):
    assert score(pair[0] * 7, pair[1] * 255) == score(*pair)


def test_presence(pair):
    *slices, volume = score(*pair, presence=np.array([0.125, 0.25, 0.75, 0.5], np.float32))
    assert [row.presence_score for row in slices] == [0.125, 0.25, 0.75, 0.5]
    assert volume.presence_score == 0.75


def test_empty_masks(pair):
    nothing = np.zeros_like(pair[0])
    rows = score(nothing, nothing)
    assert all(row.dice is None and row.reference_empty and row.prediction_empty for row in rows)
    assert rows[-1].area_fraction == rows[-1].volume_mm3 == 0
    assert score(nothing, pair[1])[-1].dice == score(pair[0], nothing)[-1].dice == 0


def test_different_grids_are_refused(pair):
    with pytest.raises(
        ValueError, match=r"c1: expected prediction and reference on one grid.*\(8, 10, 4\).*\(10, 8, 4\)"
    ):
        score(pair[0].swapaxes(0, 1), pair[1])
