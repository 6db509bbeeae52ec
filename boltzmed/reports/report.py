"""Tables of results, and folders of pictures, → a folder with one page, its tables and its figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from boltzmed.reports.cases import PictureFolders, open_pictures
from boltzmed.reports.comparison import Comparison, compare, describe_comparison, print_comparison
from boltzmed.reports.failures import pair_scores
from boltzmed.reports.figures import (
    REFERENCE_COLOUR,
    colour_of,
    draw_agreement,
    draw_pairs,
    draw_sizes,
    limits_of_agreement,
    save_figure,
)
from boltzmed.reports.gallery import make_gallery
from boltzmed.reports.page import (
    Figure,
    Grid,
    ObjectTable,
    Page,
    Section,
    as_svg_uri,
    mark_best,
    redact_name,
    write_page,
)
from boltzmed.reports.published import format_numbers, tabulate_datasets, tabulate_sizes, tabulate_targets, write_latex
from boltzmed.reports.scores import OBJECT, SHARES, Scores, read_scores, select_rows
from boltzmed.reports.summary import ALL_SIZES, Summary, print_summary, summarise
from boltzmed.reports.tables import write_tables
from boltzmed.reports.viewer import find_niivue

PAGE = "report.html"
TABLE_ROWS = 1000
"""Objects in the page's table; `objects.csv` has them all."""

_OVERLAPPING = ("<1 %", "≥1 %")  # the paper's two groups, beside the bins


def report_methods(
    paths: Iterable[str | Path],
    folder: str | Path,
    *,
    patient_pattern: str | None = None,
    methods: Sequence[str] = (),
    reference_method: str | None = None,
    images: str | Path | None = None,
    cache: str | Path | None = None,
    references: str | Path | None = None,
    predictions: Mapping[str, str | Path] | None = None,
    window: Sequence[float] | None = None,
    cases: Sequence[str] = (),
    worst: int = 12,
    page_megabytes: float = 30.0,
    **settings: Any,
) -> str:
    """Compare methods as `report_comparison` does, and write the report of them into the same folder.

    Args:
        paths: CSV files, of one method each or of several.
        folder: Where everything goes.
        patient_pattern: See `read_scores`.
        methods, reference_method: See `compare`; the reference method stands first.
        images, cache, references, predictions, window: See `open_pictures`.
        cases, worst, page_megabytes: See `write_report`.
        settings: Of `compare` and `summarise`: metric, by, edges, level, targets, seed.

    Returns:
        The comparison as text, and where the page is.

    Raises:
        ValueError: See `read_scores`, `compare`, `open_pictures` and `write_report`.
    """
    scores = read_scores(paths, patient_pattern=patient_pattern)
    known = [str(name) for name in scores.rows["method"].unique()]
    if unknown := [name for name in predictions or {} if name not in known]:
        raise ValueError(f"predictions: expected one of the methods {', '.join(known)}, got {unknown[0]!r}")
    datasets = [str(name) for name in scores.rows["dataset"].unique()]
    pictures = open_pictures(datasets, images, cache, references, predictions, window)
    if absent := sorted(set(cases) - set(scores.rows["case"])):
        raise ValueError(f"case: expected one of the tables, got {absent[0]!r}")
    if cases and not pictures.given:
        raise ValueError(f"case {cases[0]}: expected --images DIR or --cache DIR to show it from, got neither")
    comparison = compare(scores.rows, methods=methods, reference_method=reference_method, **settings)
    names = [comparison.reference_method, *(str(name) for name in comparison.cells["method"].unique())]
    ordered = pd.concat([scores.rows[scores.rows["method"].eq(name)] for name in names])
    scores = Scores(ordered, scores.notes)
    text = describe_comparison(scores, comparison, folder)
    summary = summarise(ordered, **settings)
    shown: dict[str, Any] = {"cases": cases, "worst": worst, "page_megabytes": page_megabytes}
    return f"{text}\n\n{write_report(scores, summary, comparison, folder, pictures=pictures, **shown)}"


