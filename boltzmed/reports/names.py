"""Names as a report shows them: without UIDs, dates and persons, and still told apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from boltzmed.reports.comparison import Comparison
from boltzmed.reports.scores import Scores
from boltzmed.reports.summary import Summary

# Names of cases are file names. Publishers and archives name files by UIDs and dates, which need
# not travel on.
_UIDS = (
    re.compile(r"\d+(?:\.\d+){4,}"),
    # With the dots replaced, as file systems have them: roots are 0, 1 or 2. And those made of a
    # UUID, 2.25.number.
    re.compile(r"(?<!\d)[0-2]([-_])\d+(?:\1\d+){3,}(?!\d)"),
    re.compile(r"(?<![\d.])2([-._])25\1\d{6,}"),
)
# Name^First of DICOM, with the words before and after it: Van Dyke^Anna Maria.
_WORD = r"[\w'.-]*"
_PERSON = re.compile(rf"(?:{_WORD} )*{_WORD}[^\W\d_]{_WORD}\^[\w'.^-]*(?: {_WORD})*")
_YEAR, _MONTH, _DAY = r"(?:19|20)\d\d", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_M, _D = rf"(?:{_MONTH}|[1-9])", rf"(?:{_DAY}|[1-9])"
_JANUARY = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)"
)
_TIME = r"(?:\d{2,9}|[T_-]\d{6}|[T _]\d\d:\d\d(?::\d\d)?)?"
_DATES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?<!\d){_YEAR}([-_./ ]?){_MONTH}\1{_DAY}{_TIME}(?!\d)",
        rf"(?<!\d){_YEAR}([-_./ ]){_M}\1{_D}(?!\d)",
        # The day first, or the month.
        rf"(?<!\d)(?:{_DAY}{_MONTH}|{_MONTH}{_DAY}){_YEAR}(?!\d)",
        rf"(?<!\d)(?:{_D}([-_./ ]){_M}|{_M}([-_./ ]){_D})(?:\1|\2){_YEAR}(?!\d)",
        rf"(?<!\d){_D}[-_./ ]?{_JANUARY}[-_./ ,]{{0,2}}(?:{_YEAR}|\d\d)(?!\d)",
        rf"(?<![^\W\d_]){_JANUARY}[-_./ ]?{_D}[-_./ ,]{{1,2}}{_YEAR}(?!\d)",
        rf"(?<!\d){_YEAR}[-_./ ]?{_JANUARY}[-_./ ]?{_D}(?!\d)",
        # A year of two digits, not in versions such as v1.10.12; never between underscores, which
        # tell slices apart.
        rf"(?<![\dv.])(?:{_D}([-./]){_M}|{_M}([-./]){_D})(?:\1|\2)\d\d(?![-./]?\d)",
        rf"(?<![\dv.])\d\d([-./]){_MONTH}\1{_DAY}(?![-./]?\d)",
    )
)


def redact_name(name: str) -> str:
    """Return a text without what looks like a UID, a person's name in DICOM's way, or a date.

    Not caught: names of persons in any other form, dates of six digits without separators, and
    hospital numbers. `ShownNames.of` numbers the cases instead, where that matters.
    """
    for uid in _UIDS:
        name = uid.sub("[UID]", name)
    name = _PERSON.sub("[name]", name) if "^" in name else name
    for date in _DATES:
        name = date.sub("[date]", name)
    return name


@dataclass(frozen=True)
class ShownNames:
    """What each name of some rows is shown as. No two are shown alike: a number tells apart what
    redaction made equal.

    Attributes:
        plain: column -> name -> as shown, of methods, data sets and targets.
        cases: (data set, case) -> as shown.
    """

    plain: Mapping[str, Mapping[str, str]]
    cases: Mapping[tuple[str, str], str]

    @classmethod
    def of(cls, rows: pd.DataFrame, *, number_cases: bool = False) -> ShownNames:
        """The names of rows of `Scores`; the same whatever the rows' order.

        Args:
            rows: Of `Scores`.
            number_cases: Show the cases of each data set as "case 001", "case 002" …, in the order
                of their names.
        """
        plain = {
            column: _tell_apart(rows[column].unique()) for column in ("method", "dataset", "target")
        }
        cases = {
            (str(dataset), case): shown
            for dataset, group in rows.groupby("dataset", sort=False)
            for case, shown in (_number if number_cases else _tell_apart)(
                group["case"].unique()
            ).items()
        }
        return cls(plain, cases)

    def redact_table(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table with the names in its columns method, dataset, case, target and reason as they
        are shown.
        """
        if "case" in table:
            pairs = zip(table["dataset"], table["case"], strict=True)
            table = table.assign(
                case=[self.cases[str(dataset), str(case)] for dataset, case in pairs]
            )
        for column in self.plain.keys() & set(table.columns):
            table = table.assign(
                **{column: table[column].map(lambda name, c=column: self.plain[c].get(name, name))}
            )
        return (
            table.assign(reason=table["reason"].map(self._redact_text))
            if "reason" in table
            else table
        )

    def redact_scores(self, scores: Scores) -> Scores:
        """Rows and notes as they are shown."""
        return Scores(self.redact_table(scores.rows), tuple(map(self._redact_text, scores.notes)))

    def redact_summary(self, summary: Summary) -> Summary:
        """A summary as it is shown."""
        tables: dict[str, Any] = {
            name: self.redact_table(getattr(summary, name))
            for name in ("cells", "overall", "excluded")
        }
        return replace(summary, **tables)

    def redact_comparison(self, comparison: Comparison) -> Comparison:
        """A comparison as it is shown."""
        tables: dict[str, Any] = {
            name: self.redact_table(getattr(comparison, name))
            for name in ("cells", "excluded", "presence")
        }
        first = self.plain["method"][comparison.reference_method]
        return replace(comparison, reference_method=first, **tables)

    def find_name(self, column: str, shown: str) -> str:
        """The method, data set or target that is shown so."""
        return next(name for name, text in self.plain[column].items() if text == shown)

    def find_case(self, dataset: str, shown: str) -> str:
        """The case of a data set, by its own name, that is shown so."""
        return next(
            case for (name, case), text in self.cases.items() if (name, text) == (dataset, shown)
        )

    def _redact_text(self, text: str) -> str:
        """A sentence that may hold names of methods, data sets and targets."""
        changed = {
            name: shown
            for names in self.plain.values()
            for name, shown in names.items()
            if name != shown
        }
        for name in sorted(changed, key=len, reverse=True):
            text = text.replace(name, changed[name])
        return redact_name(text)


def _number(names: Iterable[str]) -> dict[str, str]:
    ordered = sorted(map(str, names))
    digits = max(3, len(str(len(ordered))))
    return {name: f"case {number:0{digits}}" for number, name in enumerate(ordered, start=1)}


def _tell_apart(names: Iterable[str]) -> dict[str, str]:
    shown = {name: redact_name(name) for name in sorted(map(str, names))}
    many, seen = Counter(shown.values()), Counter[str]()
    for name, text in shown.items():
        seen[text] += 1
        if many[text] > 1:
            shown[name] = f"{text} {seen[text]}"
    return shown
