"""The pixel decoder: sizes, parameters, initial weights, and its transformer layer against torch's own."""

import math

import pytest
import torch
from torch import nn

from boltzmed.networks.pixel_decoder import PixelDecoder, PixelEncoderLayer

CHANNELS = (12, 16, 20, 24)


def small() -> PixelDecoder:
    torch.manual_seed(0)
    return PixelDecoder(CHANNELS, hidden_dim=32, mask_dim=48, num_layers=2, num_heads=4, feedforward_dim=64)


def features_of(height: int, width: int, batch: int = 2) -> list[torch.Tensor]:
    return [torch.randn(batch, c, height // s, width // s) for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 160), (256, 256)])
def test_scales_run_from_coarse_to_fine(height: int, width: int) -> None:
    with torch.no_grad():
        scales, mask_features = small()(features_of(height, width))
    assert [tuple(scale.shape) for scale in scales] == [(2, 32, height // s, width // s) for s in (32, 16, 8)]
    assert mask_features.shape == (2, 48, height // 4, width // 4)
    assert all((scale >= 0).all() for scale in scales), "scales end in a ReLU"
    assert (mask_features < 0).any(), "the semantic map does not"


@pytest.mark.parametrize(
    ("channels", "count"), [((256,) * 4, 31_243_264), ((192, 384, 768, 1536), 32_193_536)], ids=["hiera", "focal"]
)
def test_published_parameter_counts(channels: tuple[int, ...], count: int) -> None:
    with torch.device("meta"):
        decoder = PixelDecoder(channels, 512, 512, num_layers=6, num_heads=8, feedforward_dim=2048)
    assert sum(parameter.numel() for parameter in decoder.parameters()) == count


def test_transformer_layer_is_torchs_where_there_are_no_positions() -> None:
    torch.manual_seed(0)
    layer = PixelEncoderLayer(32, 4, 64)
    reference = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=False)
    reference.load_state_dict({k.replace("self_attention", "self_attn"): v for k, v in layer.state_dict().items()})
    x = torch.randn(2, 20, 32)
    torch.testing.assert_close(layer(x, torch.zeros(20, 32)), reference(x), atol=1e-5, rtol=1e-5)


def test_positions_choose_where_to_look_not_what_is_seen() -> None:
    """All tokens equal: whatever the weights of attention, the average of equal values is that value."""
    torch.manual_seed(0)
    layer = PixelEncoderLayer(32, 4, 64)
    x = torch.randn(1, 1, 32).expand(1, 20, 32)
    torch.testing.assert_close(layer(x, torch.randn(20, 32)), layer(x, torch.zeros(20, 32)), atol=1e-5, rtol=1e-5)


def test_the_coarse_map_reaches_every_scale_and_the_finest_none() -> None:
    decoder, features = small(), features_of(64, 64, batch=1)
    with torch.no_grad():
        scales, mask_features = decoder(features)
        changed = [*features[:3], features[3] + torch.randn_like(features[3])]
        coarse_scales, coarse_mask = decoder(changed)
        fine_scales, fine_mask = decoder([features[0] + torch.randn_like(features[0]), *features[1:]])
    assert all(not torch.equal(a, b) for a, b in zip(scales, coarse_scales, strict=True))
    assert not torch.equal(mask_features, coarse_mask)
    assert all(torch.equal(a, b) for a, b in zip(scales, fine_scales, strict=True))
    assert not torch.equal(mask_features, fine_mask)


def test_weights_start_as_published() -> None:
    decoder = small()
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            bound = math.sqrt(3 / module.weight[0].numel())  # Kaiming-uniform of slope 1
            assert 0.9 * bound < module.weight.abs().max() <= bound
            assert module.bias is None or (module.bias == 0).all()
        elif isinstance(module, nn.Linear):
            bound = math.sqrt(6 / sum(module.weight.shape))  # Xavier-uniform
            assert 0.9 * bound < module.weight.abs().max() <= bound
    for layer in decoder.layers:
        stacked = layer.self_attention.in_proj_weight
        assert 0.9 * math.sqrt(6 / 128) < stacked.abs().max() <= math.sqrt(6 / 128), "one matrix of 96 × 32"
        assert (layer.self_attention.in_proj_bias == 0).all()
        assert (layer.self_attention.out_proj.bias == 0).all()
        assert layer.linear1.bias.abs().max() > 0


def test_every_parameter_gets_a_gradient() -> None:
    decoder = small()
    scales, mask_features = decoder(features_of(64, 64))
    (sum(scale.square().mean() for scale in scales) + mask_features.square().mean()).backward()
    assert not [key for key, value in decoder.named_parameters() if value.grad is None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_dim": 48}, "hidden_dim divisible by 32, got 48"),
        ({"in_channels": (8, 8, 8)}, r"strides 4, 8, 16, 32, got \(8, 8, 8\)"),
        ({"num_heads": 5}, "divisible by the number of heads, got 32 and 5"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    sizes = {"in_channels": CHANNELS, "hidden_dim": 32, "mask_dim": 32, "num_layers": 1, "num_heads": 4}
    with pytest.raises(ValueError, match=message):
        PixelDecoder(**{**sizes, "feedforward_dim": 64, **options})
