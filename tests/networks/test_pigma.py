"""PiGMA against its unfolded definition."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.literal import LiteralPiGMA, predict_masks
from boltzmed.networks.pigma import PiGMA, aggregate_composed, aggregate_sums
from boltzmed.networks.pixel_decoder import SemanticMap

WIDTH = 8


def inputs(prompts: int, height: int, width: int) -> tuple[torch.Tensor, SemanticMap, torch.Tensor]:
    """Embeddings of 6 queries, a semantic map to be made, and the image."""
    size = (height // 4, width // 4)
    semantic = SemanticMap(
        torch.randn(2, 5, *size), torch.randn(WIDTH, 5, 3, 3), torch.randn(WIDTH)
    )
    return torch.randn(2, prompts, 6, WIDTH), semantic, torch.randn(2, 3, height, width)


def unfolded(pigma: PiGMA, masks: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Figure 3, step by step, for one prompt per image."""
    quarter = F.interpolate(image, scale_factor=0.25, mode="bilinear", align_corners=False)
    half = F.interpolate(image, scale_factor=0.5, mode="bilinear", align_corners=False)
    expanded = pigma.expand(torch.cat((quarter, masks), dim=1))
    correction = pigma.combine(torch.cat((half, expanded), dim=1))
    ensemble = F.interpolate(
        masks.mean(1, keepdim=True), scale_factor=2, mode="bilinear", align_corners=False
    )
    return (correction + ensemble) / 2


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (256, 256)])
@pytest.mark.parametrize("prompts", [1, 3, 9])
@pytest.mark.parametrize("form", [PiGMA, LiteralPiGMA])
def test_equals_the_definition(size, prompts, form):
    torch.manual_seed(0)
    pigma = form(6, intermediate_channels=4)
    embedding, semantic, image = inputs(prompts, *size)
    masks = predict_masks(embedding, semantic)
    with torch.no_grad():  # for nine prompts another way than in training
        output = pigma(embedding, semantic, image)
    assert output.shape == (2, prompts, size[0] // 2, size[1] // 2)
    for i in range(prompts):
        expected = unfolded(pigma, masks[:, i], image)
        torch.testing.assert_close(output[:, i : i + 1], expected, atol=1e-4, rtol=1e-5)


def test_gradients_equal_those_of_the_definition():
    gradients = []
    for folded in (True, False):
        torch.manual_seed(0)
        pigma = PiGMA(6)
        embedding, semantic, image = inputs(1, 64, 64)
        embedding.requires_grad_()
        output = (
            pigma(embedding, semantic, image)
            if folded
            else unfolded(pigma, predict_masks(embedding, semantic)[:, 0], image)
        )
        output.square().mean().backward()
        gradients.append([embedding.grad, *(p.grad for p in pigma.parameters())])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 9), st.integers(2, 9), st.integers(1, 3), st.booleans(), st.integers(0, 2**31)
)
def test_composing_the_convolutions_changes_nothing(height, width, prompts, biased, seed):
    torch.manual_seed(seed)
    features = torch.randn(2, 5, height, width, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(WIDTH, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    summed = torch.randn(2, prompts, 17, WIDTH, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(WIDTH, dtype=torch.float64, requires_grad=True)
    semantic = SemanticMap(features, kernel, bias if biased else None)
    outputs = [aggregate(semantic, summed) for aggregate in (aggregate_sums, aggregate_composed)]
    torch.testing.assert_close(*outputs, atol=1e-10, rtol=1e-10)
    weight = torch.randn_like(outputs[0])
    gradients = [
        torch.autograd.grad((output * weight).sum(), (features, kernel, summed) + (bias,) * biased)
        for output in outputs
    ]
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_parameter_count_of_the_published_size():
    assert sum(p.numel() for p in PiGMA(101).parameters()) == 16664


@pytest.mark.parametrize(
    ("embedding", "image", "message"),
    [
        ((1, 1, 5, WIDTH), (1, 3, 64, 64), "built for 6 queries, got 5"),
        ((1, 1, 6, WIDTH), (1, 3, 64, 60), "4 times the semantic map's size"),
        ((2, 1, 6, WIDTH), (1, 3, 64, 64), "4 times the semantic map's size"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(embedding, image, message):
    with pytest.raises(ValueError, match=message):
        PiGMA(6)(
            torch.zeros(embedding), SemanticMap(torch.zeros(1, WIDTH, 16, 16)), torch.zeros(image)
        )
