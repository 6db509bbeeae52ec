"""The folder of a report: its files, their numbers, the paper's layout; and the command that makes
it.
"""

import json
import re

import numpy as np
import pandas as pd
import pytest

from boltzmed.cli import main
from boltzmed.reports.published import (
    MeanTable,
    mark_best,
    tabulate_datasets,
    tabulate_sizes,
    tabulate_targets,
    write_latex,
)
from boltzmed.reports.report import write_report
from boltzmed.reports.scores import read_scores
from boltzmed.reports.sections import TABLE_ROWS
from boltzmed.reports.summary import summarise


@pytest.fixture
def scores(tmp_path):
    """Two data sets; one of them has ten targets; 1500 objects in all, a patient each."""
    generator = np.random.default_rng(0)
    lines = ["method,dataset,case,target,dice,area_fraction"]
    for number in range(1500):
        dataset, target = ("A", "nodule") if number % 3 != 1 else ("B_1", f"organ {number % 10}")
        size = 10 ** generator.uniform(-4, -1)
        for method, skill in (("x & y", 0.5), ("z", 0.6)):
            score = np.clip(skill + generator.normal(0, 0.2), 0, 1)
            lines.append(f"{method},{dataset},case {number},{target},{score:.4f},{size:.6f}")
    (tmp_path / "results.csv").write_text("\n".join(lines) + "\n")
    return read_scores([tmp_path / "results.csv"])


def test_tables_have_the_papers_layout(scores, tmp_path):
    summary = summarise(scores.rows, resamples=20)
    rows = scores.rows
    table = tabulate_datasets(summary)
    first = table.means
    assert list(first.columns) == ["Method", "Avg.", "A", "B_1"] and first["Method"].tolist() == [
        "x & y",
        "z",
    ]
    means = rows.groupby(["method", "dataset"])["dice"].mean().unstack() * 100
    assert np.allclose(first[["A", "B_1"]], means) and np.allclose(
        first["Avg."], means.mean(axis=1)
    )
    targets = dict(tabulate_targets(summary))  # A has one target, which Table 1 has already
    assert list(targets) == ["B_1, by target", "B_1, by target (continued)"]
    assert [len(table.means.columns) for table in targets.values()] == [
        6,
        7,
    ]  # ten targets, and all of them
    second = tabulate_sizes(summary)
    assert second["Objects"].tolist() == ["Small", "Large", "All"]
    assert re.fullmatch(r"\d\d\.\d\d \[\d\d\.\d\d, \d\d\.\d\d\]", second["z"][0])
    assert second["n"].tolist()[-1] == "1500"
    assert table.print()["Avg. (n=1500)"][0] == f"{first['Avg.'][0]:.1f}"
    write_latex(table.print(), tmp_path / "table.tex", mark_best(first))
    latex = (tmp_path / "table.tex").read_text()
    assert (
        r"Method & Avg. (n=1500) & A (n=1000) & B\_1 (n=500) \\" in latex
        and r"x \& y &" in latex
        and r"\toprule" in latex
    )
    assert latex.count(r"\textbf") == 3


def test_a_method_that_lacks_a_target_has_no_mean_over_all(scores):
    rows = scores.rows
    summary = summarise(
        rows[~(rows["method"].eq("z") & rows["target"].eq("organ 3"))], resamples=20
    )
    table = tabulate_datasets(summary)
    assert table.means.set_index("Method").isna().loc["z"].tolist() == [True, False, True]
    assert not table.means.iloc[0].isna().any() and mark_best(table.means) <= {(0, 2), (1, 2)}
    targets = pd.concat(
        [table.means.set_index("Method") for _, table in tabulate_targets(summary)], axis=1
    )
    assert targets.columns[targets.loc["z"].isna()].tolist() == ["all targets", "organ 3"]
    sizes = tabulate_sizes(summary).set_index("Objects")
    assert set(sizes["z"]) == {"–"} and "–" not in set(sizes["x & y"])


