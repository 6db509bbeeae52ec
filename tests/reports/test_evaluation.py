"""The tables that `boltzmed evaluate` prints: every cell counted by hand."""

from __future__ import annotations

import dataclasses
import re

import pandas as pd
import pytest

from boltzmed.metrics.lesions import FROC_RATES
from boltzmed.reports.evaluation import report_scores
from boltzmed.results import CaseResult, LesionResult

VOLUME = CaseResult(
    method="m",
    dataset="d",
    patient="p",
    case="c",
    level="volume",
    axis="axial",
    slice_index=None,
    target="nodule",
    prompt="nodule",
    seed=0,
    dice=0.5,
    area_fraction=0.1,
    volume_mm3=4.0,
    reference_empty=False,
    prediction_empty=False,
    presence_score=0.75,
    iou=0.25,
    hd95_mm=3.0,
    assd_mm=1.0,
    nsd=0.5,
    nsd_tolerance_mm=2.0,
    prediction_volume_mm3=6.0,
    volume_difference_mm3=2.0,
    false_positive_mm3=3.0,
    false_negative_mm3=1.0,
    reference_lesions=2,
    predicted_lesions=3,
    matched_lesions=2,
    missed_lesions=0,
    false_lesions=1,
    detection_f1=0.8,
    panoptic_quality=0.5,
    lesion_rule="18 iou:0.5",
)
NOTHING = dict.fromkeys(("hd95_mm", "assd_mm"))
COUNTS = (
    "reference_lesions",
    "predicted_lesions",
    "matched_lesions",
    "missed_lesions",
    "false_lesions",
)
EMPTY = {
    **NOTHING,
    **dict.fromkeys(COUNTS, 0),
    **dict.fromkeys(("dice", "iou", "nsd", "detection_f1", "panoptic_quality")),
}
EMPTY |= {
    "reference_empty": True,
    "prediction_empty": True,
    "presence_score": 0.25,
    "volume_mm3": 0.0,
}
EMPTY |= {"false_positive_mm3": 0.0, "false_negative_mm3": 0.0, "volume_difference_mm3": 0.0}
MISSED = {
    **NOTHING,
    "dice": 0.0,
    "iou": 0.0,
    "nsd": 0.0,
    "prediction_empty": True,
    "presence_score": 0.5,
}
MISSED |= {
    "matched_lesions": 0,
    "missed_lesions": 2,
    "false_lesions": 0,
    "predicted_lesions": 0,
    "detection_f1": 0.0,
}
MISSED |= {
    "panoptic_quality": 0.0,
    "false_positive_mm3": 0.0,
    "false_negative_mm3": 4.0,
    "volume_difference_mm3": -4.0,
}
ROWS = [VOLUME, dataclasses.replace(VOLUME, **MISSED), dataclasses.replace(VOLUME, **EMPTY)]
LESION = LesionResult("m", "d", "p", "c", "nodule", "reference", 1, 2.0, 0.5, True, 0.5)


def read_tables(text: str) -> dict[str, list[dict[str, str]]]:
    """Title → lines, each as column → cell."""
    tables = {}
    for title, table in re.findall(r"^(.+)\n\n((?:.+\n?)+)", text, re.M):
        header, _, *lines = (
            re.split(r" {2,}", line.strip()) for line in table.strip().splitlines()
        )
        tables[title] = [dict(zip(header, line, strict=True)) for line in lines]
    return tables


def test_both_conventions_stand_side_by_side_with_their_numbers():
    tables = read_tables(report_scores(ROWS))
    assert list(tables) == [
        "Volumes",
        "Surfaces of volumes",
        "Lesions, 18 neighbours, match iou:0.5",
        "Presence in volumes",
    ]
    assert tables["Volumes"] == [
        {
            "target": "nodule",
            "rows": "3",
            "Dice, both empty left out": "0.250 (2)",
            "Dice, both empty 1": "0.500 (3)",
            "IoU": "0.125 (2)",
            "false positive mm³": "1.0 (3)",
            "false negative mm³": "1.7 (3)",
            "difference mm³": "-0.7 (3)",
        }
    ]
    assert tables["Surfaces of volumes"] == [
        {
            "target": "nodule",
            "NSD": "0.250 (2)",
            "at mm": "2",
            "HD95 mm": "3.00 (1)",
            "ASSD mm": "1.00 (1)",
            "one mask empty": "1",
            "both empty": "1",
        }
    ]


def test_lesions_and_presence():
    tables = read_tables(report_scores(ROWS))
    assert tables["Lesions, 18 neighbours, match iou:0.5"] == [
        {
            "target": "nodule",
            **{
                "scans": "3",
                "reference": "4",
                "predicted": "3",
                "matched": "2",
                "missed": "2",
                "false": "1",
            },
            **{
                "sensitivity": "0.500",
                "F1": "0.571",
                "F1 by scan": "0.400 (2)",
                "PQ by scan": "0.250 (2)",
            },
            "false a scan": "0.33",
        }
    ]
    assert tables["Presence in volumes"] == [
        {
            "target": "nodule",
            **{"with target": "2", "sensitivity": "0.500", "without": "1", "specificity": "1.000"},
            "AUROC of presence score": "1.000 (3)",
        }
    ]


def test_slices_have_their_own_tables():
    rows = [dataclasses.replace(VOLUME, level="slice", slice_index=0, nsd_tolerance_mm=None), *ROWS]
    tables = read_tables(report_scores(rows))
    assert (
        list(tables)[-2:] == ["Slices", "Presence in slices"] and tables["Slices"][0]["rows"] == "1"
    )
    assert "Outlines on slices" not in tables
    only = read_tables(report_scores([dataclasses.replace(rows[0], nsd_tolerance_mm=1.0)]))
    assert list(only) == ["Slices", "Outlines on slices", "Presence in slices"]


