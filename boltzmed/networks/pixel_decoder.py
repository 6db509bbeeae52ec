"""Features at four strides → the three scales that queries attend to, and the semantic map S (Figure 1, A.1)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from boltzmed.networks.attention import MultiHeadAttention, sine_position

_GROUPS = 32


class PixelEncoderLayer(nn.Module):
    """Post-norm transformer layer; sine positions are added to queries and keys, not to values.

    Tensor suffixes: B batch, N image tokens, D width.
    """

    def __init__(self, width: int, num_heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(width, num_heads)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, width)
        self.norm2 = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, x_BND: Tensor, position_ND: Tensor) -> Tensor:
        """Image tokens and their positions (added to queries and keys alone) → tokens of the same shape."""
        positioned = x_BND + position_ND
        x_BND = self.norm1(
            x_BND + self.self_attention(positioned, self.self_attention.project_memory(positioned, x_BND))
        )
        return self.norm2(x_BND + self.linear2(F.relu(self.linear1(x_BND))))


def _convolution(in_channels: int, out_channels: int, kernel: int, *, bias: bool) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


class PixelDecoder(nn.Module):
    """A transformer on the coarsest map, then a top-down pass of convolutions.

    Args:
        in_channels: of the features at strides 4, 8, 16, 32.
        hidden_dim: D, width of the scales; divisible by 32 (group norm) and by the heads.
        mask_dim: M, width of the semantic map.
        num_layers, num_heads, feedforward_dim: of the transformer.

    Raises:
        ValueError: Sizes that don't fit together.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        hidden_dim: int,
        mask_dim: int,
        num_layers: int,
        num_heads: int,
        feedforward_dim: int,
    ) -> None:
        super().__init__()
        if len(in_channels) != 4:
            raise ValueError(f"pixel decoder: expected in_channels at strides 4, 8, 16, 32, got {tuple(in_channels)}")
        if hidden_dim % _GROUPS:
            raise ValueError(f"pixel decoder: expected hidden_dim divisible by {_GROUPS}, got {hidden_dim}")
        self.input_projection = _convolution(in_channels[3], hidden_dim, 1, bias=True)
        self.layers = nn.ModuleList(
            PixelEncoderLayer(hidden_dim, num_heads, feedforward_dim) for _ in range(num_layers)
        )
        # Both lists run from fine to coarse, strides 4, 8, 16 (, 32).
        self.laterals = nn.ModuleList(
            nn.Sequential(_convolution(channels, hidden_dim, 1, bias=False), nn.GroupNorm(_GROUPS, hidden_dim))
            for channels in in_channels[:3]
        )
        self.outputs = nn.ModuleList(
            nn.Sequential(
                _convolution(hidden_dim, hidden_dim, 3, bias=False), nn.GroupNorm(_GROUPS, hidden_dim), nn.ReLU()
            )
            for _ in range(4)
        )
        self.mask_features = _convolution(hidden_dim, mask_dim, 3, bias=True)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Decodes the features.

        Args:
            features: (B,C_i,H/s,W/s) at strides s = 4, 8, 16, 32.

        Returns:
            Three maps (B,D,H/s,W/s) at s = 32, 16, 8 and the semantic map (B,M,H/4,W/4).
        """
        x = self.input_projection(features[3])
        height, width = x.shape[-2:]
        tokens = x.flatten(2).transpose(1, 2)
        position = sine_position(height, width, tokens.shape[-1], device=x.device)
        for layer in self.layers:
            tokens = layer(tokens, position)
        y = self.outputs[3](tokens.transpose(1, 2).unflatten(2, (height, width)))
        scales = [y]
        for level in (2, 1, 0):
            lateral = self.laterals[level](features[level])
            y = self.outputs[level](lateral + F.interpolate(y, size=lateral.shape[-2:], mode="nearest"))
            scales.append(y)
        return scales[:3], self.mask_features(y)
