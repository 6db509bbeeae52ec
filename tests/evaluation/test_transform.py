"""Masks scored inside the pipeline: the rows of `score_study`, known Dice and known lesions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from boltzmed.evaluation.scores import score_study
from boltzmed.evaluation.transform import ScoreMasksd
from boltzmed.studies import LabelledStudy, empty_grid
from tests.transforms.drawn_masks import make_image, make_prompt, pack_masks, place_affine

SHAPE = (20, 18, 6)
AFFINE = place_affine((-1, -1, 1), (1.0, 1.0, 2.0))
PRESENCE = np.array([[0.25, 1, 1, 1, 0, 0.5], [0, 0, 0, 0, 0, 0]], np.float32)


def make_item(requested: tuple[frozenset[int] | None, ...] = (None, None)) -> dict[str, Any]:
    """A study with a liver, of which a half is found, and a spleen, of which nothing is."""
    image = make_image(SHAPE, AFFINE)
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:10, 3:9, 1:4] = 7
    labels[12:15, 10:14, 2:4] = 8
    found = np.zeros((2, *SHAPE), bool)
    found[0, 2:6, 3:9, 1:4] = True
    study = LabelledStudy(
        case="case",
        patient="somebody",
        labels=labels,
        label_values={"liver": (7,), "spleen": (8,)},
        grid=empty_grid(image),
        requested_slices=requested,
        read_seconds=0.0,
    )
    masks = pack_masks(found, found * np.uint8(204), AFFINE, presence_PK=PRESENCE)
    prompts = [make_prompt("liver in abdomen CT", "liver"), make_prompt("spleen", "spleen")]
    return {"image": image, "study": study, "prompts": prompts, "pred": masks}


def test_rows_and_lesions_are_those_of_score_study():
    item = make_item()
    scored = ScoreMasksd(method="m", seed=3)(item)
    masks = item["pred"]
    rows, lesions = score_study(
        item["study"],
        item["prompts"],
        masks,
        method="m",
        seed=3,
    )
    assert scored["rows"] == rows and scored["lesions"] == lesions
    assert "rows" not in item and scored["pred"] is masks


def test_volumes_have_known_scores():
    rows = ScoreMasksd(method="m", seed=3)(make_item())["rows"]
    liver, spleen = (row for row in rows if row.level == "volume")
    assert (liver.method, liver.dataset, liver.patient, liver.case, liver.target, liver.seed) == (
        "m",
        "phantom",
        "somebody",
        "case",
        "liver",
        3,
    )
    assert liver.dice == pytest.approx(2 * 72 / (72 + 144)) and spleen.dice == 0
    assert liver.volume_mm3 == 144 * 2 and liver.prediction_volume_mm3 == 72 * 2
    assert spleen.prediction_empty and not spleen.reference_empty
    slices = [row for row in rows if row.level == "slice" and row.target == "liver"]
    assert [row.slice_index for row in slices] == list(range(6))
    assert [row.presence_score for row in slices] == PRESENCE[0].tolist()


def test_lesions_take_their_highest_probability():
    lesions = ScoreMasksd(method="m", seed=3)(make_item())["lesions"]
    (predicted,) = (lesion for lesion in lesions if lesion.kind == "prediction")
    assert predicted.score == pytest.approx(0.8)


def test_requested_slices_alone_are_scored():
    requested = (frozenset({1, 2}), frozenset({2}))
    scored = ScoreMasksd(method="m", seed=0)(make_item(requested))
    rows = [(row.target, row.level, row.slice_index) for row in scored["rows"]]
    assert rows == [("liver", "slice", 1), ("liver", "slice", 2), ("spleen", "slice", 2)]
    assert scored["lesions"] == []


def test_how_it_is_scored_is_told_by_name():
    transform = ScoreMasksd(
        method="m", seed=0, distances="all", connectivity=6, match="iou:0.5", tolerance_mm=3.0
    )
    rows = transform(make_item())["rows"]
    volume = next(row for row in rows if row.level == "volume")
    assert volume.lesion_rule == "6 iou:0.5" and volume.nsd_tolerance_mm == 3.0
    assert transform.scoring.miss_penalty_mm is None
    with pytest.raises(ValueError, match="distances: expected one of volume, all, none"):
        ScoreMasksd(method="m", seed=0, distances="some")


def test_masks_without_presence_have_no_score_of_it():
    item = make_item()
    item["pred"] = pack_masks(np.zeros((2, *SHAPE), bool), np.zeros((2, *SHAPE), np.uint8), AFFINE)
    rows = ScoreMasksd(method="m", seed=0)(item)["rows"]
    assert {row.presence_score for row in rows} == {None}
