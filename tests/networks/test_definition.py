"""A network's definition: what builds it is plain data, and a stranger's runs nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from torch import nn

from boltzmed.networks.decoder import Decoder
from boltzmed.networks.definition import (
    build_definition,
    check_definition,
    definition_of,
    override_definition,
    plain_definition,
    resolve_definition,
)
from boltzmed.networks.pigma import PiGMA

PIGMA: dict[str, Any] = {"_target_": "boltzmed.networks.pigma.PiGMA", "num_queries": 4}


def test_a_network_knows_what_built_it():
    network = build_definition(PIGMA)
    assert isinstance(network, PiGMA) and definition_of(network) == PIGMA


def test_references_and_expressions_are_resolved():
    tree = {"_target_": PIGMA["_target_"], "num_queries": "$@queries * 2"}
    assert resolve_definition({"queries": 2, "network_def": tree}) == PIGMA


def test_what_monai_hands_over_is_plain_again():
    parts = {"pigma": partial(PiGMA, num_queries=4), "decoder": Decoder, "levels": (1, 2)}
    assert plain_definition({"_mode_": "callable", **parts}) == {
        "pigma": PIGMA,
        "decoder": {"_target_": "boltzmed.networks.decoder.Decoder"},
        "levels": [1, 2],
    }
    with pytest.raises(ValueError, match="description of PiGMA, received one that is built"):
        plain_definition({"pigma": PiGMA(4)})


def test_an_override_leaves_the_rest():
    whole = {"decoder": {"_target_": "a.B", "layers": 3, "heads": 4}, "pigma": PIGMA}
    changed = override_definition(whole, {"decoder": {"layers": 6}, "presence": {}})
    assert changed == {"decoder": {"_target_": "a.B", "layers": 6, "heads": 4}, "pigma": PIGMA}
    assert whole["decoder"]["layers"] == 3


def test_what_describes_no_network_is_refused():
    with pytest.raises(
        ValueError, match="presence: expected a class as _target_ beside hidden_dim"
    ):
        build_definition({**PIGMA, "presence": {"hidden_dim": 3}})
    with pytest.raises(ValueError, match="expected a network, received a dict"):
        build_definition({"layers": 3})
    with pytest.raises(ValueError, match="received a Linear that was built otherwise"):
        definition_of(nn.Linear(1, 1))


@pytest.mark.parametrize(
    "part",
    [
        {"_target_": "os.system", "command": "true"},
        {"_target_": "boltzmed.networks.weights.os.system", "command": "true"},
        {"_target_": "boltzmed.networks.weights.save_checkpoint"},
        {"_target_": "boltzmed.networks.pigma.nn.Linear"},
        {"value": "$__import__('os').system('true')"},
        {"value": "%/etc/config.yaml"},
    ],
)
def test_a_strangers_checkpoint_runs_nothing(part):
    with pytest.raises(ValueError, match=r"^model\.pt: network: expected (plain|classes)"):
        check_definition({**PIGMA, "parts": [part]}, "model.pt")


def test_a_class_of_ones_own_may_be_trusted():
    check_definition(PIGMA, "model.pt")
    check_definition({"_target_": "mine.Net", "part": PIGMA}, "model.pt", trusted=["mine.Net"])
