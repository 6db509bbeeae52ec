"""The two kinds of wrong input and output, each told in one line.

The line says in which file or folder, what was expected, what was received, and what to do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """Input that cannot be used. One line: expected, received, which file, what to do."""


class OutputError(InputError):
    """A file that cannot be written. Nothing half-written is left."""


def one_line(error: BaseException, path: str | os.PathLike[str] | None = None) -> str:
    """Return the reason that a library gave, on one line and without the exception's type.

    Args:
        error: what the library raised.
        path: the file in question; where the reason quotes it, its name stands alone, since
            folders may be called after persons.
    """
    text = str(error)
    if path is not None:
        text = text.replace(os.fspath(path), Path(path).name)
    return " ".join(text.split()) or type(error).__name__


def find_input_error(error: BaseException) -> ValueError | None:
    """Return the wrong input (the ValueError family) that an error stands for, None for a bug.

    MONAI wraps what its transforms raise, perhaps several times.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ValueError):
        cause = cause.__cause__
    return cause


@contextmanager
def unwrapped_input_errors() -> Iterator[None]:
    """Raise wrong input as it was, not as MONAI's ``Compose`` and engines wrap it."""
    try:
        yield
    except RuntimeError as error:
        cause = find_input_error(error)
        if cause is None:
            raise
        raise cause from error
