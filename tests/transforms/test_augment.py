"""Augmentation: what the paper says, never a mirror, the same for the same key."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from boltzmed.transforms.augment import Augmentation, apply_augmentation, draw_augmentation

SIDE = 64


def l_shape() -> torch.Tensor:
    """A letter L: a long stroke down and a short one to the right."""
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    mask[0, 16:48, 24:30] = 1
    mask[0, 42:48, 24:42] = 1
    return mask


def chirality(mask: torch.Tensor) -> float:
    """Third-order moment whose sign turns and scalings keep and a mirror changes."""
    rows, columns = torch.nonzero(mask[0], as_tuple=True)
    points = torch.stack([rows, columns], 1).double()
    centred = points - points.mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    long_axis, short_axis = vectors[:, 1], vectors[:, 0]
    along, across = centred @ long_axis, centred @ short_axis
    # Make the frame right-handed and let the skew decide the axes' signs.
    handed = torch.sign(long_axis[0] * short_axis[1] - long_axis[1] * short_axis[0])
    return float(handed * torch.sign((along**3).sum()) * torch.sign((across**3).sum()))


def draws(count: int, probability: float = 1.0) -> list[Augmentation | None]:
    return [
        draw_augmentation(np.random.default_rng(k), probability=probability) for k in range(count)
    ]


def test_chirality_tells_a_mirror():
    assert chirality(l_shape()) == -chirality(l_shape().flip(-1)) == -chirality(l_shape().flip(-2))
    assert chirality(l_shape()) == chirality(l_shape().rot90(1, (-2, -1)))


def test_nothing_is_ever_mirrored():
    mask = l_shape()
    for augmentation in draws(200):
        _, moved = apply_augmentation(torch.rand(3, SIDE, SIDE), mask, augmentation)
        assert chirality(moved) == chirality(mask)


def test_draws_are_uniform_and_within_the_papers_ranges():
    found = draws(4000, probability=0.5)
    kept = [augmentation for augmentation in found if augmentation is not None]
    assert 0.46 < len(kept) / len(found) < 0.54
    turns = np.bincount([augmentation.quarter_turns for augmentation in kept], minlength=4) / len(
        kept
    )
    assert turns.shape == (4,) and np.abs(turns - 0.25).max() < 0.04
    for values in (
        [augmentation.shift_h for augmentation in kept],
        [augmentation.shift_w for augmentation in kept],
        [augmentation.scale - 1 for augmentation in kept],
    ):
        assert -0.1 <= min(values) < -0.095 and 0.095 < max(values) <= 0.1
        assert abs(np.mean(values)) < 0.006 and np.std(values) == pytest.approx(
            0.2 / 12**0.5, rel=0.05
        )


def test_the_key_decides_alone():
    first = draw_augmentation(np.random.default_rng(7), probability=1.0)
    torch.manual_seed(2)
    np.random.seed(3)  # noqa: NPY002  (global state must not matter)
    assert draw_augmentation(np.random.default_rng(7), probability=1.0) == first
    assert draw_augmentation(np.random.default_rng(8), probability=1.0) != first
    generators = [np.random.default_rng(0) for _ in range(2)]
    draw_augmentation(generators[0], probability=0.0)
    draw_augmentation(generators[1], probability=1.0)
    assert generators[0].random() == generators[1].random()


@pytest.mark.parametrize("turns", range(4))
def test_pure_turns_are_exact(turns):
    image, masks = torch.rand(3, 9, 9), torch.rand(2, 9, 9) > 0.5
    turned, turned_masks = apply_augmentation(image, masks, Augmentation(quarter_turns=turns))
    assert torch.equal(turned, torch.rot90(image, turns, (-2, -1)))
    assert torch.equal(turned_masks, torch.rot90(masks, turns, (-2, -1)))


def test_no_augmentation_returns_the_input():
    image, masks = torch.rand(3, 9, 9), torch.rand(2, 9, 9) > 0.5
    for augmentation in (None, Augmentation()):
        same, same_masks = apply_augmentation(image, masks, augmentation)
        assert torch.equal(same, image) and torch.equal(same_masks, masks)


@pytest.mark.parametrize("scale", [0.9, 1.0, 1.1])
@pytest.mark.parametrize("shift_h, shift_w", [(0.0, 0.0), (0.1, -0.05), (-0.075, 0.1)])
def test_the_crop_is_where_its_parameters_say(scale, shift_h, shift_w):
    """A ramp sampled linearly shows each pixel's source position."""
    rows, columns = torch.meshgrid(
        torch.arange(SIDE) + 100.0, torch.arange(SIDE) + 100.0, indexing="ij"
    )
    image = torch.stack([rows, columns])
    moved, _ = apply_augmentation(image, l_shape(), Augmentation(0, shift_h, shift_w, scale))
    centre = SIDE / 2
    expected = (torch.arange(SIDE) + 0.5 - centre) * scale + centre - 0.5
    source_rows, source_columns = expected + shift_h * SIDE, expected + shift_w * SIDE
    row_inside = (source_rows >= 0) & (source_rows <= SIDE - 1)
    column_inside = (source_columns >= 0) & (source_columns <= SIDE - 1)
    inside = row_inside[:, None] & column_inside[None, :]
    torch.testing.assert_close(
        moved[0][inside], (source_rows[:, None].expand(SIDE, SIDE) + 100)[inside], atol=1e-3, rtol=0
    )
    torch.testing.assert_close(
        moved[1][inside], (source_columns.expand(SIDE, SIDE) + 100)[inside], atol=1e-3, rtol=0
    )
    # A whole pixel beyond the image there is nothing.
    outside = (source_rows < -1) | (source_rows > SIDE)
    assert not moved[:, outside].any()


def test_masks_keep_dtype_and_values():
    masks = torch.randint(0, 256, (4, SIDE, SIDE), dtype=torch.uint8)
    _, moved = apply_augmentation(
        torch.rand(3, SIDE, SIDE), masks, Augmentation(3, 0.05, 0.05, 1.07)
    )
    assert moved.dtype == torch.uint8 and set(moved.unique().tolist()) <= {
        0,
        *masks.unique().tolist(),
    }
    _, moved = apply_augmentation(
        torch.rand(3, SIDE, SIDE), masks > 99, Augmentation(0, 0.05, 0.05, 1.0)
    )
    assert moved.dtype == torch.bool


def test_image_and_mask_move_together():
    mask = l_shape()
    image = mask.float().repeat(3, 1, 1) * 255
    for augmentation in draws(50):
        moved, moved_mask = apply_augmentation(image, mask, augmentation)
        overlap = ((moved[0] > 127) & (moved_mask[0] > 0)).sum() * 2
        assert overlap / ((moved[0] > 127).sum() + (moved_mask[0] > 0).sum()) > 0.9


def test_images_that_cannot_be_turned_are_refused():
    with pytest.raises(ValueError, match="square image"):
        apply_augmentation(torch.zeros(3, 8, 9), torch.zeros(1, 8, 9), None)
    with pytest.raises(ValueError, match="masks of its size"):
        apply_augmentation(torch.zeros(3, 8, 8), torch.zeros(1, 4, 4), None)
