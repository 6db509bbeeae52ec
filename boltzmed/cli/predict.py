"""``boltzmed predict``, ``sampling`` and ``series``: studies in, masks or pictures out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_predict(commands: Any) -> None:
    """Add ``predict`` to the subcommands."""
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
        "--presence-threshold",
        type=float,
        metavar="P",
        help="presence below which a slice's mask is emptied (0.5)",
    )
    predict.add_argument(
        "--presence-smoothing-mm",
        type=float,
        metavar="MM",
        help="smooth presence along the slices first (0)",
    )
    predict.add_argument("--no-seg", action="store_true", help="write no DICOM SEG")
    predict.set_defaults(run=_predict)


def add_sampling(commands: Any) -> None:
    """Add ``sampling`` to the subcommands."""
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
        help="one slice, or a page of the whole study",
    )
    sampling.add_argument(
        "--slice",
        type=int,
        metavar="K",
        help="from feet to head, the first is 0; the middle one by default",
    )
    sampling.add_argument(
        "--step", type=int, default=1, metavar="N", help="of a page: every N-th slice (default 1)"
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


def add_series(commands: Any) -> None:
    """Add ``series`` to the subcommands."""
    series = commands.add_parser("series", help="list the DICOM series in a folder or zip")
    series.add_argument("input", metavar="PATH")
    series.set_defaults(run=_series)


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
        overrides |= {"input_sizes": {}, **sides}
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


def _sampling(options: argparse.Namespace) -> int:
    from boltzmed.sampling.study import show_sampling

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
