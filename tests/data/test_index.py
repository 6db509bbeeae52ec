"""The index by hand: what each protocol counts, how large targets are, and what is absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from boltzmed.cards import DatasetCard, Target, load_card
from boltzmed.data.case_file import CaseFacts
from boltzmed.data.index import COLUMNS, MeasuredCase, absent_pairs, build_index
from boltzmed.data.splits import Membership

PHANTOM = load_card("phantom")


def make_target(name: str, labels: tuple[int, ...], **changes: Any) -> Target:
    return replace(PHANTOM.target("liver"), name=name, labels=labels, **changes)


def make_card(*targets: Target) -> DatasetCard:
    """A CT card with the phantom's windows, `abdomen` and `lung`."""
    return replace(PHANTOM, name="toy", targets={target.name: target for target in targets})


LEFT, RIGHT = make_target("left", (1,)), make_target("right", (2,))
BOTH = make_target("both", (1, 2), all_labels=True)
EITHER = make_target("either", (1, 2))


def make_case(
    pixels: Sequence[Sequence[int]],
    card: DatasetCard,
    *,
    case: str = "c",
    hw: tuple[int, int] = (10, 20),
    affine: Any = None,
    targets: Mapping[str, tuple[int, ...]] | None = None,
) -> MeasuredCase:
    """A case of K slices with so many pixels of label 1, 2 … each."""
    counted = np.array(pixels, np.int32)
    affine = np.diag([2.5, 0.8, 0.7, 1.0]) if affine is None else affine
    facts = CaseFacts(
        case=case,
        plane="axial",
        shape=(len(counted), *hw),
        spacing_mm=(
            None if affine is False else tuple(np.linalg.norm(np.asarray(affine)[:3, :3], axis=0))
        ),
        affine_ras=np.eye(4).tolist() if affine is False else np.asarray(affine).tolist(),
        window=None,
        percentiles=None,
        label_values=tuple(range(1, counted.shape[1] + 1)),
        targets=(
            {name: target.labels for name, target in card.targets.items()}
            if targets is None
            else targets
        ),
        findings=[],
        made_from={},
    )
    return MeasuredCase(facts, counted)


def index(case: MeasuredCase, card: DatasetCard, protocol: str) -> pd.DataFrame:
    return build_index([case], {case.facts.case: Membership("p", "train")}, card, protocol)


def rows(table: pd.DataFrame, *columns: str) -> list[tuple]:
    return list(table[list(columns)].itertuples(index=False, name=None))


class TestVolume:
    def test_every_pixel_counts(self):
        card = make_card(LEFT, BOTH)
        table = index(make_case([[0, 0], [100, 0], [1, 50], [0, 3]], card), card, "volume")
        assert rows(table, "slice_index", "target", "pixels", "used") == [
            (1, "left", 100, 1),
            (1, "both", 100, 1),
            (2, "left", 1, 1),
            (2, "both", 51, 1),
            (3, "both", 3, 1),
        ]

    def test_extra_windows_and_all_labels_are_not_for_it(self):
        card = make_card(replace(LEFT, extra_windows=("lung",)), BOTH)
        table = index(make_case([[5, 0]], card), card, "volume")
        assert rows(table, "target", "window", "used") == [
            ("left", "abdomen", 1),
            ("both", "abdomen", 1),
        ]

    def test_a_row_knows_whose_it_is(self):
        card = make_card(LEFT)
        cases = [make_case([[5]], card, case=name) for name in ("b", "a")]
        members = {"a": Membership("pa", "test"), "b": Membership("pb", "validation")}
        table = build_index(cases, members, card, "volume")
        assert tuple(table.columns) == COLUMNS
        assert rows(table, "dataset", "case", "patient", "split") == [
            ("toy", "a", "pa", "test"),
            ("toy", "b", "pb", "validation"),
        ]

    def test_nothing_gives_an_empty_table_of_all_columns(self):
        card = make_card(LEFT)
        for table in (
            build_index([], {}, card, "volume"),
            index(make_case([[0], [0]], card), card, "volume"),
        ):
            assert tuple(table.columns) == COLUMNS and table.empty and int(table["used"].sum()) == 0

    def test_a_target_that_the_case_cannot_show_has_no_rows(self):
        card = make_card(LEFT, RIGHT)
        table = index(
            make_case([[5, 5]], card, targets={"left": (1,), "right": ()}), card, "volume"
        )
        assert rows(table, "target") == [("left",)]


