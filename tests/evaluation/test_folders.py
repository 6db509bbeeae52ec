"""A folder against a folder: who is paired with whom, what is refused, listed, resampled or scored
as empty.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from boltzmed.cli import main
from boltzmed.evaluation import FolderOptions, FolderScores, Scoring, score_folder, write_scores
from boltzmed.results import read_results
from boltzmed.volumes import write_image

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
LABELS = {"head": (1,), "tail": (2,), "whole": (1, 2)}


def label_map() -> np.ndarray:
    """A head of 3 x 4 x 2 and a tail of 3 x 4 x 1 voxels of 2 mm³."""
    labels = np.zeros((8, 8, 6), np.uint8)
    labels[2:5, 2:6, 1:3], labels[2:5, 2:6, 3] = 1, 2
    return labels


def write(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(voxels, affine, path)


def score(folder: Path, **options: Any) -> FolderScores:
    report = options.pop("report", None)
    how = FolderOptions(**options)
    return score_folder(folder / "predictions", folder / "references", how, report=report)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Two cases: one predicted exactly, one with the tail missing."""
    for case in ("hippocampus_001", "hippocampus_002"):
        write(tmp_path / "references" / f"{case}.nii.gz", label_map())
        voxels = label_map() * (label_map() == 1) if case.endswith("2") else label_map()
        write(tmp_path / "predictions" / f"{case}.nii", voxels)
    return tmp_path


def test_label_maps(pair):
    lines: list[str] = []
    done = score(pair, labels=LABELS, levels=("volume",), report=lines.append)
    assert [(row.case[-1], row.target, row.dice) for row in done.rows] == [
        *(("1", target, 1) for target in LABELS),
        *(("2", "head", 1), ("2", "tail", 0), ("2", "whole", pytest.approx(2 * 24 / (24 + 36)))),
    ]
    assert {(row.method, row.dataset, row.patient) for row in done.rows} == {
        ("predictions", "references", "")  # nothing says whose these cases are
    }
    whole = done.rows[-1]
    assert (whole.volume_mm3, whole.prediction_volume_mm3, whole.false_negative_mm3) == (72, 48, 24)
    assert whole.hd95_mm == 2 and whole.prompt == "whole" and whole.seed == 0
    assert (
        done.cases == ["hippocampus_001", "hippocampus_002"]
        and done.excluded == done.passed_over == lines == []
    )
    both = score(pair, labels=LABELS)
    assert len(both.rows) == 2 * 3 * (6 + 1) and len(both.lesions) == 2 * 6 - 1


def test_a_card_names_labels_patients_and_the_data_set(pair):
    done = score(pair, card="msd_hippocampus", levels=("volume",), method="m")
    assert {row.target for row in done.rows} == {
        "hippocampus",
        "anterior hippocampus",
        "posterior hippocampus",
    }
    assert {(row.method, row.dataset, row.patient) for row in done.rows} == {
        ("m", "msd_hippocampus", "patient_0001")
    }
    write(pair / "predictions" / "hippocampus_002.nii", label_map() * 3)
    done = score(pair, card="msd_hippocampus")
    assert done.cases == ["hippocampus_001"] and len(done.excluded) == 1
    assert (
        "case hippocampus_002: hippocampus_002.nii: expected the labels 0, 1, 2 of card"
        in done.excluded[0]
    )


def test_patients_by_a_pattern(pair):
    done = score(pair, labels=LABELS, patient_pattern=r"_0*(\d+)$", dataset="mine")
    assert {(row.patient, row.dataset) for row in done.rows} == {("1", "mine"), ("2", "mine")}
    done = score(pair, labels=LABELS, patient_pattern=r"\d*1$")
    assert {row.patient for row in done.rows} == {"001", ""} and done.excluded == []
    done = score(pair, card="msd_hippocampus", patient_pattern=r"_\d*1$")
    assert {row.patient for row in done.rows} == {
        "_001",
        "patient_0001",
    }  # as `boltzmed summarize` finds them


