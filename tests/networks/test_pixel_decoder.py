"""The pixel decoder: sizes, parameters, initial weights, and its transformer layer against torch's
own.
"""

import math

import pytest
import torch
from torch import nn

from benchmarks.literal import LiteralPixelDecoder
from boltzmed.networks.pixel_decoder import PixelDecoder, PixelEncoderLayer, SemanticMap

CHANNELS = (12, 16, 20, 24)


def small() -> PixelDecoder:
    torch.manual_seed(0)
    return PixelDecoder(
        CHANNELS, hidden_dim=32, mask_dim=48, num_layers=2, num_heads=4, feedforward_dim=64
    )


def features_of(height: int, width: int, batch: int = 2) -> list[torch.Tensor]:
    return [
        torch.randn(batch, c, height // s, width // s)
        for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 160), (256, 256)])
def test_scales_run_from_coarse_to_fine(height: int, width: int) -> None:
    with torch.no_grad():
        scales, semantic_map = small()(features_of(height, width))
        mask_features = semantic_map.whole()
    assert [tuple(scale.shape) for scale in scales] == [
        (2, 32, height // s, width // s) for s in (32, 16, 8)
    ]
    assert mask_features.shape == (2, 48, height // 4, width // 4)
    assert all((scale >= 0).all() for scale in scales), "scales end in a ReLU"
    assert (mask_features < 0).any(), "the semantic map does not"


@pytest.mark.parametrize(
    ("channels", "count"),
    [((256,) * 4, 31_243_264), ((192, 384, 768, 1536), 32_193_536)],
    ids=["hiera", "focal"],
)
def test_published_parameter_counts(channels: tuple[int, ...], count: int) -> None:
    with torch.device("meta"):
        decoder = PixelDecoder(channels, 512, 512, num_layers=6, num_heads=8, feedforward_dim=2048)
    assert sum(parameter.numel() for parameter in decoder.parameters()) == count


def test_transformer_layer_is_torchs_where_there_are_no_positions() -> None:
    torch.manual_seed(0)
    layer = PixelEncoderLayer(32, 4, 64)
    reference = nn.TransformerEncoderLayer(
        32, 4, 64, dropout=0.0, batch_first=True, norm_first=False
    )
    reference.load_state_dict(
        {k.replace("self_attention", "self_attn"): v for k, v in layer.state_dict().items()}
    )
    x = torch.randn(2, 20, 32)
    torch.testing.assert_close(layer(x, torch.zeros(20, 32)), reference(x), atol=1e-5, rtol=1e-5)


def test_positions_choose_where_to_look_not_what_is_seen() -> None:
    """All tokens equal: whatever the weights of attention, the average of equal values is that
    value.
    """
    torch.manual_seed(0)
    layer = PixelEncoderLayer(32, 4, 64)
    x = torch.randn(1, 1, 32).expand(1, 20, 32)
    torch.testing.assert_close(
        layer(x, torch.randn(20, 32)), layer(x, torch.zeros(20, 32)), atol=1e-5, rtol=1e-5
    )


def test_the_coarse_map_reaches_every_scale_and_the_finest_none() -> None:
    decoder, features = small(), features_of(64, 64, batch=1)
    with torch.no_grad():
        scales, semantic_map = decoder(features)
        changed = [*features[:3], features[3] + torch.randn_like(features[3])]
        coarse_scales, coarse_map = decoder(changed)
        fine_scales, fine_map = decoder(
            [features[0] + torch.randn_like(features[0]), *features[1:]]
        )
    assert all(not torch.equal(a, b) for a, b in zip(scales, coarse_scales, strict=True))
    assert not torch.equal(semantic_map.whole(), coarse_map.whole())
    assert all(torch.equal(a, b) for a, b in zip(scales, fine_scales, strict=True))
    assert not torch.equal(semantic_map.whole(), fine_map.whole())


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
        assert 0.9 * math.sqrt(6 / 128) < stacked.abs().max() <= math.sqrt(6 / 128), (
            "one matrix of 96 × 32"
        )
        assert (layer.self_attention.in_proj_bias == 0).all()
        assert (layer.self_attention.out_proj.bias == 0).all()
        assert layer.linear1.bias.abs().max() > 0


def test_every_parameter_gets_a_gradient() -> None:
    decoder = small()
    scales, semantic_map = decoder(features_of(64, 64))
    (
        sum(scale.square().mean() for scale in scales) + semantic_map.whole().square().mean()
    ).backward()
    assert not [key for key, value in decoder.named_parameters() if value.grad is None]


def test_the_map_made_at_once_is_the_map_made_where_needed() -> None:
    features = features_of(64, 96)
    torch.manual_seed(0)
    at_once = LiteralPixelDecoder(CHANNELS, 32, 48, num_layers=2, num_heads=4, feedforward_dim=64)
    with torch.no_grad():
        (_, whole), (_, needed) = at_once(features), small()(features)
    assert whole.kernel_MDYX is None
    torch.testing.assert_close(whole.whole(), needed.whole(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    "sizes", [[(8, 12), (4, 6), (2, 3)], [(1, 1)], [(8, 12), (16, 24)], [(5, 7)], [(4, 12)]]
)
def test_the_map_is_resized_as_a_whole_one_would_be(sizes: list[tuple[int, int]]) -> None:
    vectors = torch.randn(2, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    needed, at_once = semantic_maps()
    for num_vectors in (3, math.inf):
        for size, one, expected in zip(
            sizes, needed.resized(sizes, num_vectors), at_once.resized(sizes), strict=True
        ):
            assert expected.kernel_MDYX is None and expected.whole().shape == (2, 6, *size)
            # At half the size, the convolution is done with three vectors rather than with six
            # channels.
            folded = num_vectors == 3 and size == (8, 12) and (16, 24) not in sizes
            assert (one.kernel_MDYX is not None) == folded
            torch.testing.assert_close(one.whole(), expected.whole(), atol=1e-12, rtol=0)
            torch.testing.assert_close(
                one.times(vectors), expected.times(vectors), atol=1e-12, rtol=0
            )


@pytest.mark.parametrize("vectors", [1, 5, 20, 200])
def test_the_map_times_vectors_with_gradients(vectors: int) -> None:
    products, gradients = [], []
    for semantic in semantic_maps():
        vector_BVM = torch.randn(
            2, vectors, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        )
        vector_BVM.requires_grad_()
        products.append(semantic.times(vector_BVM))
        products[-1].square().sum().backward()
        gradients.append(vector_BVM.grad)
    assert products[0].shape == (2, vectors, 16, 24)
    torch.testing.assert_close(products[0], products[1], atol=1e-10, rtol=0)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-10, rtol=1e-12)


def semantic_maps() -> tuple[SemanticMap, SemanticMap]:
    """The same map to be made, and made."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, 8, 16, 24), (6, 8, 3, 3), (6,))
    features, kernel, bias = (
        torch.randn(size, dtype=torch.float64, generator=generator) for size in sizes
    )
    needed = SemanticMap(features, kernel, bias)
    return needed, SemanticMap(needed.whole())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_dim": 48}, "hidden_dim divisible by 32, got 48"),
        ({"in_channels": (8, 8, 8)}, r"strides 4, 8, 16, 32, got \(8, 8, 8\)"),
        ({"num_heads": 5}, "divisible by the number of heads, got 32 and 5"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    sizes = {
        "in_channels": CHANNELS,
        "hidden_dim": 32,
        "mask_dim": 32,
        "num_layers": 1,
        "num_heads": 4,
    }
    with pytest.raises(ValueError, match=message):
        PixelDecoder(**{**sizes, "feedforward_dim": 64, **options})
