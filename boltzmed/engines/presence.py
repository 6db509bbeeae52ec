"""Sensitivity and specificity of the presence gate, prompt by prompt, as metrics of validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from torch import Tensor


class PresenceRate(Metric):
    """Share of prompts for which the gate is right, at probability 0.5: of those whose target is on the slice, or not.

    Prompts that are not valid don't count. An engine whose network has no gate, or that meets no such prompt, gets no
    value.

    Args:
        present: True gives the sensitivity, False the specificity.
        output_transform, device: As in every Ignite metric.

    Raises:
        NotComputableError: From ``compute``: there was nothing to count.
    """

    required_output_keys = None

    def __init__(
        self,
        *,
        present: bool,
        output_transform: Callable[[Any], Any] = lambda output: output,
        device: str | torch.device = "cpu",
    ) -> None:
        self.present = present
        super().__init__(output_transform, device=device)

    @reinit__is_reduced
    def reset(self) -> None:
        """Forget every slice."""
        self._right = torch.zeros((), dtype=torch.float64, device=self._device)
        self._count = torch.zeros((), dtype=torch.float64, device=self._device)

    @reinit__is_reduced
    def update(self, output: tuple[Tensor | Mapping[str, Tensor | None], Tensor, Tensor]) -> None:
        """Take (the network's output, target (B,P,H,W), prompt_valid (B,P)); presence logits are (B,P)."""
        logits, target, valid = output
        presence = logits.get("presence_logits") if isinstance(logits, Mapping) else None
        if presence is None:
            return
        counted = valid & ((target > 0.5).any(-1).any(-1) == self.present)
        said = presence.detach() >= 0 if self.present else presence.detach() < 0
        self._right += (counted & said).sum().to(self._device)
        self._count += counted.sum().to(self._device)

    @sync_all_reduce("_right", "_count")
    def compute(self) -> float:
        """The share, 0 to 1."""
        if self._count == 0:
            raise NotComputableError("PresenceRate needs a gate, and a prompt whose target is there, or is not")
        return float(self._right / self._count)

    def completed(self, engine: Engine, name: str) -> None:
        """Put the value among an engine's metrics, where there is one."""
        with suppress(NotComputableError):
            super().completed(engine, name)
