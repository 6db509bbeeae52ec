"""Prompts looked up inside a Compose."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from boltzmed.cards import load_card
from boltzmed.transforms.prompts import LookUpPromptsd


def make_item(prompts: list[str], modality: str | None = None) -> dict:
    meta = {"modality": modality, "case": "one"}
    return {"image": MetaTensor(torch.zeros(1, 2, 2, 2), meta=meta), "prompts": prompts}


def test_modality_comes_from_the_image_and_cards_in_order():
    pipeline = Compose([LookUpPromptsd(cards=("phantom", "generic_ct", "generic_mr"))])
    item = pipeline(make_item(["Liver in abdomen CT", "pancreas in CT scan", "odd thing"], "CT"))
    assert [(prompt.target, prompt.card) for prompt in item["prompts"]] == [
        ("liver", "phantom"),
        ("pancreas", "generic_ct"),
        (None, "generic_ct"),
    ]
    assert pipeline(make_item(["odd thing"], "MR"))["prompts"][0].window is None


def test_unknown_modality_is_known_from_the_cards_and_written_down():
    item = LookUpPromptsd(cards=["phantom"])(make_item(["liver", "spleen"]))
    assert item["image"].meta["modality"] == "CT"
    assert [prompt.modality for prompt in item["prompts"]] == ["CT", "CT"]


def test_window_override_and_unknown_modality():
    look_up = LookUpPromptsd(cards=["phantom"], window="-10,90")
    assert look_up(make_item(["liver"]))["prompts"][0].window == (-10.0, 90.0)
    with pytest.raises(ValueError, match="--modality"):
        look_up(make_item(["odd thing"]))


def test_prompts_of_two_modalities_are_refused():
    look_up = LookUpPromptsd(cards=["generic_ct", "generic_mr"])
    prompts = ["pancreas in CT scan", "pancreas in abdomen MRI"]
    with pytest.raises(ValueError, match=r"^one: expected prompts of one modality, .*--modality"):
        look_up(make_item(prompts))


def test_one_card_is_enough_by_name_or_as_it_is():
    card = load_card("amos22_mr")
    for cards in ("amos22_mr", [card]):
        (prompt,) = LookUpPromptsd(cards=cards)(make_item(["liver in abdomen MRI"]))["prompts"]
        assert (prompt.target, prompt.card, prompt.modality) == ("liver", "amos22_mr", "MR")


def test_the_given_dictionary_keeps_its_texts():
    item = make_item(["liver"])
    LookUpPromptsd(cards="phantom")(item)
    assert item["prompts"] == ["liver"]
