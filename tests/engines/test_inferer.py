"""Inference of a volume: masks on the file's own grid, the same whatever the batch, each window
encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from boltzmed.engines.batches import PrepareStudy
from boltzmed.engines.inferer import PromptSliceInferer, smooth_presence
from boltzmed.networks.boltzformer import BoltzFormer
from boltzmed.networks.decoder import Decoder
from boltzmed.networks.image_encoder import HieraEncoder
from boltzmed.networks.pigma import PiGMA
from boltzmed.networks.pixel_decoder import PixelDecoder
from boltzmed.networks.text_encoder import TextEncoder
from boltzmed.transforms.network_input import InputSize
from boltzmed.transforms.packed_masks import PackedMasks
from boltzmed.transforms.slices import SlicePlan

ABDOMEN, LUNG = (-150.0, 250.0), (-1000.0, 1000.0)
LPS = ((0, 1, 2), (-1, -1, 1))  # slices are volume[:, :, k].T


def place(volume: np.ndarray, orientation: Any = LPS) -> MetaTensor:
    """A volume whose array axis a runs along patient axis axes[a] in the direction signs[a]."""
    axes, signs = orientation
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[axis, column] = sign * (0.8 + column)
    return MetaTensor(
        torch.tensor(volume, dtype=torch.float32)[None], affine=torch.from_numpy(affine)
    )


class StandIn(nn.Module):
    """What the inferer needs of a network, and a record of what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.device_holder = nn.Parameter(torch.zeros(1))
        self.images: list[int] = []
        self.texts: list[list[int]] = []

    def encode_image(self, image: Tensor) -> Tensor:
        self.images.append(len(image))
        return image

    def encode_text(self, input_ids: Tensor) -> Tensor:
        self.texts.append(input_ids[0, :, 0].tolist())
        return input_ids


class Brightness(StandIn):
    """Finds what is brighter than half the window, at half the image's size as the real network."""

    def __init__(self, channel: int = 1) -> None:
        super().__init__()
        self.channel = channel

    def decode(self, image: Tensor, input_ids: Tensor) -> dict[str, Tensor | None]:
        logits = F.avg_pool2d(image[:, self.channel, None], 2) - 127.5
        return {
            "mask_logits": logits.expand(-1, input_ids.shape[1], -1, -1),
            "presence_logits": None,
        }


class Recorded(StandIn):
    """Gives the logits (K,P,h,h) it was made of. Slice k must be k HU throughout, prompt p's first
    token p.
    """

    def __init__(self, logits: Tensor, presence: Tensor | None = None) -> None:
        super().__init__()
        self.logits, self.presence = logits, presence

    def decode(self, image: Tensor, input_ids: Tensor) -> dict[str, Tensor | None]:
        slices, prompts = image[:, 1].amax((-2, -1)).round().long(), input_ids[0, :, 0]
        presence = None if self.presence is None else self.presence[slices][:, prompts]
        return {"mask_logits": self.logits[slices][:, prompts], "presence_logits": presence}


def run_recorded(
    logits: Tensor,
    slice_shape: tuple[int, int],
    *,
    windows: Any = None,
    presence: Tensor | None = None,
    **options: Any,
) -> PackedMasks:
    """Masks of given logits over slices of a given (H, W)."""
    count, prompts = logits.shape[:2]
    volume = np.broadcast_to(np.arange(count), (*slice_shape[::-1], count))
    inferer = PromptSliceInferer(image_size=32, **options)
    ids = torch.arange(prompts)[:, None]
    return inferer(
        place(volume), Recorded(logits, presence), ids, windows or [(0.0, 255.0)] * prompts
    )


