"""Metrics of validation: Dice by formula, the loss of all prompts, a gate's rates by hand; over
batches.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from torch import Tensor

from boltzmed.engines.metrics import MeanPromptLoss, PresenceRate, PromptDice
from boltzmed.losses import PromptLoss


def batch(presence: list[float] | None, shown: list[bool], valid: list[bool]) -> Any:
    """One image of 2 × 2 pixels with so many prompts; the masks say the opposite of the gate."""
    target = torch.zeros(1, len(shown), 2, 2)
    target[0, torch.tensor(shown), 1, 0] = 1
    logits = None if presence is None else torch.tensor([presence])
    masks = (
        torch.zeros(1, len(shown), 2, 2)
        if logits is None
        else -logits[..., None, None].expand(1, -1, 2, 2)
    )
    return {"mask_logits": masks, "presence_logits": logits}, target, torch.tensor([valid])


BATCHES = [
    batch([2.0, -0.1, 0.0, 3.0, -5.0], [True, True, True, False, False], [True] * 5),
    batch([-1.0, 1.0, -1.0, 4.0], [False, False, False, True], [True, True, False, False]),
]


def run(present: bool, batches: list[Any]) -> dict[str, float]:
    evaluator = Engine(lambda engine, batch: batch)
    PresenceRate(present=present).attach(evaluator, "rate")
    return evaluator.run(batches).metrics


def test_by_hand_and_over_batches():
    # Shown: open at 2 and 0 (probability 0.5), closed at -0.1. Not shown: closed at -5 and -1, open
    # at 3 and 1.
    assert run(True, BATCHES)["rate"] == pytest.approx(2 / 3)
    assert run(False, BATCHES)["rate"] == pytest.approx(2 / 4)


def test_a_gate_closed_on_everything_finds_nothing():
    closed = [batch([-9.0, -9.0, -9.0], [True, True, False], [True] * 3)]
    assert (run(True, closed)["rate"], run(False, closed)["rate"]) == (0, 1)


def test_without_a_gate_or_such_a_prompt_there_is_no_value():
    plain = batch(None, [True, False], [True, True])
    assert run(True, [plain]) == run(False, [plain]) == {}
    assert run(True, [(plain[0]["mask_logits"], *plain[1:])]) == {}
    assert run(False, [batch([1.0], [True], [True])]) == {}
    with pytest.raises(NotComputableError, match="needs a gate"):
        PresenceRate(present=True).compute()


def masks(*rows: list[int]) -> Tensor:
    """(1,P,1,W) of P rows."""
    return torch.tensor(rows, dtype=torch.float32)[None, :, None]


def dice(logits: Any, target: Tensor, valid: list[bool] | None = None, **options: Any) -> Any:
    metric = PromptDice(**options)
    flags = (
        torch.ones(target.shape[:2], dtype=torch.bool) if valid is None else torch.tensor([valid])
    )
    metric.update((logits, target, flags))
    return metric.compute()


class TestPromptDice:
    @pytest.mark.parametrize(
        ("prediction", "reference", "expected"),
        [
            ([1, 1, 0, 0], [1, 1, 0, 0], 1.0),
            ([1, 1, 0, 0], [0, 1, 1, 0], 0.5),
            ([1, 1, 1, 1], [1, 0, 0, 0], 0.4),
            ([0, 0, 1, 1], [1, 1, 0, 0], 0.0),
            ([0, 0, 0, 0], [1, 1, 0, 0], 0.0),
        ],
    )
    def test_known_answers(self, prediction, reference, expected):
        logits = masks(prediction) * 6 - 3
        assert dice(logits, masks(reference)) == pytest.approx(expected)
        assert dice(
            {"mask_logits": logits, "presence_logits": None}, masks(reference)
        ) == pytest.approx(expected)

    def test_invalid_and_empty_references_do_not_count(self):
        logits = masks([1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]) * 6 - 3
        target = masks([1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0])
        assert dice(logits, target, [True, True, False, True]) == pytest.approx((1 + 0.5) / 2)

    def test_it_is_the_mean_over_prompts_of_all_batches(self):
        metric = PromptDice()
        for prediction, reference in (
            (masks([1, 0], [0, 1], [1, 0]), masks([1, 0], [0, 1], [1, 0])),
            (masks([1, 0]),) * 2,
        ):
            logits = prediction * 6 - 3
            metric.update((logits, reference, torch.ones(logits.shape[:2], dtype=torch.bool)))
        metric.update((masks([0, 1]) - 0.5, masks([1, 0]), torch.ones(1, 1, dtype=torch.bool)))
        assert metric.compute() == pytest.approx(4 / 5)
        metric.reset()
        metric.update((masks([0, 1]) - 0.5, masks([1, 0]), torch.ones(1, 1, dtype=torch.bool)))
        assert metric.compute() == 0

    def test_logits_are_resized_to_the_target(self):
        # Two columns of -1 and 9 over eight pixels: the logit is 0 a tenth of the way from pixel
        # 1.5 to 5.5.
        logits = torch.tensor([-1.0, 9.0]).expand(1, 1, 2, 2)
        target = torch.zeros(1, 1, 8, 8)
        target[..., 4:] = 1
        assert dice(logits, target) == pytest.approx(2 * 4 / (6 + 4))
        target[..., 2:] = 1
        assert dice(logits, target) == 1

    @staticmethod
    def squares(*sizes_found: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Logits and targets of 100 x 100 pixels: each target's size, and how many of its pixels
        are found.
        """
        target = torch.zeros(1, len(sizes_found), 100, 100)
        logits = torch.full_like(target, -3.0)
        for prompt, (size, found) in enumerate(sizes_found):
            target[0, prompt].view(-1)[:size] = 1
            logits[0, prompt].view(-1)[:found] = 3
        return logits, target

    def test_by_size(self):
        logits, target = self.squares((2, 2), (99, 33), (101, 101), (101, 0), (10_000, 10_000))
        expected = {"0.01–0.1 %": 1.0, "0.1–1 %": 0.5, "1–10 %": 0.5, "≥10 %": 1.0}
        assert dice(logits, target, by_size=True) == pytest.approx(expected)
        assert dice(logits, target) == pytest.approx((1 + 0.5 + 1 + 0 + 1) / 5)

    def test_exactly_at_an_edge_is_the_larger_stratum(self):
        logits, target = self.squares((1, 1), (100, 50))
        assert dice(logits, target, by_size=True) == pytest.approx(
            {"0.01–0.1 %": 1.0, "1–10 %": 2 / 3}
        )

    @pytest.mark.parametrize("by_size", [False, True])
    def test_without_any_object_there_is_nothing_to_compute(self, by_size):
        with pytest.raises(NotComputableError, match="at least one slice that shows its target"):
            PromptDice(by_size=by_size).compute()
        with pytest.raises(NotComputableError, match="at least one slice that shows its target"):
            dice(masks([1, 1], [1, 1]), masks([0, 0], [1, 1]), [True, False], by_size=by_size)


