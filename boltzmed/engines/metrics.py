"""Metrics of validation, over all prompts of all processes: Dice, the loss, how often a presence
gate is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from torch import Tensor, nn

from boltzmed.strata import AREA_BINS, assign_area_bins

Output = tuple[Tensor | Mapping[str, Tensor | None], Tensor, Tensor]
"""What they take: mask logits (B,P,h,w) or the network's output, target (B,P,H,W), prompt_valid
(B,P).
"""
_PARTS = ("dice", "bce", "presence")
"""Of `boltzmed.losses.PromptLoss`."""


class _PromptMeans(Metric):
    """Sums and counts of prompts, of so many kinds; ``compute`` makes means of them."""

    required_output_keys = None
    kinds = 1

    @reinit__is_reduced
    def reset(self) -> None:
        """Forget every slice."""
        self._sums = torch.zeros(self.kinds, dtype=torch.float64, device=self._device)
        self._counts = torch.zeros(self.kinds, dtype=torch.float64, device=self._device)

    def _add(self, kind: int, values: Tensor) -> None:
        self._sums[kind] += values.detach().double().sum().to(self._device)
        self._counts[kind] += values.numel()


class PromptDice(_PromptMeans):
    """Mean Dice of prompts whose target is on the slice, over all and by the target's share of the
    image.

    Dice = 2 |prediction ∩ reference| / (|prediction| + |reference|) at probability 0.5, on the
    target's grid; logits of another size are resized to it (bilinear). Invalid and empty references
    don't count.

    Args:
        by_size: ``compute`` gives ``{"0.1–1 %": …}`` for the strata that hold an object instead of
            the mean of all.
        output_transform: As in every Ignite metric.
        device: As in every Ignite metric.

    Raises:
        NotComputableError: No target was on any slice.
    """

    kinds = len(AREA_BINS)

    def __init__(
        self,
        *,
        by_size: bool = False,
        output_transform: Callable[[Any], Any] = lambda output: output,
        device: str | torch.device = "cpu",
    ) -> None:
        self.by_size = by_size
        super().__init__(output_transform, device=device)

    @reinit__is_reduced
    def update(self, output: Output) -> None:
        """Take a batch."""
        logits, target, valid = output
        mask_logits = logits["mask_logits"] if isinstance(logits, Mapping) else logits
        assert mask_logits is not None
        mask_logits = nn.functional.interpolate(
            mask_logits.detach().float(), target.shape[-2:], mode="bilinear"
        )
        prediction, reference = mask_logits > 0, target > 0.5
        size = reference.sum((-2, -1))
        counted = valid & (size > 0)
        dice = (
            2
            * (prediction & reference).sum((-2, -1))
            / (prediction.sum((-2, -1)) + size).clamp(min=1)
        )
        strata = assign_area_bins(
            size.cpu().numpy() / reference[0, 0].numel()
        )  # float64: edges are exact
        for index in range(len(AREA_BINS)):
            self._add(
                index, dice[counted & torch.as_tensor(strata == index, device=counted.device)]
            )

    @sync_all_reduce("_sums", "_counts")
    def compute(self) -> float | dict[str, float]:
        """The mean of all, or of each stratum (``by_size``)."""
        if self._counts.sum() == 0:
            raise NotComputableError("PromptDice needs at least one slice that shows its target")
        if not self.by_size:
            return float(self._sums.sum() / self._counts.sum())
        return {
            name: float(total / count)
            for name, total, count in zip(AREA_BINS, self._sums, self._counts, strict=True)
            if count > 0
        }


class MeanPromptLoss(_PromptMeans):
    """The loss of a whole validation: each part is the mean over all prompts that it counts,
    however batches are cut.

    Args:
        loss: Has ``terms`` and ``total``, as `boltzmed.losses.PromptLoss` does.
        output_transform: As in every Ignite metric.
        device: As in every Ignite metric.

    Raises:
        NotComputableError: There was no valid prompt.
    """

    kinds = len(_PARTS)

    def __init__(
        self,
        loss: Any,
        *,
        output_transform: Callable[[Any], Any] = lambda output: output,
        device: str | torch.device = "cpu",
    ) -> None:
        self.loss = loss
        super().__init__(output_transform, device=device)

    @reinit__is_reduced
    def update(self, output: Output) -> None:
        """Take a batch."""
        for name, values in self.loss.terms(*output).items():
            self._add(_PARTS.index(name), values)

    @sync_all_reduce("_sums", "_counts")
    def compute(self) -> float:
        """The total of the parts' means."""
        if self._counts.sum() == 0:
            raise NotComputableError("MeanPromptLoss needs at least one valid prompt")
        return float(
            self.loss.total(dict(zip(_PARTS, self._sums / self._counts.clamp(min=1), strict=True)))
        )


class PresenceRate(_PromptMeans):
    """Share of prompts for which the gate is right, at probability 0.5: of those whose target is on
    the slice, or not.

    Prompts that are not valid don't count. An engine whose network has no gate, or that meets no
    such prompt, gets no value.

    Args:
        present: True gives the sensitivity, False the specificity.
        output_transform: As in every Ignite metric.
        device: As in every Ignite metric.

    Raises:
        NotComputableError: From ``compute``: there was nothing to count.
    """

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
    def update(self, output: Output) -> None:
        """Take a batch; presence logits are (B,P)."""
        logits, target, valid = output
        presence = logits.get("presence_logits") if isinstance(logits, Mapping) else None
        if presence is None:
            return
        counted = valid & ((target > 0.5).any(-1).any(-1) == self.present)
        self._add(0, (presence >= 0 if self.present else presence < 0)[counted])

    @sync_all_reduce("_sums", "_counts")
    def compute(self) -> float:
        """The share, 0 to 1."""
        if self._counts.sum() == 0:
            raise NotComputableError(
                "PresenceRate needs a gate, and a prompt whose target is there, or is not"
            )
        return float(self._sums.sum() / self._counts.sum())

    def completed(self, engine: Engine, name: str) -> None:
        """Put the value among an engine's metrics, where there is one."""
        with suppress(NotComputableError):
            super().completed(engine, name)
