"""What is drawn is what the network sampled on that slice."""

from __future__ import annotations

import numpy as np
import pytest

from boltzmed import sampling
from boltzmed.cli import main
from boltzmed.data.phantom import make_phantom
from boltzmed.networks.decoder import Decoder
from boltzmed.volumes import write_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("sampling")
    phantom = make_phantom(3, matrix=64, slice_spacing_mm=10.0)
    write_image(phantom.image_hu, phantom.affine_ras, folder / "study.nii")
    write_image((phantom.labels == 7).astype(np.uint8), phantom.affine_ras, folder / "liver.nii")
    write_image(np.zeros((4, 4, 4), np.uint8), np.eye(4), folder / "other.nii")
    return folder


def test_layers_are_drawn_as_the_decoder_sampled_them(folder, monkeypatch):
    drawn, sampled = {}, []
    monkeypatch.setattr(sampling, "draw_sampling", lambda *given, **named: drawn.update(named, given=given))
    attend_image = Decoder.attend_image

    def watched(self, *given):
        update, attended = attend_image(self, *given)
        sampled.append(attended)
        return update, attended

    monkeypatch.setattr(Decoder, "attend_image", watched)
    settings = {"slice_index": 2, "query": 5, "reference": folder / "liver.nii", "modality": "CT"}
    path = sampling.show_sampling(folder / "study.nii", "liver in abdomen CT", folder / "a.png", **settings)
    image, attended, output = drawn["given"]
    assert path == output == folder / "a.png" and image.shape == (512, 512)
    assert [layer.shape for layer in attended] == [(16, 16), (32, 32), (64, 64)]
    for layer, found in zip(attended, sampled, strict=True):
        assert layer.any() and np.array_equal(layer.reshape(-1), found[0, 0, 5].numpy())
    assert drawn["reference"].shape == drawn["prediction"].shape == (512, 512)
    assert drawn["title"] == "liver in abdomen CT: slice 2, query 6 of 12"


def test_the_command_writes_the_same_picture_twice(folder, capsys):
    for name in ("one.png", "two.png"):
        given = ["sampling", str(folder / "study.nii"), "--prompt", "spleen", "--modality", "CT"]
        assert main([*given, "--output", str(folder / name)]) == 0
        assert capsys.readouterr().out.strip() == str(folder / name)
    assert (folder / "one.png").read_bytes() == (folder / "two.png").read_bytes()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--slice", "99", "slice: expected 0 to "),
        ("--query", "12", "query: expected 0 to 11, received 12"),
        ("--reference", "other.nii", "other.nii: expected a mask on the grid of study.nii, got another grid"),
    ],
)
def test_wrong_input_is_one_line(folder, capsys, option, value, message):
    value = str(folder / value) if value.endswith(".nii") else value
    given = ["sampling", str(folder / "study.nii"), "--prompt", "liver", "--modality", "CT", option, value]
    assert main([*given, "--output", str(folder / "wrong.png")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line and not (folder / "wrong.png").exists()
