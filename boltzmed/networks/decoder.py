"""The decoder: latent queries that read the prompt, then the image by Boltzmann attention (Figure
1, section 3.2).

Tensor suffixes: B images, P prompts, Q queries, T text tokens, N image tokens of one scale, D
width, M width of the semantic map, A heads, H W pixels of the semantic map.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boltzmed.networks.attention import ImageTokens, MultiHeadAttention, sine_positions
from boltzmed.networks.boltzmann import (
    check_draws,
    count_draws,
    fill_empty_rows,
    layer_temperature,
    least_probability,
    sample_attended,
)
from boltzmed.networks.decoder_layer import DecoderLayer, QueryTextAttention
from boltzmed.networks.inference_attention import find_shared, is_captured, prefer_gathered
from boltzmed.networks.pixel_decoder import SemanticMap

# What a padding text token is set to before it takes part in attention, as the published code has
# it.
PADDING_VALUES = {"zeros": 0.0, "minus_ones": -1.0}
FORMS = ("auto", "fused", "gathered", "reference")
# Confidences held at once, for so many prompts as fit; of all prompts a layer keeps one byte a
# token and query.
_CONFIDENCES_AT_ONCE = 2**22


class Level(NamedTuple):
    """One scale of the image, as every layer that reads it shares it."""

    tokens: ImageTokens
    key_BND: Tensor | None
    """The tokens with their positions; None where attended tokens are gathered."""
    memories: list[tuple[Tensor, Tensor]] | None
    """Keys and values of each layer that reads this scale, where they are kept for further prompts.
    """
    semantic_map: SemanticMap
    confidence_map: SemanticMap | None
    """The semantic map on the scale's grid, without gradient; None where nothing is drawn."""


