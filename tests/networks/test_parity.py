"""The network computes what the published one computes: features, queries, attended sets, masks,
gradients, losses.

The numbers were recorded from the public upstream code (see tests/data/parity/README.md); they are
checked from a thinned copy that every clone has, and in full where the recording itself lies beside
the checkout.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.literal import LiteralDecoder, LiteralPiGMA
from boltzmed.losses import PromptLoss
from boltzmed.networks.boltzformer import BoltzFormer, ImageFeatures, TextFeatures
from boltzmed.networks.decoder import Decoder
from boltzmed.networks.image_encoder import FocalEncoder, HieraEncoder
from boltzmed.networks.pigma import PiGMA
from boltzmed.networks.pixel_decoder import PixelDecoder
from boltzmed.networks.text_encoder import TextEncoder
from boltzmed.networks.weights import load_seem_backbone, load_upstream

REPOSITORY = Path(__file__).resolve().parents[2]
THINNED, RECORDED = (
    REPOSITORY / "tests" / "data" / "parity",
    REPOSITORY.parent / "shared" / "parity",
)
FOLDERS = [pytest.param(THINNED, id="thinned"), pytest.param(RECORDED, id="recorded")]
TOLERANCE = 1e-4

# How each run was recorded: file, prefix of its names, the decoder's options.
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "full": ("out_full", "", {"boltzmann": False}),
    "full, evaluation padding": (
        "out_full",
        "eval_mode.",
        {"boltzmann": False, "attend_padding": "minus_ones"},
    ),
    "threshold 0.5": ("out_threshold05", "", {"boltzmann": False, "threshold": 0.5}),
    "threshold 0.99": ("out_threshold05", "thr0.99.", {"boltzmann": False, "threshold": 0.99}),
    "boltzmann": ("out_boltzmann", "", {}),
    "boltzmann and threshold 0.5": ("out_boltzmann", "thr0.5.", {"threshold": 0.5}),
}
PUBLISHED_OPTIONS = {
    "per_head_draws": True,
    "attend_padding": "zeros",
    "threshold": 1.1,
    "boltzmann": True,
}
SIZES = [(8, 8), (16, 16), (32, 32)]


class Recording(NamedTuple):
    """One recorded network and everything it computed."""

    folder: Path
    network: BoltzFormer
    inputs: dict[str, Tensor]
    image: ImageFeatures
    text: TextFeatures

    def load(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{name}.safetensors")


def build_network(image_encoder: torch.nn.Module) -> BoltzFormer:
    """The sizes of both recordings, apart from the image encoder."""
    return BoltzFormer(
        image_encoder,
        PixelDecoder(
            image_encoder.out_channels, 64, 64, num_layers=3, num_heads=4, feedforward_dim=128
        ),
        TextEncoder(512, width=64, num_layers=2, num_heads=2, output_dim=64, end_id=511),
        Decoder(10, 64, num_heads=4, feedforward_dim=128),
        PiGMA(10),
    ).eval()


def build_hiera() -> HieraEncoder:
    return HieraEncoder(16, 1, stages=(1, 2, 3, 1), global_att_blocks=(4,))


def build_focal() -> FocalEncoder:
    return FocalEncoder(16, depths=(1, 1, 2, 1), drop_path_rate=0.0)


def record(folder: Path, network: BoltzFormer) -> Recording:
    inputs = load_file(folder / "inputs.safetensors")
    with torch.no_grad():
        image = network.encode_image(inputs["image"].float())
        return Recording(
            folder, network, inputs, image, network.encode_text(inputs["input_ids"][:, None])
        )


def skip_if_absent(folder: Path) -> Path:
    if not folder.exists():
        pytest.skip(
            f"the full recording is not beside this checkout: {folder.parent.name}/{folder.name}"
        )
    return folder


@pytest.fixture(scope="module", params=FOLDERS)
def hiera(request: pytest.FixtureRequest) -> Recording:
    folder = skip_if_absent(request.param / "hiera")
    network = build_network(build_hiera())
    load_upstream(network, folder / "state_dict.safetensors")
    return record(folder, network)


@pytest.fixture(scope="module")
def focal() -> Recording:
    folder = skip_if_absent(RECORDED / "focal")
    network = build_network(build_focal())
    load_upstream(network, folder / "state_dict.safetensors")
    return record(folder, network)


def assert_near(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Compares a tensor with its recording, of which every nth channel, row and column may have
    been kept.
    """
    steps = [-(-a // b) for a, b in zip(found.shape, expected.shape, strict=True)]
    kept = found[tuple(slice(None, None, step) for step in steps)]
    torch.testing.assert_close(kept, expected, atol=tolerance, rtol=0)


def unpack(bits: Tensor, tokens: int) -> Tensor:
    """A recorded attended set, 0 and 1 or eight tokens a byte, as bool."""
    if bits.shape[-1] == tokens:
        return bits.bool()
    return (bits[..., None] >> torch.arange(7, -1, -1)).bitwise_and(1).flatten(-2).bool()


def recorded_uniforms(run: dict[str, Tensor], prefix: str) -> list[Tensor]:
    """One table (image, head, query, token) per layer; the thinned copy keeps the first and the
    seed of all.
    """
    if f"{prefix}uniform.1" in run:
        tables = [run[f"{prefix}uniform.{layer}"] for layer in range(9)]
    else:
        generator = torch.Generator().manual_seed(int(run["uniform_seed"]))
        tables = [
            torch.rand(8, 10, SIZES[layer % 3][0] ** 2, generator=generator) for layer in range(9)
        ]
        assert torch.equal(tables[0], run["uniform.0"]), (
            "torch's generator has changed: the recorded draws are lost"
        )
    return [table.unflatten(0, (2, 4)) for table in tables]


def decode(
    recording: Recording,
    options: dict[str, Any],
    uniforms: list[Tensor] | None = None,
    images: slice = slice(None),
    prompts: slice = slice(None),
) -> tuple[dict[str, list[Tensor | None]], Tensor]:
    """Runs the recorded network under options on some of its images and prompts; the trace and the
    mask logits.
    """
    for name, value in (PUBLISHED_OPTIONS | options).items():
        setattr(recording.network.decoder, name, value)
    scales, semantic_map, image, _ = recording.image
    tokens, valid = (tensor[prompts] for tensor in recording.text)
    longest = int(valid.any(0).sum())
    trace: dict[str, list[Any]] = {}
    with torch.no_grad():
        output = recording.network.decode(
            ImageFeatures(
                [scale[images] for scale in scales],
                semantic_map._replace(features_BDHW=semantic_map.features_BDHW[images]),
                image[images],
            ),
            TextFeatures(tokens[:, :, :longest], valid[:, :, :longest]),
            draws=None if uniforms is None else recording.network.decoder.prepare_draws(uniforms),
            trace=trace,
        )
    return {
        name: [x if x is None else x[:, 0] for x in steps] for name, steps in trace.items()
    }, output["mask_logits"]


def check_run(recording: Recording, name: str) -> None:
    """Compares one run with everything that was kept of it."""
    file, prefix, options = RUNS[name]
    run = recording.load(file)
    draws = options.get("boltzmann", True)
    trace, final = decode(recording, options, recorded_uniforms(run, prefix) if draws else None)
    assert_near(final, run[f"{prefix}final"])
    compared = 0
    for step, key in (
        ("queries", "queries"),
        ("after_cross", "after_cross"),
        ("text", "text_after_self"),
    ):
        first = int(step == "text")  # the first text is recorded under another name
        for i, found in enumerate(trace[step][first:]):
            if f"{prefix}{key}.{i}" in run:
                assert_near(found, run[f"{prefix}{key}.{i}"])
                compared += 1
    assert compared > 0
    for layer, attended in enumerate(trace["attended"]):
        if attended is not None:
            expected = unpack(run[f"{prefix}attended.{layer}"], SIZES[layer % 3][0] ** 2)
            assert torch.equal(attended, expected), f"layer {layer}"


def test_features(hiera: Recording) -> None:
    expected = hiera.load("features")
    with torch.no_grad():
        backbone = hiera.network.image_encoder(hiera.image.image)
    for i, feature in enumerate(backbone):
        for key in (f"backbone.res{i + 2}", f"backbone.res{i + 2}.every16th_channel"):
            if key in expected:
                assert_near(feature, expected[key])
    for i, scale in enumerate(hiera.image.scales):
        assert_near(scale, expected[f"multi_scale.{i}"])
    assert_near(hiera.image.semantic_map.whole(), expected["mask_features"])
    assert (
        hiera.text.valid.sum(-1).tolist()
        == hiera.inputs["attention_mask"].sum(-1, keepdim=True).tolist()
    )
    assert_near(
        hiera.text.tokens[:, 0], expected["text.token_emb"][:, : hiera.text.tokens.shape[2]]
    )


@pytest.mark.parametrize("form", ["literal", "reference", "fused", "gathered"])
@pytest.mark.parametrize("name", RUNS)
def test_runs(hiera: Recording, name: str, form: str) -> None:
    check_run(hiera._replace(network=build_form(hiera.network, form)), name)


def build_form(network: BoltzFormer, form: str) -> BoltzFormer:
    """The same weights, computed in another form from the text and the image's features on."""
    attention = "auto" if form == "literal" else form
    decoder_class, pigma_class = (
        (LiteralDecoder, LiteralPiGMA) if form == "literal" else (Decoder, PiGMA)
    )
    decoder = decoder_class(10, 64, num_heads=4, feedforward_dim=128, attention=attention)
    parts = (
        network.image_encoder,
        network.pixel_decoder,
        network.text_encoder,
        decoder,
        pigma_class(10),
    )
    built = BoltzFormer(*parts).eval()
    built.load_state_dict(network.state_dict())
    return built


@pytest.mark.parametrize(
    ("name", "image", "prompt"),
    [("single0", 0, 0), ("single1", 1, 1), ("single_img0_prompt1", 0, 1)],
)
@pytest.mark.parametrize("attend_padding", [None, "zeros"])
def test_single_items(
    hiera: Recording, name: str, image: int, prompt: int, attend_padding: str | None
) -> None:
    run = hiera.load("out_full")
    options = {"boltzmann": False, "attend_padding": attend_padding}
    trace, final = decode(
        hiera, options, images=slice(image, image + 1), prompts=slice(prompt, prompt + 1)
    )
    assert_near(final, run[f"{name}.final"])
    assert_near(trace["queries"][-1], run[f"{name}.queries.9"])


def test_hidden_padding_is_each_prompt_alone(hiera: Recording) -> None:
    """Our default in a batch of unequal prompts gives what the published code gives for each prompt
    by itself.
    """
    _, final = decode(hiera, {"boltzmann": False, "attend_padding": None})
    run = hiera.load("out_full")
    assert_near(final, torch.cat((run["single0.final"], run["single1.final"])))


def find_upstream_names(recording: Recording) -> dict[str, str]:
    """Our parameter names → the published ones, found by loading a state whose tensors hold their
    own number.
    """
    state = recording.load("state_dict")
    marked = build_network(build_hiera())
    load_upstream(
        marked, {key: torch.full_like(value, i) for i, (key, value) in enumerate(state.items())}
    )
    names = list(state)
    return {key: names[int(parameter.flatten()[0])] for key, parameter in marked.named_parameters()}


@pytest.mark.parametrize("name", ["full", "boltzmann"])
def test_gradients(hiera: Recording, name: str) -> None:
    recorded = json.loads((hiera.folder / "gradients.json").read_text())[name]
    file, prefix, options = RUNS[name]
    network = hiera.network
    for option, value in (PUBLISHED_OPTIONS | options).items():
        setattr(network.decoder, option, value)
    target = torch.zeros(2, 1, 256, 256)
    target[0, 0, 60:90, 100:150] = 1
    target[1, 0, 200:206, 30:37] = 1
    draws = None
    if name == "boltzmann":
        draws = network.decoder.prepare_draws(recorded_uniforms(hiera.load(file), prefix))
    network.zero_grad()
    image = network.encode_image(hiera.inputs["image"].float())
    text = network.encode_text(hiera.inputs["input_ids"][:, None])
    loss = PromptLoss()(network.decode(image, text, draws=draws), target)
    loss.backward()
    assert loss.item() == pytest.approx(recorded["loss"], abs=1e-5)
    upstream_names = find_upstream_names(hiera)
    found = {upstream_names[key]: parameter.grad for key, parameter in network.named_parameters()}
    expected = {
        key: value for key, value in recorded["grad_norm_and_sum"].items() if value is not None
    }
    assert set(found) == set(expected)
    for key, (norm, total) in expected.items():
        gradient = found[key]
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-5), key
        # A sum cancels: its error goes with the gradient's size, not with its own.
        assert gradient.sum().item() == pytest.approx(
            total, abs=1e-3 * norm * gradient.numel() ** 0.5 + 1e-5
        ), key


@pytest.mark.parametrize(
    "name", [name for name in RUNS if name not in ("threshold 0.99", "boltzmann and threshold 0.5")]
)
def test_runs_on_focalnet(focal: Recording, name: str) -> None:
    check_run(focal, name)


@pytest.mark.parametrize("folder", FOLDERS)
def test_focalnet_features(folder: Path) -> None:
    folder = skip_if_absent(folder / "focal")
    network = build_network(build_focal())
    load_seem_backbone(network, folder / "state_dict.safetensors")
    image = load_file(folder / "inputs.safetensors")["image"].float()
    expected = load_file(folder / "features.safetensors")
    with torch.no_grad():
        features = network.image_encoder(network.normalise(image))
    for i, feature in enumerate(features):
        assert_near(feature, expected[f"backbone.res{i + 2}"])


@pytest.mark.parametrize("folder", FOLDERS)
def test_losses(folder: Path) -> None:
    recorded = load_file(skip_if_absent(folder / "hiera") / "loss.safetensors")
    cases = {key.split(".")[0] for key in recorded}
    assert len(cases) == 7
    for case in cases:
        logits = recorded[f"{case}.logits"].clone().requires_grad_()
        parts = PromptLoss().parts(logits, recorded[f"{case}.target"])
        found = torch.stack([parts["total"], parts["dice"], parts["bce"]])
        torch.testing.assert_close(found, recorded[f"{case}.values"], atol=1e-6, rtol=0)
        parts["total"].backward()
        torch.testing.assert_close(logits.grad, recorded[f"{case}.grad"], atol=1e-6, rtol=0)
