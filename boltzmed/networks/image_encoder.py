"""Normalised images → features at strides 4, 8, 16 and 32: SAM 2's Hiera with its neck, or FocalNet
(Figure 1, A.1).

The backbones are timm's, which carry the published weights (see weights.py); the neck and the
output norms are ours. Fresh weights are drawn as the published code draws them: torch's defaults,
not timm's, and empty position tables.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import boltzmed.compat  # noqa: F401  (before timm, which imports torchvision)
from boltzmed.networks.boltzmann import keyed_generator

# isort: split
from timm.layers import DropPath
from timm.models.focalnet import FocalNet, FocalNetBlock
from timm.models.hieradet_sam2 import HieraDet

_DROP_PATH = -1
"""Tells the draws of stochastic depth from those of the decoder's layers, which are numbered from
0.
"""


def _check_four(**per_stage: Sequence[int]) -> None:
    for name, values in per_stage.items():
        if len(values) != 4:
            raise ValueError(
                f"expected {name} of four stages (strides 4, 8, 16, 32), got {tuple(values)}"
            )


class FeaturePyramidNeck(nn.Module):
    """SAM 2's neck: every level to one width by a 1×1 convolution, then coarse added to fine.

    Only strides 16 and 32 take part in the top-down pass: stride 16 receives stride 32 (nearest,
    twice the size); strides 4 and 8 are their 1×1 convolutions alone.

    Args:
        in_channels: of the four levels, stride 4 first.
        width: of every output.
    """

    def __init__(self, in_channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(
            nn.Conv2d(channels, width, kernel_size=1) for channels in in_channels
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features at strides 4, 8, 16, 32 → the same four, each with `width` channels."""
        res2, res3, res4, res5 = (
            lateral(level) for lateral, level in zip(self.laterals, features, strict=True)
        )
        return [res2, res3, res4 + F.interpolate(res5, scale_factor=2.0, mode="nearest"), res5]


