"""The published computation, step by step: what the fast form is checked against and timed against.

The same parameters under the same names, and the same function of the same weights and draws;
nothing is shared, folded or left out. ``LITERAL`` puts these classes in place of the others:
``build_network("tiny.yaml", **LITERAL)``.

Tensor suffixes: B images, P prompts, Q queries, N image tokens of one scale, D width, M width of
the semantic map, A heads, H W pixels of the semantic map.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from boltzmed.networks.attention import MultiHeadAttention
from boltzmed.networks.boltzmann import (
    LARGEST_EXPONENT,
    boltzmann_distribution,
    check_draws,
    count_draws,
    layer_temperature,
)
from boltzmed.networks.decoder import Decoder, Level
from boltzmed.networks.pigma import PiGMA, resize_image
from boltzmed.networks.pixel_decoder import PixelDecoder, SemanticMap
from boltzmed.networks.text_encoder import TextEncoder

LITERAL: dict[str, dict[str, object]] = {
    "pixel_decoder": {"_target_": "benchmarks.literal.LiteralPixelDecoder"},
    "text_encoder": {"_target_": "benchmarks.literal.LiteralTextEncoder"},
    "decoder": {"_target_": "benchmarks.literal.LiteralDecoder"},
    "pigma": {"_target_": "benchmarks.literal.LiteralPiGMA"},
}
"""What differs from a size's network, as ``boltzmed.workflow.build_network`` takes it."""


class LiteralPixelDecoder(PixelDecoder):
    """The pixel decoder as published: the whole semantic map at once."""

    whole_map = True


class LiteralTextEncoder(TextEncoder):
    """The text encoder as published: what stands after the end token is computed, too."""

    whole_context = True


