"""Weights in and out: our checkpoints, and the published ones by explicit key maps.

Every load is strict about the modules it promises: a key or shape that doesn't fit is an error before any weight
changes. What a file holds beyond them is reported as not taken.
"""

from __future__ import annotations

import os
import pickle
import re
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CHECKPOINT_VERSION = 1
"""Of the layout {model, config, orientation, channels, tokenizer, version}."""

# (pattern of the published key, our key). The first pattern that matches a whole key decides.
KeyMap = Sequence[tuple[str, str]]

_HIERA: KeyMap = [
    (r"trunk\.(.+)\.mlp\.layers\.0\.(.+)", r"trunk.\1.mlp.fc1.\2"),
    (r"trunk\.(.+)\.mlp\.layers\.1\.(.+)", r"trunk.\1.mlp.fc2.\2"),
    (r"trunk\.(.+)", r"trunk.\1"),
    # The published neck counts its levels from the coarsest.
    *[(rf"neck\.convs\.{level}\.conv\.(.+)", rf"neck.laterals.{3 - level}.\1") for level in range(4)],
]
_FOCAL: KeyMap = [
    (r"patch_embed\.(.+)", r"stem.\1"),
    # Downsampling closes a stage there and opens the next one here.
    *[(rf"layers\.{stage}\.downsample\.(.+)", rf"stages.{stage + 1}.downsample.\1") for stage in range(3)],
    (r"layers\.(\d+)\.blocks\.(\d+)\.gamma_([12])", r"stages.\1.blocks.\2.ls\3.gamma"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.norm([12])\.(.+)", r"stages.\1.blocks.\2.norm\3_post.\4"),
    (r"layers\.(\d+)\.blocks\.(.+)", r"stages.\1.blocks.\2"),
    (r"norm(\d)\.(.+)", r"norms.\1.\2"),
]
_PIXEL_DECODER: KeyMap = [
    (r"input_proj\.(.+)", r"input_projection.\1"),
    (r"transformer\.encoder\.layers\.(\d+)\.self_attn\.(.+)", r"layers.\1.self_attention.\2"),
    (r"transformer\.encoder\.layers\.(.+)", r"layers.\1"),
    *[(rf"adapter_{level}\.norm\.(.+)", rf"laterals.{level - 1}.1.\1") for level in (1, 2, 3)],
    *[(rf"adapter_{level}\.(.+)", rf"laterals.{level - 1}.0.\1") for level in (1, 2, 3)],
    *[(rf"layer_{level}\.norm\.(.+)", rf"outputs.{level - 1}.1.\1") for level in (1, 2, 3, 4)],
    *[(rf"layer_{level}\.(.+)", rf"outputs.{level - 1}.0.\1") for level in (1, 2, 3, 4)],
    (r"mask_features\.(.+)", r"mask_features.\1"),
]
_DECODER: KeyMap = [
    (r"query_feat\.weight", "query_features"),
    (r"query_embed\.weight", "query_positions"),
    (r"level_embed\.weight", "level_embeddings"),
    (r"initial_self_attention_layer\.self_attn\.(.+)", r"prior.self_attention.\1"),
    (r"initial_self_attention_layer\.norm\.(.+)", r"prior.norm.\1"),
    (r"initial_ffn_layer\.(.+)", r"prior.feed_forward.\1"),
    (r"transformer_cross_attention_layers\.(\d+)\.multihead_attn\.(.+)", r"layers.\1.cross_attention.\2"),
    (r"transformer_cross_attention_layers\.(\d+)\.norm\.(.+)", r"layers.\1.norm.\2"),
    (r"transformer_self_attention_layers\.(\d+)\.self_attn\.(.+)", r"layers.\1.query_text.self_attention.\2"),
    (r"transformer_self_attention_layers\.(\d+)\.norm\.(.+)", r"layers.\1.query_text.norm.\2"),
    (r"transformer_ffn_layers\.(\d+)\.(.+)", r"layers.\1.query_text.feed_forward.\2"),
    (r"decoder_norm\.(.+)", r"mask_norm.\1"),
    # A ReLU stands after each but the last of these layers.
    *[(rf"mask_embed\.layers\.{layer}\.(.+)", rf"mask_mlp.{2 * layer}.\1") for layer in range(3)],
]
_TEXT_ENCODER: KeyMap = [
    (r"lang_proj", "projection"),
    (r"encoder_transformer\.resblocks\.(.+)", r"transformer.resblocks.\1"),
    (r"encoder_transformer\.(.+)", r"\1"),
]
_PIGMA: KeyMap = [(r"output_deconv\.(.+)", r"expand.\1"), (r"output_conv\.(.+)", r"combine.\1")]


def _prefixed(theirs: str, ours: str, keys: KeyMap) -> KeyMap:
    return [(re.escape(theirs) + pattern, ours + replacement) for pattern, replacement in keys]


_PREDICTOR = "sem_seg_head.predictor."
UPSTREAM_KEYS: KeyMap = [
    *_prefixed("backbone.", "image_encoder.", [*_HIERA, *_FOCAL]),
    *_prefixed("sem_seg_head.pixel_decoder.", "pixel_decoder.", _PIXEL_DECODER),
    *_prefixed(_PREDICTOR + "language_encoder.", "text_encoder.", _TEXT_ENCODER),
    *_prefixed(_PREDICTOR, "decoder.", _DECODER),
    *_prefixed("", "pigma.", _PIGMA),
]
SAM2_KEYS = _prefixed("image_encoder.", "image_encoder.", _HIERA)
SEEM_KEYS = _prefixed("backbone.", "image_encoder.", _FOCAL)


def rename_key(key: str, keys: KeyMap = UPSTREAM_KEYS) -> str | None:
    """Return our name of a published key, None where the map has none."""
    return next((match.expand(ours) for theirs, ours in keys if (match := re.fullmatch(theirs, key))), None)


@dataclass(frozen=True)
class LoadReport:
    """What a file gave: our keys that were filled, and its keys that nothing here takes."""

    source: str
    taken: tuple[str, ...]
    not_taken: tuple[str, ...]

    def __str__(self) -> str:
        modules = sorted({key.split(".")[0] for key in self.taken})
        lines = [f"{self.source}: {len(self.taken)} tensors taken for {', '.join(modules)}"]
        if self.not_taken:
            lines.append(f"{len(self.not_taken)} not taken: " + ", ".join(self.not_taken))
        return "\n".join(lines)


def load_upstream(network: nn.Module, source: str | Path | Mapping[str, Tensor]) -> LoadReport:
    """Fill a whole BoltzFormer from a state dict of the published code (either backbone).

    Not taken are the published code's unused ``class_embed`` and ``logit_scale``.

    Args:
        network: A BoltzFormer of the same sizes.
        source: A file (``.pt``, ``.safetensors``) or the state dict itself.

    Raises:
        ValueError: The file can't be read, or a tensor of the network is missing or of another shape in it.
    """
    return _load(network, source, UPSTREAM_KEYS, [""])


def load_sam2_image_encoder(network: nn.Module, source: str | Path | Mapping[str, Any]) -> LoadReport:
    """Fill a Hiera image encoder (trunk and neck) from a SAM 2 checkpoint; errors as in :func:`load_upstream`."""
    return _load(network, source, SAM2_KEYS, ["image_encoder."])


def load_seem_backbone(network: nn.Module, source: str | Path | Mapping[str, Any]) -> LoadReport:
    """Fill a FocalNet image encoder from a SEEM or X-Decoder checkpoint; errors as in :func:`load_upstream`."""
    return _load(network, source, SEEM_KEYS, ["image_encoder."])


def save_checkpoint(
    path: str | Path,
    network: nn.Module,
    *,
    config: Mapping[str, Any],
    orientation: str,
    channels: str,
    tokenizer: str = "open_clip/bpe_simple_vocab_16e6",
    half: bool = False,
) -> None:
    """Write our own checkpoint, to a temporary name first.

    Args:
        path: Ends in ``.pt``.
        network: Its ``state_dict`` is kept.
        config: What the network was built from (plain values only): the ``network_def`` of its size and its image size.
        orientation: Slice plane the network was trained on.
        channels: ``"repeat"`` or ``"neighbours"``.
        tokenizer: Vocabulary that made its token ids.
        half: Store floating point weights in 16 bits, about half the file.
    """
    model = {
        key: value.detach().cpu().half() if half and value.is_floating_point() else value.detach().cpu().clone()
        for key, value in network.state_dict().items()
    }
    content = {
        "model": model,
        "config": dict(config),
        "orientation": orientation,
        "channels": channels,
        "tokenizer": tokenizer,
        "version": CHECKPOINT_VERSION,
    }
    target = Path(path)
    temporary = target.with_name(f".{uuid.uuid4().hex[:12]}.{target.name}")
    try:
        torch.save(content, temporary)
        os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def load_checkpoint(path: str | Path, network: nn.Module, **expected: Any) -> dict[str, Any]:
    """Fill a network from our own checkpoint, after comparing what it was trained as with what is asked of it.

    Args:
        path: A file of :func:`save_checkpoint`.
        network: Of the checkpoint's sizes.
        **expected: Any of ``config``, ``orientation``, ``channels``, ``tokenizer``; ``config`` is compared key by key.

    Returns:
        Everything the checkpoint holds besides the weights.

    Raises:
        ValueError: The file is missing, corrupt, of another layout, or differs from what is expected. One line.
    """
    name = Path(path).name
    content = _read(path)
    fields = ("model", "config", "orientation", "channels", "tokenizer", "version")
    missing = [field for field in fields if not isinstance(content, Mapping) or field not in content]
    if missing:
        raise ValueError(f"{name}: expected a boltzmed checkpoint, received a file without {', '.join(missing)}")
    for field, value in {"version": CHECKPOINT_VERSION, **expected}.items():
        pairs = [(field, value, content[field])]
        if isinstance(value, Mapping):
            pairs = [(f"{field} {key}", value[key], content[field].get(key)) for key in value]
        for label, wanted, received in pairs:
            if wanted != received:
                raise ValueError(
                    f"{name}: {label}: this run expects {_shorten(wanted)}, the checkpoint was trained with "
                    f"{_shorten(received)}; use the checkpoint's own settings or another checkpoint"
                )
    _fill(network, content["model"], name, [""])
    return {key: value for key, value in content.items() if key != "model"}


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _read(source: str | Path) -> Any:
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"{path}: expected a checkpoint file, found none there; check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path.name}: expected a checkpoint of tensors, received a file that can't be read as one "
            f"({type(error).__name__}); it may be cut off or hold code, fetch it again"
        ) from error


