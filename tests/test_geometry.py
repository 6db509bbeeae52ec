"""Affines, spacing and orientation."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from boltzmed.geometry import (
    check_affine,
    describe_grid,
    flip_lps_ras,
    image_plane,
    is_same_grid,
    orientation_codes,
    shear_degrees,
    spacing_mm,
    volume_affine_ras,
    voxel_volume_mm3,
)

ORIENTATIONS = [
    (order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)
]  # the 48 ways to lay three voxel axes along the patient's

rotations = st.tuples(*[st.floats(-180, 180)] * 3).map(
    lambda a: Rotation.from_euler("xyz", a, degrees=True).as_matrix()
)
sizes = st.tuples(*[st.floats(0.1, 10)] * 3).map(np.array)
points = st.tuples(*[st.floats(-500, 500)] * 3).map(np.array)


def affine_of(matrix: np.ndarray, origin: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, origin
    return affine


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_orientation_codes_name_each_axis(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    matrix = np.zeros((3, 3))
    for axis in range(3):
        matrix[order[axis], axis] = signs[axis] * (1.0 + axis)
    expected = tuple("LPI"[order[a]] if signs[a] < 0 else "RAS"[order[a]] for a in range(3))
    affine = affine_of(matrix, np.zeros(3))
    assert orientation_codes(affine) == expected
    assert spacing_mm(affine).tolist() == [1, 2, 3]


@given(rotations, sizes, points)
def test_flip_is_its_own_inverse_and_keeps_lengths(
    rotation: np.ndarray, size: np.ndarray, origin: np.ndarray
) -> None:
    affine = affine_of(rotation * size, origin)
    flipped = flip_lps_ras(affine)
    np.testing.assert_array_equal(flip_lps_ras(flipped), affine)
    np.testing.assert_allclose(spacing_mm(flipped), size, rtol=1e-9)
    assert np.linalg.det(flipped[:3, :3]) == pytest.approx(np.linalg.det(affine[:3, :3]))
    np.testing.assert_allclose(flipped[:3, 3], origin * [-1, -1, 1])


@given(rotations, sizes, points, st.integers(0, 50))
def test_plane_and_volume_affine_invert_each_other(
    rotation: np.ndarray, size: np.ndarray, origin: np.ndarray, index: int
) -> None:
    affine = affine_of(rotation * size, origin)
    plane = image_plane(affine, index)
    step = flip_lps_ras(affine)[:3, 2]
    expected = affine.copy()
    expected[:3, 3] += index * affine[:3, 2]
    np.testing.assert_allclose(volume_affine_ras(plane, step), expected, atol=1e-9)
    np.testing.assert_allclose(
        plane.normal_lps, step / np.linalg.norm(step), atol=1e-9
    )  # right-handed


def test_image_plane_knows_rows_from_columns() -> None:
    plane = image_plane(np.diag([-0.5, -2.0, 3.0, 1.0]))
    assert (plane.column_gap_mm, plane.row_gap_mm) == (0.5, 2.0)
    np.testing.assert_array_equal(plane.along_row_lps, [1, 0, 0])
    np.testing.assert_array_equal(plane.along_column_lps, [0, 1, 0])


def test_shear_counts_in_volume_and_angle() -> None:
    affine = np.eye(4)
    affine[1, 2] = np.tan(np.radians(15))
    assert shear_degrees(affine) == pytest.approx(15)
    assert voxel_volume_mm3(affine) == pytest.approx(1)  # a sheared cube keeps its volume
    assert shear_degrees(np.diag([1, 2, 3, 1])) == 0


@pytest.mark.parametrize(
    ("affine", "reason"),
    [
        (np.eye(3), "4x4"),
        (np.diag([1, np.nan, 1, 1]), "finite"),
        (np.diag([1, 0, 1, 1]), "positive voxel sizes"),
        (np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "independent"),
        (np.diag([1, 1, 1, 2]), "last row"),
    ],
)
def test_affine_that_places_nothing_is_refused(affine: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_affine(affine)


OFF_CENTRE = np.array([[-0.7, 0, 0, 90], [0, 0.7, 0, -120], [0, 0, 5, 40], [0, 0, 0, 1]], float)


def test_one_grid_but_for_rounding():
    shape = (512, 512, 40)
    assert is_same_grid(shape, OFF_CENTRE, shape, OFF_CENTRE.astype(np.float32).astype(float))
    assert not is_same_grid(shape, OFF_CENTRE, (512, 512, 41), OFF_CENTRE)
    turned = OFF_CENTRE.copy()
    turned[0, 1] = 1e-4  # 0.05 mm at the far corner
    assert not is_same_grid(shape, OFF_CENTRE, shape, turned)
    assert is_same_grid((20, 20, 20), OFF_CENTRE, (20, 20, 20), turned)
    moved = OFF_CENTRE.copy()
    moved[2, 3] += 0.02
    assert not is_same_grid(shape, OFF_CENTRE, shape, moved)


def test_grids_in_words():
    assert (
        describe_grid((4, 5, 6), OFF_CENTRE)
        == "(4, 5, 6) voxels of 0.7 x 0.7 x 5 mm from (90, -120, 40)"
    )
