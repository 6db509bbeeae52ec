"""How good methods are: means with intervals by data set, target and object size, and over data
sets.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boltzmed.metrics.statistics import (
    bootstrap_interval,
    make_generator,
    percentile_interval,
    resample_sums,
    sum_by_patient,
)
from boltzmed.reports.folder import whole_report
from boltzmed.reports.scores import LEVEL_OF, SHARES, check_rules, read_scores, select_objects
from boltzmed.reports.tables import format_tables, write_tables
from boltzmed.strata import list_bins, split_by_size

ALL_SIZES, ALL_TARGETS, ALL_DATASETS = "all sizes", "all targets", "all data sets"

WEIGHTINGS = {
    "rows": "plain mean over rows",
    "datasets": "plain mean of the data sets' means",
    "table 2": "data sets' means weighted by the group's share of each (the paper's Table 2)",
}
"""How one number comes of several data sets."""


@dataclass(frozen=True)
class Summary:
    """Means of one score.

    Attributes:
        cells: A row per dataset, target, stratum and method ("all targets", "all sizes" included):
            mean, low and high (95 % interval), n rows, patients; missed (without any overlap) of
            all objects that the reference shows, with a score or without, and missed_share of them.
        overall: Over data sets: a row per weighting (`WEIGHTINGS`), stratum and method; empty for
            one data set.
        excluded: method, dataset, reason, rows.
        metric: What the score is, of which rows, and what the strata go by.
        level: What the score is, of which rows, and what the strata go by.
        by: What the score is, of which rows, and what the strata go by.
        strata: In the tables' order: all sizes, bins, groups of bins.
        bins: Those of the strata that do not overlap, small to large.
    """

    cells: pd.DataFrame
    overall: pd.DataFrame
    excluded: pd.DataFrame
    metric: str
    level: str
    by: str
    strata: tuple[str, ...]
    bins: tuple[str, ...]


def summarise(
    rows: pd.DataFrame,
    *,
    metric: str = "dice",
    by: str = "area",
    edges: Sequence[float] | None = None,
    level: str | None = None,
    targets: Sequence[str] = (),
    resamples: int = 5000,
    seed: int = 0,
) -> Summary:
    """Summarise rows of scores; a mean is over rows, its interval over patients
    (`metrics.statistics`).

    Args:
        rows: Of `Scores`.
        metric: Which column.
        by: "area", "diameter" or "volume".
        edges: Between the strata: area fractions, mm or mm³; those of `boltzmed.strata` by default.
        level: "slice" or "volume"; slices for strata by area, volumes for the others by default.
        targets: Only these; all by default.
        resamples: Of the bootstrap.
        seed: Of its draws.

    Raises:
        ValueError: See `select_rows`, `check_rules` and `split_by_size`.
    """
    objects, excluded = select_objects(rows, metric=metric, by=by, level=level, targets=targets)
    check_rules(objects.dropna(subset="score"), metric)
    methods = list(objects["method"].unique())
    records: list[dict] = []
    over_datasets = _OverDatasets()
    for dataset, group in objects.groupby("dataset", sort=False):
        for method, scored in group.groupby("method", sort=False):
            patients, people = pd.factorize(scored["patient"], sort=True)
            strata = {
                ALL_SIZES: np.ones(len(scored), bool),
                **split_by_size(by, scored["size"], edges),
            }
            names = list_targets(scored)
            values, missed = scored["score"].to_numpy(), scored["missed"].to_numpy()
            keys = [(name, stratum) for name in names for stratum in strata]
            everything = [names[name] & strata[stratum] for name, stratum in keys]
            cells = [cell & ~np.isnan(values) for cell in everything]
            sums_PC, counts_PC = sum_by_patient(values, patients, len(people), cells)
            draws = make_generator(seed, "bootstrap", str(dataset))
            drawn = resample_sums(sums_PC, counts_PC, [len(people)], resamples, draws)
            n, patients_C = counts_PC.sum(axis=0), (counts_PC > 0).sum(axis=0)
            low, high = bootstrap_interval(*drawn, patients_C)
            for index, (name, stratum) in enumerate(keys):
                if everything[index].any():
                    identity = {
                        "dataset": dataset,
                        "target": name,
                        "stratum": stratum,
                        "method": method,
                    }
                    lost, count = int(missed[everything[index]].sum()), int(everything[index].sum())
                    mean = sums_PC[:, index].sum() / n[index] if n[index] else np.nan
                    numbers = {"mean": mean, "low": low[index], "high": high[index]}
                    numbers |= {"n": int(n[index]), "patients": int(patients_C[index])}
                    numbers |= {"missed": lost, "objects": count, "missed_share": lost / count}
                    records.append({**identity, **numbers})
            # The first target of all is "all targets", or the only one: its cells are the strata.
            # Line 0 is what was seen, the rest are resamples.
            sums_RC, counts_RC = (
                np.vstack(lines) for lines in zip((sums_PC.sum(axis=0), n), drawn, strict=True)
            )
            over_datasets.add(str(method), list(strata), sums_RC, counts_RC, patients_C)
    overall = over_datasets.table(methods) if objects["dataset"].nunique() > 1 else pd.DataFrame()
    order = (ALL_SIZES, *split_by_size(by, (), edges))
    about = (metric, level or LEVEL_OF[by], by, order, list_bins(by, edges))
    return Summary(pd.DataFrame(records), overall, excluded, *about)


def list_targets(rows: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Return which rows are of each target, all of them together first where there are several."""
    found = {str(name): rows["target"].eq(name).to_numpy() for name in rows["target"].unique()}
    return found if len(found) == 1 else {ALL_TARGETS: np.ones(len(rows), bool), **found}


