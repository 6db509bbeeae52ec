"""What goes wrong between disk and volume, in one line each."""

from __future__ import annotations


class VolumeError(ValueError):
    """An image that cannot be read as one regular volume. One line: expected, got, which file, what to do."""


class OutputError(VolumeError):
    """A file that cannot be written. Nothing half-written is left."""


def one_line(error: BaseException) -> str:
    """The reason an underlying library gave, on one line and without the exception's type."""
    return " ".join(str(error).split()) or type(error).__name__
