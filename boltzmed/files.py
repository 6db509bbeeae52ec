"""Files and folders that appear whole or not at all, and folders that one process holds.

What is written gets a temporary name beside its final one first (a dot, twelve hexadecimal digits,
a dot, the final name) and is renamed once it is complete. A kill can therefore leave temporary
names behind, which `final_name` tells from other files, but never half a file under its own name.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from boltzmed.errors import OutputError

RUN_FILE = "run.json"
"""What says of a folder of masks how it was made; written last."""

LOCK_FILE = ".lock"
"""Name of the file by which a process holds a folder; it stays, and locks nothing by itself."""

_TEMPORARY_NAME = re.compile(r"\.[0-9a-f]{12}\.(.+)")


def final_name(name: str) -> str | None:
    """Return the name that a temporary file or folder was to get, None if ``name`` is no such."""
    match = _TEMPORARY_NAME.fullmatch(name)
    return None if match is None else match[1]


@contextmanager
def whole_file(
    path: str | os.PathLike[str],
    *,
    make_folders: bool = True,
    write_errors: tuple[type[Exception], ...] = (OSError,),
) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and move it there once the block ends well.

    The temporary name keeps the suffix, since writers choose their format by it. Whatever the block
    raises, the temporary file is gone afterwards and ``path`` is as it was.

    Args:
        path: the file; an older one is replaced.
        make_folders: whether missing parent folders are made.
        write_errors: what the block's writer raises when it cannot write.

    Raises:
        OutputError: the folder cannot be made or written, or the disk is full.
    """
    target = Path(path)
    temporary = _name_temporary(target)
    try:
        if make_folders:
            target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, target)
    except write_errors as error:
        raise _unwritable(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(
    path: str | os.PathLike[str],
    *,
    replaced: Collection[str] = (),
    last: str | None = None,
    temporary_inside: bool = False,
) -> Iterator[Path]:
    """Yield a temporary folder and move its files to ``path`` once the block ends well.

    A folder that is there already keeps its other files; those of the same names, and those named
    in ``replaced``, give way at the end. Whatever the block raises, the temporary folder is gone
    afterwards and ``path`` is as it was.

    Args:
        path: the folder.
        replaced: files of an earlier run, relative to ``path``, that go unless they are written
            anew.
        last: the file that is moved after all others, so that it stands for a complete folder.
        temporary_inside: put the temporary folder into ``path`` and not beside it, where ``path``
            may be the current folder or a file system of its own. A kill then leaves a new,
            otherwise empty folder.

    Raises:
        OutputError: the folder cannot be made or written, or the disk is full.
    """
    target = Path(path)
    is_new = not target.exists()
    temporary = _name_temporary(target / "files" if temporary_inside else target)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        written = _list_files(temporary)
        for name in sorted(written - {last}):
            _move(temporary / name, target / name)
        for name in set(replaced) - written:
            (target / name).unlink(missing_ok=True)
        if last in written:
            _move(temporary / last, target / last)
    except OSError as error:
        raise _unwritable(target, error) from error
    except OutputError as error:
        # A file written inside the block was refused: the temporary folder's name means nothing.
        raise OutputError(str(error).replace(str(temporary), str(target))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_new:
            with suppress(OSError):
                target.rmdir()  # only if nothing came of it: a folder with files stays


@contextmanager
def locked_folder(
    path: str | os.PathLike[str], *, command: str, wait_s: float = 10.0
) -> Iterator[None]:
    """Hold a folder for this process; the lock ends with the process, however that ends.

    Args:
        path: the folder, made if it is missing.
        command: what holds such folders, as the user calls it; the message names it.
        wait_s: how long to wait for another process to let go, in seconds.

    Raises:
        OutputError: another process still holds the folder, or it cannot be made or written.
    """
    folder = Path(path)
    lock = FileLock(folder / LOCK_FILE, timeout=wait_s)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"{folder}: expected a folder that no other process writes, received one where another"
            f" `{command}` is at work on it; wait for it"
        ) from error
    except OSError as error:
        raise _no_folder(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def check_writable(folder: Path) -> None:
    """Write into a folder once and remove it all: a full or read-only one is refused early.

    Raises:
        OutputError: the folder cannot be made or written, or the disk is full.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    probe = folder / f".{uuid.uuid4().hex[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"0")
        probe.unlink()
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(
            f"{folder}: expected a folder to write into, received a file or a folder inside one;"
            " choose another output folder"
        ) from error
    except OSError as error:
        raise _no_folder(folder, error) from error
    with suppress(OSError):  # another run may be writing there by now
        for path in missing:
            path.rmdir()


def _name_temporary(target: Path) -> Path:
    return target.with_name(f".{uuid.uuid4().hex[:12]}.{target.name}")


def _list_files(folder: Path) -> set[str]:
    """Return every file of a folder and its subfolders, by its relative name."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)


def _unwritable(target: Path, error: Exception) -> OutputError:
    return OutputError(
        f"{target.name}: expected to write into folder {target.parent}, received {_reason(error)};"
        " free space there or choose another output folder"
    )


def _no_folder(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{folder}: expected a folder to write into, received {_reason(error)}; free space there or"
        " choose another output folder"
    )


def _reason(error: Exception) -> str:
    """Return the system's words, else the library's first line: torch adds its call stack."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0]
