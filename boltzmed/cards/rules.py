"""How a data set tells its cases apart: their numbers, their patients, and the part that each
belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from boltzmed.cards.fields import CardReader

LAYOUTS: Mapping[str, Mapping[str, str]] = {
    "amos22": {"numbers": "range"},
    "biomedparse": {},
    "decathlon": {"channel": "count", "task": "text"},
    "lidc_idri": {"consensus": "share", "min_readers": "count"},
    "nnunet": {"channel": "count"},
    "pairs": {},
}
"""Reader of a publisher's layout (`boltzmed.data.layouts`) -> its options and their kind."""

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class SplitRule:
    """Which part ("train", "validation", "test") a case belongs to; the first that says so decides.

    Attributes:
        by: what is numbered: "case number", "seed".
        parts: part -> ranges of numbers, both ends included; they never overlap.
        subsets: the publisher's own part ("training", "validation") -> part. What is left is
            training.
        test_share: share of the patients of whom nothing above says so that becomes test.
        validation_share: share of the training patients that becomes validation.
    """

    by: str
    parts: Mapping[str, tuple[tuple[int, int], ...]]
    subsets: Mapping[str, str] = field(default_factory=dict)
    test_share: float = 0.0
    validation_share: float = 0.0

    def part_of(self, number: int) -> str | None:
        """Returns the part ("train", "test" …) that a case number or seed belongs to, or None."""
        for part, ranges in self.parts.items():
            if any(first <= number <= last for first, last in ranges):
                return part
        return None


@dataclass(frozen=True)
class CaseRule:
    """What a case's name says of it.

    Attributes:
        number: regular expression whose only group is the case number; by default the name's last
            run of digits.
        patient: regular expression whose match (its group, if it has one) is the patient; by
            default each case is a patient of its own.
        numbers_per_patient: so many numbers in a row, from 1, are one patient's (2: the two sides
            of one subject).
    """

    number: str | None = None
    patient: str | None = None
    numbers_per_patient: int | None = None

    def number_of(self, case: str) -> int | None:
        """Returns the case number, or None where the name has none."""
        found = re.findall(self.number or r"\d+", case)
        return int(found[0 if self.number else -1]) if found else None

    def knows(self, case: str) -> bool:
        """Returns whether the pattern, if there is one, finds a patient in a case's name."""
        return self.patient is None or re.search(self.patient, case) is not None

    def find_patient(self, case: str) -> str | None:
        """Returns the patient's name, or None where no rule finds one in the case's."""
        if self.numbers_per_patient is not None and (number := self.number_of(case)) is not None:
            return f"patient_{(number - 1) // self.numbers_per_patient + 1:04d}"
        match = re.search(self.patient, case) if self.patient else None
        return None if match is None else match.group(match.re.groups)

    def patient_of(self, case: str) -> str:
        """Returns the patient's name: the case's own where no rule applies."""
        return self.find_patient(case) or case


def read_layout(card: CardReader) -> dict[str, Any]:
    """Reads a card's `layout`: its reader and that reader's options; {} where there is none."""
    layout = card.section("layout", required=False)
    if layout is None:
        return {}
    reader = layout.text("reader")
    if reader not in LAYOUTS:
        layout.fail("reader", f"expected one of {', '.join(LAYOUTS)}, got {reader!r}")
    layout.only("reader", *LAYOUTS[reader])
    options: dict[str, Any] = {"reader": reader}
    for option, kind in LAYOUTS[reader].items():
        if option in layout.names:
            options[option] = getattr(layout, kind)(option)
    return options


def read_case_rule(card: CardReader) -> CaseRule:
    """Reads a card's `cases`; without it every case is a patient of its own."""
    cases = card.section("cases", required=False)
    if cases is None:
        return CaseRule()
    cases.only("number", "patient", "numbers_per_patient")
    if {"patient", "numbers_per_patient"} <= set(cases.names):
        cases.fail("patient", "expected this or numbers_per_patient, got both")
    per_patient = (
        cases.count("numbers_per_patient") if "numbers_per_patient" in cases.names else None
    )
    if per_patient == 0:
        cases.fail("numbers_per_patient", "expected a number from 1, got 0")
    number = cases.pattern("number", groups=(1,)) if "number" in cases.names else None
    patient = cases.pattern("patient", groups=(0, 1)) if "patient" in cases.names else None
    return CaseRule(number, patient, per_patient)


def read_split(card: CardReader) -> SplitRule | None:
    """Reads a card's `split`, None where it has none."""
    split = card.section("split", required=False)
    if split is None:
        return None
    split.only("by", "subsets", "test_share", "validation_share", *PARTS)
    parts = {part: split.ranges(part) for part in PARTS if part in split.names}
    by = split.text("by") if parts or "by" in split.names else "case number"
    ordered = sorted(
        (first, last, part) for part, ranges in parts.items() for first, last in ranges
    )
    for (_, last, part), (first, _, next_part) in pairwise(ordered):
        if first <= last:
            split.fail(next_part, f"{first} already belongs to {part}")
    subsets = split.section("subsets", required=False)
    named = {name: subsets.text(name) for name in subsets.names} if subsets else {}
    for name, part in named.items():
        if part not in PARTS:
            split.fail(f"subsets: {name}", f"expected one of {', '.join(PARTS)}, got {part!r}")
    shares = {
        name: split.share(name)
        for name in ("test_share", "validation_share")
        if name in split.names
    }
    return SplitRule(by, parts, named, **shares)
