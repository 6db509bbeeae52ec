"""The presence gate: a logit a prompt, and nothing else of the network changes."""

from pathlib import Path

import pytest
import torch

from boltzmed.networks.boltzformer import INVALID_LOGIT
from boltzmed.networks.presence import PresenceGate
from boltzmed.networks.weights import load_checkpoint, save_checkpoint
from boltzmed.resources import resource_folder
from boltzmed.transforms.tokenize import tokenize_prompts
from boltzmed.workflow import build_network, network_settings, start_weights

CONFIGS = resource_folder("bundles") / "boltzformer" / "configs"
SHIPPED = resource_folder("bundles") / "boltzformer" / "models" / "model.pt"
IDS = tokenize_prompts(["liver in abdomen CT", "spleen in abdomen CT"])[None]


@pytest.fixture(scope="module")
def gated() -> torch.nn.Module:
    torch.manual_seed(0)
    return start_weights(
        build_network(CONFIGS / "tiny_gated.yaml"), SHIPPED, "boltzmed", "cpu"
    ).eval()


def test_the_order_of_queries_does_not_matter():
    gate, queries = PresenceGate(8), torch.randn(2, 3, 5, 8)
    assert gate(queries).shape == (2, 3)
    torch.testing.assert_close(gate(queries), gate(queries[:, :, torch.tensor([4, 2, 0, 1, 3])]))
    gate(queries).sum().backward()
    assert all(parameter.grad is not None for parameter in gate.parameters())


def test_masks_are_those_of_the_network_without_a_gate(gated):
    plain = build_network(CONFIGS / "tiny.yaml").eval()
    load_checkpoint(SHIPPED, plain)
    image = 255 * torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = gated(image, IDS), plain(image, IDS)
    assert torch.equal(ours["mask_logits"], theirs["mask_logits"])
    assert ours["presence_logits"].shape == (1, 2) and theirs["presence_logits"] is None


def test_prompts_that_only_fill_the_batch_are_not_present(gated):
    image = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        logits = gated(image, IDS, torch.tensor([[True, False]]))["presence_logits"]
    assert logits[0, 0] > INVALID_LOGIT and logits[0, 1] == INVALID_LOGIT


def test_the_gates_configs_differ_by_the_gate_alone():
    plain, gated = (
        network_settings(CONFIGS / f"{size}.yaml", 512)["network"]
        for size in ("tiny", "tiny_gated")
    )
    assert {name: part for name, part in gated.items() if name != "presence"} == plain


def test_a_checkpoint_without_a_gate_starts_a_training_but_is_not_taken_for_a_trained_gate(
    gated, tmp_path: Path
):
    network = build_network(CONFIGS / "tiny_gated.yaml")
    with pytest.raises(
        ValueError, match=r"model\.pt: expected \d+ tensors for this network, 6 are missing"
    ):
        load_checkpoint(SHIPPED, network)
    path = tmp_path / "gated.pt"
    save_checkpoint(path, gated, config={}, orientation="axial", channels="neighbours")
    load_checkpoint(path, network)
    for name, value in gated.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    with pytest.raises(
        ValueError, match=r"gated\.pt: holds presence\.norm\.weight, for which this"
    ):
        load_checkpoint(path, build_network(CONFIGS / "tiny.yaml"))
