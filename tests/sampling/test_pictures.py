"""The pictures of what was sampled: bright where it was, dark elsewhere; and how much of it fell on
the object.
"""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from boltzmed.sampling.pictures import LayerShares, SampledSlice, draw_sampling, write_sampling_page


def make_slice(image, layers, index=0, prediction=None, reference=None):
    """A slice with one query."""
    nothing = np.zeros(image.shape, bool)
    attended = [layer[None] for layer in layers]
    return SampledSlice(
        index, image, attended, nothing if prediction is None else prediction, reference
    )


def test_sampled_patches_are_bright(tmp_path):
    image = np.full((64, 64), 255.0)
    seen = np.zeros((8, 8), bool)
    seen[2, 5] = True
    path = tmp_path / "deep" / "figure.png"
    draw_sampling(make_slice(image, [seen, np.ones((4, 4), bool)]), path, title="t")
    picture = np.asarray(Image.open(path).convert("L"))
    whole, patch, everything = np.array_split(picture, 3, axis=1)
    draw_sampling(make_slice(np.full((64, 64), 100.0), [seen]), tmp_path / "grey.png", title="t")
    assert (
        np.asarray(Image.open(tmp_path / "grey.png").convert("L")) == 100
    ).sum() > 10_000  # the image as it is
    bright = [(part > 240).sum() for part in (whole, patch, everything)]
    assert bright[1] < 0.06 * bright[0] and bright[2] > 0.9 * bright[0]  # a patch of 64, and titles
    unseen = (patch > 50) & (patch < 80)
    (top, *_, bottom), (left, *_, right) = (
        np.flatnonzero(unseen.sum(axis) > 20) for axis in (1, 0)
    )  # titles are not
    inside = patch[top : bottom + 1, left : right + 1]
    centre = (np.argwhere(inside > 240).mean(0) + 0.5) / inside.shape
    assert centre == pytest.approx([2.5 / 8, 5.5 / 8], abs=0.02)
    assert not list(path.parent.glob(".*"))


def test_masks_are_outlined_in_their_colours(tmp_path):
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    outlined = {}
    for name in ("prediction", "reference"):
        seen = make_slice(np.zeros((32, 32)), [np.zeros((4, 4), bool)], **{name: mask})
        draw_sampling(seen, tmp_path / f"{name}.png", title="t")
        outlined[name] = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int)
    blue, red = outlined["prediction"], outlined["reference"]
    assert ((blue[..., 2] - blue[..., 0]) > 100).sum() > 100 and (
        (red[..., 0] - red[..., 2]) > 100
    ).sum() > 100


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="expected to write into folder"):
        draw_sampling(
            make_slice(np.zeros((8, 8)), [np.ones((2, 2), bool)]),
            tmp_path / "file" / "a.png",
            title="t",
        )


def test_a_sheet_has_a_row_a_slice_and_nothing_from_outside(tmp_path):
    image = np.full((512, 512), 200.0)
    seen = np.zeros((16, 16), bool)
    seen[4, 8] = True
    mask = np.zeros((512, 512), bool)
    mask[100:300, 100:300] = True
    slices = (make_slice(image, [seen], index, mask, mask) for index in (0, 5, 10))
    write_sampling_page(slices, tmp_path / "sheet.html", title="<b>liver</b> & more")
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert re.findall(r"<figcaption>(.*?)</figcaption>", page) == ["slice 0", "slice 5", "slice 10"]
    assert "<title>&lt;b&gt;liver&lt;/b&gt; &amp; more</title>" in page
    assert not re.search(r"https?:|<script|<link|src=\"(?!data:)", page)
    data = re.findall(r"base64,([^\"]+)", page)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data[0]))).convert("RGB")).astype(
        int
    )
    assert picture.shape == (256, 512, 3)
    whole, layer = picture[:, :256], picture[:, 256:]
    assert abs(whole[20, 20] - 200).max() < 8 and abs(layer[20, 20] - 50).max() < 8
    assert abs(layer[4 * 16 + 8, 8 * 16 + 12] - 211).max() < 12  # inside the patch
    yellow = (picture[..., 0] - picture[..., 2]) > 80
    assert (
        700 < yellow.sum() < 900
    )  # 2 × 396: the outline where mask and reference agree, in both pictures


@pytest.mark.parametrize(
    ("plane", "sentence"),
    [("axial", "right is on the left"), ("sagittal", "front is on the left"), ("array", None)],
)
def test_a_sheet_says_what_lies_on_the_left(tmp_path, plane, sentence):
    mask = np.ones((8, 8), bool)
    slices = [make_slice(np.zeros((8, 8)), [np.ones((4, 4), bool)], 0, mask, mask)]
    write_sampling_page(slices, tmp_path / "sheet.html", title="liver", plane=plane)
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert f"The patient's {sentence}. " in page if sentence else "on the left" not in page


def test_shares_are_counted_by_hand():
    mask = np.zeros((8, 8), bool)
    mask[:2, :3] = True  # two of sixteen tokens
    attended = np.zeros((2, 4, 4), bool)
    attended[0, 0, 0] = attended[0, 3, 3] = attended[1, 0, 1] = attended[1, 0, 2] = True
    share = LayerShares((4, 4))
    share.add(attended, mask)
    assert (share.sampled, share.hits, share.expected, share.drawable) == (4, 2, 0.5, 32)
    assert share.cells(1) == ["1", "4×4", "12.5 %", "50.0 %", "12.5 %", "4.0×"]
    assert LayerShares((4, 4)).cells(2)[-1] == "–"
