"""How large the objects of a data set are: the statistics of the paper's Table 9, and their
histogram.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from boltzmed.reports.scores import OBJECT, is_same_size, read_columns
from boltzmed.reports.tables import format_table, write_tables
from boltzmed.strata import AREA_BINS, assign_area_bins


def read_object_sizes(path: str | Path) -> pd.DataFrame:
    """Read which objects a table has: a row per data set, case, (slice, window,) and target,
    whatever the methods.

    Args:
        path: A CSV of results, gzipped or not, with at least the columns dataset, case, target and
            area_fraction (0 … 1); or a prepared cache. Rows of whole volumes (level "volume"),
            empty references, and what a cache's protocol leaves out (used 0) are no objects.

    Returns:
        Those columns, in the order in which the objects first appear, with their first area.

    Raises:
        ValueError: The file cannot be read, lacks a column, holds an area that is none, or two
            areas of one object that differ by more than rounding (`is_same_size`).
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "manifest.json").is_file():
            raise ValueError(
                f"{path}: expected a finished slice cache, found no manifest.json; run boltzmed"
                " prepare"
            )
        path = path / "index.csv"
    table, _ = read_columns(path, ("dataset", "case", "target", "area_fraction"))
    if "level" in table:
        table = table[table["level"] != "volume"]
    if "used" in table:
        table = table[table["used"] != 0]
    table = table[table["area_fraction"] > 0]
    key = [name for name in OBJECT if name in table and name != "level"]
    before = table.groupby(key, dropna=False)["area_fraction"].transform("first")
    another = ~is_same_size(table["area_fraction"], before)
    if another.any():
        first = table[another].iloc[0]
        raise ValueError(
            f"{path}: line {first['line']}: another area_fraction of {first['target']} in case"
            f" {first['case']} than before; methods must be scored on the same references"
        )
    objects = table.drop_duplicates(key)
    if objects.empty:
        raise ValueError(f"{path}: no object with an area")
    return objects[[*key, "area_fraction"]].reset_index(drop=True)


def report_sizes(path: str | Path, folder: str | Path | None = None) -> str:
    """Return the statistics and the histogram of a table's objects as text; write them as CSV into
    a folder, if given.

    Raises:
        ValueError: See `read_object_sizes`; or the folder cannot be written.
    """
    objects = read_object_sizes(path)
    tables = {
        "size_statistics": size_statistics(objects),
        "size_histogram": size_histogram(objects),
    }
    if folder is not None:
        write_tables(folder, tables)
    return "\n\n".join(format_table(table) for table in tables.values())


def size_statistics(objects: pd.DataFrame) -> pd.DataFrame:
    """Table 9 of the paper: area in percent of the image by data set and target, in their order of
    appearance.
    """
    groups = objects.groupby(["dataset", "target"], sort=False)["area_fraction"]
    statistics = groups.agg(["mean", "median", "min", "max", "size"]).reset_index()
    statistics[["mean", "median", "min", "max"]] *= 100
    statistics.columns = pd.Index(
        [
            "Dataset",
            "Object type",
            "Area mean (%)",
            "Area median (%)",
            "Area min (%)",
            "Area max (%)",
            "Support",
        ]
    )
    return statistics


def size_histogram(objects: pd.DataFrame) -> pd.DataFrame:
    """Number of objects in each area bin, by data set and target."""
    names = pd.Categorical.from_codes(
        assign_area_bins(objects["area_fraction"]), categories=pd.Index(AREA_BINS)
    )
    counts = (
        objects.assign(bin=names)
        .groupby(["dataset", "target", "bin"], sort=False, observed=False)
        .size()
    )
    table = counts.unstack("bin", fill_value=0)[list(AREA_BINS)]
    table = table[table.sum(axis=1) > 0].reset_index()
    return table.rename(columns={"dataset": "Dataset", "target": "Object type"})
