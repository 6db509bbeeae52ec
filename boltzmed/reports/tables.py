"""Tables as text, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from boltzmed.files import whole_file
from boltzmed.results import CaseResult
from boltzmed.strata import AREA_BINS, assign_area_bins

_LATEX = {"<": "$<$", "≥": r"$\geq$", "³": "$^3$", "–": "--"}


def summarise_by_size(rows: Iterable[CaseResult]) -> str:
    """Return a table of mean Dice by target and object size.

    A cell is the mean over the slices that show the target, with their number; an object's size is
    its share of the padded square. The column "volume" is the mean Dice of whole volumes, false
    positives on other slices included. Targets of several data sets stand apart, as "DATASET:
    TARGET".
    """
    rows = list(rows)
    apart = len({row.dataset for row in rows}) > 1
    cells = [["target", *AREA_BINS, "all slices", "volume"]]
    for name, chosen in [*group_by_target(rows, apart).items(), ("all", rows)]:
        shown = [row for row in chosen if row.level == "slice" and not row.reference_empty]
        bins = assign_area_bins([row.area_fraction or 0.0 for row in shown])
        scores = np.array([row.dice for row in shown], dtype=np.float64)
        line = [_mean(scores[bins == index]) for index in range(len(AREA_BINS))]
        whole = np.array(
            [row.dice for row in chosen if row.level == "volume" and row.dice is not None]
        )
        cells.append([name, *line, _mean(scores), _mean(whole)])
    return align_columns(cells, [name == "target" for name in cells[0]])


def group_by_target(rows: Iterable[CaseResult], apart: bool) -> dict[str, list[CaseResult]]:
    """Return target → its rows, in order of appearance; "DATASET: TARGET" where data sets shall
    stand apart.
    """
    groups: dict[str, list[CaseResult]] = {}
    for row in rows:
        groups.setdefault(f"{row.dataset}: {row.target}" if apart else row.target, []).append(row)
    return groups


def align_columns(cells: Sequence[Sequence[str]], left: Sequence[bool]) -> str:
    """Return rows of cells as lines of text, the first one underlined; `left` says which columns
    stand left.
    """
    widths = [max(len(row[column]) for row in cells) for column in range(len(left))]
    lines = [
        "  ".join(
            c.ljust(w) if stands_left else c.rjust(w)
            for c, w, stands_left in zip(row, widths, left, strict=True)
        )
        for row in cells
    ]
    return "\n".join(
        [lines[0].rstrip(), "-" * len(lines[0]), *(line.rstrip() for line in lines[1:])]
    )


def format_table(table: pd.DataFrame) -> str:
    """Plain text: texts to the left, numbers to the right, fractions with three decimals."""
    cells = [[str(name) for name in table.columns]]
    for row in table.itertuples(index=False):
        cells.append(
            [f"{cell:.3f}" if isinstance(cell, float | np.floating) else str(cell) for cell in row]
        )
    return align_columns(
        cells, [not pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]
    )


def format_tables(tables: Mapping[str, pd.DataFrame]) -> str:
    """Titles and tables, one under the other."""
    return "\n\n".join(f"{title}\n\n{format_table(table)}" for title, table in tables.items())


def write_tables(
    folder: str | Path,
    tables: Mapping[str, pd.DataFrame],
    printed: Mapping[str, pd.DataFrame] | None = None,
) -> None:
    """Write tables into a folder by their names: as CSV, and printed ones, all of text, as LaTeX
    (booktabs).

    Raises:
        OutputError: The folder cannot be written.
    """
    for name, table in tables.items():
        with whole_file(Path(folder) / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
    for name, table in (printed or {}).items():
        text = table.astype(str).to_latex(index=False, escape=True)
        for character, code in _LATEX.items():
            text = text.replace(character, code)
        with whole_file(Path(folder) / f"{name}.tex") as temporary:
            temporary.write_text(text, encoding="utf-8")


def _mean(scores: np.ndarray) -> str:
    return f"{scores.mean():.3f} ({len(scores)})" if len(scores) else "–"
