"""Slice-by-slice inference of a whole volume: windows, frames, thresholds on the native grid,
bit-packed masks.

MONAI's ``SliceInferer`` drops extra network arguments and its sliding inferers keep a float volume
per output; here a slice's probabilities live only until they are thresholded.

Array suffixes: P prompts, K slices, H W native pixels, I J K the file's own axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from boltzmed.transforms.channels import channel_indices
from boltzmed.transforms.slices import SlicePlan
from boltzmed.transforms.square import Frame, SquareGrid
from boltzmed.transforms.window import Window, WindowIntensity


@dataclass(frozen=True)
class PackedMasks:
    """Masks of P prompts over one volume: a bit a voxel, and a byte of probability for each voxel
    of a mask.

    Attributes:
        plan: How slices were cut; its ``stack`` brings them back to the file's array order.
        bits_PKHW: uint8 (P,K,H,ceil(W/8)), eight voxels a byte.
        mask_probabilities: Per prompt and slice the probabilities of the mask's voxels in row
            order, uint8 in units of 1/255.
        windows: Per prompt the window that was looked through, (low, high) in HU or in raw MR
            units.
        frames: Per prompt how its slices met the network.
        presence_PK: Presence probabilities in [0,1]; None where the network has no presence head.
        smoothed_PK: The same smoothed along the slices, which then decided; None where nothing was
            smoothed.
    """

    plan: SlicePlan
    bits_PKHW: NDArray[np.uint8]
    mask_probabilities: list[list[NDArray[np.uint8]]]
    windows: list[Window | None]
    frames: list[Frame]
    presence_PK: NDArray[np.float32] | None = None
    smoothed_PK: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.bits_PKHW)

    def slices(self, prompt: int) -> NDArray[np.uint8]:
        """Return one prompt's mask as slices (K,H,W), uint8 in {0,1}."""
        return np.unpackbits(self.bits_PKHW[prompt], axis=-1, count=self.plan.slice_shape[1])

    def volume(self, prompt: int) -> NDArray[np.uint8]:
        """Return one prompt's mask (I,J,K) in the file's own array order, uint8 in {0,1}."""
        return np.ascontiguousarray(self.plan.stack(self.slices(prompt)))

    def probabilities(self, prompt: int) -> Iterator[NDArray[np.float32]]:
        """Yield slice by slice the probabilities of one mask's voxels, in row order."""
        for stored in self.mask_probabilities[prompt]:
            yield stored.astype(np.float32) / np.float32(255)


