"""Files and folders appear whole or not at all, and a folder has one holder."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from filelock import FileLock

from boltzmed.errors import InputError, OutputError, one_line
from boltzmed.files import (
    LOCK_FILE,
    check_writable,
    final_name,
    locked_folder,
    whole_file,
    whole_folder,
)


def list_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_file_keeps_its_suffix_while_it_is_written_and_is_told_by_its_name(tmp_path: Path):
    with whole_file(tmp_path / "new" / "model.pt") as temporary:
        temporary.write_text("whole")
        assert temporary.parent == tmp_path / "new" and temporary.suffix == ".pt"
        assert temporary.name.startswith(".") and final_name(temporary.name) == "model.pt"
    assert (tmp_path / "new" / "model.pt").read_text() == "whole"
    assert list_files(tmp_path / "new") == ["model.pt"]


@pytest.mark.parametrize(
    "name", ["model.pt", ".model.pt", ".0123456789AB.model.pt", ".0123456789ab", "tmp01234567"]
)
def test_other_names_are_not_temporary(name: str):
    assert final_name(name) is None


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("before")
    with pytest.raises(KeyError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise KeyError("stop")
    told = pytest.raises(OutputError, match=r"^a\.csv: expected to write into folder .*disk; free")
    with told, whole_file(path, write_errors=(OSError, RuntimeError)) as temporary:
        temporary.write_text("half")
        raise RuntimeError("unexpected end of disk\ncall stack")
    assert path.read_text() == "before" and list_files(tmp_path) == ["a.csv"]


def test_folders_are_made_unless_the_caller_wants_them_there(tmp_path: Path):
    told = pytest.raises(OutputError, match="received No such file")
    with told, whole_file(tmp_path / "absent" / "a.csv", make_folders=False) as temporary:
        temporary.write_text("")
    assert not list_files(tmp_path)


@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_keeps_what_others_put_there(tmp_path: Path, inside: bool):
    folder = tmp_path / "case"
    folder.mkdir()
    for name in ("mine.txt", "stale.nii", "mask.nii"):
        (folder / name).write_text("before")
    replaced = ["stale.nii", "mask.nii", "gone.nii"]
    with whole_folder(folder, replaced=replaced, temporary_inside=inside) as temporary:
        (temporary / "pictures").mkdir()
        for name in ("mask.nii", "pictures/a.png"):
            (temporary / name).write_text("after")
    assert list_files(folder) == ["mask.nii", "mine.txt", "pictures", "pictures/a.png"]
    assert (folder / "mask.nii").read_text() == "after"
    assert list_files(tmp_path)[0] == "case", "no temporary folder is left"


@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_whose_writing_fails_is_not_made(tmp_path: Path, inside: bool):
    told = pytest.raises(OutputError, match=rf"^{tmp_path}/case: disk is full$")
    with told, whole_folder(tmp_path / "case", temporary_inside=inside) as temporary:
        (temporary / "a.nii").write_text("half")
        raise OutputError(f"{temporary}: disk is full")
    assert not list_files(tmp_path)


def test_the_file_that_stands_for_the_whole_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    moved: list[str] = []
    replace = os.replace

    def record(source: Path, target: Path) -> None:
        moved.append(target.name)
        replace(source, target)

    monkeypatch.setattr("boltzmed.files.os.replace", record)
    with whole_folder(tmp_path / "case", last="run.json") as temporary:
        for name in ("a.nii", "run.json", "segmentation.dcm"):
            (temporary / name).touch()
    assert moved == ["a.nii", "segmentation.dcm", "run.json"]


def test_a_folder_has_one_holder_and_a_lock_file_alone_holds_nothing(tmp_path: Path):
    folder = tmp_path / "cache"
    with locked_folder(folder, command="boltzmed prepare"):
        assert (folder / LOCK_FILE).is_file()
    with locked_folder(folder, command="boltzmed prepare"):
        pass
    message = re.escape(f"{folder}: ") + ".*another `boltzmed prepare` is at work on it; wait"
    told = pytest.raises(OutputError, match=message)
    with FileLock(folder / LOCK_FILE), told:
        locked_folder(folder, command="boltzmed prepare", wait_s=0.01).__enter__()


def test_a_folder_is_tried_before_the_work_and_left_as_it_was(tmp_path: Path):
    check_writable(tmp_path / "new" / "deeper")
    assert not list_files(tmp_path)
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(OutputError, match="received a file or a folder inside one; choose"):
            check_writable(place)


def test_a_reason_is_one_line_without_the_folder():
    error = OSError("cannot read\n/patients/doe/a.nii")
    assert one_line(error, "/patients/doe/a.nii") == "cannot read a.nii"
    assert one_line(EOFError()) == "EOFError" and issubclass(OutputError, InputError)
