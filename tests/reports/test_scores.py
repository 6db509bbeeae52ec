"""The reader of tables of results: methods, patients, and what is wrong with a table."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from boltzmed.cli import main
from boltzmed.reports.scores import SCORES, read_scores, select_rows
from boltzmed.results import CaseResult, write_results

HEADER = ",".join(SCORES)
ROW = CaseResult(
    method="a",
    dataset="set",
    patient="p1",
    case="c1",
    level="slice",
    axis="axial",
    slice_index=0,
    target="liver",
    prompt="liver in abdomen CT",
    seed=0,
    dice=0.5,
    area_fraction=0.02,
    volume_mm3=10.0,
    reference_empty=False,
    prediction_empty=False,
    presence_score=None,
)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class TestReading:
    def test_a_table_of_the_six_columns_is_slices(self, tmp_path):
        scores = read_scores(
            [write(tmp_path / "r.csv", HEADER, "a,set,007,NA,0.25,0.001", "a,set,7,NA,,0")]
        )
        row = scores.rows.iloc[0]
        assert row[list(SCORES)].tolist() == ["a", "set", "007", "NA", 0.25, 0.001]
        assert (row["level"], scores.rows["shown"].tolist()) == ("slice", [True, False])
        assert np.isnan(scores.rows["dice"][1])

    def test_what_evaluation_writes_is_read(self, tmp_path):
        volume = replace(
            ROW,
            level="volume",
            slice_index=None,
            target="two\nlines",
            dice=None,
            reference_empty=True,
        )
        write_results(tmp_path / "results.csv", [ROW, volume])
        rows = read_scores([tmp_path / "results.csv"]).rows
        assert rows["level"].tolist() == ["slice", "volume"] and rows["target"].tolist() == [
            "liver",
            "two\nlines",
        ]
        assert rows["shown"].tolist() == [True, False] and rows["volume_mm3"].tolist() == [10, 10]

    def test_a_volume_is_one_object_whatever_its_axis(self, tmp_path):
        header = f"{HEADER},level,axis,slice_index"
        one = write(
            tmp_path / "1.csv",
            header,
            "a,s,1,liver,0.5,0.02,volume,coronal,",
            "a,s,1,liver,0.5,0.02,slice,axial,3",
        )
        two = write(
            tmp_path / "2.csv",
            f"{HEADER},level",
            "b,s,1,liver,0.5,0.02,volume",
            "b,s,2,liver,0.5,0.02,volume",
        )
        three = write(
            tmp_path / "3.csv",
            header,
            "c,s,1,liver,0.5,0.02,volume,axial,",
            "c,s,1,liver,0.5,0.02,slice,,3",
        )
        rows = read_scores([two, one, three]).rows
        assert rows["axis"].tolist() == ["coronal", "", "coronal", "axial", "coronal", ""]
        with pytest.raises(ValueError, match=r"3\.csv: line 2: a is scored twice"):
            read_scores(
                [one, write(tmp_path / "3.csv", header, "a,s,1,liver,0.5,0.02,volume,axial,")]
            )

    def test_gzip_a_byte_order_mark_and_blank_lines_do_not_matter(self, tmp_path):
        plain = f"\ufeff{HEADER}\r\na,set,1,liver,0.5,0.02\r\n\r\n".encode()
        (tmp_path / "one.csv.gz").write_bytes(gzip.compress(plain))
        (tmp_path / "two.csv").write_bytes(plain.replace(b"a,set", b"b,set"))
        assert read_scores([tmp_path / "one.csv.gz", tmp_path / "two.csv"]).rows[
            "method"
        ].tolist() == ["a", "b"]

    def test_blanks_and_capitals_of_a_header_do_not_matter(self, tmp_path):
        header = "Method, Dataset ,CASE, target, Dice, area_fraction, Volume_mm3, My Column"
        scores = read_scores(
            [write(tmp_path / "r.csv", header, 'a, set, "c, 1", liver, 0.5, 0.02, 7, x')]
        )
        row = scores.rows.iloc[0]
        assert row[[*SCORES, "volume_mm3"]].tolist() == ["a", "set", "c, 1", "liver", 0.5, 0.02, 7]
        assert "r.csv: columns that are not known were left out: My Column" in scores.notes

    @pytest.mark.parametrize(
        ("mark", "encoding", "message"),
        [
            (
                ";",
                "utf-8",
                "expected cells separated by commas, found semicolons; save it with commas",
            ),
            ("\t", "utf-8", "expected cells separated by commas, found tabs"),
            (",", "utf-16", "expected text in UTF-8, found UTF-16; save it as UTF-8"),
        ],
    )
    def test_other_marks_and_encodings_are_named(self, mark, encoding, message, tmp_path):
        lines = [HEADER, "a,set,1,liver,0.5,0.02"]
        (tmp_path / "r.csv").write_text("\n".join(lines).replace(",", mark), encoding=encoding)
        with pytest.raises(ValueError, match=message) as caught:
            read_scores([tmp_path / "r.csv"])
        assert "r.csv" in str(caught.value) and "\n" not in str(caught.value)

    def test_columns_in_any_order_and_unknown_ones_named_once(self, tmp_path):
        header = "note,dice,area_fraction,target,case,dataset,method,extra"
        table = write(
            tmp_path / "r.csv", header, "x,0.5,0.02,liver,1,set,a,y", "x,0.6,0.02,liver,2,set,a,y"
        )
        scores = read_scores([table])
        assert scores.rows["dice"].tolist() == [0.5, 0.6] and "note" not in scores.rows
        assert scores.notes[0] == "r.csv: columns that are not known were left out: note, extra"

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (
                [""],
                (
                    "expected the columns method, dataset, case, target, dice, area_fraction; the"
                    " file is empty"
                ),
            ),
            ([HEADER], "expected rows below the columns' names, found none"),
            (["method,dataset,case,target"], "missing: dice, area_fraction"),
            (
                [f"{HEADER},dice", "a,s,1,liver,0.5,0.1,0.5"],
                "expected each column once, got several named dice",
            ),
            (
                [HEADER, "a,s,1,liver,0.5"],
                "cannot be read as a CSV table: line 2: expected 6 cells, got 5",
            ),
            ([HEADER, "a,s,1,liver,73.8,0.1"], "line 2: dice: expected 0 to 1, got 73.8"),
            ([HEADER, "a,s,1,liver,good,0.1"], "line 2: dice: expected 0 to 1, got good"),
            ([HEADER, "", "a,s,,liver,0.5,0.1"], "line 3: case: expected text, got "),
            (
                [f"{HEADER},volume_mm3", "a,s,1,liver,0.5,0.1,inf"],
                "line 2: volume_mm3: expected a finite number, got inf",
            ),
            (
                [f"{HEADER},level", "a,s,1,liver,0.5,0.1,case"],
                "line 2: level: expected one of slice, volume, got case",
            ),
            (
                [f"{HEADER},reference_empty", "a,s,1,liver,0.5,0.1,no"],
                "line 2: reference_empty: expected true or false",
            ),
            ([HEADER, '"a,s'], "cannot be read as a CSV table: unexpected end of data"),
        ],
    )
    @pytest.mark.parametrize("command", ["summarize", "compare"])
    def test_a_wrong_table_is_refused_in_one_line(self, command, lines, message, tmp_path, capsys):
        table = write(tmp_path / "results.csv", *lines)
        assert main([command, str(table)]) == 2
        error = capsys.readouterr().err
        assert (
            error.startswith(f"boltzmed: {table}: ") and message in error and error.count("\n") == 1
        )

    def test_files_that_are_none(self, tmp_path):
        (tmp_path / "broken.csv.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
        for name, message in (
            ("absent.csv", "No such file"),
            ("broken.csv.gz", "complete gzip"),
            ("", "directory"),
        ):
            with pytest.raises(ValueError, match=f"cannot be read: .*{message}"):
                read_scores([tmp_path / name])

    def test_one_object_scored_twice_is_named_with_both_places(self, tmp_path):
        first = write(
            tmp_path / "first.csv", HEADER, "a,set,1,liver,0.5,0.02", "a,set,2,liver,0.5,0.02"
        )
        with pytest.raises(
            ValueError,
            match=r"second.csv: line 3: a is scored twice on liver of case 2, .*first.csv: line 3",
        ):
            read_scores(
                [
                    first,
                    write(
                        tmp_path / "second.csv",
                        HEADER,
                        "b,set,2,liver,1,0",
                        "a,set,2,liver,0.5,0.02",
                    ),
                ]
            )

    def test_slices_levels_axes_and_windows_tell_objects_apart(self, tmp_path):
        rows = [
            f"a,set,1,liver,0.5,0.02,{rest}"
            for rest in ("slice,axial,1,", "slice,axial,2,", "slice,coronal,1,")
        ]
        rows += ["a,set,1,liver,0.5,0.02,slice,axial,1,liver", "a,set,1,liver,0.5,0.02,volume,,,"]
        table = write(tmp_path / "r.csv", f"{HEADER},level,axis,slice_index,window", *rows)
        assert len(read_scores([table]).rows) == 5
        with pytest.raises(ValueError, match="line 7: a is scored twice"):
            read_scores([write(tmp_path / "r.csv", table.read_text().rstrip("\n"), rows[0])])


class TestSelecting:
    def test_what_is_left_out_is_counted_with_its_reason(self, tmp_path):
        nothing = {
            "area_fraction": 0.0,
            "reference_empty": True,
            "dice": None,
            "prediction_empty": True,
        }
        rows = [
            ROW,
            replace(ROW, slice_index=1, **nothing),
            replace(ROW, slice_index=2, **{**nothing, "prediction_empty": False, "dice": 0.0}),
            replace(ROW, slice_index=3, dice=None),
            replace(ROW, slice_index=4, area_fraction=None),
            replace(ROW, level="volume", slice_index=None),
        ]
        write_results(tmp_path / "r.csv", rows)
        chosen, excluded = select_rows(read_scores([tmp_path / "r.csv"]).rows)
        assert chosen["slice_index"].tolist() == [0, 4]
        assert dict(zip(excluded["reason"], excluded["rows"], strict=True)) == {
            "the reference shows no object, and nothing was predicted": 1,
            "the reference shows no object, but something was predicted": 1,
            "no dice": 1,
            "no area_fraction: in no stratum, but among all sizes": 1,
            "a volume's row: these tables are of slices": 1,
        }

    def test_slices_and_volumes_never_meet(self, tmp_path):
        write_results(
            tmp_path / "r.csv", [ROW, replace(ROW, level="volume", slice_index=None, dice=0.9)]
        )
        rows = read_scores([tmp_path / "r.csv"]).rows
        for settings, dice in (
            ({}, 0.5),
            ({"by": "volume"}, 0.9),
            ({"by": "diameter"}, 0.9),
            ({"level": "volume"}, 0.9),
        ):
            assert select_rows(rows, **settings)[0]["score"].tolist() == [dice]

    def test_what_cannot_be_chosen_is_refused(self, tmp_path):
        rows = read_scores([write(tmp_path / "r.csv", HEADER, "a,set,1,liver,0.5,0.02")]).rows
        for settings, message in (
            (
                {"metric": "nsd"},
                "metric: expected a column of scores of these tables such as dice, got 'nsd'",
            ),
            ({"metric": "method"}, "got 'method'"),
            ({"targets": ["spleen"]}, "target: expected one of liver, got 'spleen'"),
            ({"by": "diameter"}, "expected a column volume_mm3, found none; choose --by area"),
            (
                {"level": "volume"},
                "found none: a slice's row: these tables are of volumes; --level slice",
            ),
        ):
            with pytest.raises(ValueError, match=message):
                select_rows(rows, **settings)
