"""One cross-attention layer in all its forms: ``python -m benchmarks.attention``.

Queries attend to a drawn tenth of the tokens of a square grid, by default at width 512 with 8 heads
as in the published sizes. Each row is one form, all interleaved in one run after a warm-up:

* literal: torch's own attention with a mask, keys and values projected and weights averaged, as
  published;
* dense: the fused kernel, keys and values projected;
* gathered: the attended tokens alone, nothing projected;
* kept: keys and values that an earlier prompt of the image left behind, by the fused kernel or in
  blocks, as the rule has it;
* kernel: the same by the fused kernel.

Then, for several prompts of an image, whose sets overlap: the kernel, blocks, and the tokens of all
sets gathered once. The numbers justify the rules of `boltzmed.networks.inference_attention`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.literal import attend_as_published
from boltzmed.networks.attention import ImageTokens, MultiHeadAttention, sine_positions
from boltzmed.networks.inference_attention import attend_in_blocks, attend_shared, find_shared


def make_forms(  # noqa: C901  (a function of one line for each form)
    side: int, queries: int, width: int, heads: int, *, backward: bool
) -> dict[str, Callable[[], None]]:
    """The layer's forms as functions of nothing, on the same random inputs."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    attention = MultiHeadAttention(width, heads)
    query = torch.randn(1, queries, width, generator=generator)
    value = torch.randn(1, side * side, width, generator=generator)
    attended = torch.rand(1, 1, queries, side * side, generator=generator) < 0.095
    leaves = [query, value]
    for leaf in leaves:
        leaf.requires_grad_(backward)
    positions = sine_positions(side, side, width)

    def tokens() -> ImageTokens:
        return ImageTokens(value, *positions)

    def literal() -> Tensor:
        return attend_as_published(
            attention, query, tokens().key(), value, attended.expand(1, heads, -1, -1)
        )

    def dense() -> Tensor:
        return attention(query, attention.project_memory(tokens().key(), value), attended)

    with torch.no_grad():
        memory = attention.project_memory(tokens().key(), value)

    def kept() -> Tensor:
        return attention(query, memory, attended)

    def kernel() -> Tensor:
        query_BASE = attention._project(query, 0)
        head_BASE = F.scaled_dot_product_attention(query_BASE, *memory, attn_mask=attended)
        return attention.out_proj(head_BASE.transpose(1, 2).flatten(2))

    def gathered() -> Tensor:
        return attention.attend_gathered(query, tokens(), attended)

    def run(form: Callable[[], Tensor]) -> Callable[[], None]:
        def once() -> None:
            with torch.set_grad_enabled(backward):
                output = form()
                if backward:
                    output.sum().backward()

        return once

    forms = {"literal": literal, "dense": dense, "gathered": gathered}
    if not backward:
        forms |= {
            "kept": kept,
            "kernel": kernel,
        }  # in training nothing is left from an earlier prompt
    return {name: run(form) for name, form in forms.items()}


def make_prompt_forms(
    side: int, prompts: int, queries: int, width: int, heads: int, together: float
) -> tuple[dict[str, Callable[[], object]], bool]:
    """Attention of several prompts to kept keys and values in all its forms, and whether the rule
    shares the tokens.

    A tenth of the tokens is attended by each prompt, the part `together` by any.
    """
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, prompts, queries, heads, width // heads, generator=generator)
    key, value = (
        torch.randn(1, side * side, heads, width // heads, generator=generator) for _ in range(2)
    )
    union = torch.rand(1, 1, queries, side * side, generator=generator) < together
    attended = union & (
        torch.rand(1, prompts, queries, side * side, generator=generator) < 0.095 / together
    )
    dense = query.flatten(1, 2).transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    mask = attended.flatten(1, 2)[:, None]
    forms: dict[str, Callable[[], object]] = {
        "kernel": lambda: F.scaled_dot_product_attention(*dense, attn_mask=mask),
        "blocks": lambda: attend_in_blocks(*dense, mask),
        "shared": lambda: attend_shared(
            query, key, value, attended, attended.to(torch.uint8).amax(1).bool()
        ),
    }
    with torch.no_grad():
        chosen = find_shared(query.flatten(3), attended) is not None
    return {name: torch.no_grad()(form) for name, form in forms.items()}, chosen


def time_interleaved(
    forms: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """Milliseconds of every repeat of every form, taken in turns after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for repeat in range(repeats + 1):
        for name, form in forms.items():
            start = time.perf_counter()
            form()
            if repeat:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sides",
        type=int,
        nargs="+",
        default=[32, 64, 128],
        help="tokens along a side of the grid",
    )
    parser.add_argument("--queries", type=int, nargs="+", default=[12, 32, 101, 202, 404])
    parser.add_argument(
        "--prompts", type=int, nargs="*", default=[4, 8, 15], help="of the second part"
    )
    parser.add_argument(
        "--together",
        type=float,
        nargs="+",
        default=[0.12, 0.25],
        help="tokens attended by any prompt",
    )
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the times there, in milliseconds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}; ms, median"
        " (fastest–slowest)"
    )
    record = []
    for side in options.sides:
        for queries in options.queries:
            for backward in (False, True):
                times = time_interleaved(
                    make_forms(side, queries, options.width, options.heads, backward=backward),
                    options.repeats,
                )
                medians = {name: statistics.median(values) for name, values in times.items()}
                record.append(
                    {"side": side, "queries": queries, "backward": backward, "milliseconds": times}
                )
                what = "forward and backward" if backward else "forward"
                print(f"{side}×{side} tokens, {queries} queries, {what}:")
                for name, values in times.items():
                    ratio = medians["literal"] / medians[name]
                    print(
                        f"  {name:<10}{medians[name]:8.1f}"
                        f" ({min(values):.1f}–{max(values):.1f}){ratio:8.1f} ×"
                    )
    for side, queries, prompts, together in itertools.product(
        options.sides, options.queries, options.prompts, options.together
    ):
        forms, shares = make_prompt_forms(
            side, prompts, queries, options.width, options.heads, together
        )
        times = time_interleaved(forms, options.repeats)
        record.append(
            {
                "side": side,
                "queries": queries,
                "prompts": prompts,
                "together": together,
                "milliseconds": times,
            }
        )
        shown = ", ".join(
            f"{name} {statistics.median(values):.1f}" for name, values in times.items()
        )
        chosen = "shared" if shares else "not shared"
        print(
            f"{side}×{side} tokens, {queries} queries of {prompts} prompts, {together:.0%}"
            f" together: {shown} ({chosen})"
        )
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
