"""Both image encoders: sizes, parameters, initial weights, the neck, and inner features against the
recording.
"""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from boltzmed.networks.image_encoder import (
    FeaturePyramidNeck,
    FocalEncoder,
    HieraEncoder,
    KeyedDropPath,
)
from boltzmed.networks.weights import load_sam2_image_encoder, load_seem_backbone

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "parity"
STRIDES = (4, 8, 16, 32)
SMALL = {
    "hiera": lambda: HieraEncoder(
        16, 1, stages=(1, 2, 3, 1), global_att_blocks=(4,), neck_channels=24
    ),
    "focal": lambda: FocalEncoder(16, depths=(1, 1, 2, 1)),
}
PUBLISHED = {
    "hiera_s": lambda: HieraEncoder(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    "hiera_bp": lambda: HieraEncoder(112, 2, (2, 3, 16, 3), (12, 16, 20), global_pos_size=(14, 14)),
    "focal_l": lambda: FocalEncoder(192, (2, 2, 18, 2)),
}


def named_by_timm(name: str) -> nn.Module:
    import timm  # loads after the module under test, which has made torchvision loadable

    return on_meta(lambda: timm.create_model(name, pretrained=False, num_classes=0))


def on_meta(build):
    """Builds without allocating or drawing weights."""
    with torch.device("meta"):
        return build()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(32, 32), (96, 160), (256, 256)])
