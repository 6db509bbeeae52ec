"""What stays in a report's folder, and what a later run takes away."""

from __future__ import annotations

import json

import pytest

from boltzmed.cli import main
from boltzmed.errors import OutputError
from boltzmed.reports.folder import WRITTEN, whole_report


def write(folder, command, *names):
    with whole_report(folder, command) as temporary:
        for name in names:
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_text(command)


def list_files(folder):
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def test_an_earlier_runs_files_give_way_and_others_stay(tmp_path):
    folder = tmp_path / "out"
    write(folder, "a", "one.csv", "figures/two.png")
    (folder / "mine.txt").write_text("")
    write(folder, "a", "one.csv", "figures/four.png")
    assert list_files(folder) == ["figures/four.png", "mine.txt", "one.csv", WRITTEN]


def test_two_commands_do_not_share_a_folder(tmp_path):
    write(tmp_path / "out", "a", "one.csv")
    with pytest.raises(
        OutputError, match="a folder of its own for boltzmed b, got that of boltzmed a"
    ):
        write(tmp_path / "out", "b", "one.csv")
    assert (tmp_path / "out" / "one.csv").read_text() == "a" and list_files(tmp_path / "out") == [
        "one.csv",
        WRITTEN,
    ]


def test_a_run_that_fails_changes_nothing(tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(ValueError, match="stop"), whole_report(folder, "a") as temporary:
        (temporary / "one.csv").write_text("")
        raise ValueError("stop")
    assert not folder.exists()


def test_a_list_leads_nowhere_else(tmp_path):
    folder = tmp_path / "out"
    write(folder, "a", "one.csv")
    (tmp_path / "kept.txt").write_text("")
    listed = {"a": ["../kept.txt", str(tmp_path / "kept.txt"), "one.csv"]}
    (folder / WRITTEN).write_text(json.dumps(listed))
    write(folder, "a", "two.csv")
    assert (tmp_path / "kept.txt").exists() and not (folder / "one.csv").exists()
    (folder / WRITTEN).write_text("[")
    write(folder, "a", "three.csv")
    assert list_files(folder) == ["three.csv", "two.csv", WRITTEN]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(
            OutputError,
            match="expected a folder to write into, received a file or a folder inside one",
        ):
            write(place, "a", "one.csv")


def test_a_comparison_by_volume_leaves_no_table_by_area(tmp_path, capsys):
    header = "method,dataset,case,target,dice,area_fraction,level,volume_mm3"
    lines = [
        f"{method},set,p{number},liver,0.5,0.1,{level},9"
        for method in "abc"
        for number in range(3)
        for level in ("slice", "volume")
    ]
    (tmp_path / "r.csv").write_text("\n".join([header, *lines]) + "\n")
    command = ["compare", str(tmp_path / "r.csv"), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert {"table_2.csv", "comparison_3.tex"} <= set(list_files(tmp_path / "out"))
    assert main([*command, "--by", "volume", "--methods", "a", "b"]) == 0
    assert not {"table_2.csv", "table_2.tex", "comparison_3.tex"} & set(
        list_files(tmp_path / "out")
    )
    assert {"report.html", "table_1.csv", "comparison_2.tex"} <= set(list_files(tmp_path / "out"))