class PromptSliceInferer(Inferer):
    """Run a prompted 2D network over every slice of a volume.

    Args:
        image_size: Side of the square that the network sees, in pixels, divisible by 32, for
            prompts without a frame.
        min_side: Native pixels to which slices are padded at least (see :class:`Frame`), for
            prompts without a frame.
        plane: Slice plane (see :class:`SlicePlan`); it must be the checkpoint's.
        channels: ``"repeat"`` or ``"neighbours"``; it must be the checkpoint's.
        batch_size: Slices per forward pass, of ``image_size``. Where both a frame and the slice
            itself are smaller, as many as have the same number of pixels.
        threshold: Probability from which a voxel belongs to the mask.
        presence_threshold: Presence probability below which a slice's mask is emptied, where the
            network has one; 0 empties none.
        presence_smoothing_mm: Standard deviation of the Gaussian by which presence is smoothed
            along the slices before that, in mm; 0 for none. Beyond the outermost slices their
            presence goes on.
        progress: Wraps the list of steps, as ``tqdm`` does; None shows nothing.
    """

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
        self.frame, self.plane, self.channels = Frame(image_size, min_side), plane, channels
        self.batch_size, self.threshold, self.progress = batch_size, threshold, progress
        self.presence_threshold, self.presence_smoothing_mm = (
            presence_threshold,
            presence_smoothing_mm,
        )

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        inputs: torch.Tensor,
        network: Any,
        input_ids: torch.Tensor,
        windows: Sequence[Window | None],
        frames: Sequence[Frame | None] | None = None,
    ) -> PackedMasks:
        """Segment one volume for P prompts.

        Args:
            inputs: MetaTensor (1,I,J,K) with its affine, in HU or raw MR intensities.
            network: A BoltzFormer (``encode_image``, ``encode_text``, ``decode``).
            input_ids: (P,T) token ids.
            windows: A window per prompt, None for the volume's percentiles.
            frames: A frame per prompt, None for the inferer's own. A slice is encoded once for each
                distinct pair of window and frame.
        """
        volume = np.asarray(inputs[0].cpu())
        device = next(network.parameters()).device
        plan = SlicePlan.from_affine(np.asarray(inputs.affine), volume.shape, self.plane)  # type: ignore[attr-defined]
        height, width = plan.slice_shape
        chosen = [
            (frame or self.frame).around(height, width) for frame in frames or [None] * len(windows)
        ]
        groups: dict[tuple[Window | None, Frame], list[int]] = {}
        for prompt, group in enumerate(zip(windows, chosen, strict=True)):
            groups.setdefault(group, []).append(prompt)
        measured = {
            window: WindowIntensity(window).measured_on(volume) for window in dict.fromkeys(windows)
        }
        # Once per study: the text serves every slice.
        texts = {
            group: network.encode_text(input_ids[None, members].to(device))
            for group, members in groups.items()
        }

        bits = np.zeros((len(windows), plan.count, height, (width + 7) // 8), np.uint8)
        probabilities = [[np.empty(0, np.uint8)] * plan.count for _ in windows]
        presence: NDArray[np.float32] | None = None
        gate_slices = not self.presence_smoothing_mm  # smoothed presence is known at the end alone
        steps = [(batch, group) for group in groups for batch in self._batches(plan, group[1])]
        for batch, group in self.progress(steps) if self.progress else steps:
            window, frame = group
            grid = SquareGrid(height, width, frame.image_size, frame.min_side)
            rows = [channel_indices(k, plan.count, self.channels) for k in batch]
            needed = sorted({k for row in rows for k in row})
            windowed = measured[window](plan.slices_at(volume, needed))
            squared = grid.to_image(windowed[:, None])[:, 0]
            image = squared[torch.tensor([[needed.index(k) for k in row] for row in rows])]
            output = network.decode(network.encode_image(image.to(device)), texts[group])
            native = grid.to_native(output["mask_logits"].float()).sigmoid()
            found = native >= self.threshold
            if output["presence_logits"] is not None:
                gate = output["presence_logits"].float().sigmoid()
                presence = np.zeros(bits.shape[:2], np.float32) if presence is None else presence
                presence[np.ix_(groups[group], list(batch))] = gate.T.cpu().numpy()
                if gate_slices:
                    found &= (gate >= self.presence_threshold)[..., None, None]
            found_BPHW = found.cpu().numpy()
            bytes_BPHW = (native * 255).round().to(torch.uint8).cpu().numpy()
            for row, k in enumerate(batch):
                for column, prompt in enumerate(groups[group]):
                    mask_HW = found_BPHW[row, column]
                    bits[prompt, k] = np.packbits(mask_HW, axis=-1)
                    probabilities[prompt][k] = bytes_BPHW[row, column][mask_HW]
        smoothed: NDArray[np.float32] | None = None
        if presence is not None and not gate_slices:
            gap_mm = float(np.linalg.norm(plan.slices_affine(inputs.affine)[:3, 0]))  # type: ignore[attr-defined]
            smoothed = smooth_presence(presence, self.presence_smoothing_mm / gap_mm)
            for prompt, k in np.argwhere(smoothed < self.presence_threshold).tolist():
                bits[prompt, k], probabilities[prompt][k] = 0, np.empty(0, np.uint8)
        seen = [measured[window].window for window in windows]
        return PackedMasks(plan, bits, probabilities, seen, chosen, presence, smoothed)

    def _batches(self, plan: SlicePlan, frame: Frame) -> list[range]:
        side = max(frame.image_size, *plan.slice_shape)  # logits come back to the slice's own size
        size = self.batch_size * max(1, (self.frame.image_size // side) ** 2)
        return [range(k, min(k + size, plan.count)) for k in range(0, plan.count, size)]


def smooth_presence(presence_PK: NDArray[np.float32], deviation: float) -> NDArray[np.float32]:
    """Smooth presence probabilities along the slices by a Gaussian of this standard deviation, in
    slices.

    Beyond the outermost slices their presence goes on, so that a curve that is constant stays so.
    """
    return gaussian_filter1d(
        presence_PK.astype(np.float64), deviation, axis=-1, mode="nearest"
    ).astype(np.float32)