def test_features_have_their_strides(name: str, size: tuple[int, int]) -> None:
    encoder = SMALL[name]().eval()
    with torch.no_grad():
        features = encoder(torch.randn(2, 3, *size))
    expected = [
        (2, c, size[0] // s, size[1] // s)
        for c, s in zip(encoder.out_channels, STRIDES, strict=True)
    ]
    assert [tuple(feature.shape) for feature in features] == expected
    assert all(feature.isfinite().all() for feature in features)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("size", [(512, 512), (1024, 1024), (992, 672)])
def test_published_sizes_take_any_multiple_of_32(name: str, size: tuple[int, int]) -> None:
    encoder = on_meta(PUBLISHED[name]).eval()
    features = encoder(torch.empty(1, 3, *size, device="meta"))
    expected = [
        (1, c, size[0] // s, size[1] // s)
        for c, s in zip(encoder.out_channels, STRIDES, strict=True)
    ]
    assert [tuple(feature.shape) for feature in features] == expected


@pytest.mark.parametrize(
    ("name", "count"), [("hiera_s", 34_316_992), ("hiera_bp", 69_106_816), ("focal_l", 205_746_936)]
)
def test_published_parameter_counts(name: str, count: int) -> None:
    assert sum(parameter.numel() for parameter in on_meta(PUBLISHED[name]).parameters()) == count


@pytest.mark.parametrize(
    ("name", "timms"), [("hiera_s", "sam2_hiera_small"), ("hiera_bp", "sam2_hiera_base_plus")]
)
def test_trunks_are_timms_models_of_that_name(name: str, timms: str) -> None:
    reference = named_by_timm(timms)
    expected = {k: v.shape for k, v in reference.state_dict().items() if not k.startswith("head.")}
    trunk = on_meta(PUBLISHED[name]).trunk
    assert {k: v.shape for k, v in trunk.state_dict().items()} == expected
    windows = [
        (block.window_size, block.attn.num_heads, block.q_stride) for block in reference.blocks
    ]
    assert [
        (block.window_size, block.attn.num_heads, block.q_stride) for block in trunk.blocks
    ] == windows


def test_focal_l_is_timms_model_of_that_name() -> None:
    reference = named_by_timm("focalnet_large_fl4")
    expected = {
        k.replace("layers.", "stages.", 1): v.shape for k, v in reference.state_dict().items()
    }
    found = {k: v.shape for k, v in on_meta(PUBLISHED["focal_l"]).state_dict().items()}
    # Ours has a norm for each of four outputs, timm's one before its classifier.
    assert {k: v for k, v in found.items() if not k.startswith("norms.")} == {
        k: v for k, v in expected.items() if not k.startswith("norm.")
    }


@pytest.mark.parametrize("name", SMALL)
def test_weights_start_as_published(name: str) -> None:
    """Torch's defaults everywhere, in spite of timm; Hiera's position tables are empty."""
    torch.manual_seed(0)
    encoder = SMALL[name]()
    for module in encoder.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            bound = 1 / math.sqrt(module.weight[0].numel())
            assert 0.8 * bound < module.weight.abs().max() <= bound
            assert module.bias is None or 0 < module.bias.abs().max() <= bound
        elif isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    tables = [value for key, value in encoder.named_parameters() if "pos_embed" in key]
    assert all((table == 0).all() for table in tables)
    scales = [value for key, value in encoder.named_parameters() if key.endswith("gamma")]
    assert all((scale == 1e-4).all() for scale in scales)
    assert (len(tables), len(scales)) == ((2, 0) if name == "hiera" else (0, 10))


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    encoder = SMALL[name]().eval()
    sum(feature.square().mean() for feature in encoder(torch.randn(1, 3, 64, 96))).backward()
    assert not [key for key, value in encoder.named_parameters() if value.grad is None]


@pytest.mark.parametrize("name", SMALL)
def test_images_of_a_batch_do_not_meet(name: str) -> None:
    torch.manual_seed(0)
    encoder, images = SMALL[name]().eval(), torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        together, alone = encoder(images), encoder(images[1:])
    for both, one in zip(together, alone, strict=True):
        torch.testing.assert_close(both[1:], one, atol=1e-5, rtol=1e-5)


def test_neck_adds_stride_32_to_stride_16_and_nothing_else() -> None:
    torch.manual_seed(0)
    neck = FeaturePyramidNeck((4, 8, 16, 32), 6)
    features = [torch.randn(1, 4 * 2**i, 32 // 2**i, 32 // 2**i) for i in range(4)]
    with torch.no_grad():
        outputs = neck(features)
        laterals = [
            lateral(feature) for lateral, feature in zip(neck.laterals, features, strict=True)
        ]
    for i in (0, 1, 3):
        assert torch.equal(outputs[i], laterals[i])
    assert torch.equal(
        outputs[2], laterals[2] + laterals[3].repeat_interleave(2, 2).repeat_interleave(2, 3)
    )


def test_stochastic_depth_is_for_training_only() -> None:
    torch.manual_seed(0)
    encoder, image = (
        FocalEncoder(16, depths=(1, 1, 2, 1), drop_path_rate=0.9, layerscale_value=1.0),
        torch.randn(4, 3, 64, 64),
    )
    with torch.no_grad():
        encoder.eval()
        assert torch.equal(encoder(image)[3], encoder(image)[3])


@torch.no_grad()
def test_stochastic_depth_depends_on_a_samples_key_alone() -> None:
    torch.manual_seed(0)
    encoder = FocalEncoder(16, depths=(1, 1, 2, 1), drop_path_rate=0.9, layerscale_value=1.0)
    image = torch.randn(1, 3, 64, 64).expand(8, -1, -1, -1)
    keys = torch.tensor([1, 2, 3, 4, 5, 6, 7, 1])
    features = encoder(image, keys)[3]
    torch.testing.assert_close(features[0], features[7])
    assert len({round(sample.abs().sum().item(), 3) for sample in features}) > 3
    torch.manual_seed(1)
    torch.testing.assert_close(encoder(image[:3], keys[2:5])[3], features[2:5])
    with pytest.raises(ValueError, match="expected a draw key for each of 8 images"):
        encoder(image)


def test_stochastic_depth_keeps_the_mean() -> None:
    path, uniforms = (
        KeyedDropPath(0.25),
        torch.rand(20_000, generator=torch.Generator().manual_seed(0)),
    )
    path.uniform_B = uniforms
    kept = path(torch.ones(20_000, 1))
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert kept.mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HieraEncoder(16, 1, (1, 2, 3), (4,)), r"stages of four stages .* got \(1, 2, 3\)"),
        (
            lambda: HieraEncoder(16, 1, (1, 2, 3, 1), (4, 12)),
            r"among the 7 blocks of stages, got \[12\]",
        ),
        (lambda: HieraEncoder(16, 3, (1, 2, 3, 1), (4,)), "divisible by num_heads, got 16 and 3"),
        (
            lambda: HieraEncoder(16, 1, (1, 2, 3, 1), (4,), window_spec=(8, 4)),
            r"window_spec .* got \(8, 4\)",
        ),
        (lambda: FocalEncoder(16, (1, 1, 2)), r"depths of four stages .* got \(1, 1, 2\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


class Holder(nn.Module):
    """A network that is nothing but its image encoder."""

    def __init__(self, image_encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder = image_encoder.eval()


def recorded_image(folder: Path) -> torch.Tensor:
    if not folder.exists():
        pytest.skip(f"the full recording is not beside this checkout: parity/{folder.name}")
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    )
    return (load_file(folder / "inputs.safetensors")["image"].float() - mean) / std


def test_trunk_against_the_recording() -> None:
    """What stands between image and neck; outputs are compared in test_parity.py."""
    image = recorded_image(RECORDED / "hiera")
    network = Holder(HieraEncoder(16, 1, stages=(1, 2, 3, 1), global_att_blocks=(4,)))
    state = load_file(RECORDED / "hiera" / "state_dict.safetensors")
    load_sam2_image_encoder(
        network, {key.replace("backbone.", "image_encoder."): v for key, v in state.items()}
    )
    expected = load_file(RECORDED / "hiera" / "features.safetensors")
    with torch.no_grad():
        features = network.image_encoder.trunk.forward_intermediates(image, intermediates_only=True)
    for i, feature in enumerate(features):
        torch.testing.assert_close(feature, expected[f"trunk.{i}"], atol=1e-4, rtol=0)


def test_stem_against_the_recording() -> None:
    image = recorded_image(RECORDED / "focal")
    network = Holder(FocalEncoder(16, depths=(1, 1, 2, 1)))
    load_seem_backbone(network, RECORDED / "focal" / "state_dict.safetensors")
    expected = load_file(RECORDED / "focal" / "features.safetensors")[
        "backbone.stem.every4th_channel"
    ]
    with torch.no_grad():
        torch.testing.assert_close(
            network.image_encoder.stem(image)[:, ::4], expected, atol=1e-5, rtol=0
        )
