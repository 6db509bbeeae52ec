"""nnU-Net's masks back as rows, with our names and numbers, and its own Dice beside them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from boltzmed.cli import main
from boltzmed.evaluation import Scoring
from boltzmed.nnunet.predictions import import_predictions
from boltzmed.nnunet.raw_dataset import export_dataset
from boltzmed.results import CaseResult, read_results
from boltzmed.volumes import read_volume, write_image
from tests.nnunet.conftest import SHAPE, make_case, write_toy, write_validation


def dice_of(values: tuple[int, ...], case: str) -> float | None:
    """Of the toy's label map against itself, a voxel further along its second axis."""
    reference = np.isin(make_case(case)[1], values)
    predicted = np.roll(reference, 1, axis=1)
    total = int(reference.sum() + predicted.sum())
    return 2 * int((reference & predicted).sum()) / total if total else None


def whole(rows: list[CaseResult]) -> dict[tuple[str, str], float | None]:
    return {(row.case, row.target): row.dice for row in rows if row.level == "volume"}


def edit_summary(folder: Path, case: str, **changes: object) -> None:
    content = json.loads((folder / "summary.json").read_text())
    for scored in content["metric_per_case"]:
        if scored["prediction_file"].endswith(f"{case}.nii.gz"):
            scored["metrics"]["2"].update(changes)
    (folder / "summary.json").write_text(json.dumps(content))


def test_validation_cases_are_scored_under_our_names(toy, validation: Path, tmp_path: Path) -> None:
    done = import_predictions(validation, toy.cache, tmp_path / "new" / "scores")
    assert read_results(tmp_path / "new" / "scores" / "results.csv") == done.rows
    assert (
        (tmp_path / "new" / "scores" / "lesions.csv").read_text().count("\n")
        == len(done.lesions) + 1
        > 1
    )
    assert not done.excluded and not done.disagreements
    assert (
        done.compared == 2
    )  # "organ" is two of nnU-Net's classes, which its summary does not merge
    # Rows are the first axis of what is exported; in these two cases' files they are the second.
    assert whole(done.rows) == {
        ("c", "organ"): dice_of((1, 2), "c"),
        ("c", "the lesion"): dice_of((2,), "c"),
        ("d", "organ"): dice_of((1, 2), "d"),
        ("d", "the lesion"): None,
    }
    assert len(done.rows) == 2 * 2 * (SHAPE[2] + 1)
    first = done.rows[0]
    assert (first.method, first.dataset, first.patient, first.prompt) == (
        "nnU-Net",
        "toy",
        "patient c",
        "organ in CT",
    )


def test_experts_are_read_together(toy, tmp_path: Path) -> None:
    exports = export_dataset(toy.cache, tmp_path / "raw", 1, mode="experts")
    folders = [write_validation(done.folder, tmp_path / "results") for done in exports]
    done = import_predictions(folders, toy.cache, method="experts")
    assert done.compared == 4 and not done.disagreements and not done.excluded
    assert whole(done.rows)[("c", "organ")] == dice_of((1, 2), "c")
    with pytest.raises(
        ValueError, match=r"expected other targets than .* has, received 'organ' in both"
    ):
        import_predictions([folders[0], folders[0].parent / "validation"], toy.cache)


def test_predictions_of_the_test_part(toy, raw: Path, tmp_path: Path) -> None:
    folder = write_validation(raw, tmp_path / "x", ("e", "f_0001"))
    flat = tmp_path / "predicted"
    shutil.copytree(folder, flat)
    shutil.copyfile(raw / "dataset.json", flat / "dataset.json")
    (flat / "summary.json").unlink()
    done = import_predictions(flat, toy.cache)
    assert {row.case for row in done.rows} == {"e", "f_0001"} and done.compared == 0
    assert not done.excluded and not done.disagreements
    with pytest.raises(
        ValueError, match=r"predictions of the 2 validation cases .* such as c\.nii\.gz, found none"
    ):
        import_predictions(flat, toy.cache, part="validation")


