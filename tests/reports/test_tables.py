"""The table by object size: every cell counted by hand."""

from __future__ import annotations

import dataclasses
import re

import pytest

from boltzmed.reports.tables import summarise_by_size
from boltzmed.results import CaseResult
from boltzmed.strata import AREA_BINS

SLICE = CaseResult(
    method="hand",
    dataset="phantom",
    patient="p1",
    case="c1",
    level="slice",
    axis="axial",
    slice_index=0,
    target="liver",
    prompt="liver in abdomen CT",
    seed=0,
    dice=1.0,
    area_fraction=0.5,
    volume_mm3=1.0,
    reference_empty=False,
    prediction_empty=False,
    presence_score=None,
)
VOLUME = dataclasses.replace(SLICE, level="volume", slice_index=None)


def shown(dice: float, area_fraction: float, target: str = "liver") -> CaseResult:
    return dataclasses.replace(SLICE, dice=dice, area_fraction=area_fraction, target=target)


def read_table(rows: list[CaseResult]) -> dict[str, list[str]]:
    """First cell of a line -> its other cells."""
    header, rule, *lines = summarise_by_size(rows).split("\n")
    assert set(rule) == {"-"} and {len(line) for line in (header, rule, *lines)} == {len(rule)}
    return {
        cells[0]: cells[1:]
        for cells in (re.split(r" {2,}", line.strip()) for line in (header, *lines))
    }


def test_cells_are_means_with_their_number():
    rows = [
        shown(0.5, 5e-5),
        shown(0.2, 0.02),
        shown(0.5, 0.02),
        shown(0.9, 0.3),
        shown(0.3, 0.005, target="spleen"),
        dataclasses.replace(VOLUME, dice=0.8),
        dataclasses.replace(VOLUME, dice=0.7),
        dataclasses.replace(VOLUME, dice=0.4, target="spleen"),
    ]
    assert read_table(rows) == {
        "target": [*AREA_BINS, "all slices", "volume"],
        "liver": ["0.500 (1)", "–", "–", "0.350 (2)", "0.900 (1)", "0.525 (4)", "0.750 (2)"],
        "spleen": ["–", "–", "0.300 (1)", "–", "–", "0.300 (1)", "0.400 (1)"],
        "all": ["0.500 (1)", "–", "0.300 (1)", "0.350 (2)", "0.900 (1)", "0.480 (5)", "0.633 (3)"],
    }


def test_slices_without_the_target_count_in_the_volume_only():
    false_positive = dataclasses.replace(SLICE, dice=0.0, area_fraction=0.0, reference_empty=True)
    nothing = dataclasses.replace(false_positive, dice=None, prediction_empty=True)
    table = read_table(
        [shown(0.6, 0.3), false_positive, nothing, dataclasses.replace(VOLUME, dice=0.25)]
    )
    assert table["liver"][-3:] == ["0.600 (1)", "0.600 (1)", "0.250 (1)"]


def test_volumes_without_a_dice_do_not_count():
    empty = dataclasses.replace(
        VOLUME, dice=None, area_fraction=0.0, reference_empty=True, prediction_empty=True
    )
    assert read_table([VOLUME, empty])["liver"][-1] == "1.000 (1)"
    assert read_table([empty])["liver"] == ["–"] * 7


@pytest.mark.parametrize(("area_fraction", "column"), [(1e-4, 1), (1e-3, 2), (1e-2, 3), (1e-1, 4)])
def test_exactly_at_an_edge_is_the_larger_stratum(area_fraction, column):
    cells = read_table([shown(0.5, area_fraction)])["liver"]
    assert [index for index, cell in enumerate(cells[:5]) if cell != "–"] == [column]


def test_targets_keep_their_order_and_any_iterable_will_do():
    names = ["spleen", "aorta", "liver", "aorta"]
    table = summarise_by_size(shown(0.5, 0.5, target=name) for name in names)
    assert [line.split()[0] for line in table.split("\n")[2:]] == [
        "spleen",
        "aorta",
        "liver",
        "all",
    ]


def test_targets_of_one_name_in_two_data_sets_stand_apart():
    rows = [shown(0.2, 0.3), dataclasses.replace(shown(0.8, 0.3), dataset="amos22_mr")]
    table = read_table(rows)
    assert {name: cells[-2] for name, cells in table.items() if name != "target"} == {
        "phantom: liver": "0.200 (1)",
        "amos22_mr: liver": "0.800 (1)",
        "all": "0.500 (2)",
    }


def test_without_rows_the_table_is_empty():
    assert read_table([]) == {"target": [*AREA_BINS, "all slices", "volume"], "all": ["–"] * 7}
