"""The loss: its formula, resizing, invalid prompts."""

import pytest
import torch
import torch.nn.functional as F

from boltzmed.losses import PromptLoss


def batch(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        3 * torch.randn(shape, generator=generator),
        (torch.rand(shape, generator=generator) < 0.3).float(),
    )


def test_parts_by_their_formula():
    logits, target = batch(2, 3, 8, 10)
    parts = PromptLoss().parts(logits, target)
    p = logits.sigmoid()
    dice = 1 - (2 * (p * target).sum((2, 3)) + 1e-5) / (
        p.square().sum((2, 3)) + target.square().sum((2, 3)) + 1e-5
    )
    bce = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    torch.testing.assert_close(parts["dice"], dice.mean())
    torch.testing.assert_close(parts["bce"], bce, atol=1e-5, rtol=1e-5)
    assert parts["total"] == parts["dice"] + parts["bce"] == PromptLoss()(logits, target)


def test_the_latest_parts_are_kept_without_their_graph():
    logits, target = batch(2, 3, 8, 10)
    loss = PromptLoss(presence_weight=0.5)
    output = {"mask_logits": logits.requires_grad_(), "presence_logits": torch.zeros(2, 3)}
    total, parts = loss(output, target), loss.parts(output, target)
    assert total.requires_grad and not any(part.requires_grad for part in loss.latest.values())
    assert (
        loss.latest == parts
        and loss.latest["total"] == total
        and set(parts) == {"total", "dice", "bce", "presence"}
    )
    loss(logits, target)
    assert set(loss.latest) == {"total", "dice", "bce"} and not loss.state_dict()


def test_logits_are_resized_and_targets_are_not():
    logits, _ = batch(2, 2, 8, 8)
    _, target = batch(2, 2, 20, 24)
    resized = F.interpolate(
        logits, size=(20, 24), mode="bicubic", align_corners=False, antialias=True
    )
    torch.testing.assert_close(PromptLoss()(logits, target), PromptLoss()(resized, target))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64])
def test_targets_of_any_type(dtype):
    logits, target = batch(1, 2, 6, 6)
    torch.testing.assert_close(PromptLoss()(logits, target.to(dtype)), PromptLoss()(logits, target))


def test_accepts_the_networks_output():
    logits, target = batch(1, 2, 6, 6)
    output = {"mask_logits": logits, "presence_logits": None}
    assert PromptLoss()(output, target) == PromptLoss()(logits, target)


def test_invalid_prompts_contribute_nothing_whatever_they_hold():
    logits, target = batch(2, 3, 8, 8)
    valid = torch.tensor([[True, False, True], [False, False, True]])
    expected = PromptLoss()(logits[valid][None], target[valid][None])
    logits[0, 1], target[1, 0] = torch.inf, torch.nan
    logits.requires_grad_()
    loss = PromptLoss()(logits, target, valid)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert not logits.grad[~valid].any() and logits.grad[valid].any()


@pytest.mark.parametrize("side", [8, 4])
def test_without_any_valid_prompt_the_loss_is_zero_with_a_gradient(side):
    logits, target = torch.zeros(2, 2, side, side), batch(2, 2, 8, 8)[1]
    logits.requires_grad_()
    parts = PromptLoss().parts(logits, target, torch.zeros(2, 2, dtype=torch.bool))
    assert parts["total"] == parts["dice"] == parts["bce"] == 0
    parts["total"].backward()
    assert logits.grad is not None and not logits.grad.any()


def test_an_absent_object_predicted_absent_costs_nothing():
    assert PromptLoss()(torch.full((1, 1, 8, 8), -100.0), torch.zeros(1, 1, 8, 8)) < 1e-6


def test_absent_objects_may_be_left_out_of_dice():
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 3, 8, 8, generator=generator), torch.zeros(2, 3, 8, 8)
    target[0, 0, 2:5, 3:4] = target[1, 2, 0, 0] = 1
    there = torch.tensor([[True, False, False], [False, False, True]])
    parts, of_all = (
        PromptLoss(absent_dice=False).parts(logits, target),
        PromptLoss().parts(logits, target),
    )
    torch.testing.assert_close(parts["dice"], PromptLoss().parts(logits, target, there)["dice"])
    assert parts["dice"] < of_all["dice"]
    torch.testing.assert_close(parts["bce"], of_all["bce"])  # it still is of every prompt
    nothing = PromptLoss(absent_dice=False).parts(logits[:1, 1:], target[:1, 1:])
    assert nothing["dice"] == 0 and nothing["bce"] > 0
    with pytest.raises(ValueError, match="absent_dice: expected True or False, received 'false'"):
        PromptLoss(absent_dice="false")


def test_the_smoothing_of_an_absent_object():
    logits = torch.logit(torch.full((1, 1, 2, 2), 1e-3))
    dice = PromptLoss().parts(logits, torch.zeros(1, 1, 2, 2))["dice"].item()
    assert dice == pytest.approx(1 - 1e-5 / (4e-6 + 1e-5), rel=1e-4)


def test_half_precision_is_computed_in_single():
    logits, target = batch(1, 2, 64, 64)
    loss = PromptLoss()(logits.bfloat16(), target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, PromptLoss()(logits.bfloat16().float(), target))


@pytest.mark.parametrize(
    ("logits", "target", "valid", "message"),
    [
        (torch.zeros(1, 2, 8, 8), torch.zeros(1, 3, 8, 8), None, "same images and prompts"),
        (torch.zeros(2, 8, 8), torch.zeros(1, 2, 8, 8), None, r"expected logits \(B, P, h, w\)"),
        (
            torch.zeros(1, 2, 8, 8),
            torch.zeros(1, 2, 8, 8),
            torch.ones(1, 3).bool(),
            r"prompt_valid of shape \(1, 2\)",
        ),
        ({"mask_logits": None}, torch.zeros(1, 2, 8, 8), None, "got None"),
    ],
)
def test_wrong_shapes_are_refused(logits, target, valid, message):
    with pytest.raises(ValueError, match=message):
        PromptLoss()(logits, target, valid)


def test_the_gates_part_is_its_cross_entropy_over_valid_prompts():
    logits, target = batch(2, 3, 6, 6)
    target[0, 1] = 0  # absent
    valid = torch.tensor([[True, True, False], [True, True, True]])
    votes = torch.tensor([[2.0, 1.0, 7.0], [-1.0, 0.5, 3.0]], requires_grad=True)
    present = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0])
    expected = F.binary_cross_entropy_with_logits(votes[valid], present)
    output = {"mask_logits": logits, "presence_logits": votes}
    parts = PromptLoss(presence_weight=0.5).parts(output, target, valid)
    without = PromptLoss().parts(logits, target, valid)
    torch.testing.assert_close(parts["presence"], expected)
    torch.testing.assert_close(parts["total"], without["total"] + 0.5 * expected)
    assert (parts["dice"], parts["bce"]) == (without["dice"], without["bce"])
    parts["total"].backward()
    assert votes.grad[0, 2] == 0 and (votes.grad[valid] != 0).all()


def test_the_gate_has_a_gradient_without_any_valid_prompt():
    votes = torch.zeros(1, 2, requires_grad=True)
    output = {"mask_logits": torch.zeros(1, 2, 4, 4, requires_grad=True), "presence_logits": votes}
    PromptLoss()(output, torch.ones(1, 2, 4, 4), torch.zeros(1, 2, dtype=torch.bool)).backward()
    assert torch.equal(votes.grad, torch.zeros(1, 2))
