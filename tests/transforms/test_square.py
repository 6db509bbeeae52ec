"""Square padding and resizing: nothing moves, masks keep their values, logits return to the native
grid.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boltzmed.transforms.square import SquareGrid

sides = st.integers(1, 40)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(height=sides, width=sides)
def test_padding_is_equal_on_both_sides_and_comes_off(height, width):
    grid = SquareGrid(height, width, 16)
    left, right, top, bottom = grid.padding
    # The first side gets one fewer when the difference is odd.
    assert right - left in (0, 1) and bottom - top in (0, 1)
    image = torch.rand(2, height, width) + 1
    padded = grid.pad(image)
    assert padded.shape == (2, grid.side, grid.side)
    assert padded.sum().item() == pytest.approx(image.sum().item(), rel=1e-5)
    assert torch.equal(grid.crop(padded), image)
    mask = torch.rand(height, width) > 0.5
    assert grid.pad(mask).dtype == torch.bool


@pytest.mark.parametrize(
    "height, width, image_size", [(40, 40, 40), (40, 64, 96), (65, 40, 48), (31, 30, 128)]
)
def test_images_keep_their_centre_of_mass(height, width, image_size):
    grid = SquareGrid(height, width, image_size)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    blob = 200 * torch.exp(
        -((rows - height * 0.4) ** 2 + (columns - width * 0.55) ** 2) / (2 * 3.0**2)
    )
    image = grid.to_image(blob[None, None].repeat(1, 3, 1, 1))
    assert image.shape == (1, 3, image_size, image_size)
    assert image.min() >= 0 and image.max() <= 255
    # Pixel k covers k … k+1, so centres are k + 0.5, in native pixels from the square's corner.
    scale = grid.side / image_size
    weights = image[0, 0] / image[0, 0].sum()
    positions = (torch.arange(image_size) + 0.5) * scale
    left, _, top, _ = grid.padding
    assert (weights.sum(1) * positions).sum().item() == pytest.approx(
        height * 0.4 + top + 0.5, abs=0.05
    )
    assert (weights.sum(0) * positions).sum().item() == pytest.approx(
        width * 0.55 + left + 0.5, abs=0.05
    )


@pytest.mark.parametrize("height, width", [(64, 64), (64, 50), (51, 64), (33, 64), (128, 96)])
@pytest.mark.parametrize("resolution", [32, 64, 256])
def test_logits_return_to_the_pixel_they_came_from(height, width, resolution):
    grid = SquareGrid(height, width, 512)
    # A bump drawn at the network's resolution over the centre of native pixel (20, 30).
    left, _, top, _ = grid.padding
    centres = (torch.arange(resolution) + 0.5) * (grid.side / resolution)
    bump = -((centres[:, None] - (20.5 + top)) ** 2) - (centres[None, :] - (30.5 + left)) ** 2
    logits = torch.exp(bump / (2 * 4.0**2))[None, None]
    native = grid.to_native(logits)
    assert native.shape == (1, 1, height, width)
    weights = native[0, 0] / native.sum()
    assert (weights.sum(1) * torch.arange(height)).sum().item() == pytest.approx(20, abs=0.05)
    assert (weights.sum(0) * torch.arange(width)).sum().item() == pytest.approx(30, abs=0.05)
    if resolution >= grid.side:
        assert divmod(int(native.argmax()), width) == (20, 30)


def test_native_resolution_is_returned_untouched():
    grid = SquareGrid(7, 5, 32)
    logits = torch.randn(2, 3, 7, 7)
    assert torch.equal(grid.to_native(logits), logits[..., 1:6])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(height=sides, width=sides, factor=st.integers(1, 4))
def test_targets_are_nearest_neighbours(height, width, factor):
    side = max(height, width)
    grid = SquareGrid(height, width, side * factor)
    masks = torch.randint(0, 5, (1, 2, height, width), dtype=torch.uint8)
    target = grid.to_target(masks)
    assert target.dtype == torch.uint8
    expected = grid.pad(masks).repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    assert torch.equal(target, expected)


def test_smaller_targets_follow_pixel_centres():
    masks = (torch.rand(1, 1, 30, 30) > 0.5).to(torch.uint8)
    expected = torch.nn.functional.interpolate(masks, (11, 11), mode="nearest-exact")
    assert torch.equal(SquareGrid(30, 30, 11).to_target(masks), expected)


def test_wrong_input_is_refused():
    grid = SquareGrid(4, 5, 8)
    with pytest.raises(ValueError, match="expected slices of 4 x 5 pixels"):
        grid.to_image(torch.zeros(1, 3, 5, 4))
    with pytest.raises(ValueError, match="logits: expected square"):
        grid.to_native(torch.zeros(1, 1, 4, 5))
    with pytest.raises(ValueError, match="height of at least 1"):
        SquareGrid(0, 4, 8)


def test_a_crop_keeps_its_scale_in_a_larger_square():
    grid = SquareGrid(3, 5, image_size=8, min_side=8)
    assert grid.side == 8 and grid.padding == (1, 2, 2, 3)
    image = torch.arange(15.0).reshape(1, 1, 3, 5)
    placed = grid.to_image(image)
    assert torch.equal(placed[0, 0, 2:5, 1:6], image[0, 0]) and placed.sum() == image.sum()
    assert torch.equal(grid.to_target(image.int())[..., 2:5, 1:6], image.int())
    assert torch.equal(grid.to_native(placed), image)
    # A square that is large enough already stays as it is.
    assert (
        SquareGrid(9, 5, 8, min_side=8) != SquareGrid(9, 5, 8)
        and SquareGrid(9, 5, 8, min_side=8).side == 9
    )
    with pytest.raises(ValueError, match="expected min_side of at least 1, received 0"):
        SquareGrid(3, 5, 8, min_side=0)