@pytest.mark.parametrize("first", ["expert", "ours"])
def test_an_expert_of_one_target_is_in_every_part_of_the_report(first, tmp_path, capsys):
    both = {"expert": ["tumor"], "ours": ["organ", "tumor"]}
    lines = [
        f"{method},set,p{case},{target},{0 if method == 'expert' and case < 3 else 0.8},0.02"
        for method, targets in both.items()
        for target in targets
        for case in range(6)
    ]
    (tmp_path / "r.csv").write_text(
        "\n".join(["method,dataset,case,target,dice,area_fraction", *lines]) + "\n"
    )
    command = [
        "compare",
        str(tmp_path / "r.csv"),
        "--reference-method",
        first,
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(command) == 0
    second = pd.read_csv(tmp_path / "out" / "table_2.csv").set_index("Objects")
    assert second.loc["Large", "expert"] == "–" and second.loc["Large", "ours"].startswith("80.00")
    missed = pd.read_csv(tmp_path / "out" / "missed.csv").set_index(["dataset", "stratum"])
    assert missed.loc[("set, tumor", "all sizes"), "expert"] == "50.00 % (3 of 6)"
    assert missed.loc[("set, all targets", "all sizes"), "ours"] == "0.00 % (0 of 12)"
    html = (tmp_path / "out" / "report.html").read_text()
    assert (
        "expert, set, tumor, 1–10 %: 0.40" in html
        and "ours, set, all targets, 1–10 %: 0.80" in html
    )
    assert "expert lacks 1 of 2 targets of set (organ)" in html


def test_a_table_without_the_score_is_left_out_and_told(tmp_path, capsys):
    header = "method,dataset,case,target,dice,area_fraction"
    for method, name, score in (("a", ",iou", ",0.7"), ("b", ",iou", ",0.7"), ("c", "", "")):
        lines = [
            header + name,
            *(f"{method},set,p{case},liver,0.8,0.02{score}" for case in range(4)),
        ]
        (tmp_path / f"{method}.csv").write_text("\n".join(lines) + "\n")
    files = [str(tmp_path / f"{method}.csv") for method in "acb"]
    assert main(["compare", *files, "--metric", "iou", "--output", str(tmp_path / "out")]) == 0
    assert "4 rows of c, set: " in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Left out: 4 rows of c, set" in page
    assert list(pd.read_csv(tmp_path / "out" / "objects.csv").columns[-2:]) == ["a", "b"]


def test_a_method_of_another_data_set_stands_in_the_tables_and_in_no_pair(tmp_path, capsys):
    lines = [
        f"{m},{d},p{n},liver,0.5,0.02"
        for m, d in (("a", "x"), ("c", "y"), ("b", "x"))
        for n in range(3)
    ]
    (tmp_path / "r.csv").write_text(
        "\n".join(["method,dataset,case,target,dice,area_fraction", *lines]) + "\n"
    )
    assert main(["compare", str(tmp_path / "r.csv"), "--output", str(tmp_path / "out")]) == 0
    assert "left out: 3 rows of c, y: no object in common with a" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "out" / "table_1.csv")["Method"].tolist() == ["a", "b", "c"]
    assert (
        "Each of 3 objects that all methods were scored on"
        in (tmp_path / "out" / "report.html").read_text()
    )


def test_figures_are_of_what_the_tables_are_of(tmp_path, capsys):
    lines = ["method,dataset,case,target,dice,area_fraction"]
    for number, (a, b, size) in enumerate(
        [(0.5, 0.6, 0.02), (0.4, 0.6, 0.02), (0.3, 0.6, 0.5), (0.2, 0.6, 0.005)]
    ):
        lines += [
            f"a,set,p{number},liver,{a},{0.02 if size == 0.5 else size}",
            f"b,set,p{number},liver,{b},{size}",
        ]
    (tmp_path / "r.csv").write_text("\n".join(lines) + "\n")
    command = [
        "compare",
        str(tmp_path / "r.csv"),
        "--edges",
        "1,10",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(command) == 0
    assert "1 rows of b, set: another size of the reference than for a" in capsys.readouterr().out
    html = (tmp_path / "out" / "report.html").read_text()
    assert (
        "Each of 3 objects that all methods were scored on" in html
        and "b: better 3, worse 0" in html
    )
    # The first bin of --edges is drawn, though the paper's group is called so, too.
    assert "a, set, &lt;1 %: 0.20" in html
    assert "same_size" not in (tmp_path / "out" / "objects.csv").read_text()


def test_table_2_is_spoken_of_where_it_stands(tmp_path):
    lines = [
        f"a,set,p{case},liver,0.8,0.02,{level},90"
        for case in range(3)
        for level in ("slice", "volume")
    ]
    header = "method,dataset,case,target,dice,area_fraction,level,volume_mm3"
    (tmp_path / "r.csv").write_text("\n".join([header, *lines]) + "\n")
    scores = read_scores([tmp_path / "r.csv"])
    for by, there in (("area", True), ("diameter", False)):
        page = write_report(
            scores, summarise(scores.rows, by=by, resamples=20), None, tmp_path / by
        )
        assert ("Table 2" in page.read_text()) is there


def test_latex_survives_any_name(tmp_path):
    write_latex(pd.DataFrame({"Method": ["a^b~c\\d{e}"], "x": ["1"]}), tmp_path / "t.tex")
    text = (tmp_path / "t.tex").read_text()
    assert r"a\textasciicircum{}b\textasciitilde{}c\textbackslash{}d\{e\} & 1" in text


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        ("hd95_mm", "Of hd95_mm the lower number is the better one"),
        ("volume_difference_mm3", "Of volume_difference_mm3 0 is the best"),
    ],
)
def test_where_more_is_not_better_the_report_says_so(metric, sentence, tmp_path, capsys):
    lines = [f"{m},set,p{n},liver,0.5,0.02,{n + k}" for k, m in enumerate("ab") for n in range(3)]
    (tmp_path / "r.csv").write_text(
        "\n".join([f"method,dataset,case,target,dice,area_fraction,{metric}", *lines]) + "\n"
    )
    command = ["compare", str(tmp_path / "r.csv"), "--output", str(tmp_path / "out")]
    for options, said in ((["--metric", metric], True), ([], False)):
        assert main([*command, *options]) == 0
        html = (tmp_path / "out" / "report.html").read_text()
        for text in (capsys.readouterr().out, html):
            assert (sentence in text) is said


