"""Three channels of a slice."""

from __future__ import annotations

import pytest
import torch

from boltzmed.transforms.channels import channel_indices, stack_channels


def test_repeat_shows_each_slice_thrice():
    slices = torch.rand(4, 2, 3)
    images = stack_channels(slices)
    assert images.shape == (4, 3, 2, 3)
    assert torch.equal(images, torch.stack([slices] * 3, dim=1))
    assert images.untyped_storage().data_ptr() == slices.untyped_storage().data_ptr()


def test_neighbours_stand_in_at_the_ends():
    slices = torch.arange(4.0)[:, None, None].expand(4, 2, 2)
    images = stack_channels(slices, "neighbours")
    assert images[:, :, 0, 0].tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]


@pytest.mark.parametrize("mode", ["repeat", "neighbours"])
def test_chosen_slices_equal_the_same_slices_of_all(mode):
    slices = torch.rand(5, 2, 3)
    assert torch.equal(
        stack_channels(slices, mode, indices=[4, 0, 4]), stack_channels(slices, mode)[[4, 0, 4]]
    )
    assert stack_channels(slices, mode, indices=[]).shape == (0, 3, 2, 3)
    assert stack_channels(slices[:1], mode).shape == (1, 3, 2, 3)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="channels: expected one of repeat, neighbours, got 'rgb'"):
        stack_channels(torch.zeros(1, 2, 2), "rgb")
    with pytest.raises(ValueError, match="slice: expected 0 to 2, got 3"):
        channel_indices(3, 3)
    with pytest.raises(ValueError, match=r"\(K,H,W\)"):
        stack_channels(torch.zeros(2, 2))
