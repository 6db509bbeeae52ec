"""Weights in and out: our checkpoints, and the published ones by the maps of published_keys.py.

Every load is strict about the modules it promises: a tensor that is missing, too many or of another
shape is an error before any weight changes. What a file holds beyond those modules is reported as
not taken.
"""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from boltzmed.files import whole_file
from boltzmed.networks.published_keys import SAM2, SEEM, UPSTREAM, Published

CHECKPOINT_VERSION = 2
"""Of the layout {model, network, image_size, input_sizes, trained_on, orientation, channels,
tokenizer, version}; version 1 had network, image_size and input_sizes in a mapping ``config``,
under other names.
"""

_RENAMED = {"network_def": "network", "frames": "input_sizes"}
"""Entries of a version 1 ``config`` → what they are called now."""

TOKENIZER = "open_clip/bpe_simple_vocab_16e6"
"""Name of the vocabulary that makes the token ids."""


NEW_PARTS = ("presence.",)
"""What no published network has: it may stay fresh where weights of one without it start a
training.
"""


@dataclass(frozen=True)
class LoadReport:
    """What a file gave a network."""

    source: str
    taken: tuple[str, ...]
    """Our tensors that were filled."""
    not_taken: Mapping[str, str]
    """The file's keys that were left, and why."""
    missing: tuple[str, ...]
    """Our tensors that such a file does not hold; they are as they were."""

    def __str__(self) -> str:
        lines = [f"{self.source}: taken: {_count_modules(self.taken)}"]
        for reason in dict.fromkeys(self.not_taken.values()):
            keys = [key for key, value in self.not_taken.items() if value == reason]
            lines.append(
                f"not taken ({reason}):"
                f" {_count_modules(keys) if len(keys) > 4 else ', '.join(keys)}"
            )
        if self.missing:
            lines.append(f"not in such a file, left as they were: {_count_modules(self.missing)}")
        return "\n".join(lines)


def _count_modules(keys: Iterable[str]) -> str:
    counts = Counter(_bare(key).split(".")[0] for key in keys)
    return ", ".join(f"{module} ({count} tensors)" for module, count in counts.items())


def _bare(key: str) -> str:
    """A key without what wrappers of a model have put before it."""
    return re.sub(r"^(model\.|module\.)+", "", key)


def load_upstream(network: nn.Module, source: str | Path | Mapping[str, Any]) -> LoadReport:
    """Fill a whole BoltzFormer from a state dict of the published code (either backbone).

    Args:
        network: A BoltzFormer of the same sizes.
        source: A file (``.pt``, ``.pth``, ``.safetensors``) or the state dict itself. It may be
            wrapped in ``model`` or ``state_dict``, and its keys may begin with ``model.`` or
            ``module.``.

    Raises:
        ValueError: The file can't be read; or a tensor of the network is missing in it or of
            another shape, or it holds one that the network has no place for. The network is then
            unchanged.
    """
    return _load_published(network, source, UPSTREAM)


def load_sam2_image_encoder(
    network: nn.Module, source: str | Path | Mapping[str, Any]
) -> LoadReport:
    """Fill a Hiera image encoder (trunk and neck) from a SAM 2 checkpoint; else as
    ``load_upstream``.
    """
    return _load_published(network, source, SAM2)


def load_seem_backbone(network: nn.Module, source: str | Path | Mapping[str, Any]) -> LoadReport:
    """Fill a FocalNet image encoder from a SEEM or X-Decoder checkpoint; else as
    ``load_upstream``.
    """
    return _load_published(network, source, SEEM)


def _load_published(
    network: nn.Module, source: str | Path | Mapping[str, Any], published: Published
) -> LoadReport:
    name = "state dict" if isinstance(source, Mapping) else Path(source).name
    content = source if isinstance(source, Mapping) else _read(source)
    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ValueError(f"{name}: expected a state dict, received a {type(content).__name__}")

    ours = network.state_dict()
    found: dict[str, Any] = {}
    not_taken: dict[str, str] = {}
    for key, value in content.items():
        bare = _bare(str(key))
        if bare in published.unused:
            not_taken[key] = published.unused[bare]
            continue
        if not bare.startswith(published.scope):
            not_taken[key] = f"outside {published.scope.rstrip('.')}"
            continue
        renamed = published.rename(bare)
        if renamed is None or renamed not in ours:
            raise ValueError(
                f"{name}: holds {key}, for which this network has no place; it is a checkpoint of"
                " another kind or size"
            )
        if renamed in found:
            raise ValueError(f"{name}: expected {key} once, received it under two prefixes")
        # Linear layers there are 1×1 convolutions in timm: the same numbers.
        unfold = isinstance(value, Tensor) and ours[renamed].shape == (*value.shape, 1, 1)
        found[renamed] = value[..., None, None] if unfold else value
    _fill(network, found, name, published.fills)
    missing = tuple(key for key in ours if key not in found)
    return LoadReport(name, tuple(found), not_taken, missing)


