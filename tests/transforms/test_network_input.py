"""A slice's way into the network: which slices, how large, in which channels; and a mask's back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from boltzmed.transforms.augment import Augmentation, apply_augmentation
from boltzmed.transforms.network_input import (
    InputSize,
    NetworkInput,
    NetworkInputd,
    channel_indices,
    read_input_sizes,
)
from boltzmed.transforms.square import SquareGrid
from boltzmed.transforms.window import WindowIntensity

WINDOW = WindowIntensity((-150, 250))


def make_slices(count: int, height: int = 10, width: int = 7) -> np.ndarray:
    """Raw slices (count, height, width), of noise in and beyond the window."""
    return np.random.default_rng(0).normal(50, 200, (count, height, width)).astype(np.float32)


class TestInputSize:
    def test_true_scale_grows_with_the_slices(self):
        assert InputSize(128, 128).around(512, 300) == InputSize(512, 512)
        assert InputSize(128, 128).around(129, 90) == InputSize(160, 160)
        for size, shape in (
            (InputSize(128, 128), (128, 90)),
            (InputSize(128), (512, 512)),
            (InputSize(128, 64), (512, 512)),
        ):
            assert size.around(*shape) == size

    def test_sizes_are_read_from_configs_and_checkpoints(self):
        settings = {
            "a": {"image_size": 64},
            "b": [{"image_size": 128, "min_side": 128}, {"image_size": 96}],
        }
        assert read_input_sizes(settings) == {
            "a": (InputSize(64),),
            "b": (InputSize(128, 128), InputSize(96, 1)),
        }
        assert read_input_sizes(None) == read_input_sizes({}) == {}

    @pytest.mark.parametrize(
        "wrong",
        [
            128,
            [],
            [128],
            {"size": 128},
            {"min_side": 8},
            {"image_size": 0},
            {"image_size": 128.0},
            {"image_size": True},
            "128",
            None,
        ],
    )
    def test_what_is_no_size_is_told_by_card(self, wrong):
        with pytest.raises(
            ValueError,
            match=r"^input_sizes: a: expected \{image_size: 128\}, perhaps with min_side, .*receiv",
        ):
            read_input_sizes({"a": wrong})

    def test_what_is_no_mapping_of_cards_is_told(self):
        with pytest.raises(
            ValueError, match=r"^input_sizes: expected a mapping of card names, received 128$"
        ):
            read_input_sizes(128)  # type: ignore[arg-type]


class TestChannels:
    def test_repeat_is_the_slice_thrice(self):
        assert [channel_indices(k, 3) for k in range(3)] == [(0, 0, 0), (1, 1, 1), (2, 2, 2)]

    def test_neighbours_stand_in_at_the_ends(self):
        rows = [channel_indices(k, 4, "neighbours") for k in range(4)]
        assert rows == [(0, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 3)]
        assert channel_indices(0, 1, "neighbours") == (0, 0, 0)

    def test_other_modes_and_slices_that_are_not_there_are_refused(self):
        with pytest.raises(
            ValueError, match="channels: expected one of repeat, neighbours, received 'rgb'"
        ):
            channel_indices(0, 1, "rgb")
        for index in (-1, 3):
            with pytest.raises(ValueError, match=f"slice: expected 0 to 2, received {index}"):
                channel_indices(index, 3)


class TestNeededSlices:
    @pytest.mark.parametrize(
        ("channels", "indices", "expected"),
        [
            ("repeat", [2], [2]),
            ("repeat", [3, 0, 3], [0, 3]),
            ("neighbours", [2], [1, 2, 3]),
            ("neighbours", [0], [0, 1]),
            ("neighbours", [5], [4, 5]),
            ("neighbours", [0, 5], [0, 1, 4, 5]),
            ("neighbours", [1, 2], [0, 1, 2, 3]),
            ("neighbours", [], []),
        ],
    )
    def test_they_are_ascending_and_each_once(self, channels, indices, expected):
        way = NetworkInput((10, 7), 6, InputSize(32), channels)
        assert way.needed_slices(indices) == expected


class TestSquare:
    @pytest.mark.parametrize("size", [InputSize(32), InputSize(10), InputSize(16, 16)])
    def test_it_is_window_and_square_grid_by_hand(self, size):
        slices = make_slices(3)
        squared = NetworkInput((10, 7), 6, size, "repeat").square(slices, WINDOW)
        grid = SquareGrid(10, 7, size.image_size, size.min_side)
        expected = grid.to_image(WINDOW(slices)[None])[0]
        assert squared.shape == (3, size.image_size, size.image_size)
        assert squared.dtype == torch.float32 and torch.equal(squared, expected)

    def test_at_true_scale_it_is_clipping_scaling_and_padding(self):
        slices = make_slices(2)
        squared = NetworkInput((10, 7), 2, InputSize(32, 32), "repeat").square(slices, WINDOW)
        windowed = (np.clip(slices, -150, 250) + 150) * (255 / 400)
        expected = F.pad(torch.from_numpy(windowed), (12, 13, 11, 11))
        torch.testing.assert_close(squared, expected)

    def test_slices_do_not_depend_on_those_beside_them(self):
        way = NetworkInput((10, 7), 4, InputSize(32), "repeat")
        slices = make_slices(4)
        together = way.square(slices, WINDOW)
        for k in range(4):
            assert torch.equal(way.square(slices[k : k + 1], WINDOW)[0], together[k])


class TestStack:
    @pytest.mark.parametrize("channels", ["repeat", "neighbours"])
    @pytest.mark.parametrize("indices", [[0], [5], [2], [0, 1, 2, 3, 4, 5], [5, 0], [2, 2]])
    def test_channels_are_the_slices_they_should_be(self, channels, indices):
        way = NetworkInput((8, 8), 6, InputSize(8), channels)
        needed = way.needed_slices(indices)
        # Slice k is k throughout.
        squared = torch.tensor(needed, dtype=torch.float32)[:, None, None].expand(-1, 8, 8)
        images = way.stack(squared, indices)
        assert images.shape == (len(indices), 3, 8, 8)
        expected = [list(channel_indices(index, 6, channels)) for index in indices]
        assert images.amax((-2, -1)).tolist() == images.amin((-2, -1)).tolist() == expected

    def test_some_slices_equal_the_same_slices_of_all(self):
        way = NetworkInput((6, 6), 5, InputSize(6), "neighbours")
        squared = torch.rand(5, 6, 6)
        everything = way.stack(squared, range(5))
        for index in range(5):
            some = squared[way.needed_slices([index])]
            assert torch.equal(way.stack(some, [index])[0], everything[index])

    def test_a_single_slice_takes_no_memory_of_its_own(self):
        way = NetworkInput((6, 6), 5, InputSize(6), "repeat")
        squared = torch.rand(1, 6, 6)
        images = way.stack(squared, [3])
        assert images.untyped_storage().data_ptr() == squared.untyped_storage().data_ptr()

    def test_a_volume_of_one_slice_has_no_neighbours(self):
        way = NetworkInput((6, 6), 1, InputSize(6), "neighbours")
        squared = torch.rand(1, 6, 6)
        assert torch.equal(way.stack(squared, [0])[0], squared.expand(3, -1, -1))


class TestBack:
    @pytest.mark.parametrize("size", [InputSize(32), InputSize(32, 32), InputSize(16, 12)])
    def test_masks_go_and_logits_come_as_the_square_grid_says(self, size):
        way = NetworkInput((10, 7), 2, size, "repeat")
        grid = SquareGrid(10, 7, size.image_size, size.min_side)
        masks = torch.from_numpy(make_slices(2) > 50)
        assert torch.equal(way.to_target(masks), grid.to_target(masks))
        logits = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        native = way.to_native(logits)
        assert native.shape == (2, 3, 10, 7)
        assert torch.equal(native, grid.to_native(logits))

    def test_a_mask_at_true_scale_comes_back_as_it_was(self):
        way = NetworkInput((10, 7), 2, InputSize(32, 32), "repeat")
        masks = torch.from_numpy(make_slices(2) > 50)[None].float()
        assert torch.equal(way.to_native(way.to_target(masks)), masks)


class TestDictionaryForm:
    def make_item(self, **changes: Any) -> dict[str, Any]:
        """The first slice of a volume, as ``LoadSlicesd`` gives it."""
        return {
            "image": torch.from_numpy(make_slices(2)),
            "label": torch.from_numpy(make_slices(1) > 50).to(torch.uint8),
            "slice_index": 0,
            "slice_count": 6,
            "channels": "neighbours",
            "window": WINDOW,
            "input_size": InputSize(32),
            "augmentation": None,
        } | changes

    def test_it_is_the_way_of_network_input(self):
        item = self.make_item()
        result = NetworkInputd()(item)
        way = NetworkInput((10, 7), 6, InputSize(32), "neighbours")
        squared = way.square(item["image"], WINDOW)
        assert result["image"].shape == (3, 32, 32)
        assert torch.equal(result["image"], squared[[0, 0, 1]])
        assert result["label"].dtype == torch.uint8 and result["label"].shape == (1, 32, 32)
        assert torch.equal(result["label"], way.to_target(item["label"]))
        assert item["image"].shape == (2, 10, 7)  # the given one is as it was

    def test_image_and_labels_are_augmented_alike(self):
        augmentation = Augmentation(quarter_turns=1, shift_h=0.05, shift_w=-0.1, scale=1.05)
        still = NetworkInputd()(self.make_item())
        moved = NetworkInputd()(self.make_item(augmentation=augmentation))
        image, label = apply_augmentation(still["image"], still["label"], augmentation)
        assert torch.equal(moved["image"], image) and torch.equal(moved["label"], label)
        assert not torch.equal(moved["image"], still["image"])

    def test_other_keys_are_free_and_two(self):
        item = self.make_item()
        renamed = {"slices": item.pop("image"), "organs": item.pop("label"), **item}
        result = NetworkInputd(keys=("slices", "organs"))(renamed)
        assert result["slices"].shape == (3, 32, 32) and result["organs"].shape == (1, 32, 32)
        with pytest.raises(ValueError, match="keys: expected those of slices and labels, received"):
            NetworkInputd(keys="image")
