"""Options of ``python -m monai.bundle run``: names, former names, kinds of values."""

from __future__ import annotations

import inspect
import logging
import math
import re
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser, ConfigWorkflow, run
from monai.bundle.scripts import update_kwargs
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS

logger = logging.getLogger(__name__)

RENAMED = {
    "average_decay": "ema_decay",
    "accumulate": "gradient_accumulation",
    "half": "fp16_checkpoint",
    "initial": "init_checkpoint",
    "initial_kind": "init_kind",
    "patience": "early_stopping_patience",
    "shares": "card_fractions",
    "foreign_probability": "out_of_region_probability",
    "sheet_interval": "preview_interval",
    "phrasings": "prompt_variants",
    "frames": "input_sizes",
}
"""Former name of an option → its name. The former ones work for one more version."""

REMOVED = {
    "form": "the network's literal form is for benchmarks and tests (benchmarks/literal.py); leave"
    " the option out"
}
"""Option that there was → what to do without it."""

_OPTION = r"--|-[a-zA-Z]"
"""What an option of Fire's begins with; `-1` is a value."""


def renamed(default: Any, **former: Any) -> Any:
    """Return an option's value: what was given under its former name, with a warning, or else its
    default.

    Args:
        default: of the option. A config has the call as the option's value, so that what is given
            under today's name replaces the call.
        **former: the former name and its value, None where nothing was given.
    """
    for name, value in former.items():
        if value is not None:
            logger.warning(
                "%s is called %s now; the former name works for one more version",
                name,
                RENAMED[name],
            )
            return value
    return default


def rename_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values by today's names; no warning, for what a file recorded."""
    return {RENAMED.get(name, name): value for name, value in options.items()}


def check_names(arguments: Sequence[str] | None = None) -> None:
    """Refuse options of the command line that no config has: MONAI adds what it does not know, and
    nothing reads it.

    Only the first part of a name counts (``train`` of ``--train#dataset#seed``): what is wrong
    further on, the object that gets it refuses.

    Args:
        arguments: of `monai.bundle run`; the process's by default. Without a ``config_file`` among
            them, or in the ``--args_file`` that they name, nothing is checked: the run was started
            by a program.

    Raises:
        ValueError: a name that is in none of the configs; says which is near.
    """
    options = _read_arguments(list(sys.argv[1:] if arguments is None else arguments))
    if "args_file" in options:
        options = {**update_kwargs(options["args_file"]), **options}
    files = options.get("config_file")
    if files is None:
        return
    config = list(ConfigParser.load_config_files(files))
    known = {*config, *_options_of_monai(mlflow="tracking" in options)}
    for name, value in options.items():
        first = re.split("#|::", name.removeprefix("+"))[0]
        # Fire takes `--noresume`, without a value, for `--resume False`.
        switched_off = value is None and first.startswith("no") and first[2:] in known
        if first in REMOVED:
            raise ValueError(f"--{name}: {REMOVED[first]}")
        if first not in known and not switched_off:
            raise ValueError(_describe_unknown(name, first, config, files))


def _options_of_monai(*, mlflow: bool) -> set[str]:
    """Those of `monai.bundle run` itself, and of its tracking by MLflow."""
    known = {*inspect.signature(run).parameters, *inspect.signature(ConfigWorkflow).parameters}
    known |= {"workflow_name", "_meta_"}
    if mlflow:
        defaults: Any = DEFAULT_MLFLOW_SETTINGS["configs"]
        known |= set(defaults)
    return known


def _describe_unknown(name: str, first: str, config: Sequence[str], files: Any) -> str:
    """The line about an option that no config has."""
    current = [option for option in config if option not in RENAMED]
    near = [f"--{option}" for option in get_close_matches(first, current)]
    hint = "the file lists them with their defaults"
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    paths = files.split(",") if isinstance(files, str) else files
    shown = ", ".join(Path(path).name for path in paths)
    return f"--{name}: expected an option of {shown}; {hint}"


def _read_arguments(arguments: list[str]) -> dict[str, Any]:
    """Name → value of a command line's options, as Fire reads them; None for those that stand
    alone.
    """
    if "--" in arguments:  # what follows is Fire's own
        arguments = arguments[: arguments.index("--")]
    options: dict[str, Any] = {}
    for argument, following in pairwise([*arguments, "--"]):
        if re.match(_OPTION, argument):
            name, equals, value = argument.partition("=")
            if not equals:
                value = "None" if re.match(_OPTION, following) else following
            options[name.lstrip("-").replace("-", "_")] = DefaultParseValue(value)
    return options


def check_flag(**option: Any) -> bool:
    """Return an option that is True or False, by name.

    Raises:
        ValueError: it is neither; on MONAI's command line ``false`` is a text, and so true.
    """
    ((name, value),) = option.items()
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, received {value!r}")
    return value


def check_count(**option: Any) -> int:
    """Return an option that is a whole number from 0, by name.

    Raises:
        ValueError: it is none.
    """
    ((name, value),) = option.items()
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name}: expected a whole number, received {value!r}")
    return value


def check_number(**option: Any) -> float:
    """Return an option that is a finite number, by name.

    Raises:
        ValueError: it is none.
    """
    ((name, value),) = option.items()
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ValueError(f"{name}: expected a number, received {value!r}")
    finite: float = value
    return finite


def end_traceback_with_cause() -> None:
    """Let a traceback end with the line that says what was wrong, below MONAI's own.

    `monai.bundle run` catches nothing, and raises its own error from ours: the process's hook is
    the one place where a bundle's config can still add the line. What was shown is still shown, by
    the hook that was there.
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