def test_masks_of_one_thing_need_no_name(pair):
    for path in pair.rglob("*.nii*"):
        voxels = label_map() > 0
        write(path, voxels.astype(np.uint8) * (255 if "predictions" in str(path) else 1))
    done = score(pair, levels=("volume",))
    assert [(row.target, row.dice) for row in done.rows] == [("foreground", 1)] * 2
    # The other side's name serves where it has one.
    write(pair / "masks" / "hippocampus_001" / "lung-nodule.nii.gz", label_map() // 2)
    done = score_folder(pair / "masks", pair / "references", FolderOptions(levels=("volume",)))
    assert [(row.target, row.dice) for row in done.rows] == [("lung-nodule", 0.5)]
    assert (
        len(done.excluded) == 1
        and "hippocampus_002: expected a prediction of foreground" in done.excluded[0]
    )


def number_classes(folder: Path, *names: str, card: str = "msd_hippocampus") -> None:
    """nnU-Net's `dataset.json` as `boltzmed nnunet export` writes it: a class for each of these
    targets, from 1.
    """
    numbers = {name: number for number, name in enumerate(names, start=1)}
    ours = {"card": card, "targets": {name: [number] for name, number in numbers.items()}}
    content = {"name": "Dataset001_x", "labels": {"background": 0, **numbers}, "boltzmed": ours}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))


def test_each_folder_goes_by_its_own_dataset_json(pair):
    tail = (label_map() == 2).astype(np.uint8)
    for case in ("hippocampus_001", "hippocampus_002"):
        write(pair / "predictions" / f"{case}.nii", tail)
        write(pair / "raw" / "labelsTs" / f"{case}.nii.gz", tail)
    number_classes(pair / "predictions", "posterior hippocampus")
    done = score(pair, card="msd_hippocampus", levels=("volume",))
    assert [(row.target, row.dice) for row in done.rows] == [("posterior hippocampus", 1)] * 2
    assert len(done.never_predicted) == 2 and done.excluded == []
    # What nnU-Net's own label maps hold, its data set says in the folder above.
    number_classes(pair / "raw", "posterior hippocampus")
    folders = pair / "predictions", pair / "raw" / "labelsTs"
    done = score_folder(*folders, FolderOptions(card="msd_hippocampus", levels=("volume",)))
    assert [(row.target, row.dice) for row in done.rows] == [("posterior hippocampus", 1)] * 2
    assert done.excluded == done.never_predicted == []  # the references have no more targets
    write(pair / "predictions" / "hippocampus_002.nii", tail * 2)
    (line,) = score(pair, card="msd_hippocampus").excluded
    assert "hippocampus_002.nii: expected the labels 0, 1 of dataset.json, received 2" in line
    number_classes(pair / "predictions", "posterior hippocampus", card="msd_lung")
    with pytest.raises(
        ValueError,
        match="expected masks of card msd_hippocampus, received those of msd_lung; pass that",
    ):
        score(pair, card="msd_hippocampus")
    # The Decathlon's own leads from values to names, which are the card's.
    (pair / "dataset.json").write_text(
        json.dumps({"labels": {"0": "background", "1": "Anterior", "2": "Posterior"}})
    )
    (pair / "predictions" / "dataset.json").unlink()
    dice = {
        (row.case[-1], row.target): row.dice
        for row in score(pair, card="msd_hippocampus", levels=("volume",)).rows
    }
    assert dice["1", "anterior hippocampus"] == dice["1", "posterior hippocampus"] == 0
    assert dice["2", "posterior hippocampus"] == 1


def test_label_maps_without_names_are_refused(pair):
    message = (
        r"one label value in all files \(255 counts as 1\), received 1 in"
        r" references/hippocampus_001.nii.gz and 2 in "
        r"references/hippocampus_001.nii.gz; name the values by --labels"
    )
    with pytest.raises(ValueError, match=message):
        score(pair)


