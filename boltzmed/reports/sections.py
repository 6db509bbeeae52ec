"""The parts of a report: its tables in the paper's layout, figures by size and in pairs, failures,
and the objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from boltzmed.reports.comparison import Comparison, describe_direction, print_comparison
from boltzmed.reports.figures import (
    draw_agreement,
    draw_pairs,
    draw_sizes,
    limits_of_agreement,
    save_figure,
)
from boltzmed.reports.page import Figure, Grid, ObjectTable, Section, as_svg_uri
from boltzmed.reports.presence import print_presence
from boltzmed.reports.published import (
    mark_best,
    tabulate_datasets,
    tabulate_sizes,
    tabulate_targets,
    write_latex,
)
from boltzmed.reports.scores import SHARES
from boltzmed.reports.summary import Summary, choose_by_size, list_gaps, print_summary
from boltzmed.reports.tables import write_tables

TABLE_ROWS = 1000
"""Objects in the page's table; `objects.csv` has them all."""


def make_tables(summary: Summary, folder: Path) -> Section:
    """Tables 1 and 2, and the targets' in the same layout."""
    unit = "%" if summary.metric in SHARES else summary.metric
    tables = {f"Table 1. By data set ({unit})": tabulate_datasets(summary)}
    tables |= {f"{name} ({unit})": table for name, table in tabulate_targets(summary)}
    grids = {}
    for number, (caption, table) in enumerate(tables.items()):
        name = "table_1" if number == 0 else f"targets_{number}"
        printed, best = (
            table.print(),
            (mark_best(table.means) if summary.metric in SHARES else frozenset()),
        )
        grids[caption] = Grid.of(printed, best)
        write_tables(folder, {name: table.join()})
        write_latex(printed, folder / f"{name}.tex", best)
    sizes = tabulate_sizes(summary)
    if len(sizes):
        grids = dict(
            [
                next(iter(grids.items())),
                (f"Table 2. By object size ({unit}, 95 % interval)", Grid.of(sizes)),
                *list(grids.items())[1:],
            ]
        )
        write_tables(folder, {"table_2": sizes}, {"table_2": sizes})
    texts = [
        f"The layout is that of the paper's {'Tables 1 and 2' if len(sizes) else 'Table 1'}. These"
        " means are unpaired: each method's are over its own n rows. “–”: the method lacks a data"
        " set or a target that another was scored on. The highest of each column is bold where the"
        " score is a share."
    ]
    if len(summary.overall):
        texts.append("“Avg.” is the plain mean of the data sets' means.")
    if len(sizes):
        texts.append(
            "In Table 2 each data set counts by the group's share of its objects; small is below 1"
            " % of the image's area."
        )
    return Section("summary", "Summary", texts, (), grids)


def make_sizes(summary: Summary, folder: Path, score: str) -> Section:
    """Means by object size, drawn and in a table."""
    cells = choose_by_size(summary.cells)
    bins = cells[cells["stratum"].isin(summary.bins)]
    figures = []
    if len(bins):
        size = {"area": "share of the image's area", "diameter": "diameter", "volume": "volume"}[
            summary.by
        ]
        svg = save_figure(
            draw_sizes(
                bins,
                strata=summary.bins,
                score=f"mean {score}",
                size=size,
                share=summary.metric in SHARES,
            ),
            folder / "figures" / "sizes",
        )
        words = "; ".join(
            f"{row.method}, {row.dataset}, {row.stratum}: {row.mean:.2f}"
            for row in bins.itertuples()
            if row.n
        )
        figures = [
            Figure(
                as_svg_uri(svg),
                f"Mean {score} by object size, with 95 % intervals (patients resampled); n is the"
                " number of objects, of each method in turn where they differ. No bar: fewer than"
                " two patients.",
                f"Mean {score} by size. {words}",
            )
        ]
    by_size = {
        title: Grid.of(table)
        for title, table in print_summary(summary).items()
        if title == f"By {summary.by}"
    }
    texts = [f"{line}." for line in list_gaps(summary.cells)]
    return Section("sizes", f"{score} by object size", texts, figures, by_size)


