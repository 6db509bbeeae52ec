"""What was found at all, and what was predicted where nothing is: counted by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from boltzmed.cli import main
from boltzmed.reports.presence import print_presence, tabulate_presence
from boltzmed.reports.scores import read_scores

HEADER = (
    "method,dataset,case,target,level,axis,slice_index,dice,area_fraction,volume_mm3,reference_empty,prediction_empty,"
    "false_positive_mm3,false_lesions,lesion_rule"
)
SHOWN = {"p1": 0.5, "p2": 0.6, "p3": 0}
"""Case -> Dice of method b, which predicts nothing in p3; a finds all three."""

FALSE = {"n1": 2, "n2": 0, "n3": 1, "n4": 0}
"""Case without the target -> components that a predicts there, 10 mm³ each; b predicts none."""


def write_table(folder: Path, rule: str = "26 overlap") -> Path:
    lines = [HEADER]
    for method in "ab":
        for case, dice in SHOWN.items():
            score = dice if method == "b" else 0.7
            empty = str(score == 0).lower()
            lines.append(
                f"{method},set,{case},liver,volume,,,{score},0.1,100,false,{empty},0,0,26 overlap"
            )
        for case, count in FALSE.items():
            count = count if method == "a" else 0
            own_rule = rule if method == "b" else "26 overlap"
            rest = f"0,0,true,{str(count == 0).lower()},{10 * count},{count},{own_rule}"
            lines.append(f"{method},set,{case},liver,volume,,,{0 if count else ''},{rest}")
        lines.append(f"{method},set,p1,liver,slice,axial,0,0.7,0.1,100,false,false,0,0,26 overlap")
    path = folder / "results.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_counts_and_means_by_hand(tmp_path):
    presence = tabulate_presence(read_scores([write_table(tmp_path)]).rows, ["b", "a"])
    numbers = presence.set_index(["level", "method"])
    assert numbers.index.tolist() == [
        ("volume", "b"),
        ("volume", "a"),
        ("slice", "b"),
        ("slice", "a"),
    ]
    counts = ["shown", "found", "empty", "kept_empty", "false_positive_mm3", "false_lesions"]
    assert numbers.loc[("volume", "a"), counts].tolist() == [3, 3, 4, 2, 7.5, 0.75]
    assert numbers.loc[("volume", "b"), counts].tolist() == [3, 2, 4, 4, 0, 0]
    shares = numbers[["sensitivity", "specificity"]]
    assert shares.loc[("volume", "a")].tolist() == [1, 0.5]
    assert shares.loc[("volume", "b")].tolist() == [pytest.approx(2 / 3), 1]
    assert shares.loc[("slice", "a"), "sensitivity"] == 1 and math.isnan(
        shares.loc[("slice", "a"), "specificity"]
    )


def test_components_of_other_neighbours_are_not_shown_side_by_side(tmp_path):
    same, other = (
        tabulate_presence(read_scores([write_table(tmp_path, rule)]).rows, ["a", "b"])
        for rule in ("26 iou:0.5", "6 overlap")
    )
    of_volumes = [table[table["level"].eq("volume")] for table in (same, other)]
    assert of_volumes[0]["false_lesions"].tolist() == [
        0.75,
        0,
    ]  # where nothing is, all are false by any rule
    assert of_volumes[1]["false_lesions"].isna().all() and of_volumes[1][
        "false_positive_mm3"
    ].tolist() == [7.5, 0]


def test_tables_that_do_not_say_what_was_empty_have_no_presence(tmp_path):
    (tmp_path / "r.csv").write_text(
        "method,dataset,case,target,dice,area_fraction\na,set,p1,liver,0.5,0.1\n"
    )
    assert print_presence(tabulate_presence(read_scores([tmp_path / "r.csv"]).rows, ["a"])) == {}


def test_compare_prints_saves_and_shows_it(tmp_path, capsys):
    command = [
        "compare",
        str(write_table(tmp_path)),
        "--by",
        "volume",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(command) == 0
    out = capsys.readouterr().out
    expected = ["100.00 % (3 of 3)", "50.00 % (2 of 4)", "66.67 % (2 of 3)", "100.00 % (4 of 4)"]
    html = (tmp_path / "out" / "report.html").read_text()
    for text in (out, html):
        assert "Presence in volumes" in text and all(cell in text for cell in expected)
        assert "false components per empty volume" in text and "7.50" in text
    assert pd.read_csv(tmp_path / "out" / "presence.csv")["empty"].tolist() == [4, 4, 0, 0]
    assert r"66.67 \% (2 of 3)" in (tmp_path / "out" / "presence_1.tex").read_text()
