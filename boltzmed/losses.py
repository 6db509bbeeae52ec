"""The paper's loss: Dice plus binary cross-entropy on mask logits, over the prompts that are valid;
and the gate's.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Added to both halves of the Dice fraction: a prompt without object, predicted empty, costs 0.
DICE_SMOOTHING = 1e-5


class PromptLoss(nn.Module):
    """Dice + cross-entropy, equally weighted, averaged over the valid prompts of a batch.

    Logits of another size than the targets are resized to them (bicubic, antialiased); masks never
    are. Dice is taken per image and prompt, 1 - (2 Σ p t + ε) / (Σ p² + Σ t² + ε) with p the
    sigmoid of the logits, the cross-entropy over all pixels. Without any valid prompt the loss is 0
    and still has a gradient (zero), so that a distributed step does not wait for it. Under
    torch.distributed the mean is over the prompts of all processes, whose number may differ.
    Everything is computed in float32.

    Where the network has a presence gate, the cross-entropy of its logits is added: present means
    one pixel or more.

    `latest` holds the total and its parts of the last call, detached, for whoever watches a
    training.

    Args:
        presence_weight: of the gate's part.
        absent_dice: whether Dice is of prompts without object, too. There it is near 1 but for a
            mask that is empty to a millionth, which teaches masks to be empty in doubt: with a
            gate, its business.

    Raises:
        ValueError: ``absent_dice`` is no boolean.
    """

    def __init__(self, presence_weight: float = 1.0, absent_dice: bool = True) -> None:
        super().__init__()
        if not isinstance(absent_dice, bool):
            raise ValueError(f"absent_dice: expected True or False, received {absent_dice!r}")
        self.presence_weight, self.absent_dice = presence_weight, absent_dice
        self.latest: dict[str, Tensor] = {}

    def forward(
        self,
        logits: Tensor | Mapping[str, Tensor | None],
        target: Tensor,
        prompt_valid: Tensor | None = None,
    ) -> Tensor:
        """The total as a scalar; arguments and errors as in `terms`."""
        parts = self.parts(logits, target, prompt_valid)
        self.latest = {name: part.detach() for name, part in parts.items()}
        return parts["total"]

    def parts(
        self,
        logits: Tensor | Mapping[str, Tensor | None],
        target: Tensor,
        prompt_valid: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The total and its parts, each the mean of `terms`.

        Args:
            logits: As in `terms`.
            target: As in `terms`.
            prompt_valid: As in `terms`.

        Returns:
            Scalars `total`, `dice`, `bce` and, of a network with a gate, `presence`; with gradient.

        Raises:
            ValueError: As in `terms`.
        """
        parts = {
            name: _mean(values) for name, values in self.terms(logits, target, prompt_valid).items()
        }
        return {"total": self.total(parts), **parts}

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """dice + bce + presence_weight · presence, of whatever means of `terms`."""
        total = parts["dice"] + parts["bce"]
        return total + self.presence_weight * parts["presence"] if "presence" in parts else total

    def terms(
        self,
        logits: Tensor | Mapping[str, Tensor | None],
        target: Tensor,
        prompt_valid: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """What the loss is the mean of, prompt by prompt.

        Args:
            logits: (B, P, h, w) mask logits, or the network's output that holds them as
                `mask_logits` and perhaps `presence_logits` (B, P).
            target: (B, P, H, W), 1 inside the object, 0 outside; any dtype.
            prompt_valid: (B, P) bool; None takes every prompt. Invalid prompts contribute nothing,
                whatever they hold.

        Returns:
            `dice`, `bce` and, of a network with a gate, `presence`, each (M,) with gradient: a
            number for each of this process's M valid prompts, of `dice` without `absent_dice` for
            those with an object.

        Raises:
            ValueError: if batch, prompts or axes do not fit.
        """
        mask_logits = logits["mask_logits"] if isinstance(logits, Mapping) else logits
        presence_logits = logits.get("presence_logits") if isinstance(logits, Mapping) else None
        if mask_logits is None:
            raise ValueError(
                "expected mask logits (B, P, h, w), got None as the network's mask_logits"
            )
        if mask_logits.ndim != 4 or target.ndim != 4 or mask_logits.shape[:2] != target.shape[:2]:
            raise ValueError(
                "expected logits (B, P, h, w) and a target (B, P, H, W) of the same images and"
                f" prompts, got {tuple(mask_logits.shape)} and {tuple(target.shape)}"
            )
        if prompt_valid is not None and prompt_valid.shape != target.shape[:2]:
            raise ValueError(
                f"expected prompt_valid of shape {tuple(target.shape[:2])}, got"
                f" {tuple(prompt_valid.shape)}"
            )

        with torch.autocast(mask_logits.device.type, enabled=False):
            mask_logits = mask_logits.float()
            if prompt_valid is None:
                kept_logits, kept_target = mask_logits.flatten(0, 1), target.flatten(0, 1)
            else:
                kept = prompt_valid.to(device=mask_logits.device, dtype=torch.bool)
                kept_logits, kept_target = mask_logits[kept], target[kept.to(target.device)]
            kept_target = kept_target.to(device=mask_logits.device, dtype=torch.float32)
            if not len(
                kept_logits
            ):  # nothing to resize; its gradient of zero does not break the backward pass
                kept_logits = kept_logits.reshape(kept_target.shape)
            elif kept_logits.shape != kept_target.shape:
                kept_logits = F.interpolate(
                    kept_logits[:, None],
                    size=kept_target.shape[-2:],
                    mode="bicubic",
                    align_corners=False,
                    antialias=True,
                )[:, 0]
            kept_logits, kept_target = kept_logits.flatten(1), kept_target.flatten(1)
            per_pixel = F.binary_cross_entropy_with_logits(
                kept_logits, kept_target, reduction="none"
            )
            present = (kept_target > 0.5).any(1)
            counted = slice(None) if self.absent_dice else present
            terms = {
                "dice": _dice_loss(kept_logits[counted], kept_target[counted]),
                "bce": per_pixel.mean(1),
            }
            if presence_logits is not None:
                votes = presence_logits.float()
                votes = votes.flatten() if prompt_valid is None else votes[kept]
                terms["presence"] = F.binary_cross_entropy_with_logits(
                    votes, present.float(), reduction="none"
                )
            return terms


def _mean(per_prompt: Tensor) -> Tensor:
    """Mean over the prompts (M,) of all processes; 0 if there is none.

    Processes average their gradients. For that to be the gradient of the mean over all prompts,
    wherever they are, each takes its own sum times the number of processes, over the number of all
    prompts; the value is the mean itself.
    """
    total, count = per_prompt.sum(), per_prompt.new_tensor(float(len(per_prompt)))
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return total / count.clamp(min=1)
    sums = torch.stack([total.detach(), count])
    torch.distributed.all_reduce(sums)
    everywhere = sums[1].clamp(min=1)
    share = total * torch.distributed.get_world_size() / everywhere
    return share + (sums[0] / everywhere - share).detach()


def _dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Dice loss of each mask, (M, pixels) → (M,), with squares in the denominator."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * target).sum(1)
    total = probability.square().sum(1) + target.square().sum(1)
    return 1 - (overlap + DICE_SMOOTHING) / (total + DICE_SMOOTHING)
