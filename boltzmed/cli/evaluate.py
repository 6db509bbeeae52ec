"""``boltzmed evaluate``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boltzmed.evaluation import Scoring


def add_evaluate(commands: Any) -> None:
    """Add the command to the parser's subcommands."""
    evaluate = commands.add_parser(
        "evaluate",
        help="score a folder of masks against a folder of references",
        description=(
            "Scores masks against references of the same case and target: overlap, surface"
            " distances, lesions, presence. Both folders hold CASE.nii.gz files, label maps or"
            " masks of one thing, or CASE/TARGET.nii.gz masks as boltzmed predict writes them. What"
            " cannot be scored is listed with its reason, and the rest goes on (exit status 2)."
            " Definitions: docs/metrics.md."
        ),
    )
    evaluate.add_argument("--predictions", required=True, metavar="DIR")
    evaluate.add_argument("--references", required=True, metavar="DIR")
    named = evaluate.add_mutually_exclusive_group()
    named.add_argument(
        "--labels",
        metavar="1=NAME,2=NAME",
        help="targets in CASE.nii.gz files; 1+2=NAME for a union",
    )
    named.add_argument("--card", help="dataset card, or a .yaml of your own, that says the same")
    evaluate.add_argument(
        "--output",
        metavar="DIR",
        help="write results.csv, lesions.csv, measures.csv and left_out.csv there",
    )
    evaluate.add_argument(
        "--method", metavar="NAME", help="in the table; the predictions' folder's name by default"
    )
    evaluate.add_argument(
        "--dataset",
        metavar="NAME",
        help="in the table; the card's or references' folder's by default",
    )
    evaluate.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="finds the patient in a case's name: its group 1, or all of it",
    )
    evaluate.add_argument(
        "--level", default="both", choices=["volume", "slice", "both"], help="rows (default both)"
    )
    evaluate.add_argument(
        "--plane",
        default="axial",
        choices=["axial", "coronal", "sagittal", "array"],
        help="how slices are cut",
    )
    add_scoring(evaluate)
    evaluate.add_argument(
        "--lesion-scores",
        metavar="FILE.csv",
        help=(
            "columns case, target, lesion, score, numbered as in lesions.csv; run.json's"
            " probabilities by default"
        ),
    )
    evaluate.add_argument(
        "--resample", action="store_true", help="bring masks on another grid to the reference's"
    )
    evaluate.add_argument(
        "--missing",
        default="exclude",
        choices=["exclude", "empty", "error"],
        help=(
            "a reference without a prediction is left out and listed (default), scored as empty, or"
            " ends the run"
        ),
    )
    evaluate.set_defaults(run=_evaluate)


def add_scoring(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is measured, and how."""
    parser.add_argument(
        "--distances",
        choices=["all", "volume", "none"],
        help="rows with surface distances; volumes by default",
    )
    parser.add_argument(
        "--tolerance-mm",
        type=float,
        default=2.0,
        metavar="MM",
        help="of the normalised surface Dice (default 2)",
    )
    parser.add_argument(
        "--connectivity",
        type=int,
        default=26,
        choices=[6, 18, 26],
        help="neighbours that make one lesion (default 26); in slices 4 for 6, else 8",
    )
    parser.add_argument(
        "--match",
        default="overlap",
        metavar="overlap|iou:T",
        help=(
            "a lesion is found if a predicted one overlaps it (default), or if they match one to"
            " one by an IoU ≥ T"
        ),
    )
    parser.add_argument(
        "--miss-penalty-mm",
        type=float,
        metavar="MM",
        help="show mean distances, too, in which a case where one mask alone is empty counts as MM",
    )


def read_scoring(options: argparse.Namespace, distances: str = "volume") -> Scoring:
    """What these options say; which rows have surface distances by default, the caller says."""
    from boltzmed.evaluation import Scoring

    return Scoring(
        distances=options.distances or distances,
        tolerance_mm=options.tolerance_mm,
        connectivity=options.connectivity,
        match=options.match,
        miss_penalty_mm=options.miss_penalty_mm,
    )


def _evaluate(options: argparse.Namespace) -> int:
    from boltzmed.evaluation import FolderOptions, score_folder, write_scores
    from boltzmed.files import check_writable
    from boltzmed.masks.label_names import parse_labels
    from boltzmed.reports.evaluation import MEASURES, report_scores

    levels = ("slice", "volume") if options.level == "both" else (options.level,)
    scoring = read_scoring(options, "all" if options.level == "slice" else "volume")
    if options.output:
        check_writable(Path(options.output))
    how = FolderOptions(
        labels=parse_labels(options.labels) if options.labels is not None else None,
        card=options.card,
        method=options.method,
        dataset=options.dataset,
        patient_pattern=options.patient_pattern,
        plane=options.plane,
        levels=levels,
        scoring=scoring,
        resample=options.resample,
        missing=options.missing,
        lesion_scores=options.lesion_scores,
    )
    done = score_folder(
        options.predictions,
        options.references,
        how,
        report=lambda line: print(f"boltzmed: {line}", file=sys.stderr, flush=True),
    )
    print(
        report_scores(
            done.rows, done.lesions, options.output, miss_penalty_mm=scoring.miss_penalty_mm
        )
    )
    print(f"\n{len(done.cases)} cases scored", end="")
    counts = {
        "excluded": done.excluded,
        "targets never predicted": done.never_predicted,
        "predictions without a reference": done.passed_over,
        "targets of a case predicted several times": done.repeated,
        "sets of label values without a name": done.unnamed,
    }
    print(*(f", {len(lines)} {words}" for words, lines in counts.items() if lines), sep="")
    if unknown := {row.case for row in done.rows if not row.patient}:
        print(
            f"No column patient for {len(unknown)} cases: nothing says whose they are"
            " (--patient-pattern, --card), and each counts as its own patient"
        )
    if options.output:
        print(*write_scores(done, options.output), Path(options.output) / MEASURES, sep="\n")
    return 2 if done.excluded or done.never_predicted else 0
