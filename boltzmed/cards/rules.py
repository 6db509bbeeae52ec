"""How a data set tells its cases apart: by number, by patient, and by the split that each is in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from boltzmed.cards.fields import CardReader

LAYOUTS: Mapping[str, Mapping[str, Callable[[CardReader, str], Any]]] = {
    "amos22": {"numbers": CardReader.range},
    "biomedparse": {},
    "decathlon": {"channel": CardReader.count, "task": CardReader.text},
    "lidc_idri": {"consensus": CardReader.share, "min_readers": CardReader.count},
    "nnunet": {"channel": CardReader.count},
    "pairs": {},
}
"""Reader of a publisher's layout (``boltzmed.data.layouts``) -> its options and their readers."""

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class SplitRule:
    """Which part ("train", "validation", "test") a case belongs to; the first that applies decides.

    Attributes:
        by: what is numbered: "case number", "seed".
        parts: part -> ranges of numbers, both ends included; they never overlap.
        subsets: the publisher's own part ("training", "validation") -> part. What is left is
            training.
        test_share: fraction of the patients that neither numbers nor subsets assign which becomes
            test.
        validation_share: fraction of the training patients that becomes validation.
    """

    by: str
    parts: Mapping[str, tuple[tuple[int, int], ...]]
    subsets: Mapping[str, str] = field(default_factory=dict)
    test_share: float = 0.0
    validation_share: float = 0.0

    def part_of(self, number: int) -> str | None:
        """Return the part ("train", "test" …) that a case number or seed belongs to, or None."""
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
        """Return the case number, or None where the name has none."""
        numbers = re.findall(self.number or r"\d+", case)
        if not numbers:
            return None
        return int(numbers[0] if self.number else numbers[-1])

    def knows(self, case: str) -> bool:
        """Return whether the pattern, if there is one, finds a patient in a case's name."""
        return self.patient is None or re.search(self.patient, case) is not None

    def find_patient(self, case: str) -> str | None:
        """Return the patient's name, or None where no rule finds one in the case's."""
        if self.numbers_per_patient is not None:
            number = self.number_of(case)
            if number is not None:
                return f"patient_{(number - 1) // self.numbers_per_patient + 1:04d}"
        if self.patient is None:
            return None
        match = re.search(self.patient, case)
        # Group 0 is the whole match, and a pattern has one group at most.
        return None if match is None else match.group(match.re.groups)

    def patient_of(self, case: str) -> str:
        """Return the patient's name: the case's own where no rule applies."""
        return self.find_patient(case) or case


def read_layout(card: CardReader) -> dict[str, Any]:
    """Read a card's ``layout``: its reader and that reader's options; {} where there is none."""
    layout = card.section("layout")
    if layout is None:
        return {}
    reader = layout.one_of("reader", LAYOUTS)
    layout.only("reader", *LAYOUTS[reader])
    options: dict[str, Any] = {"reader": reader}
    for option, read in LAYOUTS[reader].items():
        if option in layout.names:
            options[option] = read(layout, option)
    return options


def read_case_rule(card: CardReader) -> CaseRule:
    """Read a card's ``cases``; without it every case is a patient of its own."""
    cases = card.section("cases")
    if cases is None:
        return CaseRule()
    cases.only("number", "patient", "numbers_per_patient")
    if {"patient", "numbers_per_patient"} <= set(cases.names):
        cases.fail("patient", "expected this or numbers_per_patient, received both")
    rule: dict[str, Any] = {}
    if "numbers_per_patient" in cases.names:
        rule["numbers_per_patient"] = cases.count("numbers_per_patient")
        if rule["numbers_per_patient"] == 0:
            cases.fail("numbers_per_patient", "expected a number from 1, received 0")
    if "number" in cases.names:
        rule["number"] = cases.pattern("number", groups=(1,))
    if "patient" in cases.names:
        rule["patient"] = cases.pattern("patient", groups=(0, 1))
    return CaseRule(**rule)


def read_split(card: CardReader) -> SplitRule | None:
    """Read a card's ``split``, None where it has none."""
    split = card.section("split")
    if split is None:
        return None
    split.only("by", "subsets", "test_share", "validation_share", *PARTS)
    parts = {part: split.ranges(part) for part in PARTS if part in split.names}
    by = "case number"
    # Numbers need a unit: a phantom's are seeds, a publisher's are in the names of its cases.
    if parts or "by" in split.names:
        by = split.text("by")
    _refuse_overlap(split, parts)
    subsets = {}
    named = split.section("subsets")
    if named is not None:
        for subset in named.names:
            subsets[subset] = named.one_of(subset, PARTS)
    shares = {}
    for share in ("test_share", "validation_share"):
        if share in split.names:
            shares[share] = split.share(share)
    return SplitRule(by, parts, subsets, **shares)


def _refuse_overlap(split: CardReader, parts: Mapping[str, tuple[tuple[int, int], ...]]) -> None:
    ordered = []
    for part, ranges in parts.items():
        for first, last in ranges:
            ordered.append((first, last, part))
    for (_, last, part), (first, _, next_part) in pairwise(sorted(ordered)):
        if first <= last:
            split.fail(next_part, f"{first} already belongs to {part}")
