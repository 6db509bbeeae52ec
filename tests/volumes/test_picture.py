"""Pictures are read by their first channel, whatever their mode, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boltzmed.errors import InputError
from boltzmed.volumes import read_picture

GREY = (np.arange(20).reshape(4, 5) * 12).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_the_first_channel_is_read(tmp_path: Path, mode: str):
    Image.fromarray(GREY).convert(mode).save(tmp_path / "a.png")
    pixels = read_picture(tmp_path / "a.png")
    assert pixels.dtype == np.uint8 and pixels.shape == (4, 5) and np.array_equal(pixels, GREY)
    pixels[0, 0] = 1  # a copy of its own


def test_opacity_is_no_mask(tmp_path: Path):
    opaque = np.dstack([GREY, GREY * 0, GREY * 0, np.full_like(GREY, 255)])
    Image.fromarray(opaque).save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png"), GREY)


def test_black_and_white_are_0_and_255(tmp_path: Path):
    Image.fromarray(GREY > 100).save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png"), np.where(GREY > 100, 255, 0))


def test_a_palette_is_resolved(tmp_path: Path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").tolist() == [[0, 255]]


def test_more_bits_are_refused(tmp_path: Path):
    Image.fromarray(GREY.astype(np.uint16) * 256).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"^a.png: expected an 8-bit picture, received mode I;16"):
        read_picture(tmp_path / "a.png")


def test_broken_files_are_refused(tmp_path: Path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(
        tmp_path / "whole.png"
    )
    content = (tmp_path / "whole.png").read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 255
    for broken in (b"", b"text", content[:20], content[: len(content) // 2], bytes(flipped)):
        (tmp_path / "a.png").write_bytes(broken)
        with pytest.raises(
            InputError, match=r"^a.png: expected a whole picture, received"
        ) as raised:
            read_picture(tmp_path / "a.png")
        assert str(tmp_path) not in str(raised.value)
    with pytest.raises(InputError, match=r"^none.png: expected a whole picture"):
        read_picture(tmp_path / "none.png")
