"""The whole network, literal form against fast form, part by part: ``python -m
benchmarks.network``.

Both forms hold the same weights. The literal one is the published computation (per-head draws
included) with the image encoder's and the pixel decoder's outputs kept for all prompts of an image;
it takes prompts one after the other. The fast one takes them together. Rounds are interleaved after
a warm-up; the table gives medians and spreads, FLOPs, the share of the machine's matrix product
rate that a part reaches, and the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.literal import LITERAL, LiteralDecoder, LiteralPiGMA
from boltzmed.networks.attention import MultiHeadAttention
from boltzmed.networks.boltzformer import BoltzFormer
from boltzmed.networks.decoder import Decoder
from boltzmed.networks.decoder_layer import QueryTextAttention
from boltzmed.networks.image_encoder import FocalEncoder, HieraEncoder
from boltzmed.networks.pigma import PiGMA
from boltzmed.networks.pixel_decoder import PixelDecoder, SemanticMap
from boltzmed.networks.text_encoder import TextEncoder
from boltzmed.resources import resource_folder
from boltzmed.transforms.tokenize import tokenize_prompts
from boltzmed.workflow import build_network

# Part → the methods it consists of.
PARTS: dict[str, list[tuple[type, str]]] = {
    "image encoder": [(HieraEncoder, "forward"), (FocalEncoder, "forward")],
    "pixel decoder": [(PixelDecoder, "forward")],
    "text encoder": [(TextEncoder, "forward")],
    "semantic maps": [(SemanticMap, "resized")],
    "draw": [(Decoder, "choose_tokens"), (LiteralDecoder, "choose_tokens"), (BoltzFormer, "_draw")],
    "self-attention, FFN": [(QueryTextAttention, "forward")],
    "cross-attention": [
        (Decoder, "attend_image"),
        (LiteralDecoder, "attend_image"),
        (MultiHeadAttention, "project_memory"),
        (MultiHeadAttention, "forward"),
        (MultiHeadAttention, "attend_gathered"),
        (MultiHeadAttention, "attend_shared"),
    ],
    "PiGMA": [(PiGMA, "forward"), (LiteralPiGMA, "forward")],
}

# The draw happens inside the cross-attention and counts for itself; everywhere else the outer part
# counts.
HOLDS_OTHERS = "cross-attention"
FORMS = ("literal", "fast")
Seconds = dict[
    int, dict[str, list[dict[str, float]]]
]  # prompts → form → a run's parts and "whole", round by round
Count = Callable[[], float]


@contextmanager
def watch_parts(count: Count) -> Iterator[dict[str, float]]:
    """Adds up what a counter (a clock, FLOPs so far) grows by in each part, as long as the context
    lasts.
    """
    spent: dict[str, float] = defaultdict(float)
    stack: list[list[Any]] = []  # [part, what parts inside it took]
    originals = [
        (owner, name, getattr(owner, name)) for methods in PARTS.values() for owner, name in methods
    ]

    def wrap(part: str, method: Callable) -> Callable:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if stack and stack[-1][0] != HOLDS_OTHERS:
                return method(*arguments, **options)
            stack.append([part, 0.0])
            start = count()
            try:
                return method(*arguments, **options)
            finally:
                total, inside = count() - start, stack.pop()[1]
                spent[part] += total - inside
                if stack:
                    stack[-1][1] += total

        return wrapped

    try:
        for part, methods in PARTS.items():
            for owner, name in methods:
                setattr(owner, name, wrap(part, getattr(owner, name)))
        yield spent
    finally:
        for owner, name, method in originals:
            setattr(owner, name, method)


def build_forms(
    config: Path, queries: int | None, device: str, forms: Sequence[str] = FORMS
) -> dict[str, BoltzFormer]:
    """Networks of a size in some forms, with the same random weights; `queries` overrides the
    size's number.
    """
    networks: dict[str, BoltzFormer] = {}
    for form in forms:
        torch.manual_seed(0)
        parts: dict[str, Any] = {name: {} for name in LITERAL}
        if form == "literal":
            parts = {name: dict(part) for name, part in LITERAL.items()}
        if queries is not None:
            parts["decoder"]["num_queries"] = parts["pigma"]["num_queries"] = queries
        network: Any = build_network(config, **parts)
        networks[form] = network.to(device).eval().requires_grad_(False)
        if form == "literal":
            network.decoder.per_head_draws = True
    return networks


def make_clock(device: str) -> Count:
    """Seconds, once the device has done what it was given."""

    def clock() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    return clock


def count_flops() -> FlopCounterMode:
    """torch's counter, with what it leaves out on a CPU."""

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        (batch, heads, positions, width), num_tokens = query, key[2]
        return 2 * batch * heads * positions * num_tokens * (width + value[3])

    def product(_: Any, left: Any, right: Any, *__: Any, **___: Any) -> int:
        return 2 * left[0] * left[1] * left[2] * right[2]

    operations = torch.ops.aten
    added = {
        operations._scaled_dot_product_flash_attention_for_cpu: attention,
        operations.baddbmm_: product,
    }
    return FlopCounterMode(display=False, custom_mapping=added)


