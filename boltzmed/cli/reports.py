"""``boltzmed stats``, ``summarize``, ``compare`` and ``training``: tables and pages out."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def add_reports(commands: Any) -> None:
    """Add the commands to the parser's subcommands."""
    stats = commands.add_parser(
        "stats", help="object sizes by data set and target, of a cache or a table of results"
    )
    stats.add_argument(
        "table",
        metavar="CACHE|RESULTS.csv",
        help="what prepare wrote; or columns dataset, case, target, area_fraction, may be gzipped",
    )
    stats.add_argument("--output", metavar="DIR", help="save both tables there, as CSV")
    stats.set_defaults(run=_stats)

    for name, run, words in (
        (
            "summarize",
            _summarize,
            "mean scores by data set, target and object size, with intervals",
        ),
        (
            "compare",
            _compare,
            "methods against one of them on what both were scored on, with intervals and tests",
        ),
    ):
        scores = commands.add_parser(name, help=words)
        scores.add_argument(
            "tables",
            nargs="+",
            metavar="RESULTS.csv",
            help=(
                "columns method, dataset, case, target, dice, area_fraction and any of results.csv;"
                " may be gzipped"
            ),
        )
        scores.add_argument(
            "--metric", default="dice", metavar="COLUMN", help="which score (default dice)"
        )
        scores.add_argument(
            "--by",
            default="area",
            choices=["area", "diameter", "volume"],
            help="what the strata go by (default area)",
        )
        scores.add_argument(
            "--edges",
            type=_list_numbers,
            metavar="E,E,…",
            help="between strata, in percent of the image, mm or mm³",
        )
        scores.add_argument(
            "--level",
            choices=["slice", "volume"],
            help="slices for strata by area, volumes for others by default",
        )
        scores.add_argument(
            "--target",
            action="append",
            default=[],
            metavar="NAME",
            help="only this target; may be repeated",
        )
        scores.add_argument(
            "--patient-pattern",
            metavar="REGEX",
            help="finds the patient in a case's name, where no column says it",
        )
        scores.add_argument(
            "--seed", type=_read_count, default=0, help="of the resampling (default 0)"
        )
        saved = "save the tables there, as CSV and LaTeX"
        saved += "; and report.html, with figures" if name == "compare" else ""
        scores.add_argument("--output", metavar="DIR", help=saved)
        scores.set_defaults(run=run)
    scores.add_argument(
        "--methods", nargs="+", default=[], metavar="NAME", help="which methods; all by default"
    )
    scores.add_argument(
        "--reference-method",
        metavar="NAME",
        help="what they are compared with; the first by default",
    )
    scores.add_argument(
        "--number-cases",
        action="store_true",
        help="show cases as numbers, in the order of their names, where names may say who they are",
    )
    pictures = scores.add_argument_group("pictures on the page of --output")
    pictures.add_argument(
        "--images", metavar="DIR", help="CASE.nii.gz, or a folder CASE with its DICOM series"
    )
    pictures.add_argument(
        "--references", metavar="DIR", help="CASE.nii.gz label maps, or CASE/TARGET.nii.gz masks"
    )
    pictures.add_argument(
        "--cache", metavar="DIR", help="of boltzmed prepare, instead of images and references"
    )
    pictures.add_argument(
        "--predictions",
        action="append",
        default=[],
        type=_split_pair,
        metavar="METHOD=DIR",
        help=(
            "a method's masks, as boltzmed predict writes them or named like references; may be"
            " repeated"
        ),
    )
    pictures.add_argument(
        "--window", type=_list_numbers, metavar="LOW,HIGH", help="the target's card says by default"
    )
    pictures.add_argument(
        "--worst",
        type=_read_count,
        default=12,
        metavar="N",
        help="how many of the worst cases (default 12)",
    )
    pictures.add_argument(
        "--case",
        action="append",
        default=[],
        metavar="NAME",
        help="for the volume viewer, instead of the worst four",
    )
    pictures.add_argument(
        "--page-megabytes",
        type=_read_megabytes,
        default=30.0,
        metavar="MB",
        help="volumes are cropped to fit (default 30)",
    )

    training = commands.add_parser(
        "training", help="summarise a training by epoch, from its TensorBoard events"
    )
    training.add_argument("folder", metavar="RUN_DIR", help="the training's output folder")
    training.add_argument("--output", metavar="FILE.png", help="draw its curves there")
    training.set_defaults(run=_training)


def _split_pair(text: str) -> tuple[str, str]:
    method, equals, folder = text.partition("=")
    if not (method and equals and folder):
        raise argparse.ArgumentTypeError(f"expected METHOD=DIR, got {text!r}")
    return method, folder


def _read_count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text!r}")
    return int(text)


def _read_megabytes(text: str) -> float:
    try:
        megabytes = float(text)
    except ValueError:
        megabytes = 0.0
    if not 0 < megabytes < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a size in megabytes above 0, got {text!r}")
    return megabytes


def _list_numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers such as 0.1,1,10, got {text!r}"
        ) from None


def _stats(options: argparse.Namespace) -> int:
    from boltzmed.reports.sizes import report_sizes

    print(report_sizes(options.table, options.output))
    return 0


def _summarize(options: argparse.Namespace) -> int:
    from boltzmed.reports.summary import report_summary

    print(report_summary(options.tables, options.output, **_score_settings(options)))
    return 0


def _compare(options: argparse.Namespace) -> int:
    pair = {"methods": options.methods, "reference_method": options.reference_method}
    settings = {**_score_settings(options), **pair}
    if options.output is None:
        from boltzmed.reports.comparison import report_comparison

        print(report_comparison(options.tables, **settings))
        return 0
    from boltzmed.reports.report import report_methods

    names = ("images", "references", "cache", "window", "worst", "page_megabytes", "number_cases")
    shown = {name: getattr(options, name) for name in names}
    shown |= {"predictions": dict(options.predictions), "cases": options.case}
    shown["report"] = lambda line: print(f"boltzmed: {line}", file=sys.stderr, flush=True)
    print(report_methods(options.tables, options.output, **settings, **shown))
    return 0


def _score_settings(options: argparse.Namespace) -> dict[str, Any]:
    percent = options.by == "area" and options.edges is not None
    edges = [round(edge / 100, 12) for edge in options.edges] if percent else options.edges
    settings = {
        name: getattr(options, name)
        for name in ("metric", "by", "level", "patient_pattern", "seed")
    }
    return {**settings, "edges": edges, "targets": options.target}


def _training(options: argparse.Namespace) -> int:
    from boltzmed.reports.training import draw_training, read_training, summarise_training

    table = read_training(options.folder)
    print(summarise_training(table))
    if options.output:
        draw_training(table, options.output)
        print(options.output)
    return 0
