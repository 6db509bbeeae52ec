"""A report's folder, in which a run's files take the place of an earlier run's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from boltzmed.errors import OutputError
from boltzmed.files import check_writable, whole_folder

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
    replaced = lists.get(command, [])
    # Inside the folder, which may be the current one or a file system of its own.
    with whole_folder(folder, replaced=replaced, last=WRITTEN, temporary_inside=True) as temporary:
        yield temporary
        written = sorted(
            path.relative_to(temporary).as_posix()
            for path in temporary.rglob("*")
            if path.is_file()
        )
        (temporary / WRITTEN).write_text(
            json.dumps({command: written}, indent=1) + "\n", encoding="utf-8"
        )


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