@pytest.mark.parametrize(
    ("references", "predictions", "fits"),
    [
        ((1, 1), (2, 2), False),
        ((1, 2), (1, 2), False),
        ((1, 1), (255, 1), True),
        ((3, 3), (255, 255), False),
    ],
)
def test_masks_of_other_values_do_not_pass_for_one_thing(pair, references, predictions, fits):
    mask = (label_map() > 0).astype(np.uint8)
    for number in (0, 1):
        write(pair / "references" / f"hippocampus_00{number + 1}.nii.gz", mask * references[number])
        write(pair / "predictions" / f"hippocampus_00{number + 1}.nii", mask * predictions[number])
    if fits:
        assert {row.dice for row in score(pair, levels=("volume",)).rows} == {1}
        return
    with pytest.raises(
        ValueError, match="expected masks of one thing, with one label value in all files"
    ):
        score(pair)
    # Where files name what they hold, values say nothing.
    for number in (0, 1):
        write(pair / "a" / "c" / "tumor.nii.gz", mask * references[number])
        write(pair / "b" / "c" / "tumor.nii.gz", mask * predictions[number])
        assert {
            row.dice
            for row in score_folder(pair / "b", pair / "a", FolderOptions(levels=("volume",))).rows
        } == {1}


def test_names_that_file_names_cannot_tell_apart_are_refused(pair):
    with pytest.raises(
        ValueError,
        match="by more than case and punctuation, received 'tumor' and 'Tumor'; rename one",
    ):
        score(pair, labels={"tumor": (1,), "Tumor": (2,)})


def test_label_values_that_nobody_named_are_told(pair):
    lines: list[str] = []
    done = score(pair, labels={"head": (1,)}, levels=("volume",), report=lines.append)
    assert [row.dice for row in done.rows] == [1, 1] and done.excluded == []
    assert (
        done.unnamed
        == lines
        == [
            "label values 2 have no name in 3 files, such as references/hippocampus_001.nii.gz,"
            " and are passed over; --labels can name them"
        ]
    )
    command = [
        "evaluate",
        "--predictions",
        str(pair / "predictions"),
        "--references",
        str(pair / "references"),
    ]
    assert (
        main([*command, "--labels", "1=head", "--output", str(pair / "out")]) == 0
    )  # a part, chosen on purpose
    left_out = pd.read_csv(pair / "out" / "left_out.csv")
    assert (
        left_out["kind"].tolist() == ["unnamed label values"] and left_out["line"].tolist() == lines
    )
    summary = pd.read_csv(pair / "out" / "measures.csv").set_index(["table", "target", "measure"])
    assert summary.loc[("Presence in slices", "head", "specificity"), "value"] == 1
    assert summary.loc[("Volumes", "head", "IoU")].tolist()[:2] == [1, 2]
    assert summary.loc[("Lesions", "head", "F1"), "rule"] == "26 neighbours, match overlap"
    assert main([*command, "--labels", "1=head,2=tail"]) == 0


def write_run(folder: Path, *, plane: str = "axial") -> np.ndarray:
    """A case as `boltzmed predict` writes it: two things in one mask, and a target that nothing was
    found of.
    """
    mask = np.zeros((8, 8, 6), np.uint8)
    mask[2:5, 2:6, 1:4], mask[7, 7, 5] = 1, 1
    write(folder / "nodule.nii.gz", mask)
    write(folder / "free.nii.gz", mask * 0)
    components = [
        {"volume_mm3": 72.0, "max_probability": 0.75},
        {"volume_mm3": 2.0, "max_probability": 0.5},
    ]
    nodule = {
        "prompt": "a lung nodule",
        "target": "whole",
        "file": "nodule.nii.gz",
        "components": components,
    }
    nodule |= {"presence": [0.1, 0.9, 0.8, 0.7, 0.2, 0.3]}
    free = {
        "prompt": "Bright spots",
        "target": None,
        "file": "free.nii.gz",
        "components": [],
        "presence": None,
    }
    record = {"seed": 5, "settings": {"plane": plane}, "prompts": [nodule, free]}
    (folder / "run.json").write_text(json.dumps(record))
    return mask


