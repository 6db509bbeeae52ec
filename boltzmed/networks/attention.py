"""Attention restricted to sampled tokens: the literal form and two exact ways that compute less.

* literal (`attend_reference`): every score, minus infinity outside the attended set, softmax,
  average. For tests.
* fused (`attend_fused`): the same by torch's kernels on keys and values that are projected once for
  all prompts.
* gathered (`MultiHeadAttention.attend_gathered`): reads the attended tokens alone, as they are, and
  projects the query and the result instead of keys and values.

Without gradient on a CPU, `boltzmed.networks.inference_attention` has two more for keys and values
that are projected.

Tensor suffixes: B batch, A heads, S query positions (prompts × queries in cross-attention, queries
+ text tokens in self-attention), N key positions, D width, E = D / A width of one head, H W rows
and columns of a token grid, C = D / 2. Masks are named `attended`: True lets a query see a key (as
in `scaled_dot_product_attention`, opposite to `nn.MultiheadAttention`).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from boltzmed.networks.inference_attention import attend_in_blocks, attend_shared, prefer_blocks

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def attend_reference(
    query_BASE: Tensor, key_BANE: Tensor, value_BANE: Tensor, attended_BASN: Tensor | None
) -> Tensor:
    """Restricted attention as the formula says: all scores, minus infinity outside the attended
    set, softmax, average.

    Scores are divided by √E, as in the published code (the paper prints a division by d).

    Args:
        query_BASE: projected and split into heads.
        key_BANE: projected and split into heads.
        value_BANE: projected and split into heads.
        attended_BASN: bool, broadcastable to (B, A, S, N); None attends to everything. No row may
            be empty.

    Returns:
        (B, A, S, E).
    """
    score_BASN = query_BASE @ key_BANE.transpose(-1, -2) / math.sqrt(query_BASE.shape[-1])
    if attended_BASN is not None:
        score_BASN = score_BASN.masked_fill(~attended_BASN, -torch.inf)
    return score_BASN.softmax(-1) @ value_BANE


def attend_fused(
    query_BASE: Tensor, key_BANE: Tensor, value_BANE: Tensor, attended_BASN: Tensor | None
) -> Tensor:
    """The same function without (B, A, S, N) weights: by torch's fused kernels, or in blocks where
    these are faster.
    """
    if attended_BASN is not None and prefer_blocks(query_BASE, attended_BASN.shape[3]):
        result_BASE = attend_in_blocks(query_BASE, key_BANE, value_BANE, attended_BASN)
        if result_BASE is not None:
            return result_BASE
    return F.scaled_dot_product_attention(query_BASE, key_BANE, value_BANE, attn_mask=attended_BASN)


ATTEND: dict[str, Attend] = {"fused": attend_fused, "reference": attend_reference}


class ImageTokens(NamedTuple):
    """Image tokens of one scale. Values are `value_BND`; keys are values plus a position, of the
    row and the column.
    """

    value_BND: Tensor
    """(B, H · W, D), row by row."""
    row_HC: Tensor
    """Position of a row, added to the first half of the channels."""
    column_WC: Tensor
    """Position of a column, added to the second half."""

    def key(self) -> Tensor:
        """(B, H · W, D)."""
        return self.value_BND + join_positions(self.row_HC, self.column_WC)


class _AverageAttended(torch.autograd.Function):
    """Softmax-weighted mean of the attended image tokens, (B, S, A, D), for queries that live in
    the tokens' space.

    A row at a time: gather its tokens, score, average. Only the weights of attended tokens are kept
    for the backward pass, which gathers again: what was gathered would take D / A times their
    memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_BSAD: Tensor,
        value_BND: Tensor,
        row_HC: Tensor,
        column_WC: Tensor,
        attended_BSN: Tensor,
    ) -> Tensor:
        positions, width = query_BSAD.shape[1], query_BSAD.shape[3]
        counts = attended_BSN.sum(-1).flatten().tolist()
        token = attended_BSN.flatten(0, 1).nonzero()[:, 1]
        from_row = query_BSAD[..., : width // 2] @ row_HC.T
        from_column = query_BSAD[..., width // 2 :] @ column_WC.T
        grid_columns = len(column_WC)
        mean_BSAD = torch.empty_like(query_BSAD)
        weight_AT = query_BSAD.new_empty(query_BSAD.shape[2], len(token))
        start = 0
        for i, count in enumerate(counts):
            b, s = divmod(i, positions)
            kept = slice(start, start + count)
            start += count
            token_n = token[kept]
            gathered_nD = value_BND[b].index_select(0, token_n)
            score_An = query_BSAD[b, s] @ gathered_nD.T
            score_An += from_row[b, s].index_select(1, token_n // grid_columns)
            score_An += from_column[b, s].index_select(1, token_n % grid_columns)
            weight_An = torch.softmax(score_An, -1)
            weight_AT[:, kept] = weight_An
            torch.mm(weight_An, gathered_nD, out=mean_BSAD[b, s])
        ctx.save_for_backward(query_BSAD, value_BND, row_HC, column_WC, token, weight_AT, mean_BSAD)
        ctx.counts = counts
        return mean_BSAD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BSAD: Tensor) -> tuple[Tensor | None, ...]:
        query_BSAD, value_BND, row_HC, column_WC, token, weight_AT, mean_BSAD = ctx.saved_tensors
        positions, grid_columns = query_BSAD.shape[1], len(column_WC)
        # Softmax: d score = weight · (d weight - Σ weight · d weight), and the sum is mean · d
        # mean.
        offset_BSA = (grad_BSAD * mean_BSAD).sum(-1)
        grad_value_BND = torch.zeros_like(value_BND)
        grad_query_BSAD = torch.empty_like(query_BSAD)
        grad_row = query_BSAD.new_zeros(*query_BSAD.shape[:3], len(row_HC))
        grad_column = query_BSAD.new_zeros(*query_BSAD.shape[:3], grid_columns)
        start = 0
        for i, count in enumerate(ctx.counts):
            b, s = divmod(i, positions)
            kept = slice(start, start + count)
            start += count
            token_n, weight_An = token[kept], weight_AT[:, kept]
            gathered_nD = value_BND[b].index_select(0, token_n)
            grad_score_An = grad_BSAD[b, s] @ gathered_nD.T
            grad_score_An -= offset_BSA[b, s, :, None]
            grad_score_An *= weight_An
            torch.mm(grad_score_An, gathered_nD, out=grad_query_BSAD[b, s])
            grad_row[b, s].index_add_(1, token_n // grid_columns, grad_score_An)
            grad_column[b, s].index_add_(1, token_n % grid_columns, grad_score_An)
            # One product for both ways a token acts: as what is averaged and as what is scored.
            both_nD = torch.cat((weight_An, grad_score_An)).T @ torch.cat(
                (grad_BSAD[b, s], query_BSAD[b, s])
            )
            grad_value_BND[b].index_add_(0, token_n, both_nD)
        grad_query_BSAD += torch.cat((grad_row @ row_HC, grad_column @ column_WC), -1)
        return grad_query_BSAD, grad_value_BND, None, None, None


class MultiHeadAttention(nn.Module):
    """Multi-head attention whose steps can be called apart, so that keys and values are projected
    once per image.

    Parameters are named and laid out as those of `nn.MultiheadAttention` (query, key and value rows
    stacked in `in_proj_weight`), and initialised as published: Xavier-uniform weights (the stacked
    one as a single matrix), zero biases.

    Args:
        width: D, of queries, keys, values and output.
        num_heads: A, a divisor of D.
        attention: "fused" or "reference", which of the two equal forms computes.
    """

    def __init__(self, width: int, num_heads: int, attention: str = "fused") -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"the width must be divisible by the number of heads, got {width} and {num_heads}"
            )
        if attention not in ATTEND:
            raise ValueError(f"attention must be one of {sorted(ATTEND)}, got {attention!r}")
        self.num_heads = num_heads
        self.attend = ATTEND[attention]
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def _project(self, input_BSD: Tensor, part: int) -> Tensor:
        width = self.in_proj_weight.shape[1]
        rows = slice(part * width, (part + 1) * width)
        projected_BSD = F.linear(input_BSD, self.in_proj_weight[rows], self.in_proj_bias[rows])
        return projected_BSD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def project_memory(self, key_BND: Tensor, value_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values split into heads, (B, A, N, E) each: what depends on the memory alone."""
        return self._project(key_BND, 1), self._project(value_BND, 2)

    def forward(
        self, query_BSD: Tensor, memory: tuple[Tensor, Tensor], attended_BASN: Tensor | None = None
    ) -> Tensor:
        """(B, S, D) queries against `project_memory`'s result; the mask may have size 1 where it is
        shared.
        """
        head_BASE = self.attend(self._project(query_BSD, 0), *memory, attended_BASN)
        return self.out_proj(head_BASE.transpose(1, 2).flatten(2))

    def attend_shared(
        self,
        query_BPQD: Tensor,
        memory: tuple[Tensor, Tensor],
        attended_BPQN: Tensor,
        union_BQN: Tensor,
    ) -> Tensor:
        """The same function for prompts that attend to much the same tokens; see
        `inference_attention`.
        """
        query_BPQAE = (
            self._project(query_BPQD.flatten(1, 2), 0)
            .transpose(1, 2)
            .view(*query_BPQD.shape[:3], self.num_heads, -1)
        )
        key_BNAE, value_BNAE = (projected_BANE.transpose(1, 2) for projected_BANE in memory)
        head_BPQAE = attend_shared(query_BPQAE, key_BNAE, value_BNAE, attended_BPQN, union_BQN)
        if head_BPQAE is None:
            attended_B1SN = attended_BPQN.flatten(1, 2)[:, None]
            return self(query_BPQD.flatten(1, 2), memory, attended_B1SN).view_as(query_BPQD)
        return self.out_proj(head_BPQAE.flatten(3))

    def attend_gathered(
        self, query_BSD: Tensor, tokens: ImageTokens, attended_BASN: Tensor
    ) -> Tensor:
        """The same function of image tokens that are not projected: those a query attends to are
        gathered.

        With q a head's query, W_K its rows of the key projection and x a token, q · (W_K x) = (W_Kᵀ
        q) · x, and the bias of the keys shifts all scores of a query alike; Σ w (W_V x + b) = W_V
        (Σ w x) + b. So the query goes to the tokens' space, the average comes back from there, and
        no token is projected.

        Args:
            query_BSD: queries.
            tokens: of B images; no gradient flows to their positions.
            attended_BASN: bool, no row empty; of size 1 where the heads share their sets.

        Returns:
            (B, S, D).
        """
        width = self.in_proj_weight.shape[1]
        key_AED, value_AED = self.in_proj_weight[width:].view(2, self.num_heads, -1, width)
        query_BASE = self._project(query_BSD, 0) * (width // self.num_heads) ** -0.5
        query_BSAD = torch.einsum("base,aed->bsad", query_BASE, key_AED)
        # Heads that share a set share what is gathered; others are queries of their own.
        attended_BSN = attended_BASN.transpose(1, 2).flatten(1, 2)
        sharing = self.num_heads // attended_BASN.shape[1]
        rows_BSAD = query_BSAD.flatten(1, 2).unflatten(1, (-1, sharing)).to(tokens.value_BND.dtype)
        with torch.autocast(query_BSD.device.type, enabled=False):
            mean_BSAD = _AverageAttended.apply(rows_BSAD, *tokens, attended_BSN)
        mean_BSAD = mean_BSAD.view_as(query_BSAD)
        head_BSAE = torch.einsum("bsad,aed->bsae", mean_BSAD, value_AED)
        return self.out_proj(head_BSAE.flatten(2) + self.in_proj_bias[2 * width :])


def sine_positions(
    height: int, width: int, channels: int, *, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Sine encoding of the rows and of the columns of a token grid.

    Rows and columns are counted from 1, divided by their number and scaled to 2π; sines and cosines
    of geometrically spaced frequencies (base 10000) alternate.

    Args:
        height: of the grid, in tokens.
        width: of the grid, in tokens.
        channels: D, divisible by 4.

    Returns:
        (height, D/2) and (width, D/2) float32.

    Raises:
        ValueError: if the channels are not divisible by 4.
    """
    if channels % 4:
        raise ValueError(f"a sine position needs a width divisible by 4, got {channels}")
    half = channels // 2
    frequency = 10000 ** (2 * (torch.arange(half, device=device) // 2) / half)

    def encode_axis(size: int) -> Tensor:
        position = (
            torch.arange(1, size + 1, dtype=torch.float32, device=device)
            / (size + 1e-6)
            * (2 * math.pi)
        )
        angle = position[:, None] / frequency
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)

    return encode_axis(height), encode_axis(width)


def join_positions(row_HC: Tensor, column_WC: Tensor) -> Tensor:
    """Position of every token, (H · W, 2 C) row by row: half of the channels for its row, half for
    its column.
    """
    height, width = len(row_HC), len(column_WC)
    row_HWC, column_HWC = row_HC[:, None].expand(-1, width, -1), column_WC.expand(height, -1, -1)
    return torch.cat((row_HWC, column_HWC), dim=-1).flatten(0, 1)
