"""Windows: the published values, whole-volume percentiles, and constant input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from boltzmed.transforms.window import WindowIntensity, measure_percentiles


def test_hu_are_clipped_and_scaled_to_255():
    hu = torch.tensor([-2000.0, -150.0, -50.0, 50.0, 250.0, 3000.0])
    expected = torch.tensor([0.0, 0.0, 63.75, 127.5, 255.0, 255.0])
    torch.testing.assert_close(WindowIntensity((-150, 250))(hu), expected)
    # 0 HU is water, not an absent voxel.
    assert WindowIntensity((-1000, 1000))(np.array([0], np.int16)).item() == 127.5


def test_percentiles_come_from_the_positive_voxels_of_the_whole_volume():
    rng = np.random.default_rng(1)
    volume = rng.gamma(2.0, 100.0, (6, 20, 20)).astype(np.float32)
    volume[:, :8] = 0
    volume[0, 9, 9] = 1e6  # a spike must not darken the rest
    low, high = np.percentile(volume[volume > 0], (0.5, 99.5))
    np.testing.assert_allclose(measure_percentiles(volume), (low, high), rtol=1e-6)
    expected = np.where(volume == 0, 0, (np.clip(volume, low, high) - low) / (high - low) * 255)
    whole = WindowIntensity(None)(volume)
    np.testing.assert_allclose(whole.numpy(), expected, atol=1e-3)
    bound = WindowIntensity(None).measured_on(volume)
    assert torch.equal(torch.stack([bound(image) for image in volume]), whole)
    assert not torch.equal(WindowIntensity(None)(volume[1]), whole[1])


def test_zeros_stay_zero_even_where_the_window_starts_below():
    volume = torch.tensor([0.0, -5.0, 10.0, 20.0])
    assert WindowIntensity((-10, 20), keep_zeros=True)(volume).tolist() == pytest.approx(
        [0, 42.5, 170, 255]
    )


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_constant_volumes_give_zeros(value):
    assert not WindowIntensity(None)(torch.full((2, 3, 4), value)).any()
    assert (
        not WindowIntensity(None)
        .measured_on(np.full((2, 3), value))(torch.full((2, 3), value))
        .any()
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(low=st.floats(-3000, 3000), width=st.floats(0.01, 6000), seed=st.integers(0, 99))
def test_output_stays_in_range_and_order(low, width, seed):
    hu = np.sort(np.random.default_rng(seed).normal(0, 2000, 200))
    scaled = WindowIntensity((low, low + width))(hu)
    assert scaled.dtype == torch.float32
    assert scaled.min() >= 0 and scaled.max() <= 255
    assert (scaled.diff() >= 0).all()


def test_input_is_left_alone_and_geometry_kept():
    image = MetaTensor(
        torch.tensor([[[[-1000.0, 0.0, 1000.0]]]]), affine=torch.diag(torch.tensor([2.0, 3, 4, 1]))
    )
    before = image.clone()
    result = WindowIntensity((-150, 250))(image)
    assert torch.equal(image, before)
    assert isinstance(result, MetaTensor) and torch.equal(result.affine, image.affine)


@pytest.mark.parametrize("window", [(250, -150), (float("nan"), 1), (0, float("inf")), (1, 2, 3)])
def test_wrong_windows_are_refused(window):
    with pytest.raises(ValueError, match="window: expected"):
        WindowIntensity(window)
