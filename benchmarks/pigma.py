"""Both forms of PiGMA's aggregation, 17 sums against one composed convolution: ``python -m
benchmarks.pigma``.

Inference on random features; rounds are interleaved after a warm-up. The numbers justify from how
many prompts on `boltzmed.networks.pigma` composes.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from functools import partial

import torch

from benchmarks.attention import time_interleaved
from boltzmed.networks.pigma import aggregate_composed, aggregate_sums
from boltzmed.networks.pixel_decoder import SemanticMap


@torch.no_grad()
def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--widths", type=int, nargs="+", default=[64, 512], help="of the features and of the map"
    )
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[128, 256], help="of the semantic map, in pixels"
    )
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 4, 8, 9, 15, 24])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}; ms, median"
        " (fastest–slowest)"
    )
    generator = torch.Generator().manual_seed(0)
    for width in options.widths:
        for side in options.sides:
            features = torch.randn(1, width, side, side, generator=generator).contiguous(
                memory_format=torch.channels_last
            )
            kernel, bias = (
                torch.randn(width, width, 3, 3, generator=generator),
                torch.randn(width, generator=generator),
            )
            semantic_map = SemanticMap(features, kernel, bias)
            for prompts in options.prompts:
                summed = torch.randn(1, prompts, 17, width, generator=generator)
                forms = {
                    "sums": partial(aggregate_sums, semantic_map, summed),
                    "composed": partial(aggregate_composed, semantic_map, summed),
                }
                times = time_interleaved(forms, options.repeats)
                shown = ", ".join(
                    f"{name} {statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"
                    for name, values in times.items()
                )
                print(
                    f"width {width}, {side}×{side} pixels, {prompts:>2} prompts: {shown}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
