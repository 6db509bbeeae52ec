"""Values of label maps: whole numbers, in whatever type a file has."""

from __future__ import annotations

import numpy as np
import pytest

from boltzmed.errors import InputError
from boltzmed.masks.label_values import HIGHEST_LABEL, as_labels, check_values, list_values


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_whole_numbers_are_labels_in_any_type(dtype):
    values = np.array([[0, 3], [255, 1]], dtype)
    labels = as_labels("case one", values, highest=HIGHEST_LABEL)
    assert labels.dtype == np.uint8 and np.array_equal(labels, values)


@pytest.mark.parametrize("value", [-1.0, 0.5, 256.0, np.nan, np.inf])
def test_other_values_are_named(value):
    with pytest.raises(
        InputError, match=f"case one: expected label values that are whole .*, received {value:g};"
    ):
        as_labels("case one", np.array([0.0, value, 1.0]), highest=HIGHEST_LABEL)


def test_values_above_255_are_kept_where_they_may_be() -> None:
    labels = as_labels("one", np.array([0.0, 300.0]))
    assert labels.dtype == np.int32 and labels.tolist() == [0, 300]
    with pytest.raises(InputError, match="whole numbers from 0, received -1;"):
        as_labels("one", np.array([300, -1], np.int16))


def test_values_that_nobody_named_are_refused() -> None:
    check_values("one.nii", {0, 2}, {1, 2}, "card toy")
    with pytest.raises(
        InputError, match=r"one\.nii: expected the labels 1, 2 of card toy, received"
    ):
        check_values("one.nii", {0, 3}, {1, 2}, "card toy")


def test_many_values_are_listed_in_part() -> None:
    assert list_values({3, 1}) == "1, 3"
    assert list_values(set(range(1, 21))).startswith("1, 2, 3, 4, 5, 6, 7, 8, 9")
