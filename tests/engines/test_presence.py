"""Sensitivity and specificity of a presence gate: counted by hand, over batches, without a gate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError

from boltzmed.engines.presence import PresenceRate


def batch(presence: list[float] | None, shown: list[bool], valid: list[bool]) -> Any:
    """One image of 2 × 2 pixels with so many prompts; the masks say the opposite of the gate."""
    target = torch.zeros(1, len(shown), 2, 2)
    target[0, torch.tensor(shown), 1, 0] = 1
    logits = None if presence is None else torch.tensor([presence])
    masks = torch.zeros(1, len(shown), 2, 2) if logits is None else -logits[..., None, None].expand(1, -1, 2, 2)
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
    # Shown: open at 2 and 0 (probability 0.5), closed at -0.1. Not shown: closed at -5 and -1, open at 3 and 1.
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
