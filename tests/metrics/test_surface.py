"""Surface distances: known answers in mm, and agreement with a naive count, with MONAI's and with
SimpleITK's.
"""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from scipy.spatial.distance import cdist

from boltzmed.metrics.surface import SurfaceComparison, compare_surfaces


def box(shape: tuple[int, ...], *ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(*bounds) for bounds in ranges)] = 1
    return mask


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.25, 5.0)])
def test_a_shifted_cube_is_as_far_away_as_it_was_shifted(axis, spacing):
    reference = box((20, 20, 20), (4, 14), (4, 14), (4, 14))
    found = compare_surfaces(np.roll(reference, 3, axis), reference, spacing)
    # The face in front, at the shift's whole distance, is more than a twentieth of the surface.
    assert found.hd95_mm == pytest.approx(3 * spacing[axis], rel=1e-12)
    assert 0 < found.assd_mm < 3 * spacing[axis]
    assert compare_surfaces(reference, reference, spacing) == (0, 0, 1)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 2.5)])
def test_spheres_one_in_the_other(spacing):
    size = [int(40 / edge) for edge in spacing]
    place = np.stack(
        np.meshgrid(
            *(np.arange(n) * s - 20 for n, s in zip(size, spacing, strict=True)), indexing="ij"
        )
    )
    radius = np.linalg.norm(place, axis=0)
    found = compare_surfaces(radius < 15, radius < 11, spacing, tolerance_mm=1.5)
    # Voxels of a round surface lie up to their own depth inside it.
    assert found.assd_mm == pytest.approx(
        4, abs=max(spacing) / 2
    ) and found.hd95_mm == pytest.approx(4, abs=0.5)
    assert found.nsd < 0.05
    assert compare_surfaces(radius < 15, radius < 11, spacing, tolerance_mm=5.5).nsd == 1


def test_single_voxels():
    one, other = box((9, 3, 3), (1, 2), (1, 2), (1, 2)), box((9, 3, 3), (6, 7), (1, 2), (1, 2))
    # Their centres are 5 voxels apart; of eight corners each, four are 4 voxels from the nearest of
    # the other's.
    assert compare_surfaces(one, other, (0.5, 9, 9)) == pytest.approx((2.5, 2.5, 0.5))
    assert compare_surfaces(one, other, (0.5, 9, 9), tolerance_mm=1.99).nsd == 0
    assert compare_surfaces(one, other, (0.5, 9, 9), tolerance_mm=2.5).nsd == 1
    assert compare_surfaces(one[:, :, 1], other[:, :, 1], (0.5, 9)) == pytest.approx(
        (2.5, 2.5, 0.5)
    )
    diagonal = np.diag([1, 0, 0, 0]), np.diag([0, 0, 0, 1])
    assert compare_surfaces(*diagonal, (3, 4))[:2] == pytest.approx((15, 15))


def test_a_sheared_grid_has_its_own_distances_and_no_nsd():
    tilted = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 5 * np.sin(np.radians(25)), 5 * np.cos(np.radians(25))]]
    )
    for offset, expected in (((0, 5, 2), 12.933), ((0, -4, 2), 9.066), ((3, 0, 0), 3)):
        one, other = np.zeros((2, 11, 11, 11))
        one[4, 4, 4] = other[tuple(np.add(4, offset))] = 1
        found = compare_surfaces(one, other, tilted)
        assert found[:2] == pytest.approx([np.linalg.norm(offset @ tilted)] * 2)
        assert found.hd95_mm == pytest.approx(expected, abs=1e-3) and found.nsd is None
        assert compare_surfaces(one, 0 * other, tilted) == SurfaceComparison(None, None, None)
        # Its slices have right angles.
        assert compare_surfaces(one[4], one[4], tilted[1:]).nsd is None
        assert compare_surfaces(one[..., 4], one[..., 4], tilted[:2]).nsd == 1


def test_where_a_grid_points_does_not_matter():
    one, other = np.random.default_rng(0).random((2, 5, 6, 7)) < 0.3
    turned = 1.5 * np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    assert compare_surfaces(one, other, turned) == pytest.approx(
        compare_surfaces(one, other, (1.5, 1.5, 1.5))
    )