class LiteralDecoder(Decoder):
    """The decoder as published: a layer predicts all masks at full size, draws from them and
    attends densely.
    """

    keeps_draws = False

    def prepare_draws(self, uniforms: Sequence[Tensor]) -> list[Tensor]:
        """The uniforms as they are."""
        return list(uniforms)

    def forward(
        self,
        scales: Sequence[Tensor],
        semantic_map: SemanticMap,
        text_BPTD: Tensor,
        text_valid_BPT: Tensor,
        draws: Sequence[Tensor] | None = None,
        trace: dict[str, list[Any]] | None = None,
        levels: Sequence[Level] | None = None,
    ) -> Tensor:
        """As `Decoder.forward`, with all layers' masks kept until the end and one draw more than
        there are layers.
        """
        self.kept_masks: list[Tensor] = []
        if levels is None:
            levels = self._prepare_levels(scales, semantic_map, text_BPTD.shape[1])
        queries_BPQD = super().forward(
            scales, semantic_map, text_BPTD, text_valid_BPT, draws, trace, levels
        )
        draw = None
        if self.boltzmann:
            shapes = self.uniform_shapes([(s.shape[2], s.shape[3]) for s in scales])
            draw = check_draws(draws, shapes, len(scales[0]))[0]
        self.choose_tokens(len(self.layers) - 1, queries_BPQD, levels[0], draw)
        self.kept_masks.clear()
        return queries_BPQD

    def _resize_semantic_map(
        self, semantic_map: SemanticMap, sizes: Sequence[tuple[int, int]], prompts: float
    ) -> Sequence[SemanticMap | None]:
        """Nothing: masks are resized instead."""
        return [None] * len(sizes)

    def attend_image(
        self,
        index: int,
        attention: MultiHeadAttention,
        queries_BPQD: Tensor,
        positioned_BPQD: Tensor,
        level: Level,
        draw: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Draws and attends by torch's own attention, once per prompt and with its weights averaged
        over the heads.
        """
        batch, prompts = queries_BPQD.shape[:2]
        attended_BPAQN = self.choose_tokens(index, queries_BPQD, level, draw)
        key, value = (
            tokens_BND.repeat_interleave(prompts, 0)
            for tokens_BND in (level.tokens.key(), level.tokens.value_BND)
        )
        update = attend_as_published(
            attention, positioned_BPQD.flatten(0, 1), key, value, attended_BPAQN.flatten(0, 1)
        )
        per_head = self.per_head_draws and draw is not None
        attended = attended_BPAQN if per_head else attended_BPAQN[:, :, 0]
        return update.unflatten(0, (batch, prompts)), None if self._attends_everything else attended

    def choose_tokens(
        self, index: int, queries_BPQD: Tensor, level: Level, draw: Tensor | None
    ) -> Tensor:
        """Attended sets (B, P, A, Q, N); with a table that the heads share, A times the same.

        Every head has its distribution and its draw (Eq. 5 and the first footnote of section
        3.2.2).
        """
        masks_BPQHW = predict_masks(self.embed_masks(queries_BPQD), level.semantic_map)
        self.kept_masks.append(masks_BPQHW)
        size = (len(level.tokens.row_HC), len(level.tokens.column_WC))
        resized = F.interpolate(
            masks_BPQHW.detach().flatten(0, 1), size=size, mode="bilinear", align_corners=False
        )
        confidence_BPQN = resized.float().sigmoid().flatten(2).view(*queries_BPQD.shape[:3], -1)
        confidence_BPAQN = confidence_BPQN[:, :, None].repeat(1, 1, self.num_heads, 1, 1)
        below_BPAQN = confidence_BPAQN < self.threshold
        attended_BPAQN = ~below_BPAQN
        if draw is not None:
            uniform = draw[:, None] if self.per_head_draws else draw[:, None, None]
            temperature = layer_temperature(index, self.base_temperature)
            if 1 / temperature > LARGEST_EXPONENT:  # the published formula overflows
                probability_BPAQN = boltzmann_distribution(
                    confidence_BPAQN, temperature, self.threshold
                )
            else:
                weight_BPAQN = torch.exp(confidence_BPAQN / temperature) * below_BPAQN
                probability_BPAQN = weight_BPAQN / weight_BPAQN.sum(-1, keepdim=True)
            missed_BPAQN = (1 - probability_BPAQN) ** count_draws(
                probability_BPAQN.shape[-1], self.sample_ratio
            )
            attended_BPAQN = ~((uniform < missed_BPAQN) & below_BPAQN)
        empty_BPAQ1 = ~attended_BPAQN.any(-1, keepdim=True)
        return attended_BPAQN | empty_BPAQ1


class LiteralPiGMA(PiGMA):
    """PiGMA as published: every query's mask, one convolution after the other (Figure 3)."""

    def forward(
        self, embedding_BPQM: Tensor, semantic_map: SemanticMap, image_BCHW: Tensor
    ) -> Tensor:
        """As `PiGMA.forward`."""
        half = self.check(embedding_BPQM, semantic_map, image_BCHW)
        prompts = embedding_BPQM.shape[1]
        masks = predict_masks(embedding_BPQM, semantic_map).flatten(0, 1)
        quarter, halved = (
            image.repeat_interleave(prompts, 0) for image in resize_image(image_BCHW)
        )
        expanded = self.expand(torch.cat((quarter, masks), dim=1))
        correction = self.combine(torch.cat((halved, expanded), dim=1))
        ensemble = F.interpolate(masks, size=half, mode="bilinear", align_corners=False).mean(
            1, keepdim=True
        )
        return torch.stack((correction, ensemble)).mean(0).unflatten(0, (-1, prompts))[:, :, 0]


def attend_as_published(
    attention: MultiHeadAttention,
    query_BSD: Tensor,
    key_BND: Tensor,
    value_BND: Tensor,
    attended_BASN: Tensor,
) -> Tensor:
    """(B, S, D) by torch's own attention: every token projected, every weight computed and averaged
    over the heads.
    """
    update, _ = F.multi_head_attention_forward(
        query_BSD.transpose(0, 1),
        key_BND.transpose(0, 1),
        value_BND.transpose(0, 1),
        query_BSD.shape[2],
        attention.num_heads,
        attention.in_proj_weight,
        attention.in_proj_bias,
        None,
        None,
        False,
        0.0,
        attention.out_proj.weight,
        attention.out_proj.bias,
        need_weights=True,
        attn_mask=~attended_BASN.flatten(0, 1),
    )
    return update.transpose(0, 1)


def predict_masks(embedding_BPQM: Tensor, semantic_map: SemanticMap) -> Tensor:
    """Mask logits (B, P, Q, H, W): a query's embedding times the semantic map at every pixel (Eq. 1
    and Eq. 3).
    """
    return torch.einsum("bpqm,bmhw->bpqhw", embedding_BPQM, semantic_map.whole())
