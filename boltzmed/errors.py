"""The two kinds of wrong input and output, in one line each: what was expected, what was received,
where, what to do.
"""

from __future__ import annotations

import os
from pathlib import Path


class InputError(ValueError):
    """Input that cannot be used. One line: expected, received, which file, what to do."""


class OutputError(InputError):
    """A file that cannot be written. Nothing half-written is left."""


def one_line(error: BaseException, path: str | os.PathLike[str] | None = None) -> str:
    """The reason an underlying library gave, on one line and without the exception's type.

    Args:
        path: of the file; its own name stands where the library says it, since folders may be
            called after persons.
    """
    text = str(error) if path is None else str(error).replace(os.fspath(path), Path(path).name)
    return " ".join(text.split()) or type(error).__name__