def test_one_voxel_more_on_a_thick_slice_counts_as_thick():
    thin, thick = box((6, 6, 6), (1, 5), (1, 5), (1, 4)), box((6, 6, 6), (1, 5), (1, 5), (1, 5))
    for edge in (5, 0.3):
        found = compare_surfaces(thin, thick, (1, 1, edge), tolerance_mm=0.29)
        assert found.hd95_mm == pytest.approx(edge)
        # 16 of 16 + 16 + 24 voxels on the surface of the one lie a slice away, 4 of the other's.
        assert found.assd_mm < edge / 2


def test_a_distance_of_the_tolerance_is_within_it():
    one, other = box((8, 2), (1, 2), (0, 2)), box((8, 2), (1, 5), (0, 2))
    assert 3 * 0.1 > 0.3  # as computed
    assert compare_surfaces(one, other, (0.1, 0.1), tolerance_mm=0.3).nsd == 1
    assert compare_surfaces(one, other, (0.1, 0.1), tolerance_mm=0.299).nsd < 1


def test_the_edge_of_the_array_is_a_surface():
    full, inner = np.ones((6, 6, 6)), box((6, 6, 6), (0, 6), (0, 6), (0, 3))
    assert compare_surfaces(full, inner, (1, 1, 1)).hd95_mm == 3
    wide = [np.pad(mask, 2) for mask in (full, inner)]
    assert compare_surfaces(*wide, (1, 1, 1)) == pytest.approx(
        compare_surfaces(full, inner, (1, 1, 1)), rel=1e-9
    )


@pytest.mark.parametrize("thick", [1, 5])
def test_the_share_of_a_surface_is_one_of_area(thick):
    # The same block in both, and a plate far away in the reference alone: 12 x 12 x 12 voxels, and
    # 12 x 12 x 1.
    block = box((30, 30, 60), (2, 14), (2, 14), (2, 14))
    plate = box((30, 30, 60), (2, 14), (2, 14), (40, 41))
    found = compare_surfaces(block, block + plate, (1, 1, thick))
    area, plate_area = 2 * (144 + 2 * 12 * 12 * thick), 2 * (144 + 2 * 12 * thick)
    assert found.nsd == pytest.approx(2 * area / (2 * area + plate_area), abs=0.01)


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5), (0, 0, 0)])
def test_empty_masks(shape):
    empty, full = np.zeros(shape), np.ones(shape)
    assert compare_surfaces(empty, empty, (1,) * len(shape)) == SurfaceComparison(None, None, None)
    if full.size:
        assert compare_surfaces(empty, full, (1,) * len(shape)) == SurfaceComparison(
            None, None, 0.0
        )
        assert compare_surfaces(full, empty, (1,) * len(shape)) == SurfaceComparison(
            None, None, 0.0
        )


def naive(
    prediction: np.ndarray, reference: np.ndarray, spacing: np.ndarray
) -> tuple[float, float]:
    """All pairs of surface voxels, found one by one: HD95 and ASSD."""

    def edges(mask: np.ndarray) -> np.ndarray:
        voxels = {tuple(place) for place in np.argwhere(mask).tolist()}
        steps = [
            sign * np.eye(mask.ndim, dtype=int)[axis]
            for axis in range(mask.ndim)
            for sign in (-1, 1)
        ]
        open_to = [
            v
            for v in sorted(voxels)
            if any(tuple((v + step).tolist()) not in voxels for step in steps)
        ]
        return np.array(open_to) * spacing

    apart = cdist(edges(prediction), edges(reference))
    there, back = np.sort(apart.min(1)), np.sort(apart.min(0))

    def percentile(distances: np.ndarray) -> float:
        place = 0.95 * (len(distances) - 1)
        below = distances[int(place)]
        return below + (place % 1) * (distances[min(int(place) + 1, len(distances) - 1)] - below)

    return max(percentile(there), percentile(back)), (there.sum() + back.sum()) / (
        len(there) + len(back)
    )


