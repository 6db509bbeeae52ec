"""What a MONAI engine feeds the network, out of a collated batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.engines import IterationEvents, PrepareBatch, SupervisedEvaluator
from monai.utils import CommonKeys as Keys
from torch import Tensor

from boltzmed.transforms.network_input import InputSize


class PreparePromptBatch(PrepareBatch):
    """Image, target and the network's prompts; the target carries which prompts are valid, for loss
    and metrics.

    Training draws by each sample's own key; evaluation draws by the network's seed, as inference
    does.
    """

    def __init__(self, *, keyed_draws: bool = True) -> None:
        self.keyed_draws = keyed_draws

    def __call__(
        self,
        batchdata: Mapping[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor], tuple[()], dict[str, Tensor]]:
        moved = {
            key: batchdata[key].to(device=device, non_blocking=non_blocking)
            for key in ("image", "label", "input_ids", "prompt_valid")
        }
        extra = {"input_ids": moved["input_ids"], "prompt_valid": moved["prompt_valid"]}
        if self.keyed_draws:
            extra["draw_key"] = batchdata["draw_key"]
        target = {"mask": moved["label"], "prompt_valid": moved["prompt_valid"]}
        return moved["image"], target, (), extra


def segment_readable(engine: SupervisedEvaluator, batchdata: Mapping[str, Any]) -> dict[str, Any]:
    """Run the step of an evaluator, but none for a study that could not be read.

    MONAI's own step has no way to pass a batch over; this one does what it does, by its public
    parts, and fires the same events.

    Args:
        engine: the evaluator.
        batchdata: an item of a data set of studies, or ``{"problem": the reason}``.
    """
    if "problem" in batchdata:
        return {}
    image, _, arguments, settings = engine.prepare_batch(batchdata, engine.state.device)
    output: dict[str, Any] = {Keys.IMAGE: image}
    engine.state.output = output
    with engine.mode(engine.network):
        output[Keys.PRED] = engine.inferer(image, engine.network, *arguments, **settings)
    engine.fire_event(IterationEvents.FORWARD_COMPLETED)
    engine.fire_event(IterationEvents.MODEL_COMPLETED)
    return output


class PrepareStudy(PrepareBatch):
    """Hand a study and its prompts to a ``PromptSliceInferer``.

    Args:
        input_sizes: card → how large slices are for the network for its prompts; the inferer's own
            size is for all others.
    """

    def __init__(self, input_sizes: Mapping[str, InputSize] | None = None) -> None:
        self.input_sizes = dict(input_sizes or {})

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[MetaTensor, None, tuple[()], dict[str, Any]]:
        """Return the volume, no target, and what the inferer takes beside it by name."""
        prompts = batchdata["prompts"]
        # The volume stays where it is: slices go to the device one batch at a time.
        settings = {
            "input_ids": batchdata["input_ids"],
            "windows": [prompt.window for prompt in prompts],
            "input_sizes": [self.input_sizes.get(prompt.card) for prompt in prompts],
        }
        return batchdata["image"], None, (), settings


def take_study(studies: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the one study of a batch, as a ``DataLoader``'s ``collate_fn``.

    Studies differ in size, and postprocessing takes one.
    """
    (study,) = studies
    return study
