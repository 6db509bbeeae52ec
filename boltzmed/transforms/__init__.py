"""MONAI transforms between volumes and the network: cutting, windowing, squaring, prompts,
augmentation, stacking.
"""

from boltzmed.transforms.augment import Augmentation, apply_augmentation, draw_augmentation
from boltzmed.transforms.channels import CHANNEL_MODES, channel_indices, stack_channels
from boltzmed.transforms.prompts import LookUpPromptsd, LookUpTargetsd
from boltzmed.transforms.slices import (
    PLANES,
    CutSlices,
    CutSlicesd,
    SlicePlan,
    StackSlices,
    StackSlicesd,
)
from boltzmed.transforms.square import SquareGrid, SquareResized
from boltzmed.transforms.tokenize import CONTEXT_LENGTH, TokenizePromptsd, tokenize_prompts
from boltzmed.transforms.window import WindowIntensity, WindowIntensityd, measure_percentiles

__all__ = [
    "CHANNEL_MODES",
    "CONTEXT_LENGTH",
    "PLANES",
    "Augmentation",
    "CutSlices",
    "CutSlicesd",
    "LookUpPromptsd",
    "LookUpTargetsd",
    "SlicePlan",
    "SquareGrid",
    "SquareResized",
    "StackSlices",
    "StackSlicesd",
    "TokenizePromptsd",
    "WindowIntensity",
    "WindowIntensityd",
    "apply_augmentation",
    "channel_indices",
    "draw_augmentation",
    "measure_percentiles",
    "stack_channels",
    "tokenize_prompts",
]
