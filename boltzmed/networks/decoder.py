"""The decoder: latent queries that read the prompt, then the image by Boltzmann attention (Figure 1, section 3.2).

Tensor suffixes: B images, P prompts, Q queries, T text tokens, N image tokens of one scale, D width, M width of the
semantic map, A heads, H W pixels of the semantic map.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boltzmed.networks.attention import MultiHeadAttention, sine_position
from boltzmed.networks.boltzmann import fill_empty_rows, layer_temperature, sample_attended

# What a padding text token is set to before it takes part in attention, as the published code has it.
PADDING_VALUES = {"zeros": 0.0, "minus_ones": -1.0}


class FeedForward(nn.Module):
    """LayerNorm(x + Linear(ReLU(Linear(x)))), Xavier-uniform weights."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, inner_width)
        self.linear2 = nn.Linear(inner_width, width)
        self.norm = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → the same shape."""
        return self.norm(x + self.linear2(F.relu(self.linear1(x))))


class QueryTextAttention(nn.Module):
    """Self-attention over [Q, T], then a feed-forward network on Q alone (Eq. 4 and Eq. 6)."""

    def __init__(self, width: int, num_heads: int, feedforward_dim: int, attention: str) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(width, num_heads, attention)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, feedforward_dim)

    def forward(
        self, queries_BPQD: Tensor, text_BPTD: Tensor, position_BPSD: Tensor, attended_BPS: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Updates queries and text.

        Args:
            position_BPSD: (B, P, Q + T, D), added to queries and keys, not to values.
            attended_BPS: (B, P, Q + T) bool, True where a key takes part; None: all do.
        """
        joined_BPSD = torch.cat((queries_BPQD, text_BPTD), dim=2)
        x = joined_BPSD.flatten(0, 1)
        positioned = (joined_BPSD + position_BPSD).flatten(0, 1)
        attended = None if attended_BPS is None else attended_BPS.flatten(0, 1)[:, None, None]
        x = self.norm(x + self.self_attention(positioned, self.self_attention.project_memory(positioned, x), attended))
        queries_BPQD, text_BPTD = x.view_as(joined_BPSD).split((queries_BPQD.shape[2], text_BPTD.shape[2]), dim=2)
        return self.feed_forward(queries_BPQD), text_BPTD


