"""How the tensors of published checkpoints are named here: BoltzFormer's own code, SAM 2, SEEM and
X-Decoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# (pattern of the published key, our key). The first pattern that matches a whole key decides.
KeyMap = Sequence[tuple[str, str]]

_HIERA: KeyMap = [
    (r"trunk\.(.+)\.mlp\.layers\.0\.(.+)", r"trunk.\1.mlp.fc1.\2"),
    (r"trunk\.(.+)\.mlp\.layers\.1\.(.+)", r"trunk.\1.mlp.fc2.\2"),
    (r"trunk\.(.+)", r"trunk.\1"),
    # The published neck counts its levels from the coarsest.
    *[
        (rf"neck\.convs\.{level}\.conv\.(.+)", rf"neck.laterals.{3 - level}.\1")
        for level in range(4)
    ],
]
_FOCAL: KeyMap = [
    (r"patch_embed\.(.+)", r"stem.\1"),
    # Downsampling closes a stage there and opens the next one here.
    *[
        (rf"layers\.{stage}\.downsample\.(.+)", rf"stages.{stage + 1}.downsample.\1")
        for stage in range(3)
    ],
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
    (
        r"transformer_cross_attention_layers\.(\d+)\.multihead_attn\.(.+)",
        r"layers.\1.cross_attention.\2",
    ),
    (r"transformer_cross_attention_layers\.(\d+)\.norm\.(.+)", r"layers.\1.norm.\2"),
    (
        r"transformer_self_attention_layers\.(\d+)\.self_attn\.(.+)",
        r"layers.\1.query_text.self_attention.\2",
    ),
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


class Published(NamedTuple):
    """How one kind of published file fills a network.

    Every key of the file that begins with ``scope`` must find its place, and every tensor of the
    network whose name begins with ``fills`` must be found; ``unused`` names keys within the scope
    that have no place, and why.
    """

    keys: KeyMap
    scope: str
    fills: str
    unused: Mapping[str, str] = {}

    def rename(self, key: str) -> str | None:
        """Our name of a published key, None where the map has none."""
        return next(
            (
                match.expand(ours)
                for theirs, ours in self.keys
                if (match := re.fullmatch(theirs, key))
            ),
            None,
        )


_PREDICTOR = "sem_seg_head.predictor."
UPSTREAM = Published(
    [
        *_prefixed("backbone.", "image_encoder.", [*_HIERA, *_FOCAL]),
        *_prefixed("sem_seg_head.pixel_decoder.", "pixel_decoder.", _PIXEL_DECODER),
        *_prefixed(_PREDICTOR + "language_encoder.", "text_encoder.", _TEXT_ENCODER),
        *_prefixed(_PREDICTOR, "decoder.", _DECODER),
        *_prefixed("", "pigma.", _PIGMA),
    ],
    scope="",
    fills="",
    unused={
        _PREDICTOR + "class_embed": "the published code never uses it",
        _PREDICTOR + "language_encoder.logit_scale": "the published code never uses it",
    },
)
SAM2 = Published(
    _prefixed("image_encoder.", "image_encoder.", _HIERA),
    scope="image_encoder.",
    fills="image_encoder.",
)
SEEM = Published(
    _prefixed("backbone.", "image_encoder.", _FOCAL), scope="backbone.", fills="image_encoder."
)
