"""What the network is fed of a batch: the same tensors, and draws by key in training only."""

from __future__ import annotations

import pytest
import torch

from boltzmed.engines.batches import PreparePromptBatch


@pytest.fixture
def batch() -> dict:
    return {
        "image": torch.rand(2, 3, 8, 8),
        "label": (torch.rand(2, 4, 8, 8) > 0.5).float(),
        "input_ids": torch.randint(0, 60, (2, 4, 6)),
        "prompt_valid": torch.tensor([[True, True, False, False], [True, True, True, True]]),
        "draw_key": torch.tensor([5, 2**61]),
        "case": ["a", "b"],
        "slice_index": torch.tensor([3, 4]),
    }


def test_training_draws_by_each_samples_key(batch):
    image, target, arguments, keywords = PreparePromptBatch()(batch, "cpu")
    assert torch.equal(image, batch["image"])
    assert target.keys() == {"mask", "prompt_valid"} and arguments == ()
    assert torch.equal(target["mask"], batch["label"])
    assert torch.equal(target["prompt_valid"], batch["prompt_valid"])
    assert keywords.keys() == {"input_ids", "prompt_valid", "draw_key"}
    assert all(torch.equal(keywords[name], batch[name]) for name in keywords)


def test_evaluation_draws_by_the_networks_seed(batch):
    image, _, _, keywords = PreparePromptBatch(keyed_draws=False)(batch, "cpu")
    assert torch.equal(image, batch["image"])
    assert keywords.keys() == {"input_ids", "prompt_valid"}
    del batch["draw_key"]  # not needed then
    assert PreparePromptBatch(keyed_draws=False)(batch)[3].keys() == {"input_ids", "prompt_valid"}


def test_tensors_go_to_the_device_and_keys_stay(batch):
    # The keys seed generators on the CPU; moving them would make each step wait for the device.
    image, target, _, keywords = PreparePromptBatch()(batch, "meta", non_blocking=True)
    moved = [image, *target.values(), keywords["input_ids"], keywords["prompt_valid"]]
    assert {tensor.device.type for tensor in moved} == {"meta"}
    assert keywords["draw_key"].tolist() == [5, 2**61]
