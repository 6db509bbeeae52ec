"""Whose cases are one patient's: by a column, a pattern or a card, and in all tables alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltzmed.cli import main
from boltzmed.reports.comparison import compare
from boltzmed.reports.patients import find_card
from boltzmed.reports.scores import SCORES, read_scores
from boltzmed.reports.summary import summarise

HEADER = ",".join(SCORES)
ALONE = "each case as its own patient: no column, card or --patient-pattern says otherwise"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def patients(
    folder: Path, *rows: str, header: str = HEADER, pattern: str | None = None
) -> tuple[list[str], list[str]]:
    """Each row's patient, and the notes on them."""
    scores = read_scores([write(folder / "results.csv", header, *rows)], patient_pattern=pattern)
    return scores.rows["patient"].tolist(), list(scores.notes)


class TestOneTable:
    def test_a_column_comes_first(self, tmp_path):
        rows = ["a,AMOS22-CT,amos_0233_160_CT_abdomen_liver,liver,0.5,0.02,someone"]
        rows += ["a,AMOS22-CT,amos_0233_161_CT_abdomen_liver,liver,0.5,0.02,"]
        found, notes = patients(tmp_path, *rows, header=f"{HEADER},patient", pattern=r"amos_\d")
        assert found == ["someone", "amos_0"]
        assert notes == [
            "AMOS22-CT: 1 patient, by the column patient",
            "AMOS22-CT: 1 patient, by --patient-pattern",
            (
                "AMOS22-CT: --patient-pattern finds another patient for 1 of 2 cases than the"
                " column patient, which stands; empty that column to go by the pattern"
            ),
        ]

    @pytest.mark.parametrize(
        ("dataset", "case", "patient"),
        [
            ("LIDC-IDRI", "LIDC-IDRI-0110_5_45_CT_lung_nodule", "LIDC-IDRI-0110"),
            ("AMOS22-CT", "amos_0233_160_CT_abdomen_adrenal+gland", "amos_0233"),
            ("AMOS22-MRI", "amos_0507_16_MRI_abdomen_liver", "amos_0507"),
            ("MSD-Pancreas", "pancreas_345_28_CT_pancreas_tumor", "pancreas_345"),
            ("MSD-HepaticVessel", "hepaticvessel_363_18_CT_liver_vessel", "hepaticvessel_363"),
            ("MSD-Lung", "lung_096_200_CT_lung_tumor", "lung_096"),
            ("MSD-Colon", "colon_221_62_CT_colon_tumor", "colon_221"),
            ("msd_hippocampus", "hippocampus_004", "patient_0002"),
        ],
    )
    def test_a_cards_pattern(self, dataset, case, patient, tmp_path):
        found, notes = patients(tmp_path, f"a,{dataset},{case},liver,0.5,0.02")
        assert found == [patient] and notes[0].startswith(f"{dataset}: 1 patient, by card ")

    def test_a_pattern_of_ones_own(self, tmp_path):
        rows = [
            f"a,set,site1_p{number}_s{slice_}_x,liver,0.5,0.02"
            for number in (1, 2)
            for slice_ in (1, 2)
        ]
        assert patients(tmp_path, *rows, pattern=r"_(p\d+)_")[0] == ["p1", "p1", "p2", "p2"]
        assert patients(tmp_path, *rows, pattern=r"p\d")[0] == ["p1", "p1", "p2", "p2"]
        found, notes = patients(tmp_path, *rows, pattern="p1")
        assert (
            found == ["p1", "p1", "site1_p2_s1_x", "site1_p2_s2_x"]
            and "2 patients, by each case" in notes[1]
        )

    def test_without_any_each_case_is_its_own_and_the_output_says_so(self, tmp_path, capsys):
        table = write(
            tmp_path / "r.csv",
            HEADER,
            "a,set,1,liver,0.5,0.02",
            "a,set,1,spleen,0.5,0.02",
            "a,set,2,liver,1,0.1",
        )
        assert main(["summarize", str(table)]) == 0
        assert f"set: 2 patients, by {ALONE}\n" in capsys.readouterr().out

    def test_a_column_that_repeats_the_case_says_nothing(self, tmp_path):
        rows = [
            f"a,set,p{number}_s{slice_},liver,0.5,0.02"
            for number in (1, 2, 3)
            for slice_ in range(5)
        ]
        rows = [f"{row},{row.split(',')[2]}" for row in rows]
        found, notes = patients(tmp_path, *rows, header=f"{HEADER},patient", pattern=r"^p\d")
        assert set(found) == {"p1", "p2", "p3"} and notes == [
            "set: 3 patients, by --patient-pattern"
        ]
        _, notes = patients(tmp_path, *rows, header=f"{HEADER},patient")
        assert notes == [f"set: 15 patients, by {ALONE}"]

    def test_a_wrong_pattern_is_refused(self, tmp_path, capsys):
        table = write(tmp_path / "r.csv", HEADER, "a,set,1,liver,0.5,0.02")
        assert main(["summarize", str(table), "--patient-pattern", "("]) == 2
        assert capsys.readouterr().err.startswith(
            "boltzmed: --patient-pattern: expected a regular expression, got '('"
        )


