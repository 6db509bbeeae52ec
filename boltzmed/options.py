"""The options of a bundle run (`python -m monai.bundle run …`), checked before anything is read or
built.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser, ConfigWorkflow, run
from monai.bundle.scripts import update_kwargs
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS

_OPTION = r"--|-[a-zA-Z]"
"""What an option of Fire's begins with; `-1` is a value."""


def check_names(arguments: Sequence[str] | None = None) -> None:
    """Refuse options of the command line that no config has: MONAI adds what it does not know, and
    nothing reads it.

    Only the first part of a name counts (``train`` of ``--train#dataset#seed``): what is wrong
    further on, the object that gets it refuses.

    Args:
        arguments: Of `monai.bundle run`; the process's by default. Without a ``config_file`` among
            them, or in the ``--args_file`` that they name, nothing is checked: the run was started
            by a program.

    Raises:
        ValueError: A name that is in none of the configs; says which is near.
    """
    given = _read_arguments(list(sys.argv[1:] if arguments is None else arguments))
    if "args_file" in given:
        given = {**update_kwargs(given["args_file"]), **given}
    files = given.get("config_file")
    if files is None:
        return
    options = list(ConfigParser.load_config_files(files))
    known = {
        *options,
        *inspect.signature(run).parameters,
        *inspect.signature(ConfigWorkflow).parameters,
    }
    known |= {"workflow_name", "_meta_"}
    if "tracking" in given:
        mlflow_options: Any = DEFAULT_MLFLOW_SETTINGS["configs"]
        known |= set(mlflow_options)
    for name, value in given.items():
        first = re.split("#|::", name.removeprefix("+"))[0]
        # Fire takes `--nohalf`, without a value, for `--half False`.
        if first not in known and not (
            value is None and first.startswith("no") and first[2:] in known
        ):
            near = [f"--{other}" for other in get_close_matches(first, options)]
            hint = (
                f"did you mean {' or '.join(near)}?"
                if near
                else "the file lists them with their defaults"
            )
            shown = ", ".join(
                Path(file).name for file in (files.split(",") if isinstance(files, str) else files)
            )
            raise ValueError(f"--{name}: expected an option of {shown}; {hint}")


def _read_arguments(arguments: list[str]) -> dict[str, Any]:
    """Name → value of a command line's options, as Fire reads them; None for those that stand
    alone.
    """
    arguments = (
        arguments[: arguments.index("--")] if "--" in arguments else arguments
    )  # what follows is Fire's own
    given: dict[str, Any] = {}
    for argument, following in pairwise([*arguments, "--"]):
        if re.match(_OPTION, argument):
            name, equals, value = argument.partition("=")
            if not equals:
                value = "None" if re.match(_OPTION, following) else following
            given[name.lstrip("-").replace("-", "_")] = DefaultParseValue(value)
    return given


def check_flags(**flags: Any) -> None:
    """Refuse options that are neither True nor False: on MONAI's command line ``false`` is a text,
    and so true.
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name}: expected True or False, received {value!r}")


def check_counts(**counts: Any) -> None:
    """Refuse options that are no whole numbers from 0, by name, before something else fails at
    them.
    """
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{name}: expected a whole number, received {value!r}")


def check_numbers(**numbers: Any) -> None:
    """Refuse options that are no finite numbers, by name."""
    for name, value in numbers.items():
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not math.isfinite(value)
        ):
            raise ValueError(f"{name}: expected a number, received {value!r}")


def end_traceback_with_cause() -> None:
    """Let a traceback end with the line that says what was wrong, not with MONAI's about which
    expression failed.
    """
    shown = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        shown(kind, error, trace)
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, ValueError):
            cause = cause.__cause__
        if cause is not error and isinstance(cause, ValueError):
            print(f"{type(cause).__name__}: {cause}", file=sys.stderr)

    sys.excepthook = show
