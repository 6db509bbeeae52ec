"""Nearest neighbours onto another grid."""

from __future__ import annotations

import numpy as np
import pytest

from boltzmed.errors import InputError
from boltzmed.masks.grids import Grid, check_grid, resample_nearest

AFFINE = np.array([[-0.7, 0, 0, 90], [0, 0.7, 0, -120], [0, 0, 5, 40], [0, 0, 0, 1]], float)


def test_onto_itself_and_onto_other_orders_of_its_axes():
    voxels = np.random.default_rng(0).integers(0, 5, (6, 7, 4)).astype(np.uint8)
    assert np.array_equal(resample_nearest(voxels, AFFINE, Grid(voxels.shape, AFFINE)), voxels)
    turned = AFFINE[:, [2, 0, 1, 3]].copy()
    turned[:3, 3] += 3 * turned[:3, 0]
    turned[:3, 0] *= -1  # slices first, from the last to the first
    assert np.array_equal(
        resample_nearest(voxels, AFFINE, Grid((4, 6, 7), turned)),
        np.flip(voxels.transpose(2, 0, 1), axis=0),
    )


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_a_finer_grid_repeats_each_voxel_to_the_edge(dtype):
    voxels = np.random.default_rng(0).integers(0, 2, (4, 3, 5)).astype(dtype)
    finer = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    finer[:3, 3] = (AFFINE @ [-0.25, -0.25, -0.25, 1])[:3]  # the corner stays
    found = resample_nearest(voxels, AFFINE, Grid((8, 6, 10), finer))
    assert found.dtype == dtype
    assert np.array_equal(found, voxels.repeat(2, 0).repeat(2, 1).repeat(2, 2))


def test_outside_is_nothing():
    far = AFFINE.copy()
    far[:3, 3] += 1000
    assert not resample_nearest(np.ones((3, 3, 3), bool), AFFINE, Grid((4, 4, 4), far)).any()
    assert np.isneginf(
        resample_nearest(np.ones((3, 3, 3), np.float32), AFFINE, Grid((4, 4, 4), far))
    ).all()


def test_another_voxel_order_is_another_grid():
    own = Grid((4, 5, 6), AFFINE)
    check_grid("case one", own, Grid((4, 5, 6), AFFINE + 1e-4))
    mirrored = AFFINE @ np.diag([-1.0, 1.0, 1.0, 1.0])
    mirrored[:3, 3] += 3 * AFFINE[:3, 0]
    for shape, affine in (((4, 5, 6), mirrored), ((4, 5, 7), AFFINE), ((4, 5, 6), AFFINE + 0.01)):
        with pytest.raises(InputError, match="case one: expected image and label on one grid"):
            check_grid("case one", own, Grid(shape, affine))
