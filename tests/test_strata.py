"""Size bins and the side on which their edges fall."""

from __future__ import annotations

import math

import numpy as np
import pytest

from boltzmed.strata import (
    AREA_BINS,
    AREA_EDGES,
    DIAMETER_EDGES_MM,
    VOLUME_EDGES_MM3,
    assign_area_bins,
    assign_diameter_bins,
    assign_volume_bins,
    equivalent_diameters_mm,
    list_bins,
    name_bins,
    split_by_size,
)


def test_every_bin_holds_its_lower_edge_and_not_its_upper():
    assert len(AREA_BINS) == len(AREA_EDGES) + 1
    for index, edge in enumerate(AREA_EDGES):
        assert assign_area_bins([np.nextafter(edge, 0), edge]).tolist() == [index, index + 1]
    for index, edge in enumerate(DIAMETER_EDGES_MM):
        assert assign_diameter_bins([np.nextafter(edge, 0), edge]).tolist() == [index, index + 1]
    for index, edge in enumerate(VOLUME_EDGES_MM3):
        assert assign_volume_bins([np.nextafter(edge, 0), edge]).tolist() == [index, index + 1]


def test_known_sizes():
    # One pixel of 1024 x 1024, a hundred thousandth of which the smallest bin is made; the whole
    # image.
    assert [AREA_BINS[i] for i in assign_area_bins([1 / 1024**2, 5e-4, 5e-3, 0.05, 1.0])] == list(
        AREA_BINS
    )
    # 1 % of a 100 x 100 image, counted in pixels, is no longer "0.1–1 %".
    assert AREA_BINS[int(assign_area_bins(100 / 100**2))] == "1–10 %"


def test_nothing_is_in_no_bin():
    assert assign_area_bins([0.0, 0.5]).tolist() == [-1, 4]
    assert assign_diameter_bins(0.0) == -1
    assert assign_volume_bins([[0.0]]).tolist() == [[-1]]
    assert assign_area_bins([]).shape == (0,)


def test_diameter_of_a_sphere():
    assert equivalent_diameters_mm(4 / 3 * math.pi * 5**3) == pytest.approx(10)
    assert equivalent_diameters_mm([0.0]).tolist() == [0.0]


@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan, math.inf])
def test_impossible_area_fractions_are_refused(value):
    with pytest.raises(ValueError, match="area fraction: expected 0 to 1"):
        assign_area_bins([0.5, value])


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_impossible_sizes_are_refused(value):
    with pytest.raises(ValueError, match="diameter: expected a finite number"):
        assign_diameter_bins(value)
    with pytest.raises(ValueError, match="volume: expected a finite number"):
        assign_volume_bins(value)


def test_edges_of_ones_own_make_bins_and_their_names():
    assert name_bins([0.5, 20, 1e6], "mm³") == (
        "<0.5 mm³",
        "0.5–20 mm³",
        "20–1000000 mm³",
        "≥1000000 mm³",
    )
    assert assign_area_bins([0.001, 0.01, 0.5], edges=[0.01]).tolist() == [0, 1, 1]
    strata = split_by_size(
        "diameter", [0.0, np.nan, math.pi / 6 * 4**3, math.pi / 6 * 6**3], edges=[5.0]
    )
    assert {name: inside.tolist() for name, inside in strata.items()} == {
        "<5 mm": [False, False, True, False],
        "≥5 mm": [False, False, False, True],
    }


def test_strata_by_area_end_with_the_papers_two_groups():
    strata = split_by_size("area", [0.0, math.nan, 5e-5, 0.00999, 0.01, 0.2])
    assert list(strata) == [*AREA_BINS, "<1 %", "≥1 %"]
    assert strata["<1 %"].tolist() == [False, False, True, True, False, False]
    assert strata["≥1 %"].tolist() == [False, False, False, False, True, True]
    bins = np.sum([strata[name] for name in AREA_BINS], axis=0)
    assert bins.tolist() == [0, 0, 1, 1, 1, 1]
    assert list_bins("area") == AREA_BINS


def test_a_bin_that_is_one_of_the_two_groups_is_a_bin():
    edges = [0.01, 0.1]
    assert list(split_by_size("area", [0.005], edges)) == ["<1 %", "1–10 %", "≥10 %", "≥1 %"]
    assert list_bins("area", edges) == ("<1 %", "1–10 %", "≥10 %")
    assert list_bins("diameter", [5]) == ("<5 mm", "≥5 mm") and list_bins("volume", [5]) == (
        "<5 mm³",
        "≥5 mm³",
    )


@pytest.mark.parametrize(
    "edges", [[], [0.0, 1.0], [2.0, 1.0], [1.0, 1.0], [math.nan], [1.0, math.inf]]
)
def test_edges_that_are_none_are_refused(edges):
    with pytest.raises(ValueError, match="edges: expected ascending numbers above 0"):
        split_by_size("volume", [1.0], edges=edges)


def test_an_unknown_size_is_refused():
    with pytest.raises(
        ValueError, match="size: expected one of area, diameter, volume, got 'width'"
    ):
        split_by_size("width", [1.0])
