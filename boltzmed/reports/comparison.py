"""Methods against one of them, on the objects that both were scored on: differences, intervals,
tests, effect sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from boltzmed.metrics.statistics import (
    ROUNDING,
    adjust_holm,
    bootstrap_interval,
    cohens_dz,
    make_generator,
    merge_rounding,
    permutation_p,
    rank_biserial,
    resample_sums,
    sum_by_patient,
    wilcoxon_p,
)
from boltzmed.reports.folder import whole_report
from boltzmed.reports.presence import print_presence, tabulate_presence
from boltzmed.reports.scores import (
    DIFFERENCES,
    ERRORS,
    LEVEL_OF,
    OBJECT,
    SHARES,
    Scores,
    check_rules,
    is_same_size,
    read_scores,
    select_rows,
)
from boltzmed.reports.summary import (
    ALL_DATASETS,
    ALL_SIZES,
    ALL_TARGETS,
    format_interval,
    list_notes,
    list_targets,
)
from boltzmed.reports.tables import format_tables, write_tables
from boltzmed.strata import split_by_size

TESTS = ("wilcoxon", "permutation")

_LOWER_IS_BETTER = (
    "Of {} the lower number is the better one: a negative difference, r and d_z speak for the"
    " method."
)
_ZERO_IS_BEST = (
    "Of {} 0 is the best: difference, r and d_z say which method's is larger, not which one is"
    " better."
)


@dataclass(frozen=True)
class Comparison:
    """Differences of one score.

    Attributes:
        cells: A row per method, dataset and target (of all sizes) or stratum (of all targets): n
            rows and patients in both, reference_mean and mean (the two methods'), difference
            (method - reference method) with low and high (95 % interval), wilcoxon_p, permutation_p
            and both after Holm (wilcoxon_holm, permutation_holm), rank_biserial, cohens_dz.
        excluded: method, dataset, reason, rows.
        reference_method: What the others are compared with.
        metric: What the score is, of which rows, and what the strata go by.
        level: What the score is, of which rows, and what the strata go by.
        by: What the score is, of which rows, and what the strata go by.
        presence: Of `tabulate_presence`, for both levels; not paired.
    """

    cells: pd.DataFrame
    excluded: pd.DataFrame
    reference_method: str
    metric: str
    level: str
    by: str
    presence: pd.DataFrame


def compare(
    rows: pd.DataFrame,
    *,
    methods: Sequence[str] = (),
    reference_method: str | None = None,
    metric: str = "dice",
    by: str = "area",
    edges: Sequence[float] | None = None,
    level: str | None = None,
    targets: Sequence[str] = (),
    resamples: int = 9999,
    seed: int = 0,
) -> Comparison:
    """Compare methods with a reference method, pair by pair, on the rows that both have.

    Means and differences are over rows; intervals resample patients, the permutation test flips
    whole patients, and Wilcoxon's test and the effect sizes take one mean difference a patient.
    Holm's correction counts all tests of one kind on one data set and pair of methods; the rows of
    all data sets together are such a family, too.

    Args:
        rows: Of `Scores`.
        methods: Which; all by default.
        reference_method: One of them; the first by default.
        metric: Column of the score.
        by: "area", "diameter" or "volume".
        edges: Between the strata: area fractions, mm or mm³; those of `boltzmed.strata` by default.
        level: "slice" or "volume"; slices for strata by area, volumes for the others by default.
        targets: Only these; all by default.
        resamples: Of the bootstrap, and flips of the permutation test where there are too many to
            try all.
        seed: Of both.

    Raises:
        ValueError: No second method, an unknown one, none that shares an object with the reference
            method, or methods scored on different references; and see `select_rows`, `check_rules`
            and `split_by_size`.
    """
    known = [str(name) for name in rows["method"].unique()]
    unknown = [
        name
        for name in (*methods, *([reference_method] if reference_method else []))
        if name not in known
    ]
    if unknown:
        raise ValueError(f"method: expected one of {', '.join(known)}, got {unknown[0]!r}")
    names = (
        list(dict.fromkeys([*methods, *([reference_method] if reference_method else [])]))
        if methods
        else known
    )
    first = reference_method or names[0]
    if len(names) < 2:
        raise ValueError(
            f"expected scores of two methods or more, got those of {first} alone; name another"
            " table"
        )
    chosen, excluded = select_rows(
        rows[rows["method"].isin(names)], metric=metric, by=by, level=level, targets=targets
    )
    lines, unpaired = [], []
    for method in [name for name in names if name != first]:
        pairs, alone = _pair(chosen, first, method, metric)
        unpaired += alone  # a method that shares nothing is left out whole, and the others go on
        for dataset, group in _each_dataset(pairs):
            cells = pd.DataFrame(
                _test_cells(group, dataset, (first, method), by, edges, resamples, seed)
            )
            for test in TESTS:
                cells[f"{test}_holm"] = adjust_holm(cells[f"{test}_p"])
            lines.append(cells.assign(method=method))
    order = [
        "method",
        "dataset",
        "target",
        "stratum",
        "n",
        "patients",
        "reference_mean",
        "mean",
        "difference",
        "low",
    ]
    order += [
        "high",
        *(f"{test}_{kind}" for test in TESTS for kind in ("p", "holm")),
        "rank_biserial",
        "cohens_dz",
    ]
    if not lines:
        others = ", ".join(name for name in names if name != first)
        raise ValueError(
            f"{first} and {others} have no object in common; their tables must name cases, slices"
            " and targets alike"
        )
    left_out = pd.concat([excluded, *unpaired], ignore_index=True)
    cells = pd.concat(lines, ignore_index=True)[order]
    asked = rows[rows["target"].isin(targets)] if targets else rows
    presence = tabulate_presence(asked, list(dict.fromkeys([first, *names])))
    return Comparison(cells, left_out, first, metric, level or LEVEL_OF[by], by, presence)


def _pair(
    chosen: pd.DataFrame, first: str, second: str, metric: str
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """The objects that both methods have, with the second's `score_other`; and counts of those of
    one alone.
    """
    key = list(OBJECT)
    sides = [chosen[chosen["method"].eq(name)] for name in (first, second)]
    pairs = sides[0].merge(sides[1][[*key, "score", "size"]], on=key, suffixes=("", "_other"))
    alone, both = [], []
    for side, method, other in ((sides[0], first, second), (sides[1], second, first)):
        shared = (
            side[key]
            .merge(pairs[key], on=key, how="left", indicator=True)["_merge"]
            .eq("both")
            .to_numpy()
        )
        both.append(side[shared])
        counts = side[~shared].groupby("dataset", sort=False).size().rename("rows").reset_index()
        reason = (
            f"no object in common with {other}"
            if pairs.empty
            else f"no score by {other} to pair with"
        )
        alone.append(counts.assign(method=method, reason=reason))
    if pairs.empty:
        return pairs, alone
    check_rules(pd.concat(both), metric)
    differ = ~is_same_size(pairs["size"], pairs["size_other"])
    if 2 * differ.sum() > len(pairs):
        odd = pairs[differ].iloc[0]
        raise ValueError(
            f"case {odd['case']}: {odd['target']} has size {odd['size']:g} for {first} and"
            f" {odd['size_other']:g} for {second}, and so have {differ.sum()} of {len(pairs)};"
            " methods must be scored on the same references"
        )
    counts = pairs[differ].groupby("dataset", sort=False).size().rename("rows").reset_index()
    alone.append(
        counts.assign(method=second, reason=f"another size of the reference than for {first}")
    )
    return pairs[~differ], alone


def _each_dataset(pairs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each data set's rows, then all of them, where there are several."""
    groups = list(pairs.groupby("dataset", sort=False))
    yield from ((str(dataset), group) for dataset, group in groups)
    if len(groups) > 1:
        yield ALL_DATASETS, pairs


def _test_cells(
    group: pd.DataFrame,
    dataset: str,
    methods: tuple[str, str],
    by: str,
    edges: Sequence[float] | None,
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """A line for each target, and for each stratum of all targets, of one data set and pair of
    methods.
    """
    targets = list_targets(group)
    whole = next(iter(targets))
    cells = {
        (name, ALL_SIZES): mask
        for name, mask in targets.items()
        if dataset != ALL_DATASETS or name == whole
    }
    label = whole if dataset != ALL_DATASETS else ALL_TARGETS
    cells |= {
        (label, stratum): mask for stratum, mask in split_by_size(by, group["size"], edges).items()
    }
    cells = {identity: mask for identity, mask in cells.items() if mask.any()}
    patients = (
        group.groupby(["dataset", "patient"]).ngroup().to_numpy()
    )  # of one name in two data sets are two
    sizes = group.groupby("dataset")["patient"].nunique().to_list()
    scores = group[["score", "score_other"]].to_numpy()
    rounding = ROUNDING * float(np.abs(scores).max())
    differences = scores[:, 1] - scores[:, 0]
    masks = list(cells.values())
    sums_PC, counts_PC = sum_by_patient(differences, patients, sum(sizes), masks)
    there_PC = counts_PC > 0
    means = []
    for sums, counts, there in zip(sums_PC.T, counts_PC.T, there_PC.T, strict=True):
        means.append(merge_rounding(sums[there] / counts[there], rounding))
        sums[there] = means[-1] * counts[there]
    # The same draws whichever of the two is the reference: swapping them changes signs and nothing
    # else.
    purpose = (dataset, *sorted(methods))
    drawn = resample_sums(
        sums_PC, counts_PC, sizes, resamples, make_generator(seed, "bootstrap", *purpose)
    )
    most_C = np.add.reduceat(there_PC, np.cumsum([0, *sizes[:-1]]), axis=0).max(
        axis=0
    )  # of any one data set
    low, high = bootstrap_interval(*drawn, most_C)
    numbers = np.stack([[differences[mask].mean() for mask in masks], low, high])
    numbers[np.abs(numbers) <= rounding] = 0
    flips = make_generator(seed, "flips", *purpose)
    permuted = permutation_p(sums_PC, counts_PC, resamples, flips, rounding=rounding)
    lines = []
    for index, ((target, stratum), mask) in enumerate(cells.items()):
        lines.append(
            {
                **{"dataset": dataset, "target": target, "stratum": stratum},
                **{"n": int(mask.sum()), "patients": int(there_PC[:, index].sum())},
                **dict(zip(("reference_mean", "mean"), scores[mask].mean(axis=0), strict=True)),
                **dict(zip(("difference", "low", "high"), numbers[:, index], strict=True)),
                **{"wilcoxon_p": wilcoxon_p(means[index]), "permutation_p": permuted[index]},
                **{
                    "rank_biserial": rank_biserial(means[index]),
                    "cohens_dz": cohens_dz(means[index]),
                },
            }
        )
    return lines


def report_comparison(
    paths: Iterable[str | Path],
    folder: str | Path | None = None,
    *,
    patient_pattern: str | None = None,
    **settings: Any,
) -> str:
    """Return the comparison of tables of results as text; write it as CSV and LaTeX into a folder,
    if given.

    Args:
        paths: CSV files, of one method each or of several.
        folder: Where the tables go.
        patient_pattern: See `read_scores`.
        settings: Of `compare`.

    Raises:
        ValueError: See `read_scores` and `compare`; or the folder cannot be written.
    """
    scores = read_scores(paths, patient_pattern=patient_pattern)
    comparison = compare(scores.rows, **settings)
    if folder is None:
        return describe_comparison(scores, comparison)
    with whole_report(folder, "compare") as temporary:
        return describe_comparison(scores, comparison, temporary)


def describe_comparison(
    scores: Scores, comparison: Comparison, folder: str | Path | None = None
) -> str:
    """Return a comparison as text; write it as CSV and LaTeX into a folder, if given.

    Raises:
        OutputError: The folder cannot be written.
    """
    printed, presence = print_comparison(comparison), print_presence(comparison.presence)
    if folder is not None:
        tables = {"comparison": comparison.cells, "excluded": comparison.excluded}
        latex = {f"comparison_{index}": table for index, table in enumerate(printed.values(), 1)}
        if presence:
            tables["presence"] = comparison.presence
            latex |= {
                f"presence_{index}": table for index, table in enumerate(presence.values(), 1)
            }
        write_tables(folder, tables, latex)
    unit = " in percent" if comparison.metric in SHARES else ""
    about = (
        f"{comparison.metric} of {comparison.level}s{unit}, against {comparison.reference_method},"
        " on rows scored for both:\nmeans over rows, their difference [95 % interval, patients"
        " resampled], p of Wilcoxon's test on patients' means\nand of flipping whole patients"
        " (each after Holm over all tests of the data set), rank-biserial correlation r\nand"
        " Cohen's d_z of patients' means"
    )
    about = "\n".join([about, *describe_direction(comparison.metric)])
    return "\n\n".join(
        [about, format_tables(printed | presence), list_notes(scores.notes, comparison.excluded)]
    )


def describe_direction(metric: str) -> list[str]:
    """A sentence on how to read differences of a metric of which more is not better; none for the
    others.
    """
    if metric in ERRORS:
        return [_LOWER_IS_BETTER.format(metric)]
    return [_ZERO_IS_BEST.format(metric)] if metric in DIFFERENCES else []


def print_comparison(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """Return tables of text by their titles: for each method by target, then by size."""
    first, metric = comparison.reference_method, comparison.metric
    scale = 100 if metric in SHARES else 1
    tables = {}
    for method, cells in comparison.cells.groupby("method", sort=False):
        text = pd.DataFrame(
            {
                **{name: cells[name] for name in ("dataset", "target", "stratum")},
                **{"n": cells["n"].astype(str), "patients": cells["patients"].astype(str)},
                first: [f"{scale * mean:.2f}" for mean in cells["reference_mean"]],
                str(method): [f"{scale * mean:.2f}" for mean in cells["mean"]],
                "difference": [
                    format_interval(cell, metric, "difference") for cell in cells.to_dict("records")
                ],
                **{f"{test} p (Holm)": _format_p(cells, test) for test in TESTS},
                **{
                    name: [_format(v) for v in cells[key]]
                    for name, key in (("r", "rank_biserial"), ("d_z", "cohens_dz"))
                },
            }
        )
        by_target = text["stratum"].eq(ALL_SIZES)
        tables[f"{method} - {first}, by target"] = text[by_target].drop(columns="stratum")
        tables[f"{method} - {first}, by {comparison.by}"] = text[~by_target].drop(columns="target")
    return tables


def _format_p(cells: pd.DataFrame, test: str) -> list[str]:
    pairs = zip(cells[f"{test}_p"], cells[f"{test}_holm"], strict=True)
    return ["–" if np.isnan(p) else f"{p:.2g} ({holm:.2g})" for p, holm in pairs]


def _format(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"
