"""How large the objects of a data set are: the statistics of the paper's Table 9, and their histogram."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from boltzmed.reports.tables import align_columns
from boltzmed.strata import AREA_BINS, assign_area_bins
from boltzmed.volumes.output import whole_file

_NEEDED = ("dataset", "case", "target", "area_fraction")
# What tells one object of a case and target from another, where a table has it.
_SLICE = ("axis", "slice_index", "window")


def read_object_sizes(path: str | Path) -> pd.DataFrame:
    """Read which objects a table has: a row per data set, case, (slice, window,) and target, whatever the methods.

    Args:
        path: A CSV of results, gzipped or not, with at least the columns dataset, case, target and area_fraction
            (0 … 1); or a prepared cache. Rows of whole volumes (level "volume"), empty references, and what a cache's
            protocol leaves out (used 0) are no objects.

    Returns:
        Those columns, in the order in which the objects first appear.

    Raises:
        ValueError: The file cannot be read, lacks a column, holds an area that is none, or two areas of one object.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "manifest.json").is_file():
            raise ValueError(f"{path}: expected a finished slice cache, found no manifest.json; run boltzmed prepare")
        path = path / "index.csv"
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(_NEEDED[:3], str), keep_default_na=False, na_values=[""])
    except (OSError, EOFError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ValueError(f"{path}: cannot be read as a CSV table: {reason}") from error
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise ValueError(f"{path}: expected the columns {', '.join(_NEEDED)}; missing: {', '.join(missing)}")
    if "level" in table:
        table = table[table["level"] != "volume"]
    if "used" in table:
        table = table[table["used"] != 0]
    area = pd.to_numeric(table["area_fraction"], errors="coerce")
    wrong = table["area_fraction"].notna() & ~area.between(0, 1)
    if wrong.any():
        line, value = table.index[wrong][0] + 2, table["area_fraction"][wrong].iloc[0]
        raise ValueError(f"{path}: line {line}: area_fraction: expected 0 to 1, got {value}")
    table = table.assign(area_fraction=area)[area > 0]
    key = ["dataset", "case", *(name for name in _SLICE if name in table), "target"]
    objects = table.drop_duplicates([*key, "area_fraction"])
    twice = objects.duplicated(key)
    if twice.any():
        first = objects[twice].iloc[0]
        raise ValueError(
            f"{path}: line {objects.index[twice][0] + 2}: another area_fraction of {first['target']} in case "
            f"{first['case']} than before; methods must be scored on the same references"
        )
    if objects.empty:
        raise ValueError(f"{path}: no object with an area")
    return objects[[*key, "area_fraction"]].reset_index(drop=True)


def report_sizes(path: str | Path, folder: str | Path | None = None) -> str:
    """Return the statistics and the histogram of a table's objects as text; write them as CSV into a folder, if given.

    Raises:
        ValueError: See `read_object_sizes`; or the folder cannot be written.
    """
    objects = read_object_sizes(path)
    tables = {"size_statistics": size_statistics(objects), "size_histogram": size_histogram(objects)}
    if folder is not None:
        for name, table in tables.items():
            with whole_file(Path(folder) / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=False)
    return "\n\n".join(format_table(table) for table in tables.values())


def size_statistics(objects: pd.DataFrame) -> pd.DataFrame:
    """Table 9 of the paper: area in percent of the image by data set and target, in their order of appearance."""
    groups = objects.groupby(["dataset", "target"], sort=False)["area_fraction"]
    statistics = groups.agg(["mean", "median", "min", "max", "size"]).reset_index()
    statistics[["mean", "median", "min", "max"]] *= 100
    statistics.columns = pd.Index(
        ["Dataset", "Object type", "Area mean (%)", "Area median (%)", "Area min (%)", "Area max (%)", "Support"]
    )
    return statistics


def size_histogram(objects: pd.DataFrame) -> pd.DataFrame:
    """Number of objects in each area bin, by data set and target."""
    names = pd.Categorical.from_codes(assign_area_bins(objects["area_fraction"]), categories=pd.Index(AREA_BINS))
    counts = objects.assign(bin=names).groupby(["dataset", "target", "bin"], sort=False, observed=False).size()
    table = counts.unstack("bin", fill_value=0)[list(AREA_BINS)]
    table = table[table.sum(axis=1) > 0].reset_index()
    return table.rename(columns={"dataset": "Dataset", "target": "Object type"})


def format_table(table: pd.DataFrame) -> str:
    """Plain text: texts to the left, numbers to the right, fractions with three decimals."""
    cells = [[str(name) for name in table.columns]]
    for row in table.itertuples(index=False):
        cells.append([f"{cell:.3f}" if isinstance(cell, float | np.floating) else str(cell) for cell in row])
    return align_columns(cells, [not pd.api.types.is_numeric_dtype(table[name]) for name in table.columns])