def test_rows_of_ones_own_have_a_number_each():
    means = pd.DataFrame(
        {"Method": ["a", "b"], "x": [50.04, 50.0], "y": [1.0, float("nan")], "w": [1.0, 2.0]}
    )
    counts = pd.DataFrame({"Method": ["a", "b"], "x": [3, 3], "y": [4, float("nan")], "w": [5, 6]})
    assert mark_best(means) == {(0, 1), (1, 1), (1, 3)}  # x: equal as printed
    table = MeanTable(means, counts)
    assert table.print().to_dict("list") == {
        "Method": ["a", "b"],
        "x (n=3)": ["50.0", "50.0"],
        "y (n=4)": ["1.0", "–"],
        "w": ["1.0 (n=5)", "2.0 (n=6)"],
    }
    assert list(table.join().columns) == ["Method", "x", "n: x", "y", "n: y", "w", "n: w"]


def test_a_large_table_is_cut_on_the_page_and_whole_beside_it(scores, tmp_path):
    page = write_report(scores, summarise(scores.rows, resamples=20), None, tmp_path / "report")
    html = page.read_text()
    assert f"The {TABLE_ROWS} worst of 1500" in html
    assert html.split('id="objects-table"')[1].split("</table>")[0].count("<tr>") == TABLE_ROWS + 1
    objects = pd.read_csv(tmp_path / "report" / "objects.csv")
    assert len(objects) == 1500 and list(objects.columns[-2:]) == ["x & y", "z"]
    assert 'id="viewer"' not in html and "No pictures:" in html
    assert sorted(path.name for path in (tmp_path / "report" / "figures").iterdir()) == [
        "sizes.png",
        "sizes.svg",
    ]
    again = write_report(scores, summarise(scores.rows, resamples=20), None, tmp_path / "again")
    assert again.read_bytes() == page.read_bytes()


def test_volumes_and_failures_are_on_the_page(small_report):
    html = small_report.page.read_text()
    volumes = [
        json.loads(text)
        for text in re.findall(
            r'<script type="application/json" id="volume-\d">(.*?)</script>', html
        )
    ]
    assert [volume["title"] for volume in volumes] == [
        "set, case_1, nodule",
        "set, [UID], nodule",
        "set, case_2<b>, nodule",
    ]
    assert html.count('class="thumbnails"') == 3
    assert html.index("case_1, slice") > 0 and "boltz &amp; co 100.0, " in html
    figures = {path.name for path in (small_report.folder / "report" / "figures").iterdir()}
    assert figures == {
        f"{name}.{kind}" for name in ("sizes", "pairs", "agreement") for kind in ("png", "svg")
    }