class _OverDatasets:
    """One mean of data sets' sums, as measured and in every bootstrap sample."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], list[NDArray]] = {}
        self._patients: dict[tuple[str, str], int] = {}

    def add(
        self,
        method: str,
        strata: list[str],
        sums_RC: NDArray,
        counts_RC: NDArray,
        patients_C: NDArray,
    ) -> None:
        """Adds one data set's; the first stratum is all sizes."""
        for index, stratum in enumerate(strata):
            part = np.stack([sums_RC[:, index], counts_RC[:, index], counts_RC[:, 0]])
            self._sums.setdefault((stratum, method), []).append(part)
            most = max(self._patients.get((stratum, method), 0), int(patients_C[index]))
            self._patients[stratum, method] = most

    def table(self, methods: Sequence[str]) -> pd.DataFrame:
        """A row per weighting, stratum and method that has rows there."""
        records = []
        for weighting in WEIGHTINGS:
            for stratum, method in sorted(self._sums, key=lambda key: methods.index(key[1])):
                parts = np.stack(
                    [part for part in self._sums[stratum, method] if part[1, 0] > 0]
                    or [np.zeros((3, 1))]
                )
                if not parts[:, 1, 0].any():
                    continue
                with np.errstate(invalid="ignore", divide="ignore"):
                    values = _weigh(weighting, *parts.transpose(1, 0, 2))
                low, high = percentile_interval(values[1:, None])[:, 0]
                if (
                    self._patients[stratum, method] < 2
                ):  # one patient in each data set: there is nothing to resample
                    low = high = np.nan
                identity = {"weighting": weighting, "stratum": stratum, "method": method}
                numbers = {"mean": values[0], "low": low, "high": high}
                records.append(
                    {**identity, **numbers, "n": int(parts[:, 1, 0].sum()), "datasets": len(parts)}
                )
        return pd.DataFrame(records)


def _weigh(weighting: str, sums_DR: NDArray, counts_DR: NDArray, totals_DR: NDArray) -> NDArray:
    if weighting == "rows":
        return sums_DR.sum(axis=0) / counts_DR.sum(axis=0)
    if weighting == "datasets":
        return (sums_DR / counts_DR).mean(axis=0)
    # A data set's mean times its share n_group / n: each row weighs 1 / n of its data set.
    return (sums_DR / totals_DR).sum(axis=0) / (counts_DR / totals_DR).sum(axis=0)


def report_summary(
    paths: Iterable[str | Path],
    folder: str | Path | None = None,
    *,
    patient_pattern: str | None = None,
    **settings: Any,
) -> str:
    """Return the summary of tables of results as text; write it as CSV and LaTeX into a folder, if
    given.

    Args:
        paths: CSV files.
        folder: Where the tables go.
        patient_pattern: See `read_scores`.
        settings: Of `summarise`.

    Raises:
        ValueError: See `read_scores` and `summarise`; or the folder cannot be written.
    """
    scores = read_scores(paths, patient_pattern=patient_pattern)
    summary = summarise(scores.rows, **settings)
    printed = print_summary(summary)
    if folder is not None:
        tables = {
            "summary": summary.cells,
            "summary_over_data_sets": summary.overall,
            "excluded": summary.excluded,
        }
        kept = {name: table for name, table in tables.items() if len(table.columns)}
        with whole_report(folder, "summarize") as temporary:
            latex = {f"summary_{index}": table for index, table in enumerate(printed.values(), 1)}
            write_tables(temporary, kept, latex)
    about = (
        f"{summary.metric} of {summary.level}s{' in percent' if summary.metric in SHARES else ''}:"
        " mean over rows "
    )
    about += "[95 % interval, patients resampled] n=rows; unpaired, each method over its own rows"
    notes = list_notes([*scores.notes, *list_gaps(summary.cells)], summary.excluded)
    return "\n\n".join([about, format_tables(printed), notes])


