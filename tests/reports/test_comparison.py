"""Methods against each other on shared objects: by hand, on the published scores, and what has to
hold of any.
"""

from __future__ import annotations

import itertools
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boltzmed.cli import main
from boltzmed.reports.comparison import Comparison, compare
from boltzmed.reports.scores import SCORES, read_scores
from boltzmed.reports.summary import summarise

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "results"
HEADER = ",".join(SCORES)
IDENTITY = ["method", "dataset", "target", "stratum"]


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return path


# Three patients of which the second has two slices; b is better by 0.1, 0.2 and 0.4, 0.3.
A = [
    "a,set,p1_1,liver,0.5,0.02",
    "a,set,p2_1,liver,0.4,0.02",
    "a,set,p2_2,liver,0.2,0.0002",
    "a,set,p3_1,liver,0.6,0.02",
]
B = [
    "b,set,p1_1,liver,0.6,0.02",
    "b,set,p2_1,liver,0.6,0.02",
    "b,set,p2_2,liver,0.6,0.0002",
    "b,set,p3_1,liver,0.9,0.02",
]


def compare_lines(folder: Path, *lines: str, **settings) -> Comparison:
    rows = read_scores([write(folder / "r.csv", *lines)], patient_pattern=r"^p\d").rows
    return compare(rows, **{"resamples": 199, **settings})


def only(comparison: Comparison, **where: str) -> pd.Series:
    lines = comparison.cells.query(" and ".join(f"{name} == @where['{name}']" for name in where))
    assert len(lines) == 1
    return lines.iloc[0]


