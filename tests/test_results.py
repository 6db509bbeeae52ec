"""The results table: strict in, strict out, the same bytes for the same rows."""

from __future__ import annotations

import dataclasses
import gzip
import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boltzmed.results import (
    COLUMNS,
    FIRST_COLUMNS,
    LESION_COLUMNS,
    CaseResult,
    LesionResult,
    read_results,
    write_lesions,
    write_results,
)

SLICE = CaseResult(
    method="boltzformer-tiny",
    dataset="phantom",
    patient="p1",
    case="phantom_910000",
    level="slice",
    axis="axial",
    slice_index=0,
    target="lung nodule",
    prompt='lung nodule, "small"\nin chest CT',
    seed=7,
    dice=1 / 3,
    area_fraction=1e-5,
    volume_mm3=33.510321638291124,
    reference_empty=False,
    prediction_empty=False,
    presence_score=None,
)
VOLUME = dataclasses.replace(
    SLICE, level="volume", axis="", slice_index=None, dice=None, reference_empty=True
)


def test_columns_are_the_agreed_ones():
    assert (
        ",".join(COLUMNS)
        == "method,dataset,patient,case,level,axis,slice_index,target,prompt,seed,dice,"
        "area_fraction,volume_mm3,"
        "reference_empty,prediction_empty,presence_score,iou,hd95_mm,assd_mm,nsd,nsd_tolerance_mm,"
        "prediction_volume_mm3,volume_difference_mm3,false_positive_mm3,false_negative_mm3,reference_lesions,"
        "predicted_lesions,matched_lesions,missed_lesions,false_lesions,detection_f1,panoptic_quality,"
        "lesion_rule"
    )
    assert FIRST_COLUMNS[-1] == "presence_score" and len(FIRST_COLUMNS) == 16
    assert (
        ",".join(LESION_COLUMNS)
        == "method,dataset,patient,case,target,kind,lesion,volume_mm3,score,matched,iou"
    )


@pytest.mark.parametrize("name", ["results.csv", "results.csv.gz"])
def test_rows_survive_and_bytes_repeat(tmp_path, name):
    path = tmp_path / name
    write_results(path, [SLICE, VOLUME])
    first = path.read_bytes()
    assert read_results(path) == [SLICE, VOLUME]
    write_results(path, iter([SLICE, VOLUME]))
    assert path.read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (first[:2] == b"\x1f\x8b") == name.endswith(".gz")


def test_pandas_reads_the_table(tmp_path):
    write_results(tmp_path / "results.csv", [SLICE, VOLUME])
    table = pd.read_csv(tmp_path / "results.csv")
    assert list(table.columns) == list(COLUMNS)
    assert table.dice[0] == 1 / 3 and math.isnan(table.dice[1])
    assert table.reference_empty.tolist() == [False, True]


def test_an_empty_table_has_its_header(tmp_path):
    write_results(tmp_path / "results.csv", [])
    assert read_results(tmp_path / "results.csv") == []


def test_a_table_may_end_before_the_later_columns(tmp_path):
    path = tmp_path / "results.csv"
    write_results(path, [SLICE, VOLUME])
    text = path.read_text(encoding="utf-8").replace(",".join(COLUMNS), ",".join(FIRST_COLUMNS))
    path.write_text(text.replace("," * (len(COLUMNS) - 16) + "\n", "\n"), encoding="utf-8")
    assert len(path.read_text().splitlines()[0].split(",")) == 16
    assert read_results(path) == [SLICE, VOLUME]
    write_results(path, [SLICE])
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(",lesion_rule", "").removesuffix(",\n") + "\n", encoding="utf-8")
    assert read_results(path) == [SLICE]
    path.write_text(",".join(COLUMNS[:20]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"these differ: .*panoptic_quality"):
        read_results(path)


def test_lesions_are_written_whole(tmp_path):
    row = LesionResult("m", "d", "p", "c", "lung nodule", "reference", 1, 12.5, None, False, 0.0)
    path = tmp_path / "lesions.csv"
    write_lesions(
        path,
        [row, dataclasses.replace(row, kind="prediction", score=0.25, matched=True, iou=1 / 3)],
    )
    table = pd.read_csv(path)
    assert (
        list(table.columns) == list(LESION_COLUMNS)
        and table.iou[1] == 1 / 3
        and table.matched.tolist() == [0, 1]
    )
    assert math.isnan(table.score[0]) and table.score[1] == 0.25
    for changes in (
        {"kind": "other"},
        {"lesion": 0},
        {"iou": 1.5},
        {"volume_mm3": -1.0},
        {"score": math.inf},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(changes))}: expected"):
            dataclasses.replace(row, **changes)