def save_checkpoint(
    path: str | Path,
    network: nn.Module,
    *,
    config: Mapping[str, Any],
    orientation: str,
    channels: str,
    tokenizer: str = TOKENIZER,
    fp16_checkpoint: bool = False,
) -> None:
    """Write our own checkpoint, to a temporary name first.

    Args:
        path: ends in ``.pt``; missing folders are made.
        network: its ``state_dict`` is kept.
        config: what it was trained as (plain values only): ``network``, its definition,
            ``image_size``, and where there are any ``input_sizes`` and ``trained_on``.
        orientation: slice plane the network was trained on.
        channels: ``"repeat"`` or ``"neighbours"``.
        tokenizer: vocabulary that made its token ids.
        fp16_checkpoint: store floating point weights in 16 bits, about half the file; they are 32
            bits again when loaded.

    Raises:
        ValueError: the config holds more than plain values, a weight is not finite (or not in 16
            bits), or the file can't be written.
    """
    target = Path(path)
    model = {}
    for key, value in network.state_dict().items():
        value = value.detach().cpu()
        shrinks = fp16_checkpoint and value.is_floating_point()
        model[key] = value.half() if shrinks else value.clone()
        if not model[key].isfinite().all():
            limit, advice = "", "the training has diverged"
            if fp16_checkpoint:
                limit, advice = " of at most 65504 for 16 bits", "save without fp16_checkpoint"
            raise ValueError(
                f"{target.name}: {key}: expected finite weights{limit}, received up to"
                f" {value.abs().max():g}; {advice}"
            )
    content = {
        "model": model,
        "network": {},
        **_plain(config, f"{target.name}: config"),
        "orientation": orientation,
        "channels": channels,
        "tokenizer": tokenizer,
        "version": CHECKPOINT_VERSION,
    }
    # torch's archive writer raises RuntimeError on a full disk.
    failures = (OSError, RuntimeError)
    with whole_file(target, write_errors=failures) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load_checkpoint(
    path: str | Path,
    network: nn.Module,
    *,
    config: Mapping[str, Any] | None = None,
    orientation: str | None = None,
    channels: str | None = None,
    tokenizer: str | None = TOKENIZER,
    start: bool = False,
) -> dict[str, Any]:
    """Fill a network from our own checkpoint, after comparing what it was trained as with what is
    expected.

    Args:
        path: a file of ``save_checkpoint``.
        network: of the checkpoint's sizes.
        config: what the run expects; None accepts anything. Of ``config`` the given entries are
            compared, each in full.
        orientation: as ``config``.
        channels: as ``config``.
        tokenizer: as ``config``.
        start: the weights are the start of a training: ``NEW_PARTS`` that the file lacks stay
            fresh.

    Returns:
        Everything the checkpoint holds besides the weights.

    Raises:
        ValueError: the file is missing, corrupt, of another layout or size, or differs from what is
            expected. One line.
    """
    name = Path(path).name
    content = _read_layout(_read(path, check_sums=True), name)
    model = content.pop("model")
    expected = {"orientation": orientation, "channels": channels, "tokenizer": tokenizer}
    expected = {field: value for field, value in expected.items() if value is not None}
    compare_record(content, {**expected, **(config or {})}, name)
    _fill(network, model, name, "", keep_all=not start)
    return content


def compare_record(record: Mapping[str, Any], expected: Mapping[str, Any], name: str) -> None:
    """Compare what a checkpoint records with what a run expects of it, entry by entry.

    Raises:
        ValueError: an entry differs; the line says both.
    """
    for field, value in expected.items():
        both = [_plain(entry, f"{name}: {field}") for entry in (value, record.get(field))]
        difference = _first_difference(field, *both)
        if difference is not None:
            label, run, trained = difference
            raise ValueError(
                f"{name}: {label}: this run expects {_shorten(run)}, the checkpoint was trained"
                f" with {_shorten(trained)}; use the checkpoint's own settings or another"
                " checkpoint"
            )


