"""The command ``boltzmed``: parses, calls, prints.

Heavy modules are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import boltzmed
from boltzmed.cli.evaluate import add_evaluate
from boltzmed.cli.nnunet import add_nnunet
from boltzmed.cli.predict import add_predict, add_sampling, add_series
from boltzmed.cli.prepare import add_demo, add_phantom, add_prepare
from boltzmed.cli.reports import add_reports
from boltzmed.errors import find_input_error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: of the command line; the process's by default.

    Returns:
        The exit status: 0, 2 after a line about wrong input, 130 after an interruption.
    """
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
        cause = find_input_error(error)
        if cause is None:
            raise
        print(f"boltzmed: {cause}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("boltzmed: stopped", file=sys.stderr)
        return 130


def _join_windows(arguments: Sequence[str]) -> list[str]:
    """``--window -150,250`` → ``--window=-150,250``: argparse would take it for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--window":
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="boltzmed",
        description=(
            "Text-promptable segmentation of small objects in CT and MRI. Research software, not"
            " for clinical use."
        ),
    )
    parser.add_argument("--version", action="version", version=f"boltzmed {boltzmed.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    add_predict(commands)
    add_demo(commands)
    add_phantom(commands)
    add_prepare(commands)
    add_sampling(commands)
    add_series(commands)
    add_evaluate(commands)
    add_nnunet(commands)
    add_reports(commands)
    return parser
