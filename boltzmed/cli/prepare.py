"""``boltzmed demo``, ``phantom`` and ``prepare``: data to try, to train from and to evaluate on."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def add_demo(commands: Any) -> None:
    """Add ``demo`` to the subcommands."""
    demo = commands.add_parser(
        "demo", help="make a phantom CT, segment it by text, score and draw it"
    )
    demo.add_argument("--output", default="demo_output", metavar="DIR")
    demo.set_defaults(run=_demo)


def add_phantom(commands: Any) -> None:
    """Add ``phantom`` to the subcommands."""
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


def add_prepare(commands: Any) -> None:
    """Add ``prepare`` to the subcommands."""
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
