"""Tables in the layout of the paper's Tables 1 and 2."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from boltzmed.files import whole_file
from boltzmed.reports.scores import SHARES
from boltzmed.reports.summary import (
    ALL_SIZES,
    ALL_TARGETS,
    Summary,
    choose_by_size,
    format_interval,
)

_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
)
_TARGETS = 8  # columns of one table
_GROUPS = {"<1 %": "Small", "≥1 %": "Large", ALL_SIZES: "All"}


@dataclass(frozen=True)
class MeanTable:
    """A row per method: its means (NaN where it lacks something of the column), and the numbers of
    rows behind them.

    Attributes:
        means: "Method", then a column per data set or target.
        counts: "Method", then a column per data set or target.
    """

    means: pd.DataFrame
    counts: pd.DataFrame

    def print(self) -> pd.DataFrame:
        """As text with one decimal; n stands in a column's name where it is all its methods', else
        in its cells.
        """
        text = {"Method": self.means["Method"].astype(str)}
        for name in self.means.columns[1:]:
            means, counts = self.means[name], self.counts[name]
            same = counts[means.notna()].nunique() == 1
            title = f"{name} (n={int(counts[means.notna()].iloc[0])})" if same else str(name)
            text[title] = pd.Series(
                [
                    "–" if np.isnan(m) else f"{m:.1f}" + f" (n={n:.0f})" * (not same)
                    for m, n in zip(means, counts, strict=True)
                ]
            )
        return pd.DataFrame(text)

    def join(self) -> pd.DataFrame:
        """Means and numbers of rows side by side, "n: NAME" beside NAME."""
        columns = {"Method": self.means["Method"]}
        for name in self.means.columns[1:]:
            columns |= {str(name): self.means[name], f"n: {name}": self.counts[name]}
        return pd.DataFrame(columns)


def tabulate_datasets(summary: Summary) -> MeanTable:
    """Return Table 1: a row per method, the mean of the data sets' means and a column per data set,
    in percent.

    A data set's mean is over its rows. A method that lacks a target of a data set that another
    method was scored on has no mean there, and no "Avg.", which there is of several data sets.
    """
    cells = summary.cells[summary.cells["stratum"].eq(ALL_SIZES)]
    table = _spread(summary, cells.drop_duplicates(["dataset", "method"]), "dataset")
    if len(summary.overall):
        overall = summary.overall[
            summary.overall["weighting"].eq("datasets") & summary.overall["stratum"].eq(ALL_SIZES)
        ]
        overall = overall.set_index("method").reindex(table.means["Method"])
        means = (_scale(summary) * overall["mean"]).to_numpy()
        lacking = {method for method, _, stratum in _find_gaps(summary) if stratum == ALL_SIZES}
        table.means.insert(1, "Avg.", np.where(table.means["Method"].isin(lacking), np.nan, means))
        table.counts.insert(1, "Avg.", overall["n"].to_numpy())
    return table


def tabulate_targets(summary: Summary) -> Iterator[tuple[str, MeanTable]]:
    """Yield the same layout for each data set of several targets: a column per target, at most 8 a
    table.
    """
    cells = summary.cells[summary.cells["stratum"].eq(ALL_SIZES)]
    for dataset, group in cells.groupby("dataset", sort=False):
        names = list(group["target"].unique())
        count = -(-len(names) // _TARGETS) if len(names) > 1 else 0
        for number in range(count):
            chosen = names[number * len(names) // count : (number + 1) * len(names) // count]
            table = _spread(summary, group[group["target"].isin(chosen)], "target")
            yield f"{dataset}, by target{' (continued)' * number}", table


def tabulate_sizes(summary: Summary) -> pd.DataFrame:
    """Return Table 2: small (below 1 % of the image), large and all objects by method, as text with
    intervals and n.

    Over several data sets, their means weighted by the group's share of each (the paper's way). "–"
    for a method that lacks a data set or target that another has. Empty for strata by another size
    than area.
    """
    if summary.by != "area":
        return pd.DataFrame()
    cells = (
        summary.overall[summary.overall["weighting"].eq("table 2")]
        if len(summary.overall)
        else summary.cells
    )
    if not len(summary.overall):
        cells = choose_by_size(cells)
        cells = cells[cells["own"]]
    lacking = {(method, stratum) for method, _, stratum in _find_gaps(summary)}
    whole = [key not in lacking for key in zip(cells["method"], cells["stratum"], strict=True)]
    methods = list(cells["method"].unique())
    cells = cells[cells["stratum"].isin(_GROUPS) & np.array(whole)]
    same = cells.groupby("stratum")["n"].nunique().le(1).all()
    lines = cells.to_dict("records")
    text = [
        format_interval(cell, summary.metric) + f" n={cell['n']}" * (not same) for cell in lines
    ]
    table = cells.assign(text=text).pivot(index="stratum", columns="method", values="text")
    table = table.reindex(
        index=[group for group in _GROUPS if group in table.index], columns=methods
    )
    if same:
        table.insert(0, "n", cells.groupby("stratum")["n"].first().reindex(table.index).astype(str))
    table.index = pd.Index([_GROUPS[group] for group in table.index], name="Objects")
    return table.fillna("–").reset_index().rename_axis(columns=None)


def mark_best(means: pd.DataFrame) -> frozenset[tuple[int, int]]:
    """Return (row, column) of the highest number of each column but the first, ties included.

    None is the best of one: a column where fewer than two methods have a number has no best.
    """
    best = set()
    for column in range(1, len(means.columns)):
        numbers = means.iloc[:, column].to_numpy(dtype=np.float64)
        if (~np.isnan(numbers)).sum() > 1:
            highest = np.round(np.nanmax(numbers), 1)
            best |= {(int(row), column) for row in np.flatnonzero(np.round(numbers, 1) == highest)}
    return frozenset(best)


def write_latex(table: pd.DataFrame, path: Path, best: Collection[tuple[int, int]] = ()) -> None:
    """Write a table of text as LaTeX (booktabs), the best cells (row, column) bold.

    Raises:
        OutputError: The folder cannot be written.
    """
    cells = [[_escape(str(cell)) for cell in row] for row in table.itertuples(index=False)]
    for row, column in best:
        cells[row][column] = rf"\textbf{{{cells[row][column]}}}"
    plain = pd.DataFrame(cells, columns=[_escape(str(name)) for name in table.columns])
    text = plain.to_latex(
        index=False, escape=False, column_format="l" + "r" * (len(plain.columns) - 1)
    )
    with whole_file(path) as temporary:
        temporary.write_text(text.replace("–", "--"), "utf-8")


def _find_gaps(summary: Summary) -> set[tuple[str, str, str]]:
    """(method, data set, stratum) where the method lacks a target that another has there."""
    cells = summary.cells[summary.cells["n"].gt(0) & summary.cells["target"].ne(ALL_TARGETS)]
    have = set(cells[["method", "dataset", "stratum", "target"]].itertuples(index=False, name=None))
    wanted = {key[1:] for key in have}
    methods = summary.cells["method"].unique()
    return {
        (str(method), *key[:2])
        for method in methods
        for key in wanted
        if (method, *key) not in have
    }


def _spread(summary: Summary, cells: pd.DataFrame, columns: str) -> MeanTable:
    gaps = {
        (method, dataset)
        for method, dataset, stratum in _find_gaps(summary)
        if stratum == ALL_SIZES
    }
    pooled = cells["target"].eq(ALL_TARGETS) if columns == "target" else True
    lacking = [key in gaps for key in zip(cells["method"], cells["dataset"], strict=True)]
    cells = cells.assign(mean=(_scale(summary) * cells["mean"]).mask(pooled & np.array(lacking)))
    tables = []
    for value in ("mean", "n"):
        table = cells.pivot(index="method", columns=columns, values=value)
        table = table.loc[list(cells["method"].unique()), list(cells[columns].unique())]
        tables.append(table.rename_axis(columns=None).rename_axis("Method").reset_index())
    return MeanTable(*tables)


def _scale(summary: Summary) -> float:
    return 100.0 if summary.metric in SHARES else 1.0


def _escape(name: str) -> str:
    return name.translate(_LATEX)