fractions = st.none() | st.floats(0, 1)
distances = st.none() | st.floats(0, 1e9)
counts = st.none() | st.integers(0, 10**9)
texts = st.text(st.characters(codec="utf-8"), min_size=1)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    dice=fractions,
    area=fractions,
    volume=distances,
    prompt=texts,
    case=texts,
    flag=st.booleans(),
    later=st.fixed_dictionaries(
        {
            **dict.fromkeys(("iou", "nsd", "detection_f1", "panoptic_quality"), fractions),
            **dict.fromkeys(
                ("hd95_mm", "assd_mm", "nsd_tolerance_mm", "prediction_volume_mm3"), distances
            ),
            **dict.fromkeys(("false_positive_mm3", "false_negative_mm3"), distances),
            "volume_difference_mm3": st.none() | st.floats(-1e9, 1e9),
            **dict.fromkeys(("reference_lesions", "predicted_lesions", "matched_lesions"), counts),
            **dict.fromkeys(("missed_lesions", "false_lesions"), counts),
            "lesion_rule": st.just("") | texts,
        }
    ),
)
def test_any_row_survives(tmp_path_factory, dice, area, volume, prompt, case, flag, later):
    assert set(later) == set(COLUMNS) - set(FIRST_COLUMNS)
    row = dataclasses.replace(
        SLICE,
        dice=dice,
        area_fraction=area,
        volume_mm3=volume,
        prompt=prompt,
        case=case,
        prediction_empty=flag,
        **later,
    )
    path = tmp_path_factory.getbasetemp() / "any.csv"
    write_results(path, [row, VOLUME])
    assert read_results(path) == [row, VOLUME]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"dice": 1.2}, "dice: expected 0 to 1 or nothing, got 1.2"),
        ({"dice": math.nan}, "dice: expected 0 to 1"),
        ({"area_fraction": -0.1}, "area_fraction: expected 0 to 1"),
        ({"volume_mm3": math.inf}, "volume_mm3: expected a finite number"),
        ({"presence_score": True}, "presence_score: expected 0 to 1"),
        ({"iou": 1.2}, "iou: expected 0 to 1"),
        ({"hd95_mm": -1.0}, "hd95_mm: expected a finite number from 0"),
        ({"assd_mm": math.nan}, "assd_mm: expected a finite number from 0"),
        ({"volume_difference_mm3": math.inf}, "volume_difference_mm3: expected a finite number"),
        ({"false_lesions": -1}, "false_lesions: expected an integer from 0"),
        ({"matched_lesions": 1.0}, "matched_lesions: expected an integer from 0"),
        ({"level": "case"}, "level: expected one of slice, volume"),
        ({"axis": ""}, "axis: expected one of axial"),
        ({"slice_index": None}, "slice_index: expected an integer"),
        ({"slice_index": -1}, "slice_index: expected an integer"),
        ({"level": "volume"}, "slice_index: expected nothing in a volume row"),
        ({"seed": 1.0}, "seed: expected an integer"),
        ({"target": ""}, "target: expected text"),
        ({"lesion_rule": 26}, "lesion_rule: expected text"),
        ({"reference_empty": 0}, "reference_empty: expected true or false"),
    ],
)
def test_wrong_fields_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SLICE, **changes)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda text: text.replace("dice", "dsc", 1),
            "expected the columns .*these differ: dice, dsc",
        ),
        (
            lambda text: text.replace("method,dataset", "dataset,method", 1),
            "these differ: their order",
        ),
        (lambda text: "", "expected the columns"),
        (lambda text: text + "a,b\n", "line 6: expected 33 cells, got 2"),
        (
            lambda text: text.replace("axial,0", "axial,zero"),
            "line 3: slice_index: expected an integer, got 'zero'",
        ),
        (
            lambda text: text.replace(",7,0.33", ",7,x0.33"),
            "line 3: dice: expected a number, got 'x0.33",
        ),
        (lambda text: text.replace(",7,0.33", ",7,1.33"), "line 3: dice: expected 0 to 1"),
        (
            lambda text: text.replace("false,false", "False,false", 1),
            "line 3: reference_empty: expected true or false",
        ),
        (lambda text: text[: text.index("small")], "line 2|unexpected end"),
    ],
)
def test_wrong_tables_are_refused_by_line_and_column(tmp_path, change, message):
    path = tmp_path / "results.csv"
    write_results(path, [SLICE, VOLUME])
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        read_results(path)
    assert "results.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.csv: cannot be read: No such file"):
        read_results(tmp_path / "absent.csv")
    truncated = tmp_path / "results.csv.gz"
    truncated.write_bytes(gzip.compress(b"method" * 100)[:-12])
    with pytest.raises(
        ValueError, match=r"results\.csv\.gz: cannot be read: not a text or complete gzip"
    ):
        read_results(truncated)


def test_nothing_half_written_stays(tmp_path):
    with pytest.raises(
        ValueError, match=r"expected to write into folder .*, received No such file"
    ):
        write_results(tmp_path / "absent" / "results.csv", [SLICE])

    def rows():
        yield SLICE
        raise RuntimeError("evaluation stopped")

    path = tmp_path / "results.csv"
    write_results(path, [VOLUME])
    with pytest.raises(RuntimeError):
        write_results(path, rows())
    assert read_results(path) == [VOLUME] and list(tmp_path.iterdir()) == [path]
    folder = Path(tmp_path / "folder.csv")
    folder.mkdir()
    with pytest.raises(ValueError, match=r"folder\.csv: expected to write into folder"):
        write_results(folder, [SLICE])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder.csv", "results.csv"]
