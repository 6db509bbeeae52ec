"""Which cases are the worst, and what their pictures show."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from boltzmed.reports.failures import choose_slice, choose_worst, draw_thumbnails, pair_scores
from boltzmed.reports.pictures import CasePicture


def make_rows(scores):
    """(target, case, {method: score}) → rows as `select_rows` gives them."""
    return pd.DataFrame(
        {"method": method, "dataset": "set", "case": case, "level": "slice", "axis": "",
         "slice_index": k, "window": "",
         "target": target, "score": score, "missed": score == 0, "size": 0.01, "prompt": "p"}
        for target, case, k, found in scores
        for method, score in found.items()
    )  # fmt: skip


def test_what_most_methods_missed_comes_first():
    rows = make_rows(
        [
            ("liver", "1", 0, {"a": 0.1, "b": 0.1}),
            ("liver", "2", 0, {"a": 0.0, "b": 0.9}),
            ("liver", "3", 0, {"a": 0.0, "b": 0.0}),
            ("liver", "3", 1, {"a": 0.0, "b": 0.2}),
            ("spleen", "4", 0, {"b": 0.8}),
        ]
    )
    pairs = pair_scores(rows)
    assert pairs[["case", "slice_index", "missed"]].values.tolist() == [
        ["3", 0, 2], ["3", 1, 1], ["2", 0, 1], ["1", 0, 0], ["4", 0, 0],
    ]  # fmt: skip
    assert list(pairs.columns[-2:]) == ["score:a", "score:b"] and np.isnan(
        pairs["score:a"].iloc[-1]
    )
    # Each target has its worst before any has its second, and a case is shown once for a target.
    assert choose_worst(pairs, 2)["case"].tolist() == ["3", "4"]
    assert choose_worst(pairs, 9)["case"].tolist() == ["3", "2", "1", "4"]


@pytest.mark.parametrize(
    ("metric", "order"),
    [("dice", ["missed", "low", "mid", "high"]), ("hd95_mm", ["missed", "high", "mid", "low"]),
     ("volume_difference_mm3", ["missed", "low", "high", "mid"])],
)  # fmt: skip
def test_the_worst_is_the_metrics_worst_and_missed_is_no_score_of_it(metric, order):
    scores = {
        "low": -9.0 if "difference" in metric else 0.0,
        "mid": 2.0,
        "high": 5.0,
        "missed": np.nan,
    }
    rows = make_rows([("liver", case, 0, {"a": score}) for case, score in scores.items()])
    pairs = pair_scores(rows.assign(missed=rows["case"].eq("missed")), metric)
    assert pairs["case"].tolist() == order and pairs["missed"].tolist() == [1, 0, 0, 0]
    assert choose_worst(pairs, 9)["case"].tolist() == order


@pytest.fixture
def picture():
    reference, prediction = np.zeros((2, 3, 100, 100), bool)
    reference[1, 40:50, 40:50] = True
    prediction[1, 40:50, 45:55] = True
    return CasePicture(
        "t", np.full((3, 100, 100), -1000.0), (-1000, 1000), reference, {"a": prediction}, (3, 1, 1)
    )


def test_the_slice_is_the_asked_one_or_that_of_the_largest_reference(picture):
    assert choose_slice(picture) == 1
    assert choose_slice(picture, 2) == 2
    assert choose_slice(picture, 9) == 1
    empty = np.zeros((3, 10, 10), bool)
    assert choose_slice(CasePicture("t", empty, (0, 1), empty, {}, (1, 1, 1))) == 1


def test_thumbnails_show_outline_mask_and_frame(picture):
    drawn = dict(draw_thumbnails(picture, 1, {"reference": "#F0E442", "a": "#0072B2"}))
    shown = {
        name: np.asarray(
            Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
        )
        for name, uri in drawn.items()
    }
    assert list(shown) == ["image", "reference", "a"]
    assert {picture.shape for picture in shown.values()} == {(240, 240, 3)}
    counts = {
        name: {
            colour: int((picture == colour).all(-1).sum())
            for colour in ((240, 228, 66), (0, 114, 178), (255,) * 3)
        }
        for name, picture in shown.items()
    }
    assert counts["image"][255, 255, 255] > 0 == counts["image"][240, 228, 66]
    # The framed part is 30 mm wide, 8 pixels a mm: an outline of two pixels around 10 mm.
    assert counts["reference"] == {
        (240, 228, 66): 80**2 - 76**2,
        (0, 114, 178): 0,
        (255, 255, 255): 0,
    }
    assert counts["a"][0, 114, 178] > 300 and counts["a"][240, 228, 66] == 80**2 - 76**2
    painted = shown["a"][120, 120]
    assert painted.tolist() == [0, 51, 80]  # 45 % of the method's colour on black
