"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from boltzmed.errors import OutputError

RUN_FILE = "run.json"
"""What says of a folder of masks how it was made; written last."""


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and move it there once the block ends well.

    The temporary name keeps the suffix (writers choose their format by it) and begins with a dot.
    Missing parent folders are made. Whatever the block raises, the temporary file is gone
    afterwards.

    Raises:
        OutputError: the folder cannot be made or written, or the disk is full.
    """
    target = Path(path)
    temporary = target.with_name(f".{uuid.uuid4().hex[:12]}.{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Write into a folder once, so that a full or read-only one is told before the work; nothing of
    it stays.

    Raises:
        OutputError: the folder cannot be made or written, or the disk is full.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    probe = folder / f".{uuid.uuid4().hex[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"0")
        probe.unlink()
    except OSError as error:
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise OutputError(
                f"{folder}: expected a folder to write into, got a file or a folder inside one;"
                " choose another output folder"
            ) from error
        raise OutputError(
            f"{folder}: expected a folder to write into, got {error.strerror or error}; free space"
            " there or choose another output folder"
        ) from error
    with suppress(OSError):  # another run may be writing there by now
        for path in missing:
            path.rmdir()


@contextmanager
def whole_folder(path: str | os.PathLike[str], *, replaced: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` and move its files to ``path`` once the block ends
    well.

    A folder that is there already keeps its other files; those of the same names, and those named
    in ``replaced``, give way at the end. Whatever the block raises, the temporary folder is gone
    afterwards and ``path`` is as it was.

    Raises:
        OutputError: the folder cannot be made or written, or the disk is full.
    """
    target = Path(path)
    temporary = target.with_name(f".{uuid.uuid4().hex[:12]}.{target.name}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        target.mkdir(exist_ok=True)
        written = sorted(temporary.iterdir())
        for file in written:
            os.replace(file, target / file.name)
        for name in set(replaced) - {file.name for file in written}:
            (target / name).unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(target, error) from error
    except OutputError as error:
        raise OutputError(str(error).replace(str(temporary), str(target))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unwritable(target: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{target.name}: expected to write into folder {target.parent}, got"
        f" {error.strerror or error}; free space there or choose another output folder"
    )
