"""Presence: shares by hand, and the area under the curve against a count over all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from boltzmed.metrics.presence import auroc, sensitivity, specificity


def test_shares_by_hand():
    present, found = [True, True, True, False, False], [True, False, True, True, False]
    assert (
        sensitivity(present, found) == pytest.approx(2 / 3) and specificity(present, found) == 0.5
    )
    assert sensitivity([False], [True]) is None and specificity([True], [True]) is None
    assert sensitivity([], []) is None and auroc([], []) is None


@pytest.mark.parametrize(
    ("present", "scores", "expected"),
    [
        ([1, 1, 0, 0], [0.9, 0.8, 0.2, 0.1], 1),
        ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9], 0),
        ([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.5], 0.5),
        ([1, 0, 1, 0], [0.9, 0.5, 0.5, 0.1], 0.875),
        ([1, 1], [0.5, 0.1], None),
        ([0, 0], [0.5, 0.1], None),
    ],
)
def test_area_under_the_curve(present, scores, expected):
    assert auroc(present, scores) == expected


def test_it_is_the_share_of_pairs_in_order():
    generator = np.random.default_rng(0)
    for _ in range(20):
        present, scores = generator.random(30) < 0.4, generator.integers(0, 6, 30)  # many ties
        pairs = [(a > b) + (a == b) / 2 for a in scores[present] for b in scores[~present]]
        assert auroc(present, scores) == pytest.approx(np.mean(pairs))
