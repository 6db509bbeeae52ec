"""The command ``boltzmed``: parses, calls, prints. Heavy modules are imported by the command that
needs them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boltzmed
from boltzmed.cli.evaluate import add_evaluate
from boltzmed.cli.nnunet import add_nnunet
from boltzmed.cli.reports import add_reports


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0, or 2 after one line about wrong input."""
    parser = _make_parser()
    options = parser.parse_args(_join_windows(sys.argv[1:] if arguments is None else arguments))
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    try:
        return options.run(options) or 0
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        line = _root_line(error)
        if line is None:
            raise
        print(f"boltzmed: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("boltzmed: stopped", file=sys.stderr)
        return 130


def _join_windows(arguments: Sequence[str]) -> list[str]:
    """`--window -150,250` → `--window=-150,250`: argparse would take such a window for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--window":
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _root_line(error: BaseException) -> str | None:
    """The message of wrong input (the ValueError family), however deep MONAI has wrapped it; None
    for our own bugs.
    """
    while error.__cause__ is not None and not isinstance(error, ValueError):
        error = error.__cause__
    return str(error) if isinstance(error, ValueError) else None


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="boltzmed",
        description=(
            "Finds and outlines things in CT and MRI from a sentence. Research software, not for"
            " clinical use."
        ),
    )
    parser.add_argument("--version", action="version", version=f"boltzmed {boltzmed.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    predict = commands.add_parser("predict", help="segment studies by text prompts")
    predict.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help=".nii, .nii.gz, folder or zip with a DICOM series",
    )
    predict.add_argument(
        "--prompt",
        action="append",
        required=True,
        metavar="TEXT",
        help="what to find; may be repeated",
    )
    predict.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="masks go to DIR/<case>/<prompt>.nii.gz, instead of those of an earlier run",
    )
    _add_network_options(predict)
    predict.add_argument(
        "--presence-threshold", type=float, metavar="P", help="where a presence gate closes (0.5)"
    )
    predict.add_argument(
        "--presence-smoothing-mm",
        type=float,
        metavar="MM",
        help="smooth presence along the slices first (0)",
    )
    predict.add_argument("--no-seg", action="store_true", help="write no DICOM SEG")
    predict.set_defaults(run=_predict)

    demo = commands.add_parser(
        "demo", help="make a phantom CT, segment it by text, score and draw it"
    )
    demo.add_argument("--output", default="demo_output", metavar="DIR")
    demo.set_defaults(run=_demo)

    phantom = commands.add_parser(
        "phantom", help="write phantom CTs with their masks, for training"
    )
    phantom.add_argument("--output", required=True, metavar="DIR")
    phantom.add_argument("--count", type=int, default=10)
    phantom.add_argument("--first-seed", type=int, default=0)
    phantom.add_argument("--workers", type=int, default=1)
    phantom.add_argument(
        "--compress", action="store_true", help=".nii.gz, smaller but slow to train from"
    )
    phantom.set_defaults(run=_phantom)

    prepare = commands.add_parser(
        "prepare", help="turn a data set into a slice cache to train from"
    )
    prepare.add_argument(
        "card", metavar="CARD", help="name of a dataset card, or a .yaml of your own"
    )
    prepare.add_argument(
        "--source",
        required=True,
        metavar="DIR",
        help="as the publisher ships it; or a .csv or .json of files",
    )
    prepare.add_argument(
        "--cache", required=True, metavar="DIR", help="new folder, or one to complete"
    )
    prepare.add_argument(
        "--protocol",
        choices=["volume", "biomedparse"],
        help="which slices count; the card says by default",
    )
    prepare.add_argument(
        "--plane",
        default="axial",
        choices=["axial", "coronal", "sagittal", "array"],
        help="how slices are cut",
    )
    prepare.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes, each with one volume in memory (default 1)",
    )
    prepare.set_defaults(run=_prepare)

    sampling = commands.add_parser(
        "sampling", help="draw what the attention sampled, layer by layer"
    )
    sampling.add_argument(
        "input", metavar="INPUT", help=".nii, .nii.gz, folder or zip with a DICOM series"
    )
    sampling.add_argument("--prompt", required=True, metavar="TEXT", help="what to find")
    sampling.add_argument(
        "--output",
        required=True,
        metavar="FILE.png|.html",
        help="one slice, or a sheet of the whole study",
    )
    sampling.add_argument(
        "--slice",
        type=int,
        metavar="K",
        help="from feet to head, the first is 0; the middle one by default",
    )
    sampling.add_argument(
        "--step", type=int, default=1, metavar="N", help="of a sheet: every N-th slice (default 1)"
    )
    sampling.add_argument(
        "--query", type=int, default=0, metavar="Q", help="the first is 0 (default)"
    )
    sampling.add_argument(
        "--reference",
        metavar="MASK",
        help="a mask or label map on the study's grid, to be outlined",
    )
    sampling.add_argument(
        "--label", type=int, metavar="N", help="its value that is inside; all but 0 by default"
    )
    _add_network_options(sampling)
    sampling.set_defaults(run=_sampling)

    series = commands.add_parser("series", help="list the DICOM series in a folder or zip")
    series.add_argument("input", metavar="PATH")
    series.set_defaults(run=_series)

    add_evaluate(commands)
    add_nnunet(commands)
    add_reports(commands)
    return parser


def _add_network_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--modality", choices=["CT", "MR"], help="for files that don't say")
    command.add_argument(
        "--window", metavar="NAME|LOW,HIGH", help="overrides the prompt's window; numbers in HU"
    )
    command.add_argument(
        "--series-uid", metavar="UID", help="which DICOM series, where a folder holds several"
    )
    command.add_argument("--seed", type=int, default=0, help="of the attention's draws (default 0)")
    command.add_argument(
        "--checkpoint", metavar="FILE", help="weights: a file, or a name in the bundle's models"
    )
    command.add_argument(
        "--size",
        metavar="NAME",
        help="of the network: tiny, tiny_gated …; as the checkpoint has it by default",
    )
    command.add_argument(
        "--card",
        action="append",
        metavar="CARD",
        help="what knows the prompts, instead of the general cards",
    )
    command.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="of what the network sees, whatever the prompts' cards say",
    )
    command.add_argument(
        "--min-side",
        type=int,
        metavar="PIXELS",
        help="pad smaller slices to it; equal to --image-size for true scale",
    )


def _read_network_options(options: argparse.Namespace) -> dict[str, Any]:
    names = ["checkpoint", "size", "modality", "window", "series_uid", "seed"]
    names += ["presence_threshold", "presence_smoothing_mm"]  # of those commands that have them
    overrides: dict[str, Any] = {name: getattr(options, name, None) for name in names}
    overrides["cards"] = tuple(options.card) if options.card else None
    sides = {"inferer#image_size": options.image_size, "min_side": options.min_side}
    if any(side is not None for side in sides.values()):  # one frame for all prompts
        overrides |= {"frames": {}, **sides}
    return {name: value for name, value in overrides.items() if value is not None}


def _predict(options: argparse.Namespace) -> int:
    from boltzmed.workflow import run_inference

    overrides = _read_network_options(options)
    if options.no_seg:
        overrides["segmentation"] = False

    def report(study: Path, outcome: Path | ValueError) -> None:
        if isinstance(outcome, Path):
            print(outcome, flush=True)
        else:
            print(f"boltzmed: {outcome}", file=sys.stderr)

    given = (options.inputs, options.prompt, options.output)
    segmented = run_inference(*given, report=report, **overrides)
    return 0 if len(segmented) == len(options.inputs) else 2


def _demo(options: argparse.Namespace) -> int:
    from boltzmed.demo import run_demo

    return run_demo(options.output)


def _phantom(options: argparse.Namespace) -> int:
    from boltzmed.phantom.study import write_phantoms

    seeds = range(options.first_seed, options.first_seed + options.count)
    print(write_phantoms(options.output, seeds, compress=options.compress, workers=options.workers))
    return 0


def _prepare(options: argparse.Namespace) -> int:
    from boltzmed.data.prepare import prepare_cache

    settings = {"protocol": options.protocol, "plane": options.plane, "workers": options.workers}
    done = prepare_cache(options.card, options.source, options.cache, **settings)
    for reason in done.failed.values():
        print(f"boltzmed: {reason}", file=sys.stderr)
    for part, (patients, cases) in done.parts.items():
        print(f"{part}: {cases} cases of {patients} patients")
    print(
        f"{len(done.written)} cases written, {len(done.kept)} kept, {len(done.failed)} broken;"
        f" {done.rows} objects"
    )
    print(done.cache)
    return 2 if done.failed else 0


def _sampling(options: argparse.Namespace) -> int:
    from boltzmed.sampling import show_sampling

    settings: dict[str, Any] = {"slice_index": options.slice, "query": options.query}
    settings |= {"step": options.step, "reference": options.reference, "label": options.label}
    settings |= _read_network_options(options)
    print(show_sampling(options.input, options.prompt, options.output, **settings))
    return 0


def _series(options: argparse.Namespace) -> int:
    from boltzmed.volumes import list_series

    for record in list_series(options.input):
        print(record)
    return 0