class HieraEncoder(nn.Module):
    """SAM 2's Hiera trunk and neck.

    Args:
        embed_dim: of the first stage; both double from stage to stage.
        num_heads: of the first stage; both double from stage to stage.
        stages: blocks of each of the four stages.
        global_att_blocks: blocks, counted from 0, with attention over the whole image instead of
            windows.
        window_spec: window side of each stage, in tokens; maps that don't divide into windows are
            padded with zeros.
        global_pos_size: size of the learned position table, resized to the image.
        neck_channels: width of the four outputs; 256 in SAM 2.
        position_std: spread of the position table's initial values; 0 as published, where trained
            weights replace it.

    Raises:
        ValueError: Sizes that don't fit together.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        stages: Sequence[int],
        global_att_blocks: Sequence[int],
        window_spec: Sequence[int] = (8, 4, 14, 7),
        global_pos_size: Sequence[int] = (7, 7),
        neck_channels: int = 256,
        position_std: float = 0.0,
    ) -> None:
        super().__init__()
        _check_four(stages=stages, window_spec=window_spec)
        if embed_dim % num_heads:
            raise ValueError(
                f"expected embed_dim divisible by num_heads, got {embed_dim} and {num_heads}"
            )
        outside = [block for block in global_att_blocks if not 0 <= block < sum(stages)]
        if outside:
            raise ValueError(
                f"expected global_att_blocks among the {sum(stages)} blocks of stages, got"
                f" {outside}"
            )
        self.trunk = HieraDet(
            num_classes=0,
            embed_dim=embed_dim,
            num_heads=num_heads,
            stages=tuple(stages),
            global_att_blocks=tuple(global_att_blocks),
            window_spec=tuple(window_spec),
            global_pos_size=(global_pos_size[0], global_pos_size[1]),
            norm_layer="LayerNorm",
            weight_init="skip",
            fix_init=False,
        )
        del self.trunk.head  # its norm would be a parameter without a gradient
        nn.init.normal_(self.trunk.pos_embed, std=position_std)
        nn.init.zeros_(self.trunk.pos_embed_window)
        self.neck = FeaturePyramidNeck([embed_dim * 2**stage for stage in range(4)], neck_channels)
        self.out_channels = [neck_channels] * 4

    def forward(self, image: Tensor, draw_key: Tensor | None = None) -> list[Tensor]:
        """(B,3,H,W), H and W divisible by 32 → four maps (B,neck_channels,H/s,W/s), s = 4, 8, 16,
        32.

        Nothing here is random, so the draw key takes no part.
        """
        return self.neck(self.trunk.forward_intermediates(image, intermediates_only=True))


class KeyedDropPath(nn.Module):
    """Stochastic depth: in training a block adds nothing to a sample with probability `rate`, else
    1/(1 - rate)-fold.

    timm's own draws from the stream that all code shares; here every sample's uniform comes in from
    outside, as `uniform_B` (B,) before each forward in training.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.uniform_B: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) → the same shape."""
        if not self.training:
            return x
        if self.uniform_B is None or len(self.uniform_B) != len(x):
            raise ValueError(
                f"stochastic depth in training: expected a draw key for each of {len(x)} images"
            )
        kept = (self.uniform_B >= self.rate).to(x) / (1 - self.rate)
        return x * kept.view(-1, *[1] * (x.ndim - 1))


class FocalEncoder(nn.Module):
    """FocalNet with a layer norm on each of its four outputs.

    Args:
        embed_dim: channels of the first stage; they double from stage to stage.
        depths: blocks of each of the four stages.
        focal_levels: per stage; the depth-wise kernels grow by 2 from the window's size.
        focal_windows: as ``focal_levels``.
        drop_path_rate: stochastic depth of the last block in training, rising linearly from 0.
        layerscale_value: initial scale of each block's contribution.

    Raises:
        ValueError: Not four stages.
    """

    def __init__(
        self,
        embed_dim: int,
        depths: Sequence[int],
        focal_levels: Sequence[int] = (4, 4, 4, 4),
        focal_windows: Sequence[int] = (3, 3, 3, 3),
        drop_path_rate: float = 0.3,
        layerscale_value: float = 1e-4,
    ) -> None:
        super().__init__()
        _check_four(depths=depths, focal_levels=focal_levels, focal_windows=focal_windows)
        backbone = FocalNet(
            num_classes=0,
            embed_dim=embed_dim,
            depths=tuple(depths),
            focal_levels=tuple(focal_levels),
            focal_windows=tuple(focal_windows),
            use_overlap_down=True,
            use_post_norm=True,
            normalize_modulator=True,
            layerscale_value=layerscale_value,
            drop_path_rate=drop_path_rate,
        )
        # Its classifier's norm stays behind: it would be a parameter without a gradient.
        self.stem, self.stages = backbone.stem, backbone.layers
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.reset_parameters()
        self.out_channels = [embed_dim * 2**stage for stage in range(4)]
        self.norms = nn.ModuleList(
            nn.LayerNorm(channels, eps=1e-5) for channels in self.out_channels
        )
        for block in [module for module in self.modules() if isinstance(module, FocalNetBlock)]:
            for name in ("drop_path1", "drop_path2"):
                if isinstance(path := getattr(block, name), DropPath):
                    setattr(block, name, KeyedDropPath(path.drop_prob))

    def forward(self, image: Tensor, draw_key: Tensor | None = None) -> list[Tensor]:
        """(B,3,H,W), H and W divisible by 32 → four maps (B,C·2^i,H/s,W/s), s = 4, 8, 16, 32.

        Args:
            image: normalised.
            draw_key: (B,) int64, needed in training where `drop_path_rate` is not 0: what a sample
                drops depends on its key alone.

        Raises:
            ValueError: no such keys, or not one per image.
        """
        paths = [module for module in self.modules() if isinstance(module, KeyedDropPath)]
        for i, path in enumerate(paths if self.training else ()):
            keys = [] if draw_key is None else draw_key.tolist()
            uniforms = [
                torch.rand((), generator=keyed_generator(key, _DROP_PATH, i)) for key in keys
            ]
            path.uniform_B = torch.stack(uniforms).to(image.device) if uniforms else None
        features, x = [], self.stem(image)
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)
            features.append(norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return features
