"""Labelled studies from a datalist and from a cache: the same voxels, the same questions."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml

from boltzmed.cards import load_card
from boltzmed.data.prepare import prepare_cache
from boltzmed.data.slice_sources import open_sources
from boltzmed.data.studies import (
    LabelledStudyDataset,
    list_labelled_cases,
    open_labelled_studies,
)
from boltzmed.engines.inferer import PromptSliceInferer
from boltzmed.evaluation.transform import ScoreMasksd
from boltzmed.resources import resource_folder
from boltzmed.transforms.restore import is_on_grid
from boltzmed.transforms.slices import SlicePlan

SHAPE = (14, 12, 5)
SPLIT = {"by": "case number", "test": [[1, 1]], "train": [[2, 9]]}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two oblique cases with a liver and a spleen, as a datalist and by a card whose test case is
    the first.
    """
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
            nibabel.save(
                nibabel.Nifti1Image(voxels, affine), folder / f"case_{number}_{name}.nii.gz"
            )
        files = {name: f"case_{number}_{name}.nii.gz" for name in ("image", "label")}
        records.append({**files, "case": f"case_{number}", "patient": f"case_{number}"})
    (folder / "datalist.json").write_text(json.dumps({"training": records}))
    card = yaml.safe_load((resource_folder("datasets") / "phantom.yaml").read_text())
    (folder / "mine.yaml").write_text(yaml.safe_dump({**card, "name": "mine", "split": SPLIT}))
    prepare_cache(folder / "mine.yaml", folder / "datalist.json", folder / "cache")
    return folder


@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_a_cache_gives_the_slices_of_its_source(source, plane):
    from_files, _ = open_labelled_studies(
        datalist=source / "datalist.json", card=source / "mine.yaml"
    )
    (from_cache,) = open_labelled_studies(caches=source / "cache", card="phantom")
    slices = []
    for item in (from_files, from_cache):
        affine = np.asarray(item["image"].affine)
        plan = SlicePlan.from_affine(affine, item["image"].shape[1:], plane)
        cut = plan.cut(np.asarray(item["image"][0])), plan.cut(item["study"].labels)
        slices.append((*cut, plan.slices_affine(affine)))
        assert is_on_grid(item["image"], item["study"].grid)
    for ours, theirs in zip(*slices, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)
    ours, theirs = from_files["study"], from_cache["study"]
    assert (ours.case, ours.patient) == (theirs.case, theirs.patient) == ("case_1",) * 2
    assert dict(ours.label_values) == dict(theirs.label_values)
    assert theirs.label_values["spleen"] == (8,)
    assert from_files["prompts"] == from_cache["prompts"]
    assert torch.equal(from_files["input_ids"], from_cache["input_ids"])


def test_a_patient_is_the_lists_or_the_cards_or_nobody(source):
    records = json.loads((source / "datalist.json").read_text())["training"]
    bare = [
        {**{name: str(source / record[name]) for name in ("image", "label")}, "case": "p1_a"}
        for record in records
    ]
    card = load_card(source / "mine.yaml")
    (nobody, _) = list_labelled_cases(bare, card)
    assert nobody.patient == ""
    named = replace(card, cases=replace(card.cases, patient=r"^p\d"))
    cases = list_labelled_cases([bare[0], {**bare[1], "patient": "somebody"}], named)
    assert [case.patient for case in cases] == ["p1", "somebody"]
    items = LabelledStudyDataset(cases)
    assert [item["study"].patient for item in items] == ["p1", "somebody"]


def test_only_the_asked_part_of_every_cache_comes(source):
    both = open_labelled_studies(
        caches=[source / "cache"] * 2, part="train", card="phantom", targets=["liver"]
    )
    assert [both[k]["study"].case for k in range(len(both))] == ["case_2"] * 2
    assert [prompt.target for prompt in both[0]["prompts"]] == ["liver"]
    assert both[0]["prompts"][0].card == "mine"
    with pytest.raises(ValueError, match="cache: expected cases in part 'validation', found none"):
        open_labelled_studies(caches=source / "cache", part="validation", card="phantom")


def test_wrong_sources_are_told(source, tmp_path):
    with pytest.raises(ValueError, match=r"expected --datalist FILE\.json, received none"):
        open_labelled_studies(card="phantom")
    with pytest.raises(ValueError, match="expected --datalist or --caches, received both"):
        open_labelled_studies(
            datalist=source / "datalist.json", caches=source / "cache", card="phantom"
        )
    with pytest.raises(ValueError, match=r"expected a finished cache, found no manifest\.json"):
        open_labelled_studies(caches=tmp_path, card="phantom")


