"""The forms of attention for inference against the formula, and the rules that choose among all
forms.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import boltzmed.networks.inference_attention as forms
from boltzmed.networks.attention import MultiHeadAttention, attend_fused, attend_reference
from boltzmed.networks.inference_attention import (
    attend_in_blocks,
    attend_shared,
    find_shared,
    prefer_blocks,
    prefer_gathered,
)

HEADS, HEAD_WIDTH = 2, 4


def make_attended(*shape: int, ratio: float, generator: torch.Generator) -> torch.Tensor:
    attended = torch.rand(shape, generator=generator) < ratio
    return attended | ~attended.any(-1, keepdim=True)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 40),
    st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    st.integers(1, 4),
    st.integers(5, 60),
    st.integers(0, 2**31),
)
def test_both_forms_equal_the_formula(batch, prompts, queries, tokens, ratio, rows, scores, seed):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, prompts, queries, HEADS, HEAD_WIDTH, generator=generator)
    key, value = (
        torch.randn(batch, tokens, HEADS, HEAD_WIDTH, generator=generator) for _ in range(2)
    )
    attended = make_attended(batch, prompts, queries, tokens, ratio=ratio, generator=generator)
    arguments = query.flatten(1, 2).transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    mask = attended.flatten(1, 2)[:, None]
    expected = attend_reference(*arguments, mask)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "_QUERIES_PER_BLOCK", rows)
        patch.setattr(forms, "_SCORES_PER_BLOCK", scores)
        blocks = attend_in_blocks(*arguments, mask)
    torch.testing.assert_close(blocks, expected, atol=1e-5, rtol=1e-5)
    shared = attend_shared(query, key, value, attended, attended.any(1))
    torch.testing.assert_close(shared.flatten(1, 2).transpose(1, 2), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("score", [-100.0, 100.0, torch.nan])
def test_scores_out_of_range_are_left_to_the_other_form(score):
    module = MultiHeadAttention(8, 2)
    query = torch.full((1, 40, 1, 8), score)
    heads = query.view(1, 40, 1, 2, 4)
    key, value = torch.ones(1, 4096, 2, 4), torch.randn(1, 4096, 2, 4)
    attended = torch.ones(1, 40, 1, 4096, dtype=torch.bool)
    arguments = heads.flatten(1, 2).transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    mask = attended.flatten(1, 2)[:, None]
    assert attend_in_blocks(*arguments, mask) is None
    assert attend_shared(heads, key, value, attended, attended.any(1)) is None
    with torch.no_grad():
        assert prefer_blocks(arguments[0], 4096)
        torch.testing.assert_close(
            attend_fused(*arguments, mask),
            attend_reference(*arguments, mask),
            atol=1e-5,
            rtol=1e-5,
            equal_nan=True,
        )
        memory = key.transpose(1, 2) * 100, value.transpose(1, 2)
        found = module.attend_shared(query, memory, attended, attended.any(1))
        expected = module(query.flatten(1, 2), memory, mask).view_as(query)
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_few_queries_of_many_wide_tokens_gather():
    tokens = torch.zeros(1, 128 * 128, 512)
    assert (
        prefer_gathered(tokens, 101)
        and prefer_gathered(tokens, 256)
        and not prefer_gathered(tokens, 257)
    )
    assert not prefer_gathered(tokens[:, :1024], 101) and not prefer_gathered(tokens[..., :64], 33)
    assert not prefer_gathered(tokens.to("meta"), 1)


def test_inference_on_many_tokens_goes_by_blocks():
    query = torch.zeros(1, 8, 32, 64)
    with torch.no_grad():
        assert prefer_blocks(query, 4096)
        assert not prefer_blocks(query, 4095) and not prefer_blocks(query[:, :, :31], 4096)
        assert not prefer_blocks(query.double(), 4096) and not prefer_blocks(query.to("meta"), 4096)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not prefer_blocks(query, 4096)
    assert not prefer_blocks(query, 4096)


@torch.no_grad()
def test_prompts_share_what_they_gather_where_their_sets_are_alike():
    generator = torch.Generator().manual_seed(0)
    query = torch.zeros(1, 15, 3, 256)
    alike = (torch.rand(1, 1, 3, 4096, generator=generator) < 0.1).expand(1, 15, 3, 4096)
    union = find_shared(query, alike)
    assert union is not None and torch.equal(union, alike[:, 0])
    assert (
        find_shared(query, torch.rand(1, 15, 3, 4096, generator=generator) < 0.1) is None
    )  # 79 % together
    assert find_shared(query[:, :5], alike[:, :5]) is None
    assert find_shared(query, alike[..., :4095]) is None
    assert find_shared(query, alike[:, :, None].expand(1, 15, 2, 3, 4096)) is None
    with torch.enable_grad():
        assert find_shared(query, alike) is None


@torch.no_grad()
def test_a_layer_gives_the_same_by_shared_tokens():
    torch.manual_seed(0)
    module = MultiHeadAttention(24, 4)
    query, tokens = torch.randn(2, 7, 3, 24), torch.randn(2, 50, 24)
    attended = make_attended(2, 7, 3, 50, ratio=0.2, generator=torch.Generator().manual_seed(1))
    memory = module.project_memory(tokens, tokens)
    expected = module(query.flatten(1, 2), memory, attended.flatten(1, 2)[:, None]).view_as(query)
    torch.testing.assert_close(
        module.attend_shared(query, memory, attended, attended.any(1)),
        expected,
        atol=1e-6,
        rtol=1e-5,
    )
