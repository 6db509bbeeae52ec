"""The whole line on a phantom: study on disk → bundle → masks, SEG and run.json → scores."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from benchmarks.literal import LITERAL
from boltzmed.engines.inferer import PromptSliceInferer
from boltzmed.networks.weights import save_checkpoint
from boltzmed.phantom.study import make_phantom
from boltzmed.resources import resource_folder
from boltzmed.transforms.tokenize import tokenize_prompts
from boltzmed.volumes import read_volume, write_ct_series, write_image
from boltzmed.workflow import (
    build_network,
    load_network,
    network_settings,
    read_definition,
    run_inference,
)

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
    save_checkpoint(
        folder / "model.pt", network, config=settings, orientation="axial", channels="neighbours"
    )
    return folder


@pytest.fixture(scope="module")
def masks(folder: Path) -> Path:
    studies = [folder / "phantom.nii.gz", folder / "series"]
    cases = run_inference(
        studies, PROMPTS, folder / "masks", checkpoint=str(folder / "model.pt"), modality="CT"
    )
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
        assert sum(part["volume_mm3"] for part in entry["components"]) == pytest.approx(
            entry["volume_mm3"], abs=0.1
        )
        assert all(
            0.49 <= p["mean_probability"] <= p["max_probability"] <= 1 for p in entry["components"]
        )


def test_nifti_and_dicom_of_one_study_give_the_same_masks(masks: Path) -> None:
    for file in sorted((masks / "phantom").glob("*.nii.gz")):
        one, other = nibabel.load(file), nibabel.load(masks / "series" / file.name)
        np.testing.assert_allclose(one.affine, other.affine, atol=1e-3)
        assert np.mean(np.asanyarray(one.dataobj) == np.asanyarray(other.dataobj)) >= 0.999


def test_the_run_is_recorded(masks: Path) -> None:
    bundle = resource_folder("bundles") / "boltzformer"
    record = json.loads((masks / "series" / "run.json").read_text())
    assert (
        record["bundle"]["version"]
        == json.loads((bundle / "configs" / "metadata.json").read_text())["version"]
    )
    assert len(record["bundle"]["configs_sha256"]) == len(record["checkpoint"]["sha256"]) == 64
    assert (
        record["seed"] == 0
        and record["device"] == "cpu"
        and record["segmentation"]["file"] == "segmentation.dcm"
    )
    assert set(record["versions"]) == {"boltzmed", "python", "torch", "monai"}
    assert set(record["seconds"]) == {"read", "infer", "write"}


def test_segmentation_only_for_dicom(masks: Path) -> None:
    assert (masks / "series" / "segmentation.dcm").is_file()
    assert not (masks / "phantom" / "segmentation.dcm").exists()
    record = json.loads((masks / "phantom" / "run.json").read_text())
    assert record["segmentation"] == {"file": None, "reason": "the input is not DICOM"}


@pytest.mark.slow
@pytest.mark.parametrize(("change", "least"), [("bfloat16", 0.99), ("literal", 0.9999)])
def test_neither_sixteen_bits_nor_the_literal_form_change_the_trained_masks(
    change: str, least: float
) -> None:
    """Dice of all voxels of all prompts together, against float32 and the fast form."""
    bundle = resource_folder("bundles") / "boltzformer"
    config = bundle / "configs" / "tiny.yaml"
    how = {
        "image_size": 512,
        "plane": "axial",
        "channels": "neighbours",
        "seed": 0,
        "device": "cpu",
    }
    other = build_network(config, **(LITERAL if change == "literal" else {}))
    other.definition = read_definition(config)  # the same function, so that it may load the weights
    networks = [build_network(config).eval(), other.eval()]
    for network in networks:
        load_network(network, bundle / "models" / "model.pt", **how)
    phantom = make_phantom(910000, matrix=256, slice_spacing_mm=10.0)
    image = MetaTensor(
        torch.from_numpy(phantom.image_hu[None].astype(np.float32)),
        torch.from_numpy(phantom.affine_ras),
    )
    organs = ("liver", "spleen", "left kidney", "right kidney", "heart", "aorta", "spine")
    input_ids = tokenize_prompts([f"{organ} in abdomen CT" for organ in organs])
    inferer = PromptSliceInferer(image_size=512, channels="neighbours", batch_size=4)
    masks = []
    for number, network in enumerate(networks):
        with torch.autocast("cpu", torch.bfloat16, enabled=change == "bfloat16" and number == 1):
            packed = inferer(image, network, input_ids, [(-150.0, 250.0)] * len(organs))
        masks.append(np.stack([packed.volume(prompt) for prompt in range(len(organs))]))
    assert all(0.0005 < mask.mean() < 0.5 for mask in masks[0])
    dice = 2 * np.count_nonzero(masks[0] & masks[1]) / sum(np.count_nonzero(mask) for mask in masks)
    assert dice >= least
    print(f"{change}: Dice {dice:.5f}")