def write_report(
    scores: Scores,
    summary: Summary,
    comparison: Comparison | None,
    folder: str | Path,
    *,
    pictures: PictureFolders | None = None,
    worst: int = 12,
    cases: Sequence[str] = (),
    viewed: int = 4,
    page_megabytes: float = 30.0,
) -> Path:
    """Write `report.html`, its figures (PNG, SVG), its tables in the paper's layout (CSV, LaTeX) and `objects.csv`.

    Args:
        scores: Of `read_scores`.
        summary: Of the methods that the report is about.
        comparison: Of the same rows; None for one method alone.
        folder: Where everything goes.
        pictures: Where images, references and masks lie; without them failures are listed by their numbers.
        worst: How many of the worst cases are shown.
        cases: Which to show in the viewer; the worst `viewed` by default.
        viewed: See `cases`.
        page_megabytes: About how large the page may get; volumes are cropped and thinned to fit.

    Returns:
        The page's path.

    Raises:
        VolumeError: Something of one of `cases` is missing or broken.
        OutputError: The folder cannot be written.
    """
    folder = Path(folder)
    methods = [str(name) for name in summary.cells["method"].unique()]
    rows = scores.rows[scores.rows["method"].isin(methods)]
    rows, _ = select_rows(rows, metric=summary.metric, by=summary.by, level=summary.level)
    rows = rows[rows["target"].isin(summary.cells["target"].unique())] if "target" in rows else rows
    pairs = pair_scores(rows)
    score = "Dice" if summary.metric == "dice" else summary.metric
    sections = [_write_tables(summary, folder), _draw_sizes(summary, folder, score)]
    if comparison is not None:
        sections.append(_draw_pairs(pairs, methods, comparison, folder, score))
    sections.append(_count_failures(summary, folder))
    colours = {"reference": REFERENCE_COLOUR, **{method: colour_of(methods, method) for method in methods}}
    gallery = make_gallery(
        pairs,
        colours,
        pictures or PictureFolders(),
        scale=_scale(summary),
        worst=worst,
        cases=cases,
        viewed=viewed,
        page_megabytes=page_megabytes,
    )
    table = pairs.assign(case=pairs["case"].map(redact_name)).drop(columns="prompt")
    write_tables(folder, {"objects": table.rename(columns=lambda name: str(name).removeprefix("score:"))})
    left_out = [
        f"Left out: {r.rows} rows of {r.method}, {r.dataset}: {r.reason}." for r in summary.excluded.itertuples()
    ]
    page = Page(
        title=f"{score}: {', '.join(methods)}" if len(methods) < 4 else f"{score} of {len(methods)} methods",
        about=f"{score} of {summary.level}s{' in percent' if summary.metric in SHARES else ''}. A mean is over rows; "
        "its 95 % interval comes from resampling patients.",
        facts=_list_facts(rows, methods),
        sections=sections,
        failures=gallery.failures,
        objects=_list_objects(pairs, methods, summary),
        notes=[*(f"{note}." for note in scores.notes), *left_out, *gallery.notes],
        colours=colours,
        volumes=gallery.volumes,
        niivue=find_niivue() if gallery.volumes else None,
    )
    return write_page(page, folder / PAGE)


def _list_facts(rows: pd.DataFrame, methods: Sequence[str]) -> dict[str, str]:
    objects = len(rows[list(OBJECT)].drop_duplicates())
    patients = len(rows[["dataset", "patient"]].drop_duplicates())
    return {
        "Methods": ", ".join(methods),
        "Data sets": ", ".join(map(str, rows["dataset"].unique())),
        "Targets": str(len(rows[["dataset", "target"]].drop_duplicates())),
        "Objects": f"{objects:,}".replace(",", "\u202f"),
        "Patients": str(patients),
    }


def _write_tables(summary: Summary, folder: Path) -> Section:
    """Tables 1 and 2, and the targets' in the same layout."""
    unit = "%" if summary.metric in SHARES else summary.metric
    tables = {f"Table 1. By data set ({unit})": tabulate_datasets(summary)}
    tables |= {f"{name} ({unit})": table for name, table in tabulate_targets(summary)}
    grids = {caption: Grid.of(format_numbers(table), _best(table, summary)) for caption, table in tables.items()}
    for number, table in enumerate(tables.values()):
        name = "table_1" if number == 0 else f"targets_{number}"
        write_tables(folder, {name: table})
        write_latex(table, folder / f"{name}.tex")
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
    texts = ["The layout is that of the paper's Tables 1 and 2. The highest of each column is bold."]
    if len(summary.overall):
        texts += [
            "“Avg.” is the plain mean of the data sets' means. In Table 2 each data set counts by the group's share "
            "of its objects; small is below 1 % of the image's area."
        ]
    return Section("summary", "Summary", texts, (), grids)


def _best(table: pd.DataFrame, summary: Summary) -> frozenset[tuple[int, int]]:
    return mark_best(table) if summary.metric in SHARES else frozenset()


