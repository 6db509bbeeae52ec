"""nnU-Net's summary.json: its real form, NaN, regions, and everything that is not it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from boltzmed.nnunet.summary import disagree, read_summary

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "nnunet"


def write(folder: Path, cases: Any) -> Path:
    (folder / "summary.json").write_text(json.dumps({"metric_per_case": cases}))
    return folder / "summary.json"


def entry(dice: Any, file: str = "x/c.nii.gz", label: str = "1") -> dict[str, Any]:
    return {"metrics": {label: {"Dice": dice}}, "prediction_file": file}


def test_nan_and_null_are_not_defined(tmp_path: Path) -> None:
    path = write(
        tmp_path, [entry(math.nan), entry(None, "d.nii.gz"), entry(1, "C:\\out\\e.nii.gz")]
    )
    assert "NaN" in path.read_text()
    one = frozenset({1})
    assert read_summary(path, ".nii.gz") == {"c": {one: None}, "d": {one: None}, "e": {one: 1.0}}


@pytest.mark.parametrize(("label", "values"), [("12", {12}), ("(1, 2)", {1, 2}), ("(3,)", {3})])
def test_regions(tmp_path: Path, label: str, values: set[int]) -> None:
    assert read_summary(write(tmp_path, [entry(0.5, label=label)]), ".nii.gz") == {
        "c": {frozenset(values): 0.5}
    }


@pytest.mark.parametrize(
    ("cases", "what"),
    [
        (None, "'NoneType' object is not iterable"),
        ([{}], "no 'prediction_file'"),
        ([{"prediction_file": "c.nii.gz"}], "no 'metrics'"),
        ([{"metrics": {"1": {}}, "prediction_file": "c.nii.gz"}], "no 'Dice'"),
        ([entry(1.5)], "1.5 for c"),
        ([entry(math.inf)], "inf for c"),
        ([entry("0.5")], "'0.5' for c"),
        ([entry(True)], "True for c"),
        ([entry(0.5, label="liver")], "the label 'liver'"),
        ([entry(0.5), entry(0.5, "y/c.nii.gz")], "c twice"),
    ],
)
def test_another_form_is_refused(tmp_path: Path, cases: Any, what: str) -> None:
    with pytest.raises(
        ValueError, match="expected metric_per_case with a Dice of 0 to 1 or NaN"
    ) as caught:
        read_summary(write(tmp_path, cases), ".nii.gz")
    assert f"found {what}; run nnUNetv2_evaluate_folder again" in str(
        caught.value
    ) and "\n" not in str(caught.value)


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, [entry(0.5)])
    path.write_text(path.read_text()[:-5])
    with pytest.raises(ValueError, match=r"summary\.json: expected JSON"):
        read_summary(path, ".nii.gz")


@pytest.mark.parametrize(
    ("ours", "theirs", "differ"),
    [
        (0.5, 0.50009, False),
        (0.5, 0.50011, True),
        (None, None, False),
        (None, 0.0, True),
        (0.0, None, True),
    ],
)
def test_when_two_dice_disagree(ours, theirs, differ) -> None:
    assert disagree(ours, theirs) is differ


@pytest.mark.parametrize("name", ["summary.json", "summary_validation.json"])
def test_the_real_files(name: str) -> None:
    if not REFERENCE.exists():
        pytest.skip("needs ../shared/reference/nnunet")
    content = json.loads((REFERENCE / name).read_text())
    found = read_summary(REFERENCE / name, ".nii.gz")
    assert len(found) == len(content["metric_per_case"]) and all(
        len(dice) == 2 for dice in found.values()
    )
    for number in (1, 2):  # nnU-Net's own mean over the cases
        mean = sum(dice[frozenset({number})] or 0 for dice in found.values()) / len(found)
        assert mean == pytest.approx(content["mean"][str(number)]["Dice"], abs=1e-12)
