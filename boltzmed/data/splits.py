"""Assign cases to patients, and patients to splits: by the source, by the card, or by lot."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from boltzmed.cards import DatasetCard
from boltzmed.cards.rules import SplitRule
from boltzmed.data.layouts.case import SourceCase

_SUBSETS = {"training": "train", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class Membership:
    """Whose a case is, and its part: "train", "validation" or "test"."""

    patient: str
    part: str


def assign_parts(cases: Sequence[SourceCase], card: DatasetCard) -> dict[str, Membership]:
    """Give every case its patient and its part; a patient's cases all come into one part.

    What decides, the first that applies: the source's own split; the card's number ranges; the
    publisher's subset, as the card translates it, or by its own name where the card doesn't and the
    source has several. Of the patients that are left, ``test_share`` becomes test. Of the training
    patients then, ``validation_share`` becomes validation, except where the source has a validation
    part of its own. Both are drawn by a hash of the data set's and the patient's name: no seed, and
    the same draw wherever it is made.

    Args:
        cases: all cases of the source, readable or not, so that a broken one moves no other.
        card: the data set's card.

    Returns:
        case name -> its membership.

    Raises:
        ValueError: the rules put two cases of one patient into different parts, or the card's
            pattern finds no patient in a case's name.
    """
    rule = card.split or SplitRule("case number", {})
    patients = _name_patients(cases, card)
    parts, keeps_training = _fix_parts(cases, patients, card, rule)
    undecided = set(patients.values()) - set(parts)
    for patient in draw_share(undecided, rule.test_share, f"{card.name}: test"):
        parts[patient] = "test"
    for patient in undecided:
        parts.setdefault(patient, "train")
    training = {patient for patient, part in parts.items() if part == "train"}
    drawn = draw_share(training - keeps_training, rule.validation_share, f"{card.name}: validation")
    for patient in drawn:
        parts[patient] = "validation"
    return {case: Membership(patient, parts[patient]) for case, patient in patients.items()}


def draw_share(names: Iterable[str], share: float, salt: str) -> set[str]:
    """Draw round(share · n) of n names: those whose hash is lowest, whatever their order."""
    ranked = sorted(
        set(names), key=lambda name: hashlib.sha256(f"{salt}: {name}".encode()).digest()
    )
    return set(ranked[: round(share * len(ranked))])


def count_parts(memberships: Mapping[str, Membership]) -> dict[str, tuple[int, int]]:
    """Return part -> (patients, cases)."""
    patients: dict[str, list[str]] = defaultdict(list)
    for membership in memberships.values():
        patients[membership.part].append(membership.patient)
    return {part: (len(set(names)), len(names)) for part, names in sorted(patients.items())}


def _name_patients(cases: Sequence[SourceCase], card: DatasetCard) -> dict[str, str]:
    """Return case -> patient: the source's, else the card's rule."""
    patients = {}
    for case in cases:
        if case.problem is None and not case.patient and not card.cases.knows(case.case):
            raise ValueError(
                f"case {case.case}: expected a patient in its name, as card {card.name} says"
                f" (cases: patient: {card.cases.patient}), found none; correct the card, or name"
                " patients in a column of a table"
            )
        patients[case.case] = case.patient or card.cases.patient_of(case.case)
    return patients


def _fix_parts(
    cases: Sequence[SourceCase], patients: Mapping[str, str], card: DatasetCard, rule: SplitRule
) -> tuple[dict[str, str], set[str]]:
    """Return patient -> part where source or card decide, and whom no draw makes validation."""
    source_subsets = {case.subset for case in cases} - {None}
    subsets = rule.subsets
    if not subsets and len(source_subsets) > 1:
        subsets = _SUBSETS
    source_validates = subsets is _SUBSETS and "validation" in source_subsets
    parts: dict[str, str] = {}
    first_case: dict[str, str] = {}
    keeps_training: set[str] = set()
    # Readable cases first: what one of them says is not to be outdone by a broken one.
    for case in sorted(cases, key=lambda case: case.problem is not None):
        part = case.split or _part_by_card(case, card, rule, subsets)
        patient = patients[case.case]
        if part is None:
            continue
        if case.problem is not None:  # it counts, but a namesake, for one, may be anybody's
            parts.setdefault(patient, part)
            continue
        if parts.setdefault(patient, part) != part:
            raise ValueError(
                f"case {case.case}: expected one part of the data for all cases of a patient,"
                f" received {part} here and {parts[patient]} for {first_case[patient]}; correct the"
                " split of one, or the card's rule for patients"
            )
        first_case.setdefault(patient, case.case)
        if case.split is not None or source_validates:
            keeps_training.add(patient)
    return parts, keeps_training


def _part_by_card(
    case: SourceCase, card: DatasetCard, rule: SplitRule, subsets: Mapping[str, str]
) -> str | None:
    number = card.cases.number_of(case.case)
    if number is not None:
        part = rule.part_of(number)
        if part is not None:
            return part
    return None if case.subset is None else subsets.get(case.subset)
