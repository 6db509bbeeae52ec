"""Prompts looked up inside a Compose."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from boltzmed.transforms.prompts import LookUpPromptsd, LookUpTargetsd


def test_modality_comes_from_the_image_and_cards_in_order():
    pipeline = Compose([LookUpPromptsd(cards=("phantom", "generic_ct", "generic_mr"))])
    image = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"modality": "CT"})
    targets = pipeline(
        {"image": image, "prompts": ["Liver in abdomen CT", "pancreas in CT scan", "odd thing"]}
    )
    found = targets["prompt_targets"]
    assert [(target.target, target.card) for target in found] == [
        ("liver", "phantom"),
        ("pancreas", "generic_ct"),
        (None, "generic_ct"),
    ]
    assert (
        pipeline({"prompts": ["odd thing"], "modality": "MR"})["prompt_targets"][0].window is None
    )


def test_window_override_and_unknown_modality():
    look_up = LookUpPromptsd(cards=["phantom"], window="-10,90")
    assert look_up({"prompts": ["liver"]})["prompt_targets"][0].window == (-10.0, 90.0)
    with pytest.raises(ValueError, match="--modality"):
        look_up({"prompts": ["odd thing"]})
    with pytest.raises(ValueError, match="output_keys"):
        LookUpPromptsd(keys=("a", "b"))


def test_targets_are_asked_for_by_their_cards_usual_phrasing():
    found = LookUpTargetsd(card="amos22_mr")({"targets": ["liver", "left kidney"]})[
        "prompt_targets"
    ]
    assert [prompt.target for prompt in found] == ["liver", "left kidney"]
    assert [prompt.prompt for prompt in found] == [
        "liver in abdomen MRI",
        "left kidney in abdomen MRI",
    ]
    assert found[0].window is None and found[0].modality == "MR"
    assert LookUpTargetsd()({"targets": []})["prompt_targets"] == ()


def test_a_target_that_the_card_lacks_is_refused_with_those_it_has():
    with pytest.raises(ValueError, match=r"card amos22_mr: no target 'bladder'; it has .*liver"):
        LookUpTargetsd(card="amos22_mr")({"targets": ["bladder"]})
    with pytest.raises(ValueError, match="output_keys"):
        LookUpTargetsd(keys=("a", "b"))
