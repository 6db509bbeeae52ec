"""Files from strangers are data: nothing in a checkpoint, a card or a prompt is run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from boltzmed.cards import load_card
from boltzmed.engines.handlers import TrainingCheckpoints
from boltzmed.networks.weights import (
    load_checkpoint,
    load_sam2_image_encoder,
    load_seem_backbone,
    load_upstream,
    read_record,
)
from boltzmed.workflow import build_network, read_inference


class Trap:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    "load",
    [
        read_record,
        lambda path: load_checkpoint(path, nn.Linear(1, 1)),
        lambda path: load_upstream(nn.Linear(1, 1), path),
        lambda path: load_sam2_image_encoder(nn.Linear(1, 1), path),
        lambda path: load_seem_backbone(nn.Linear(1, 1), path),
    ],
    ids=["read_record", "ours", "upstream", "sam2", "seem"],
)
def test_a_checkpoint_that_holds_code_is_refused_and_not_run(
    load: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"model": Trap(tmp_path / "made"), "config": {}}, path)
    with pytest.raises(ValueError, match=r"weights\.pt.*may.* hold code"):
        load(path)
    assert not (tmp_path / "made").exists()


def test_a_training_that_goes_on_runs_nothing_of_its_save(tmp_path: Path) -> None:
    """MONAI's ``CheckpointLoader`` reads it."""
    torch.save({"network": Trap(tmp_path / "made")}, tmp_path / "checkpoint_epoch=1.pt")
    trainer = Engine(lambda engine, batch: None)
    TrainingCheckpoints(str(tmp_path), {"network": nn.Linear(1, 1)}).attach(trainer)
    with pytest.raises(ValueError, match=r"checkpoint_epoch=1\.pt"):
        trainer.run([0], max_epochs=2)
    assert not (tmp_path / "made").exists()


def test_a_card_runs_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made"
    card = tmp_path / "trap.yaml"
    card.write_text(f"name: !!python/object/apply:os.mkdir ['{made}']\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"trap\.yaml"):
        load_card(card)
    assert not made.exists()


@pytest.mark.parametrize("field", ["image_size", "orientation", "channels"])
@pytest.mark.parametrize("nested", [False, True], ids=["expression", "class"])
def test_what_a_checkpoint_records_is_not_evaluated(
    field: str, nested: bool, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    recorded: Any = f"$__import__('os').mkdir({str(made)!r})"
    if nested:
        recorded = [{"_target_": "os.mkdir", "path": str(made)}]
    content = {"orientation": "axial", "channels": "repeat", "tokenizer": "t", "version": 1}
    content[field] = recorded
    config = {"network_def": {}, "image_size": content.pop("image_size", 512)}
    torch.save({"model": {}, "config": config, **content}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"expected a plain value"):
        read_inference(checkpoint=tmp_path / "weights.pt").get_parsed_content("inferer")
    assert not made.exists()


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({"_target_": "os.mkdir"}, "expected classes of boltzmed.networks, received os.mkdir"),
        ({"decoder": {"_target_": "os.mkdir"}}, "received os.mkdir"),
        ({"decoder": {"num_layers": "$__import__('os').getcwd()"}}, "expected plain values"),
    ],
)
def test_a_network_that_a_checkpoint_records_runs_nothing_else(
    definition: dict[str, Any], message: str, tmp_path: Path
) -> None:
    network = {"_target_": "boltzmed.networks.boltzformer.BoltzFormer", **definition}
    content = {"orientation": "axial", "channels": "repeat", "tokenizer": "t", "version": 2}
    content |= {"model": {}, "network": network, "image_size": 512}
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=re.escape(message)):
        build_network(checkpoint=tmp_path / "weights.pt")


@pytest.mark.parametrize("value", ["$print(1)", "@seed", "%inference.yaml", ["$print(1)"]])
def test_what_a_caller_passes_is_not_evaluated(value: Any) -> None:
    with pytest.raises(ValueError, match=r"expected a plain value"):
        read_inference(cards=value)
