"""A user's overlay puts MONAI's transforms into the bundle's pipelines, and masks stay in place."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.transforms import Spacingd

from boltzmed.errors import unwrapped_input_errors
from boltzmed.networks.weights import save_checkpoint
from boltzmed.phantom.study import make_phantom
from boltzmed.resources import resource_folder
from boltzmed.results import CaseResult, read_results
from boltzmed.volumes import write_image
from boltzmed.workflow import build_network, network_settings

BUNDLE = resource_folder("bundles") / "boltzformer"
CONFIGS = BUNDLE / "configs"
PROMPTS = ["liver in abdomen CT", "lung nodule in chest CT"]
SMOOTH = {"_target_": "GaussianSmoothd", "keys": "image", "sigma": 2.0}
RESCALE = {"_target_": "ScaleIntensityRanged", "keys": "image"} | {
    "a_min": -1000.0,
    "a_max": 1000.0,
    "b_min": -200.0,
    "b_max": 200.0,
}
TURN = {"_target_": "Orientationd", "keys": "image", "axcodes": "SAR", "labels": None}
SPACING = {"_target_": "Spacingd", "keys": "image", "pixdim": [9.0, 7.0, 12.0]}


class UntrackedSpacingd(Spacingd):
    """Resamples, but leaves no record of it."""

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict:
        item = super().__call__(data)
        for key in self.keys:
            item[key].applied_operations = []
        return item


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run changes of its process is as it was afterwards."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "path", [*sys.path])
    logging.getLogger("ignite").setLevel(logging.CRITICAL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small phantom with its labels in a datalist, and an untrained checkpoint."""
    folder = tmp_path_factory.mktemp("overlays")
    phantom = make_phantom(3, matrix=64, slice_spacing_mm=10.0)
    write_image(phantom.image_hu[:, :, 12:17], phantom.affine_ras, folder / "study.nii.gz")
    write_image(phantom.labels[:, :, 12:17], phantom.affine_ras, folder / "label.nii.gz")
    record = {"image": "study.nii.gz", "label": "label.nii.gz", "case": "study"}
    (folder / "datalist.json").write_text(json.dumps({"training": [record]}))
    torch.manual_seed(0)
    network = build_network(CONFIGS / "tiny.yaml")
    settings = network_settings(CONFIGS / "tiny.yaml", 64)
    save_checkpoint(
        folder / "model.pt", network, config=settings, orientation="axial", channels="neighbours"
    )
    return folder


def write_overlay(
    folder: Path, config: str, transforms: str, before: str, *own: dict[str, Any]
) -> Path:
    """An overlay that lists a pipeline's transforms anew, with some of the user's before one."""
    parser = ConfigParser(ConfigParser.load_config_file(CONFIGS / f"{config}.yaml"))
    listed = list(parser[transforms])
    place = listed.index(f"@{before}")
    names = [f"own_{number}" for number in range(len(own))]
    content: dict[str, Any] = dict(zip(names, own, strict=True))
    content[transforms] = [*listed[:place], *(f"@{name}" for name in names), *listed[place:]]
    path = folder / "overlay.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(config: str, folder: Path, output: Path, *overlays: Path, **options: Any) -> None:
    """``python -m monai.bundle run`` in this process."""
    given = {"checkpoint": str(folder / "model.pt"), "image_size": 64, "output_dir": str(output)}
    monai.bundle.run(
        config_file=[str(CONFIGS / f"{config}.yaml"), *map(str, overlays)],
        bundle_root=str(BUNDLE),
        logging_file=False,
        device=torch.device("cpu"),
        **given,
        **options,
    )


