"""Who is in which split: rules in their order, whole patients, exact fractions, the same draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boltzmed.cards import DatasetCard, load_card
from boltzmed.cards.rules import PARTS, CaseRule, SplitRule
from boltzmed.data.layouts.case import SourceCase
from boltzmed.data.splits import Membership, assign_parts, count_parts, draw_share

PHANTOM = load_card("phantom")


def make_card(name: str = "toy", *, cases: CaseRule | None = None, **split: Any) -> DatasetCard:
    """A card with a rule for cases and, where its fields are given, one for the split."""
    rule = SplitRule("case number", **{"parts": {}, **split}) if split else None
    return replace(PHANTOM, name=name, split=rule, cases=cases or CaseRule())


def found(case: str, **facts: Any) -> SourceCase:
    return SourceCase(case, (), (), **facts)


def numbered(numbers: Iterable[int], **facts: Any) -> list[SourceCase]:
    return [found(f"case_{number:03d}", **facts) for number in numbers]


def parts(cases: list[SourceCase], card: DatasetCard) -> dict[str, str]:
    return {case: member.part for case, member in assign_parts(cases, card).items()}


class TestOrder:
    """Each rule says `test` while all rules after it say something else."""

    def test_without_any_rule_all_is_training(self):
        cases = [*numbered([1]), found("nameless", subset="validation")]
        assert assign_parts(cases, make_card()) == {
            "case_001": Membership("case_001", "train"),
            "nameless": Membership("nameless", "train"),
        }

    def test_the_sources_own_split_is_first(self):
        card = make_card(
            parts={"train": ((1, 9),)}, subsets={"training": "train"}, validation_share=1.0
        )
        cases = [
            found("case_001", split="test", subset="training"),
            found("case_002", subset="training"),
        ]
        assert parts(cases, card) == {"case_001": "test", "case_002": "validation"}

    def test_number_ranges_are_second(self):
        card = make_card(parts={"test": ((3, 5), (8, 8))}, subsets={"training": "train"})
        cases = numbered(range(1, 10), subset="training")
        assert [n for n, part in enumerate(parts(cases, card).values(), 1) if part == "test"] == [
            3,
            4,
            5,
            8,
        ]

    def test_the_publishers_subset_is_third(self):
        card = make_card(parts={"train": ((1, 1),)}, subsets={"validation": "test"}, test_share=0.5)
        cases = [found(f"case_{n}", subset="validation") for n in (1, 2)]
        assert parts(cases, card) == {"case_1": "train", "case_2": "test"}

    def test_a_subset_that_the_card_does_not_name_says_nothing(self):
        card = make_card(subsets={"validation": "train"}, test_share=1.0)
        assert parts([found("a", subset="training"), found("b", subset="validation")], card) == {
            "a": "test",
            "b": "train",
        }

    def test_lots_are_drawn_among_the_rest_alone(self):
        card = make_card(parts={"train": ((1, 10),)}, test_share=0.5)
        found_parts = parts(numbered(range(1, 21)), card)
        assert Counter(list(found_parts.values())[:10]) == {"train": 10}
        assert Counter(list(found_parts.values())[10:]) == {"train": 5, "test": 5}

    def test_validation_comes_from_training_however_it_became_that(self):
        # Ten by number, ten by subset, ten left over.
        cases = [
            *numbered(range(1, 11)),
            *numbered(range(11, 21), subset="training"),
            *numbered(range(21, 31)),
        ]
        card = make_card(
            parts={"train": ((1, 10),)}, subsets={"training": "train"}, validation_share=1.0
        )
        assert set(parts(cases, card).values()) == {"validation"}

    def test_what_the_source_calls_training_never_becomes_validation(self):
        card = make_card(validation_share=1.0)
        cases = [
            found("a", split="train"),
            found("b"),
            found("c", split="test"),
            found("d", split="validation"),
        ]
        assert parts(cases, card) == {
            "a": "train",
            "b": "validation",
            "c": "test",
            "d": "validation",
        }

    def test_a_patient_of_whom_the_source_speaks_once_is_spoken_of(self):
        cases = [
            found("a", patient="p", split="train"),
            found("b", patient="p"),
            found("c", patient="q"),
        ]
        assert parts(cases, make_card(validation_share=1.0)) == {
            "a": "train",
            "b": "train",
            "c": "validation",
        }

    def test_lidc_idris_published_test_patients(self):
        cases = [found(f"LIDC-IDRI-{n:04d}_R_{k}") for n in (4, 5, 1008, 1009) for k in (1, 2)]
        members = assign_parts(cases, load_card("lidc_idri"))
        assert {m.patient for m in members.values() if m.part == "test"} == {
            "LIDC-IDRI-0005",
            "LIDC-IDRI-1008",
        }

    def test_amos_takes_most_of_the_publishers_validation_for_its_test(self):
        for name, last, others in (("amos22_ct", 228, (1, 228)), ("amos22_mr", 556, (501, 556))):
            first = others[0]
            cases = [found(f"amos_{n:04d}", subset="validation") for n in range(first, last + 21)]
            cases += [
                found(f"amos_{n:04d}", subset="training") for n in range(last + 21, last + 31)
            ]
            tested = {
                case for case, part in parts(cases, load_card(name)).items() if part == "test"
            }
            assert tested == {f"amos_{n:04d}" for n in range(last + 1, last + 21)}


class TestPatients:
    def test_numbers_in_a_row_are_one_patients(self):
        card = make_card(
            cases=CaseRule(numbers_per_patient=2), test_share=0.3, validation_share=0.3
        )
        members = assign_parts(numbered(range(1, 201)), card)
        assert members["case_001"].patient == members["case_002"].patient == "patient_0001"
        assert members["case_003"].patient == members["case_004"].patient == "patient_0002"
        for k in range(1, 101):
            assert members[f"case_{2 * k - 1:03d}"] == members[f"case_{2 * k:03d}"]
        assert count_parts(members) == {"test": (30, 60), "train": (49, 98), "validation": (21, 42)}

    def test_half_a_pair_is_a_patient_too(self):
        card = make_card(cases=CaseRule(numbers_per_patient=2), test_share=0.5)
        assert {m.patient for m in assign_parts(numbered([2, 3]), card).values()} == {
            "patient_0001",
            "patient_0002",
        }

    def test_a_name_without_a_number_is_a_patient_of_its_own(self):
        card = make_card(cases=CaseRule(numbers_per_patient=2))
        assert assign_parts([found("nobody")], card)["nobody"].patient == "nobody"

    @pytest.mark.parametrize(
        ("pattern", "patient"),
        [(r"p\d+", "p12"), (r"p(\d+)", "12"), (r"site\d_(p\d+)", "p12")],
    )
    def test_a_pattern_finds_the_patient(self, pattern, patient):
        members = assign_parts([found("site3_p12_ct4")], make_card(cases=CaseRule(patient=pattern)))
        assert members["site3_p12_ct4"].patient == patient

    def test_a_pattern_that_finds_nobody_is_told(self):
        # Each case would be a patient of its own, and a patient's cases would come into several
        # parts.
        card = make_card(cases=CaseRule(patient="x+"))
        with pytest.raises(
            ValueError, match=r"case site3_p12: expected a patient in its name, as card .* says"
        ):
            assign_parts([found("site3_p12")], card)
        assert assign_parts([found("site3_p12", patient="p")], card)["site3_p12"].patient == "p"

    def test_the_sources_own_patient_outranks_the_pattern(self):
        card = make_card(cases=CaseRule(patient=r"p\d+"))
        members = assign_parts([found("p1_a", patient="somebody"), found("p1_b")], card)
        assert [member.patient for member in members.values()] == ["somebody", "p1"]

    def test_the_number_is_the_patterns_group_or_the_last_digits(self):
        for rule, expected in ((CaseRule(), "train"), (CaseRule(number=r"p(\d+)"), "test")):
            card = make_card(cases=rule, parts={"test": ((7, 7),), "train": ((2, 2),)})
            assert parts([found("p007_scan_2")], card) == {"p007_scan_2": expected}

    @pytest.mark.parametrize(
        ("cases", "names"),
        [
            (
                [found("a", patient="p", split="train"), found("b", patient="p", split="test")],
                ("b", "a"),
            ),
            ([found("x_1"), found("x_30", split="test")], ("x_30", "x_1")),
            ([found("x_30", subset="validation"), found("x_1")], ("x_1", "x_30")),
        ],
    )
    def test_a_patient_torn_between_parts_is_refused_with_both_cases(self, cases, names):
        card = make_card(
            cases=CaseRule(patient="^[a-z]"),
            parts={"train": ((1, 9),)},
            subsets={"validation": "test"},
            test_share=0.1,
        )
        with pytest.raises(
            ValueError, match=rf"^case {names[0]}: expected one part .* for {names[1]}; correct"
        ):
            assign_parts(cases, card)


class TestDraw:
    @pytest.mark.parametrize(
        ("count", "share", "drawn"),
        [(10, 0.2, 2), (11, 0.2, 2), (13, 0.2, 3), (3, 0.1, 0), (5, 1, 5)],
    )
    def test_shares_are_exact(self, count, share, drawn):
        assert len(draw_share(map(str, range(count)), share, "salt")) == drawn
        found_parts = Counter(parts(numbered(range(count)), make_card(test_share=share)).values())
        assert found_parts["test"] == drawn and found_parts["train"] == count - drawn

    def test_validation_is_a_share_of_training_and_not_of_all(self):
        card = make_card(test_share=0.2, validation_share=0.25)
        assert Counter(parts(numbered(range(100)), card).values()) == {
            "test": 20,
            "validation": 20,
            "train": 60,
        }

    def test_order_and_repetition_do_not_matter(self):
        cases, card = numbered(range(50)), make_card(test_share=0.2, validation_share=0.2)
        expected = assign_parts(cases, card)
        assert assign_parts(cases[::-1], card) == expected
        assert draw_share(["a", "b", "a", "c"], 1 / 3, "s") == draw_share(
            ["c", "b", "a"], 1 / 3, "s"
        )

    def test_a_broken_case_moves_no_other(self):
        cases, card = numbered(range(50)), make_card(test_share=0.2, validation_share=0.2)
        broken = [
            replace(case, problem="gone") if index % 7 == 0 else case
            for index, case in enumerate(cases)
        ]
        assert assign_parts(broken, card) == assign_parts(cases, card)

    def test_another_data_set_draws_other_patients(self):
        drawn = {
            name: parts(numbered(range(50)), make_card(name, test_share=0.2))
            for name in ("one", "other")
        }
        assert drawn["one"] != drawn["other"]

    def test_the_draw_never_changes(self):
        # Written down once: a new release must not move test cases into training.
        assert sorted(draw_share([f"patient_{n}" for n in range(10)], 0.3, "toy: test")) == [
            "patient_1",
            "patient_5",
            "patient_9",
        ]


CASES = st.lists(
    st.builds(
        lambda number, subset, split: found(f"c_{number}", subset=subset, split=split),
        st.integers(1, 60),
        st.sampled_from([None, "training", "validation"]),
        st.sampled_from([None, None, None, *PARTS]),
    ),
    unique_by=lambda case: case.case,
)
SHARES = st.floats(0, 1)


@settings(deadline=None)
@given(cases=CASES, per_patient=st.integers(1, 5), test=SHARES, validation=SHARES, data=st.data())
def test_no_patient_straddles_whatever_the_shares(cases, per_patient, test, validation, data):
    split = {"subsets": {"validation": "test"}, "parts": {"test": ((11, 20),)}}
    rules = CaseRule(numbers_per_patient=per_patient)
    card = make_card(cases=rules, test_share=test, validation_share=validation, **split)
    try:
        members = assign_parts(cases, card)
    except ValueError as error:  # the rules themselves tore one apart
        assert "expected one part of the data for all cases of a patient" in str(error)
        return
    assert members.keys() == {case.case for case in cases}
    parts_of: dict[str, set[str]] = {}
    for member in members.values():
        parts_of.setdefault(member.patient, set()).add(member.part)
    assert all(len(several) == 1 for several in parts_of.values())
    assert {part for several in parts_of.values() for part in several} <= set(PARTS)
    said = {case.case: case.split for case in cases if case.split}
    assert all(members[case].part == part for case, part in said.items())
    assert assign_parts(data.draw(st.permutations(cases)), card) == members


class TestTheSourcesOwnParts:
    """Without ``subsets`` on the card, several of a source go by their names, one alone doesn't."""

    def test_its_test_part_is_test_and_validation_is_drawn_from_the_rest(self):
        cases = [
            *numbered(range(1, 21), subset="training"),
            *numbered(range(21, 31), subset="test"),
        ]
        given = parts(cases, make_card(test_share=0.5, validation_share=0.2))
        assert {case for case, part in given.items() if part == "test"} == {
            f"case_{k:03d}" for k in range(21, 31)
        }
        assert sum(part == "validation" for part in given.values()) == 4

    def test_its_validation_part_is_the_only_one(self):
        cases = [
            *numbered(range(1, 21), subset="training"),
            *numbered(range(21, 26), subset="validation"),
        ]
        given = parts(cases, make_card(validation_share=0.2))
        expected = {f"case_{k:03d}" for k in range(21, 26)}
        assert {case for case, part in given.items() if part == "validation"} == expected

    def test_the_card_outranks_their_names(self):
        cases = [*numbered([1], subset="training"), *numbered([2], subset="validation")]
        given = parts(cases, make_card(subsets={"validation": "test"}))
        assert given == {"case_001": "train", "case_002": "test"}

    def test_a_broken_case_keeps_its_part_and_moves_no_other(self):
        whole = [
            *numbered(range(1, 21), subset="training"),
            *numbered(range(21, 41), subset="validation"),
        ]
        card = make_card(subsets={"validation": "test"}, validation_share=0.25)
        broken = [
            replace(case, problem="gone") if k % 3 == 0 else case for k, case in enumerate(whole)
        ]
        assert parts(broken, card) == parts(whole, card)
