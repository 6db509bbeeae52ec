"""The published computation, step by step, is the function that the network computes."""

from __future__ import annotations

import pytest
import torch

from benchmarks.literal import LITERAL, LiteralDecoder
from boltzmed.resources import resource_folder
from boltzmed.transforms.tokenize import tokenize_prompts
from boltzmed.workflow import SIZES, build_network

CONFIGS = resource_folder("bundles") / "boltzformer" / "configs"


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_a_literal_form_with_the_same_parameters(size: str) -> None:
    with torch.device("meta"):
        fast = build_network(CONFIGS / f"{size}.yaml")
        literal = build_network(CONFIGS / f"{size}.yaml", **LITERAL)
    assert isinstance(literal.decoder, LiteralDecoder)
    assert not isinstance(fast.decoder, LiteralDecoder)
    shapes = [
        {name: value.shape for name, value in network.state_dict().items()}
        for network in (fast, literal)
    ]
    assert shapes[0] == shapes[1]


@torch.no_grad()
def test_the_literal_form_is_the_same_function() -> None:
    networks = [build_network(CONFIGS / "tiny.yaml", **parts).eval() for parts in ({}, LITERAL)]
    networks[1].load_state_dict(networks[0].state_dict())
    image = 255 * torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    input_ids = tokenize_prompts(["liver in abdomen CT", "aorta"])[None]
    fast, literal = (network(image, input_ids)["mask_logits"] for network in networks)
    torch.testing.assert_close(fast, literal, atol=1e-5, rtol=1e-5)
