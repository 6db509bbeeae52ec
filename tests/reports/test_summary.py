"""Means by data set, target and size, and over data sets: the published numbers, and small tables
by hand.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from boltzmed.cli import main
from boltzmed.reports.scores import SCORES, read_scores
from boltzmed.reports.summary import (
    ALL_SIZES,
    ALL_TARGETS,
    Summary,
    list_gaps,
    print_summary,
    summarise,
)

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "results"
HEADER = ",".join(SCORES)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def summarise_lines(folder: Path, *lines: str, header: str = HEADER, **settings) -> Summary:
    rows = read_scores([write(folder / "results.csv", header, *lines)]).rows
    return summarise(rows, **{"resamples": 200, **settings})


def cell(summary: Summary, **where: str) -> pd.Series:
    """The only line with these names."""
    lines = summary.cells.query(" and ".join(f"{name} == @where['{name}']" for name in where))
    assert len(lines) == 1
    return lines.iloc[0]


@pytest.fixture(scope="module")
def published() -> Summary:
    paths = sorted(PUBLISHED.glob("*.csv.gz"))
    if len(paths) < 4:
        pytest.skip(f"{PUBLISHED}: the published per-image results are not on this machine")
    return summarise(read_scores(paths).rows, resamples=500)


class TestPublished:
    @pytest.mark.parametrize(
        ("dataset", "method", "dice", "n", "patients"),
        [
            ("LIDC-IDRI", "BiomedParse", "73.77", 1733, 159),  # the paper's Table 1: 73.8
            ("LIDC-IDRI", "MedSAM", "35.68", 1733, 159),
            ("LIDC-IDRI", "SAM", "50.93", 1733, 159),
            ("AMOS22-CT", "BiomedParse", "91.88", 29664, 50),  # 91.9
            ("AMOS22-CT", "MedSAM", "85.75", 29664, 50),
            ("AMOS22-CT", "SAM", "74.22", 29664, 50),
            ("MSD-Pancreas", "BiomedParse", "61.64", 2210, 57),  # 60.2: not of these scores
            ("MSD-HepaticVessel", "BiomedParse", "62.82", 3122, 61),  # 64.8: nor this
        ],
    )
    def test_means(self, published, dataset, method, dice, n, patients):
        cells = published.cells
        found = cells[
            cells["dataset"].eq(dataset)
            & cells["method"].eq(method)
            & cells["stratum"].eq(ALL_SIZES)
        ].iloc[0]
        assert (f"{100 * found['mean']:.2f}", found["n"], found["patients"]) == (dice, n, patients)
        assert found["low"] < found["mean"] < found["high"]

    def test_table_2_is_weighted_by_the_groups_shares(self, published):
        # Worked out from the four data sets' means and numbers of rows below and from 1 % on.
        means = [
            (0.889448, 16897 / 29664),
            (0.737675, 1.0),
            (0.616020, 2976 / 3122),
            (0.628858, 1862 / 2210),
        ]
        overall = published.overall[published.overall["method"].eq("BiomedParse")].set_index(
            ["weighting", "stratum"]
        )
        expected = sum(mean * share for mean, share in means) / sum(share for _, share in means)
        assert overall.loc[("table 2", "<1 %"), "mean"] == pytest.approx(expected, abs=1e-6)
        assert f"{100 * overall.loc[('rows', '<1 %'), 'mean']:.2f}" == "82.29"
        assert f"{100 * overall.loc[('datasets', '<1 %'), 'mean']:.2f}" == "71.80"
        assert (
            overall.loc[("table 2", "<1 %"), "datasets"] == 4
            and overall.loc[("table 2", "≥1 %"), "datasets"] == 3
        )

    def test_missed_altogether(self, published):
        missed = published.cells.query(
            "stratum == 'all sizes' and target in ('all targets', 'nodule')"
        )
        shares = missed.groupby("method")[["missed", "n"]].sum()
        assert shares["missed"].to_dict() == {"BiomedParse": 633, "MedSAM": 19, "SAM": 510}


LINES = [
    *(
        f"a,one,p{patient},liver,{dice},{area}"
        for patient, dice, area in ((1, 0.2, 0.001), (2, 0.4, 0.005), (3, 0.9, 0.02))
    ),
    *("a,one,p1,spleen,0,0.05", "a,two,p1,liver,0.6,0.0002", "a,two,p2,liver,0.8,0.00005"),
    *("b,one,p1,liver,1,0.001",),
]


class TestByHand:
    def test_cells(self, tmp_path):
        summary = summarise_lines(tmp_path, *LINES)
        whole = cell(summary, dataset="one", target=ALL_TARGETS, stratum=ALL_SIZES, method="a")
        assert whole[["mean", "n", "patients", "missed", "missed_share"]].tolist() == [
            0.375,
            4,
            3,
            1,
            0.25,
        ]
        small = cell(summary, dataset="one", target="liver", stratum="<1 %", method="a")
        assert small[["mean", "n", "patients", "missed"]].tolist() == [pytest.approx(0.3), 2, 2, 0]
        assert (
            cell(summary, dataset="one", target="liver", stratum="≥1 %", method="a")["mean"] == 0.9
        )
        assert (
            cell(summary, dataset="one", target="liver", stratum="0.1–1 %", method="b")["mean"] == 1
        )
        # A data set of one target needs no line for all of them.
        assert set(summary.cells[summary.cells["dataset"].eq("two")]["target"]) == {"liver"}

    def test_over_data_sets(self, tmp_path):
        overall = summarise_lines(tmp_path, *LINES).overall.set_index(
            ["weighting", "stratum", "method"]
        )["mean"]
        # Data set one: 4 rows, mean 0.375, below 1 % 2 of them, mean 0.3; data set two: 2 rows, all
        # below, mean 0.7.
        assert overall["rows", ALL_SIZES, "a"] == pytest.approx((4 * 0.375 + 2 * 0.7) / 6)
        assert overall["datasets", ALL_SIZES, "a"] == pytest.approx((0.375 + 0.7) / 2)
        assert overall["table 2", ALL_SIZES, "a"] == pytest.approx((0.375 + 0.7) / 2)
        assert overall["rows", "<1 %", "a"] == pytest.approx((2 * 0.3 + 2 * 0.7) / 4)
        assert overall["datasets", "<1 %", "a"] == pytest.approx(0.5)
        assert overall["table 2", "<1 %", "a"] == pytest.approx((0.5 * 0.3 + 1 * 0.7) / 1.5)
        assert overall["table 2", "≥1 %", "a"] == pytest.approx(0.45)  # one data set alone has such

    def test_one_patient_in_each_data_set_gives_no_interval(self, tmp_path):
        lines = [f"a,{name},p1,liver,{dice},0.02" for name, dice in (("one", 0.2), ("two", 0.6))]
        overall = summarise_lines(tmp_path, *lines).overall
        assert overall[["low", "high"]].isna().all(axis=None) and overall["mean"].notna().all()
        wider = summarise_lines(tmp_path, *lines, "a,two,p2,liver,0.9,0.02").overall
        assert (wider["low"] < wider["high"]).all()

    def test_every_printed_cell_shows_its_number(self, tmp_path):
        printed = print_summary(summarise_lines(tmp_path, *LINES))
        table = printed["By target"].set_index(["dataset", "target"])
        assert (
            table.loc[("one", "all targets"), "a"].startswith("37.50 [")
            and table["a"].str.contains(r" n=\d+$").all()
        )
        assert (
            table.loc[("one", "liver"), "b"] == "100.00 [–] n=1"
            and table.loc[("one", "spleen"), "b"] == "–"
        )
        missed = printed["Missed altogether (no overlap)"].set_index(["dataset", "stratum"])
        assert missed.loc[("one, all targets", ALL_SIZES), "a"] == "25.00 % (1 of 4)"
        assert missed.loc[("all data sets", ALL_SIZES), "a"] == "16.67 % (1 of 6)"

    @pytest.mark.parametrize("first", ["expert", "ours"])
    def test_an_expert_of_one_target_stands_beside_a_model_of_several(self, first, tmp_path):
        both = {"expert": ["tumor"], "ours": ["organ", "tumor"]}
        lines = [
            f"{method},one,p{case},{target},{0 if method == 'expert' and case < 3 else 0.8},0.02"
            for method in sorted(both, key=lambda name: name != first)
            for target in both[method]
            for case in range(6)
        ]
        summary = summarise_lines(tmp_path, *lines, "ours,two,p9,liver,0,0.02")
        printed = print_summary(summary)
        sizes = printed["By area"].set_index(["dataset", "stratum"])
        assert sizes.columns[0] == first
        assert sizes.loc[("one, tumor", "1–10 %"), "expert"].startswith("40.00 [")
        assert sizes.loc[("one, tumor", "1–10 %"), "ours"].endswith("n=6")
        assert sizes.loc[("one, all targets", "1–10 %")].to_dict()["expert"] == "–"
        assert sizes.loc[("one, all targets", "1–10 %"), "ours"].endswith("n=12")
        missed = printed["Missed altogether (no overlap)"].set_index(["dataset", "stratum"])
        assert missed.loc[("one, tumor", ALL_SIZES)].to_dict() == {
            "expert": "50.00 % (3 of 6)",
            "ours": "0.00 % (0 of 6)",
        }
        # Over data sets nothing is counted twice, and nothing is lost.
        whole = missed.loc[("all data sets", ALL_SIZES)].to_dict()
        assert whole == {"expert": "50.00 % (3 of 6)", "ours": "7.69 % (1 of 13)"}
        assert list_gaps(summary.cells) == [
            "expert lacks 1 of 2 targets of one (organ): its means over targets, by size and over"
            " data sets are of the others"
        ]

    def test_strata_stand_in_order_where_the_first_method_has_no_small_object(self, tmp_path):
        lines = [
            "a,one,p1,liver,0.5,0.2",
            "b,one,p1,liver,0.5,0.2",
            "b,one,p2,liver,0.5,0.00005",
            "b,two,p2,x,0.5,0.02",
        ]
        printed = print_summary(summarise_lines(tmp_path, *lines))
        expected = [ALL_SIZES, "<0.01 %", "≥10 %", "<1 %", "≥1 %"]
        for title in ("By area", "Missed altogether (no overlap)"):
            assert printed[title].query("dataset == 'one'")["stratum"].tolist() == expected
        over = printed["Over data sets: plain mean over rows"]["stratum"].drop_duplicates().tolist()
        assert over == [ALL_SIZES, "<0.01 %", "1–10 %", "≥10 %", "<1 %", "≥1 %"]

    def test_edges_of_ones_own(self, tmp_path):
        summary = summarise_lines(tmp_path, *LINES, edges=[0.004, 0.03], targets=["liver"])
        strata = dict.fromkeys(summary.cells["stratum"])
        assert list(strata) == [ALL_SIZES, "<0.4 %", "0.4–3 %", "<1 %", "≥1 %"]

    def test_volumes_and_diameters(self, tmp_path):
        header = f"{HEADER},level,volume_mm3"
        lines = [
            f"a,one,p{index},liver,0.{index},0.1,volume,{volume}"
            for index, volume in ((1, 10), (2, 400), (3, ""))
        ]
        by_diameter = summarise_lines(tmp_path, *lines, header=header, by="diameter")
        assert by_diameter.cells["stratum"].tolist() == [ALL_SIZES, "<3 mm", "6–10 mm"]
        assert by_diameter.excluded["reason"].tolist() == [
            "no volume_mm3: in no stratum, but among all sizes"
        ]
        by_volume = summarise_lines(
            tmp_path, *lines, header=header, by="volume", edges=[100.0, 1e6]
        )
        assert by_volume.cells["stratum"].tolist() == [ALL_SIZES, "<100 mm³", "100–1000000 mm³"]
        assert by_volume.cells["n"].tolist() == [3, 1, 1]

    def test_other_scores(self, tmp_path, capsys):
        table = write(
            tmp_path / "r.csv",
            f"{HEADER},volume_mm3",
            "a,one,p1,liver,0.5,0.1,12.5",
            "a,one,p2,liver,0,0.1,7.5",
        )
        assert main(["summarize", str(table), "--metric", "volume_mm3"]) == 0
        assert "10.00 [7.50, 12.50] n=2" in capsys.readouterr().out

    def test_what_other_methods_have_changes_no_interval(self, tmp_path):
        alone = summarise_lines(tmp_path, *(line for line in LINES if line.startswith("a"))).cells
        beside = summarise_lines(
            tmp_path, *LINES, "b,one,p0,liver,1,0.001", "b,one,p9,liver,1,0.001"
        ).cells
        beside = beside[beside["method"].eq("a")].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, beside)

    def test_order_of_rows_and_seed(self, tmp_path):
        sort = ["dataset", "target", "stratum", "method"]
        first, second = (
            summarise_lines(tmp_path, *lines).cells.sort_values(sort)
            for lines in (LINES, LINES[::-1])
        )
        pd.testing.assert_frame_equal(first.reset_index(drop=True), second.reset_index(drop=True))
        lows = [
            summarise_lines(tmp_path, *LINES, resamples=20, seed=seed).cells["low"].tolist()
            for seed in (0, 0, 1)
        ]
        assert str(lows[0]) == str(lows[1]) != str(lows[2])


def test_command_prints_and_saves(tmp_path, capsys):
    table = write(tmp_path / "results.csv", *[HEADER, *LINES])
    assert (
        main(["summarize", str(table), "--edges", "0.4,3", "--output", str(tmp_path / "out")]) == 0
    )
    out = capsys.readouterr().out
    assert (
        "0.4–3 %" in out
        and "the paper's Table 2" in out
        and out.rstrip().endswith("left out: nothing")
    )
    saved = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert {"mean", "low", "high", "n", "patients", "missed"} <= set(saved)
    assert set(pd.read_csv(tmp_path / "out" / "summary_over_data_sets.csv")["weighting"]) == {
        "rows",
        "datasets",
        "table 2",
    }
    assert r"\toprule" in (tmp_path / "out" / "summary_1.tex").read_text()
    (tmp_path / "file").touch()
    assert main(["summarize", str(table), "--output", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("edges", ["3,1", "0", "x", "1,inf"])
def test_wrong_edges_are_refused(edges, tmp_path, capsys):
    table = write(tmp_path / "results.csv", *[HEADER, *LINES])
    try:
        status = main(["summarize", str(table), "--edges", edges])
    except SystemExit as stopped:  # by the parser
        status = int(str(stopped.code))
    assert status == 2 and "expected" in capsys.readouterr().err