def test_an_extra_window_asks_for_the_same_mask_again(tmp_path: Path) -> None:
    target = {"labels": [1, 2], "prompts": ["organ in CT"], "site": "abdomen", "window": "abdomen"}
    toy = write_toy(
        tmp_path,
        ["a", "c"],
        protocol="biomedparse",
        targets={"organ": {**target, "extra_windows": ["liver"]}},
    )
    (exported,) = export_dataset(toy.cache, tmp_path / "raw", 1)
    done = import_predictions(
        write_validation(exported.folder, tmp_path / "results", ["c"]), toy.cache
    )
    by_case = {
        case: [(r.slice_index, r.dice) for r in done.rows if r.case == case]
        for case in ("c", "c_liver")
    }
    assert (
        by_case["c"] == by_case["c_liver"]
        and {row.level for row in done.rows} == {"slice"}
        and len(by_case["c"]) == 3
    )


@pytest.mark.parametrize(
    ("case", "dice", "line"),
    [
        (
            "c",
            0.9999,
            (
                r"Dataset007_toy: validation case c, the lesion: Dice 0\.\d{6} here, 0\.999900 in"
                r" summary\.json"
            ),
        ),
        ("c", float("nan"), r"case c, the lesion: Dice 0\.\d{6} here, undefined in summary\.json"),
        ("d", 0.0, r"case d, the lesion: Dice undefined here, 0\.000000 in summary\.json"),
    ],
)
def test_a_dice_that_differs_is_reported(
    toy, validation: Path, tmp_path: Path, capsys, case, dice, line
) -> None:
    edit_summary(validation, case, Dice=dice)
    done = import_predictions(validation, toy.cache)
    (found,) = done.disagreements
    assert re.search(line, found) and done.compared == 2
    output = tmp_path / "scores"
    assert (
        main(
            [
                "nnunet",
                "import",
                str(validation),
                "--cache",
                str(toy.cache),
                "--output",
                str(output),
            ]
        )
        == 2
    )
    out, err = capsys.readouterr()
    assert f"boltzmed: {found}" in err and "2 Dice compared with summary.json, 1 disagree\n" in out
    assert read_results(output / "results.csv") == done.rows
    kinds = [line.partition(",")[0] for line in (output / "left_out.csv").read_text().splitlines()]
    assert kinds == [
        "kind",
        *["excluded"] * len(done.excluded),
        *["disagreement"] * len(done.disagreements),
    ]
    assert len(kinds) > 1


def test_cases_that_only_one_side_has_are_listed(toy, validation: Path) -> None:
    (validation / "c.nii.gz").rename(validation / "e.nii.gz")
    (validation / "stranger.nii.gz").write_bytes(b"")
    done = import_predictions(validation, toy.cache)
    assert done.excluded == [
        "Dataset007_toy: validation case c: no prediction c.nii.gz",
        "Dataset007_toy: e.nii.gz is of no validation case",
        "Dataset007_toy: stranger.nii.gz is of no validation case",
    ]
    assert done.disagreements == [
        "Dataset007_toy: validation case c: in summary.json, but without a prediction"
    ]
    assert {row.case for row in done.rows} == {"d"}


