"""A step of training: the network in mixed precision, gradients accumulated and clipped, rate and
average moved on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from monai.handlers import LrScheduleHandler
from monai.inferers import SimpleInferer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel


class MixedPrecisionInferer(SimpleInferer):
    """Call the network under autocast to bfloat16, on CPUs and GPUs alike.

    MONAI's own ``amp`` is for CUDA alone, and scales losses for float16; bfloat16 has float32's
    range and needs no scale. What has to stay in float32 (draws, attention's positions, the loss)
    switches autocast off by itself.

    Args:
        amp: False calls the network as it is.

    Raises:
        ValueError: ``amp`` is no boolean.
    """

    def __init__(self, amp: bool) -> None:
        super().__init__()
        if not isinstance(amp, bool):  # on MONAI's command line false is a text
            raise ValueError(f"amp: expected True or False, received {amp!r}")
        self.amp = amp

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """The network's output; arguments as in MONAI's inferers."""
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.amp):
            return super().__call__(inputs, network, *args, **kwargs)


def _batches_of_step(engine: Engine) -> int:
    """Number of batches whose gradients the optimiser takes in this iteration; 0 where they go on
    accumulating.

    As MONAI's SupervisedTrainer counts them: the last step of an epoch takes what is left.
    """
    full = getattr(engine, "accumulation_steps", 1)
    if full == 1:
        return 1
    length: int = engine.state.epoch_length  # type: ignore[assignment]
    done = (engine.state.iteration - 1) % length + 1
    return full if done % full == 0 else done % full if done == length else 0


def count_steps(batches: int, accumulate: int) -> int:
    """Number of optimiser steps in an epoch of so many batches.

    Raises:
        ValueError: ``accumulate`` is no number from 1.
    """
    if not isinstance(accumulate, int) or accumulate < 1:
        raise ValueError(
            f"gradient_accumulation: expected a number of batches from 1, received {accumulate!r}"
        )
    return -(-batches // accumulate)


def build_schedule(
    optimizer: Optimizer, schedules: Mapping[str, Callable[..., LRScheduler]], name: str
) -> LRScheduler:
    """Return the optimiser's schedule of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in schedules:
        raise ValueError(f"schedule: expected {' or '.join(schedules)}, received {name!r}")
    return schedules[name](optimizer)


class StepSchedule(LrScheduleHandler):
    """Step a schedule of the learning rate after every step of the optimiser.

    Args:
        lr_scheduler: Of PyTorch, counted in such steps.
    """

    def __init__(self, lr_scheduler: LRScheduler) -> None:
        super().__init__(lr_scheduler, print_lr=False, epoch_level=False)  # type: ignore[arg-type]

    def __call__(self, engine: Engine) -> None:
        if _batches_of_step(engine):
            super().__call__(engine)


class GradientClipper:
    """Scale gradients down to a largest norm, before every step of the optimiser; stop at one that
    is not finite.

    Where gradients accumulate, the trainer takes each batch's divided by the number of batches of a
    step. An epoch's last step may have fewer: its gradients are multiplied up to their mean, so
    that it is a step of a smaller batch.

    Args:
        network: Whose gradients; their L2 norm is taken over all parameters together.
        max_norm: The largest norm that passes unchanged.

    Raises:
        ValueError: The norm is not finite, which the step would make of all weights; names the
            cases of its batches.
    """

    def __init__(self, network: nn.Module, max_norm: float) -> None:
        self.network, self.max_norm = network, max_norm
        self._cases: set[str] = set()  # since the last step

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer that fires MONAI's iteration events."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        self._cases.update(engine.state.batch.get("case", ["unknown"]))  # type: ignore[union-attr]
        if not (batches := _batches_of_step(engine)):
            return
        if (full := getattr(engine, "accumulation_steps", 1)) != batches:
            for parameter in self.network.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(full / batches)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
        if not torch.isfinite(
            norm
        ):  # several processes have the same gradient, and so stop together
            raise ValueError(
                f"epoch {engine.state.epoch}, iteration {engine.state.iteration}: expected a finite"
                f" gradient, received one of norm {norm.item()} from a finite loss on one or more"
                " of cases"
                f" {', '.join(sorted(self._cases))}"
                f"{' or of another process' if idist.get_world_size() > 1 else ''};"
                " check those images or lower the rate"
            )
        self._cases.clear()


class AverageWeights:
    """Exponential moving average of a network's weights, taken after every step of the optimiser.

    After n steps an average keeps min(decay, (1 + n) / (10 + n)) of itself, so that the first
    weights are soon forgotten. `module` is the averaged network, to validate and save. All of it is
    in the state dict.

    Args:
        network: Which one; not wrapped for several processes, whose weights are equal anyway.
        decay: Below 1; 0 keeps the newest weights alone.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not isinstance(decay, int | float) or not 0 <= decay < 1:
            raise ValueError(f"ema_decay: expected 0 to below 1, received {decay!r}")

        def average(
            averaged: Sequence[Tensor], newest: Sequence[Tensor], count: Tensor | int
        ) -> None:
            # The average's own count lies on the CPU; to read `count` would wait for all that a GPU
            # has under way.
            steps = float(self.averaged.n_averaged)
            kept = min(decay, (1 + steps) / (10 + steps))
            for mean, value in zip(averaged, newest, strict=True):
                mean.copy_(torch.lerp(value, mean, kept))

        self.network = network
        self.averaged = AveragedModel(network, multi_avg_fn=average)  # type: ignore[arg-type]
        # The first step does not replace the weights that training starts from: they count as one.
        self.averaged.n_averaged += 1

    @property
    def module(self) -> nn.Module:
        """The network with averaged weights."""
        return self.averaged.module

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if _batches_of_step(engine):
            self.averaged.update_parameters(self.network)

    def state_dict(self) -> Mapping[str, Any]:
        """For the training's checkpoint."""
        return self.averaged.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.averaged.load_state_dict(state)
