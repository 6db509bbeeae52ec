"""What is drawn is what the network sampled on that slice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from boltzmed.cli import main
from boltzmed.engines.metrics import PromptDice
from boltzmed.networks.decoder import Decoder
from boltzmed.phantom.study import make_phantom
from boltzmed.resources import resource_folder
from boltzmed.sampling import study as sampling
from boltzmed.sampling.validation import ValidationPreviews
from boltzmed.transforms.tokenize import tokenize_prompts
from boltzmed.volumes import write_image
from boltzmed.workflow import build_network


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("sampling")
    phantom = make_phantom(3, matrix=64, slice_spacing_mm=10.0)
    write_image(phantom.image_hu, phantom.affine_ras, folder / "study.nii")
    write_image((phantom.labels == 7).astype(np.uint8), phantom.affine_ras, folder / "liver.nii")
    write_image(phantom.labels, phantom.affine_ras, folder / "labels.nii")
    write_image(np.zeros((4, 4, 4), np.uint8), np.eye(4), folder / "other.nii")
    return folder


def test_layers_are_drawn_as_the_decoder_sampled_them(folder, monkeypatch):
    drawn, sampled = {}, []
    monkeypatch.setattr(
        sampling, "draw_sampling", lambda *given, **named: drawn.update(named, given=given)
    )
    attend_image = Decoder.attend_image

    def watched(self, *given):
        update, attended = attend_image(self, *given)
        sampled.append(attended)
        return update, attended

    monkeypatch.setattr(Decoder, "attend_image", watched)
    settings = {"slice_index": 2, "query": 5, "reference": folder / "liver.nii", "modality": "CT"}
    path = sampling.show_sampling(
        folder / "study.nii", "liver in abdomen CT", folder / "a.png", **settings
    )
    seen, output = drawn["given"]
    assert path == output == folder / "a.png" and seen.image.shape == (512, 512) and seen.index == 2
    assert [layer.shape for layer in seen.attended] == [(12, 16, 16), (12, 32, 32), (12, 64, 64)]
    for layer, found in zip(seen.attended, sampled, strict=True):
        assert layer.any() and np.array_equal(layer.reshape(12, -1), found[0, 0].numpy())
    assert seen.reference.shape == seen.prediction.shape == (512, 512)
    assert drawn["title"] == "liver in abdomen CT: slice 2, query 6 of 12" and drawn["query"] == 5


def test_the_input_size_is_the_one_that_inference_takes(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(sampling, "draw_sampling", lambda given, *_, **__: seen.append(given))
    given = ["sampling", str(folder / "study.nii"), "--prompt", "liver", "--modality", "CT"]
    given += ["--output", str(folder / "small.png")]
    assert main([*given, "--image-size", "96", "--min-side", "128"]) == 0
    frames = {"phantom": {"image_size": 32}}
    show = {"modality": "CT", "frames": frames}
    sampling.show_sampling(
        folder / "study.nii", "liver in abdomen CT", folder / "small.png", **show
    )
    sampling.show_sampling(folder / "study.nii", "something else", folder / "small.png", **show)
    assert [slice_.image.shape for slice_ in seen] == [(96, 96), (32, 32), (512, 512)]
    rows = np.flatnonzero(seen[0].image.any(1))
    assert len(rows) <= 48  # 64 pixels of the study in a square of 128


def test_the_mask_has_the_threshold_asked_for(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(
        sampling, "draw_sampling", lambda given, *_, **__: seen.append(given.prediction)
    )
    for options in ({}, {"threshold": 0.5}, {"threshold": 0.001}, {"threshold": 0.999}):
        sampling.show_sampling(
            folder / "study.nii", "spine", folder / "mask.png", modality="CT", **options
        )
    assert np.array_equal(seen[0], seen[1]) and seen[3].sum() < seen[0].sum() < seen[2].sum()
    assert not (seen[0] & ~seen[2]).any() and not (seen[3] & ~seen[0]).any()


@pytest.mark.parametrize("ending", ["png", "html"])
def test_the_command_writes_the_same_file_twice(folder, capsys, ending):
    for name in ("one", "two"):
        given = ["sampling", str(folder / "study.nii"), "--prompt", "spleen", "--modality", "CT"]
        given += ["--step", "20"] if ending == "html" else []
        assert main([*given, "--output", str(folder / f"{name}.{ending}")]) == 0
        assert capsys.readouterr().out.strip() == str(folder / f"{name}.{ending}")
    assert (folder / f"one.{ending}").read_bytes() == (folder / f"two.{ending}").read_bytes()


def test_a_page_shows_every_nth_slice_and_counts_on_the_label_asked_for(folder, monkeypatch):
    pages = []
    monkeypatch.setattr(
        sampling,
        "write_sampling_page",
        lambda slices, *_, **named: pages.append((*slices, named)),
    )
    settings = {"step": 12, "reference": folder / "labels.nii", "label": 7, "modality": "CT"}
    sampling.show_sampling(folder / "study.nii", "liver", folder / "a.html", **settings)
    *slices, named = pages[0]
    assert [seen.index for seen in slices] == list(range(0, 12 * len(slices), 12)) and len(
        slices
    ) > 2
    assert any(seen.reference.any() for seen in slices)
    settings |= {"reference": folder / "liver.nii", "label": None}
    sampling.show_sampling(folder / "study.nii", "liver", folder / "a.html", **settings)
    for seen, same in zip(slices, pages[1], strict=False):
        assert np.array_equal(seen.reference, same.reference)
    assert named == {"title": "liver: query 1 of 12", "query": 0, "plane": "axial"}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--step", "2", "step: expected 1 or more, and a page (.html) if more, received 2"),
        (
            "--output",
            "wrong.gif",
            "wrong.gif: expected a file .png (of one slice) or .html (of the whole study)",
        ),
        ("--slice", "99", "slice: expected 0 to "),
        ("--query", "12", "query: expected 0 to 11, received 12"),
        ("--reference", "other.nii", "other.nii: expected a mask on the grid of study.nii, ("),
    ],
)
def test_wrong_input_is_one_line(folder, capsys, option, value, message):
    value = str(folder / value) if value.endswith(".nii") else value
    given = ["sampling", str(folder / "study.nii"), "--prompt", "liver", "--modality", "CT"]
    assert main([*given, "--output", str(folder / "wrong.png"), option, value]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line and not list(folder.glob("wrong.*"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"slice_index": 3}, "slice: expected none for a page of the whole study, received 3"),
        ({"reference": "labels.nii", "label": 99}, "labels.nii: expected voxels of 99, found none"),
    ],
)
def test_what_a_page_cannot_be_of_is_told(folder, given, message):
    if "reference" in given:
        given = given | {"reference": folder / given["reference"]}
    with pytest.raises(ValueError, match=message):
        sampling.show_sampling(
            folder / "study.nii", "liver", folder / "wrong.html", modality="CT", **given
        )
    assert not (folder / "wrong.html").exists()


def make_item(index: int) -> dict:
    """A validation item of 64 × 64 pixels: a bright square that is asked for, and something that is
    not drawn.
    """
    image = 255 * torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(index))
    label = torch.zeros(2, 64, 64)
    label[0, 8 + index : 40 + index, 16:48] = 1
    return {
        "image": image,
        "label": label,
        "input_ids": tokenize_prompts(["liver in abdomen CT", "aorta"]),
        "prompt_valid": torch.tensor([True, False]),
        "case": "case",
        "slice_index": index,
        "target": ["liver", ""],
    }


def test_validation_previews_show_what_validation_scores_and_leave_no_trace():
    torch.manual_seed(0)
    network = build_network(
        resource_folder("bundles") / "boltzformer" / "configs" / "tiny.yaml"
    ).train()
    with torch.no_grad():  # some of an untrained network's masks, not none or all
        output = [
            network.eval()(make_item(k)["image"][None], make_item(k)["input_ids"][None])
            for k in range(10)
        ]
    network.train()
    items = {(0, k, 0): make_item(k) for k in range(10)}
    previews = ValidationPreviews(
        items, [list(items)[:7], list(items)[7:]], network, count=4, query=2
    )
    weights, drawn = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    figures = previews("epoch 5")
    assert network.training and torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in weights.items())

    assert set(figures) == {"masks", "sampling"}
    panels = [ax.get_title().split("\n") for ax in figures["masks"].axes]
    assert [name for name, _ in panels] == [
        f"liver, case slice {k}" for k in (0, 3, 6, 9)
    ]  # of all batches
    for (_, score), index in zip(panels, (0, 3, 6, 9), strict=True):
        metric, item = PromptDice(), items[(0, index, 0)]
        metric.update((output[index], item["label"][None], item["prompt_valid"][None]))
        assert score == f"Dice {metric.compute():.2f}"
    assert figures["sampling"].get_suptitle() == "epoch 5: liver, case slice 0, query 3"
    assert [ax.get_title().split(":")[0] for ax in figures["sampling"].axes] == [
        "image",
        *(f"layer {k}" for k in "123"),
    ]
    assert len(ValidationPreviews(items, [[(0, 4, 0)]], network)("epoch 1")["masks"].axes) == 1
