"""Masks against references: a row per slice in the network's order, one for the volume, true units,
lesions.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from boltzmed.evaluation import Certainty, Scoring, score_mask, score_target
from boltzmed.results import CaseResult, LesionResult

IDENTITY = {"method": "hand", "dataset": "phantom", "patient": "p1", "case": "c1"}
IDENTITY |= {"target": "liver", "prompt": "liver in abdomen CT", "seed": 0}
LPS = np.diag([-0.5, -0.5, 3.0, 1.0])  # voxels of 0.75 mm³; slice k is volume[:, :, k]


def score(
    prediction: np.ndarray, reference: np.ndarray, affine: np.ndarray = LPS, **options: Any
) -> list[CaseResult]:
    return score_mask(
        prediction.astype(np.uint8),
        reference.astype(np.uint8),
        affine,
        identity=IDENTITY,
        **options,
    )


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """(10, 8, 4) voxels: a hit on slice 1, half a hit on slice 2, a false positive on slice 3,
    nothing on slice 0.
    """
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
    *expected, volume = score(*pair)
    for axes, signs in (
        ((0, 1, 2), (-1, -1, -1)),
        ((2, 1, 0), (1, 1, 1)),
        ((1, 2, 0), (-1, 1, -1)),
    ):
        # The same anatomy, with the array's axes in another order and direction.
        affine = np.eye(4)
        affine[:3, :3] = LPS[:3, axes] * signs
        flipped = [axis for axis, sign in enumerate(signs) if sign < 0]
        *slices, whole = score(*(np.flip(mask.transpose(axes), flipped) for mask in pair), affine)
        assert slices == expected
        distances = {
            name: pytest.approx(getattr(volume, name)) for name in ("hd95_mm", "assd_mm", "nsd")
        }
        assert all(getattr(whole, name) == value for name, value in distances.items())
        assert dataclasses.replace(
            whole, hd95_mm=None, assd_mm=None, nsd=None
        ) == dataclasses.replace(volume, hd95_mm=None, assd_mm=None, nsd=None)


@pytest.mark.parametrize(
    ("plane", "count", "side"), [("axial", 4, 10), ("coronal", 8, 10), ("sagittal", 10, 8)]
)
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
        ValueError,
        match=r"c1: expected prediction and reference on one grid.*\(8, 10, 4\).*\(10, 8, 4\)",
    ):
        score(pair[0].swapaxes(0, 1), pair[1])


def test_volumes_in_mm3(pair):
    *slices, volume = score(*pair)
    assert volume.prediction_volume_mm3 == pytest.approx(12 * 0.75)
    assert volume.volume_difference_mm3 == pytest.approx(6 * 0.75)
    assert volume.false_positive_mm3 == pytest.approx(7 * 0.75)
    assert volume.false_negative_mm3 == pytest.approx(1 * 0.75)
    assert volume.iou == pytest.approx(5 / 13)
    assert [row.iou for row in slices] == [None, 1, pytest.approx(1 / 3), 0]
    assert [row.false_positive_mm3 for row in slices] == pytest.approx([0, 0, 0.75, 6 * 0.75])


def test_lesions_of_volumes_and_slices(pair):
    *slices, volume = score(*pair)
    # In the volume the hit and the false positive are one thing each, and the half hit another.
    assert (volume.reference_lesions, volume.predicted_lesions) == (2, 3)
    assert (volume.matched_lesions, volume.missed_lesions, volume.false_lesions) == (2, 0, 1)
    assert volume.detection_f1 == pytest.approx(4 / 5)
    assert volume.panoptic_quality == pytest.approx(1 / (5 / 2))
    assert [row.matched_lesions for row in slices] == [0, 1, 1, 0]
    assert [row.false_lesions for row in slices] == [0, 0, 0, 1]
    assert [row.detection_f1 for row in slices] == [None, 1, 1, 0]
    strict = score(*pair, scoring=Scoring(match="iou:0.5"))[-1]
    assert (strict.matched_lesions, strict.missed_lesions, strict.false_lesions) == (1, 1, 2)
    assert {row.lesion_rule for row in (*slices, volume)} == {
        "26 overlap"
    } and strict.lesion_rule == "26 iou:0.5"
    assert Scoring(connectivity=6, match="iou:0.50").lesion_rule == "6 iou:0.5"


def test_distances_where_they_are_asked_for():
    reference = np.zeros((12, 12, 6))
    reference[3:8, 3:8, 1:4] = 1
    prediction = np.roll(reference, 2, 2)
    by_default, everywhere = (
        score(prediction, reference),
        score(prediction, reference, scoring=Scoring("all", 1.0)),
    )
    assert (
        [row.hd95_mm for row in by_default[:-1]]
        == [None] * 6
        == [row.nsd_tolerance_mm for row in by_default[:-1]]
    )
    assert by_default[-1].hd95_mm == 6.0 and by_default[-1].nsd_tolerance_mm == 2.0
    assert [row.hd95_mm for row in everywhere] == [None, None, None, 0, None, None, 6.0]
    assert [row.nsd for row in everywhere[:-1]] == [None, 0, 0, 1, 0, 0]
    assert {row.nsd_tolerance_mm for row in everywhere} == {1.0}
    assert score(prediction, reference, scoring=Scoring("none"))[-1].assd_mm is None
    sideways = score(np.roll(reference, 3, 0), reference, scoring=Scoring("all"))
    assert [row.hd95_mm for row in sideways[1:4]] == [1.5] * 3 and sideways[-1].hd95_mm == 1.5


def test_a_volume_of_one_slice_has_no_surface_above_and_below():
    reference = np.zeros((12, 12, 1))
    reference[3:8, 3:8] = 1
    row, volume = score(np.roll(reference, 3, 1), reference, scoring=Scoring("all"))
    assert (volume.hd95_mm, volume.assd_mm, volume.nsd) == (
        row.hd95_mm,
        row.assd_mm,
        row.nsd,
    ) and row.hd95_mm == 1.5
    nothing = score(np.zeros_like(reference), reference, scoring=Scoring("all"))[-1]
    assert (nothing.hd95_mm, nothing.nsd) == (None, 0)


def lesions(pair, **options: Any) -> list[LesionResult]:
    return score_target(*pair, LPS, identity=IDENTITY, **options)[1]


def test_lesions_are_listed_with_their_scores(pair):
    scores = np.zeros(pair[0].shape, np.float32)
    scores[2:4, 2:4, 1], scores[2, 2, 1], scores[1, 0, 2], scores[5:8, 5:7, 3] = (
        0.5,
        0.75,
        0.25,
        0.625,
    )
    found = lesions(pair, certainty=Certainty(score_IJK=scores))
    table = [
        (row.kind, row.lesion, row.volume_mm3, row.score, row.matched, row.iou) for row in found
    ]
    half = pytest.approx(1 / 3)
    # A reference lesion's score is that of what found it; the half hit has another voxel, of score
    # 0.
    assert table == [
        ("reference", 1, pytest.approx(3), 0.75, True, 1),
        ("reference", 2, pytest.approx(1.5), 0.25, True, half),
        ("prediction", 1, pytest.approx(4.5), 0.625, False, 0),
        ("prediction", 2, pytest.approx(3), 0.75, True, 1),
        ("prediction", 3, pytest.approx(1.5), 0.25, True, half),
    ]
    assert {(row.method, row.dataset, row.patient, row.case, row.target) for row in found} == {
        ("hand", "phantom", "p1", "c1", "liver")
    }
    assert {row.score for row in lesions(pair)} == {None}
    assert lesions(pair, levels=("slice",)) == []


def test_levels(pair):
    slices, volume = (
        score_target(*pair, LPS, identity=IDENTITY, levels=(level,))[0]
        for level in ("slice", "volume")
    )
    assert slices + volume == score_mask(*pair, LPS, identity=IDENTITY)


def test_presence_of_other_slices_is_refused(pair):
    with pytest.raises(ValueError, match="c1: expected a presence of each of 4 slices, received 3"):
        score(*pair, presence=[0.5] * 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"distances": "slices"},
            "distances: expected one of volume, all, none, received 'slices'",
        ),
        ({"connectivity": 8}, "connectivity: expected one of 6, 18, 26, received 8"),
        ({"match": "dice"}, "match: expected overlap, or iou:T"),
        ({"tolerance_mm": -1.0}, "tolerance_mm: expected a number of mm from 0, received -1.0"),
        ({"tolerance_mm": float("nan")}, "tolerance_mm: expected a number"),
    ],
)
def test_other_ways_of_scoring_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Scoring(**options)