def test_a_distance_is_worst_when_high_and_what_was_missed_has_none(tmp_path, capsys):
    lines = [
        "method,dataset,case,target,dice,area_fraction,level,volume_mm3,hd95_mm,prediction_empty"
    ]
    for method, missed in (("a", 3), ("b", 1)):
        for number in range(1, 6):
            lost = number <= missed
            scores = (
                f"{0 if lost else 0.8},0.1,volume,100,{'' if lost else number},{str(lost).lower()}"
            )
            lines.append(f"{method},set,p{number},liver,{scores}")
    lines += ["b,set,p9,liver,0.5,0.1,volume,100,9,false"]
    table = tmp_path / "r.csv"
    table.write_text("\n".join(lines) + "\n")
    command = [
        "compare",
        str(table),
        "--metric",
        "hd95_mm",
        "--by",
        "volume",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(command) == 0
    assert (
        "3 rows of a, set: missed altogether, so without hd95_mm: leaving it out flatters"
        in capsys.readouterr().out
    )
    objects = pd.read_csv(tmp_path / "out" / "objects.csv").set_index("case")
    assert objects.index.tolist() == ["p1", "p3", "p2", "p9", "p5", "p4"]
    assert objects["missed"].tolist() == [2, 1, 1, 0, 0, 0]
    missed = pd.read_csv(tmp_path / "out" / "missed.csv").set_index("stratum")
    assert missed.loc["all sizes", ["a", "b"]].tolist() == ["60.00 % (3 of 5)", "16.67 % (1 of 6)"]
    html = (tmp_path / "out" / "report.html").read_text()
    assert (
        "No paired scatter and no Bland–Altman plot: they are drawn of scores from 0 to 1" in html
    )
    assert "Left out: 3 rows of b, set: no score by a to pair with." in html
    assert html.count("Left out: 3 rows of a, set: missed altogether") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "-1"], "argument --seed: expected a whole number from 0, got '-1'"),
        (["--worst", "-1"], "argument --worst: expected a whole number from 0, got '-1'"),
        (
            ["--page-megabytes", "-4"],
            "argument --page-megabytes: expected a size in megabytes above 0, got '-4'",
        ),
        (
            ["--page-megabytes", "nan"],
            "argument --page-megabytes: expected a size in megabytes above 0, got 'nan'",
        ),
    ],
)
def test_numbers_out_of_range_are_told_with_their_option(options, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["compare", "results.csv", *options])
    assert capsys.readouterr().err.splitlines()[-1].endswith(message)


def test_the_command_writes_all_of_it(small_report, tmp_path, capsys):
    first, second = small_report.methods
    folders = small_report.pictures
    command = [
        "compare",
        *map(str, small_report.tables),
        "--output",
        str(tmp_path / "report"),
        "--reference-method",
        second,
    ]
    pictures = [
        "--images",
        str(folders.images),
        "--references",
        str(folders.references),
        "--window",
        "-1000,1000",
    ]
    masks = [f"--predictions={method}={folder}" for method, folder in folders.predictions.items()]
    assert main([*command, *pictures, *masks, "--case", "case_2<b>"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(tmp_path / "report" / "report.html")
    html = (tmp_path / "report" / "report.html").read_text()
    assert f"{first} - {second}, by target".replace("&", "&amp;") in html.replace(
        "&lt;", "<"
    ).replace("&gt;", ">").replace("&#39;", "'")
    assert (
        html.count('type="application/json"') == 1
        and '"title": "set, case_2\\u003cb\\u003e, nodule"' in html
    )
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert {
        "comparison.csv",
        "comparison_1.tex",
        "table_1.csv",
        "table_1.tex",
        "table_2.tex",
        "objects.csv",
    } <= written
    assert printed.startswith("dice of slices in percent")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "nowhere"], "images: expected a folder, received nowhere, which is none"),
        (["--images", "."], "expected --images DIR and --references DIR together"),
        (
            ["--predictions", "z=."],
            "expected --images DIR and --references DIR, or --cache DIR alone",
        ),
        (["--predictions", "other=."], "expected one of the methods x & y, z, got 'other'"),
        (
            ["--case", "case 1"],
            "case 1: expected --images DIR or --cache DIR to show it from, got neither",
        ),
        (["--case", "nobody"], "case: expected one of the tables, got 'nobody'"),
        (
            ["--images", ".", "--references", ".", "--window", "3,1"],
            "window: expected LOW,HIGH, received 3,1",
        ),
    ],
)
def test_wrong_options_are_told_in_one_line(options, message, tmp_path, capsys):
    lines = [
        f"{method},A,case {case},nodule,0.5,0.01" for method in ("x & y", "z") for case in (1, 2)
    ]
    (tmp_path / "results.csv").write_text(
        "\n".join(["method,dataset,case,target,dice,area_fraction", *lines]) + "\n"
    )
    command = ["compare", str(tmp_path / "results.csv"), "--output", str(tmp_path / "report")]
    assert main([*command, *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "report" / "report.html").exists()


def test_a_case_that_is_left_out_is_told(tmp_path, capsys):
    lines = ["method,dataset,case,target,dice,area_fraction"]
    for method in "ab":
        lines += [
            f"{method},set,{case},nodule,{dice},{area}"
            for case, dice, area in (("x", 0.5, 0.1), ("z", "", 0))
        ]
    (tmp_path / "results.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "images").mkdir()
    folders = ["--images", str(tmp_path / "images"), "--references", str(tmp_path / "images")]
    command = [
        "compare",
        str(tmp_path / "results.csv"),
        "--output",
        str(tmp_path / "report"),
        *folders,
    ]
    assert main([*command, "--case", "z"]) == 2
    error = capsys.readouterr().err
    assert "case z: expected one that the report shows" in error and error.count("\n") == 1
    assert not (tmp_path / "report").exists()