def test_a_summary_of_other_cases_is_noticed(toy, validation: Path) -> None:
    content = json.loads((validation / "summary.json").read_text())
    (validation / "summary.json").write_text(
        json.dumps({"metric_per_case": content["metric_per_case"][:1]})
    )
    done = import_predictions(validation, toy.cache)
    assert done.disagreements == [
        "Dataset007_toy: validation case d: a prediction, but not in summary.json"
    ]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            "shape",
            (
                r"expected image and prediction on one grid, received \(16, 20, 6\) .* and \(15,"
                r" 20, 6\) "
            ),
        ),
        (
            "affine",
            r"expected image and prediction on one grid, received .* from \(.*\) and .* from \(",
        ),
        ("flip", "expected image and prediction on one grid, received "),
        ("values", r"expected the labels 0, 1, 2 of dataset\.json, received 3"),
        ("fractions", "expected label values that are whole numbers from 0 to 255, received 0.5"),
        ("cut", "truncated or damaged"),
    ],
)
def test_a_mask_that_does_not_fit_is_left_out(
    toy, validation: Path, damage: str, line: str
) -> None:
    path = validation / "c.nii.gz"
    volume = read_volume(path)
    voxels, affine_ras = volume[0].numpy().copy(), np.array(volume.affine)
    if damage == "shape":
        voxels = voxels[1:]
    elif damage == "affine":
        affine_ras[0, 3] += 1
    elif damage == "flip":
        voxels, affine_ras = voxels[::-1], affine_ras @ np.diag([-1, 1, 1, 1])
    elif damage == "values":
        voxels[0, 0, 0] = 3
    elif damage == "fractions":
        voxels[0, 0, 0] = 0.5
    write_image(voxels if damage == "fractions" else voxels.astype(np.uint8), affine_ras, path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    done = import_predictions(validation, toy.cache)
    assert (
        len(done.excluded) == 1 and {row.case for row in done.rows} == {"d"} and done.compared == 1
    )
    assert re.search(f"Dataset007_toy: .*c.*{line}", done.excluded[0]), done.excluded


def test_a_case_of_the_cache_that_is_damaged_is_left_out(tmp_path: Path) -> None:
    toy = write_toy(tmp_path, ["a", "c", "d"])
    (exported,) = export_dataset(toy.cache, tmp_path / "raw", 1)
    folder = write_validation(exported.folder, tmp_path / "results")
    (path,) = (toy.cache / "cases").glob("c.*")
    path.write_bytes(path.read_bytes()[:-20])
    done = import_predictions(folder, toy.cache)
    assert {row.case for row in done.rows} == {"d"} and len(done.excluded) == 1
    assert done.excluded[0].startswith("Dataset001_toy: ") and path.name in done.excluded[0]


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("nowhere", "expected a folder of nnU-Net's predictions, found none"),
        ("empty", "expected dataset.json in it or"),
    ],
)
def test_folders_that_are_none(toy, tmp_path: Path, capsys, folder: str, line: str) -> None:
    (tmp_path / "x" / "y" / "empty").mkdir(parents=True)
    given = str(tmp_path / "x" / "y" / folder)
    assert (
        main(
            ["nnunet", "import", given, "--cache", str(toy.cache), "--output", str(tmp_path / "o")]
        )
        == 2
    )
    err = capsys.readouterr().err
    assert (
        err.startswith(f"boltzmed: {given}: {line}")
        and err.count("\n") == 1
        and not (tmp_path / "o").exists()
    )


def test_lesions_and_surfaces_are_counted_as_asked(
    toy, validation: Path, tmp_path: Path, capsys
) -> None:
    options = [
        "--tolerance-mm",
        "0.5",
        "--connectivity",
        "6",
        "--match",
        "iou:0.5",
        "--distances",
        "all",
    ]
    output = tmp_path / "scores"
    command = [
        "nnunet",
        "import",
        str(validation),
        "--cache",
        str(toy.cache),
        "--output",
        str(output),
        *options,
    ]
    assert main(command) == 0
    rows = read_results(output / "results.csv")
    assert {row.nsd_tolerance_mm for row in rows} == {0.5}
    again = import_predictions(validation, toy.cache, scoring=Scoring("all", 0.5, 6, "iou:0.5"))
    assert again.rows == rows
    measures = pd.read_csv(output / "measures.csv").set_index(["table", "measure"])
    assert set(measures.loc["Lesions", "rule"]) == {"6 neighbours, match iou:0.5"}
    assert {"F1", "sensitivity", "PQ by scan"} <= set(measures.loc["Lesions"].index)
    assert "Lesions, 6 neighbours, match iou:0.5" in capsys.readouterr().out
