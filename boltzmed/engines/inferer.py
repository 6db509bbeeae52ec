"""Slice-by-slice inference of a whole volume: thresholds on the native grid, bit-packed masks.

MONAI's ``SliceInferer`` drops extra network arguments and its sliding inferers keep a float volume
per output; here a slice's probabilities live only until they are thresholded.

Array suffixes: P prompts, K slices, H W native pixels, I J K the file's own axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from boltzmed.options import check_count, check_number
from boltzmed.transforms.network_input import InputSize, NetworkInput
from boltzmed.transforms.packed_masks import PackedMasks
from boltzmed.transforms.slices import SlicePlan
from boltzmed.transforms.window import Window, WindowIntensity


@dataclass(frozen=True)
class _Group:
    """Prompts that see the same images: one window, one input size."""

    window: WindowIntensity
    way: NetworkInput
    prompts: list[int]
    text: Any


@dataclass
class _Pack:
    """What fills up slice by slice."""

    bits_PKHW: NDArray[np.uint8]
    probabilities: list[list[NDArray[np.uint8]]]
    presence_PK: NDArray[np.float32] = field(init=False)
    has_presence: bool = False

    def __post_init__(self) -> None:
        self.presence_PK = np.zeros(self.bits_PKHW.shape[:2], np.float32)

    def add_presence(
        self, prompts: Sequence[int], slices: Sequence[int], presence_BP: torch.Tensor
    ) -> None:
        self.has_presence = True
        self.presence_PK[np.ix_(prompts, slices)] = presence_BP.T.cpu().numpy()

    def add_masks(
        self,
        prompts: Sequence[int],
        slices: Sequence[int],
        inside_BPHW: NDArray[np.bool_],
        bytes_BPHW: NDArray[np.uint8],
    ) -> None:
        for row, k in enumerate(slices):
            for column, prompt in enumerate(prompts):
                mask_HW = inside_BPHW[row, column]
                self.bits_PKHW[prompt, k] = np.packbits(mask_HW, axis=-1)
                self.probabilities[prompt][k] = bytes_BPHW[row, column][mask_HW]

    def empty(self, prompt: int, k: int) -> None:
        self.bits_PKHW[prompt, k] = 0
        self.probabilities[prompt][k] = np.empty(0, np.uint8)


class PromptSliceInferer(Inferer):
    """Run a prompted 2D network over every slice of a volume.

    Args:
        image_size: side of the square that the network sees, in pixels, divisible by 32, for
            prompts without an input size.
        min_side: native pixels to which slices are padded at least (see ``InputSize``), for
            prompts without an input size.
        plane: slice plane (see ``SlicePlan``); it must be the checkpoint's.
        channels: ``"repeat"`` or ``"neighbours"``; it must be the checkpoint's.
        batch_size: slices per forward pass, of ``image_size``. Where both an input size and the
            slice itself are smaller, as many as have the same number of pixels.
        threshold: probability from which a voxel belongs to the mask.
        presence_threshold: presence probability below which a slice's mask is emptied, where the
            network has a presence head; 0 empties none.
        presence_smoothing_mm: standard deviation of the Gaussian by which presence is smoothed
            along the slices before that, in mm; 0 for none. Beyond the outermost slices their
            presence goes on.
        progress: wraps the list of steps, as ``tqdm`` does; None shows nothing.

    Raises:
        ValueError: a threshold outside its range, or a batch without a slice.
    """

    # Nine parameters: each is an option of inference.yaml and evaluate.yaml of its own.
    def __init__(
        self,
        *,
        image_size: int,
        min_side: int = 1,
        plane: str = "axial",
        channels: str = "repeat",
        batch_size: int = 4,
        threshold: float = 0.5,
        presence_threshold: float = 0.5,
        presence_smoothing_mm: float = 0.0,
        progress: Callable[[Sequence[Any]], Iterable[Any]] | None = None,
    ) -> None:
        super().__init__()
        check_count(min_side=min_side)
        check_count(batch_size=batch_size)
        check_number(threshold=threshold)
        check_number(presence_threshold=presence_threshold)
        check_number(presence_smoothing_mm=presence_smoothing_mm)
        if not 0 < threshold < 1:
            raise ValueError(
                f"mask threshold: expected a probability between 0 and 1, received {threshold}"
            )
        if batch_size < 1:
            raise ValueError(f"batch size: expected at least 1 slice, received {batch_size}")
        if not 0 <= presence_threshold <= 1:
            raise ValueError(
                "presence_threshold: expected a probability from 0 to 1, received"
                f" {presence_threshold}"
            )
        if not 0 <= presence_smoothing_mm < np.inf:
            raise ValueError(
                f"presence_smoothing_mm: expected 0 or more mm, received {presence_smoothing_mm}"
            )
        self.input_size = InputSize(image_size, min_side)
        self.plane = plane
        self.channels = channels
        self.batch_size = batch_size
        self.threshold = threshold
        self.presence_threshold = presence_threshold
        self.presence_smoothing_mm = presence_smoothing_mm
        self.progress = progress

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        inputs: MetaTensor,
        network: Any,
        input_ids: torch.Tensor,
        windows: Sequence[Window | None],
        input_sizes: Sequence[InputSize | None] | None = None,
    ) -> PackedMasks:
        """Segment one volume for P prompts.

        Args:
            inputs: (1,I,J,K) with its affine, in HU or raw MR intensities.
            network: a BoltzFormer (``encode_image``, ``encode_text``, ``decode``).
            input_ids: (P,T) token ids.
            windows: a window per prompt, None for the volume's percentiles.
            input_sizes: an input size per prompt, None for the inferer's own. A slice is encoded
                once for each distinct pair of window and input size.
        """
        volume = np.asarray(inputs[0].cpu())
        plan = SlicePlan.from_affine(np.asarray(inputs.affine), volume.shape, self.plane)
        own_sizes = input_sizes or [None] * len(windows)
        sizes = [(size or self.input_size).around(*plan.slice_shape) for size in own_sizes]
        measured = {
            window: WindowIntensity(window).measured_on(volume) for window in dict.fromkeys(windows)
        }
        bound = [measured[window] for window in windows]
        groups = self._group_prompts(plan, network, input_ids, bound, sizes)
        pack = self._make_pack(plan, len(windows))
        steps = [(group, batch) for group in groups for batch in self._batches(plan, group)]
        for group, batch in self.progress(steps) if self.progress else steps:
            slices = plan.slices_at(volume, group.way.needed_slices(batch))
            self._segment(network, group, batch, slices, pack)
        smoothed = self._smooth(pack, plan.slices_affine(inputs.affine))
        return PackedMasks(
            plan=plan,
            bits_PKHW=pack.bits_PKHW,
            mask_probabilities=pack.probabilities,
            windows=[window.window for window in bound],
            input_sizes=sizes,
            presence_PK=pack.presence_PK if pack.has_presence else None,
            smoothed_PK=smoothed,
        )

    def _group_prompts(
        self,
        plan: SlicePlan,
        network: Any,
        input_ids: torch.Tensor,
        windows: Sequence[WindowIntensity],
        sizes: Sequence[InputSize],
    ) -> list[_Group]:
        device = next(network.parameters()).device
        members: dict[tuple[int, InputSize], list[int]] = {}
        for prompt, (window, size) in enumerate(zip(windows, sizes, strict=True)):
            members.setdefault((id(window), size), []).append(prompt)
        groups = []
        for (_, size), prompts in members.items():
            way = NetworkInput(plan.slice_shape, plan.count, size, self.channels)
            # Once per study: the text serves every slice.
            text = network.encode_text(input_ids[None, prompts].to(device))
            groups.append(_Group(windows[prompts[0]], way, prompts, text))
        return groups

    def _make_pack(self, plan: SlicePlan, count: int) -> _Pack:
        height, width = plan.slice_shape
        bits = np.zeros((count, plan.count, height, (width + 7) // 8), np.uint8)
        nothing = np.empty(0, np.uint8)
        return _Pack(bits, [[nothing] * plan.count for _ in range(count)])

    def _batches(self, plan: SlicePlan, group: _Group) -> list[range]:
        # Logits come back to the slice's own size, so that a large slice counts as such.
        side = max(group.way.grid.image_size, *plan.slice_shape)
        size = self.batch_size * max(1, (self.input_size.image_size // side) ** 2)
        return [range(k, min(k + size, plan.count)) for k in range(0, plan.count, size)]

    def _segment(
        self, network: Any, group: _Group, batch: range, slices: NDArray[Any], pack: _Pack
    ) -> None:
        """Run the network on a batch of slices, and pack what is above the threshold."""
        device = next(network.parameters()).device
        image = group.way.stack(group.way.square(slices, group.window), batch).contiguous()
        output = network.decode(network.encode_image(image.to(device)), group.text)
        native = group.way.to_native(output["mask_logits"].float()).sigmoid()
        inside = native >= self.threshold
        if output["presence_logits"] is not None:
            presence = output["presence_logits"].float().sigmoid()
            pack.add_presence(group.prompts, batch, presence)
            if not self.presence_smoothing_mm:  # smoothed presence is known at the end alone
                inside &= (presence >= self.presence_threshold)[..., None, None]
        probability_bytes = (native * 255).round().to(torch.uint8)
        pack.add_masks(group.prompts, batch, inside.cpu().numpy(), probability_bytes.cpu().numpy())

    def _smooth(
        self, pack: _Pack, slices_affine: NDArray[np.float64]
    ) -> NDArray[np.float32] | None:
        """Smooth presence where that was requested, and empty the slices that it closes."""
        if not pack.has_presence or not self.presence_smoothing_mm:
            return None
        gap_mm = float(np.linalg.norm(slices_affine[:3, 0]))
        smoothed = smooth_presence(pack.presence_PK, self.presence_smoothing_mm / gap_mm)
        for prompt, k in np.argwhere(smoothed < self.presence_threshold).tolist():
            pack.empty(prompt, k)
        return smoothed


def smooth_presence(presence_PK: NDArray[np.float32], deviation: float) -> NDArray[np.float32]:
    """Smooth presence probabilities along the slices by a Gaussian.

    Beyond the outermost slices their presence goes on, so that a curve that is constant stays so.

    Args:
        presence_PK: (P,K) in [0,1].
        deviation: standard deviation, in slices.
    """
    curves_PK = presence_PK.astype(np.float64)
    smoothed: NDArray[np.float64] = gaussian_filter1d(curves_PK, deviation, axis=-1, mode="nearest")
    return smoothed.astype(np.float32)
