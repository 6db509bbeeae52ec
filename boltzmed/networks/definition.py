"""A network's definition: the plain data that builds it, and that a checkpoint records."""

from __future__ import annotations

import functools
import pydoc
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from monai.bundle import ConfigParser
from torch import nn

NETWORK = "boltzmed.networks.boltzformer.BoltzFormer"
PARTS = ("image_encoder", "pixel_decoder", "text_encoder", "decoder", "pigma", "presence")
"""Of that network, as its constructor names them."""

_MODE = "_mode_"
_TARGET = "_target_"


def resolve_definition(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definition that a size's config describes, references and expressions resolved.

    Args:
        config: holds ``network_def``, a tree of MONAI components.

    Returns:
        The same tree, ``_target_`` and arguments alone, as plain data.
    """
    parser = ConfigParser(
        {**config, "network_def": _as_callables(_without_builder(config["network_def"]))}
    )
    return plain_definition(parser.get_parsed_content("network_def"))


def _without_builder(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Name the class where a size's tree names the function that builds it in a bundle's config."""
    if tree.get(_TARGET) == "boltzmed.workflow.build_network":
        return {**tree, _TARGET: NETWORK}
    return dict(tree)


def _as_callables(tree: Any) -> Any:
    """A tree whose components MONAI hands over with their arguments instead of calling them."""
    if isinstance(tree, Mapping):
        copy = {key: _as_callables(value) for key, value in tree.items()}
        return {**copy, _MODE: "callable"} if _TARGET in copy else copy
    return [_as_callables(value) for value in tree] if isinstance(tree, list) else tree


def plain_definition(value: Any) -> Any:
    """Return what MONAI made of a tree of ``_mode_: callable`` components as plain data.

    Args:
        value: a class, a ``functools.partial`` of one, plain values, or lists and mappings of
            these.

    Raises:
        ValueError: a part that was built already, whose arguments nobody knows any more.
    """
    if isinstance(value, functools.partial):
        return {_TARGET: _name(value.func), **plain_definition(value.keywords)}
    if isinstance(value, Mapping):
        return {str(key): plain_definition(entry) for key, entry in value.items() if key != _MODE}
    if isinstance(value, list | tuple):
        return [plain_definition(entry) for entry in value]
    if isinstance(value, nn.Module):
        raise ValueError(
            f"network_def: expected a description of {type(value).__name__}, received one that is"
            " built already; give it _mode_: callable, or pass the file that describes it"
            " (--size_config FILE)"
        )
    return {_TARGET: _name(value)} if callable(value) else value


def _name(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def override_definition(
    definition: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a definition with other values, part by part; what is not named stays."""
    merged = dict(definition)
    for key, value in overrides.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key, {}), Mapping):
            part = override_definition(merged.get(key, {}), value)
            if part or key in merged:  # an empty override adds no part
                merged[key] = part
        else:
            merged[key] = value
    return merged


def build_definition(definition: Mapping[str, Any]) -> nn.Module:
    """Return a definition's network with fresh weights.

    Returns:
        The network; its attribute ``definition`` is the one given.

    Raises:
        ValueError: it describes no network.
    """
    for name, part in definition.items():
        if isinstance(part, Mapping) and _TARGET not in part:
            raise ValueError(
                f"network_def: {name}: expected a class as _target_ beside {', '.join(part)},"
                f" received none; this size has no {name}"
            )
    network = ConfigParser({"network_def": _copy(definition)}).get_parsed_content("network_def")
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"network_def: expected a network, received a {type(network).__name__}; check its"
            " _target_"
        )
    network.definition = _copy(definition)
    return network


def definition_of(network: nn.Module) -> dict[str, Any]:
    """Return the definition that a network was built from.

    Raises:
        ValueError: it was not built from one.
    """
    definition = getattr(network, "definition", None)
    if not isinstance(definition, dict):
        raise ValueError(
            "network_def: expected a network whose definition is known, received a"
            f" {type(network).__name__} that was built otherwise; pass the file that describes it"
            " (--size_config FILE) instead of replacing network_def"
        )
    return definition


def check_definition(
    definition: Mapping[str, Any], name: str, trusted: Collection[str] = ()
) -> None:
    """Refuse a checkpoint's definition that would run anything but this package's networks.

    A checkpoint may come from a stranger, and MONAI imports and calls what a definition names.

    Args:
        definition: as the checkpoint has it.
        name: of the file, for the message.
        trusted: further classes, which a config of the user's own names.

    Raises:
        ValueError: an expression, or a class from elsewhere.
    """
    for value in _texts(definition):
        if value.startswith(("$", "@", "%")):
            raise ValueError(f"{name}: network: expected plain values, received {value!r}")
    for target in targets(definition):
        if target not in trusted and not _is_own_network(target):
            raise ValueError(
                f"{name}: network: expected classes of boltzmed.networks, received {target}; if you"
                " trust it, pass the size file that names it (--size_config FILE)"
            )


def targets(value: Any) -> list[str]:
    """Return the names of all classes in a definition."""
    if isinstance(value, Mapping):
        own = [str(value[_TARGET])] if _TARGET in value else []
        return own + [name for entry in value.values() for name in targets(entry)]
    return [name for entry in value for name in targets(entry)] if isinstance(value, list) else []


def _is_own_network(target: str) -> bool:
    if not re.fullmatch(r"boltzmed\.networks(\.\w+)+", target):
        return False
    found = pydoc.locate(target)
    return (
        isinstance(found, type)
        and issubclass(found, nn.Module)
        and found.__module__.startswith("boltzmed.networks.")
    )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield str(key)
            yield from _texts(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry)
    elif isinstance(value, str):
        yield value


def _copy(value: Any) -> Any:
    """A copy: MONAI writes into the trees that it resolves."""
    if isinstance(value, Mapping):
        return {key: _copy(entry) for key, entry in value.items()}
    return [_copy(entry) for entry in value] if isinstance(value, list | tuple) else value
