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

# Names of cases are file names. Publishers and archives name files by UIDs and dates, which need not travel on.
_UID = re.compile(r"\d+(?:\.\d+){4,}")
# Name^First of DICOM, with what stands before and after in capitals: Van Dyke^Anna Maria.
_CAPITALISED = r"[A-Z][\w'.-]*"
_PERSON = re.compile(rf"(?:{_CAPITALISED} )*[\w'.-]*[^\W\d_][\w'.-]*\^[\w'.^-]*(?: {_CAPITALISED})*")
_YEAR, _MONTH, _DAY = r"(?:19|20)\d\d", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_TIME = r"(?:\d{2,9}|[T_-]\d{6})?"
_DATES = (
    re.compile(rf"(?<!\d){_YEAR}([-_.]?){_MONTH}\1{_DAY}{_TIME}(?!\d)"),
    # The day first, or the month.
    re.compile(rf"(?<!\d)(?:{_DAY}|[1-9])([-_.])(?:{_DAY}|[1-9])\1{_YEAR}(?!\d)"),
)


def redact_name(name: str) -> str:
    """Return a text without what looks like a UID, a person's name in DICOM's way, or a date."""
    name = _UID.sub("[UID]", name)
    name = _PERSON.sub("[name]", name) if "^" in name else name
    for date in _DATES:
        name = date.sub("[date]", name)
    return name


@dataclass(frozen=True)
class ShownNames:
    """What each name of some rows is shown as. No two are shown alike: a number tells apart what redaction made equal.

    Attributes:
        plain: column -> name -> as shown, of methods, data sets and targets.
        cases: (data set, case) -> as shown.
    """

    plain: Mapping[str, Mapping[str, str]]
    cases: Mapping[tuple[str, str], str]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> ShownNames:
        """The names of rows of `Scores`; the same whatever the rows' order."""
        plain = {column: _tell_apart(rows[column].unique()) for column in ("method", "dataset", "target")}
        cases = {
            (str(dataset), case): shown
            for dataset, group in rows.groupby("dataset", sort=False)
            for case, shown in _tell_apart(group["case"].unique()).items()
        }
        return cls(plain, cases)

    def redact_table(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table with the names in its columns method, dataset, case, target and reason as they are shown."""
        if "case" in table:
            pairs = zip(table["dataset"], table["case"], strict=True)
            table = table.assign(case=[self.cases[str(dataset), str(case)] for dataset, case in pairs])
        for column in self.plain.keys() & set(table.columns):
            table = table.assign(**{column: table[column].map(lambda name, c=column: self.plain[c].get(name, name))})
        return table.assign(reason=table["reason"].map(redact_name)) if "reason" in table else table

    def redact_scores(self, scores: Scores) -> Scores:
        """Rows and notes as they are shown."""
        return Scores(self.redact_table(scores.rows), tuple(redact_name(note) for note in scores.notes))

    def redact_summary(self, summary: Summary) -> Summary:
        """A summary as it is shown."""
        tables: dict[str, Any] = {
            name: self.redact_table(getattr(summary, name)) for name in ("cells", "overall", "excluded")
        }
        return replace(summary, **tables)

    def redact_comparison(self, comparison: Comparison) -> Comparison:
        """A comparison as it is shown."""
        tables: dict[str, Any] = {name: self.redact_table(getattr(comparison, name)) for name in ("cells", "excluded")}
        first = self.plain["method"][comparison.reference_method]
        return replace(comparison, reference_method=first, **tables)

    def find_name(self, column: str, shown: str) -> str:
        """The method, data set or target that is shown so."""
        return next(name for name, text in self.plain[column].items() if text == shown)

    def find_case(self, dataset: str, shown: str) -> str:
        """The case of a data set, by its own name, that is shown so."""
        return next(case for (name, case), text in self.cases.items() if (name, text) == (dataset, shown))


def _tell_apart(names: Iterable[str]) -> dict[str, str]:
    shown = {name: redact_name(name) for name in sorted(map(str, names))}
    many, seen = Counter(shown.values()), Counter[str]()
    for name, text in shown.items():
        seen[text] += 1
        if many[text] > 1:
            shown[name] = f"{text} {seen[text]}"
    return shown
