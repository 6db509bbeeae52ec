"""Features at four strides → the three scales that queries attend to, and the semantic map S
(Figure 1, A.1).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boltzmed.networks.attention import MultiHeadAttention, join_positions, sine_positions
from boltzmed.networks.inference_attention import is_captured

_GROUPS = 32


class SemanticMap(NamedTuple):
    """The semantic map S at stride 4, as the 3×3 convolution that makes it: done as far as it is
    needed, where needed.

    Its resolution and its channels make it the pixel decoder's costliest step, yet queries see it
    on coarse grids and masks are a few products with it. Both are linear, as the convolution is, so
    that they change places with it.

    Tensor suffixes: B images, D width of the features, M of the map, V vectors that it is
    multiplied with.
    """

    features_BDHW: Tensor
    """What is convolved; S itself where there is no kernel."""
    kernel_MDYX: Tensor | None = None
    bias_M: Tensor | None = None
    stride: int = 1
    """Of the convolution; above 1 the features bring the border that they need, at 1 it is zeros.
    """

    def whole(self) -> Tensor:
        """S, (B, M, H, W)."""
        if self.kernel_MDYX is None:
            return self.features_BDHW
        if self.stride < 4 or is_captured():
            return F.conv2d(
                self.features_BDHW,
                self.kernel_MDYX,
                self.bias_M,
                self.stride,
                int(self.stride == 1),
            )
        # A convolution reads all pixels; few of them are needed.
        height, width = ((size - 3) // self.stride + 1 for size in self.features_BDHW.shape[2:])
        features_BHWD = self.features_BDHW.permute(0, 2, 3, 1)
        taps = [
            features_BHWD[
                :,
                y : y + self.stride * height : self.stride,
                x : x + self.stride * width : self.stride,
            ]
            for y in range(3)
            for x in range(3)
        ]
        kernel = self.kernel_MDYX.permute(0, 2, 3, 1).flatten(1)
        return F.linear(torch.cat(taps, dim=-1), kernel, self.bias_M).permute(0, 3, 1, 2)

    def resized(
        self, sizes: Sequence[tuple[int, int]], num_vectors: float = math.inf
    ) -> list["SemanticMap"]:
        """S resized bilinearly (pixel centres in place, no smoothing) to several (height, width).

        At an even ratio r a pixel is the mean of the 2×2 in the middle of r×r: the convolution with
        stride r of the means of 2×2 features.

        Args:
            num_vectors: how many vectors an image multiplies each with, in all calls of `times`
                together; for few the convolution is done with the vectors instead of with all of
                the map's channels.
        """
        height, width = self.features_BDHW.shape[2:]
        ratios = [
            height // h if (height // h * h, height // h * w) == (height, width) else 1
            for h, w in sizes
        ]
        if self.kernel_MDYX is None or any(ratio % 2 for ratio in ratios):
            whole = self.whole()
            return [
                SemanticMap(F.interpolate(whole, size, mode="bilinear", align_corners=False))
                for size in sizes
            ]
        mean = F.avg_pool2d(self.features_BDHW, 2, stride=1, padding=1)
        maps = []
        for (h, w), ratio in zip(sizes, ratios, strict=True):
            start = ratio // 2 - 1
            first = mean[
                :, :, start : start + ratio * (h - 1) + 3, start : start + ratio * (w - 1) + 3
            ]
            resized = self._replace(features_BDHW=first, stride=ratio)
            # At larger strides a convolution with few outputs takes as long as one with many.
            folds = ratio == 2 and not is_captured() and num_vectors <= len(self.kernel_MDYX)
            maps.append(resized if folds else SemanticMap(resized.whole()))
        return maps

    def times(self, vectors_BVM: Tensor) -> Tensor:
        """Σ_m v_m S_m for V vectors an image, (B, V, H, W)."""
        # An exported program takes any number of images and vectors: it has no such choice.
        if self.kernel_MDYX is not None and not is_captured():
            outputs, width = self.kernel_MDYX.shape[:2]
            # Multiply-adds a pixel: a convolution with V outputs against one with M and the
            # product.
            if (
                vectors_BVM.shape[1] * 9 * width
                < outputs * 9 * width + vectors_BVM.shape[1] * outputs
            ):
                kernel_BVDYX = (vectors_BVM @ self.kernel_MDYX.flatten(1)).unflatten(
                    2, self.kernel_MDYX.shape[1:]
                )
                biases = (
                    [None] * len(vectors_BVM)
                    if self.bias_M is None
                    else list(vectors_BVM @ self.bias_M)
                )
                images = zip(self.features_BDHW.split(1), kernel_BVDYX, biases, strict=True)
                options = {"stride": self.stride, "padding": int(self.stride == 1)}
                return torch.cat(
                    [F.conv2d(image, kernel, bias, **options) for image, kernel, bias in images]
                )
        whole_BMHW = self.whole()
        return (vectors_BVM @ whole_BMHW.flatten(2)).unflatten(2, whole_BMHW.shape[2:])


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
        """Image tokens and their positions (added to queries and keys alone) → tokens of the same
        shape.
        """
        positioned = x_BND + position_ND
        x_BND = self.norm1(
            x_BND
            + self.self_attention(positioned, self.self_attention.project_memory(positioned, x_BND))
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
        num_layers: of the transformer.
        num_heads: of the transformer.
        feedforward_dim: of the transformer.

    Raises:
        ValueError: Sizes that don't fit together.
    """

    # The semantic map is made as far as it is needed; a subclass may have all of it at once, as
    # published.
    whole_map = False

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
            raise ValueError(
                "pixel decoder: expected in_channels at strides 4, 8, 16, 32, got"
                f" {tuple(in_channels)}"
            )
        if hidden_dim % _GROUPS:
            raise ValueError(
                f"pixel decoder: expected hidden_dim divisible by {_GROUPS}, got {hidden_dim}"
            )
        self.input_projection = _convolution(in_channels[3], hidden_dim, 1, bias=True)
        self.layers = nn.ModuleList(
            PixelEncoderLayer(hidden_dim, num_heads, feedforward_dim) for _ in range(num_layers)
        )
        # Both lists run from fine to coarse, strides 4, 8, 16 (, 32).
        self.laterals = nn.ModuleList(
            nn.Sequential(
                _convolution(channels, hidden_dim, 1, bias=False), nn.GroupNorm(_GROUPS, hidden_dim)
            )
            for channels in in_channels[:3]
        )
        self.outputs = nn.ModuleList(
            nn.Sequential(
                _convolution(hidden_dim, hidden_dim, 3, bias=False),
                nn.GroupNorm(_GROUPS, hidden_dim),
                nn.ReLU(),
            )
            for _ in range(4)
        )
        self.mask_features = _convolution(hidden_dim, mask_dim, 3, bias=True)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], SemanticMap]:
        """Decodes the features.

        Args:
            features: (B,C_i,H/s,W/s) at strides s = 4, 8, 16, 32.

        Returns:
            Three maps (B,D,H/s,W/s) at s = 32, 16, 8 and the semantic map, of (B,M,H/4,W/4).
        """
        if not self.whole_map:
            # Convolutions read channels that lie side by side faster, strided ones and those of few
            # outputs most.
            features = [
                feature.contiguous(memory_format=torch.channels_last) for feature in features
            ]
        x = self.input_projection(features[3])
        height, width = x.shape[-2:]
        tokens = x.flatten(2).transpose(1, 2)
        position = join_positions(*sine_positions(height, width, tokens.shape[-1], device=x.device))
        for layer in self.layers:
            tokens = layer(tokens, position)
        y = self.outputs[3](tokens.transpose(1, 2).unflatten(2, (height, width)))
        scales = [y]
        for level in (2, 1, 0):
            lateral = self.laterals[level](features[level])
            y = self.outputs[level](
                lateral + F.interpolate(y, size=lateral.shape[-2:], mode="nearest")
            )
            scales.append(y)
        if self.whole_map:
            return scales[:3], SemanticMap(self.mask_features(y))
        return scales[:3], SemanticMap(y, self.mask_features.weight, self.mask_features.bias)