def test_what_a_run_says_of_its_masks(tmp_path):
    write_run(tmp_path / "predictions" / "c1")
    write(tmp_path / "references" / "c1" / "whole.nii.gz", label_map() // 2 + label_map() % 2)
    write(tmp_path / "references" / "c1" / "bright-spots.nii.gz", np.zeros((8, 8, 6), np.uint8))
    done = score(tmp_path, plane="axial")
    by_target = {row.target: row for row in done.rows if row.level == "volume"}
    assert set(by_target) == {"whole", "bright-spots"} and done.excluded == done.passed_over == []
    whole, free = by_target["whole"], by_target["bright-spots"]
    assert (whole.prompt, whole.seed, whole.presence_score) == ("a lung nodule", 5, 0.9)
    assert (free.prompt, free.dice, free.presence_score) == ("Bright spots", None, None)
    assert [(row.kind, row.score, row.matched) for row in done.lesions] == [
        ("reference", 0.75, True),
        ("prediction", 0.75, True),
        ("prediction", 0.5, False),
    ]
    # Presence belongs to the slices of the run.
    assert {row.presence_score for row in score(tmp_path, plane="coronal").rows} == {None}
    write(tmp_path / "predictions" / "c1" / "nodule.nii.gz", label_map() // 2)
    assert "components that run.json records" in score(tmp_path).excluded[0]


def test_prompts_that_mean_one_target_are_all_scored(tmp_path):
    write_run(tmp_path / "predictions" / "c1")
    record = json.loads((tmp_path / "predictions" / "c1" / "run.json").read_text())
    record["prompts"][1]["target"] = "whole"
    (tmp_path / "predictions" / "c1" / "run.json").write_text(json.dumps(record))
    write(tmp_path / "references" / "c1.nii.gz", label_map())
    lines: list[str] = []
    done = score(tmp_path, labels={"whole": (1, 2)}, levels=("volume",), report=lines.append)
    assert [(row.target, row.prompt, row.prediction_empty) for row in done.rows] == [
        ("whole", "Bright spots", True),
        ("whole", "a lung nodule", False),
    ]
    assert lines == done.repeated and len(lines) == 1 and done.excluded == []
    assert lines[0].startswith(
        "case c1: whole has several predictions, free.nii.gz, nodule.nii.gz, and each its rows"
    )
    assert "several predictions,case c1" in write_scores(done, tmp_path / "out")[
        2
    ].read_text().replace('"', "")


def test_scores_from_a_table(pair):
    table = "case,target,lesion,score\nhippocampus_001,whole,1,0.25\n"
    (pair / "scores.csv").write_text(table)
    done = score(pair, labels=LABELS, lesion_scores=pair / "scores.csv", levels=("volume",))
    scores = {(row.case, row.target, row.kind): row.score for row in done.lesions}
    assert (
        scores["hippocampus_001", "whole", "prediction"]
        == scores["hippocampus_001", "whole", "reference"]
        == 0.25
    )
    assert list(scores.values()).count(None) == len(scores) - 2
    assert len(done.excluded) == 4 and all(
        line.endswith("FROC drops them first") for line in done.excluded
    )
    assert done.excluded[0].startswith(
        "case hippocampus_001: head, lesions 1 of the table of scores: expected their"
    )
    assert (
        score(pair, labels=LABELS, lesion_scores=pair / "scores.csv", levels=("slice",)).excluded
        == []
    )
    (pair / "scores.csv").write_text(table + "nobody,whole,7,1\n")
    line = score(
        pair, labels=LABELS, lesion_scores=pair / "scores.csv", levels=("volume",)
    ).excluded[0]
    assert line.startswith(
        "case nobody: whole, lesions 7 of the table of scores: expected predicted lesions"
    )


def test_cases_without_a_prediction(pair):
    (pair / "predictions" / "hippocampus_002.nii").rename(pair / "predictions" / "other.nii")
    lines: list[str] = []
    done = score(pair, labels=LABELS, levels=("volume",), report=lines.append)
    assert done.cases == ["hippocampus_001"] and len(done.rows) == 3
    assert done.passed_over == ["case other: no reference, passed over"]
    assert [line.split(";")[0] for line in done.excluded] == [
        f"case hippocampus_002: expected a prediction of {target}, found none" for target in LABELS
    ]
    assert lines == done.passed_over + done.excluded

    done = score(pair, labels=LABELS, levels=("volume",), missing="empty")
    assert [row.dice for row in done.rows] == [1, 1, 1, 0, 0, 0] and done.excluded == []
    assert [row.prediction_empty for row in done.rows[3:]] == [True] * 3 and done.rows[
        3
    ].missed_lesions == 1
    with pytest.raises(
        ValueError, match="case hippocampus_002: expected a prediction of head, found none"
    ):
        score(pair, labels=LABELS, missing="error")
    with pytest.raises(
        ValueError, match="missing: expected one of exclude, empty, error, received 'ignore'"
    ):
        score(pair, labels=LABELS, missing="ignore")


def test_targets_that_were_never_asked_for_are_left_out_together(tmp_path, capsys):
    for case in ("c1", "c2"):
        write_run(tmp_path / "predictions" / case)
        write(tmp_path / "references" / f"{case}.nii.gz", label_map())
    done = score(tmp_path, labels=LABELS, levels=("volume",))
    assert [(row.case, row.target) for row in done.rows] == [
        ("c1", "whole"),
        ("c2", "whole"),
    ] and done.excluded == []
    assert done.never_predicted == [
        f"target {name}: expected predictions, found none in any case; --missing empty scores empty"
        " masks"
        for name in ("head", "tail")
    ]
    assert done.passed_over == [
        f"case c{number}: no reference for free.nii.gz, passed over" for number in (1, 2)
    ]
    folders = [
        "--predictions",
        str(tmp_path / "predictions"),
        "--references",
        str(tmp_path / "references"),
    ]
    assert (
        main(["evaluate", *folders, "--labels", "1=head,2=tail,1+2=whole", "--level", "volume"])
        == 2
    )
    counted, patients = capsys.readouterr().out.splitlines()[-2:]
    assert counted == "2 cases scored, 2 targets never predicted, 2 predictions without a reference"
    assert patients.startswith("No column patient for 2 cases")
    done = score(tmp_path, labels=LABELS, levels=("volume",), missing="empty")
    assert len(done.rows) == 6 and sum(row.prediction_empty for row in done.rows) == 4


def test_no_case_in_common(pair):
    for path in (pair / "predictions").iterdir():
        path.rename(path.with_name(f"p{path.name}"))
    with pytest.raises(
        ValueError,
        match="no case in common: phippocampus_001, phippocampus_002 in predictions, hipp",
    ):
        score(pair, labels=LABELS)


def test_targets_without_a_reference_are_passed_over(tmp_path):
    for name in ("predictions/c/a", "predictions/c/b", "references/c/a"):
        write(tmp_path / f"{name}.nii.gz", label_map() // 2)
    done = score(tmp_path, levels=("volume",))
    assert [row.target for row in done.rows] == ["a"]
    assert (
        done.passed_over == ["case c: no reference for b.nii.gz, passed over"]
        and done.excluded == []
    )


@pytest.mark.parametrize(
    ("voxels", "affine", "message"),
    [
        (
            np.zeros((8, 8, 5), np.uint8),
            AFFINE,
            r"on one grid, received \(8, 8, 6\) voxels .* and \(8, 8, 5\) voxels of 1 x 1 x 2",
        ),
        (
            label_map(),
            AFFINE @ np.diag([-1, 1, 1, 1]),
            "case hippocampus_002: expected reference and hippocampus_002.nii on one grid",
        ),
        (label_map(), np.diag([-1, -1, 3.0, 1]), "1 x 1 x 3 mm"),
        (
            label_map() + np.float32(0.25),
            AFFINE,
            "expected label values that are whole numbers from 0, received 0.25",
        ),
        (np.full((8, 8, 6), np.nan, np.float32), AFFINE, "expected finite voxels"),
    ],
    ids=["shape", "mirrored", "spacing", "probabilities", "nan"],
)
def test_masks_that_do_not_fit_are_excluded(pair, voxels, affine, message):
    write(pair / "predictions" / "hippocampus_002.nii", voxels, affine)
    done = score(pair, labels=LABELS)
    assert done.cases == ["hippocampus_001"] and len(done.excluded) == 1  # one file, one line
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(done.excluded[0])
    assert done.excluded[0].startswith("case hippocampus_002: ") and "\n" not in done.excluded[0]


@pytest.mark.parametrize("side", ["predictions", "references"])
def test_damaged_files_are_excluded(pair, side):
    (path,) = (pair / side).glob("hippocampus_002*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = score(pair, labels=LABELS)
    assert (
        done.cases == ["hippocampus_001"]
        and len(done.excluded) == 1
        and path.name in done.excluded[0]
    )


def test_other_grids_are_resampled_when_asked(pair):
    finer = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    finer[:3, 3] = (AFFINE @ [-0.25, -0.25, -0.25, 1])[:3]
    voxels = label_map().repeat(2, 0).repeat(2, 1).repeat(2, 2)
    write(pair / "predictions" / "hippocampus_002.nii", voxels, finer)
    assert score(pair, labels=LABELS).cases == ["hippocampus_001"]
    done = score(pair, labels=LABELS, resample=True, levels=("volume",))
    assert [row.dice for row in done.rows] == [1] * 6 and done.excluded == []


def test_resampled_runs_keep_their_scores(tmp_path):
    mask = write_run(tmp_path / "predictions" / "c1")
    flipped = AFFINE.copy()
    flipped[0] = [1, 0, 0, -7]
    write(tmp_path / "references" / "c1" / "whole.nii.gz", mask[::-1], flipped)
    done = score(tmp_path, resample=True)
    assert [row.score for row in done.lesions] == [0.75, 0.5, 0.75, 0.5] and all(
        row.matched for row in done.lesions
    )
    assert {row.presence_score for row in done.rows} == {None}  # of the other grid's slices


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"labels": LABELS, "card": "msd_hippocampus"},
            "expected --labels or --card, received both",
        ),
        ({"card": "nowhere"}, "nowhere"),
        (
            {"labels": LABELS, "patient_pattern": "(", "dataset": "d"},
            "expected a regular expression",
        ),
        ({"labels": LABELS, "plane": "oblique"}, "plane: expected one of axial"),
    ],
)
def test_other_arguments_are_refused(pair, options, message):
    with pytest.raises(ValueError, match=message):
        score(pair, **options)


def test_tables_are_written(pair):
    done = score(pair, labels=LABELS, scoring=Scoring(match="iou:0.5"))
    paths = write_scores(done, pair / "new" / "folder")
    assert [path.name for path in paths] == ["results.csv", "lesions.csv", "left_out.csv"]
    assert paths[2].read_text() == "kind,line\n"
    assert read_results(paths[0]) == done.rows
    table = pd.read_csv(paths[1])
    assert (
        len(table) == len(done.lesions) and table.matched.sum() == 10
    )  # only the missed tail is not
    (pair / "file").write_text("")
    with pytest.raises(ValueError, match="expected a folder to write into"):
        write_scores(done, pair / "file" / "deeper")
