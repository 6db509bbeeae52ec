"""The figure of what was sampled: bright where it was, dark elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from boltzmed.reports.sampling import draw_sampling


def test_sampled_patches_are_bright(tmp_path):
    image = np.full((64, 64), 255.0)
    seen = np.zeros((8, 8), bool)
    seen[2, 5] = True
    path = tmp_path / "deep" / "figure.png"
    draw_sampling(image, [seen, np.ones((4, 4), bool)], path, title="t")
    picture = np.asarray(Image.open(path).convert("L"))
    whole, patch, everything = np.array_split(picture, 3, axis=1)
    bright = [(part > 240).sum() for part in (whole, patch, everything)]
    assert bright[1] < 0.06 * bright[0] and bright[2] > 0.9 * bright[0]  # a patch of 64, and titles
    unseen = (patch > 50) & (patch < 80)
    (top, *_, bottom), (left, *_, right) = (np.flatnonzero(unseen.sum(axis) > 20) for axis in (1, 0))  # titles are not
    inside = patch[top : bottom + 1, left : right + 1]
    centre = (np.argwhere(inside > 240).mean(0) + 0.5) / inside.shape
    assert centre == pytest.approx([2.5 / 8, 5.5 / 8], abs=0.02)
    assert not list(path.parent.glob(".*"))


def test_masks_are_outlined_in_their_colours(tmp_path):
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    outlined = {}
    for name in ("prediction", "reference"):
        draw_sampling(np.zeros((32, 32)), [np.zeros((4, 4), bool)], tmp_path / f"{name}.png", title="t", **{name: mask})
        outlined[name] = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int)
    blue, red = outlined["prediction"], outlined["reference"]
    assert ((blue[..., 2] - blue[..., 0]) > 100).sum() > 100 and ((red[..., 0] - red[..., 2]) > 100).sum() > 100


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="expected to write into folder"):
        draw_sampling(np.zeros((8, 8)), [np.ones((2, 2), bool)], tmp_path / "file" / "a.png", title="t")
