"""A report's folder: what a run writes takes the place of what the same command left there before."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from boltzmed.errors import OutputError
from boltzmed.files import check_writable

WRITTEN = "written.json"
"""Command -> the files, of this folder, that its last run wrote; one command's."""


@contextmanager
def whole_report(folder: str | Path, command: str) -> Iterator[Path]:
    """Yield a temporary folder whose files move to `folder` once the block ends well.

    Files of an earlier run of the command that this one has not written are removed; others stay. A
    folder is one command's, since several write files of one name.

    Args:
        folder: Is made if it isn't there.
        command: Under whose name the files are listed in `WRITTEN`.

    Raises:
        OutputError: The folder cannot be written, or another command's report lies there.
    """
    folder = Path(folder)
    check_writable(folder)
    lists = _read_lists(folder)
    if others := [name for name, written in lists.items() if name != command and written]:
        raise OutputError(
            f"{folder}: expected a folder of its own for boltzmed {command}, got that of boltzmed"
            f" {others[0]}, which writes files of the same names; choose another output folder"
        )
    is_new, temporary = not folder.exists(), folder / f".{uuid.uuid4().hex[:12]}"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        written = sorted(
            path.relative_to(temporary).as_posix()
            for path in temporary.rglob("*")
            if path.is_file()
        )
        (temporary / WRITTEN).write_text(
            json.dumps({command: written}, indent=1) + "\n", encoding="utf-8"
        )
        for name in (*written, WRITTEN):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary / name, folder / name)
        for name in set(lists.get(command, [])) - {*written}:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: expected a folder to write into, got {error.strerror or error}; free space"
            " there or choose another output folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_new:
            with suppress(OSError):
                folder.rmdir()  # if nothing came of it


def _read_lists(folder: Path) -> dict[str, list[str]]:
    """What is listed, as far as it lies in the folder; nothing where the list is missing or
    damaged.
    """
    try:
        lists = json.loads((folder / WRITTEN).read_text(encoding="utf-8"))
        return {
            str(command): [
                name for name in names if not (Path(name).is_absolute() or ".." in Path(name).parts)
            ]
            for command, names in lists.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