def make_pairs(
    pairs: pd.DataFrame, methods: Sequence[str], comparison: Comparison, folder: Path, score: str
) -> Section:
    """Methods against the reference method: drawn object by object, and the tests."""
    first = comparison.reference_method
    names = [first, *(method for method in methods if comparison.cells["method"].eq(method).any())]
    paired = pairs[pairs["same_size"]].dropna(subset=[f"score:{name}" for name in names])
    tables = {title: Grid.of(table) for title, table in print_comparison(comparison).items()}
    texts = [
        f"Every method against {first}, on objects scored for both. p: Wilcoxon's test on patients'"
        " means, and flipping the signs of whole patients; in brackets after Holm's correction"
        " over all tests of the data set. r: rank-biserial correlation; d_z: Cohen's, both of"
        " patients' means."
    ]
    texts += describe_direction(comparison.metric)
    figures: list[Figure] = []
    if comparison.metric not in SHARES:
        texts.append(
            "No paired scatter and no Bland–Altman plot: they are drawn of scores from 0 to 1, and "
            f"{comparison.metric} has no upper end."
        )
    elif not len(paired):
        texts.append(
            "No paired scatter and no Bland–Altman plot: no object was scored for all methods on"
            " one reference."
        )
    if comparison.metric in SHARES and len(paired):
        scores = {name: paired[f"score:{name}"].to_numpy(dtype=np.float64) for name in names}
        svg = save_figure(draw_pairs(scores, score=score), folder / "figures" / "pairs")
        told = [
            f"{name}: better {int((y > scores[first]).sum())}, worse"
            f" {int((y < scores[first]).sum())}"
            for name, y in scores.items()
            if name != first
        ]
        figures.append(
            Figure(
                as_svg_uri(svg),
                f"Each of {len(paired)} objects that all methods were scored on, with references of"
                f" one size: above the dashed line a method is better than {first}.",
                f"Paired scatter. {'; '.join(told)}",
            )
        )
        svg = save_figure(draw_agreement(scores, score=score), folder / "figures" / "agreement")
        limits = {
            name: limits_of_agreement(scores[first], y)
            for name, y in scores.items()
            if name != first
        }
        told = [
            f"{name} − {first}: mean difference {limit['mean']:+.3f}, limits of agreement "
            f"{limit['lower limit']:+.3f} to {limit['upper limit']:+.3f}"
            for name, limit in limits.items()
        ]
        figures.append(
            Figure(
                as_svg_uri(svg),
                f"Bland–Altman: {'; '.join(told)} (mean ± 1.96 standard deviations over "
                "objects, which takes objects of one patient for independent).",
                f"Bland–Altman. {'; '.join(told)}",
            )
        )
    return Section("pairs", "Paired comparison", texts, figures, tables)


def make_presence(comparison: Comparison) -> list[Section]:
    """What was found at all, and what was predicted where nothing is; no section where tables do
    not say.
    """
    grids = {title: Grid.of(table) for title, table in print_presence(comparison.presence).items()}
    texts = [
        "Sensitivity: the share of what shows the target in which anything was predicted, wherever."
        " Specificity: the share of what does not show it in which nothing was; beside it, the mean"
        " volume and number of components that were predicted there. These have no part in the"
        " other tables, which are of objects that are there."
    ]
    return [Section("presence", "Presence", texts, (), grids)] if grids else []


def make_failures(summary: Summary, folder: Path) -> Section:
    """What was missed altogether; single cases come below it on the page."""
    title = "Missed altogether (no overlap)"
    table = print_summary(summary)[title]
    write_tables(folder, {"missed": table}, {"missed": table})
    texts = [
        "Objects without any overlap between mask and reference (the paper estimates 1.4 % for its"
        " own model). Below, the worst objects of each target: those that most methods missed"
        " first, then by the mean over methods, the worst first."
    ]
    return Section("failures", "Failure analysis", texts, (), {title: Grid.of(table)})


def list_objects(pairs: pd.DataFrame, methods: Sequence[str], summary: Summary) -> ObjectTable:
    """The worst objects, their scores as the page shows them."""
    shown = pairs.head(TABLE_ROWS)
    size, factor = ("size (% of image)", 100.0) if summary.by == "area" else ("size (mm³)", 1.0)
    rows = [
        [
            *(row["dataset"], row["target"], row["case"]),
            str(int(row["slice_index"])) if row["slice_index"] >= 0 else "–",
            f"{factor * row['size']:.3g}" if not np.isnan(row["size"]) else "–",
            *(
                _number(scale_of(summary) * row[name])
                for name in ("mean", *(f"score:{method}" for method in methods))
            ),
        ]
        for row in shown.to_dict("records")
    ]
    text = (
        f"The {len(rows)} worst of {len(pairs)}; objects.csv beside this page has them all."
        if len(rows) < len(pairs)
        else f"All {len(rows)}."
    )
    groups = sorted({f"{row[0]}: {row[1]}" for row in rows})
    return ObjectTable(
        text, ["data set", "target", "case", "slice", size, "mean", *methods], rows, 3, groups
    )


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1f}"


def scale_of(summary: Summary) -> float:
    """What a score is multiplied by to be shown: 100 for percent."""
    return 100.0 if summary.metric in SHARES else 1.0
