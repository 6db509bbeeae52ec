"""A decoder layer's parts; attention among latent queries and text tokens is the prior's, too (Eq.
4, Eq. 6).

Tensor suffixes: B images, P prompts, Q queries, T text tokens, S = Q + T, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boltzmed.networks.attention import MultiHeadAttention


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
        self,
        queries_BPQD: Tensor,
        text_BPTD: Tensor,
        position_BPSD: Tensor,
        attended_BPS: Tensor | None,
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
        x = self.norm(
            x
            + self.self_attention(
                positioned, self.self_attention.project_memory(positioned, x), attended
            )
        )
        queries_BPQD, text_BPTD = x.view_as(joined_BPSD).split(
            (queries_BPQD.shape[2], text_BPTD.shape[2]), dim=2
        )
        return self.feed_forward(queries_BPQD), text_BPTD


class DecoderLayer(nn.Module):
    """Boltzmann attention to the image, then inter-query attention (steps 2 and 3 of section
    3.2.2).
    """

    def __init__(self, width: int, num_heads: int, feedforward_dim: int, attention: str) -> None:
        super().__init__()
        self.cross_attention = MultiHeadAttention(width, num_heads, attention)
        self.norm = nn.LayerNorm(width)
        self.query_text = QueryTextAttention(width, num_heads, feedforward_dim, attention)
