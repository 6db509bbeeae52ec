"""A whole study, literal form against fast form: ``python -m benchmarks.volume``.

A phantom CT is segmented slice by slice by the bundle's inferer, for one prompt and for several of
one window, by both forms of a network as `benchmarks.network` has them; rounds are interleaved
after a warm-up of one slice. "whole" holds what stands around the network, too: slices, windows,
resizing, masks.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from benchmarks.network import (
    build_forms,
    count_flops,
    make_clock,
    measure_gemm_rate,
    print_table,
    watch_parts,
)
from boltzmed.engines.inferer import PromptSliceInferer
from boltzmed.phantom.study import make_phantom
from boltzmed.resources import resource_folder
from boltzmed.transforms.tokenize import tokenize_prompts

WINDOW_HU = (-150.0, 250.0)


def make_study(matrix: int, slices: int) -> MetaTensor:
    """A phantom CT (1, I, J, K) in HU, of so many slices."""
    phantom = make_phantom(910000, matrix=matrix, slice_spacing_mm=5.0)
    chosen = np.linspace(0, phantom.image_hu.shape[2] - 1, slices).round().astype(int)
    image_hu = torch.from_numpy(phantom.image_hu[None][..., chosen].astype(np.float32))
    return MetaTensor(image_hu, torch.from_numpy(phantom.affine_ras))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="tiny", help="a size of the bundle")
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--channels", default="neighbours", choices=["repeat", "neighbours"])
    parser.add_argument("--matrix", type=int, default=512)
    parser.add_argument("--slices", type=int, default=60)
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 15])
    parser.add_argument("--batch-size", type=int, default=1, help="slices at once")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the seconds there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = resource_folder("bundles") / "boltzformer" / "configs" / f"{options.config}.yaml"
    networks = build_forms(config, None, options.device)
    clock = make_clock(options.device)
    sizes = {
        "image_size": options.image_size,
        "channels": options.channels,
        "batch_size": options.batch_size,
    }
    inferer = PromptSliceInferer(**sizes)
    study, one_slice = make_study(options.matrix, options.slices), make_study(options.matrix, 1)
    machine = (
        f"{platform.machine()}, {options.device}, {options.threads} threads, torch"
        f" {torch.__version__}"
    )
    print(
        f"{options.config} at {options.image_size}×{options.image_size}, study"
        f" {options.matrix}×{options.matrix}×{options.slices}, {machine}"
    )
    rate = measure_gemm_rate(options.device, clock)
    record = []
    for prompts in options.prompts:
        input_ids = tokenize_prompts(
            [f"target number {number} in abdomen CT" for number in range(prompts)]
        )
        windows = [WINDOW_HU] * prompts
        seconds: dict[str, list[dict[str, float]]] = {form: [] for form in networks}
        operations: dict[str, dict[str, float]] = {}
        for form, network in networks.items():
            flops = count_flops()
            with flops, watch_parts(flops.get_total_flops) as spent:
                inferer(one_slice, network, input_ids, windows)
            text = spent["text encoder"]  # once per study
            operations[form] = {part: count * options.slices for part, count in spent.items()} | {
                "text encoder": text
            }
            operations[form]["whole"] = (flops.get_total_flops() - text) * options.slices + text
        for _ in range(options.repeats):
            for form, network in networks.items():
                with watch_parts(clock) as spent:
                    start = clock()
                    inferer(study, network, input_ids, windows)  # masks come back to the CPU
                    seconds[form].append({**spent, "whole": clock() - start})
        print_table(prompts, seconds, operations, rate)
        record.append({"prompts": prompts, "seconds": seconds, "flop": operations})
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
