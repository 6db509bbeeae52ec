"""Checkpoints: ours there and back, published ones by their maps, and every way in which one does
not fit.
"""

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from boltzmed.networks.boltzformer import BoltzFormer
from boltzmed.networks.decoder import Decoder
from boltzmed.networks.image_encoder import FocalEncoder, HieraEncoder
from boltzmed.networks.pigma import PiGMA
from boltzmed.networks.pixel_decoder import PixelDecoder
from boltzmed.networks.presence import PresenceGate
from boltzmed.networks.text_encoder import TextEncoder
from boltzmed.networks.weights import (
    CHECKPOINT_VERSION,
    load_checkpoint,
    load_sam2_image_encoder,
    load_seem_backbone,
    load_upstream,
    read_record,
    save_checkpoint,
)

PARITY = Path(__file__).resolve().parents[1] / "data" / "parity"
RECORDED = Path(__file__).resolve().parents[3] / "shared" / "parity"
UNUSED = {
    "sem_seg_head.predictor.class_embed",
    "sem_seg_head.predictor.language_encoder.logit_scale",
}
CONFIG = {
    "network": {"decoder": {"num_queries": 10, "levels": (8, 4)}, "seed": None},
    "image_size": 256,
}
STORED: dict[str, Any] = {"config": CONFIG, "orientation": "axial", "channels": "repeat"}


def hiera(stages: tuple[int, ...] = (1, 2, 3, 1)) -> HieraEncoder:
    return HieraEncoder(16, 1, stages, global_att_blocks=(4,))


def focal(depths: tuple[int, ...] = (1, 1, 2, 1)) -> FocalEncoder:
    return FocalEncoder(16, depths)


def build(image_encoder: nn.Module, num_queries: int = 10) -> BoltzFormer:
    """The sizes of both recordings."""
    return BoltzFormer(
        image_encoder,
        PixelDecoder(
            image_encoder.out_channels, 64, 64, num_layers=3, num_heads=4, feedforward_dim=128
        ),
        TextEncoder(512, width=64, num_layers=2, num_heads=2, output_dim=64, end_id=511),
        Decoder(num_queries, 64, num_heads=4, feedforward_dim=128),
        PiGMA(num_queries),
    )


@pytest.fixture(scope="module")
def network() -> BoltzFormer:
    torch.manual_seed(0)
    return build(hiera())


@pytest.fixture
def fresh() -> BoltzFormer:
    torch.manual_seed(1)
    return build(hiera())


@pytest.fixture(scope="module")
def upstream() -> dict[str, Tensor]:
    return load_file(PARITY / "hiera" / "state_dict.safetensors")


@pytest.fixture(scope="module")
def sam2(upstream: dict[str, Tensor]) -> dict[str, Tensor]:
    """A SAM 2 checkpoint's state: its image encoder among the rest of its model."""
    state = {
        re.sub("^backbone", "image_encoder", k): v
        for k, v in upstream.items()
        if k.startswith("backbone.")
    }
    rest = [f"memory_encoder.layers.{i}.weight" for i in range(9)] + ["no_mem_embed"]
    return {**state, **{key: torch.zeros(3) for key in rest}}


@pytest.fixture(scope="module")
def seem() -> dict[str, Tensor]:
    state = load_file(PARITY / "focal" / "state_dict.safetensors")
    return {**state, "sem_seg_head.predictor.lang_encoder.lang_proj": torch.zeros(4, 4)}


def assert_refused(network: nn.Module, load: Callable[[], Any], message: str) -> str:
    """The load ends in one line that matches, and no weight has changed."""
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        load()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# Our own checkpoints


@pytest.mark.parametrize("half", [False, True])
def test_a_checkpoint_comes_back(
    network: BoltzFormer, fresh: BoltzFormer, tmp_path: Path, half: bool
) -> None:
    path = tmp_path / "new" / "model.pt"
    save_checkpoint(path, network, **STORED, fp16_checkpoint=half)
    settings = load_checkpoint(path, fresh, **STORED)
    assert settings["orientation"] == "axial"
    assert settings["version"] == CHECKPOINT_VERSION
    others = {"orientation", "channels", "tokenizer", "version"}
    assert set(settings) == {"network", "image_size", *others}
    for key, value in network.state_dict().items():
        loaded = fresh.state_dict()[key]
        assert loaded.dtype == torch.float32
        assert torch.equal(loaded, value.half().float() if half else value), key
    weights = 4 * sum(value.numel() for value in network.state_dict().values())
    assert path.stat().st_size < (0.65 if half else 1.15) * weights
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"], (
        "no temporary file is left"
    )


