"""The network with its prompts built in: the same masks, the same weights, an image as its only input."""

from pathlib import Path

import pytest
import torch

from boltzmed.export import PromptedNetwork
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
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    with pytest.raises(RuntimeError, match="Missing key"):
        prompted.load_state_dict({})


@pytest.mark.parametrize("input_ids", [PROMPTS[:0], PROMPTS[0], PROMPTS[None]])
def test_prompts_of_another_shape_are_refused(input_ids: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected token ids \(P, T\) of one prompt or more"):
        PromptedNetwork(make_network(0), input_ids)