def test_targets_stand_apart():
    rows = [*ROWS, dataclasses.replace(VOLUME, target="liver", dice=1.0)]
    table = read_tables(report_scores(rows))["Volumes"]
    assert [(line["target"], line["rows"]) for line in table] == [("nodule", "3"), ("liver", "1")]


def test_lesions_are_found_by_size():
    # Spheres of these volumes have 1.6, 7.4 and 7.4 mm; the false one is nobody's to find.
    volumes = {1: (2.0, False), 2: (210.0, True), 3: (210.0, False)}
    lesions = [
        dataclasses.replace(LESION, lesion=number, volume_mm3=volume, matched=matched, score=None)
        for number, (volume, matched) in volumes.items()
    ]
    lesions.append(
        dataclasses.replace(
            LESION, kind="prediction", volume_mm3=15000.0, matched=False, score=None
        )
    )
    title = "Lesion sensitivity by equivalent diameter, 18 neighbours, match iou:0.5"
    (line,) = read_tables(report_scores(ROWS, lesions))[title]
    assert line == {
        "target": "nodule",
        **{
            "<3 mm": "0.000 (1)",
            "3–6 mm": "–",
            "6–10 mm": "0.500 (2)",
            "10–30 mm": "–",
            "≥30 mm": "–",
        },
    }
    assert "by equivalent diameter" not in report_scores(ROWS, lesions[-1:])


def test_a_miss_counts_as_much_as_asked(tmp_path):
    false_alarm = dataclasses.replace(VOLUME, **NOTHING, reference_empty=True, volume_mm3=0.0)
    (line,) = read_tables(report_scores([*ROWS, false_alarm], miss_penalty_mm=50.0))[
        "Surfaces of volumes"
    ]
    # One measured, one missed, one false alarm; where both are empty there is no distance either
    # way.
    assert (line["HD95 mm"], line["HD95 mm, one empty 50"]) == ("3.00 (1)", "34.33 (3)")
    assert (line["ASSD mm"], line["ASSD mm, one empty 50"]) == ("1.00 (1)", "33.67 (3)")
    assert (line["one mask empty"], line["both empty"]) == ("2", "1")


def test_froc_where_there_are_scores():
    lesions = [
        dataclasses.replace(LESION, score=0.75),
        dataclasses.replace(LESION, lesion=2, score=0.25),
        dataclasses.replace(LESION, lesion=3, score=None, matched=False),
        dataclasses.replace(LESION, kind="prediction", score=0.75),
        dataclasses.replace(LESION, kind="prediction", lesion=2, score=0.5, matched=False),
        dataclasses.replace(LESION, kind="prediction", lesion=3, score=0.25),
    ]
    # One false in three scans, above the second find: 1/8 and 1/4 allow the first find alone.
    title = "Lesion sensitivity at false positives a scan (FROC), 18 neighbours, match iou:0.5"
    (line,) = read_tables(report_scores(ROWS, lesions))[title]
    assert (line["scans"], line["lesions"]) == ("3", "3")
    assert [line[f"{rate:g}"] for rate in FROC_RATES] == ["0.333"] * 2 + ["0.667"] * 5
    assert line["mean"] == "0.571"
    without = report_scores(ROWS, [dataclasses.replace(lesion, score=None) for lesion in lesions])
    assert "FROC" not in without


def test_the_tables_are_kept_unrounded(tmp_path):
    """F1 and sensitivity of all lesions, presence and FROC, each with its n where it is a mean."""
    report_scores(ROWS, [LESION], tmp_path / "out")
    table = (
        pd.read_csv(tmp_path / "out" / "measures.csv")
        .set_index(["table", "target", "measure"])
        .sort_index()
    )
    lesions = table.loc[("Lesions", "nodule")]
    assert (
        lesions.loc["F1", "value"] == pytest.approx(2 * 2 / (2 * 2 + 2 + 1))
        and lesions.loc["scans", "value"] == 3
    )
    presence = table.loc[("Presence in volumes", "nodule")]
    assert presence.loc["sensitivity", "value"] == 0.5 and presence.loc["specificity", "value"] == 1
    assert presence.loc["AUROC of presence score"].tolist()[:2] == [1, 3]
    froc = table.loc[("Lesion sensitivity at false positives a scan (FROC)", "nodule")]
    assert {f"{rate:g}" for rate in FROC_RATES} < set(froc.index) and froc.loc["1", "value"] == 1
    assert table.loc[("Surfaces of volumes", "nodule", "HD95 mm")].tolist()[:2] == [3, 1]
    assert set(lesions["rule"]) == set(froc["rule"]) == {"18 neighbours, match iou:0.5"}
    assert presence["rule"].isna().all()


def test_data_sets_stand_apart():
    rows = [*ROWS, dataclasses.replace(VOLUME, dataset="e", matched_lesions=0, missed_lesions=2)]
    lesions = [LESION, dataclasses.replace(LESION, dataset="e", score=None, matched=False)]
    tables = read_tables(report_scores(rows, lesions))
    froc, counted = (
        next(lines for title, lines in tables.items() if word in title)
        for word in ("FROC", "Lesions")
    )
    assert [(line["target"], line["scans"], line["missed"]) for line in counted] == [
        ("d: nodule", "3", "2"),
        ("e: nodule", "1", "2"),
    ]
    assert [(line["target"], line["lesions"], line["8"]) for line in froc] == [
        ("d: nodule", "1", "1.000")
    ]