class TestSeveralTables:
    """Ten cases of two patients: one table says so, the other has the six columns alone."""

    @pytest.fixture
    def tables(self, tmp_path):
        said = [
            f"m,set,c{number},liver,{0.5 + number / 50:.2f},0.02,p{number % 2}"
            for number in range(10)
        ]
        silent = [f"n,set,c{number},liver,{0.9 - number / 30:.2f},0.02" for number in range(10)]
        return write(tmp_path / "m.csv", f"{HEADER},patient", *said), write(
            tmp_path / "n.csv", HEADER, *silent
        )

    @pytest.mark.parametrize("turn", [1, -1])
    def test_what_one_table_says_holds_for_all(self, turn, tables):
        scores = read_scores(tables[::turn])
        assert scores.rows.groupby("method")["patient"].nunique().to_dict() == {"m": 2, "n": 2}
        assert scores.notes == ("set: 2 patients, by the column patient",)
        assert set(summarise(scores.rows, resamples=20).cells["patients"]) == {2}

    def test_the_reference_method_does_not_matter(self, tables):
        rows = read_scores(tables).rows
        forth, back = (
            compare(rows, reference_method=name, resamples=99).cells.iloc[0] for name in "mn"
        )
        assert forth["patients"] == back["patients"] == 2
        assert forth[["low", "high"]].tolist() == pytest.approx([-back["high"], -back["low"]])

    def test_two_patients_of_one_case_are_refused(self, tables, tmp_path, capsys):
        lines = ["o,set,c3,liver,0.5,0.02,c3", "o,set,c4,liver,0.5,0.02,p9"]
        other = write(tmp_path / "o.csv", f"{HEADER},patient", *lines)
        assert main(["compare", *map(str, tables), str(other)]) == 2
        error = capsys.readouterr().err
        assert (
            f"{other}: line 3: expected one patient for case c4 of set, got 'p9' here and 'p0' in "
            in error
        )
        assert f"{tables[0]}: line 6; correct one" in error and error.count("\n") == 1
        within = ["a,set,1,liver,0.5,0.02,p1", "a,set,1,spleen,0.5,0.02,p2"]
        with pytest.raises(
            ValueError,
            match="line 3: expected one patient for case 1 of set, got 'p2' here and 'p1'",
        ):
            patients(tmp_path, *within, header=f"{HEADER},patient")


def test_cards_go_by_the_published_names():
    cards = {name: find_card(name) for name in ("AMOS22-CT", "AMOS22-MRI", "LIDC-IDRI", "my own")}
    assert {name: card and card.name for name, card in cards.items()} == {
        "AMOS22-CT": "amos22_ct", "AMOS22-MRI": "amos22_mr", "LIDC-IDRI": "lidc_idri",
        "my own": None,
    }  # fmt: skip