def test_a_checkpoint_holds_plain_values_only(network: BoltzFormer, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model.pt", network, **STORED)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    named = ["model", "network", "image_size", "orientation", "channels", "tokenizer", "version"]
    assert list(content) == named
    assert content["network"]["decoder"] == {"num_queries": 10, "levels": [8, 4]}
    with pytest.raises(
        ValueError, match=r"config\.root: expected numbers, texts, .* received a PosixPath"
    ):
        save_checkpoint(tmp_path / "model.pt", network, **{**STORED, "config": {"root": Path("/")}})


def test_saving_replaces_whole_files_only(
    network: BoltzFormer, fresh: BoltzFormer, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(path, network, **STORED)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="config"):
        save_checkpoint(path, fresh, **{**STORED, "config": {"a": object()}})
    assert path.read_bytes() == before
    with pytest.raises(
        ValueError, match=r"^other.pt: expected to write into folder .*; free space there or choose"
    ):
        save_checkpoint(path / "other.pt", fresh, **STORED)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("weight", "half", "message"),
    [
        (1e5, True, "at most 65504 .* received up to 100000; save without fp16_checkpoint"),
        (torch.nan, False, "has diverged"),
    ],
)
def test_weights_that_cannot_be_kept_are_refused(
    fresh: BoltzFormer, tmp_path: Path, weight: float, half: bool, message: str
) -> None:
    with torch.no_grad():
        fresh.pixel_decoder.mask_features.bias[3] = weight
    with pytest.raises(
        ValueError, match=f"pixel_decoder.mask_features.bias: expected finite weights.*{message}"
    ):
        save_checkpoint(tmp_path / "model.pt", fresh, **STORED, fp16_checkpoint=half)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (
            {"orientation": "sagittal"},
            "orientation: this run expects 'sagittal', .* trained with 'axial'",
        ),
        (
            {"channels": "neighbours"},
            "channels: this run expects 'neighbours', .* trained with 'repeat'",
        ),
        (
            {"tokenizer": "words"},
            "tokenizer: this run expects 'words', .* 'open_clip/bpe_simple_vocab_16e6'",
        ),
        (
            {"config": {"image_size": 512}},
            r"image_size: this run expects 512, .* trained with 256",
        ),
        ({"config": {"window": 7}}, r"window: this run expects 7, .* trained with nothing"),
        (
            {
                "config": {
                    "network": {"decoder": {"num_queries": 32, "levels": [8, 4]}, "seed": None}
                }
            },
            r"network\.decoder\.num_queries: this run expects 32, .* trained with 10",
        ),
        (
            {"config": {"network": {"decoder": {"num_queries": 10}, "seed": None}}},
            (
                r"network\.decoder\.levels: this run expects nothing, .* trained with"
                r" \[8, 4\]"
            ),
        ),
    ],
)
def test_what_a_checkpoint_was_trained_as_must_fit(
    network: BoltzFormer, fresh: BoltzFormer, tmp_path: Path, expected: dict[str, Any], message: str
) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(path, network, **STORED)
    assert_refused(
        fresh, lambda: load_checkpoint(path, fresh, **expected), rf"^model\.pt: {message}"
    )


