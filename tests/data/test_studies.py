"""Labelled studies from a datalist and from a cache: the same voxels, the same questions."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml

from boltzmed.data.prepare import prepare_cache
from boltzmed.data.studies import open_labelled_studies
from boltzmed.resources import resource_folder
from boltzmed.transforms.slices import SlicePlan

SHAPE = (14, 12, 5)
SPLIT = {"by": "case number", "test": [[1, 1]], "train": [[2, 9]]}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two oblique cases with a liver and a spleen, as a datalist and by a card whose test case is the first."""
    folder = tmp_path_factory.mktemp("studies")
    generator = np.random.default_rng(0)
    affine = np.diag([-0.8, 0.9, 3.0, 1.0])
    affine[:3, :3] = affine[:3, :3] @ np.array([[0, 1, 0.02], [1, 0, 0], [0, 0.01, 1]])
    affine[:3, 3] = 5, -7, 40
    records = []
    for number in (1, 2):
        labels = np.zeros(SHAPE, np.uint8)
        labels[2:6, 3:8, 1:4], labels[9:12, 2:5, 2:5] = 7, 8
        image = generator.integers(-150, 250, SHAPE).astype(np.int16)
        for name, voxels in (("image", image), ("label", labels)):
            nibabel.save(nibabel.Nifti1Image(voxels, affine), folder / f"case_{number}_{name}.nii.gz")
        files = {name: f"case_{number}_{name}.nii.gz" for name in ("image", "label")}
        records.append({**files, "case": f"case_{number}", "patient": f"case_{number}"})
    (folder / "datalist.json").write_text(json.dumps({"training": records}))
    card = yaml.safe_load((resource_folder("datasets") / "phantom.yaml").read_text())
    (folder / "mine.yaml").write_text(yaml.safe_dump({**card, "name": "mine", "split": SPLIT}))
    prepare_cache(folder / "mine.yaml", folder / "datalist.json", folder / "cache")
    return folder


@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_a_cache_gives_the_slices_of_its_source(source, plane):
    (from_files, _) = open_labelled_studies(datalist=source / "datalist.json", card=source / "mine.yaml")
    (from_cache,) = open_labelled_studies(caches=source / "cache", card="phantom")
    slices = []
    for study in (from_files, from_cache):
        plan = SlicePlan.from_affine(np.asarray(study["image"].affine), study["image"].shape[1:], plane)
        cut = plan.cut(np.asarray(study["image"][0])), plan.cut(study["labels"])
        slices.append((*cut, plan.slices_affine(np.asarray(study["image"].affine))))
    for ours, theirs in zip(*slices, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)
    assert (from_files["case"], from_files["patient"]) == (from_cache["case"], from_cache["patient"]) == ("case_1",) * 2
    assert from_files["values"] == dict(from_cache["values"]) and from_cache["values"]["spleen"] == (8,)
    assert from_files["prompts"] == from_cache["prompts"]


def test_only_the_asked_part_of_every_cache_comes(source):
    both = open_labelled_studies(caches=[source / "cache"] * 2, part="train", card="phantom", targets=["liver"])
    assert [both[k]["case"] for k in range(len(both))] == ["case_2"] * 2
    assert [prompt.target for prompt in both[0]["prompts"]] == ["liver"]
    assert both[0]["prompts"][0].card == "mine"
    with pytest.raises(ValueError, match="cache: expected cases in part 'validation', found none"):
        open_labelled_studies(caches=source / "cache", part="validation", card="phantom")


def test_wrong_sources_are_told(source, tmp_path):
    with pytest.raises(ValueError, match=r"expected --datalist FILE\.json, received none"):
        open_labelled_studies(card="phantom")
    with pytest.raises(ValueError, match="expected --datalist or --caches, received both"):
        open_labelled_studies(datalist=source / "datalist.json", caches=source / "cache", card="phantom")
    with pytest.raises(ValueError, match=r"expected a finished cache, found no manifest\.json"):
        open_labelled_studies(caches=tmp_path, card="phantom")


def test_labels_that_the_card_does_not_know_are_told_by_case(source):
    studies = open_labelled_studies(datalist=source / "datalist.json", card="msd_colon")
    with pytest.raises(ValueError, match=r"case case_1: expected labels 0, 1 of card msd_colon, received 7, 8"):
        studies[0]