def _load(
    network: nn.Module, source: str | Path | Mapping[str, Any], keys: KeyMap, promised: Sequence[str]
) -> LoadReport:
    name = "state dict" if isinstance(source, Mapping) else Path(source).name
    content = source if isinstance(source, Mapping) else _read(source)
    for wrapper in ("model", "state_dict"):
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    found: dict[str, Tensor] = {}
    not_taken = []
    ours = network.state_dict()
    for key, value in content.items():
        renamed = rename_key(re.sub(r"^(model\.|module\.)+", "", key), keys)
        if renamed is None or renamed not in ours:
            not_taken.append(key)
            continue
        # Linear layers there, 1×1 convolutions in timm: the same numbers.
        found[renamed] = value[..., None, None] if ours[renamed].shape == (*value.shape, 1, 1) else value
    _fill(network, found, name, promised)
    return LoadReport(name, tuple(sorted(found)), tuple(sorted(not_taken)))


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], name: str, promised: Sequence[str]) -> None:
    """Copy tensors into a network when every promised key is there in its shape; change nothing otherwise."""
    ours = network.state_dict()
    wanted = [key for key in ours if key.startswith(tuple(promised))]
    missing = [key for key in wanted if key not in tensors]
    if missing:
        raise ValueError(
            f"{name}: expected {len(wanted)} tensors for this network, {len(missing)} are missing, the first is "
            f"{missing[0]}; the checkpoint is of another kind or size"
        )
    extra = [key for key in tensors if key not in ours]
    if extra:
        raise ValueError(f"{name}: holds {extra[0]}, which this network does not have; it is of another size")
    for key in wanted:
        if tensors[key].shape != ours[key].shape:
            raise ValueError(
                f"{name}: {key}: expected shape {tuple(ours[key].shape)}, received {tuple(tensors[key].shape)}; "
                "the checkpoint is of another size"
            )
    network.load_state_dict({**ours, **{key: tensors[key].to(ours[key].dtype) for key in wanted}})