class Decoder(nn.Module):
    """Text-conditioned prior, L layers of Boltzmann attention, one mask per query.

    Args:
        num_queries: Q, latent queries per prompt.
        hidden_dim: D, width of queries, text tokens and image scales; divisible by 4.
        num_heads: attention heads.
        feedforward_dim: inner width of the feed-forward networks.
        num_layers: L; layer ℓ reads scale ℓ mod `num_levels`.
        mask_dim: M, width of the semantic map; None means D.
        num_levels: number of image scales.
        sample_ratio: trials of the Boltzmann draw per image token.
        base_temperature: τ0 of the annealing.
        threshold: confidence from which a token is attended without a draw; above 1 there is none.
        boltzmann: False draws nothing. With a threshold above 1 that is full attention (every row
            is empty, and empty rows attend to everything), below 1 it is the masked attention of
            Mask2Former.
        per_head_draws: every head draws a set of its own, as the published code does; the paper's
            queries have one set.
        attend_padding: None hides padding text tokens. "zeros" or "minus_ones" let them take part
            with these values, as the published code does in training and evaluation; a prompt's
            result then depends on its batch-mates.
        attention: "auto" reads the image by whichever exact form is faster
            (`boltzmed.networks.inference_attention`); "fused", "gathered" or "reference" by that
            one, see `boltzmed.networks.attention`.
    """

    def __init__(
        self,
        num_queries: int,
        hidden_dim: int,
        num_heads: int,
        feedforward_dim: int,
        num_layers: int = 9,
        *,
        mask_dim: int | None = None,
        num_levels: int = 3,
        sample_ratio: float = 0.1,
        base_temperature: float = 1.0,
        threshold: float = 1.1,
        boltzmann: bool = True,
        per_head_draws: bool = False,
        attend_padding: str | None = None,
        attention: str = "auto",
    ) -> None:
        super().__init__()
        if attention not in FORMS:
            raise ValueError(f"attention must be one of {FORMS}, got {attention!r}")
        if attend_padding is not None and attend_padding not in PADDING_VALUES:
            raise ValueError(
                f"attend_padding must be None or one of {sorted(PADDING_VALUES)}, got"
                f" {attend_padding!r}"
            )
        if not 0 < sample_ratio <= 1 or base_temperature <= 0:
            raise ValueError(
                "expected a sample_ratio in (0, 1] and a positive base_temperature, "
                f"got {sample_ratio} and {base_temperature}"
            )
        mask_dim = hidden_dim if mask_dim is None else mask_dim
        self.num_queries = num_queries
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.sample_ratio = sample_ratio
        self.base_temperature = base_temperature
        self.threshold = threshold
        self.boltzmann = boltzmann
        self.per_head_draws = per_head_draws
        self.attend_padding = attend_padding
        self.attention = attention
        dense = "reference" if attention == "reference" else "fused"

        self.query_features = nn.Parameter(nn.init.normal_(torch.empty(num_queries, hidden_dim)))
        self.query_positions = nn.Parameter(nn.init.normal_(torch.empty(num_queries, hidden_dim)))
        self.level_embeddings = nn.Parameter(nn.init.normal_(torch.empty(num_levels, hidden_dim)))
        self.prior = QueryTextAttention(hidden_dim, num_heads, feedforward_dim, dense)
        self.layers = nn.ModuleList(
            DecoderLayer(hidden_dim, num_heads, feedforward_dim, dense) for _ in range(num_layers)
        )
        self.mask_norm = nn.LayerNorm(hidden_dim)
        self.mask_mlp = nn.Sequential(
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, mask_dim),
        )

    def uniform_shapes(self, level_sizes: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
        """Shapes of one table of uniforms per layer, (Q, N) or (A, Q, N), for scales of the given
        (height, width).
        """
        heads = (self.num_heads,) if self.per_head_draws else ()
        token_counts = [height * width for height, width in level_sizes]
        return [
            (*heads, self.num_queries, token_counts[i % self.num_levels])
            for i in range(len(self.layers))
        ]

    keeps_draws = True  # what `prepare_draws` gives serves again where the same draws are wanted

    def prepare_draws(self, uniforms: Sequence[Tensor]) -> list[Tensor]:
        """What the layers compare probabilities with, from a table of uniforms each.

        Args:
            uniforms: in [0, 1), of `uniform_shapes`, with a batch axis in front if every image has
                its own. Prompts of an image share them.
        """
        return [
            least_probability(table, count_draws(table.shape[-1], self.sample_ratio))
            for table in uniforms
        ]

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
        """Queries after the last layer.

        Args:
            scales: image features (B, D, h, w) in the order the layers attend to them, coarsest
                first.
            semantic_map: S at stride 4.
            text_BPTD: text tokens; their batch axis may be 1 and then serves every image.
            text_valid_BPT: bool, False for padding.
            draws: what `prepare_draws` made of uniforms, one table per layer; needed where
                `boltzmann` is on.
            trace: a dictionary to be filled with what each layer did, for tests and figures: lists
                `queries` and `text` (before the first layer and after each), `after_cross` and
                `attended` (each layer).
            levels: what `keep_levels` gave for these scales and this map; None prepares it.

        Returns:
            (B, P, Q, D); `embed_masks` makes of them what the semantic map is multiplied with.

        Raises:
            ValueError: if draws are missing, too few or of another shape.
        """
        if len(scales) != self.num_levels:
            raise ValueError(
                f"the decoder was built for {self.num_levels} image scales, got {len(scales)}"
            )
        level_sizes = [(scale.shape[2], scale.shape[3]) for scale in scales]
        batch = scales[0].shape[0]
        draws = (
            check_draws(draws, self.uniform_shapes(level_sizes), batch) if self.boltzmann else None
        )
        if levels is None:
            levels = self._prepare_levels(scales, semantic_map, text_BPTD.shape[1])

        def record(name: str, value: Tensor | None) -> None:
            if trace is not None:
                trace.setdefault(name, []).append(value)

        # The prior sees the prompt alone: with one text for many images it is computed once.
        text_BPTD, position_BPSD, attended_BPS = self._prepare_text(text_BPTD, text_valid_BPT)
        queries_BPQD = self.query_features.expand(*text_BPTD.shape[:2], -1, -1)
        queries_BPQD, text_BPTD = self.prior(queries_BPQD, text_BPTD, position_BPSD, attended_BPS)
        queries_BPQD, text_BPTD, position_BPSD = (
            tensor.expand(batch, -1, -1, -1) for tensor in (queries_BPQD, text_BPTD, position_BPSD)
        )
        if attended_BPS is not None:
            attended_BPS = attended_BPS.expand(batch, -1, -1)
        record("queries", queries_BPQD)
        record("text", text_BPTD)

        for i, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            positioned_BPQD = queries_BPQD + position_BPSD[:, :, : self.num_queries]
            level, draw = levels[i % self.num_levels], draws[i] if draws else None
            attention = layer.cross_attention
            update_BPQD, attended = self.attend_image(
                i, attention, queries_BPQD, positioned_BPQD, level, draw
            )
            after_cross_BPQD = layer.norm(queries_BPQD + update_BPQD)
            queries_BPQD, text_BPTD = layer.query_text(
                after_cross_BPQD, text_BPTD, position_BPSD, attended_BPS
            )
            record("attended", attended)
            record("after_cross", after_cross_BPQD)
            record("queries", queries_BPQD)
            record("text", text_BPTD)
        return queries_BPQD

    def embed_masks(self, queries_BPQD: Tensor) -> Tensor:
        """(B, P, Q, M): a query's mask is this vector's product with the semantic map (Eq. 1 and
        Eq. 3).
        """
        return self.mask_mlp(self.mask_norm(queries_BPQD))

    def _prepare_levels(
        self, scales: Sequence[Tensor], semantic_map: SemanticMap, prompts: float
    ) -> list[Level]:
        """What every layer of one scale shares, scale by scale, for so many prompts."""
        confidence_maps = self._resize_semantic_map(
            semantic_map, [(s.shape[2], s.shape[3]) for s in scales], prompts
        )
        levels = []
        for scale_BDHW, embedding_D, confidence_map in zip(
            scales, self.level_embeddings, confidence_maps, strict=True
        ):
            height, width = scale_BDHW.shape[-2:]
            value_BND = scale_BDHW.flatten(2).transpose(1, 2) + embedding_D
            positions = sine_positions(height, width, self.hidden_dim, device=scale_BDHW.device)
            tokens = ImageTokens(
                value_BND, *(position.to(value_BND.dtype) for position in positions)
            )
            key_BND = None if self._gathers(tokens, prompts) else tokens.key()
            levels.append(Level(tokens, key_BND, None, semantic_map, confidence_map))
        return levels

    def keep_levels(self, scales: Sequence[Tensor], semantic_map: SemanticMap) -> list[Level]:
        """All that prompts need of an image, for an image that is asked again and again: keys and
        values included.
        """
        levels = []
        for i, level in enumerate(self._prepare_levels(scales, semantic_map, math.inf)):
            key_BND = level.tokens.key() if level.key_BND is None else level.key_BND
            memories = []
            for layer in list(self.layers)[i :: self.num_levels]:
                assert isinstance(layer, DecoderLayer)
                memories.append(
                    layer.cross_attention.project_memory(key_BND, level.tokens.value_BND)
                )
            levels.append(level._replace(key_BND=None, memories=memories))
        return levels

    @torch.no_grad()
    def _resize_semantic_map(
        self, semantic_map: SemanticMap, sizes: Sequence[tuple[int, int]], prompts: float
    ) -> Sequence[SemanticMap | None]:
        """The semantic map on the scales' grids; None where nothing is drawn.

        The confidences come from mask logits resized to the scale. Resizing and the product with
        the query are both linear, so the semantic map is resized once instead of every query's
        mask.
        """
        if self._attends_everything:
            return [None] * len(sizes)
        vectors = prompts * self.num_queries * -(-len(self.layers) // self.num_levels)
        maps = semantic_map.resized(sizes, vectors)
        return [
            one._replace(features_BDHW=one.features_BDHW.to(self.query_features.dtype))
            for one in maps
        ]

    def _gathers(self, tokens: ImageTokens, prompts: float) -> bool:
        """Whether attended tokens are gathered; never where all are attended, nor in a program that
        is exported.
        """
        if self._attends_everything or is_captured():
            return False
        if self.attention == "auto":
            # Below a threshold of 1 any number of tokens may be attended, and sets per head are
            # gathered head by head.
            few = self.threshold > 1 and not self.per_head_draws
            return few and prefer_gathered(tokens.value_BND, prompts * self.num_queries)
        return self.attention == "gathered"

    def attend_image(
        self,
        index: int,
        attention: MultiHeadAttention,
        queries_BPQD: Tensor,
        positioned_BPQD: Tensor,
        level: Level,
        draw: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """A layer's draws and cross-attention, some prompts at a time: the queries' update and the
        attended set.
        """
        tokens = level.tokens
        memory = None if level.memories is None else level.memories[index // self.num_levels]
        if memory is None and level.key_BND is not None:
            memory = attention.project_memory(level.key_BND, tokens.value_BND)
        batch, _, queries, _ = queries_BPQD.shape
        group = max(1, _CONFIDENCES_AT_ONCE // (batch * queries * tokens.value_BND.shape[1]))

        def split(tensor: Tensor) -> tuple[Tensor, ...]:
            return (
                (tensor,) if is_captured() else tensor.split(group, 1)
            )  # a program takes any number at once

        attended = None
        if level.confidence_map is not None:
            attended = torch.cat(
                [self.choose_tokens(index, part, level, draw) for part in split(queries_BPQD)],
                dim=1,
            )
        if memory is not None and attended is not None and self.attention == "auto":
            union_BQN = find_shared(positioned_BPQD, attended)
            if union_BQN is not None:
                return (
                    attention.attend_shared(positioned_BPQD, memory, attended, union_BQN),
                    attended,
                )
        updates = []
        sets = itertools.repeat(None) if attended is None else split(attended)
        for query_BPQD, part in zip(split(positioned_BPQD), sets, strict=False):
            query_BSD = query_BPQD.flatten(1, 2)  # the prompts' queries form one axis
            if memory is None:
                assert part is not None
                update_BSD = attention.attend_gathered(query_BSD, tokens, _join_prompts(part))
            else:
                update_BSD = attention(
                    query_BSD, memory, None if part is None else _join_prompts(part)
                )
            updates.append(update_BSD.view_as(query_BPQD))
        return torch.cat(updates, dim=1), attended

    def _prepare_text(
        self, text_BPTD: Tensor, valid_BPT: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Text tokens as attended to, the positions of [Q, T], and which of [Q, T] take part in
        attention.
        """
        attended_BPS = None
        if self.attend_padding is not None:
            text_BPTD = text_BPTD.masked_fill(
                ~valid_BPT[..., None], PADDING_VALUES[self.attend_padding]
            )
        else:
            attended_BPS = F.pad(valid_BPT, (self.num_queries, 0), value=True)
        # The prompt itself serves as its tokens' position in every layer, without gradient, as
        # published.
        query_position = self.query_positions.expand(*text_BPTD.shape[:2], -1, -1)
        return text_BPTD, torch.cat((query_position, text_BPTD.detach()), dim=2), attended_BPS

    @property
    def _attends_everything(self) -> bool:
        return not self.boltzmann and self.threshold > 1

    @torch.no_grad()
    def choose_tokens(
        self, index: int, queries_BPQD: Tensor, level: Level, draw: Tensor | None
    ) -> Tensor:
        """Attended set of a layer, bool (B, P, Q, N) or (B, P, A, Q, N), of a level with a map.
        Never in 16 bits.
        """
        assert level.confidence_map is not None
        with torch.autocast(queries_BPQD.device.type, enabled=False):
            embedding_BPQM = self.embed_masks(queries_BPQD.to(self.query_features.dtype))
            logits = level.confidence_map.times(embedding_BPQM.flatten(1, 2))
            confidence = logits.view(*queries_BPQD.shape[:3], -1).sigmoid_()
            if draw is not None:
                # A prompt axis of size 1: prompts share their image's table. Heads share their
                # query's distribution.
                draw = draw[:, None]
                confidence = confidence[:, :, None] if self.per_head_draws else confidence
            temperature = layer_temperature(index, self.base_temperature)
            attended = sample_attended(
                confidence, draw, temperature=temperature, threshold=self.threshold
            )
            return fill_empty_rows(attended)


def _join_prompts(attended: Tensor) -> Tensor:
    """(B, P, Q, N) or (B, P, A, Q, N) → (B, 1 or A, P · Q, N)."""
    return (attended[:, :, None] if attended.ndim == 4 else attended).transpose(1, 2).flatten(2, 3)
