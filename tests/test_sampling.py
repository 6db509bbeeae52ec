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
    write_image(phantom.labels, phantom.affine_ras, folder / "labels.nii")
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
    seen, output = drawn["given"]
    assert path == output == folder / "a.png" and seen.image.shape == (512, 512) and seen.index == 2
    assert [layer.shape for layer in seen.attended] == [(12, 16, 16), (12, 32, 32), (12, 64, 64)]
    for layer, found in zip(seen.attended, sampled, strict=True):
        assert layer.any() and np.array_equal(layer.reshape(12, -1), found[0, 0].numpy())
    assert seen.reference.shape == seen.prediction.shape == (512, 512)
    assert drawn["title"] == "liver in abdomen CT: slice 2, query 6 of 12" and drawn["query"] == 5


@pytest.mark.parametrize("ending", ["png", "html"])
def test_the_command_writes_the_same_file_twice(folder, capsys, ending):
    for name in ("one", "two"):
        given = ["sampling", str(folder / "study.nii"), "--prompt", "spleen", "--modality", "CT"]
        given += ["--step", "20"] if ending == "html" else []
        assert main([*given, "--output", str(folder / f"{name}.{ending}")]) == 0
        assert capsys.readouterr().out.strip() == str(folder / f"{name}.{ending}")
    assert (folder / f"one.{ending}").read_bytes() == (folder / f"two.{ending}").read_bytes()


def test_a_sheet_shows_every_nth_slice_and_counts_on_the_label_asked_for(folder, monkeypatch):
    sheets = []
    monkeypatch.setattr(sampling, "write_sampling_sheet", lambda slices, *_, **named: sheets.append((*slices, named)))
    settings = {"step": 12, "reference": folder / "labels.nii", "label": 7, "modality": "CT"}
    sampling.show_sampling(folder / "study.nii", "liver", folder / "a.html", **settings)
    (*slices, named) = sheets[0]
    assert [seen.index for seen in slices] == list(range(0, 12 * len(slices), 12)) and len(slices) > 2
    assert any(seen.reference.any() for seen in slices)
    settings |= {"reference": folder / "liver.nii", "label": None}
    sampling.show_sampling(folder / "study.nii", "liver", folder / "a.html", **settings)
    for seen, same in zip(slices, sheets[1], strict=False):
        assert np.array_equal(seen.reference, same.reference)
    assert named == {"title": "liver: query 1 of 12", "query": 0}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--step", "2", "step: expected 1 or more, and a sheet (.html) if more, received 2"),
        ("--output", "wrong.gif", "wrong.gif: expected a file .png (of one slice) or .html (of the whole study)"),
        ("--slice", "99", "slice: expected 0 to "),
        ("--query", "12", "query: expected 0 to 11, received 12"),
        ("--reference", "other.nii", "other.nii: expected a mask on the grid of study.nii, got another grid"),
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
        ({"slice_index": 3}, "slice: expected none for a sheet of the whole study, received 3"),
        ({"reference": "labels.nii", "label": 99}, "labels.nii: expected voxels of 99, found none"),
    ],
)
def test_what_a_sheet_cannot_be_of_is_told(folder, given, message):
    if "reference" in given:
        given = given | {"reference": folder / given["reference"]}
    with pytest.raises(ValueError, match=message):
        sampling.show_sampling(folder / "study.nii", "liver", folder / "wrong.html", modality="CT", **given)
    assert not (folder / "wrong.html").exists()