class TestByHand:
    def test_one_pair(self, tmp_path):
        comparison = compare_lines(tmp_path, *A, *B)
        whole = only(comparison, stratum="all sizes")
        assert whole[["n", "patients"]].tolist() == [4, 3]
        assert whole[["reference_mean", "mean", "difference"]].tolist() == pytest.approx(
            [0.425, 0.675, 0.25]
        )
        # Patients' sums 0.1, 0.6, 0.3, their means 0.1, 0.3, 0.3.
        assert whole["permutation_p"] == 2 / 8 and whole["wilcoxon_p"] == 0.25
        assert whole["rank_biserial"] == 1 and whole["cohens_dz"] == pytest.approx(
            (0.7 / 3) / math.sqrt(0.04 / 3)
        )
        small = only(comparison, stratum="0.01–0.1 %")
        assert small["difference"] == pytest.approx(0.4) and math.isnan(small["permutation_p"])
        assert math.isnan(small["low"]) and math.isnan(small["wilcoxon_holm"])
        # all sizes, 1–10 % and ≥ 1 % can be tested: all p 0.25, times three.
        tested = comparison.cells.dropna(subset="permutation_p")
        assert tested["stratum"].tolist() == ["all sizes", "1–10 %", "≥1 %"]
        assert tested["permutation_holm"].tolist() == [0.75] * 3

    def test_data_sets_of_one_patient_each_have_no_interval(self, tmp_path):
        lines = [
            f"{m},{d},p1_{i},liver,{s},0.02"
            for m, s in (("a", 0.5), ("b", 0.6))
            for d in "xy"
            for i in (1, 2)
        ]
        cells = compare_lines(tmp_path, *lines).cells
        whole = cells[cells["dataset"] == "all data sets"]
        assert (
            len(whole)
            and whole["patients"].eq(2).all()
            and cells[["low", "high"]].isna().all(axis=None)
        )
        more = compare_lines(
            tmp_path, *lines, "a,x,p2_1,liver,0.1,0.02", "b,x,p2_1,liver,0.4,0.02"
        ).cells
        assert (
            more.query("dataset == 'all data sets' and stratum == 'all sizes'")["low"].notna().all()
        )

    def test_only_what_both_have_is_compared_and_the_rest_is_told(self, tmp_path):
        lines = ["a,set,p4_1,liver,0.9,0.02", "b,set,p5_1,liver,0.9,0.02", "b,set,p6_1,liver,,0.02"]
        comparison = compare_lines(tmp_path, *A, *B, *lines)
        assert only(comparison, stratum="all sizes")["n"] == 4
        assert comparison.excluded[["method", "dataset", "reason", "rows"]].values.tolist() == [
            ["b", "set", "no dice", 1],
            ["a", "set", "no score by b to pair with", 1],
            ["b", "set", "no score by a to pair with", 1],
        ]

    def test_each_pair_has_its_own_shared_rows(self, tmp_path):
        third = [line.replace("a,", "c,", 1) for line in A[:2]]
        comparison = compare_lines(tmp_path, *A, *B, *third, reference_method="b")
        assert comparison.reference_method == "b"
        assert only(comparison, stratum="all sizes", method="a")["n"] == 4
        assert only(comparison, stratum="all sizes", method="c")["n"] == 2
        assert set(compare_lines(tmp_path, *A, *B, *third, methods=["c", "a"]).cells["method"]) == {
            "a"
        }

    def test_a_method_that_shares_nothing_is_left_out_and_told(self, tmp_path):
        other = [line.replace("a,set", "c,more") for line in A]
        comparison = compare_lines(tmp_path, *A, *other, *B)
        assert only(comparison, stratum="all sizes")["method"] == "b"
        assert comparison.excluded[["method", "dataset", "reason", "rows"]].values.tolist() == [
            ["a", "set", "no object in common with c", 4],
            ["c", "more", "no object in common with a", 4],
        ]
        with pytest.raises(ValueError, match="a and c have no object in common; their tables"):
            compare_lines(tmp_path, *A, *other)
        with pytest.raises(ValueError, match="c and a, b have no object in common"):
            compare_lines(tmp_path, *A, *other, *B, reference_method="c")

    def test_several_data_sets_are_pooled_in_a_family_of_their_own(self, tmp_path):
        other = [line.replace(",set,", ",more,") for line in (*A, *B)]
        cells = compare_lines(tmp_path, *A, *B, *other).cells
        pooled = cells[
            cells["dataset"].eq("all data sets") & cells["stratum"].eq("all sizes")
        ].iloc[0]
        # Patients of one name in two data sets are two: six patients, 2 / 2^6.
        assert pooled[["n", "patients", "permutation_p"]].tolist() == [8, 6, 2 / 64]

    def test_other_references_are_no_pairs(self, tmp_path):
        comparison = compare_lines(tmp_path, *A, B[0].replace("0.02", "0.03"), *B[1:])
        assert only(comparison, stratum="all sizes")["n"] == 3
        assert comparison.excluded[["method", "reason", "rows"]].values.tolist() == [
            ["b", "another size of the reference than for a", 1]
        ]
        message = (
            r"p1_1: liver has size 0.02 for a and 0.03 for b, and so have 3 of 4; .* same"
            r" references"
        )
        with pytest.raises(ValueError, match=message):
            compare_lines(tmp_path, *A, *(line.replace("0.02", "0.03") for line in B))

    def test_rounded_sizes_are_the_same(self, tmp_path):
        rounded = [line.replace("0.0002", "0.000201").replace("0.02", "0.0201") for line in B]
        comparison = compare_lines(tmp_path, *A, *rounded)
        assert only(comparison, stratum="all sizes")["n"] == 4 and comparison.excluded.empty

    def test_rounding_is_no_difference(self, tmp_path):
        # Six patients whose two slices change by 0.1 and -0.1: equal means, but for the last digit.
        slices = [(patient, index) for patient in range(6) for index in (0, 1)]
        lines = [
            f"{method},set,p{patient}_{index},liver,{scores[index]},0.02"
            for method, scores in (("a", (0.6, 0.4)), ("b", (0.7, 0.3)))
            for patient, index in slices
        ]
        whole = only(compare_lines(tmp_path, *lines), stratum="all sizes")
        assert whole[["difference", "low", "high", "rank_biserial"]].tolist() == [0, 0, 0, 0]
        assert whole[["wilcoxon_p", "permutation_p"]].tolist() == [1, 1] and math.isnan(
            whole["cohens_dz"]
        )
        # Three patients that are better by exactly 0.1 do not spread.
        pairs = [(0.5, 0.6), (0.6, 0.7), (0.8, 0.9)]
        lines = [
            f"{'ab'[k]},set,p{index}_1,liver,{pair[k]},0.02"
            for index, pair in enumerate(pairs)
            for k in (0, 1)
        ]
        whole = only(compare_lines(tmp_path, *lines), stratum="all sizes")
        assert math.isnan(whole["cohens_dz"]) and whole[
            ["rank_biserial", "wilcoxon_p"]
        ].tolist() == [1, 0.25]

    def test_scores_of_two_tolerances_are_refused(self, tmp_path):
        header, nsd = f"{HEADER},nsd,nsd_tolerance_mm", ",0.8,{}"
        for tolerances, refused in (((1, 5), True), ((2, 2.0), False), ((1, ""), False)):
            lines = [
                row + nsd.format(mm)
                for rows, mm in zip((A, B), tolerances, strict=True)
                for row in rows
            ]
            (tmp_path / "nsd.csv").write_text("\n".join([header, *lines]) + "\n")
            rows = read_scores([tmp_path / "nsd.csv"]).rows
            compare(rows, resamples=9)  # Dice has no tolerance
            if refused:
                message = (
                    "nsd: expected one nsd_tolerance_mm for all rows, got 1 mm of a in p1_1 and 5"
                    " mm of b in p1_1"
                )
                with pytest.raises(ValueError, match=message):
                    compare(rows, metric="nsd", resamples=9)
            else:
                compare(rows, metric="nsd", resamples=9)

    @pytest.mark.parametrize(
        ("rules", "refused"),
        [
            (("26 overlap", "26 iou:0.9"), {"detection_f1", "missed_lesions"}),
            (("26 overlap", "6 overlap"), {"detection_f1", "missed_lesions", "panoptic_quality"}),
            (("26 overlap", "26 overlap"), set()),
            (("26 overlap", ""), set()),
        ],
    )
    def test_lesions_counted_by_two_rules_are_refused(self, rules, refused, tmp_path):
        metrics = ("dice", "detection_f1", "missed_lesions", "panoptic_quality")
        lines = [
            f"{row},0.8,1,0.8,{rule}"
            for rows, rule in zip((A, B), rules, strict=True)
            for row in rows
        ]
        (tmp_path / "r.csv").write_text(
            "\n".join([",".join([HEADER, *metrics[1:], "lesion_rule"]), *lines]) + "\n"
        )
        rows = read_scores([tmp_path / "r.csv"]).rows
        for metric, command in itertools.product(metrics, (compare, summarise)):
            if metric in refused:
                with pytest.raises(
                    ValueError,
                    match=f"{metric}: expected one lesion_rule for all rows, got 26 .* a",
                ):
                    command(rows, metric=metric, resamples=9)
            else:
                command(rows, metric=metric, resamples=9)

    @pytest.mark.parametrize(
        ("lines", "settings", "message"),
        [
            (A, {}, "expected scores of two methods or more, got those of a alone"),
            ([*A, *B], {"methods": ["a", "x"]}, "method: expected one of a, b, got 'x'"),
            ([*A, *B], {"reference_method": "x"}, "method: expected one of a, b, got 'x'"),
            (
                [*A, *(line.replace(",p", ",q") for line in B)],
                {},
                "a and b have no object in common",
            ),
            ([A[0], B[0].replace(",0.6,", ",,")], {}, "a and b have no object in common"),
        ],
    )
    def test_what_cannot_be_compared_is_refused(self, lines, settings, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            compare_lines(tmp_path, *lines, **settings)


def make_rows(scores: list[tuple[int, int, float, float]]) -> pd.DataFrame:
    """Rows of methods a and b from (patient, target, score of a, score of b)."""
    lines = [
        {
            "method": method,
            "dataset": "set",
            "patient": f"p{patient}",
            "case": f"c{index}",
            "target": f"t{target}",
        }
        | {"dice": pair[which], "area_fraction": 0.001 * (1 + index), "shown": True}
        for index, (patient, target, *pair) in enumerate(scores)
        for which, method in enumerate("ab")
    ]
    return pd.DataFrame(lines).assign(level="slice", axis="", slice_index=-1.0, window="")


share = st.integers(0, 64).map(lambda n: n / 64)
score_lists = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 1), share, share), min_size=2, max_size=20
)


