"""The whole line on a phantom: study on disk → bundle → masks, SEG and run.json → scores."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from boltzmed.data.phantom import make_phantom
from boltzmed.networks.weights import save_checkpoint
from boltzmed.resources import resource_folder
from boltzmed.volumes import read_volume, write_ct_series, write_image
from boltzmed.workflow import build_network, network_settings, run_inference

PROMPTS = ["lung nodule in chest CT", "liver in abdomen CT", "something that no card lists"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small phantom as NIfTI and DICOM, and an untrained checkpoint of the tiny size."""
    folder = tmp_path_factory.mktemp("line")
    phantom = make_phantom(3, matrix=96, slice_spacing_mm=10.0)
    image_hu = phantom.image_hu[:, :, :6]
    write_image(image_hu, phantom.affine_ras, folder / "phantom.nii.gz")
    write_ct_series(image_hu, phantom.affine_ras, folder / "series", seed=3)
    config = resource_folder("bundles") / "boltzformer" / "configs" / "tiny.yaml"
    torch.manual_seed(0)
    network = build_network(config)
    settings = network_settings(config, 512)
    save_checkpoint(folder / "model.pt", network, config=settings, orientation="axial", channels="neighbours")
    return folder


@pytest.fixture(scope="module")
def masks(folder: Path) -> Path:
    studies = [folder / "phantom.nii.gz", folder / "series"]
    cases = run_inference(studies, PROMPTS, folder / "masks", checkpoint=str(folder / "model.pt"), modality="CT")
    assert cases == [folder / "masks" / "phantom", folder / "masks" / "series"]
    return folder / "masks"


@pytest.mark.parametrize("case", ["phantom", "series"])
def test_masks_lie_on_the_input_grid(folder: Path, masks: Path, case: str) -> None:
    study = read_volume(folder / ("phantom.nii.gz" if case == "phantom" else "series"))
    record = json.loads((masks / case / "run.json").read_text())
    assert [entry["prompt"] for entry in record["prompts"]] == PROMPTS
    assert [entry["target"] for entry in record["prompts"]] == ["lung nodule", "liver", None]
    for entry in record["prompts"]:
        mask = nibabel.load(masks / case / entry["file"])
        voxels = np.asanyarray(mask.dataobj)
        assert voxels.dtype == np.uint8 and voxels.shape == study.shape[1:] and voxels.max() <= 1
        np.testing.assert_allclose(mask.affine, np.asarray(study.affine), atol=1e-4)
        voxel_mm3 = abs(np.linalg.det(mask.affine[:3, :3]))
        assert entry["volume_mm3"] == pytest.approx(voxels.sum() * voxel_mm3, rel=1e-4)
        assert sum(part["volume_mm3"] for part in entry["components"]) == pytest.approx(entry["volume_mm3"], abs=0.1)
        assert all(0.49 <= p["mean_probability"] <= p["max_probability"] <= 1 for p in entry["components"])


def test_nifti_and_dicom_of_one_study_give_the_same_masks(masks: Path) -> None:
    for file in sorted((masks / "phantom").glob("*.nii.gz")):
        one, other = nibabel.load(file), nibabel.load(masks / "series" / file.name)
        np.testing.assert_allclose(one.affine, other.affine, atol=1e-3)
        assert np.mean(np.asanyarray(one.dataobj) == np.asanyarray(other.dataobj)) >= 0.999


def test_the_run_is_recorded(masks: Path) -> None:
    bundle = resource_folder("bundles") / "boltzformer"
    record = json.loads((masks / "series" / "run.json").read_text())
    assert record["bundle"]["version"] == json.loads((bundle / "configs" / "metadata.json").read_text())["version"]
    assert len(record["bundle"]["configs_sha256"]) == len(record["checkpoint"]["sha256"]) == 64
    assert record["seed"] == 0 and record["device"] == "cpu" and record["segmentation"]["file"] == "segmentation.dcm"
    assert set(record["versions"]) == {"boltzmed", "python", "torch", "monai"}
    assert set(record["seconds"]) == {"read", "infer", "write"}


def test_segmentation_only_for_dicom(masks: Path) -> None:
    assert (masks / "series" / "segmentation.dcm").is_file()
    assert not (masks / "phantom" / "segmentation.dcm").exists()
    record = json.loads((masks / "phantom" / "run.json").read_text())
    assert record["segmentation"] == {"file": None, "reason": "the input is not DICOM"}