def test_a_crop_is_segmented_at_its_own_scale_where_asked():
    seen = []

    class Looking(Brightness):
        def decode(self, image: Tensor, input_ids: Tensor) -> dict[str, Tensor | None]:
            seen.append(image)
            return super().decode(image, input_ids)

    volume = np.zeros((6, 6, 1))
    volume[2:4, 2:4] = 255
    for side, bright in ((1, 32 * 32 // 9), (32, 4)):
        inferer = PromptSliceInferer(image_size=32, min_side=side)
        masks = inferer(
            place(volume), Looking(), torch.zeros(1, 1, dtype=torch.int64), [(0.0, 255.0)]
        )
        assert (seen[-1][0, 1] > 127).sum() == pytest.approx(bright, rel=0.2)
        assert masks.volume(0).shape == volume.shape


class TestInputSizes:
    """Prompts of one volume whose slices meet the network at different sizes."""

    def test_every_prompt_has_its_own_input_size(self):
        sizes = [InputSize(64), None, InputSize(32, 32), InputSize(64)]
        volume = np.full((6, 6, 2), -150)
        volume[2:4, 2:4] = 250
        network, ids = Brightness(), torch.tensor([[10], [11], [12], [13]])
        seen: list[tuple[int, ...]] = []
        encode = network.encode_image
        network.encode_image = lambda image: seen.append(tuple(image.shape)) or encode(image)  # type: ignore[method-assign]
        windows = [ABDOMEN] * 3 + [LUNG]
        masks = PromptSliceInferer(image_size=96, min_side=8)(
            place(volume), network, ids, windows, sizes
        )
        # Two prompts with the same window, or the same input size, still are two groups.
        assert network.texts == [[10], [11], [12], [13]]
        assert [shape[-1] for shape in seen] == [64, 96, 32, 64]
        assert masks.input_sizes == [
            InputSize(64),
            InputSize(96, 8),
            InputSize(32, 32),
            InputSize(64),
        ]
        for prompt in range(4):
            alone = PromptSliceInferer(
                image_size=masks.input_sizes[prompt].image_size,
                min_side=masks.input_sizes[prompt].min_side,
            )
            expected = alone(place(volume), Brightness(), ids[:1], windows[prompt : prompt + 1])
            assert np.array_equal(masks.volume(prompt), expected.volume(0))
        assert np.array_equal(masks.volume(0), volume == 250)

    def test_true_scale_holds_for_slices_larger_than_the_input_size(self):
        """An object of 2 pixels would have less than one, of the 72 reduced to 32."""
        volume = np.full((72, 60, 2), -150)
        volume[30:32, 40:42] = 250
        network = Brightness()
        inferer = PromptSliceInferer(image_size=64)
        masks = inferer(
            place(volume), network, torch.tensor([[10]]), [ABDOMEN], [InputSize(32, 32)]
        )
        assert masks.input_sizes == [InputSize(96, 96)]
        assert np.array_equal(masks.volume(0), volume == 250)

    def test_small_images_come_in_larger_batches_of_as_many_pixels(self):
        network, ids = Brightness(), torch.zeros(3, 1, dtype=torch.int64)
        inferer = PromptSliceInferer(image_size=64, batch_size=2)
        inferer(
            place(np.zeros((16, 16, 12))),
            network,
            ids,
            [ABDOMEN] * 3,
            [InputSize(32), InputSize(64), InputSize(96)],
        )
        assert network.images == [8, 4, *[2] * 6, *[2] * 6]

    def test_large_slices_do_not_though_their_images_are_small(self):
        """Their logits come back to their own size."""
        network = Brightness()
        inferer = PromptSliceInferer(image_size=64, batch_size=2)
        ids = torch.zeros(1, 1, dtype=torch.int64)
        inferer(place(np.zeros((64, 16, 4))), network, ids, [ABDOMEN], [InputSize(32)])
        assert network.images == [2, 2]

    def test_a_card_has_its_input_size(self):
        prompts = [
            SimpleNamespace(window=None, card=name)
            for name in ("lidc_idri", "generic_ct", "lidc_idri")
        ]
        study = {"image": None, "input_ids": None, "prompts": prompts}
        assert PrepareStudy({"lidc_idri": InputSize(128, 128)})(study)[3]["input_sizes"] == [
            InputSize(128, 128),
            None,
            InputSize(128, 128),
        ]
        assert PrepareStudy()(study)[3]["input_sizes"] == [None] * 3


class TestGeometry:
    @pytest.mark.parametrize(
        "orientation",
        [
            LPS,
            ((0, 1, 2), (1, 1, 1)),
            ((0, 1, 2), (1, -1, -1)),
            ((1, 0, 2), (-1, 1, 1)),
            ((2, 0, 1), (1, -1, 1)),
            ((1, 2, 0), (-1, -1, -1)),
        ],
    )
    @pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", "array"])
    def test_masks_lie_on_the_files_own_grid(self, orientation, plane):
        volume = np.full((20, 14, 11), -150)
        volume[2:11, 3:9, 5:10] = 250
        volume[14:17, 9:12, 1:5] = 250
        image = place(volume, orientation)
        plan = SlicePlan.from_affine(image.affine.numpy(), volume.shape, plane)
        inferer = PromptSliceInferer(image_size=2 * max(plan.slice_shape), plane=plane)
        masks = inferer(image, Brightness(), torch.zeros(1, 1, dtype=torch.int64), [ABDOMEN])
        assert np.array_equal(masks.volume(0), volume == 250)
        assert masks.volume(0).dtype == np.uint8

    def test_slices_come_as_the_network_saw_them(self):
        volume = np.full((20, 14, 3), -150)
        volume[2:8, 3:12, 1] = 250
        inferer = PromptSliceInferer(image_size=40)
        masks = inferer(
            place(volume), Brightness(), torch.zeros(1, 1, dtype=torch.int64), [ABDOMEN]
        )
        expected = np.zeros((3, 14, 20))
        expected[1, 3:12, 2:8] = 1  # rows from the front, columns from the patient's right
        assert np.array_equal(masks.slices(0), expected)

    @pytest.mark.parametrize(("channel", "step"), [(0, -1), (1, 0), (2, 1)])
    @pytest.mark.parametrize("batch_size", [1, 2])
    def test_channels_hold_the_neighbouring_slices(self, channel, step, batch_size):
        volume = np.full((16, 16, 5), -150)
        volume[4:12, 4:12, [0, 3]] = 250
        network, ids = Brightness(channel), torch.zeros(1, 1, dtype=torch.int64)
        inferer = PromptSliceInferer(image_size=32, channels="neighbours", batch_size=batch_size)
        found = inferer(place(volume), network, ids, [ABDOMEN]).slices(0).any((1, 2))
        # The outermost slices stand in for what lies beyond.
        assert found.tolist() == [(min(max(k + step, 0), 4) in (0, 3)) for k in range(5)]


class TestWindows:
    def test_a_slice_is_encoded_once_for_each_distinct_window(self):
        network = Brightness()
        inferer = PromptSliceInferer(image_size=32, batch_size=2)
        windows = [LUNG, ABDOMEN, LUNG, LUNG]
        inferer(
            place(np.zeros((16, 16, 5))), network, torch.tensor([[10], [11], [12], [13]]), windows
        )
        assert network.texts == [[10, 12, 13], [11]]
        assert network.images == [2, 2, 1, 2, 2, 1]  # two windows, three batches

    def test_every_prompt_sees_its_own_window(self):
        # The middle of the lung window is 0 HU, that of the abdomen window 50 HU.
        volume = np.full((16, 16, 2), -25)
        volume[2:14, 2:14, 0], volume[2:14, 2:14, 1] = 25, 75
        inferer = PromptSliceInferer(image_size=32)
        masks = inferer(
            place(volume), Brightness(), torch.zeros(3, 1, dtype=torch.int64), [LUNG, ABDOMEN, LUNG]
        )
        for prompt, expected in enumerate([volume > 0, volume > 50, volume > 0]):
            assert np.array_equal(masks.volume(prompt), expected)

    def test_percentiles_are_the_whole_volumes(self):
        # Over the volume the middle is 200; over the first slice alone it would be 125.
        volume = np.zeros((16, 16, 2))
        volume[:8, :, 0], volume[8:, :, 0] = 100, 150
        volume[:8, :, 1], volume[8:, :, 1] = 100, 300
        inferer = PromptSliceInferer(image_size=32)
        masks = inferer(place(volume), Brightness(), torch.zeros(1, 1, dtype=torch.int64), [None])
        assert np.array_equal(masks.volume(0), volume == 300)


class TestLogits:
    def test_logits_are_resized_and_masks_are_not(self):
        # Two columns of -1 and 9 over eight pixels: 0.1 of the way from one centre (pixel 1.5) to
        # the other (5.5) the logit is 0, before pixel 2. Resized probabilities would begin at pixel
        # 3, resized masks at pixel 4.
        logits = torch.tensor([[-1.0, 9.0], [-1.0, 9.0]])[None, None]
        assert run_recorded(logits, (8, 8)).slices(0)[0].tolist() == [[0, 0, 1, 1, 1, 1, 1, 1]] * 8

    @pytest.mark.parametrize("slice_shape", [(8, 8), (5, 8), (8, 3)])
    def test_padding_comes_off(self, slice_shape):
        logits = torch.full((1, 1, 8, 8), -5.0)
        height, width = slice_shape
        top, left = (8 - height) // 2, (8 - width) // 2
        logits[..., top, left] = 5  # the first native pixel
        expected = np.zeros((1, *slice_shape))
        expected[0, 0, 0] = 1
        assert np.array_equal(run_recorded(logits, slice_shape).slices(0), expected)

    @pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
    def test_the_threshold_is_a_probability(self, threshold):
        logits = torch.linspace(-4, 4, 64).reshape(1, 1, 8, 8)
        found = run_recorded(logits, (8, 8), threshold=threshold).slices(0)
        assert np.array_equal(found, (logits.sigmoid() >= threshold)[0].numpy())
        assert 0 < found.sum() < 64


def random_logits(count: int, prompts: int, side: int) -> Tensor:
    return 2 * torch.randn(count, prompts, side, side, generator=torch.Generator().manual_seed(0))


class TestPackedMasks:
    @pytest.mark.parametrize("slice_shape", [(11, 11), (7, 11), (16, 9)])
    def test_slices_volumes_and_probabilities_agree(self, slice_shape):
        logits = random_logits(3, 2, max(slice_shape))
        masks = run_recorded(logits, slice_shape, batch_size=2)
        top, left = ((max(slice_shape) - length) // 2 for length in slice_shape)
        native = logits[..., top : top + slice_shape[0], left : left + slice_shape[1]]
        assert len(masks) == 2
        for prompt in range(2):
            slices = masks.slices(prompt)
            expected = native[:, prompt].sigmoid().numpy()
            assert np.array_equal(slices, expected >= 0.5)
            assert np.array_equal(masks.volume(prompt), slices.transpose(2, 1, 0))
            probabilities = np.concatenate(list(masks.probabilities(prompt)))
            assert probabilities.dtype == np.float32
            np.testing.assert_allclose(probabilities, expected[slices > 0], atol=0.5 / 255 + 1e-6)

    def test_a_mask_takes_a_bit_a_voxel(self):
        masks = run_recorded(random_logits(2, 3, 16), (16, 16))
        assert masks.bits_PKHW.nbytes == 3 * 2 * 16 * 16 / 8
        stored = sum(part.nbytes for rows in masks.mask_probabilities for part in rows)
        assert stored == sum(masks.slices(prompt).sum() for prompt in range(3))

    def test_nothing_found_is_an_empty_mask(self):
        masks = run_recorded(torch.full((2, 1, 8, 8), -9.0), (8, 8))
        assert masks.volume(0).shape == (8, 8, 2) and not masks.volume(0).any()
        assert [len(part) for part in masks.probabilities(0)] == [0, 0]


class TestPresence:
    def test_slices_where_the_target_is_said_to_be_absent_are_emptied(self):
        probability = torch.tensor([[0.9, 0.1, 0.6], [0.2, 0.8, 0.4], [0.5, 0.3, 0.7]])  # (K, P)
        windows = [(0.0, 255.0), (0.0, 255.0 + 1e-3), (0.0, 255.0)]  # two groups, taking turns
        options = {"windows": windows, "presence": probability.logit(), "batch_size": 2}
        masks = run_recorded(torch.full((3, 3, 8, 8), 3.0), (8, 8), **options)
        np.testing.assert_allclose(masks.presence_PK, probability.T, atol=1e-6)
        for prompt in range(3):
            assert (
                masks.slices(prompt).all((1, 2)).tolist()
                == (probability[:, prompt] >= 0.5).tolist()
            )
            assert (
                masks.slices(prompt).any((1, 2)).tolist()
                == (probability[:, prompt] >= 0.5).tolist()
            )
            assert [len(part) for part in masks.probabilities(prompt)] == masks.slices(prompt).sum(
                (1, 2)
            ).tolist()
        strict = run_recorded(
            torch.full((3, 3, 8, 8), 3.0), (8, 8), presence_threshold=0.85, **options
        )
        assert [int(strict.slices(prompt).any((1, 2)).sum()) for prompt in range(3)] == [1, 0, 0]

    def test_a_network_without_it_gives_none_and_gates_nothing(self):
        logits = random_logits(2, 1, 8)
        masks = run_recorded(logits, (8, 8), presence_threshold=0.9, presence_smoothing_mm=20.0)
        assert masks.presence_PK is None and masks.smoothed_PK is None
        assert np.array_equal(masks.slices(0), logits[:, 0] >= 0)

    def test_a_threshold_of_nothing_switches_the_gate_off(self):
        logits, nowhere = random_logits(3, 1, 8), torch.full((3, 1), -50.0)
        for smoothing_mm in (0.0, 10.0):
            options = {"presence_threshold": 0.0, "presence_smoothing_mm": smoothing_mm}
            masks = run_recorded(logits, (8, 8), presence=nowhere, **options)
            assert np.array_equal(masks.slices(0), logits[:, 0] >= 0)

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(
        arrays(np.float32, (7, 2), elements=strategies.floats(1 / 64, 63 / 64, width=32)),
        strategies.sampled_from([0.2, 0.5, 0.8]),
    )
    def test_without_smoothing_each_slice_counts_for_itself(self, probability, threshold):
        presence = torch.from_numpy(probability).logit()
        masks = run_recorded(
            random_logits(7, 2, 8), (8, 8), presence=presence, presence_threshold=threshold
        )
        ungated = run_recorded(
            random_logits(7, 2, 8), (8, 8), presence=presence, presence_threshold=0.0
        )
        open_PK = np.float32(threshold) <= presence.sigmoid().numpy().T
        assert masks.smoothed_PK is None
        assert np.array_equal(masks.bits_PKHW, ungated.bits_PKHW * open_PK[..., None, None])

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(
        strategies.floats(0, 1, width=32, allow_subnormal=False),
        strategies.floats(0.01, 30),
        strategies.integers(1, 40),
    )
    def test_a_constant_curve_stays_as_it_is(self, value, deviation, count):
        curve = np.full((2, count), value, np.float32)
        assert np.array_equal(smooth_presence(curve, deviation), curve)

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(
        arrays(
            np.float32, (3, 12), elements=strategies.floats(0, 1, width=32, allow_subnormal=False)
        ),
        strategies.floats(0.1, 5),
    )
    def test_smoothing_keeps_prompts_apart_and_a_curves_range(self, curves, deviation):
        smoothed = smooth_presence(curves, deviation)
        assert np.array_equal(smoothed[1], smooth_presence(curves[1:2], deviation)[0])
        assert (smoothed >= curves.min(1, keepdims=True)).all() and (
            smoothed <= curves.max(1, keepdims=True)
        ).all()

    def test_smoothing_fills_a_dropped_slice_and_drops_a_single_one(self):
        probability = torch.tensor(
            [[0.9, 0.9, 0.9, 0.1, 0.9, 0.9, 0.9], [0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1]]
        ).T
        logits = torch.full((7, 2, 8, 8), 3.0)
        gap_mm = 2.8  # of `place`'s slices
        options = {
            "presence": probability.logit(),
            "batch_size": 2,
            "presence_smoothing_mm": gap_mm,
        }
        masks = run_recorded(logits, (8, 8), **options)
        assert masks.slices(0).all() and not masks.slices(1).any()
        assert not any(len(part) for part in masks.probabilities(1))
        np.testing.assert_allclose(masks.presence_PK, probability.T, atol=1e-6)
        # The Gaussian of one slice's width, with what is beyond four of them cut off: 0.399 of its
        # weight is here.
        weight = 1 / np.exp(-(np.arange(-4, 5) ** 2) / 2).sum()
        assert masks.smoothed_PK[:, 3] == pytest.approx(
            [0.9 - 0.8 * weight, 0.1 + 0.8 * weight], abs=1e-6
        )
        narrow = run_recorded(logits, (8, 8), **{**options, "presence_smoothing_mm": gap_mm / 10})
        assert narrow.slices(0).any((1, 2)).tolist() == [True] * 3 + [False] + [True] * 3

    @pytest.mark.parametrize("value", [-0.1, 1.1])
    def test_impossible_settings_are_refused(self, value):
        with pytest.raises(
            ValueError, match="presence_threshold: expected a probability from 0 to 1, received"
        ):
            PromptSliceInferer(image_size=64, presence_threshold=value)
        with pytest.raises(
            ValueError, match="presence_smoothing_mm: expected 0 or more mm, received"
        ):
            PromptSliceInferer(image_size=64, presence_smoothing_mm=-abs(value))


def test_progress_sees_every_step():
    seen: list[int] = []

    def watch(steps: Sequence[Any]) -> Any:
        for step in steps:
            seen.append(len(steps))
            yield step

    windows = [(0.0, 255.0), (0.0, 300.0)]
    logits = random_logits(5, 2, 8)
    masks = run_recorded(logits, (8, 8), windows=windows, batch_size=2, progress=watch)
    assert seen == [6] * 6  # three batches, two windows
    assert np.array_equal(masks.slices(0), logits[:, 0] >= 0)


@pytest.mark.parametrize("name", ["threshold", "presence_threshold", "presence_smoothing_mm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.5", True, None])
def test_settings_that_are_no_numbers_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected a number, received {value!r}$"):
        PromptSliceInferer(image_size=64, **{name: value})


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0])
def test_impossible_thresholds_are_refused(threshold):
    with pytest.raises(
        ValueError, match="mask threshold: expected a probability between 0 and 1, received"
    ):
        PromptSliceInferer(image_size=64, threshold=threshold)


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="batch size: expected at least 1 slice, received 0"):
        PromptSliceInferer(image_size=64, batch_size=0)


