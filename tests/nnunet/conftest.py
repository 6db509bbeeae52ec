"""A small cache of CT volumes, its export, and what nnU-Net would leave after training on it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from boltzmed.data.prepare import prepare_cache
from boltzmed.nnunet.raw_dataset import export_dataset, name_case
from boltzmed.volumes import read_volume, write_image

SHAPE = (20, 16, 6)
TURN = np.array([[0.6, -0.8, 0, 0], [0.8, 0.6, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
AFFINES = (
    np.diag([-0.7, -0.8, 2.5, 1.0]),
    np.diag([0.7, 0.8, -2.5, 1.0]),
    TURN @ np.array([[0, 0.7, 0, 5], [0.8, 0, 0, -7], [0, 0, 2.5, 1000], [0, 0, 0, 1.0]]),
)
PARTS = {
    "a": "train",
    "b 1": "train",
    "c": "validation",
    "d": "validation",
    "e": "test",
    "f_0001": "test",
}


class Toy(NamedTuple):
    """Where the files of `make_case` lie, and the cache made of them."""

    source: Path
    cache: Path


def make_case(case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU, labels (1 healthy, 2 lesion; "d" has no lesion) and affine, other ones in every case."""
    number = list(PARTS).index(case)
    hu = (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 2000 - 1000 + number).astype(np.int16)
    labels = np.zeros(SHAPE, np.uint8)
    labels[2 : 12 + number, 2:12, 1:4] = 1
    if case != "d":
        labels[4:7, 4 : 6 + number, 2] = 2
    return hu, labels, AFFINES[number % len(AFFINES)]


def write_card(folder: Path, **changes: Any) -> Path:
    facts = {"site": "abdomen", "window": "abdomen"}
    card = {
        "name": "toy",
        "title": "Toy organs",
        **dict.fromkeys(("licence", "citation", "source"), "none"),
        "modality": "CT",
        "exhaustive": True,
        "labels": {0: "background", 1: "healthy", 2: "lesion"},
        "windows": {"abdomen": [-150, 250], "liver": [-25, 230]},
        "default_window": "abdomen",
        "targets": {
            "organ": {"labels": [1, 2], "prompts": ["organ in CT"], **facts},
            "the lesion": {"labels": [2], "prompts": ["lesion in CT"], **facts},
        },
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    return folder / "toy.yaml"


def write_toy(folder: Path, cases: Sequence[str] = tuple(PARTS), **card: Any) -> Toy:
    rows = ["image,label,case,split,patient"]
    for case in cases:
        hu, labels, affine_ras = make_case(case)
        write_image(hu, affine_ras, folder / f"{case}.nii")
        write_image(labels, affine_ras, folder / f"{case}_label.nii")
        rows.append(f"{case}.nii,{case}_label.nii,{case},{PARTS[case]},patient {case[0]}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    done = prepare_cache(write_card(folder, **card), folder / "pairs.csv", folder / "cache")
    assert not done.failed
    return Toy(folder, done.cache)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def toy_raw(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (done,) = export_dataset(toy.cache, tmp_path_factory.mktemp("raw"), 7)
    return done.folder


@pytest.fixture
def raw(toy_raw: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(toy_raw, tmp_path / "raw" / toy_raw.name))


def score_as_nnunet(
    reference: np.ndarray, predicted: np.ndarray, numbers: Sequence[int]
) -> dict[str, Any]:
    """nnU-Net's `compute_metrics`, by its own formulas."""
    metrics = {}
    for number in numbers:
        ref, pred = reference == number, predicted == number
        tp, fp, fn = int((ref & pred).sum()), int((~ref & pred).sum()), int((ref & ~pred).sum())
        none = tp + fp + fn == 0
        metrics[str(number)] = {
            "Dice": math.nan if none else 2 * tp / (2 * tp + fp + fn),
            **{"FN": fn, "FP": fp, "IoU": math.nan if none else tp / (tp + fp + fn)},
            **{"TN": int((~ref & ~pred).sum()), "TP": tp, "n_pred": tp + fp, "n_ref": tp + fn},
        }
    return metrics


def write_validation(raw: Path, results: Path, cases: Sequence[str] = ("c", "d")) -> Path:
    """nnU-Net's folder after training: every prediction is its label map, a voxel further along the
    first axis.
    """
    model = results / raw.name / "nnUNetTrainer__nnUNetPlans__2d"
    folder = model / "fold_0" / "validation"
    folder.mkdir(parents=True)
    shutil.copyfile(raw / "dataset.json", model / "dataset.json")
    (model / "plans.json").write_text(
        json.dumps({"dataset_name": raw.name, "plans_name": "nnUNetPlans"})
    )
    numbers = [
        v
        for name, v in json.loads((raw / "dataset.json").read_text())["labels"].items()
        if name != "background"
    ]
    scored = []
    for case in map(name_case, cases):
        (reference_file,) = raw.glob(f"labelsT?/{case}.nii.gz")
        reference = read_volume(reference_file)
        labels = reference[0].numpy().astype(np.uint8)
        predicted = np.roll(labels, 1, axis=0)
        write_image(predicted, np.asarray(reference.affine), folder / f"{case}.nii.gz")
        scored.append(
            {
                "metrics": score_as_nnunet(labels, predicted, numbers),
                "prediction_file": f"elsewhere/{case}.nii.gz",
                "reference_file": f"elsewhere/{case}.nii.gz",
            }
        )
    (folder / "summary.json").write_text(
        json.dumps({"metric_per_case": scored, "mean": {}}, indent=4)
    )
    return folder


@pytest.fixture
def validation(raw: Path, tmp_path: Path) -> Path:
    return write_validation(raw, tmp_path / "results")


@pytest.fixture
def change_json() -> Callable[..., None]:
    """Change fields of a JSON file, or drop those that are None."""

    def change(path: Path, **changes: Any) -> None:
        content: Mapping[str, Any] = {**json.loads(path.read_text()), **changes}
        path.write_text(
            json.dumps({key: value for key, value in content.items() if value is not None})
        )

    return change
