"""PiGMA against its unfolded definition."""

import pytest
import torch
import torch.nn.functional as F

from boltzmed.networks.pigma import PiGMA


def unfolded(pigma: PiGMA, masks: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Figure 3, step by step, for one prompt per image."""
    quarter = F.interpolate(image, scale_factor=0.25, mode="bilinear", align_corners=False)
    half = F.interpolate(image, scale_factor=0.5, mode="bilinear", align_corners=False)
    expanded = pigma.expand(torch.cat((quarter, masks), dim=1))
    correction = pigma.combine(torch.cat((half, expanded), dim=1))
    ensemble = F.interpolate(masks.mean(1, keepdim=True), scale_factor=2, mode="bilinear", align_corners=False)
    return (correction + ensemble) / 2


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (256, 256)])
@pytest.mark.parametrize("prompts", [1, 3])
def test_equals_the_unfolded_definition(size, prompts):
    torch.manual_seed(0)
    pigma = PiGMA(6, intermediate_channels=4)
    masks = 4 * torch.randn(2, prompts, 6, size[0] // 4, size[1] // 4)
    image = torch.randn(2, 3, *size)
    output = pigma(masks, image)
    assert output.shape == (2, prompts, size[0] // 2, size[1] // 2)
    for i in range(prompts):
        torch.testing.assert_close(output[:, i : i + 1], unfolded(pigma, masks[:, i], image), atol=1e-5, rtol=1e-5)


def test_gradients_equal_the_unfolded_ones():
    gradients = []
    for folded in (True, False):
        torch.manual_seed(0)
        pigma = PiGMA(6)
        masks, image = torch.randn(2, 1, 6, 16, 16), torch.randn(2, 3, 64, 64)
        output = pigma(masks, image) if folded else unfolded(pigma, masks[:, 0], image)
        output.square().mean().backward()
        gradients.append([p.grad for p in pigma.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_parameter_count_of_the_published_size():
    assert sum(p.numel() for p in PiGMA(101).parameters()) == 16664


@pytest.mark.parametrize(
    ("masks", "image", "message"),
    [
        ((1, 1, 5, 16, 16), (1, 3, 64, 64), "built for 6 queries, got masks of 5"),
        ((1, 1, 6, 16, 16), (1, 3, 64, 60), "4 times the masks' size"),
        ((2, 1, 6, 16, 16), (1, 3, 64, 64), "4 times the masks' size"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(masks, image, message):
    with pytest.raises(ValueError, match=message):
        PiGMA(6)(torch.zeros(masks), torch.zeros(image))