def test_labels_that_the_card_does_not_know_are_told_by_case(source):
    studies = open_labelled_studies(datalist=source / "datalist.json", card="msd_colon")
    with pytest.raises(
        ValueError,
        match=r"case case_1: .*: expected the labels 0, 1 of card msd_colon, received 7",
    ):
        studies[0]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache by the published protocol: the spleen is on slices 1 to 3, but small on 1; the liver
    has two windows.
    """
    folder = tmp_path_factory.mktemp("published")
    labels = np.zeros((32, 32, 5), np.uint8)
    labels[2:12, 2:12, 2:4], labels[2, 2, 1] = 8, 8
    labels[20:30, 20:30, 2:5] = 7
    image = np.random.default_rng(0).integers(-150, 250, labels.shape).astype(np.int16)
    for name, voxels in (("image", image), ("label", labels)):
        nibabel.save(
            nibabel.Nifti1Image(voxels, np.diag([-1.0, -1, 3, 1])), folder / f"{name}.nii.gz"
        )
    (folder / "pairs.csv").write_text("image,label,case,split\nimage.nii.gz,label.nii.gz,a,test\n")
    card = yaml.safe_load((resource_folder("datasets") / "phantom.yaml").read_text())
    card |= {
        "name": "twice",
        "protocol": "biomedparse",
        "windows": {**card["windows"], "liver": [-25, 230]},
    }
    card["targets"]["liver"]["extra_windows"] = ["liver"]
    (folder / "twice.yaml").write_text(yaml.safe_dump(card))
    return prepare_cache(folder / "twice.yaml", folder / "pairs.csv", folder / "cache").cache


def test_the_published_protocol_asks_for_its_slices_alone_and_in_every_window(published):
    (item,) = open_labelled_studies(caches=published, card="phantom", targets=["liver", "spleen"])
    asked = [
        (prompt.target, prompt.window, slices)
        for prompt, slices in zip(item["prompts"], item["study"].requested_slices, strict=True)
    ]
    assert asked == [
        ("liver", (-150.0, 250.0), {2, 3, 4}),
        ("spleen", (-150.0, 250.0), {2, 3}),
        ("liver", (-25.0, 230.0), {2, 3, 4}),
    ]
    assert item["input_ids"].shape[0] == 3
    # By the other protocol every slice is asked for.
    prepare_cache(
        published / "twice.yaml", published.parent / "pairs.csv", published, protocol="volume"
    )
    (item,) = open_labelled_studies(caches=published, card="phantom", targets=["liver"])
    assert item["study"].requested_slices == (None,)
    prepare_cache(published / "twice.yaml", published.parent / "pairs.csv", published)


def test_rows_of_the_published_protocol(published):
    (item,) = open_labelled_studies(caches=published, card="phantom", targets=["liver", "spleen"])

    class Everything(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def encode_text(self, input_ids):
            return input_ids

        def encode_image(self, image):
            return image

        def decode(self, image, input_ids):
            return {
                "mask_logits": torch.ones(len(image), input_ids.shape[1], 16, 16),
                "presence_logits": None,
            }

    windows = [prompt.window for prompt in item["prompts"]]
    masks = PromptSliceInferer(image_size=32)(
        item["image"], Everything(), item["input_ids"], windows
    )
    scored = ScoreMasksd(method="all", seed=0)({**item, "pred": masks})
    rows = [
        (row.dataset, row.case, row.target, row.slice_index, row.level) for row in scored["rows"]
    ]
    liver = [("twice", "a", "liver", k, "slice") for k in (2, 3, 4)]
    spleen = [("twice", "a", "spleen", k, "slice") for k in (2, 3)]
    assert rows == [
        *liver,
        *spleen,
        *[("twice", "a_liver", "liver", k, "slice") for k in (2, 3, 4)],
    ]
    assert scored["rows"][0].dice == pytest.approx(2 * 100 / (100 + 1024))


def test_a_cache_cut_otherwise_is_refused(source):
    with pytest.raises(
        ValueError, match="expected slices of plane coronal, found axial; pass --plane axial"
    ):
        open_labelled_studies(caches=source / "cache", part="test", card="phantom", plane="coronal")


class TestDamagedCaches:
    @pytest.fixture
    def cache(self, source, tmp_path) -> Path:
        return Path(shutil.copytree(source / "cache", tmp_path / "cache"))

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda c: (c / "index.csv").unlink(), "found No such file or directory"),
            (
                lambda c: (c / "index.csv").write_text("case"),
                r"found index\.csv is not the one it was finished with",
            ),
            (lambda c: (c / "manifest.json").write_text("{"), "found damaged tables"),
            (lambda c: (c / "manifest.json").write_text("[]"), "found damaged tables"),
            (lambda c: (c / "mine.yaml").unlink(), "no such file"),
            (
                lambda c: (c / "cases" / "case_2.safetensors").unlink(),
                "a file for each of 2 cases, found none for case_2",
            ),
        ],
    )
    def test_each_is_told_before_the_work(self, cache, damage, message):
        damage(cache)
        for read in (open_labelled_studies, open_sources):
            with pytest.raises(
                ValueError,
                match=rf"cache: expected .*{message}.*; run the same `boltzmed prepare` again",
            ) as e:
                read(caches=cache, part="test", card="phantom")
            assert "\n" not in str(e.value)
