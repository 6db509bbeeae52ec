"""What goes wrong between disk and volume, in one line each."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class VolumeError(ValueError):
    """An image that cannot be read as one regular volume. One line: expected, got, which file, what to do."""


class OutputError(VolumeError):
    """A file that cannot be written. Nothing half-written is left."""


@contextmanager
def silent_headers() -> Iterator[None]:
    """Keep pydicom's and highdicom's warnings and log lines to themselves: they quote header values."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def one_line(error: BaseException, path: str | os.PathLike[str] | None = None) -> str:
    """The reason an underlying library gave, on one line and without the exception's type.

    Args:
        path: of the file; its own name stands where the library says it, since folders may be called after persons.
    """
    text = str(error) if path is None else str(error).replace(os.fspath(path), Path(path).name)
    return " ".join(text.split()) or type(error).__name__
