"""Rows of results → small tables of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from boltzmed.results import CaseResult
from boltzmed.strata import AREA_BINS, assign_area_bins


def summarise_by_size(rows: Iterable[CaseResult]) -> str:
    """Return a table of mean Dice by target and object size.

    A cell is the mean over the slices that show the target, with their number; an object's size is its share of the
    padded square. The column "volume" is the mean Dice of whole volumes, false positives on other slices included.
    """
    rows = list(rows)
    targets = list(dict.fromkeys(row.target for row in rows))
    cells = [["target", *AREA_BINS, "all slices", "volume"]]
    for name in [*targets, "all"]:
        chosen = [row for row in rows if name in (row.target, "all")]
        shown = [row for row in chosen if row.level == "slice" and not row.reference_empty]
        bins = assign_area_bins([row.area_fraction or 0.0 for row in shown])
        scores = np.array([row.dice for row in shown], dtype=np.float64)
        line = [_mean(scores[bins == index]) for index in range(len(AREA_BINS))]
        whole = np.array([row.dice for row in chosen if row.level == "volume" and row.dice is not None])
        cells.append([name, *line, _mean(scores), _mean(whole)])
    return align_columns(cells, [name == "target" for name in cells[0]])


def align_columns(cells: Sequence[Sequence[str]], left: Sequence[bool]) -> str:
    """Return rows of cells as lines of text, the first one underlined; `left` says which columns stand left."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(left))]
    lines = [
        "  ".join(
            c.ljust(w) if stands_left else c.rjust(w) for c, w, stands_left in zip(row, widths, left, strict=True)
        )
        for row in cells
    ]
    return "\n".join([lines[0].rstrip(), "-" * len(lines[0]), *(line.rstrip() for line in lines[1:])])


def _mean(scores: np.ndarray) -> str:
    return f"{scores.mean():.3f} ({len(scores)})" if len(scores) else "–"
