"""Tables in the layout of the paper's Tables 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from boltzmed.reports.scores import SHARES
from boltzmed.reports.summary import ALL_SIZES, Summary, format_interval
from boltzmed.volumes.output import whole_file

_TARGETS = 8  # columns of one table
_GROUPS = {"<1 %": "Small", "≥1 %": "Large", ALL_SIZES: "All"}


def tabulate_datasets(summary: Summary) -> pd.DataFrame:
    """Return Table 1: a row per method, the mean of the data sets' means and a column per data set, in percent.

    A data set's mean is over its rows. NaN where a method was not scored. With one data set there is no "Avg.".
    """
    cells = summary.cells[summary.cells["stratum"].eq(ALL_SIZES)]
    table = _spread(cells.drop_duplicates(["dataset", "method"]), "dataset", _scale(summary))
    if len(summary.overall):
        overall = summary.overall
        means = overall[overall["weighting"].eq("datasets") & overall["stratum"].eq(ALL_SIZES)].set_index("method")[
            "mean"
        ]
        table.insert(1, "Avg.", _scale(summary) * means.reindex(table["Method"]).to_numpy())
    return table


def tabulate_targets(summary: Summary) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the same layout for each data set of several targets: a column per target, at most 8 a table."""
    cells = summary.cells[summary.cells["stratum"].eq(ALL_SIZES)]
    for dataset, group in cells.groupby("dataset", sort=False):
        names = list(group["target"].unique())
        count = -(-len(names) // _TARGETS) if len(names) > 1 else 0
        for number in range(count):
            chosen = names[number * len(names) // count : (number + 1) * len(names) // count]
            table = _spread(group[group["target"].isin(chosen)], "target", _scale(summary))
            yield f"{dataset}, by target{' (continued)' * number}", table


def tabulate_sizes(summary: Summary) -> pd.DataFrame:
    """Return Table 2: small (below 1 % of the image), large and all objects by method, as text with intervals.

    Over several data sets, their means weighted by the group's share of each (the paper's way). Empty for strata by
    another size than area.
    """
    if summary.by != "area":
        return pd.DataFrame()
    cells = summary.overall[summary.overall["weighting"].eq("table 2")] if len(summary.overall) else summary.cells
    if not len(summary.overall):
        cells = cells[cells["target"].eq(cells["target"].iloc[0])]
    cells = cells[cells["stratum"].isin(_GROUPS)]
    text = cells.assign(text=[format_interval(cell, summary.metric) for cell in cells.to_dict("records")])
    table = text.pivot(index="stratum", columns="method", values="text")
    table = table.reindex([group for group in _GROUPS if group in table.index])[list(cells["method"].unique())]
    table.index = pd.Index([_GROUPS[group] for group in table.index], name="Objects")
    return table.fillna("–").reset_index().rename_axis(columns=None)


def format_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of numbers as text with one decimal, its first column as it is."""
    text = table.iloc[:, 1:].map(lambda value: "–" if np.isnan(value) else f"{value:.1f}")
    return pd.concat([table.iloc[:, :1].astype(str), text], axis=1)


def write_latex(table: pd.DataFrame, path: Path) -> None:
    """Write a table of numbers as LaTeX (booktabs), the highest of each column bold.

    Raises:
        OutputError: The folder cannot be written.
    """
    plain = table.rename(columns=_escape)
    style = plain.style.format(precision=1, na_rep="--", escape="latex").hide(axis="index")
    style = style.highlight_max(subset=list(plain.columns[1:]), props="textbf:--rwrap;")
    with whole_file(path) as temporary:
        temporary.write_text(style.to_latex(hrules=True, column_format="l" + "r" * (len(plain.columns) - 1)), "utf-8")


def _spread(cells: pd.DataFrame, columns: str, scale: float) -> pd.DataFrame:
    table = cells.pivot(index="method", columns=columns, values="mean")
    table = scale * table.loc[list(cells["method"].unique()), list(cells[columns].unique())]
    return table.rename_axis(columns=None).rename_axis("Method").reset_index()


def _scale(summary: Summary) -> float:
    return 100.0 if summary.metric in SHARES else 1.0


def _escape(name: str) -> str:
    for character in ("\\", "&", "%", "$", "#", "_", "{", "}"):
        name = name.replace(character, r"\textbackslash{}" if character == "\\" else f"\\{character}")
    return name
