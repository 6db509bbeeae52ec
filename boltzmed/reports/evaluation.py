"""What an evaluation of masks came to, as text: overlap, distances, lesions, presence. Every mean
has its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from boltzmed.files import whole_file
from boltzmed.metrics.lesions import FROC_RATES, detection_f1, find_sensitivities
from boltzmed.metrics.presence import auroc, sensitivity, specificity
from boltzmed.reports.tables import align_columns, group_by_target
from boltzmed.results import CaseResult, LesionResult
from boltzmed.strata import split_by_size


class Cell(NamedTuple):
    """A number of a table: how many rows or lesions it is of (None: counts stand beside it), digits
    to print.
    """

    value: float | str | None
    n: int | None = None
    digits: int = 3

    def __str__(self) -> str:
        if self.value is None or isinstance(self.value, str):
            return self.value or "–"
        return f"{self.value:.{self.digits}f}" + (f" ({self.n})" if self.n is not None else "")


MEASURES = "measures.csv"
_LESIONS, _FROC = "Lesions", "Lesion sensitivity at false positives a scan (FROC)"
_BY_SIZE = "Lesion sensitivity by equivalent diameter"
_Describe = Callable[[Sequence[CaseResult]], dict[str, Cell]]


def report_scores(
    rows: Iterable[CaseResult],
    lesions: Iterable[LesionResult] = (),
    folder: str | Path | None = None,
    *,
    miss_penalty_mm: float | None = None,
) -> str:
    """Return the tables of `tabulate_scores` as text; write them to `MEASURES` in a folder, if
    given.

    The file has the columns table, target, measure, value (not rounded), n, and the rule by which
    lesions were counted.

    Args:
        rows: Of one method; the rows say by which rule lesions were counted.
        lesions: Of one method; the rows say by which rule lesions were counted.
        folder: Where the file goes.
        miss_penalty_mm: See `tabulate_scores`.

    Raises:
        OutputError: The folder cannot be written.
    """
    rows = list(rows)
    tables = tabulate_scores(rows, lesions, miss_penalty_mm)
    said = "; ".join(dict.fromkeys(row.lesion_rule for row in rows if row.lesion_rule))
    rules = (
        dict.fromkeys((_LESIONS, _BY_SIZE, _FROC), said.replace(" ", " neighbours, match ", 1))
        if said
        else {}
    )
    if folder is not None:
        records = [
            {
                "table": title,
                "target": target,
                "measure": name,
                "value": cell.value,
                "n": cell.n,
                "rule": rules.get(title),
            }
            for title, lines in tables.items()
            for target, cells in lines.items()
            for name, cell in cells.items()
        ]
        columns = ["table", "target", "measure", "value", "n", "rule"]
        table = pd.DataFrame(records, columns=columns).astype({"n": "Int64"})
        with whole_file(Path(folder) / MEASURES) as temporary:
            table.to_csv(temporary, index=False)
    titles = {title: f"{title}, {rules[title]}" if title in rules else title for title in tables}
    return "\n\n".join(f"{titles[title]}\n\n{_print(lines)}" for title, lines in tables.items())


def tabulate_scores(
    rows: Iterable[CaseResult],
    lesions: Iterable[LesionResult] = (),
    miss_penalty_mm: float | None = None,
) -> dict[str, dict[str, dict[str, Cell]]]:
    """Return tables by target: volumes' overlap and distances, their lesions, slices' overlap,
    presence in both.

    A cell is a mean with the number of rows that it is of, "–" where there is none. Dice stands
    there by both conventions for a mask that is rightly empty: left out, and counted as 1.
    Distances of rows where one mask is empty are not defined and left out; their number stands
    beside, and means in which rows of one empty mask count as `miss_penalty_mm`, if given. F1,
    sensitivity and FROC are of all lesions together. Targets of several data sets stand apart, as
    "DATASET: TARGET".
    """
    rows, lesions = list(rows), list(lesions)
    volumes = [row for row in rows if row.level == "volume"]
    slices = [row for row in rows if row.level == "slice"]
    scored = {(lesion.dataset, lesion.target) for lesion in lesions if lesion.score is not None}

    found = {(lesion.dataset, lesion.target) for lesion in lesions if lesion.kind == "reference"}
    measure_distances = partial(_distance_columns, miss_penalty_mm=miss_penalty_mm)

    def lesions_of(group: Sequence[CaseResult]) -> list[LesionResult]:
        return [
            lesion
            for lesion in lesions
            if (lesion.dataset, lesion.target) == (group[0].dataset, group[0].target)
        ]

    tables: list[tuple[str, list[CaseResult], _Describe]] = [
        ("Volumes", volumes, _overlap_columns),
        (
            "Surfaces of volumes",
            [row for row in volumes if row.nsd_tolerance_mm is not None],
            measure_distances,
        ),
        (_LESIONS, volumes, _lesion_columns),
        (
            _BY_SIZE,
            [row for row in volumes if (row.dataset, row.target) in found],
            lambda group: _diameter_columns(lesions_of(group)),
        ),
        (
            _FROC,
            [row for row in volumes if (row.dataset, row.target) in scored],
            lambda group: _froc_columns(lesions_of(group), scans=len(group)),
        ),
        ("Presence in volumes", volumes, _presence_columns),
        ("Slices", slices, _overlap_columns),
        (
            "Outlines on slices",
            [row for row in slices if row.nsd_tolerance_mm is not None],
            measure_distances,
        ),
        ("Presence in slices", slices, _presence_columns),
    ]
    apart = len({row.dataset for row in rows}) > 1
    return {
        title: _tabulate(chosen, describe, apart) for title, chosen, describe in tables if chosen
    }


def _tabulate(
    rows: Sequence[CaseResult], describe: _Describe, apart: bool
) -> dict[str, dict[str, Cell]]:
    return {name: describe(group) for name, group in group_by_target(rows, apart).items()}


def _print(lines: Mapping[str, Mapping[str, Cell]]) -> str:
    names = list(next(iter(lines.values())))
    cells = [[target, *(str(line[name]) for name in names)] for target, line in lines.items()]
    return align_columns([["target", *names], *cells], [True, *[False] * len(names)])


def _overlap_columns(rows: Sequence[CaseResult]) -> dict[str, Cell]:
    return {
        "rows": _count(len(rows)),
        "Dice, both empty left out": _mean([row.dice for row in rows]),
        "Dice, both empty 1": _mean([1.0 if row.dice is None else row.dice for row in rows]),
        "IoU": _mean([row.iou for row in rows]),
        "false positive mm³": _mean([row.false_positive_mm3 for row in rows], 1),
        "false negative mm³": _mean([row.false_negative_mm3 for row in rows], 1),
        "difference mm³": _mean([row.volume_difference_mm3 for row in rows], 1),
    }


def _distance_columns(rows: Sequence[CaseResult], miss_penalty_mm: float | None) -> dict[str, Cell]:
    tolerances = {row.nsd_tolerance_mm for row in rows if row.nsd_tolerance_mm is not None}
    distances = {}
    for name, values in {
        "HD95": [row.hd95_mm for row in rows],
        "ASSD": [row.assd_mm for row in rows],
    }.items():
        distances[f"{name} mm"] = _mean(values, 2)
        if miss_penalty_mm is not None:
            penalised = [
                miss_penalty_mm if row.reference_empty != row.prediction_empty else value
                for row, value in zip(rows, values, strict=True)
            ]
            distances[f"{name} mm, one empty {miss_penalty_mm:g}"] = _mean(penalised, 2)
    return {
        "NSD": _mean([row.nsd for row in rows]),
        "at mm": Cell("/".join(f"{tolerance:g}" for tolerance in sorted(tolerances))),
        **distances,
        "one mask empty": _count(sum(row.reference_empty != row.prediction_empty for row in rows)),
        "both empty": _count(sum(row.reference_empty and row.prediction_empty for row in rows)),
    }


def _lesion_columns(rows: Sequence[CaseResult]) -> dict[str, Cell]:
    matched, missed, false = (
        sum(getattr(row, f"{name}_lesions") or 0 for row in rows)
        for name in ("matched", "missed", "false")
    )
    return {
        "scans": _count(len(rows)),
        "reference": _count(sum(row.reference_lesions or 0 for row in rows)),
        "predicted": _count(sum(row.predicted_lesions or 0 for row in rows)),
        "matched": _count(matched),
        "missed": _count(missed),
        "false": _count(false),
        "sensitivity": _share(matched / (matched + missed) if matched + missed else None),
        "F1": _share(detection_f1(matched, missed, false)),
        "F1 by scan": _mean([row.detection_f1 for row in rows]),
        "PQ by scan": _mean([row.panoptic_quality for row in rows]),
        "false a scan": Cell(false / len(rows), digits=2),
    }


def _diameter_columns(lesions: Sequence[LesionResult]) -> dict[str, Cell]:
    reference = [lesion for lesion in lesions if lesion.kind == "reference"]
    matched = np.array([lesion.matched for lesion in reference], float)
    strata = split_by_size("diameter", [lesion.volume_mm3 for lesion in reference])
    return {name: _mean(matched[inside].tolist()) for name, inside in strata.items()}


def _froc_columns(lesions: Sequence[LesionResult], *, scans: int) -> dict[str, Cell]:
    reference = [lesion for lesion in lesions if lesion.kind == "reference"]
    false = [lesion for lesion in lesions if lesion.kind == "prediction" and not lesion.matched]
    # What has no score is surest to go: below every limit.
    found = [
        -np.inf if lesion.score is None else lesion.score for lesion in reference if lesion.matched
    ]
    false_scores = [-np.inf if lesion.score is None else lesion.score for lesion in false]
    shares = find_sensitivities(found, len(reference) - len(found), false_scores, scans)
    cells: Sequence[float | None] = shares or [None] * len(FROC_RATES)
    return {
        "scans": _count(scans),
        "lesions": _count(len(reference)),
        **{f"{rate:g}": _share(share) for rate, share in zip(FROC_RATES, cells, strict=True)},
        "mean": _share(None if shares is None else float(np.mean(shares))),
    }


def _presence_columns(rows: Sequence[CaseResult]) -> dict[str, Cell]:
    shown = [not row.reference_empty for row in rows]
    found = [not row.prediction_empty for row in rows]
    asked = [row for row in rows if row.presence_score is not None]
    area = auroc(
        [not row.reference_empty for row in asked], [row.presence_score or 0.0 for row in asked]
    )
    return {
        "with target": _count(sum(shown)),
        "sensitivity": _share(sensitivity(shown, found)),
        "without": _count(len(rows) - sum(shown)),
        "specificity": _share(specificity(shown, found)),
        "AUROC of presence score": Cell(area, len(asked) or None),
    }


def _count(number: int) -> Cell:
    return Cell(number, digits=0)


def _share(value: float | None) -> Cell:
    return Cell(value)


def _mean(values: Iterable[float | None], digits: int = 3) -> Cell:
    defined = [value for value in values if value is not None]
    return Cell(float(np.mean(defined)), len(defined), digits) if defined else Cell(None)
