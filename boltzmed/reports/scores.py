"""Tables of results → rows to compute with: the one reader of `stats`, `summarize` and `compare`.

A table is a CSV of this project or anybody's, with at least the columns `SCORES`, gzipped or not.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from boltzmed.reports.patients import assign_patients
from boltzmed.results import LEVELS, CaseResult, read_text

SCORES = ("method", "dataset", "case", "target", "dice", "area_fraction")
"""The columns that every table of scores has."""

OBJECT = ("dataset", "case", "level", "axis", "slice_index", "window", "target")
"""What tells one scored object from another, whatever the method."""

SHARES = (
    "dice",
    "area_fraction",
    "presence_score",
    "iou",
    "nsd",
    "detection_f1",
    "panoptic_quality",
)
"""Columns of numbers from 0 to 1; scores among them are shown in percent."""

ERRORS = (
    "hd95_mm",
    "assd_mm",
    "false_positive_mm3",
    "false_negative_mm3",
    "missed_lesions",
    "false_lesions",
)
"""Columns of which the lower number is the better one."""

DIFFERENCES = ("volume_difference_mm3",)
"""Columns of which 0 is the best, with a sign."""

_NEIGHBOURS = ("reference_lesions", "predicted_lesions", "panoptic_quality")
_MATCHES = ("matched_lesions", "missed_lesions", "false_lesions", "detection_f1")
_RULES = {"nsd": "nsd_tolerance_mm", **dict.fromkeys((*_NEIGHBOURS, *_MATCHES), "lesion_rule")}
"""Score -> the column that says how it was measured; `_NEIGHBOURS` go by its neighbours alone, not
by the matching.
"""

LEVEL_OF = {"area": "slice", "diameter": "volume", "volume": "volume"}
"""Which rows an object's size is taken from: its share of a slice, or the volume of all of it."""

_SIZE_RTOL, _SIZE_ATOL = 1e-2, 1e-6

_TYPES = {field.name: str(field.type) for field in fields(CaseResult)}
_FLAGS = {name for name, kind in _TYPES.items() if kind == "bool"}
_NUMBERS = {name for name, kind in _TYPES.items() if kind.startswith(("float", "int"))} | {"used"}
_KNOWN = {*_TYPES, "window", "used"}  # a cache's index has these two besides
_OTHER_MARKS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_NOTHING = ("", "nan", "na", "none", "null")


@dataclass(frozen=True)
class Scores:
    """What tables of results hold.

    Attributes:
        rows: A row per method and object: `SCORES`, the rest of `OBJECT` and `patient` as text,
            other known columns where a table has them; NaN where a number is not there. `shown`
            says that the reference has the object.
        notes: What a reader of the numbers has to know: where patients come from, which columns
            were left out.
    """

    rows: pd.DataFrame
    notes: tuple[str, ...]


def read_scores(paths: Iterable[str | Path], *, patient_pattern: str | None = None) -> Scores:
    """Read tables of results, one after the other.

    A case has one patient in all of them, see `assign_patients`.

    Args:
        paths: CSV files, gzipped or not.
        patient_pattern: Regular expression on the case; its first group, or the whole match, is the
            patient.

    Raises:
        ValueError: A file that cannot be read, is empty, lacks a column or holds a wrong cell; an
            object that is scored twice for one method; a case of two patients; or a pattern that is
            none. One line that names file and line.
    """
    tables, notes = [], []
    for path in map(Path, paths):
        table, unknown = read_columns(path, SCORES)
        if unknown:
            notes.append(
                f"{path.name}: columns that are not known were left out: {', '.join(unknown)}"
            )
        tables.append(table.assign(file=str(path)))
    if not tables:
        raise ValueError("expected at least one table of results, got none")
    rows = pd.concat(tables, ignore_index=True)
    empty: dict[str, Any] = {
        "patient": "",
        "level": "slice",
        "axis": "",
        "slice_index": -1.0,
        "window": "",
    }
    for name, value in empty.items():
        rows[name] = rows[name].fillna(value).replace("", value) if name in rows else value
    _refuse(rows, ~rows["level"].isin(LEVELS), "level", f"one of {', '.join(LEVELS)}")
    rows = _join_planes(rows)
    key = ["method", *OBJECT]
    twice = rows.duplicated(key)
    if twice.any():
        second = rows[twice].iloc[0]
        first = rows[(rows[key] == second[key]).all(axis=1)].iloc[0]
        raise ValueError(
            f"{second['file']}: line {second['line']}: {second['method']} is scored twice on"
            f" {second['target']} of case {second['case']}, before in {first['file']}: line"
            f" {first['line']}; leave one out, or name the methods apart"
        )
    rows["patient"], found = assign_patients(rows, patient_pattern)
    shown = ~rows["area_fraction"].eq(0)
    if "reference_empty" in rows:
        shown &= ~rows["reference_empty"].eq(True)
    return Scores(rows.assign(shown=shown).drop(columns=["file", "line"]), (*notes, *found))


