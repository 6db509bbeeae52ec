"""Restricted attention against torch's own module and between its forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from boltzmed.networks.attention import (
    ImageTokens,
    MultiHeadAttention,
    join_positions,
    sine_positions,
)


def build(attention: str = "fused") -> MultiHeadAttention:
    torch.manual_seed(0)
    module = MultiHeadAttention(24, 4, attention)
    nn.init.normal_(module.in_proj_bias)
    nn.init.normal_(module.out_proj.bias)
    return module


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, n, 24, generator=generator) for n in (6, 30, 30))


def mask(*shape: int) -> torch.Tensor:
    attended = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.2
    attended[..., 0] = True
    return attended


@pytest.mark.parametrize("attention", ["fused", "reference"])
@pytest.mark.parametrize("shape", [None, (2, 1, 6, 30), (2, 4, 6, 30), (2, 1, 1, 30)])
def test_agrees_with_torch_under_the_same_parameters(attention, shape):
    module = build(attention)
    published = nn.MultiheadAttention(24, 4, batch_first=True)
    published.load_state_dict(module.state_dict())
    query, key, value = inputs()
    attended = None if shape is None else mask(*shape)
    blocked = None if attended is None else ~attended.expand(2, 4, 6, 30).flatten(0, 1)
    expected = published(query, key, value, attn_mask=blocked, need_weights=False)[0]
    torch.testing.assert_close(module(query, module.project_memory(key, value), attended), expected)


def test_the_two_forms_have_the_same_gradients():
    gradients = []
    for attention in ("fused", "reference"):
        module = build(attention)
        query, key, value = (tensor.requires_grad_() for tensor in inputs())
        module(
            query, module.project_memory(key, value), mask(2, 1, 6, 30)
        ).square().sum().backward()
        gradients.append([query.grad, key.grad, value.grad, *(p.grad for p in module.parameters())])
    for fused, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, reference, atol=1e-4, rtol=1e-4)


@st.composite
def image_attention(
    draw: st.DrawFn,
) -> tuple[MultiHeadAttention, torch.Tensor, ImageTokens, torch.Tensor]:
    """A module, queries, tokens and attended sets of any sizes; rows may hold one token, few, or
    all.
    """
    torch.manual_seed(draw(st.integers(0, 2**31)))
    heads, head_width = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([4, 8, 12]))
    height, grid_width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    batch, queries = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    width, tokens = heads * head_width, height * grid_width
    module = MultiHeadAttention(width, heads, draw(st.sampled_from(["fused", "reference"])))
    nn.init.normal_(module.in_proj_bias)
    sets = draw(st.sampled_from([1, heads]))
    attended = torch.rand(batch, sets, queries, tokens) < draw(
        st.sampled_from([0.0, 0.1, 0.5, 1.0])
    )
    attended[..., draw(st.integers(0, tokens - 1))] = True
    attended[0, 0, draw(st.integers(0, queries - 1))] = True
    positions = sine_positions(height, grid_width, width)
    return (
        module,
        torch.randn(batch, queries, width),
        ImageTokens(torch.randn(batch, tokens, width), *positions),
        attended,
    )


@pytest.mark.parametrize(
    ("dtype", "forward", "backward"),
    [(torch.float32, 1e-5, 1e-4), (torch.float64, 1e-12, 1e-10)],
    ids=["32", "64"],
)
@settings(max_examples=60, deadline=None)
@given(drawn=image_attention())
def test_gathered_equals_dense_with_all_gradients(drawn, dtype, forward, backward):
    module, query, tokens, attended = drawn
    module, query, tokens = (
        module.to(dtype),
        query.to(dtype),
        ImageTokens(*(part.to(dtype) for part in tokens)),
    )
    weight = torch.randn_like(query)
    outputs, gradients = [], []
    for gathered in (True, False):
        leaves = query.clone().requires_grad_(), tokens.value_BND.clone().requires_grad_()
        given_tokens = tokens._replace(value_BND=leaves[1])
        module.zero_grad()
        if gathered:
            output = module.attend_gathered(leaves[0], given_tokens, attended)
        else:
            output = module(
                leaves[0], module.project_memory(given_tokens.key(), leaves[1]), attended
            )
        (output * weight).sum().backward()
        outputs.append(output.detach())
        gradients.append(
            [*(leaf.grad for leaf in leaves), *(p.grad.clone() for p in module.parameters())]
        )
    assert_relative(outputs[0], outputs[1], forward)
    for found, expected in zip(*gradients, strict=True):
        assert_relative(found, expected, backward)


def assert_relative(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Difference over the tensor's largest value, or over 1 where all are smaller."""
    assert (found - expected).abs().max() <= tolerance * expected.abs().max().clamp_min(1)


def test_tokens_outside_the_attended_set_have_no_influence():
    module = build()
    query, key, value = inputs()
    attended = mask(2, 1, 1, 30)
    expected = module(query, module.project_memory(key, value), attended)
    outside = ~attended[:, 0, 0]
    key[outside], value[outside] = 100.0, -50.0
    torch.testing.assert_close(module(query, module.project_memory(key, value), attended), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((30, 4), "divisible by the number of heads"), ((24, 4, "sparse"), "'sparse'")],
)
def test_wrong_sizes_and_names_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(*arguments)


def test_sine_positions_by_its_formula():
    height, width, channels = 3, 5, 8
    position = join_positions(*sine_positions(height, width, channels)).view(
        height, width, channels
    )
    for y, x, pair in ((0, 0, 0), (2, 4, 1), (1, 3, 0)):
        frequency = 10000 ** (-2 * pair / 4)
        for offset, place, size in ((0, y, height), (4, x, width)):
            angle = torch.tensor((place + 1) / (size + 1e-6) * 2 * torch.pi * frequency)
            expected = torch.stack((angle.sin(), angle.cos()))
            found = position[y, x, offset + 2 * pair : offset + 2 * pair + 2]
            torch.testing.assert_close(found, expected.to(found), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="divisible by 4"):
        sine_positions(2, 2, 6)