class TestWithTheNetwork:
    """A BoltzFormer of the bundle's kind, untrained and far smaller."""

    IDS = torch.tensor([[62, 3, 4, 63, 63, 63], [62, 9, 63, 63, 63, 63], [62, 7, 8, 5, 6, 63]])
    WINDOWS = (LUNG, ABDOMEN, LUNG)

    @pytest.fixture(scope="class")
    def network(self) -> BoltzFormer:
        torch.manual_seed(1)
        return BoltzFormer(
            HieraEncoder(16, 1, stages=(1, 2, 3, 1), global_att_blocks=(4,), neck_channels=32),
            PixelDecoder([32] * 4, 32, 32, num_layers=1, num_heads=4, feedforward_dim=48),
            TextEncoder(
                64, width=32, num_layers=1, num_heads=2, output_dim=32, context_length=16, end_id=63
            ),
            Decoder(5, 32, num_heads=4, feedforward_dim=48, num_layers=6),
            PiGMA(5),
        ).eval()

    @pytest.fixture(scope="class")
    def image(self) -> MetaTensor:
        noise = np.random.default_rng(0).normal(size=(48, 40, 7))
        return place(2500 * gaussian_filter(noise, (3, 3, 1)))

    def segment(
        self,
        network: BoltzFormer,
        image: MetaTensor,
        prompts: Sequence[int] = (0, 1, 2),
        **options: Any,
    ):
        """Masks of some prompts, and the draws that every decoder call was given."""
        draws: list[list[Tensor]] = []
        hook = network.decoder.register_forward_pre_hook(
            lambda module, args, keywords: draws.append(list(keywords["draws"])), with_kwargs=True
        )
        inferer = PromptSliceInferer(image_size=64, channels="neighbours", **options)
        masks = inferer(
            image, network, self.IDS[list(prompts)], [self.WINDOWS[prompt] for prompt in prompts]
        )
        hook.remove()
        return masks, draws

    @pytest.fixture(scope="class")
    def alone(self, network, image) -> PackedMasks:
        """Slice by slice."""
        masks, _ = self.segment(network, image, batch_size=1)
        shares = [masks.volume(prompt).mean() for prompt in range(3)]
        assert all(0.02 < share < 0.98 for share in shares), (
            f"masks that could not tell a difference: {shares}"
        )
        assert len({masks.volume(prompt).tobytes() for prompt in range(3)}) == 3
        return masks

    @staticmethod
    def assert_same(one: np.ndarray, other: np.ndarray) -> None:
        """At least 99.9 % of the voxels of either mask are in both."""
        assert np.count_nonzero(one & other) >= 0.999 * np.count_nonzero(one | other)

    @pytest.mark.parametrize("batch_size", [3, 4])
    def test_the_batch_size_changes_nothing(self, network, image, alone, batch_size):
        together, draws = self.segment(network, image, batch_size=batch_size)
        _, alone_draws = self.segment(network, image, batch_size=1)
        for prompt in range(3):
            self.assert_same(alone.volume(prompt), together.volume(prompt))
        # One table of draws serves every slice and prompt, to the bit.
        for tables in [*draws, *alone_draws]:
            assert all(torch.equal(a, b) for a, b in zip(tables, draws[0], strict=True))
        assert len(alone_draws) == 14 and len(draws) < 14

    @pytest.mark.parametrize("order", [(2, 0, 1), (1, 2, 0), (2, 1, 0)])
    def test_the_prompts_order_does_not_matter(self, network, image, alone, order):
        permuted, _ = self.segment(network, image, order)
        for position, prompt in enumerate(order):
            self.assert_same(alone.volume(prompt), permuted.volume(position))

    def test_a_prompt_asked_alone_gets_the_same_mask(self, network, image, alone):
        for prompt in range(3):
            single, _ = self.segment(network, image, [prompt])
            self.assert_same(alone.volume(prompt), single.volume(0))

    def test_again_gives_the_same_bits_and_another_seed_other_masks(self, network, image, alone):
        again, _ = self.segment(network, image, batch_size=1)
        assert np.array_equal(again.bits_PKHW, alone.bits_PKHW)
        network.seed = 1
        try:
            other, _ = self.segment(network, image, batch_size=1)
        finally:
            network.seed = 0
        assert not np.array_equal(other.bits_PKHW, alone.bits_PKHW)

    def test_nothing_carries_a_gradient(self, network, image):
        assert torch.is_grad_enabled()
        seen: list[bool] = []
        hook = network.pigma.register_forward_hook(
            lambda module, args, output: seen.append(output.requires_grad)
        )
        self.segment(network, image, [0])
        hook.remove()
        assert seen and not any(seen)
