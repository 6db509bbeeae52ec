"""Which patient a case belongs to, and which part of the data: by the source, by the card, or by
lot.
"""

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
    """Gives every case its patient and its part; a patient's cases all come into one part.

    What decides, the first that applies: the source's own split; the card's number ranges; the
    publisher's subset, as the card translates it, or by its own name where the card doesn't and the
    source has several. Of the patients that are left, `test_share` becomes test. Of the training
    patients then, `validation_share` becomes validation, except where the source has a validation
    part of its own. Both are drawn by a hash of the data set's and the patient's name: no seed, and
    the same draw wherever it is made.

    Args:
        cases: all cases found, readable or not, so that a broken one moves no other.

    Returns:
        case name -> its membership.

    Raises:
        ValueError: the rules put two cases of one patient into different parts, or the card's
            pattern finds no patient in a case's name.
    """
    rule = card.split or SplitRule("case number", {})
    own = {found.subset for found in cases} - {None}
    subsets = rule.subsets or (_SUBSETS if len(own) > 1 else {})
    for found in cases:
        if found.problem is None and not found.patient and not card.cases.knows(found.case):
            raise ValueError(
                f"case {found.case}: expected a patient in its name, as card {card.name} says"
                f" (cases: patient: {card.cases.patient}), found none; correct the card, or name"
                " patients in a column of a table"
            )
    patients = {found.case: found.patient or card.cases.patient_of(found.case) for found in cases}
    fixed: dict[str, str] = {}
    said_by: dict[str, str] = {}
    chosen_by_source: set[str] = set()
    for found in sorted(cases, key=lambda found: found.problem is not None):
        part = found.split or _part_by_card(found, card, rule, subsets)
        patient = patients[found.case]
        if part is None:
            continue
        if found.problem is not None:  # it counts, but a namesake, for one, may be anybody's
            fixed.setdefault(patient, part)
            continue
        if fixed.setdefault(patient, part) != part:
            raise ValueError(
                f"case {found.case}: expected one part of the data for all cases of a patient, got"
                f" {part} here and {fixed[patient]} for {said_by[patient]}; correct the split of"
                " one, or the card's rule for patients"
            )
        said_by.setdefault(patient, found.case)
        if found.split is not None or (subsets is _SUBSETS and "validation" in own):
            chosen_by_source.add(patient)
    free = set(patients.values()) - set(fixed)
    fixed |= dict.fromkeys(draw_share(free, rule.test_share, f"{card.name}: test"), "test")
    training = {
        patient for patient in patients.values() if fixed.setdefault(patient, "train") == "train"
    }
    drawn = draw_share(
        training - chosen_by_source, rule.validation_share, f"{card.name}: validation"
    )
    fixed |= dict.fromkeys(drawn, "validation")
    return {case: Membership(patient, fixed[patient]) for case, patient in patients.items()}


def draw_share(names: Iterable[str], share: float, salt: str) -> set[str]:
    """Returns round(share · n) of n names, those whose hash is lowest; their order in `names` does
    not matter.
    """
    ranked = sorted(
        set(names), key=lambda name: hashlib.sha256(f"{salt}: {name}".encode()).digest()
    )
    return set(ranked[: round(share * len(ranked))])


def count_parts(memberships: Mapping[str, Membership]) -> dict[str, tuple[int, int]]:
    """Returns part -> (patients, cases)."""
    patients: dict[str, list[str]] = defaultdict(list)
    for membership in memberships.values():
        patients[membership.part].append(membership.patient)
    return {part: (len(set(names)), len(names)) for part, names in sorted(patients.items())}


def _part_by_card(
    found: SourceCase, card: DatasetCard, rule: SplitRule, subsets: Mapping[str, str]
) -> str | None:
    number = card.cases.number_of(found.case)
    part = None if number is None else rule.part_of(number)
    return part or (subsets.get(found.subset) if found.subset else None)