def choose_by_size(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells that are shown by size: of all targets of a method together, or of its only
    one.

    Where methods of a data set differ there, as a model of several targets and an expert of one of
    them, each of these is shown for every method that has it: the data set is called "NAME, TARGET"
    then. `own` says whether a cell is of all that its method has of the data set, so that sums over
    data sets count nothing twice.

    Args:
        cells: Of `Summary`.
    """
    own = cells["target"].eq(cells.groupby(["dataset", "method"])["target"].transform("first"))
    firsts = cells[own].groupby("dataset", sort=False)["target"].unique()
    pairs = list(zip(cells["dataset"], cells["target"], strict=True))
    names = [
        f"{dataset}, {target}" if len(firsts[dataset]) > 1 else dataset for dataset, target in pairs
    ]
    return cells.assign(dataset=names, own=own)[
        [target in firsts[dataset] for dataset, target in pairs]
    ]


def list_gaps(cells: pd.DataFrame) -> list[str]:
    """Return a line for each method that lacks targets that another has in the same data set."""
    lines = []
    named = cells[cells["target"].ne(ALL_TARGETS)]
    for dataset, group in named.groupby("dataset", sort=False):
        wanted = list(group["target"].unique())
        for method, own in group.groupby("method", sort=False)["target"]:
            if lacking := [target for target in wanted if target not in set(own)]:
                some = ", ".join([*lacking[:3], *["…"] * (len(lacking) > 3)])
                lines.append(
                    f"{method} lacks {len(lacking)} of {len(wanted)} targets of {dataset} ({some}):"
                    " its means over targets, by size and over data sets are of the others"
                )
    return lines


def print_summary(summary: Summary) -> dict[str, pd.DataFrame]:
    """Return tables of text by their titles: by target, by size, what was missed altogether, over
    data sets.
    """
    cells, overall = summary.cells, summary.overall
    by_size = missed = choose_by_size(cells)
    if len(overall):
        together = (
            by_size[by_size["own"]]
            .groupby(["stratum", "method"], sort=False)[["missed", "objects"]]
            .sum()
            .reset_index()
        )
        missed = pd.concat([by_size, together.assign(dataset=ALL_DATASETS)], ignore_index=True)
    shown, spread = (
        partial(_show_mean, metric=summary.metric),
        partial(_spread, strata=summary.strata),
    )
    tables = {
        "By target": spread(cells[cells["stratum"].eq(ALL_SIZES)], ["dataset", "target"], shown),
        f"By {summary.by}": spread(by_size, ["dataset", "stratum"], shown),
        "Missed altogether (no overlap)": spread(missed, ["dataset", "stratum"], _show_missed),
    }
    for weighting, words in WEIGHTINGS.items():
        if len(overall):
            group = overall[overall["weighting"].eq(weighting)]
            tables[f"Over data sets: {words}"] = spread(group, ["stratum", "datasets"], shown)
    return tables


def format_interval(cell: Mapping[Hashable, Any], metric: str, value: str = "mean") -> str:
    """Return "73.77 [71.30, 76.22]" of a line of a table that has `value`, low and high; shares in
    percent.
    """
    if np.isnan(cell[value]):
        return "–"
    scale = 100 if metric in SHARES else 1
    low_high = (
        f"[{scale * cell['low']:.2f}, {scale * cell['high']:.2f}]"
        if np.isfinite(cell["low"])
        else "[–]"
    )
    return f"{scale * cell[value]:.2f} {low_high}"


def _show_mean(cell: Mapping[Hashable, Any], metric: str) -> str:
    return f"{format_interval(cell, metric)} n={cell['n']}"


def _show_missed(cell: Mapping[Hashable, Any]) -> str:
    return f"{100 * cell['missed'] / cell['objects']:.2f} % ({cell['missed']} of {cell['objects']})"


def list_notes(notes: Iterable[str], excluded: pd.DataFrame) -> str:
    """Return what a reader of the tables has to know: a line each."""
    counts = excluded.to_dict("records")
    lines = [
        f"left out: {row['rows']} rows of {row['method']}, {row['dataset']}: {row['reason']}"
        for row in counts
    ]
    return "\n".join([*notes, *(lines or ["left out: nothing"])])


def _spread(
    cells: pd.DataFrame,
    names: list[str],
    show: Callable[[dict[Hashable, Any]], str],
    strata: Sequence[str],
) -> pd.DataFrame:
    """A line for each of `names` and a column per method, in their order of appearance; strata in
    the given one.
    """
    order = {name: list(strata if name == "stratum" else cells[name].unique()) for name in names}
    lines: dict[tuple, dict[str, str]] = {}
    for cell in cells.to_dict("records"):
        lines.setdefault(tuple(cell[name] for name in names), {})[cell["method"]] = show(cell)
    methods = cells["method"].unique()
    ordered = sorted(
        lines,
        key=lambda line: [
            order[name].index(value) for name, value in zip(names, line, strict=True)
        ],
    )
    return pd.DataFrame(
        [[*line, *(lines[line].get(method, "–") for method in methods)] for line in ordered],
        columns=pd.Index([*names, *methods]),
    )
