"""The report of a comparison: a folder with one page, its tables and its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from boltzmed.masks.label_names import LabelNames
from boltzmed.reports.comparison import Comparison, compare, describe_comparison
from boltzmed.reports.failures import pair_scores
from boltzmed.reports.figures import REFERENCE_COLOUR, colour_of
from boltzmed.reports.folder import whole_report
from boltzmed.reports.gallery import make_gallery
from boltzmed.reports.names import ShownNames
from boltzmed.reports.page import Page, write_page
from boltzmed.reports.patients import find_card
from boltzmed.reports.pictures import PictureFolders, PreparedImages, open_pictures
from boltzmed.reports.scores import OBJECT, SHARES, Scores, read_scores, select_objects
from boltzmed.reports.sections import (
    list_objects,
    make_failures,
    make_pairs,
    make_presence,
    make_sizes,
    make_tables,
    scale_of,
)
from boltzmed.reports.summary import Summary, summarise
from boltzmed.reports.tables import write_tables
from boltzmed.reports.viewer import find_niivue

PAGE = "report.html"


# Each parameter is an option of ``boltzmed compare``.
def report_methods(
    paths: Iterable[str | Path],
    folder: str | Path,
    *,
    patient_pattern: str | None = None,
    methods: Sequence[str] = (),
    reference_method: str | None = None,
    images: str | Path | None = None,
    cache: PreparedImages | None = None,
    references: str | Path | None = None,
    predictions: Mapping[str, str | Path] | None = None,
    window: Sequence[float] | None = None,
    labels: LabelNames | None = None,
    cases: Sequence[str] = (),
    worst: int = 12,
    page_megabytes: float = 30.0,
    number_cases: bool = False,
    report: Callable[[str], None] | None = None,
    **settings: Any,
) -> str:
    """Compare methods as `report_comparison` does, and write the report of them into the same
    folder.

    What an earlier run left there, and this one does not write, is removed (`whole_report`).

    Args:
        paths: CSV files, of one method each or of several.
        folder: Where everything goes.
        patient_pattern: See `read_scores`.
        methods: See `compare`; the reference method stands first.
        reference_method: See `compare`; the reference method stands first.
        images: See `open_pictures`.
        cache: See `open_pictures`.
        references: See `open_pictures`.
        predictions: See `open_pictures`.
        window: See `open_pictures`.
        labels: See `open_pictures`.
        cases: See `write_report`.
        worst: See `write_report`.
        page_megabytes: See `write_report`.
        number_cases: See `write_report`.
        report: See `write_report`.
        settings: Of `compare` and `summarise`: metric, by, edges, level, targets, seed.

    Returns:
        The comparison as text, and where the page is.

    Raises:
        ValueError: See `read_scores`, `compare`, `open_pictures` and `write_report`.
    """
    scores = read_scores(paths, patient_pattern=patient_pattern)
    known = [str(name) for name in scores.rows["method"].unique()]
    if unknown := [name for name in predictions or {} if name not in known]:
        raise ValueError(
            f"predictions: expected one of the methods {', '.join(known)}, got {unknown[0]!r}"
        )
    datasets = [str(name) for name in scores.rows["dataset"].unique()]
    cards = {name: card for name in datasets if (card := find_card(name)) is not None}
    pictures = open_pictures(
        cards,
        images=images,
        cache=cache,
        references=references,
        predictions=predictions,
        window=window,
        labels=labels,
    )
    if absent := sorted(set(cases) - set(scores.rows["case"])):
        raise ValueError(f"case: expected one of the tables, got {absent[0]!r}")
    if cases and not pictures.given:
        raise ValueError(
            f"case {cases[0]}: expected --images DIR or --cache DIR to show it from, got neither"
        )
    comparison = compare(
        scores.rows, methods=methods, reference_method=reference_method, **settings
    )
    # Methods that share nothing with the reference method come last, so that the compared ones keep
    # their colours.
    order = [comparison.reference_method, *comparison.cells["method"].unique(), *(methods or known)]
    order = list(dict.fromkeys(map(str, order)))
    ordered = pd.concat([scores.rows[scores.rows["method"].eq(name)] for name in order])
    scores = Scores(ordered, scores.notes)
    names = ShownNames.of(scores.rows, number_cases=number_cases)
    summary = summarise(ordered, **settings)
    shown: dict[str, Any] = {"cases": cases, "worst": worst, "page_megabytes": page_megabytes}
    shown |= {"number_cases": number_cases, "report": report}
    redacted = (names.redact_scores(scores), names.redact_comparison(comparison))
    with whole_report(folder, "compare") as temporary:
        text = describe_comparison(*redacted, temporary)
        write_report(scores, summary, comparison, temporary, pictures=pictures, **shown)
    return f"{text}\n\n{Path(folder) / PAGE}"


# Each parameter is an option of ``boltzmed compare``, or what it made of one.
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
    number_cases: bool = False,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Write `report.html`, its figures (PNG, SVG), its tables in the paper's layout (CSV, LaTeX)
    and `objects.csv`.

    Args:
        scores: Of `read_scores`.
        summary: Of the methods that the report is about.
        comparison: Of the same rows; None for one method alone.
        folder: Where everything goes.
        pictures: Where images, references and masks lie; without them failures are listed by their
            numbers.
        worst: How many of the worst cases are shown.
        cases: Which to show in the viewer; the worst `viewed` by default.
        viewed: See `cases`.
        page_megabytes: About how large the page may get; volumes are cropped and thinned to fit.
        number_cases: Show cases by numbers, see `ShownNames.of`.
        report: Called with each line on why a case has no picture; the page does not repeat what
            files are called.

    Returns:
        The page's path.

    Raises:
        ValueError: One of `cases` has no object that the report is about.
        InputError: Something of one of `cases` is missing or broken.
        OutputError: The folder cannot be written.
    """
    folder, names = Path(folder), ShownNames.of(scores.rows, number_cases=number_cases)
    scores, summary = names.redact_scores(scores), names.redact_summary(summary)
    comparison = None if comparison is None else names.redact_comparison(comparison)
    named = [str(name) for name in summary.cells["method"].unique()]
    rows = scores.rows[scores.rows["method"].isin(named)]
    rows, _ = select_objects(rows, metric=summary.metric, by=summary.by, level=summary.level)
    rows = rows[
        rows["target"].isin(summary.cells["target"].unique())
        & (rows["score"].notna() | rows["missed"])
    ]
    methods = [
        name for name in named if rows["method"].eq(name).any()
    ]  # of the others no table has the score
    pairs = pair_scores(rows, summary.metric)
    asked = _find_cases(pairs, names, cases)
    score = "Dice" if summary.metric == "dice" else summary.metric
    sections = [make_tables(summary, folder), make_sizes(summary, folder, score)]
    if comparison is not None:
        sections += [
            make_pairs(pairs, methods, comparison, folder, score),
            *make_presence(comparison),
        ]
    sections.append(make_failures(summary, folder))
    colours = {
        "reference": REFERENCE_COLOUR,
        **{method: colour_of(named, method) for method in methods},
    }
    gallery = make_gallery(
        pairs,
        colours,
        pictures or PictureFolders(),
        names,
        scale=scale_of(summary),
        worst=worst,
        cases=asked,
        viewed=viewed,
        page_megabytes=page_megabytes,
        report=report,
    )
    table = pairs.drop(columns=["prompt", "same_size"])
    write_tables(
        folder, {"objects": table.rename(columns=lambda name: str(name).removeprefix("score:"))}
    )
    excluded = pd.concat(
        [summary.excluded, *([comparison.excluded] if comparison is not None else [])]
    )
    left_out = [
        f"Left out: {r.rows} rows of {r.method}, {r.dataset}: {r.reason}."
        for r in excluded[["method", "dataset", "reason", "rows"]].drop_duplicates().itertuples()
    ]
    page = Page(
        title=(
            f"{score}: {', '.join(methods)}"
            if len(methods) < 4
            else f"{score} of {len(methods)} methods"
        ),
        about=(
            f"{score} of {summary.level}s{' in percent' if summary.metric in SHARES else ''}. A"
            " mean is over rows; its 95 % interval comes from resampling patients."
        ),
        facts=_list_facts(rows, methods),
        sections=sections,
        failures=gallery.failures,
        objects=list_objects(pairs, methods, summary),
        notes=[*(f"{note}." for note in scores.notes), *left_out, *gallery.notes],
        colours=colours,
        volumes=gallery.volumes,
        niivue=find_niivue() if gallery.volumes else None,
    )
    return write_page(page, folder / PAGE)


def _find_cases(
    pairs: pd.DataFrame, names: ShownNames, cases: Sequence[str]
) -> set[tuple[str, str]]:
    """(data set, case) of cases of the tables, as they are shown; of each that several data sets
    have.
    """
    there = set(zip(pairs["dataset"], pairs["case"], strict=True))
    found = {case: set[tuple[str, str]]() for case in cases}
    for (dataset, case), shown in names.cases.items():
        if case in found and (key := (names.plain["dataset"][dataset], shown)) in there:
            found[case].add(key)
    for case, keys in found.items():
        if not keys:
            raise ValueError(
                f"case {case}: expected one that the report shows, got one without any score of it:"
                " the reference is empty, or its rows are of other targets, methods or the other"
                " level; leave out --case or choose another"
            )
    return set().union(*found.values())


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
