"""Grids: what is one, and nearest neighbours onto another."""

from __future__ import annotations

import numpy as np
import pytest

from boltzmed.evaluation.grids import describe_grid, is_same_grid, resample_nearest

AFFINE = np.array([[-0.7, 0, 0, 90], [0, 0.7, 0, -120], [0, 0, 5, 40], [0, 0, 0, 1]], float)


def test_one_grid_but_for_rounding():
    shape = (512, 512, 40)
    assert is_same_grid(shape, AFFINE, shape, AFFINE.astype(np.float32).astype(float))
    assert not is_same_grid(shape, AFFINE, (512, 512, 41), AFFINE)
    turned = AFFINE.copy()
    turned[0, 1] = 1e-4  # 0.05 mm at the far corner
    assert not is_same_grid(shape, AFFINE, shape, turned)
    assert is_same_grid((20, 20, 20), AFFINE, (20, 20, 20), turned)
    moved = AFFINE.copy()
    moved[2, 3] += 0.02
    assert not is_same_grid(shape, AFFINE, shape, moved)


def test_onto_itself_and_onto_other_orders_of_its_axes():
    voxels = np.random.default_rng(0).integers(0, 5, (6, 7, 4)).astype(np.uint8)
    assert np.array_equal(resample_nearest(voxels, AFFINE, voxels.shape, AFFINE), voxels)
    turned = AFFINE[:, [2, 0, 1, 3]].copy()
    turned[:3, 3] += 3 * turned[:3, 0]
    turned[:3, 0] *= -1  # slices first, from the last to the first
    assert np.array_equal(
        resample_nearest(voxels, AFFINE, (4, 6, 7), turned), np.flip(voxels.transpose(2, 0, 1), axis=0)
    )


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_a_finer_grid_repeats_each_voxel_to_the_edge(dtype):
    voxels = np.random.default_rng(0).integers(0, 2, (4, 3, 5)).astype(dtype)
    finer = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    finer[:3, 3] = (AFFINE @ [-0.25, -0.25, -0.25, 1])[:3]  # the corner stays
    found = resample_nearest(voxels, AFFINE, (8, 6, 10), finer)
    assert found.dtype == dtype
    assert np.array_equal(found, voxels.repeat(2, 0).repeat(2, 1).repeat(2, 2))


def test_outside_is_nothing():
    far = AFFINE.copy()
    far[:3, 3] += 1000
    assert not resample_nearest(np.ones((3, 3, 3), bool), AFFINE, (4, 4, 4), far).any()
    assert np.isneginf(resample_nearest(np.ones((3, 3, 3), np.float32), AFFINE, (4, 4, 4), far)).all()


def test_words():
    assert describe_grid((4, 5, 6), AFFINE) == "(4, 5, 6) voxels of 0.7 x 0.7 x 5 mm from (90, -120, 40)"
