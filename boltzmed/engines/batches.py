"""What a MONAI engine feeds the network, out of a collated batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.engines import PrepareBatch, SupervisedEvaluator
from torch import Tensor

from boltzmed.transforms.square import Frame


class PreparePromptBatch(PrepareBatch):
    """Image, target and the network's prompts; the target carries which prompts are valid, for loss
    and metrics.

    Training draws by each sample's own key; evaluation draws by the network's seed, as inference
    does.
    """

    def __init__(self, *, keyed_draws: bool = True) -> None:
        self.keyed_draws = keyed_draws

    def __call__(  # type: ignore[override]
        self,
        batchdata: Mapping[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor], tuple, dict[str, Tensor]]:
        moved = {
            key: batchdata[key].to(device=device, non_blocking=non_blocking)
            for key in ("image", "label", "input_ids", "prompt_valid")
        }
        extra = {"input_ids": moved["input_ids"], "prompt_valid": moved["prompt_valid"]}
        if self.keyed_draws:
            extra["draw_key"] = batchdata["draw_key"]
        return (
            moved["image"],
            {"mask": moved["label"], "prompt_valid": moved["prompt_valid"]},
            (),
            extra,
        )


def evaluate_readable(
    engine: SupervisedEvaluator, batchdata: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """MONAI's step of an evaluator, but none for a study that could not be read (its item has a
    ``problem``).
    """
    return {} if "problem" in batchdata[0] else engine._iteration(engine, batchdata)  # type: ignore[arg-type]


class PrepareStudy(PrepareBatch):
    """Hand a study (a batch of one, uncollated) and its prompts to a :class:`PromptSliceInferer`.

    Args:
        frames: Card → how slices meet the network for its prompts; the inferer's own frame is for
            all others.
    """

    def __init__(self, frames: Mapping[str, Frame] | None = None) -> None:
        self.frames = dict(frames or {})

    def __call__(  # type: ignore[override]
        self,
        batchdata: Sequence[Mapping[str, Any]],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[MetaTensor, None, tuple, dict[str, Any]]:
        (study,) = batchdata
        # The volume stays where it is: slices go to the device one batch at a time.
        windows = [prompt.window for prompt in study["prompts"]]
        frames = [self.frames.get(prompt.card) for prompt in study["prompts"]]
        return (
            study["image"],
            None,
            (),
            {"input_ids": study["input_ids"], "windows": windows, "frames": frames},
        )