class TestMeanPromptLoss:
    @pytest.mark.parametrize("absent_dice", [True, False])
    @pytest.mark.parametrize("gated", [True, False])
    def test_it_is_the_loss_of_all_prompts_however_batches_are_cut(self, absent_dice, gated):
        generator = torch.Generator().manual_seed(1)
        logits = {"mask_logits": torch.randn(6, 3, 8, 8, generator=generator)}
        if gated:
            logits["presence_logits"] = torch.randn(6, 3, generator=generator)
        target = torch.zeros(6, 3, 8, 8)
        target[0, 0, 2:5], target[0, 1, 0, 0], target[4, 2, :, 3:] = (
            1,
            1,
            1,
        )  # four images show nothing
        valid = torch.rand(6, 3, generator=generator) < 0.8
        valid[0], valid[3], valid[4, 2] = True, False, True  # and one is asked for nothing
        loss = PromptLoss(0.7, absent_dice)
        expected = loss(logits, target, valid).item()
        for cuts in ([6], [1, 1, 1, 1, 1, 1], [2, 3, 1]):
            metric = MeanPromptLoss(loss)
            parts = [
                {name: value.split(cuts)[k] for name, value in logits.items()}
                for k in range(len(cuts))
            ]
            for output in zip(parts, target.split(cuts), valid.split(cuts), strict=True):
                metric.update(output)
            assert metric.compute() == pytest.approx(expected, rel=1e-5)

    def test_without_any_prompt_there_is_nothing_to_compute(self):
        with pytest.raises(NotComputableError, match="at least one valid prompt"):
            MeanPromptLoss(PromptLoss()).compute()
