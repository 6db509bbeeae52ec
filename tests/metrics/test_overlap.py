"""Dice: known answers, its bounds and symmetry, and what it is for empty masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from boltzmed.metrics.overlap import bounding_box, count_voxels, dice

masks = arrays(np.uint8, (3, 4), elements=st.integers(0, 1))


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ([1, 1, 0, 0], [1, 1, 0, 0], 1.0),
        ([1, 1, 0, 0], [0, 1, 1, 0], 0.5),
        ([1, 1, 1, 1], [1, 0, 0, 0], 0.4),
        ([1, 0, 0, 0], [0, 0, 0, 1], 0.0),
        ([0, 0, 0, 0], [0, 1, 0, 0], 0.0),
        ([0, 1, 0, 0], [0, 0, 0, 0], 0.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], None),
        ([], [], None),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, bool, np.float32])
def test_known_answers(prediction, reference, expected, dtype):
    assert dice(np.array(prediction, dtype), np.array(reference, dtype)) == expected


def test_whatever_is_not_zero_is_inside():
    assert dice(np.array([255, -3, 0]), np.array([1, 7, 0])) == 1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(one=masks, other=masks)
def test_symmetric_and_a_function_of_the_jaccard_index(one, other):
    value = dice(one, other)
    assert value == dice(other, one) == dice(one.T, other.T)
    union = np.count_nonzero(one | other)
    if union == 0:
        assert value is None
    else:
        jaccard = np.count_nonzero(one & other) / union
        assert value == pytest.approx(2 * jaccard / (1 + jaccard))
        assert 0 <= value <= 1 and (value == 1) == np.array_equal(one, other)


def test_counts_do_not_overflow():
    mask = np.ones((20, 20), np.uint8)  # 400 voxels, more than the masks' type can hold
    assert dice(mask, mask) == 1


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"masks of one shape, received \(2, 3\) and \(3, 2\)"):
        dice(np.zeros((2, 3)), np.zeros((3, 2)))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(one=masks, other=masks)
def test_counts_add_up(one, other):
    counts = count_voxels(one, other)
    assert counts.predicted == one.sum() and counts.referenced == other.sum()
    assert (counts.prediction_only, counts.reference_only) == (
        np.sum(one > other),
        np.sum(other > one),
    )
    assert counts.dice == dice(one, other)
    union = np.count_nonzero(one | other)
    assert counts.iou == (counts.both / union if union else None)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(one=masks, other=masks)
def test_the_box_holds_all_and_no_smaller_one_does(one, other):
    box, union = bounding_box(one, other), one | other
    inside = union[box]
    assert inside.sum() == union.sum()
    if union.any():
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
    else:
        assert inside.size == 0