def read_record(path: str | Path) -> dict[str, Any]:
    """Return what one of our checkpoints records of its training; its weights stay unread.

    Returns:
        Its entries but ``model``, see ``save_checkpoint``.

    Raises:
        ValueError: the file is missing, can't be read, or is none of ours. One line.
    """
    content = _read_layout(_read(path, lazy=True), Path(path).name)
    return {field: value for field, value in content.items() if field != "model"}


def _read_layout(content: Any, name: str) -> dict[str, Any]:
    """A checkpoint's entries in today's layout, whichever wrote it."""
    fields = ("model", "orientation", "channels", "tokenizer", "version")
    missing = list(fields)
    if isinstance(content, Mapping):
        missing = [field for field in fields if field not in content]
        if "network" not in content and "config" not in content:
            missing.append("network")
    if missing:
        raise ValueError(
            f"{name}: expected a boltzmed checkpoint, received a file without {', '.join(missing)}"
        )
    if content["version"] not in (1, CHECKPOINT_VERSION):
        raise ValueError(
            f"{name}: version: this boltzmed reads versions 1 and {CHECKPOINT_VERSION}, received"
            f" {content['version']!r}; use the boltzmed that wrote it or another checkpoint"
        )
    entries = dict(content)
    older = entries.pop("config", {})
    for field, value in (("model", entries["model"]), ("config", older)):
        if not isinstance(value, Mapping):
            raise ValueError(
                f"{name}: {field}: expected a mapping, received a {type(value).__name__}"
            )
    return entries | {_RENAMED.get(field, field): value for field, value in older.items()}


def _plain(value: Any, label: str) -> Any:
    """A copy of values that any reader of the file understands, tuples as lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry, f"{label}.{key}") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry, f"{label}.{i}") for i, entry in enumerate(value)]
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise ValueError(
        f"{label}: expected numbers, texts, lists and mappings, received a {type(value).__name__}"
    )


def _first_difference(label: str, wanted: Any, received: Any) -> tuple[str, Any, Any] | None:
    """Where two plain values differ first, down to the entry of a mapping; None where they are
    equal.
    """
    if isinstance(wanted, dict) and isinstance(received, dict):
        keys = dict.fromkeys((*wanted, *received))
        entries = (
            _first_difference(f"{label}.{key}", wanted.get(key), received.get(key)) for key in keys
        )
        return next(filter(None, entries), None)
    return None if wanted == received else (label, wanted, received)


def _shorten(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _read(source: str | Path, *, check_sums: bool = False, lazy: bool = False) -> Any:
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"{path}: expected a checkpoint file, found none there; check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if check_sums:
            # torch.load takes a flipped bit for a weight.
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile
        return torch.load(path, map_location="cpu", weights_only=True, mmap=lazy)
    except Exception as error:  # what damaged bytes raise has no common family
        raise ValueError(
            f"{path.name}: expected a checkpoint of tensors, received a file that can't be read as"
            f" one ({type(error).__name__}); it may be cut off or hold code, fetch it again"
        ) from error


def _fill(
    network: nn.Module, tensors: Mapping[str, Any], name: str, fills: str, *, keep_all: bool = False
) -> None:
    """Copy tensors into a network if all that begin with `fills` are there and fit; change nothing
    otherwise.

    `NEW_PARTS` may stay as they are, unless all is wanted.
    """
    ours = network.state_dict()
    wanted = [key for key in ours if key.startswith(fills)]
    if not any(
        key.startswith(NEW_PARTS) for key in tensors
    ):  # a file from before them leaves them fresh
        wanted = [key for key in wanted if keep_all or not key.startswith(NEW_PARTS)]
    if not wanted:
        raise ValueError(
            f"{name}: expected a network with {fills.rstrip('.')}, received one without; nothing to"
            " fill"
        )
    missing = [key for key in wanted if key not in tensors]
    if missing:
        raise ValueError(
            f"{name}: expected {len(wanted)} tensors for this network, {len(missing)} are missing,"
            f" the first is {missing[0]}; the checkpoint is of another kind or size"
        )
    for key, value in tensors.items():
        if key not in ours:
            raise ValueError(
                f"{name}: holds {key}, for which this network has no place; it is of another size"
            )
        received = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if received != tuple(ours[key].shape):
            raise ValueError(
                f"{name}: {key}: expected shape {tuple(ours[key].shape)}, received {received}; "
                "the checkpoint is of another size"
            )
    network.load_state_dict(
        {**ours, **{key: value.to(ours[key].dtype) for key, value in tensors.items()}}
    )
