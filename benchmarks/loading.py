"""Training items per second of one loading process, from a warm slice cache: ``python -m
benchmarks.loading``.

The cache is made of a phantom, unless one is given. Every setting loads the same slices; the
settings take turns, and the median over the turns counts. A worker of a DataLoader does this very
work, so that so many workers times as many items come per second while there are cores and memory
bandwidth for them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.attention import time_interleaved
from boltzmed.data.prepare import prepare_cache
from boltzmed.data.slice_sources import open_sources
from boltzmed.data.slices import PromptSliceDataset
from boltzmed.phantom.study import write_phantoms

SETTINGS: dict[str, dict[str, object]] = {
    "half augmented": {},
    "never augmented": {"augment_probability": 0.0},
    "always augmented": {"augment_probability": 1.0},
    "three different channels": {"channels": "neighbours"},
}


def main() -> None:
    """Prints the table, and writes it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="made by `boltzmed prepare`; a phantom of 512 x 512 by default",
    )
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--prompts", type=int, default=4, help="prompts per item")
    parser.add_argument("--items", type=int, default=100, help="items per turn")
    parser.add_argument("--repeats", type=int, default=7, help="turns")
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        help="of a DataLoader; by default the process itself loads",
    )
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)  # what a DataLoader's worker has
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(options.cache) if options.cache else make_cache(Path(temporary))
        sources = open_sources(caches=cache, card="phantom")
        given = {"image_size": options.image_size, "prompts_per_image": options.prompts}
        datasets = {
            name: PromptSliceDataset(sources, **given, **changed)
            for name, changed in SETTINGS.items()
        }
        entries = len(next(iter(datasets.values())))
        keys = [(0, int(k)) for k in np.random.default_rng(0).integers(entries, size=options.items)]
        for dataset in datasets.values():  # warm: the cache's pages are in memory, the tokens made
            for key in keys:
                dataset[key]
        forms = {
            name: partial(load, dataset, keys, options.workers)
            for name, dataset in datasets.items()
        }
        milliseconds = time_interleaved(forms, options.repeats)
    rates = {
        name: [1000 * options.items / taken for taken in times]
        for name, times in milliseconds.items()
    }
    print(
        f"{options.image_size} x {options.image_size}, {options.prompts} prompts,"
        f" {platform.machine()}, {max(options.workers, 1)} process(es) of 1 thread; items per"
        " second, median (lowest, highest)"
    )
    for name, found in rates.items():
        print(f"{name:<26}{statistics.median(found):7.0f} ({min(found):.0f}, {max(found):.0f})")
    if options.json:
        Path(options.json).write_text(json.dumps(rates, indent=1), encoding="utf-8")


def make_cache(folder: Path) -> Path:
    """One phantom of 512 x 512 pixels, prepared."""
    datalist = write_phantoms(folder / "phantoms", [0], matrix=512, slice_spacing_mm=8.0)
    return prepare_cache("phantom", datalist, folder / "cache").cache


def load(dataset: PromptSliceDataset, keys: list[tuple[int, int]], workers: int) -> None:
    """Loads the items once."""
    for _ in torch.utils.data.DataLoader(
        dataset, sampler=keys, batch_size=None, num_workers=workers
    ):
        pass


if __name__ == "__main__":
    main()