def test_another_version_or_layout_is_refused(
    network: BoltzFormer, fresh: BoltzFormer, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(path, network, **STORED)
    content = torch.load(path, weights_only=True)
    for change, message in [
        ({"version": 99}, "version: this boltzmed reads versions 1 and 2, received 99"),
        ({"tokenizer": "words"}, "tokenizer: this run expects 'open_clip"),
        ({"config": 3}, "config: expected a mapping, received a int"),
        ({"model": [1]}, "model: expected a mapping, received a list"),
        (
            {"model": {**content["model"], "pigma.combine.bias": 3}},
            "pigma.combine.bias: expected shape .* received int",
        ),
        (
            {"model": {**content["model"], "more": torch.ones(1)}},
            "holds more, for which this network has no place",
        ),
    ]:
        torch.save({**content, **change}, path)
        assert_refused(fresh, partial(load_checkpoint, path, fresh), rf"^model\.pt: {message}")
    torch.save({"network": content["model"]}, path)
    assert_refused(
        fresh, lambda: load_checkpoint(path, fresh), "without model, orientation, channels"
    )
    torch.save([1, 2], path)
    assert_refused(
        fresh, lambda: load_checkpoint(path, fresh), "without model, orientation, channels"
    )


def test_a_checkpoint_of_the_first_layout_still_loads(
    network: BoltzFormer, fresh: BoltzFormer, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(path, network, **STORED)
    content = torch.load(path, weights_only=True)
    sizes = {"phantom": [{"image_size": 64, "min_side": 1}]}
    older = {"network_def": content.pop("network"), "image_size": content.pop("image_size")}
    torch.save({**content, "config": {**older, "frames": sizes}, "version": 1}, path)
    held = load_checkpoint(path, fresh, **STORED)
    assert (held["network"], held["input_sizes"]) == (older["network_def"], sizes)
    assert read_record(path) == held


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: build(hiera(), num_queries=12),
            r"decoder.query_features: expected shape \(12, 64\), received \(10, 64\)",
        ),
        (
            lambda: build(hiera((1, 2, 4, 1))),
            r"expected \d+ tensors for this network, \d+ are missing, the first is image",
        ),
        (
            lambda: build(focal()),
            (
                r"expected \d+ tensors for this network, \d+ are missing, the first is"
                r" image_encoder.stem"
            ),
        ),
    ],
)
def test_another_size_is_refused(
    network: BoltzFormer, tmp_path: Path, other: Callable[[], BoltzFormer], message: str
) -> None:
    save_checkpoint(tmp_path / "model.pt", network, **STORED)
    wrong = other()
    assert_refused(wrong, lambda: load_checkpoint(tmp_path / "model.pt", wrong, **STORED), message)


