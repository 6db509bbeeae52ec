"""``boltzmed nnunet``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from boltzmed.cli.evaluate import add_scoring, read_scoring


def add_nnunet(commands: Any) -> None:
    """Add the command to the parser's subcommands."""
    nnunet = commands.add_parser(
        "nnunet", help="compare with nnU-Net: caches out, its masks back in"
    )
    ways = nnunet.add_subparsers(title="commands", metavar="COMMAND", required=True)
    out = ways.add_parser(
        "export", help="write a cache as a raw data set of nnU-Net v2, with our split"
    )
    out.add_argument("cache", metavar="CACHE", help="what prepare wrote")
    out.add_argument(
        "--raw", required=True, metavar="DIR", help="the folder that nnU-Net knows as nnUNet_raw"
    )
    out.add_argument(
        "--id",
        required=True,
        type=int,
        metavar="N",
        help="of the data set, 1 to 999; of the first one",
    )
    out.add_argument("--name", help="of the data set; the card's by default")
    out.add_argument(
        "--target", action="append", metavar="NAME", help="may be repeated; all by default"
    )
    out.add_argument(
        "--mode",
        default="multiclass",
        choices=["multiclass", "experts"],
        help="experts: a data set for each target",
    )
    out.set_defaults(run=_export)
    back = ways.add_parser("import", help="score nnU-Net's masks as ours, and check its own Dice")
    back.add_argument(
        "folders",
        nargs="+",
        metavar="FOLDER",
        help="fold_0/validation, or what nnUNetv2_predict wrote",
    )
    back.add_argument("--cache", required=True, metavar="DIR", help="the cache that was exported")
    back.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="results.csv, lesions.csv, measures.csv and left_out.csv go there",
    )
    back.add_argument(
        "--part",
        choices=["train", "validation", "test"],
        help="validation for a folder of that name by default, else test",
    )
    back.add_argument(
        "--method", default="nnU-Net", metavar="NAME", help="in the table (default nnU-Net)"
    )
    add_scoring(back)
    back.set_defaults(run=_import)


def _export(options: argparse.Namespace) -> int:
    from boltzmed.nnunet.raw_dataset import export_dataset

    settings = {"name": options.name, "targets": options.target, "mode": options.mode}
    exports = export_dataset(options.cache, options.raw, options.id, **settings)
    for done in exports:
        for reason in done.excluded.values():
            print(f"boltzmed: {done.folder.name}: {reason}", file=sys.stderr)
        print(
            f"{len(done.written)} cases written, {len(done.kept)} kept, {len(done.excluded)}"
            f" excluded: {done.folder}"
        )
    return 2 if any(done.excluded for done in exports) else 0


def _import(options: argparse.Namespace) -> int:
    from boltzmed.nnunet.predictions import import_predictions
    from boltzmed.reports.evaluation import report_scores

    scoring = read_scoring(options)
    settings = {"part": options.part, "method": options.method, "scoring": scoring}
    done = import_predictions(options.folders, options.cache, options.output, **settings)
    print(
        report_scores(
            done.rows, done.lesions, options.output, miss_penalty_mm=scoring.miss_penalty_mm
        )
        + "\n"
    )
    for line in (*done.excluded, *done.disagreements):
        print(f"boltzmed: {line}", file=sys.stderr)
    print(
        f"{len(done.rows)} rows; {done.compared} Dice compared with summary.json,"
        f" {len(done.disagreements)} disagree"
    )
    print(options.output)
    return 2 if done.excluded or done.disagreements else 0
