"""Cutting and stacking: exact inverses, and the right anatomy at the right place, whatever the
file's array order.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation

from boltzmed.transforms.slices import PLANES, SlicePlan

ORIENTATIONS = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
DIRECTIONS = {
    "R": (1, 0, 0),
    "L": (-1, 0, 0),
    "A": (0, 1, 0),
    "P": (0, -1, 0),
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}


def make_affine(
    orientation, spacing=(1.0, 1.0, 1.0), rotation=None, origin=(0.0, 0.0, 0.0)
) -> np.ndarray:
    """Array axis a runs along patient axis axes[a] in the direction signs[a], then everything is
    rotated.
    """
    axes, signs = orientation
    matrix = np.zeros((3, 3))
    for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        matrix[axis, column] = sign * spacing[column]
    affine = np.eye(4)
    affine[:3, :3] = matrix if rotation is None else rotation @ matrix
    affine[:3, 3] = origin
    return affine


def world_coordinates(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """RAS millimetres of every voxel, (3, *shape)."""
    indices = np.indices(shape).reshape(3, -1)
    return (affine[:3, :3] @ indices + affine[:3, 3:]).reshape(3, *shape)


shapes = st.tuples(*[st.integers(1, 7)] * 3)
spacings = st.tuples(*[st.floats(0.2, 8.0)] * 3)
# Below 35 degrees each array axis stays closest to the patient axis it was made along.
rotations = st.tuples(*[st.floats(-1, 1)] * 3).map(
    lambda v: Rotation.from_rotvec(
        np.asarray(v) / max(np.linalg.norm(v), 1.0) * np.radians(35)
    ).as_matrix()
)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(shape=shapes, spacing=spacings, rotation=rotations, plane=st.sampled_from(sorted(PLANES)))
def test_cut_and_stack_undo_each_other_and_keep_anatomy(
    orientation, shape, spacing, rotation, plane
):
    affine = make_affine(orientation, spacing, rotation, (-31.5, 12.25, 900.0))
    plan = SlicePlan.from_affine(affine, shape, plane)
    volume = np.random.default_rng(0).integers(0, 1 << 30, shape).astype(np.int32)

    slices = plan.cut(volume)
    assert slices.shape == (plan.count, *plan.slice_shape)
    assert np.shares_memory(slices, volume)
    assert np.array_equal(plan.stack(slices), volume)
    tensor = torch.from_numpy(volume)
    assert torch.equal(plan.cut(tensor), torch.from_numpy(slices.copy()))
    assert torch.equal(plan.stack(plan.cut(tensor)), tensor)

    # Every voxel's millimetres, cut, are the millimetres that the slices' own affine gives.
    affine_slices = plan.slices_affine(affine)
    np.testing.assert_allclose(
        plan.cut(world_coordinates(affine, shape)),
        world_coordinates(affine_slices, slices.shape),
        atol=1e-9,
    )
    for column, code in enumerate(PLANES[plane] or ()):
        assert affine_slices[:3, column] @ DIRECTIONS[code] > 0


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("plane", sorted(PLANES))
def test_single_slices_are_those_of_the_whole_cut(orientation, plane):
    shape = (3, 4, 5)
    plan = SlicePlan.from_affine(make_affine(orientation), shape, plane)
    volume = np.arange(60).reshape(shape)
    for array in (volume, torch.from_numpy(volume)):
        images = [plan.slice_at(array, k) for k in range(plan.count)]
        for image, expected in zip(images, plan.cut(volume), strict=True):
            assert np.array_equal(np.asarray(image), expected)
        assert np.array_equal(plan.stack(np.stack([np.asarray(i) for i in images])), volume)
        chosen = [0, plan.count - 1, 0]
        assert np.array_equal(np.asarray(plan.slices_at(array, chosen)), plan.cut(volume)[chosen])


def test_axial_slices_show_known_voxels_where_a_reader_expects_them():
    # An LPS-like file: I to the left, J to the back, K to the head; then one stored the other way
    # round in all axes.
    for signs, front_right_low in (((-1, -1, 1), (0, 0, 0)), ((1, 1, -1), (4, 6, 2))):
        volume = np.zeros((5, 7, 3), np.uint8)
        volume[front_right_low] = 1
        plan = SlicePlan.from_affine(make_affine(((0, 1, 2), signs)), volume.shape)
        slices = plan.cut(volume)
        assert slices.shape == (3, 7, 5)
        # Lowest slice, top row (anterior), first column (the patient's right).
        assert slices[0, 0, 0] == 1


def test_array_plane_is_the_files_own_order():
    volume = np.arange(24).reshape(2, 3, 4)
    plan = SlicePlan.from_affine(np.diag([-1.0, -1.0, 1.0, 1.0]), volume.shape, "array")
    assert np.array_equal(plan.slice_at(volume, 3), volume[:, :, 3])


def test_leading_axes_are_kept():
    volume = torch.arange(2 * 24).reshape(2, 2, 3, 4)
    plan = SlicePlan.from_affine(make_affine(((2, 0, 1), (1, -1, -1))), volume.shape)
    slices = plan.cut(volume)
    assert slices.shape[0] == 2
    assert torch.equal(slices[1], plan.cut(volume[1]))
    assert torch.equal(plan.stack(slices), volume)
    assert torch.equal(plan.slice_at(volume, 1), slices[:, 1])


def test_wrong_input_is_refused():
    with pytest.raises(
        ValueError,
        match="plane: expected one of axial, coronal, sagittal, array, received 'oblique'",
    ):
        SlicePlan.from_affine(np.eye(4), (2, 2, 2), "oblique")
    with pytest.raises(ValueError, match="three axes"):
        SlicePlan.from_affine(np.eye(4), (2, 2))
    with pytest.raises(ValueError, match="at least one voxel"):
        SlicePlan.from_affine(np.eye(4), (2, 0, 2))
    with pytest.raises(ValueError, match="finite"):
        SlicePlan.from_affine(np.full((4, 4), np.nan), (2, 2, 2))
    plan = SlicePlan.from_affine(np.eye(4), (2, 3, 4))
    with pytest.raises(
        ValueError, match=r"expected an array of 2 x 3 x 4, received shape \(4, 3, 2\)"
    ):
        plan.cut(np.zeros((4, 3, 2)))
    for index in (-1, 4):
        with pytest.raises(ValueError, match="slice: expected 0 to 3"):
            plan.slice_at(np.zeros((2, 3, 4)), index)


def test_a_metatensor_gives_plain_slices_and_is_left_alone():
    affine = make_affine(
        ((1, 2, 0), (1, -1, 1)), (0.7, 3.0, 1.1), Rotation.from_rotvec([0.1, 0.2, -0.1]).as_matrix()
    )
    image = MetaTensor(torch.rand(1, 4, 5, 6), affine=torch.from_numpy(affine), meta={"case": "a"})
    original = image.clone()
    plan = SlicePlan.from_affine(affine, (4, 5, 6), "coronal")
    slices = plan.cut(image)
    assert type(slices) is torch.Tensor  # its affine would not hold any more
    assert torch.equal(slices, plan.cut(image.as_tensor()))
    assert torch.equal(plan.stack(slices), original.as_tensor())
    assert torch.equal(image, original) and torch.equal(image.affine, original.affine)
    assert not image.applied_operations