class TestProperties:
    @given(score_lists)
    @settings(max_examples=8, deadline=None)
    def test_swapping_the_methods_turns_the_signs_and_no_p(self, scores):
        rows = make_rows(scores)
        forth, back = (
            compare(rows, reference_method=name, resamples=50).cells.drop(columns="method")
            for name in ("a", "b")
        )
        for column in ("difference", "rank_biserial", "cohens_dz"):
            np.testing.assert_allclose(forth[column], -back[column], atol=1e-12)
        np.testing.assert_allclose(forth[["low", "high"]], -back[["high", "low"]], atol=1e-12)
        for column in ("wilcoxon_p", "wilcoxon_holm", "permutation_p", "permutation_holm"):
            np.testing.assert_allclose(forth[column], back[column], atol=1e-12)

    @given(score_lists)
    @settings(max_examples=8, deadline=None)
    def test_equal_methods_do_not_differ(self, scores):
        cells = compare(make_rows([(*names, a, a) for *names, a, _ in scores]), resamples=50).cells
        assert (cells["difference"] == 0).all() and (cells["rank_biserial"] == 0).all()
        tested = cells[cells["patients"] > 1]
        assert (
            tested[["wilcoxon_p", "permutation_p", "wilcoxon_holm", "permutation_holm"]] == 1
        ).all(axis=None)
        assert (tested[["low", "high"]] == 0).all(axis=None)

    @given(score_lists, st.randoms(use_true_random=False))
    @settings(max_examples=8, deadline=None)
    def test_order_of_rows_does_not_matter(self, scores, random):
        rows = make_rows(scores)
        shuffled = rows.iloc[random.sample(range(len(rows)), len(rows))].reset_index(drop=True)
        tables = [
            compare(table, reference_method="a", resamples=50)
            .cells.sort_values(IDENTITY)
            .reset_index(drop=True)
            for table in (rows, shuffled)
        ]
        pd.testing.assert_frame_equal(*tables, rtol=1e-9)


