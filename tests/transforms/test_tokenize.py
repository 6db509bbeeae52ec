"""Token ids: CLIP's encoding as open_clip gives it, but padded with the end token."""

from __future__ import annotations

import pytest
import torch

from boltzmed.cards import list_cards, load_card, look_up_prompt
from boltzmed.transforms.tokenize import END_ID, START_ID, TokenizePromptsd, tokenize_prompts


def card_prompts() -> list[str]:
    prompts = []
    for name in list_cards():
        for target in load_card(name).targets.values():
            prompts += [*target.prompts, *target.held_out_prompts]
    return prompts


def test_ids_equal_open_clip_up_to_the_end_token():
    import boltzmed.compat  # noqa: F401, I001  (lets torchvision, which open_clip imports, load beside any torch)
    import open_clip

    prompts = [*card_prompts(), "Lung nodule (3 mm), right-upper lobe!", "Læsion i lever", "肺结节"]
    expected = open_clip.tokenize(prompts)
    ids = tokenize_prompts(prompts)
    assert ids.shape == (len(prompts), 77) and ids.dtype == torch.int64
    # open_clip pads with 0, which is a token of its own ("!"); here padding is the end token.
    for row, theirs in zip(ids, expected, strict=True):
        end = int((theirs == END_ID).int().argmax())
        assert torch.equal(row[: end + 1], theirs[: end + 1])
        assert (row[end:] == END_ID).all()
    assert (ids[:, 0] == START_ID).all()


def test_known_ids_of_a_prompt():
    # "a photo of a cat" in CLIP's published vocabulary.
    assert tokenize_prompts(["a photo of a cat"])[0, :8].tolist() == [
        49406,
        320,
        1125,
        539,
        320,
        2368,
        49407,
        49407,
    ]


def test_case_does_not_matter():
    ids = tokenize_prompts(["Liver in Abdomen CT", "liver in abdomen ct"])
    assert torch.equal(ids[0], ids[1])


def test_long_prompts_are_refused_or_cut_when_told_to():
    fits, long = " ".join(["liver"] * 75), " ".join(["liver"] * 76)
    assert tokenize_prompts([fits])[0, -1] == END_ID
    with pytest.raises(ValueError, match="at most 77 tokens with start and end, received 78"):
        tokenize_prompts([long])
    assert torch.equal(tokenize_prompts([long], truncate=True), tokenize_prompts([fits]))
    assert tokenize_prompts(["liver " * 500], truncate=True, context_length=10).shape == (1, 10)


@pytest.mark.parametrize("prompt", ["", "  \n", None, "liver <end_of_text> spleen"])
def test_prompts_without_meaning_are_refused(prompt):
    with pytest.raises(ValueError, match="prompt"):
        tokenize_prompts(["liver", prompt])


def test_no_prompts_and_a_bare_text():
    assert tokenize_prompts([]).shape == (0, 77)
    with pytest.raises(ValueError, match="put it in a list"):
        tokenize_prompts("liver")


def test_texts_and_what_they_were_looked_up_to_mean_are_encoded_alike():
    data = TokenizePromptsd()({"prompts": ["liver", "spleen"]})
    assert torch.equal(data["input_ids"], tokenize_prompts(["liver", "spleen"]))
    assert data["prompts"] == ["liver", "spleen"]
    looked_up = [look_up_prompt(text, [load_card("phantom")]) for text in data["prompts"]]
    encoded = TokenizePromptsd(output_key="ids")({"prompts": looked_up})
    assert torch.equal(encoded["ids"], data["input_ids"]) and encoded["prompts"] is looked_up


def test_a_long_prompt_is_cut_by_the_dictionary_form_when_told_to():
    data = {"prompts": [" ".join(["liver"] * 76)]}
    with pytest.raises(ValueError, match="shorten it"):
        TokenizePromptsd()(data)
    cut = TokenizePromptsd(truncate=True)(data)["input_ids"]
    assert torch.equal(cut, tokenize_prompts([" ".join(["liver"] * 75)]))


def test_prompts_may_be_absent_where_that_is_allowed():
    assert TokenizePromptsd(allow_missing_keys=True)({"image": 1}) == {"image": 1}
    with pytest.raises(KeyError, match="prompts"):
        TokenizePromptsd()({"image": 1})


def test_truncating_is_true_or_false():
    with pytest.raises(ValueError, match="truncate_prompts: expected True or False, received 'no'"):
        TokenizePromptsd(truncate="no")
