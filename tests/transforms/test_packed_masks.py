"""Masks a bit a voxel: slices, volumes and probabilities say the same."""

from __future__ import annotations

import numpy as np
import pytest

from boltzmed.transforms.packed_masks import PackedMasks
from tests.transforms.drawn_masks import pack_masks, place_affine

SHAPE = (9, 12, 5)


def draw_volumes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks (P,I,J,K), and probabilities of every voxel as bytes."""
    generator = np.random.default_rng(1)
    masks = generator.random((count, *SHAPE)) > 0.6
    return masks, generator.integers(128, 256, (count, *SHAPE)).astype(np.uint8)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", "array"])
@pytest.mark.parametrize("signs", [(-1, -1, 1), (1, 1, 1), (-1, 1, -1)])
def test_masks_come_back_in_the_files_own_order(plane, signs):
    masks, stored = draw_volumes(2)
    packed = pack_masks(masks, stored, place_affine(signs), plane)
    assert len(packed) == 2
    for prompt in range(2):
        volume = packed.volume(prompt)
        assert volume.dtype == np.uint8 and volume.flags.c_contiguous
        assert np.array_equal(volume, masks[prompt])
        assert np.array_equal(packed.slices(prompt), packed.plan.cut(masks[prompt]))


@pytest.mark.parametrize("plane", ["axial", "coronal", "array"])
def test_probabilities_stand_where_the_mask_is_and_nowhere_else(plane):
    masks, stored = draw_volumes(2)
    packed = pack_masks(masks, stored, place_affine((-1, 1, 1)), plane)
    for prompt in range(2):
        expected = np.where(masks[prompt], stored[prompt] / np.float32(255), 0)
        volume = packed.probability_volume(prompt)
        assert volume.dtype == np.float32 and volume.shape == SHAPE
        np.testing.assert_allclose(volume, expected, rtol=1e-6)


def test_probabilities_come_slice_by_slice_in_row_order():
    masks, stored = draw_volumes(1)
    packed = pack_masks(masks, stored, place_affine((-1, -1, 1)))
    slices = packed.plan.cut(stored[0]), packed.slices(0)
    for probabilities, values, mask in zip(packed.probabilities(0), *slices, strict=True):
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, values[mask > 0] / 255, rtol=1e-6)


def test_widths_that_eight_does_not_divide_are_packed():
    for width in (1, 7, 8, 9, 17):
        masks = np.ones((1, width, 3, 2), bool)
        packed = pack_masks(masks, np.full(masks.shape, 200, np.uint8), np.diag([-1, -1, 1, 1]))
        assert packed.bits_PKHW.shape == (1, 2, 3, -(-width // 8))
        assert packed.volume(0).all() and packed.volume(0).shape == masks.shape[1:]


def test_an_empty_mask_has_no_probabilities():
    masks = np.zeros((1, *SHAPE), bool)
    packed = pack_masks(masks, masks.astype(np.uint8), place_affine((-1, -1, 1)))
    assert not packed.volume(0).any() and not packed.probability_volume(0).any()
    assert [len(values) for values in packed.probabilities(0)] == [0] * 5


def test_presence_is_a_number_a_slice_or_none():
    masks, stored = draw_volumes(2)
    presence = np.array([[0.5, 0.25, 1, 0, 0.75], [0, 0, 0, 1, 1]], np.float32)
    packed = pack_masks(masks, stored, place_affine((-1, -1, 1)), presence_PK=presence)
    assert packed.presence(0) == [0.5, 0.25, 1, 0, 0.75] and packed.presence(1)[3] == 1
    without: PackedMasks = pack_masks(masks, stored, place_affine((-1, -1, 1)))
    assert without.presence(0) is None
