"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from boltzmed.volumes.errors import OutputError


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and move it there once the block ends well.

    The temporary name keeps the suffix (writers choose their format by it) and begins with a dot. Missing parent
    folders are made. Whatever the block raises, the temporary file is gone afterwards.

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
        raise OutputError(
            f"{target.name}: expected to write into folder {target.parent}, got {error.strerror or error}; "
            "free space there or choose another output folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` and move its files to ``path`` once the block ends well.

    A folder that is there already keeps its other files; those of the same names are replaced at the end. Whatever the
    block raises, the temporary folder is gone afterwards and ``path`` is as it was.

    Raises:
        OutputError: the folder cannot be made or written, or the disk is full.
    """
    target = Path(path)
    temporary = target.with_name(f".{uuid.uuid4().hex[:12]}.{target.name}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        target.mkdir(exist_ok=True)
        for file in sorted(temporary.iterdir()):
            os.replace(file, target / file.name)
    except OSError as error:
        raise OutputError(
            f"{target.name}: expected to write into folder {target.parent}, got {error.strerror or error}; "
            "free space there or choose another output folder"
        ) from error
    except OutputError as error:
        raise OutputError(str(error).replace(str(temporary), str(target))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