class DecoderLayer(nn.Module):
    """Boltzmann attention to the image, then inter-query attention (steps 2 and 3 of section 3.2.2)."""

    def __init__(self, width: int, num_heads: int, feedforward_dim: int, attention: str) -> None:
        super().__init__()
        self.cross_attention = MultiHeadAttention(width, num_heads, attention)
        self.norm = nn.LayerNorm(width)
        self.query_text = QueryTextAttention(width, num_heads, feedforward_dim, attention)

    def forward(
        self,
        queries_BPQD: Tensor,
        text_BPTD: Tensor,
        memory: tuple[Tensor, Tensor],
        attended: Tensor | None,
        position_BPSD: Tensor,
        attended_BPS: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Updates queries and text; returns them and the queries as they were between the two steps.

        Args:
            memory: keys' and values' inputs, (B, N, D) each: projected once for all prompts of an image.
            attended: image tokens, bool (B, P, Q, N) shared by the heads or (B, P, A, Q, N); None: everything.
            position_BPSD, attended_BPS: of queries and text tokens, see `QueryTextAttention.forward`.
        """
        batch, prompts, queries, width = queries_BPQD.shape
        if attended is not None:
            if attended.ndim == 4:
                attended = attended[:, :, None]
            # (B, P, A or 1, Q, N) → (B, A or 1, P·Q, N): the prompts' queries form one axis.
            attended = attended.transpose(1, 2).flatten(2, 3)
        positioned = (queries_BPQD + position_BPSD[:, :, :queries]).view(batch, prompts * queries, width)
        update = self.cross_attention(positioned, self.cross_attention.project_memory(*memory), attended)
        after_cross_BPQD = self.norm(queries_BPQD + update.view_as(queries_BPQD))
        return *self.query_text(after_cross_BPQD, text_BPTD, position_BPSD, attended_BPS), after_cross_BPQD


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
        boltzmann: False draws nothing. With a threshold above 1 that is full attention (every row is empty, and empty
            rows attend to everything), below 1 it is the masked attention of Mask2Former.
        per_head_draws: every head draws a set of its own, as the published code does; the paper's queries have one set.
        attend_padding: None hides padding text tokens. "zeros" or "minus_ones" let them take part with these values, as
            the published code does in training and evaluation; a prompt's result then depends on its batch-mates.
        attention: "fused" or "reference", see `boltzmed.networks.attention`.
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
        attention: str = "fused",
    ) -> None:
        super().__init__()
        if attend_padding is not None and attend_padding not in PADDING_VALUES:
            raise ValueError(f"attend_padding must be None or one of {sorted(PADDING_VALUES)}, got {attend_padding!r}")
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

        self.query_features = nn.Parameter(nn.init.normal_(torch.empty(num_queries, hidden_dim)))
        self.query_positions = nn.Parameter(nn.init.normal_(torch.empty(num_queries, hidden_dim)))
        self.level_embeddings = nn.Parameter(nn.init.normal_(torch.empty(num_levels, hidden_dim)))
        self.prior = QueryTextAttention(hidden_dim, num_heads, feedforward_dim, attention)
        self.layers = nn.ModuleList(
            DecoderLayer(hidden_dim, num_heads, feedforward_dim, attention) for _ in range(num_layers)
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
        """Shapes of one table of uniforms per layer, (Q, N) or (A, Q, N), for scales of the given (height, width)."""
        heads = (self.num_heads,) if self.per_head_draws else ()
        token_counts = [height * width for height, width in level_sizes]
        return [(*heads, self.num_queries, token_counts[i % self.num_levels]) for i in range(len(self.layers))]

    def forward(
        self,
        scales: Sequence[Tensor],
        mask_features_BMHW: Tensor,
        text_BPTD: Tensor,
        text_valid_BPT: Tensor,
        uniforms: Sequence[Tensor] | None = None,
        trace: dict[str, list[Any]] | None = None,
    ) -> Tensor:
        """Queries after the last layer.

        Args:
            scales: image features (B, D, h, w) in the order the layers attend to them, coarsest first.
            mask_features_BMHW: the semantic map S at stride 4.
            text_BPTD: text tokens; their batch axis may be 1 and then serves every image.
            text_valid_BPT: bool, False for padding.
            uniforms: one table per layer in [0, 1): `uniform_shapes`, with a batch axis in front if every image has its
                own. Prompts of an image share them. Needed where `boltzmann` is on.
            trace: a dictionary to be filled with what each layer did, for tests and figures: lists `queries` and `text`
                (before the first layer and after each), `after_cross` and `attended` (each layer).

        Returns:
            (B, P, Q, D); `predict_masks` makes masks of them.

        Raises:
            ValueError: if uniforms are missing, too few or of another shape.
        """
        if len(scales) != self.num_levels:
            raise ValueError(f"the decoder was built for {self.num_levels} image scales, got {len(scales)}")
        level_sizes = [(scale.shape[2], scale.shape[3]) for scale in scales]
        uniforms = self._check_uniforms(uniforms, level_sizes, len(mask_features_BMHW))
        levels = [self._prepare_level(i, scale, mask_features_BMHW) for i, scale in enumerate(scales)]

        def record(name: str, value: Tensor | None) -> None:
            if trace is not None:
                trace.setdefault(name, []).append(value)

        # The prior sees the prompt alone: with one text for many images it is computed once.
        text_BPTD, position_BPSD, attended_BPS = self._prepare_text(text_BPTD, text_valid_BPT)
        queries_BPQD = self.query_features.expand(*text_BPTD.shape[:2], -1, -1)
        queries_BPQD, text_BPTD = self.prior(queries_BPQD, text_BPTD, position_BPSD, attended_BPS)
        batch = len(mask_features_BMHW)
        queries_BPQD, text_BPTD, position_BPSD = (
            tensor.expand(batch, -1, -1, -1) for tensor in (queries_BPQD, text_BPTD, position_BPSD)
        )
        if attended_BPS is not None:
            attended_BPS = attended_BPS.expand(batch, -1, -1)
        record("queries", queries_BPQD)
        record("text", text_BPTD)

        for i, layer in enumerate(self.layers):
            memory, semantic_BMN = levels[i % self.num_levels]
            attended = self._choose_tokens(i, queries_BPQD, semantic_BMN, uniforms[i] if uniforms else None)
            queries_BPQD, text_BPTD, after_cross_BPQD = layer(
                queries_BPQD, text_BPTD, memory, attended, position_BPSD, attended_BPS
            )
            record("attended", attended)
            record("after_cross", after_cross_BPQD)
            record("queries", queries_BPQD)
            record("text", text_BPTD)
        return queries_BPQD

    def predict_masks(self, queries_BPQD: Tensor, mask_features_BMHW: Tensor) -> Tensor:
        """Mask logits (B, P, Q, H, W) of queries: MLP(q) · S at every pixel of the semantic map (Eq. 1 and Eq. 3)."""
        return torch.einsum("bpqm,bmhw->bpqhw", self._embed_masks(queries_BPQD), mask_features_BMHW)

    def _embed_masks(self, queries_BPQD: Tensor) -> Tensor:
        return self.mask_mlp(self.mask_norm(queries_BPQD))

    def _prepare_level(
        self, level: int, scale_BDHW: Tensor, mask_features_BMHW: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
        """What every layer of one scale shares: the inputs of keys and values, and the semantic map on its grid.

        The confidences come from mask logits resized to the scale. Resizing and the product with the query are both
        linear, so the semantic map is resized once instead of every query's mask.
        """
        height, width = scale_BDHW.shape[-2:]
        value_BND = scale_BDHW.flatten(2).transpose(1, 2) + self.level_embeddings[level]
        key_BND = value_BND + sine_position(height, width, self.hidden_dim, device=scale_BDHW.device)
        if self._attends_everything:
            return (key_BND, value_BND), None
        with torch.no_grad():
            semantic = F.interpolate(
                mask_features_BMHW.float(), size=(height, width), mode="bilinear", align_corners=False
            )
        return (key_BND, value_BND), semantic.flatten(2)

    def _prepare_text(self, text_BPTD: Tensor, valid_BPT: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Text tokens as attended to, the positions of [Q, T], and which of [Q, T] take part in attention."""
        attended_BPS = None
        if self.attend_padding is not None:
            text_BPTD = text_BPTD.masked_fill(~valid_BPT[..., None], PADDING_VALUES[self.attend_padding])
        else:
            attended_BPS = F.pad(valid_BPT, (self.num_queries, 0), value=True)
        # The prompt itself serves as its tokens' position in every layer, without gradient, as published.
        query_position = self.query_positions.expand(*text_BPTD.shape[:2], -1, -1)
        return text_BPTD, torch.cat((query_position, text_BPTD.detach()), dim=2), attended_BPS

    @property
    def _attends_everything(self) -> bool:
        return not self.boltzmann and self.threshold > 1

    @torch.no_grad()
    def _choose_tokens(
        self, layer: int, queries_BPQD: Tensor, semantic_BMN: Tensor | None, uniforms: Tensor | None
    ) -> Tensor | None:
        """Attended set of a layer, bool (B, P, Q, N) or (B, P, A, Q, N); None: everything. Always in float32."""
        if semantic_BMN is None:
            return None
        with torch.autocast(queries_BPQD.device.type, enabled=False):
            embedding_BPQM = self._embed_masks(queries_BPQD.float())
            confidence = torch.einsum("bpqm,bmn->bpqn", embedding_BPQM, semantic_BMN).sigmoid()
            if uniforms is not None:
                # A prompt axis of size 1 after the batch axis: prompts share their image's table.
                uniforms = uniforms[:, None]
                confidence = confidence[:, :, None] if self.per_head_draws else confidence
            attended = sample_attended(
                confidence,
                uniforms,
                temperature=layer_temperature(layer, self.base_temperature),
                sample_ratio=self.sample_ratio,
                threshold=self.threshold,
            )
            return fill_empty_rows(attended)

    def _check_uniforms(
        self, uniforms: Sequence[Tensor] | None, level_sizes: Sequence[tuple[int, int]], batch: int
    ) -> list[Tensor] | None:
        """The tables with a batch axis of size 1 or B in front, or None where nothing is drawn."""
        if not self.boltzmann:
            return None
        shapes = self.uniform_shapes(level_sizes)
        if uniforms is None or len(uniforms) < len(shapes):
            raise ValueError(
                f"Boltzmann sampling needs {len(shapes)} tables of uniforms, got "
                f"{'none' if uniforms is None else len(uniforms)}"
            )
        checked = []
        for layer, (table, shape) in enumerate(zip(uniforms, shapes, strict=False)):
            if table.shape not in (shape, (batch, *shape)):
                raise ValueError(
                    f"layer {layer} needs uniforms of shape {shape} or {(batch, *shape)}, got {tuple(table.shape)}"
                )
            checked.append(table if table.ndim > len(shape) else table[None])
        return checked
