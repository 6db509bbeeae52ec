"""Volumes for the page: small enough, where they were, and without a word of their headers."""

import base64
import dataclasses
import gzip

import nibabel
import numpy as np
import pytest

from boltzmed.reports.pictures import CasePicture
from boltzmed.reports.viewer import embed_case, encode_script, find_niivue, scale_grey

COLOURS = {"reference": "#F0E442", "a": "#0072B2"}


def make_picture(shape, box, spacing_mm=(3.0, 1.0, 0.5)):
    generator = np.random.default_rng(0)
    reference = np.zeros(shape, bool)
    reference[box] = True
    image = generator.integers(-1000, 1000, shape).astype(np.float32)
    return CasePicture(
        "case, target", image, (-1000.0, 1000.0), reference, {"a": reference}, spacing_mm
    )


def unpack(data):
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(data)))


def test_a_small_case_travels_whole_and_nothing_but_its_voxels():
    picture = make_picture((5, 20, 30), np.s_[1:3, 4:10, 5:12])
    case = embed_case(picture, COLOURS, slice_index=2, megabytes=1)
    assert (case["shape"], case["slice"], case["first"], case["note"]) == ([30, 20, 5], 2, 0, "")
    image = unpack(case["image"])
    assert np.array_equal(
        image.get_fdata().transpose(2, 1, 0), scale_grey(picture.image, picture.window)
    )
    # Columns run from the patient's right to left, rows from front to back: against RAS.
    assert np.array_equal(image.affine, np.diag([-0.5, -1, 3, 1]))
    header = image.header
    assert not header.extensions
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        assert header[name].tobytes().strip(b"\0") == b""
    reference, mask = (
        unpack(layer["data"]).get_fdata().transpose(2, 1, 0) for layer in case["masks"]
    )
    assert np.array_equal(mask, picture.reference)
    outline = picture.reference.copy()
    outline[1:3, 5:9, 6:11] = False
    assert np.array_equal(reference, outline)
    assert [layer["name"] for layer in case["masks"]] == ["reference", "a"]


@pytest.mark.parametrize(
    ("directions", "affine", "view"),
    [
        (
            ("A", "I", "L"),
            [[-0.5, 0, 0], [0, 0, 3], [0, -1, 0]],
            {"name": "Coronal", "axis": 1, "reversed": False},
        ),
        (
            ("R", "I", "P"),
            [[0, 0, 3], [-0.5, 0, 0], [0, -1, 0]],
            {"name": "Sagittal", "axis": 0, "reversed": False},
        ),
        (
            ("I", "A", "R"),
            [[0.5, 0, 0], [0, 1, 0], [0, 0, -3]],
            {"name": "Axial", "axis": 2, "reversed": True},
        ),
    ],
)
def test_other_planes_keep_their_sides(directions, affine, view):
    picture = dataclasses.replace(
        make_picture((5, 20, 30), np.s_[1:3, 4:10, 5:12]), directions=directions
    )
    case = embed_case(picture, COLOURS, slice_index=2, megabytes=1)
    assert case["view"] == view
    for data in (case["image"], case["masks"][0]["data"]):
        assert np.array_equal(unpack(data).affine[:3, :3], affine)


def test_a_large_case_is_cropped_and_then_thinned():
    picture = make_picture((60, 200, 200), np.s_[30:33, 100:103, 100:103])
    cropped = embed_case(picture, COLOURS, slice_index=31, megabytes=0.5)
    # 30 mm on each side: 10 slices of 3 mm, 30 rows of 1 mm, 60 columns of 0.5 mm.
    assert cropped["shape"] == [123, 63, 23] and "cropped" in cropped["note"]
    assert (cropped["first"], cropped["slice"]) == (20, 11)
    assert unpack(cropped["masks"][1]["data"]).get_fdata().sum() == 27
    thinned = embed_case(picture, COLOURS, slice_index=31, megabytes=0.05)
    assert (
        thinned["shape"] == [62, 32, 23]
        and "every 2 pixels in plane shown as one" in thinned["note"]
    )
    assert thinned["spacing_mm"] == [1.0, 2.0, 3.0]
    assert unpack(thinned["masks"][1]["data"]).get_fdata().any()


def test_the_window_becomes_grey():
    assert scale_grey(np.array([-2000.0, -1000, 0, 1000, 3000]), (-1000, 1000)).tolist() == [
        0,
        0,
        128,
        255,
        255,
    ]
    assert scale_grey(np.array([1.0, 1.0]), (1.0, 1.0)).tolist() == [0, 0]


def test_niivue_comes_from_where_npm_put_it(tmp_path):
    bundle = tmp_path / "node_modules" / "@niivue" / "niivue" / "dist" / "niivue.umd.js"
    bundle.parent.mkdir(parents=True)
    bundle.write_text("var niivue = {Niivue: 1}")
    (tmp_path / "project").mkdir()
    assert (
        find_niivue(tmp_path / "project")
        == "var niivue = {Niivue: 1}\n;globalThis.Niivue = niivue.Niivue;"
    )


def test_niivue_comes_from_ipyniivue(tmp_path):
    pytest.importorskip("ipyniivue", reason="ipyniivue is not installed")
    script = find_niivue(tmp_path)
    assert script is not None and "export{" not in script[-200:]
    assert "</script" not in script
    assert gzip.decompress(base64.b64decode(encode_script(script))).decode() == script
