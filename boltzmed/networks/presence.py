"""The presence gate: one logit per prompt that says whether its target is in the image at all.

It is no part of the published network. Its input is what the published network ends with, so that a
network without it computes exactly the same masks.
"""

import torch
from torch import Tensor, nn


class PresenceGate(nn.Module):
    """Queries after the last layer → a logit per prompt.

    Every query votes; the mean and the strongest vote are joined, for a small target may have
    convinced one query only.

    Args:
        hidden_dim: D, width of the queries.
    """

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_dim)
        self.hidden = nn.Linear(hidden_dim, hidden_dim)
        self.vote = nn.Linear(2 * hidden_dim, 1)

    def forward(self, queries_BPQD: Tensor) -> Tensor:
        """Queries (B, P, Q, D) → presence logits (B, P)."""
        found = torch.relu(self.hidden(self.norm(queries_BPQD)))
        return self.vote(torch.cat([found.mean(2), found.amax(2)], dim=-1)).squeeze(-1)