class Spiteful:
    """Its pickle runs a command when it is read without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_damaged_files_are_one_clear_line(
    network: BoltzFormer, fresh: BoltzFormer, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(path, network, **STORED)
    whole = path.read_bytes()
    shortened = [whole[:100], whole[: len(whole) // 2], whole[:-30]]
    for content in (b"", b"hello", b"\x80\x02}q\x00X\x05", b"PK\x03\x04", *shortened):
        path.write_bytes(content)
        for load in (load_checkpoint, load_upstream):
            arguments = {"path" if load is load_checkpoint else "source": path, "network": fresh}
            assert_refused(
                fresh,
                partial(load, **arguments),
                r"^model\.pt: expected a checkpoint .* fetch it again$",
            )
    one_bit = bytearray(whole)
    one_bit[len(whole) // 2] ^= 1
    path.write_bytes(one_bit)
    assert_refused(
        fresh, lambda: load_checkpoint(path, fresh), "can't be read as one .* fetch it again"
    )
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"12345678 not tensors")
    assert_refused(
        fresh,
        lambda: load_upstream(fresh, weights),
        r"^weights\.safetensors: expected a checkpoint",
    )
    assert_refused(
        fresh, lambda: load_checkpoint(tmp_path / "none.pt", fresh), "none.pt: .* found none there"
    )
    assert_refused(
        fresh,
        lambda: load_checkpoint(tmp_path, fresh),
        "expected a checkpoint file, found none there",
    )


def test_code_in_a_checkpoint_is_never_run(fresh: BoltzFormer, tmp_path: Path) -> None:
    path, trap = tmp_path / "model.pt", tmp_path / "trap"
    torch.save({"model": Spiteful(trap)}, path)
    assert_refused(fresh, lambda: load_checkpoint(path, fresh), "hold code")
    assert_refused(fresh, lambda: load_sam2_image_encoder(fresh, path), "hold code")
    assert not trap.exists()


# Published checkpoints


def test_upstream_fills_the_whole_network(
    upstream: dict[str, Tensor], fresh: BoltzFormer, tmp_path: Path
) -> None:
    path = tmp_path / "upstream.pth"
    torch.save({"model": {f"module.{key}": value for key, value in upstream.items()}}, path)
    report = load_upstream(fresh, path)
    assert set(report.taken) == set(fresh.state_dict())
    assert {key.removeprefix("module.") for key in report.not_taken} == UNUSED
    assert report.missing == ()
    assert str(report).splitlines() == [
        (
            "upstream.pth: taken: image_encoder (102 tensors), pigma (4 tensors), pixel_decoder (61"
            " tensors), decoder (185 tensors), text_encoder (29 tensors)"
        ),
        (
            "not taken (the published code never uses it):"
            " module.sem_seg_head.predictor.class_embed,"
            " module.sem_seg_head.predictor.language_encoder.logit_scale"
        ),
    ]
    # Each published tensor stands in exactly one place, unchanged.
    assert len(report.taken) == len(upstream) - len(UNUSED)
    pixels = "sem_seg_head.pixel_decoder."
    assert torch.equal(
        fresh.pixel_decoder.outputs[3][0].weight, upstream[pixels + "layer_4.weight"]
    )
    assert torch.equal(
        fresh.pixel_decoder.laterals[0][1].bias, upstream[pixels + "adapter_1.norm.bias"]
    )
    assert torch.equal(
        fresh.image_encoder.neck.laterals[3].weight, upstream["backbone.neck.convs.0.conv.weight"]
    )
    totals = [
        sum(float(v.double().sum()) for k, v in state.items() if k not in UNUSED)
        for state in (upstream, fresh.state_dict())
    ]
    assert totals[0] == pytest.approx(totals[1], rel=1e-12)


@pytest.mark.parametrize("half", [False, True])
def test_converted_weights_keep_through_our_checkpoint(
    upstream: dict[str, Tensor],
    fresh: BoltzFormer,
    network: BoltzFormer,
    tmp_path: Path,
    half: bool,
) -> None:
    converted = build(hiera())
    load_upstream(
        converted, {key: value.half() if half else value for key, value in upstream.items()}
    )
    save_checkpoint(tmp_path / "model.pt", converted, **STORED, fp16_checkpoint=half)
    load_checkpoint(tmp_path / "model.pt", fresh, **STORED)
    assert all(
        torch.equal(value, converted.state_dict()[key]) for key, value in fresh.state_dict().items()
    )


def without(state: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    assert key in state
    return {name: value for name, value in state.items() if name != key}


def test_upstream_leaves_a_presence_gate_fresh(
    upstream: dict[str, Tensor], fresh: BoltzFormer
) -> None:
    fresh.presence = PresenceGate(64)
    before = {key: value.clone() for key, value in fresh.presence.state_dict().items()}
    report = load_upstream(fresh, upstream)
    assert report.missing == tuple(f"presence.{key}" for key in before)
    assert all(
        torch.equal(value, before[key]) for key, value in fresh.presence.state_dict().items()
    )
    assert torch.equal(
        fresh.pixel_decoder.mask_features.bias,
        upstream["sem_seg_head.pixel_decoder.mask_features.bias"],
    )


def test_upstream_that_fits_in_part_is_refused(
    upstream: dict[str, Tensor], fresh: BoltzFormer
) -> None:
    bias = "sem_seg_head.pixel_decoder.mask_features.bias"
    for state, message in [
        ({}, r"expected \d+ tensors for this network, \d+ are missing"),
        (without(upstream, bias), "1 are missing, the first is pixel_decoder.mask_features.bias"),
        (
            upstream | {bias: torch.zeros(32)},
            r"mask_features.bias: expected shape \(64,\), received \(32,\)",
        ),
        (upstream | {bias: [0.0]}, r"mask_features.bias: expected shape \(64,\), received list"),
        (
            upstream | {"backbone.new": torch.zeros(1)},
            "holds backbone.new, for which this network has no place",
        ),
        (upstream | {"criterion.weight": torch.zeros(1)}, "holds criterion.weight, for which"),
        (upstream | {f"module.{bias}": torch.zeros(64)}, "once, received it under two prefixes"),
    ]:
        assert_refused(fresh, partial(load_upstream, fresh, state), f"^state dict: .*{message}")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_sam2_fills_the_image_encoder_alone(
    sam2: dict[str, Tensor],
    upstream: dict[str, Tensor],
    fresh: BoltzFormer,
    tmp_path: Path,
    prefix: str,
) -> None:
    others = {
        k: v.clone() for k, v in fresh.state_dict().items() if not k.startswith("image_encoder.")
    }
    torch.save(
        {"model": {prefix + key: value for key, value in sam2.items()}},
        tmp_path / "sam2_hiera_small.pt",
    )
    report = load_sam2_image_encoder(fresh, tmp_path / "sam2_hiera_small.pt")
    reference = build(hiera())
    load_upstream(reference, upstream)
    for key, value in reference.image_encoder.state_dict().items():
        assert torch.equal(fresh.image_encoder.state_dict()[key], value), key
    assert all(torch.equal(fresh.state_dict()[key], value) for key, value in others.items())
    assert set(report.missing) == set(others)
    assert len(report.not_taken) == 10
    assert str(report).startswith(
        "sam2_hiera_small.pt: taken: image_encoder (102 tensors)\nnot taken (outside"
        " image_encoder): "
    )
    assert "left as they were: pixel_decoder (61 tensors), text_encoder" in str(report)


def test_sam2_that_fits_in_part_is_refused(sam2: dict[str, Tensor], fresh: BoltzFormer) -> None:
    neck = {key for key in sam2 if "neck" in key}
    trunk_only = {key: value for key, value in sam2.items() if key not in neck}
    assert_refused(
        fresh,
        lambda: load_sam2_image_encoder(fresh, trunk_only),
        "8 are missing, .* image_encoder.neck",
    )
    nothing = {key: value for key, value in sam2.items() if not key.startswith("image_encoder")}
    assert_refused(
        fresh,
        lambda: load_sam2_image_encoder(fresh, nothing),
        "expected 102 tensors .* 102 are missing",
    )
    smaller, larger = build(hiera((1, 2, 2, 1))), build(hiera((1, 2, 4, 1)))
    assert_refused(smaller, lambda: load_sam2_image_encoder(smaller, sam2), "received|holds")
    assert_refused(larger, lambda: load_sam2_image_encoder(larger, sam2), "received|holds")
    shorter = build(HieraEncoder(16, 1, (1, 2, 3, 1), (4,), global_pos_size=(14, 14)))
    message = r"trunk.pos_embed: expected shape \(1, 16, 14, 14\), received \(1, 16, 7, 7\)"
    assert_refused(shorter, lambda: load_sam2_image_encoder(shorter, sam2), message)
    other = build(focal())
    assert_refused(
        other,
        lambda: load_sam2_image_encoder(other, sam2),
        "no place; it is a checkpoint of another kind",
    )
    bare = nn.Linear(2, 2)
    assert_refused(
        bare,
        lambda: load_sam2_image_encoder(bare, nothing),
        "expected a network with image_encoder",
    )


def test_a_deeper_sam2_is_not_cut_to_fit(sam2: dict[str, Tensor], fresh: BoltzFormer) -> None:
    """Its last stage has a block more: all that the network asks for is there, and it is still
    another size.
    """
    more = {
        k.replace("blocks.6.", "blocks.7."): v
        for k, v in sam2.items()
        if "trunk.blocks.6.norm" in k
    }
    assert more
    assert_refused(
        fresh,
        lambda: load_sam2_image_encoder(fresh, sam2 | more),
        r"holds image_encoder\.trunk\.blocks\.7",
    )


@pytest.mark.parametrize("prefix", ["", "model."])
def test_seem_fills_the_backbone_alone(
    seem: dict[str, Tensor], tmp_path: Path, prefix: str
) -> None:
    network = build(focal())
    torch.save({prefix + key: value for key, value in seem.items()}, tmp_path / "seem_focall.pt")
    report = load_seem_backbone(network, tmp_path / "seem_focall.pt")
    assert report.not_taken == {
        f"{prefix}sem_seg_head.predictor.lang_encoder.lang_proj": "outside backbone"
    }
    encoder = network.image_encoder
    for ours, theirs in [
        (encoder.stem.proj.weight, "patch_embed.proj.weight"),
        (encoder.norms[2].bias, "norm2.bias"),
        (encoder.stages[1].downsample.proj.weight, "layers.0.downsample.proj.weight"),
        (encoder.stages[3].downsample.norm.weight, "layers.2.downsample.norm.weight"),
        (encoder.stages[2].blocks[1].ls2.gamma, "layers.2.blocks.1.gamma_2"),
        (encoder.stages[2].blocks[1].norm1_post.weight, "layers.2.blocks.1.norm1.weight"),
        (
            encoder.stages[0].blocks[0].modulation.f.weight[..., 0, 0],
            "layers.0.blocks.0.modulation.f.weight",
        ),
        (encoder.stages[0].blocks[0].mlp.fc2.weight[..., 0, 0], "layers.0.blocks.0.mlp.fc2.weight"),
    ]:
        assert torch.equal(ours, seem[f"backbone.{theirs}"].float()), theirs
    assert len(report.taken) == len(encoder.state_dict()) == len(seem) - 1


def test_seem_that_fits_in_part_is_refused(seem: dict[str, Tensor], fresh: BoltzFormer) -> None:
    network = build(focal())
    partial = without(seem, "backbone.layers.0.blocks.0.gamma_1")
    assert_refused(
        network,
        lambda: load_seem_backbone(network, partial),
        "1 are missing, .*stages.0.blocks.0.ls1.gamma",
    )
    renamed = {f"encoder.{key}": value for key, value in seem.items()}
    assert_refused(network, lambda: load_seem_backbone(network, renamed), "are missing")
    smaller = build(focal((1, 1, 1, 1)))
    assert_refused(
        smaller, lambda: load_seem_backbone(smaller, seem), r"holds backbone\.layers\.2\.blocks\.1"
    )
    assert_refused(
        fresh,
        lambda: load_seem_backbone(fresh, seem),
        "no place; it is a checkpoint of another kind",
    )


@pytest.mark.skipif(
    not RECORDED.exists(), reason="the full recording is not beside this checkout: parity/focal"
)
def test_upstream_on_focalnet() -> None:
    network, path = build(focal()), RECORDED / "focal" / "state_dict.safetensors"
    report = load_upstream(network, path)
    assert set(report.taken) == set(network.state_dict())
    assert set(report.not_taken) == UNUSED


@pytest.mark.parametrize(
    ("build_encoder", "tensors", "parameters"),
    [
        (lambda: HieraEncoder(96, 1, (1, 2, 11, 2), (7, 10, 13)), 647, 171_149_785),
        (
            lambda: HieraEncoder(112, 2, (2, 3, 16, 3), (12, 16, 20), global_pos_size=(14, 14)),
            743,
            205_939_609,
        ),
        (lambda: FocalEncoder(192, (2, 2, 18, 2)), 941, 343_530_001),
    ],
    ids=["hiera_s", "hiera_bp", "focal_l"],
)
def test_published_state_dicts_have_as_many_tensors(
    build_encoder: Callable[[], nn.Module], tensors: int, parameters: int
) -> None:
    """Ours lack the two that the published code never uses: a 512 × 512 matrix and a number."""
    with torch.device("meta"):
        encoder = build_encoder()
        network = BoltzFormer(
            encoder,
            PixelDecoder(
                encoder.out_channels, 512, 512, num_layers=6, num_heads=8, feedforward_dim=2048
            ),
            TextEncoder(49408, width=512, num_layers=12, num_heads=8, output_dim=512),
            Decoder(101, 512, num_heads=8, feedforward_dim=2048),
            PiGMA(101),
        )
    assert len(network.state_dict()) == tensors - 2
    assert (
        sum(parameter.numel() for parameter in network.parameters()) == parameters - 512 * 512 - 1
    )
