"""Attention restricted to sampled tokens: the literal reference form and the form used by default.

Tensor suffixes: B batch, A heads, S query positions (prompts × queries in cross-attention, queries + text tokens in
self-attention), N key positions, D width, E = D / A width of one head. Masks are named `attended`: True lets a query
see a key (as in `scaled_dot_product_attention`, opposite to `nn.MultiheadAttention`).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def attend_reference(query_BASE: Tensor, key_BANE: Tensor, value_BANE: Tensor, attended_BASN: Tensor | None) -> Tensor:
    """Restricted attention as the formula says: all scores, minus infinity outside the attended set, softmax, average.

    Scores are divided by √E, as in the published code (the paper prints a division by d).

    Args:
        query_BASE, key_BANE, value_BANE: projected and split into heads.
        attended_BASN: bool, broadcastable to (B, A, S, N); None attends to everything. No row may be empty.

    Returns:
        (B, A, S, E).
    """
    score_BASN = query_BASE @ key_BANE.transpose(-1, -2) / math.sqrt(query_BASE.shape[-1])
    if attended_BASN is not None:
        score_BASN = score_BASN.masked_fill(~attended_BASN, -torch.inf)
    return score_BASN.softmax(-1) @ value_BANE


def attend_fused(query_BASE: Tensor, key_BANE: Tensor, value_BANE: Tensor, attended_BASN: Tensor | None) -> Tensor:
    """The same function by torch's fused kernels: no (B, A, S, N) weights are kept, the mask is shared by the heads."""
    return F.scaled_dot_product_attention(query_BASE, key_BANE, value_BANE, attn_mask=attended_BASN)


ATTEND: dict[str, Attend] = {"fused": attend_fused, "reference": attend_reference}


class MultiHeadAttention(nn.Module):
    """Multi-head attention whose steps can be called apart, so that keys and values are projected once per image.

    Parameters are named and laid out as those of `nn.MultiheadAttention` (query, key and value rows stacked in
    `in_proj_weight`), and initialised as published: Xavier-uniform weights (the stacked one as a single matrix), zero
    biases.

    Args:
        width: D, of queries, keys, values and output.
        num_heads: A, a divisor of D.
        attention: "fused" or "reference", which of the two equal forms computes.
    """

    def __init__(self, width: int, num_heads: int, attention: str = "fused") -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"the width must be divisible by the number of heads, got {width} and {num_heads}")
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

    def forward(self, query_BSD: Tensor, memory: tuple[Tensor, Tensor], attended_BASN: Tensor | None = None) -> Tensor:
        """(B, S, D) queries against `project_memory`'s result; the mask may have size 1 where it is shared."""
        head_BASE = self.attend(self._project(query_BSD, 0), *memory, attended_BASN)
        return self.out_proj(head_BASE.transpose(1, 2).flatten(2))


def sine_position(height: int, width: int, channels: int, *, device: torch.device | None = None) -> Tensor:
    """Sine encoding of the positions of a token grid: half of the channels for y, then half for x.

    Rows and columns are counted from 1, divided by their number and scaled to 2π; sines and cosines of geometrically
    spaced frequencies (base 10000) alternate.

    Args:
        height, width: of the grid, in tokens.
        channels: D, divisible by 4.

    Returns:
        (height · width, D) float32, row by row.

    Raises:
        ValueError: if the channels are not divisible by 4.
    """
    if channels % 4:
        raise ValueError(f"a sine position needs a width divisible by 4, got {channels}")
    half = channels // 2
    frequency = 10000 ** (2 * (torch.arange(half, device=device) // 2) / half)

    def encode_axis(size: int) -> Tensor:
        position = torch.arange(1, size + 1, dtype=torch.float32, device=device) / (size + 1e-6) * (2 * math.pi)
        angle = position[:, None] / frequency
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)

    y_HW = encode_axis(height)[:, None].expand(height, width, half)
    x_HW = encode_axis(width)[None].expand(height, width, half)
    return torch.cat((y_HW, x_HW), dim=-1).flatten(0, 1)
