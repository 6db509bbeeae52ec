"""The network for other programs: the same masks with prompts built in, compiled, exported, and as
ONNX.
"""

from pathlib import Path

import pytest
import torch

from boltzmed.export import DrawnNetwork, PromptedNetwork, export_onnx
from boltzmed.networks.boltzformer import BoltzFormer
from boltzmed.resources import resource_folder
from boltzmed.transforms.tokenize import tokenize_prompts
from boltzmed.workflow import build_network

TINY: Path = resource_folder("bundles") / "boltzformer" / "configs" / "tiny.yaml"
PROMPTS = tokenize_prompts(["liver in abdomen CT", "aorta"])


def make_network(seed: int) -> BoltzFormer:
    torch.manual_seed(seed)
    return build_network(TINY).eval()


@torch.no_grad()
def test_masks_are_the_networks() -> None:
    network = make_network(0)
    image = 255 * torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    logits = PromptedNetwork(network, PROMPTS).eval()(image)
    assert logits.shape == (2, 2, 32, 32)
    expected = network(image, PROMPTS.expand(2, -1, -1))["mask_logits"]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_weights_go_by_the_networks_names() -> None:
    network, other = make_network(0), make_network(1)
    prompted = PromptedNetwork(network, PROMPTS)
    assert list(prompted.state_dict()) == list(network.state_dict())
    prompted.load_state_dict(other.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True)
    )
    with pytest.raises(RuntimeError, match="Missing key"):
        prompted.load_state_dict({})


@pytest.mark.parametrize("input_ids", [PROMPTS[:0], PROMPTS[0], PROMPTS[None]])
def test_prompts_of_another_shape_are_refused(input_ids: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected token ids \(P, T\) of one prompt or more"):
        PromptedNetwork(make_network(0), input_ids)


def inputs(batch: int, prompts: int, side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    image = 255 * torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(batch))
    texts = ["liver in abdomen CT", "aorta", "lung nodule in chest CT"][:prompts]
    return image, tokenize_prompts(texts).expand(batch, -1, -1).contiguous()


@torch.no_grad()
def test_constant_draws_are_the_networks_own() -> None:
    network = make_network(0)
    image, ids = inputs(2, 3)
    (found,) = DrawnNetwork(network, 64)(image, ids)
    torch.testing.assert_close(found, network(image, ids)["mask_logits"])
    with pytest.raises(ValueError, match="image_size: expected a multiple of 32, received 60"):
        DrawnNetwork(network, 60)


@torch.no_grad()
def test_a_gate_closes_exported_masks() -> None:
    """One prompt that it takes for absent, the other not; a traced program, too."""
    torch.manual_seed(0)
    network = build_network(TINY.with_name("tiny_gated.yaml")).eval()
    image = inputs(2, 1)[0]
    presence = network(image, PROMPTS.expand(2, -1, -1))["presence_logits"]
    network.presence.vote.bias -= presence.mean()  # half above, half below
    output = network(image, PROMPTS.expand(2, -1, -1))
    absent = output["presence_logits"] < 0
    assert absent.any() and not absent.all()
    masks, found = DrawnNetwork(network, 64)(image, PROMPTS.expand(2, -1, -1))
    torch.testing.assert_close(masks, output["mask_logits"])
    torch.testing.assert_close(found, output["presence_logits"])
    traced = torch.jit.trace(PromptedNetwork(network, PROMPTS, 64), image, check_trace=False)
    for prompted in (PromptedNetwork(network, PROMPTS), traced):
        masks = prompted(image)
        assert (masks[absent] == -100).all()
        torch.testing.assert_close(
            masks[~absent], output["mask_logits"][~absent], atol=1e-4, rtol=0
        )


@torch.no_grad()
def test_a_traced_program_draws_for_every_image_anew() -> None:
    """What is attended depends on the image: a form that gathers would hold the first one's tokens
    for ever.
    """
    network = make_network(0)
    network.decoder.attention = "gathered"
    prompted = PromptedNetwork(network, PROMPTS, 64)
    first, second = inputs(2, 1)[0].split(1)
    traced = torch.jit.trace(prompted, first, check_trace=False)
    for image in (first, second):
        torch.testing.assert_close(
            traced(image), PromptedNetwork(network, PROMPTS)(image), atol=1e-4, rtol=0
        )
    with pytest.raises(ValueError, match="expected images of 64×64"):
        torch.jit.trace(prompted, torch.zeros(1, 3, 96, 96), check_trace=False)


@torch.no_grad()
def test_an_exported_program_takes_any_number_of_prompts() -> None:
    """The rules that look at the number of prompts must not look at a program's."""
    drawn = DrawnNetwork(make_network(0), 64).eval()
    prompts = torch.export.Dim("prompts", min=1, max=64)
    program = torch.export.export(drawn, inputs(1, 3), dynamic_shapes=({}, {1: prompts})).module()
    for number in (1, 5, 12):
        given = inputs(1, number)
        torch.testing.assert_close(program(*given), drawn(*given), atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
def test_image_side_is_exported(batch: int) -> None:
    network = make_network(0)
    image = inputs(batch, 1)[0]
    encoder = torch.export.export(network.image_encoder, (image,)).module()
    features = network.image_encoder(image)
    for found, expected in zip(encoder(image), features, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    scales, semantic_map = torch.export.export(network.pixel_decoder, (features,)).module()(
        features
    )
    expected_scales, expected_map = network.pixel_decoder(features)
    for found, expected in zip(
        [*scales, semantic_map[0]], [*expected_scales, expected_map[0]], strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_image_side_is_compiled() -> None:
    """Captured as one graph each; which machine code it becomes is torch's own affair."""
    network = make_network(0)
    image = inputs(2, 1)[0]
    features = network.image_encoder(image)
    encoder = torch.compile(network.image_encoder, backend="aot_eager", fullgraph=True)
    decoder = torch.compile(network.pixel_decoder, backend="aot_eager", fullgraph=True)
    for found, expected in zip(encoder(image), features, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        decoder(features)[1].whole(), network.pixel_decoder(features)[1].whole()
    )


@torch.no_grad()
@pytest.mark.parametrize("size", ["tiny", "tiny_gated"])
def test_onnx_takes_any_number_of_images_and_prompts(tmp_path: Path, size: str) -> None:
    pytest.importorskip("onnxscript", reason="the extra boltzmed[onnx] is not installed")
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="the extra boltzmed[onnx] is not installed"
    )
    torch.manual_seed(0)
    network = build_network(TINY.with_name(f"{size}.yaml")).eval()
    path = export_onnx(network, tmp_path / "network.onnx", image_size=64)
    session = onnxruntime.InferenceSession(str(path))
    for batch, prompts in ((1, 1), (2, 3), (3, 2)):
        image, ids = inputs(batch, prompts)
        found = session.run(None, {"image": image.numpy(), "input_ids": ids.numpy()})
        expected = [value for value in network(image, ids).values() if value is not None]
        assert [output.name for output in session.get_outputs()] == [
            "mask_logits",
            "presence_logits",
        ][: len(expected)]
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, atol=1e-4, rtol=0)
    assert [file.name for file in tmp_path.iterdir()] == ["network.onnx"]