@torch.no_grad()
def run_image(
    network: BoltzFormer, image: torch.Tensor, input_ids: torch.Tensor, *, one_by_one: bool
) -> None:
    """Masks of all prompts of an image."""
    features = network.encode_image(image)
    for ids in input_ids.split(1, 1) if one_by_one else [input_ids]:
        network.decode(features, network.encode_text(ids))


def measure_gemm_rate(device: str, clock: Count, size: int = 2048) -> float:
    """GFLOP/s of a product of two square matrices, the best of several."""
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        start = clock()
        torch.mm(a, b)
        best = min(best, clock() - start)
    return 2 * size**3 / best / 1e9


def main() -> None:  # noqa: C901  (one measurement after the other)
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="hiera_s", help="a size of the bundle")
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--queries", type=int, help="the size's own by default")
    parser.add_argument("--prompts", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all measurements there")
    parser.add_argument("--memory-of", nargs=2, metavar=("FORM", "PROMPTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = resource_folder("bundles") / "boltzformer" / "configs" / f"{options.config}.yaml"
    wanted = FORMS if options.memory_of is None else options.memory_of[:1]
    networks = build_forms(config, options.queries, options.device, wanted)
    generator = torch.Generator().manual_seed(0)
    image = (
        torch.rand(1, 3, options.image_size, options.image_size, generator=generator) * 255
    ).to(options.device)
    texts = [f"target number {number} in abdomen CT" for number in range(options.prompts)]
    input_ids = tokenize_prompts(texts)[None].to(options.device)
    if options.memory_of:
        form, prompts = options.memory_of[0], int(options.memory_of[1])
        forget_peak()
        run_image(networks[form], image, input_ids[:, :prompts], one_by_one=form == "literal")
        print(peak_gb(options.device))
        return

    clock = make_clock(options.device)
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.machine()
    print(
        f"{options.config}, {networks['fast'].decoder.num_queries} queries,"
        f" {options.image_size}×{options.image_size}, {name}, {options.threads} threads, torch"
        f" {torch.__version__}"
    )
    rate = measure_gemm_rate(options.device, clock)
    print(f"matrix products: {rate:.0f} GFLOP/s")
    record: dict[str, Any] = {
        "options": {k: str(v) for k, v in vars(options).items()},
        "gemm_gflops": rate,
    }
    counts = sorted({1, options.prompts})
    seconds: Seconds = {prompts: {form: [] for form in networks} for prompts in counts}
    operations: dict[int, dict[str, dict[str, float]]] = {prompts: {} for prompts in counts}
    for prompts in counts:  # the warm-up, too
        for form, network in networks.items():
            flops = count_flops()
            with flops, watch_parts(flops.get_total_flops) as spent:
                run_image(network, image, input_ids[:, :prompts], one_by_one=form == "literal")
            operations[prompts][form] = {**spent, "whole": flops.get_total_flops()}
    for _ in range(options.repeats):
        for prompts in counts:
            for form, network in networks.items():
                with watch_parts(clock) as spent:
                    start = clock()
                    run_image(network, image, input_ids[:, :prompts], one_by_one=form == "literal")
                    seconds[prompts][form].append({**spent, "whole": clock() - start})
    for prompts in counts:
        print_table(prompts, seconds[prompts], operations[prompts], rate)
    record |= {"seconds": seconds, "flop": operations}
    record["tables_seconds"] = time_tables(networks["fast"], image, clock)
    print(
        "tables of draws, once for an image size, in no other row of the fast form:"
        f" {record['tables_seconds']:.3f} s"
    )
    if options.prompts > 1:
        record["further_prompt_seconds"] = compare("each further prompt", further_prompts(seconds))
        again = time_asked_again(networks, image, input_ids[:, :1], clock, options.repeats)
        record["asked_again_seconds"] = compare("one prompt on an image that is kept", again)
    record["peak_gb"] = {}
    for form in networks:
        for prompts in sorted({1, options.prompts}):
            command = [
                sys.executable,
                "-m",
                "benchmarks.network",
                *sys.argv[1:],
                "--memory-of",
                form,
                str(prompts),
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            record["peak_gb"][f"{form}, {prompts}"] = float(done.stdout.split()[-1])
            print(
                f"peak memory, {form}, {prompts} prompts: {done.stdout.split()[-1]} GB", flush=True
            )
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def time_asked_again(
    networks: dict[str, BoltzFormer],
    image: torch.Tensor,
    input_ids: torch.Tensor,
    clock: Count,
    repeats: int,
) -> dict[str, list[float]]:
    """Seconds of one prompt more on an image whose features, and in the fast form all that prompts
    share, are kept.
    """
    kept = {form: network.encode_image(image) for form, network in networks.items()}
    kept["fast"] = networks["fast"].keep_for_prompts(kept["fast"])
    times: dict[str, list[float]] = {form: [] for form in networks}
    for repeat in range(repeats + 1):
        for form, network in networks.items():
            start = clock()
            network.decode(kept[form], network.encode_text(input_ids))
            if repeat:
                times[form].append(clock() - start)
    return times


@torch.no_grad()
def time_tables(network: BoltzFormer, image: torch.Tensor, clock: Count) -> float:
    """Seconds that the fast form takes once, for the draws of all images of a size."""
    features = network.encode_image(image)
    network._tables.clear()
    start = clock()
    network._draw(features, None)
    return clock() - start


def further_prompts(seconds: Seconds) -> dict[str, list[float]]:
    """Seconds of each prompt after the first, round by round: what decoding all takes longer than
    decoding one.
    """
    one, all_prompts = min(seconds), max(seconds)

    def decoding(run: dict[str, float]) -> float:
        return run["whole"] - run["image encoder"] - run["pixel decoder"]

    return {
        form: [
            (decoding(many) - decoding(single)) / (all_prompts - one)
            for single, many in zip(seconds[one][form], seconds[all_prompts][form], strict=True)
        ]
        for form in seconds[one]
    }


def compare(name: str, times: dict[str, list[float]]) -> dict[str, list[float]]:
    """Prints the medians of both forms and of their ratio, round by round."""
    literal, fast = (statistics.median(times[form]) for form in FORMS)
    ratios = [a / b for a, b in zip(*(times[form] for form in FORMS), strict=True)]
    spread = f"{min(ratios):.1f}–{max(ratios):.1f}"
    print(
        f"{name}: literal {literal:.3f} s, fast {fast:.3f} s, {statistics.median(ratios):.1f} ×"
        f" ({spread})"
    )
    return times


def forget_peak() -> None:
    """Lets the process's peak start anew where the system can do so (Linux), without what building
    the network took.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_gb(device: str) -> float:
    """Largest memory of this process (GB of 1e9 bytes): of the device, or resident."""
    if device.startswith("cuda"):
        return round(torch.cuda.max_memory_allocated() / 1e9, 3)
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return round(
            next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9, 3
        )
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3)


def print_table(
    prompts: int,
    seconds: dict[str, list[dict[str, float]]],
    operations: dict[str, dict[str, float]],
    rate: float,
) -> None:
    """One row per part: seconds (spread), GFLOP and share of the matrix product rate of both forms;
    the ratio.
    """
    print(f"\n{prompts} prompt{'s' if prompts > 1 else ''}")
    titles = "".join(f"{form + ' s':>13}{'spread':>15}{'GFLOP':>9}{'share':>8}" for form in seconds)
    print(f"{'part':<22}{titles}{'ratio':>9}")
    for part in [*PARTS, "whole"]:
        line = f"{part:<22}"
        taken = {form: [run.get(part, 0.0) for run in runs] for form, runs in seconds.items()}
        for form, times in taken.items():
            median, gflop = statistics.median(times), operations[form].get(part, 0) / 1e9
            share = gflop / median / rate if median else 0.0
            spread = f"{min(times):.3f}–{max(times):.3f}"
            line += f"{median:>13.3f}{spread:>15}{gflop:>9.1f}{share:>8.0%}"
        if all(taken["fast"]):
            ratios = [a / b for a, b in zip(*(taken[form] for form in FORMS), strict=True)]
            line += f"{statistics.median(ratios):>8.1f} ×"
        print(line, flush=True)


if __name__ == "__main__":
    main()