def _draw_sizes(summary: Summary, folder: Path, score: str) -> Section:
    cells = summary.cells
    cells = cells[cells["target"].eq(cells.groupby("dataset")["target"].transform("first"))]
    bins = cells[~cells["stratum"].isin((ALL_SIZES, *_OVERLAPPING))]
    figures = []
    if len(bins):
        size = {"area": "share of the image's area", "diameter": "diameter", "volume": "volume"}[summary.by]
        svg = save_figure(draw_sizes(bins, score=f"mean {score}", size=size), folder / "figures" / "sizes")
        words = "; ".join(f"{row.method}, {row.dataset}, {row.stratum}: {row.mean:.2f}" for row in bins.itertuples())
        figures = [
            Figure(
                as_svg_uri(svg),
                f"Mean {score} by object size, with 95 % intervals (patients resampled); n is "
                "the number of objects. No bar: fewer than two patients.",
                f"Mean {score} by size. {words}",
            )
        ]
    by_size = {title: Grid.of(table) for title, table in print_summary(summary).items() if title == f"By {summary.by}"}
    return Section("sizes", f"{score} by object size", (), figures, by_size)


def _draw_pairs(
    pairs: pd.DataFrame, methods: Sequence[str], comparison: Comparison, folder: Path, score: str
) -> Section:
    first = comparison.reference_method
    names = [first, *(method for method in methods if method != first)]
    paired = pairs.dropna(subset=[f"score:{name}" for name in names])
    tables = {title: Grid.of(table) for title, table in print_comparison(comparison).items()}
    texts = [
        f"Every method against {first}, on objects scored for both. p: Wilcoxon's test on patients' means, and "
        "flipping the signs of whole patients; in brackets after Holm's correction over all tests of the data set. r: "
        "rank-biserial correlation; d_z: Cohen's, both of patients' means."
    ]
    figures: list[Figure] = []
    if comparison.metric in SHARES and len(paired):
        scores = {name: paired[f"score:{name}"].to_numpy(dtype=np.float64) for name in names}
        svg = save_figure(draw_pairs(scores, score=score), folder / "figures" / "pairs")
        told = [
            f"{name}: better {int((y > scores[first]).sum())}, worse {int((y < scores[first]).sum())}"
            for name, y in scores.items()
            if name != first
        ]
        figures.append(
            Figure(
                as_svg_uri(svg),
                f"Each of {len(paired)} objects that all methods were scored on: above the "
                f"dashed line a method is better than {first}.",
                f"Paired scatter. {'; '.join(told)}",
            )
        )
        svg = save_figure(draw_agreement(scores, score=score), folder / "figures" / "agreement")
        limits = {name: limits_of_agreement(scores[first], y) for name, y in scores.items() if name != first}
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


def _count_failures(summary: Summary, folder: Path) -> Section:
    title = "Missed altogether (no overlap)"
    table = print_summary(summary)[title]
    write_tables(folder, {"missed": table}, {"missed": table})
    texts = [
        "Objects without any overlap between mask and reference (the paper estimates 1.4 % for its own model). Below, "
        "the worst objects of each target: those that most methods missed first, then by the mean over methods."
    ]
    return Section("failures", "Failure analysis", texts, (), {title: Grid.of(table)})


def _list_objects(pairs: pd.DataFrame, methods: Sequence[str], summary: Summary) -> ObjectTable:
    """The worst objects, their scores as the page shows them."""
    shown = pairs.head(TABLE_ROWS)
    size, factor = ("size (% of image)", 100.0) if summary.by == "area" else ("size (mm³)", 1.0)
    rows = [
        [
            *(row["dataset"], row["target"], redact_name(row["case"])),
            str(int(row["slice_index"])) if row["slice_index"] >= 0 else "–",
            f"{factor * row['size']:.3g}" if not np.isnan(row["size"]) else "–",
            *(_number(_scale(summary) * row[name]) for name in ("mean", *(f"score:{method}" for method in methods))),
        ]
        for row in shown.to_dict("records")
    ]
    text = (
        f"The {len(rows)} worst of {len(pairs)}; objects.csv beside this page has them all."
        if len(rows) < len(pairs)
        else f"All {len(rows)}."
    )
    groups = sorted({f"{row[0]}: {row[1]}" for row in rows})
    return ObjectTable(text, ["data set", "target", "case", "slice", size, "mean", *methods], rows, 3, groups)


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1f}"


def _scale(summary: Summary) -> float:
    return 100.0 if summary.metric in SHARES else 1.0