class TestBiomedparse:
    @pytest.mark.parametrize(
        ("largest", "kept", "dropped"),
        [(100, 10, 9), (1, 1, None), (10, 1, None), (11, 2, 1), (99, 10, 9)],
    )
    def test_a_tenth_of_the_largest_slice_is_enough(self, largest, kept, dropped):
        card = make_card(LEFT)
        table = index(
            make_case([[largest], [kept], [dropped or 0], [0]], card), card, "biomedparse"
        )
        expected = [(0, 1), (1, 1)] + ([(2, 0)] if dropped else [])
        assert rows(table, "slice_index", "used") == expected

    def test_the_tenth_is_of_each_volume_by_itself(self):
        card = make_card(LEFT)
        cases = [
            make_case([[1000], [10]], card, case="a"),
            make_case([[100], [10]], card, case="b"),
        ]
        members = {name: Membership(name, "train") for name in "ab"}
        assert build_index(cases, members, card, "biomedparse")["used"].tolist() == [1, 0, 1, 1]

    def test_the_tenth_is_exact_for_any_size(self):
        card = make_card(LEFT)
        for largest in range(1, 2000, 7):
            pixels = [[n] for n in (largest, -(-largest // 10), (largest - 1) // 10)]
            used = index(make_case(pixels, card), card, "biomedparse").set_index("slice_index")[
                "used"
            ]
            assert used[0] == used[1] == 1 and used.get(2, 0) == 0

    def test_a_merged_target_needs_each_of_its_labels_by_its_own_tenth(self):
        card = make_card(LEFT, RIGHT, BOTH)
        table = index(
            make_case([[100, 50], [10, 5], [9, 50], [100, 4], [100, 0], [0, 0]], card),
            card,
            "biomedparse",
        )
        used = {
            name: dict(rows(part, "slice_index", "used"))
            for name, part in table.groupby("target", sort=False)
        }
        assert used["left"] == {0: 1, 1: 1, 2: 0, 3: 1, 4: 1}
        assert used["right"] == {0: 1, 1: 1, 2: 1, 3: 0}
        assert used["both"] == {0: 1, 1: 1, 2: 0, 3: 0, 4: 0}
        assert rows(table[table["target"] == "both"], "pixels") == [
            (150,),
            (15,),
            (59,),
            (104,),
            (100,),
        ]

    def test_a_union_needs_its_sum_alone(self):
        card = make_card(EITHER)
        table = index(make_case([[100, 0], [0, 10], [5, 4]], card), card, "biomedparse")
        assert rows(table, "slice_index", "pixels", "used") == [(0, 100, 1), (1, 10, 1), (2, 9, 0)]

    def test_a_merged_target_of_a_volume_with_one_label_alone_is_never_asked_for(self):
        card = make_card(BOTH)
        table = index(make_case([[100, 0], [50, 0]], card), card, "biomedparse")
        assert table["used"].tolist() == [0, 0]

    def test_extra_windows_show_the_rows_again(self):
        card = make_card(replace(LEFT, extra_windows=("lung",)), RIGHT)
        table = index(make_case([[100, 7], [9, 0]], card), card, "biomedparse")
        assert rows(table, "slice_index", "target", "window", "used") == [
            (0, "left", "abdomen", 1),
            (0, "left", "lung", 1),
            (0, "right", "abdomen", 1),
            (1, "left", "abdomen", 0),
            (1, "left", "lung", 0),
        ]
        double = table[table["target"] == "left"].groupby("window")
        assert len({tuple(part["area_fraction"]) for _, part in double}) == 1

    def test_what_is_dropped_is_no_negative(self):
        card = make_card(LEFT, RIGHT, BOTH)
        table = index(make_case([[100, 0], [9, 0], [0, 0]], card), card, "biomedparse")
        absent = absent_pairs(table, {"c": 3}, ["left", "right", "both"])
        assert rows(absent, "case", "slice_index", "target") == [
            ("c", 0, "right"),
            ("c", 1, "right"),
            ("c", 2, "left"),
            ("c", 2, "right"),
            ("c", 2, "both"),
        ]


class TestSizes:
    @pytest.mark.parametrize(
        ("hw", "square"), [((10, 20), 400), ((20, 10), 400), ((7, 7), 49), ((1, 30), 900)]
    )
    def test_area_fractions_are_of_the_padded_square(self, hw, square):
        card = make_card(LEFT)
        table = index(make_case([[7], [3]], card, hw=hw), card, "volume")
        assert table["area_fraction"].tolist() == [7 / square, 3 / square]

    @pytest.mark.parametrize(
        ("affine", "voxel_mm3"),
        [
            (np.diag([2.5, 0.8, 0.7, 1]), 1.4),
            (np.diag([-2.5, 0.8, -0.7, 1]), 1.4),
            # A gantry tilt: the slice axis is longer than the distance of the slices.
            ([[3, 0, 0, 5], [4, 2, 0, 6], [0, 0, 0.5, 7], [0, 0, 0, 1]], 3.0),
        ],
    )
    def test_volumes_are_the_whole_cases_in_mm3(self, affine, voxel_mm3):
        card = make_card(LEFT, BOTH)
        for protocol in ("volume", "biomedparse"):  # what is dropped still belongs to the object
            table = index(make_case([[100, 0], [9, 2]], card, affine=affine), card, protocol)
            volumes = dict(rows(table, "target", "volume_mm3"))
            assert volumes == {
                "left": pytest.approx(109 * voxel_mm3),
                "both": pytest.approx(111 * voxel_mm3),
            }

    def test_pictures_have_no_volume(self):
        card = make_card(LEFT)
        assert (
            index(make_case([[7]], card, affine=False), card, "volume")["volume_mm3"].isna().all()
        )

    def test_large_counts_do_not_overflow(self):
        card = make_card(EITHER)
        table = index(
            make_case([[2**31 - 1, 2**31 - 1]], card, hw=(70000, 70000)), card, "biomedparse"
        )
        assert rows(table, "pixels", "used") == [(2**32 - 2, 1)]


class TestAbsent:
    def test_all_slices_of_a_case_without_rows_are_negatives(self):
        empty = build_index([], {}, make_card(LEFT), "volume")
        assert rows(absent_pairs(empty, {"a": 2}, ["x"]), "case", "slice_index", "target") == [
            ("a", 0, "x"),
            ("a", 1, "x"),
        ]

    def test_windows_do_not_multiply_them(self):
        card = make_card(replace(LEFT, extra_windows=("lung",)))
        table = index(make_case([[5], [0]], card), card, "biomedparse")
        assert rows(absent_pairs(table, {"c": 2}, ["left"]), "slice_index") == [(1,)]

    def test_none_where_nothing_is_asked(self):
        card = make_card(LEFT)
        table = index(make_case([[5], [0]], card), card, "volume")
        assert absent_pairs(table, {}, ["left"]).empty and absent_pairs(table, {"c": 2}, []).empty


@pytest.mark.parametrize(
    ("window", "key"),
    [
        ((-150.0, 250.0), "-150,250"),
        ((-0.5, 17.25), "-0.5,17.25"),
        ((0.0, 123456.0), "0,123456"),
        ((0.0, 1234567.25), "0,1234567.25"),
    ],
)
def test_a_window_of_numbers_is_its_numbers(window, key):
    card = make_card(replace(LEFT, window_name="custom", window=window))
    (found,) = index(make_case([[5]], card), card, "volume")["window"]
    assert found == key and tuple(map(float, found.split(","))) == window


def test_an_unknown_protocol_is_refused():
    card = make_card(LEFT)
    with pytest.raises(
        ValueError, match=r"^protocol: expected one of volume, biomedparse, received 'all'$"
    ):
        build_index([], {}, card, "all")