@pytest.mark.slow
def test_memory_is_bounded_where_each_row_is_its_own_patient():
    count = 89_000
    generator = np.random.default_rng(0)
    one = pd.DataFrame(
        {
            "case": [f"c{index}" for index in range(count)],
            "area_fraction": generator.uniform(0, 0.3, count),
        }
    )
    one = one.assign(
        patient=one["case"],
        dataset="set",
        target="liver",
        shown=True,
        level="slice",
        axis="",
        window="",
    )
    methods = [
        one.assign(method=name, slice_index=-1.0, dice=generator.beta(5, 2, count)) for name in "ab"
    ]
    rows = pd.concat(methods, ignore_index=True)
    tracemalloc.start()
    whole = only(compare(rows), stratum="all sizes")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert whole["patients"] == count and whole["low"] < whole["difference"] < whole["high"]
    assert peak < 600e6  # all draws together: 7 GB


def test_published_methods(tmp_path):
    paths = [PUBLISHED / f"{name}.csv.gz" for name in ("LIDC-IDRI", "MSD-Pancreas")]
    if not all(path.is_file() for path in paths):
        pytest.skip(f"{PUBLISHED}: the published per-image results are not on this machine")
    comparison = compare(read_scores(paths).rows, methods=["BiomedParse", "MedSAM"], resamples=999)
    nodule = only(comparison, dataset="LIDC-IDRI", stratum="all sizes")
    assert nodule[["n", "patients"]].tolist() == [1733, 159]
    assert [f"{100 * nodule[name]:.2f}" for name in ("reference_mean", "mean", "difference")] == [
        "73.77",
        "35.68",
        "-38.09",
    ]
    assert (
        nodule["permutation_p"] == 1 / 1000
        and nodule["wilcoxon_p"] < 1e-20
        and nodule["low"] < -0.38 < nodule["high"]
    )
    tumor = only(comparison, target="tumor", stratum="all sizes")
    assert tumor["difference"] > 0.5 and tumor["patients"] == 57
    assert comparison.excluded.empty


def test_command_prints_and_saves(tmp_path, capsys):
    first, second = (
        write(tmp_path / "a.csv", *A, "a,set,p9_1,liver,0.5,0.02"),
        write(tmp_path / "b.csv", *B),
    )
    arguments = [
        "compare",
        str(first),
        str(second),
        "--patient-pattern",
        r"^p\d",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, "--methods", "a", "b", "--reference-method", "b"]) == 0
    out = capsys.readouterr().out
    assert (
        "a - b, by target" in out
        and "a - b, by area" in out
        and "-25.00 [" in out
        and "0.25 (0.75)" in out
    )
    assert "set: 4 patients, by --patient-pattern" in out
    assert out.endswith(
        "left out: 1 rows of a, set: no score by b to pair"
        f" with\n\n{tmp_path / 'out' / 'report.html'}\n"
    )
    saved = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert saved["permutation_p"][0] == 0.25 and saved["difference"][0] == pytest.approx(-0.25)
    assert pd.read_csv(tmp_path / "out" / "excluded.csv")["rows"].tolist() == [1]
    latex = (tmp_path / "out" / "comparison_2.tex").read_text()
    assert r"\toprule" in latex and r"$\geq$1 \%" in latex and "≥" not in latex