@pytest.mark.parametrize("axes", [2, 3])
def test_random_masks_agree_with_a_naive_count_and_with_monai(axes):
    generator = np.random.default_rng(axes)
    compared = 0
    for _ in range(25):
        shape, spacing = generator.integers(1, 9, axes), generator.uniform(0.3, 5, axes)
        prediction, reference = (
            generator.random(shape) < generator.uniform(0.05, 0.95) for _ in range(2)
        )
        if not prediction.any() or not reference.any():
            continue
        tolerance = generator.uniform(0.2, 4)
        found = compare_surfaces(prediction, reference, spacing, tolerance_mm=tolerance)
        assert found[:2] == pytest.approx(naive(prediction, reference, spacing), rel=1e-9)
        pair = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference)]
        options = {"include_background": True, "spacing": spacing.tolist()}
        others = (
            compute_hausdorff_distance(*pair, percentile=95, **options),
            compute_average_surface_distance(*pair, symmetric=True, **options),
            compute_surface_dice(*pair, [tolerance], use_subvoxels=True, **options),
        )
        assert found == pytest.approx([float(value) for value in others], rel=1e-4)
        compared += 1
    assert compared > 15


def test_random_masks_agree_with_simpleitk():
    """Its distance maps of label contours: another surface finder, another distance transform."""
    generator = np.random.default_rng(0)
    for _ in range(4):
        spacing = generator.uniform(0.5, 4, 3)
        masks = [
            SimpleITK.GetImageFromArray((generator.random((7, 8, 9)) < 0.3).astype(np.uint8))
            for _ in range(2)
        ]
        directed = []
        for mask in masks:
            mask.SetSpacing(spacing[::-1].tolist())
        contours = [
            SimpleITK.LabelContour(SimpleITK.ConstantPad(mask, [1] * 3, [1] * 3)) for mask in masks
        ]
        for one, other in (contours, contours[::-1]):
            map_mm = SimpleITK.SignedMaurerDistanceMap(
                other, squaredDistance=False, useImageSpacing=True
            )
            away = np.maximum(SimpleITK.GetArrayFromImage(map_mm), 0)
            directed.append(away[SimpleITK.GetArrayFromImage(one) > 0])
        found = compare_surfaces(*(SimpleITK.GetArrayFromImage(mask) for mask in masks), spacing)
        assert found.hd95_mm == pytest.approx(
            max(np.percentile(away, 95) for away in directed), rel=1e-5
        )
        assert found.assd_mm == pytest.approx(np.concatenate(directed).mean(), rel=1e-5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), axes=st.integers(2, 3))
def test_whatever_the_side_and_the_pose(seed, axes):
    generator = np.random.default_rng(seed)
    spacing = generator.uniform(0.3, 5, axes)
    one, other = generator.random((2, *generator.integers(2, 6, axes))) < 0.4
    found = compare_surfaces(one, other, spacing)
    if found.assd_mm is None:
        return
    assert found == pytest.approx(compare_surfaces(other, one, spacing), rel=1e-6)
    order, flipped = (
        generator.permutation(axes),
        np.flatnonzero(generator.random(axes) < 0.5).tolist(),
    )
    turned = [np.flip(mask.transpose(order), flipped) for mask in (one, other)]
    assert found == pytest.approx(compare_surfaces(*turned, spacing[order]), rel=1e-6)
    assert found == pytest.approx(
        compare_surfaces(np.pad(one, 3), np.pad(other, 3), spacing), rel=1e-6
    )
    assert 0 <= found.assd_mm <= np.linalg.norm(np.array(one.shape) * spacing)


def test_other_shapes_are_refused():
    with pytest.raises(
        ValueError,
        match=r"a spacing for each axis, received \(2, 3\), \(3, 2\) and \[1.0, 1.0\] mm",
    ):
        compare_surfaces(np.ones((2, 3)), np.ones((3, 2)), (1, 1))
    with pytest.raises(ValueError, match="a spacing for each axis"):
        compare_surfaces(np.ones((2, 3)), np.ones((2, 3)), (1, 1, 1))