def _join_planes(rows: pd.DataFrame) -> pd.DataFrame:
    """Give a volume's rows one axis in all tables, the first that is named: however cut, it is one
    object.
    """
    of_volumes = rows["level"] == "volume"
    identity = [name for name in OBJECT if name not in ("axis", "slice_index")]
    named = rows["axis"].where(rows["axis"] != "")[of_volumes]
    first = named.groupby([rows.loc[of_volumes, name] for name in identity]).transform("first")
    return rows.assign(axis=rows["axis"].mask(of_volumes, first.fillna("")))


def select_rows(rows: pd.DataFrame, **choice: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Choose the rows that a mean is over: those that `select_objects` chooses of the same and that
    have a score.

    Raises:
        ValueError: See `select_objects`.
    """
    objects, excluded = select_objects(rows, **choice)
    return objects.dropna(subset="score").drop(columns="missed"), excluded


def select_objects(
    rows: pd.DataFrame,
    *,
    metric: str = "dice",
    by: str = "area",
    level: str | None = None,
    targets: Sequence[str] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Choose the objects that the reference shows, of one level, with a score or missed altogether.

    Slices and volumes never meet in one mean. A distance to an empty mask is not defined, so that
    what a method missed has no such score.

    Args:
        rows: Of `Scores`.
        metric: Column of the score.
        by: What an object's size is, one of `strata.SIZES`.
        level: "slice" or "volume"; that of `LEVEL_OF` by default.
        targets: Only these; all by default.

    Returns:
        The rows, with their `score` (NaN where there is none), `size` (area fraction or volume in
        mm³, NaN where it isn't known) and whether they were `missed`: without any overlap; and how
        many have no part in means: method, dataset, reason, rows.

    Raises:
        ValueError: No such column, target or level in these rows, or nothing is left.
    """
    if metric not in rows or not pd.api.types.is_float_dtype(rows[metric]):
        raise ValueError(
            f"metric: expected a column of scores of these tables such as dice, got {metric!r}"
        )
    size = "area_fraction" if by == "area" else "volume_mm3"
    if size not in rows:
        raise ValueError(f"strata by {by}: expected a column {size}, found none; choose --by area")
    level = level or LEVEL_OF[by]
    other = "volume" if level == "slice" else "slice"
    absent = [target for target in targets if target not in set(rows["target"])]
    if absent:
        known = ", ".join(rows["target"].unique())
        raise ValueError(f"target: expected one of {known}, got {absent[0]!r}")
    rows = rows[rows["target"].isin(targets)] if targets else rows
    # Without an object a prediction has Dice 0; where nothing was predicted either, tables write
    # nothing or 1.
    zero = rows["dice"].eq(0)
    empty = rows["prediction_empty"].eq(True) if "prediction_empty" in rows else False
    nothing, missed = ~zero | empty, zero | empty
    reasons = {
        f"a {other}'s row: these tables are of {level}s": rows["level"].ne(level),
        "the reference shows no object, and nothing was predicted": ~rows["shown"] & nothing,
        "the reference shows no object, but something was predicted": ~rows["shown"],
        f"missed altogether, so without {metric}: leaving it out flatters the method": (
            rows[metric].isna() & missed
        ),
        f"no {metric}": rows[metric].isna(),
    }
    reason = pd.Series("", index=rows.index)
    for words, applies in reasons.items():
        reason[applies & reason.eq("")] = words
    scored = reason.eq("")
    # Objects of which a table says neither the score nor whether they were found are not counted.
    chosen = rows[
        scored | (rows["shown"] & rows["level"].eq(level) & (rows["dice"].notna() | missed))
    ]
    reason[reason.eq("") & rows[size].isna()] = f"no {size}: in no stratum, but among all sizes"
    counts = (
        rows.assign(reason=reason)[reason.ne("")]
        .groupby(["method", "dataset", "reason"], sort=False)
        .size()
    )
    excluded = counts.rename("rows").reset_index()
    if not scored.any():
        most = excluded.groupby("reason")["rows"].sum().idxmax()
        raise ValueError(
            f"expected rows to compute with, found none: {most}; --level {other} or --by may take"
            " them"
        )
    return (
        chosen.assign(score=chosen[metric], size=chosen[size], missed=missed[chosen.index]),
        excluded,
    )


def check_rules(scored: pd.DataFrame, metric: str) -> None:
    """Refuse scores that were measured in two ways; where a table does not say, nobody knows.

    Args:
        scored: Rows of `select_rows`.
        metric: Column of the score.

    Raises:
        ValueError: NSD at two tolerances, or lesions by two rules.
    """
    column = _RULES.get(metric, "")
    if column not in scored:
        return
    said = scored[scored[column].notna() & scored[column].ne("")]
    rules = said[column].map(lambda rule: f"{rule:g} mm" if metric == "nsd" else str(rule).strip())
    rules = rules.str.split().str[0] + " neighbours" if metric in _NEIGHBOURS else rules
    if rules.nunique() > 1:
        odd = said.assign(rule=rules).drop_duplicates("rule").head(2).to_dict("records")
        first, second = (f"{row['rule']} of {row['method']} in {row['case']}" for row in odd)
        raise ValueError(
            f"{metric}: expected one {column} for all rows, got {first} and {second}; score all"
            f" alike ({'--tolerance-mm' if metric == 'nsd' else '--connectivity, --match'}), or"
            " pass tables of one alone"
        )


def is_same_size(sizes: ArrayLike, others: ArrayLike) -> NDArray[np.bool_]:
    """Return whether references of these sizes may be one: to 1 %, as tables round; or of both the
    size is unknown.
    """
    first, second = np.asarray(sizes, dtype=np.float64), np.asarray(others, dtype=np.float64)
    allowed = _SIZE_ATOL + _SIZE_RTOL * np.maximum(np.abs(first), np.abs(second))
    return (np.abs(first - second) <= allowed) | (np.isnan(first) & np.isnan(second))


def read_columns(path: Path, needed: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Read the known columns of one table, and say which others it has.

    Args:
        path: CSV (UTF-8, commas), gzipped or not; blanks around columns' names, and capitals in
            them, do not matter.
        needed: Columns without which it won't do.

    Returns:
        The columns as text, numbers or flags (None: not said), with each row's `line` in the file;
        and the others' names.

    Raises:
        ValueError: See `read_scores`.
    """
    text = io.StringIO(read_text(path).removeprefix("\ufeff"), newline="")
    reader = csv.reader(text, strict=True, skipinitialspace=True)
    try:
        header = [_read_heading(name) for name in next(reader, [])]
        _expect_commas(header)
        lines = list(_read_lines(reader, len(header)))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as a CSV table: {error}") from error
    missing = [name for name in needed if name not in header]
    if missing:
        got = f"missing: {', '.join(missing)}" if header else "the file is empty"
        raise ValueError(f"{path}: expected the columns {', '.join(needed)}; {got}")
    repeated = {name for name in header if name in _KNOWN and header.count(name) > 1}
    if repeated:
        raise ValueError(
            f"{path}: expected each column once, got several named {', '.join(sorted(repeated))}"
        )
    if not lines:
        raise ValueError(f"{path}: expected rows below the columns' names, found none")
    cells = pd.DataFrame(lines, columns=["line", *range(len(header))])
    table = cells[["line"]].copy()
    for column, name in enumerate(header):
        if name in _KNOWN:
            table[name] = cells[column]
    table["file"] = str(path)
    for name in table.columns.intersection([*_NUMBERS, *_FLAGS]):
        table[name] = _read_numbers(table, name) if name in _NUMBERS else _read_flags(table, name)
    for name in ("method", "dataset", "case", "target"):
        if name in table:
            _refuse(table, table[name].eq(""), name, "text")
    return table.drop(columns="file"), [name for name in header if name not in _KNOWN]


def _read_heading(name: str) -> str:
    name = name.strip()
    return name.lower() if name.lower() in _KNOWN else name


def _expect_commas(header: Sequence[str]) -> None:
    found = [
        words
        for mark, words in _OTHER_MARKS.items()
        if len(header) == 1 and header[0].count(mark) > 1
    ]
    if found:
        raise ValueError(
            f"expected cells separated by commas, found {found[0]}; save it with commas and decimal"
            " points"
        )


def _read_lines(reader: Any, cells: int) -> Iterator[tuple[int | str, ...]]:
    for row in reader:
        if row and len(row) != cells:
            raise ValueError(f"line {reader.line_num}: expected {cells} cells, got {len(row)}")
        if row:
            yield (reader.line_num, *row)


def _read_numbers(table: pd.DataFrame, name: str) -> pd.Series:
    given = ~table[name].str.strip().str.lower().isin(_NOTHING)
    values = pd.to_numeric(table[name].where(given), errors="coerce").astype(np.float64)
    if name in SHARES:
        _refuse(table, given & ~values.between(0, 1), name, "0 to 1")
    _refuse(table, given & ~np.isfinite(values), name, "a finite number")
    return values


def _read_flags(table: pd.DataFrame, name: str) -> pd.Series:
    lower = table[name].str.strip().str.lower()
    _refuse(table, ~lower.isin(("true", "false", *_NOTHING)), name, "true or false")
    return lower.map({"true": True, "false": False}).astype(object)


def _refuse(table: pd.DataFrame, wrong: pd.Series, name: str, expected: str) -> None:
    if wrong.any():
        first = table[wrong].iloc[0]
        raise ValueError(
            f"{first['file']}: line {first['line']}: {name}: expected {expected}, got {first[name]}"
        )