def segment(folder: Path, output: Path, *own: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Masks of the phantom as files, and the record of the run."""
    output.mkdir()
    overlay = write_overlay(
        output, "inference", "preprocessing#transforms", "look_up_prompts", *own
    )
    study = str(folder / "study.nii.gz")
    run("inference", folder, output, overlay, image=study, prompts=PROMPTS, modality="CT")
    record = json.loads((output / "study" / "run.json").read_text())
    masks = [nibabel.load(output / "study" / entry["file"]) for entry in record["prompts"]]
    return masks, record


@pytest.fixture(scope="module")
def plain(folder: Path) -> tuple[list[Any], dict[str, Any]]:
    """What the bundle makes of the phantom without any overlay."""
    masks, record = segment(folder, folder / "plain")
    for mask in masks:
        assert 0.02 < np.asarray(mask.dataobj).mean() < 0.98, "a mask that could not tell anything"
    return masks, record


def evaluate(folder: Path, output: Path, *own: dict[str, Any]) -> list[CaseResult]:
    """Rows of the phantom's liver and spine."""
    output.mkdir()
    overlay = write_overlay(
        output, "evaluate", "preprocessing#transforms", "tokenize_prompts", *own
    )
    given = {"datalist": str(folder / "datalist.json"), "targets": ["liver", "spine"]}
    run("evaluate", folder, output, overlay, **given)
    return read_results(output / "results.csv")


@pytest.fixture(scope="module")
def plain_rows(folder: Path) -> list[CaseResult]:
    return evaluate(folder, folder / "plain_scores")


def describe_references(rows: list[CaseResult]) -> list[tuple[Any, ...]]:
    """What rows say of the reference alone."""
    return [
        (row.target, row.level, row.slice_index, row.volume_mm3, row.reference_empty)
        for row in rows
    ]


class TestInference:
    @pytest.mark.parametrize(
        ("own", "names"),
        [
            ([SMOOTH], ["GaussianSmoothd"]),
            ([RESCALE], ["ScaleIntensityRanged"]),
            ([SMOOTH, RESCALE], ["GaussianSmoothd", "ScaleIntensityRanged"]),
        ],
        ids=["smooth", "rescale", "both"],
    )
    def test_intensities_change_the_masks_and_are_recorded(
        self, folder, plain, tmp_path, own, names
    ):
        masks, record = segment(folder, tmp_path / "out", *own)
        assert record["preprocessing"] == [
            "LoadStudyd",
            *names,
            "LookUpPromptsd",
            "TokenizePromptsd",
        ]
        expected, plain_record = plain
        assert plain_record["preprocessing"] == ["LoadStudyd", "LookUpPromptsd", "TokenizePromptsd"]
        for mask, other in zip(masks, expected, strict=True):
            assert np.array_equal(mask.affine, other.affine) and mask.shape == other.shape
            assert not np.array_equal(np.asarray(mask.dataobj), np.asarray(other.dataobj))

    def test_another_order_of_axes_changes_nothing(self, folder, plain, tmp_path):
        """The network's slices show the patient in one pose, whatever the array's order."""
        masks, record = segment(folder, tmp_path / "out", TURN)
        assert "Orientationd" in record["preprocessing"]
        assert record["geometry"] == plain[1]["geometry"]
        for mask, other in zip(masks, plain[0], strict=True):
            assert np.array_equal(mask.affine, other.affine)
            assert np.array_equal(np.asarray(mask.dataobj), np.asarray(other.dataobj))
        assert record["prompts"] == plain[1]["prompts"]

    def test_another_spacing_comes_back_on_the_studys_grid(self, folder, plain, tmp_path):
        masks, record = segment(folder, tmp_path / "out", SPACING)
        assert record["geometry"] == plain[1]["geometry"]
        for mask, other, entry in zip(masks, plain[0], record["prompts"], strict=True):
            assert mask.shape == other.shape and np.array_equal(mask.affine, other.affine)
            voxels = np.asarray(mask.dataobj)
            assert set(np.unique(voxels)) <= {0, 1} and 0.02 < voxels.mean() < 0.98
            voxel_mm3 = abs(np.linalg.det(mask.affine[:3, :3]))
            assert entry["volume_mm3"] == pytest.approx(voxels.sum() * voxel_mm3, rel=1e-4)

    def test_a_change_that_nobody_can_undo_is_refused(self, folder, tmp_path):
        own = {**SPACING, "_target_": "tests.test_overlays.UntrackedSpacingd"}
        line = "^study: expected preprocessing that keeps the image's grid or can be inverted"
        with pytest.raises(ValueError, match=line), unwrapped_input_errors():
            segment(folder, tmp_path / "out", own)
        assert not (tmp_path / "out" / "study").exists()

    def test_a_users_own_transform_that_fails_leaves_no_masks(self, folder, tmp_path):
        output = tmp_path / "out"
        output.mkdir()
        failing = {"_target_": "Lambdad", "keys": "pred", "func": "$lambda masks: 1 / 0"}
        overlay = write_overlay(
            output, "inference", "postprocessing#transforms", "save_run", failing
        )
        study = str(folder / "study.nii.gz")
        options = {"image": study, "prompts": PROMPTS, "modality": "CT"}
        with pytest.raises(RuntimeError):
            run("inference", folder, output, overlay, **options)
        assert [path.name for path in output.iterdir()] == ["overlay.yaml"]

    def test_the_command_line_takes_it_as_documented(self, folder, plain, tmp_path):
        """In the order: the bundle's config, then the overlay."""
        overlay = write_overlay(
            tmp_path, "inference", "preprocessing#transforms", "look_up_prompts", TURN
        )
        files = [str(CONFIGS / "inference.yaml"), str(overlay)]
        options = {
            "config_file": str(files),
            "bundle_root": str(BUNDLE),
            "image": str(folder / "study.nii.gz"),
            "prompts": str(PROMPTS),
            "modality": "CT",
            "checkpoint": str(folder / "model.pt"),
            "image_size": "64",
            "output_dir": str(tmp_path / "out"),
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        done = subprocess.run(
            [sys.executable, "-m", "monai.bundle", "run", *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        record = json.loads((tmp_path / "out" / "study" / "run.json").read_text())
        assert record["preprocessing"][1] == "Orientationd"
        assert record["prompts"] == plain[1]["prompts"]


class TestEvaluation:
    def test_intensities_change_the_scores_but_not_the_reference(
        self, folder, plain_rows, tmp_path
    ):
        rows = evaluate(folder, tmp_path / "out", SMOOTH)
        assert describe_references(rows) == describe_references(plain_rows)
        assert [row.dice for row in rows] != [row.dice for row in plain_rows]

    def test_another_order_of_axes_changes_no_row(self, folder, plain_rows, tmp_path):
        assert evaluate(folder, tmp_path / "out", TURN) == plain_rows

    def test_another_spacing_is_scored_on_the_references_grid(self, folder, plain_rows, tmp_path):
        rows = evaluate(folder, tmp_path / "out", SPACING)
        assert describe_references(rows) == describe_references(plain_rows)
        volumes = [row for row in rows if row.level == "volume"]
        assert [row.target for row in volumes] == ["liver", "spine"]
        assert all(row.prediction_volume_mm3 > 0 for row in volumes)
        assert [row.dice for row in rows] != [row.dice for row in plain_rows]


class TestTraining:
    def open(self, folder: Path, *overlays: Path) -> Any:
        """The training's data set."""
        parser = ConfigParser()
        parser.read_config([str(CONFIGS / "train.yaml"), *map(str, overlays)])
        parser.update({"bundle_root": str(BUNDLE), "datalist": str(folder / "datalist.json")})
        parser.update({"image_size": 64})
        return parser.get_parsed_content("train#dataset")

    def test_intensities_change_the_images_and_nothing_else(self, folder, tmp_path):
        own = {**SMOOTH, "sigma": 1.0}
        overlay = write_overlay(
            tmp_path, "train", "train#preprocessing#transforms", "network_input", own
        )
        plain, smoothed = self.open(folder), self.open(folder, overlay)
        assert len(plain) == len(smoothed) > 0
        for index in range(len(plain)):
            item, other = plain[1, index], smoothed[1, index]
            assert not torch.equal(item["image"], other["image"])
            assert other["image"].shape == (3, 64, 64) and other["image"].min() >= 0
            same = ("label", "input_ids", "prompt_valid", "draw_key")
            assert all(torch.equal(item[name], other[name]) for name in same)
            assert item["target"] == other["target"]

    def test_validation_has_a_pipeline_of_its_own(self, folder, tmp_path):
        overlay = write_overlay(
            tmp_path, "train", "train#preprocessing#transforms", "network_input", SMOOTH
        )
        parser = ConfigParser()
        parser.read_config([str(CONFIGS / "train.yaml"), str(overlay)])
        assert "@own_0" not in parser["validate#preprocessing#transforms"]


class TestProperties:
    """What MONAI asks of a bundle's workflow."""

    def open(self, config: str, **options: Any) -> ConfigWorkflow:
        workflow = ConfigWorkflow(
            config_file=str(CONFIGS / f"{config}.yaml"),
            workflow_type="infer",
            logging_file=False,
            bundle_root=str(BUNDLE),
            image_size=64,
            **options,
        )
        workflow.initialize()
        return workflow

    def test_inference_has_all_of_them(self, folder, tmp_path):
        workflow = self.open(
            "inference",
            dataset_dir=str(folder),
            image="study.nii.gz",
            prompts=PROMPTS,
            modality="CT",
            checkpoint=str(folder / "model.pt"),
            output_dir=str(tmp_path),
        )
        assert workflow.check_properties() == []
        assert workflow.dataset.studies == [folder / "study.nii.gz"]
        names = [type(transform).__name__ for transform in workflow.preprocessing.transforms]
        assert names == ["LoadStudyd", "LookUpPromptsd", "TokenizePromptsd"]
        assert type(workflow.postprocessing.transforms[-1]).__name__ == "SaveRund"

    def test_evaluation_has_all_of_them(self, folder, tmp_path):
        workflow = self.open(
            "evaluate",
            dataset_dir=str(folder),
            datalist="datalist.json",
            checkpoint=str(folder / "model.pt"),
            output_dir=str(tmp_path),
        )
        assert workflow.check_properties() == []
        assert [case.case for case in workflow.dataset.cases] == ["study"]
        assert type(workflow.postprocessing.transforms[-1]).__name__ == "ScoreMasksd"
