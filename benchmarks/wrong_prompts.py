"""Whether a network outlines nothing where there is nothing to find: ``python -m
benchmarks.wrong_prompts``.

``--caches``: every volume of a part is asked for each target of the other caches' cards (and of
``--cards``) that lies in a body region which its own card has no target of. How many of those masks
are empty comes with a 95 % Wilson interval, as if volumes and prompts were independent. Beside it
stands what the presence gate says of the card's own targets, slice by slice: sensitivity where the
target is shown, specificity where it is not.

``--studies "PATH=chest,abdomen,spine" …``: whole studies without labels, each with the body regions
that it shows, and single targets of other regions that reach into it. A study is asked for every
target of the cards that lies elsewhere, or that its card knows in another modality. Each is seen in
its own card's frame, but those of another modality as free text, in the default frame (in
``--caches``: in the frame of the images' card). What is outlined of another region is false; of the
right one in another modality's words it is no answer to what was asked, but may be the organ.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from tqdm import tqdm

from boltzmed.cards import DatasetCard, load_card, look_up_prompt
from boltzmed.data.regions import foreign_targets, region_of
from boltzmed.data.studies import LabelledCase, LabelledStudyDataset, open_labelled_cases
from boltzmed.engines.batches import PrepareStudy
from boltzmed.engines.inferer import PromptSliceInferer
from boltzmed.geometry import voxel_volume_mm3
from boltzmed.reports.tables import align_columns
from boltzmed.transforms.packed_masks import PackedMasks
from boltzmed.transforms.tokenize import tokenize_prompts
from boltzmed.volumes import read_volume
from boltzmed.workflow import read_inference

FURTHER_REGIONS = ("head", "neck", "pelvis", "limbs")
"""That no card may have a target of."""

Line = tuple[torch.nn.Module, PromptSliceInferer, PrepareStudy]


def build_line(settings: dict[str, Any]) -> Line:
    """Network, inferer and what frames its cards, of the bundle's inference."""
    config = read_inference(**settings)
    config["inferer"]["progress"] = None
    return tuple(
        config.get_parsed_content(name) for name in ("network", "inferer", "prepare_batch")
    )  # type: ignore[return-value]


def format_share(count: int, total: int) -> list[str]:
    """Number, share and its 95 % Wilson interval."""
    if not total:
        return ["0", "–", "–"]
    interval = binomtest(count, total).proportion_ci(0.95, method="wilson")
    return [str(total), f"{count / total:.3f}", f"{interval.low:.3f} to {interval.high:.3f}"]


def measure_cache(
    line: Line, cases: Sequence[LabelledCase], cards: Sequence[DatasetCard], chosen: Iterable[int]
) -> tuple[list[bool], dict[str, list[tuple[bool, bool]]]]:
    """Whether each mask of a wrong prompt is empty; and by target, for each slice, whether it shows
    and is said to.
    """
    network, inferer, prepare = line
    dataset = LabelledStudyDataset(cases)
    card = cases[0].card
    foreign = foreign_targets(card, cards)
    # What follows the card's targets are other windows of the published protocol.
    targets = list(dict.fromkeys(str(prompt.target) for prompt in cases[0].prompts))
    count = len(targets)
    texts = [prompt.prompt for prompt in cases[0].prompts[:count]]
    texts += [target.prompts[0] for target, _ in foreign]
    input_ids = tokenize_prompts(texts)
    frames = [prepare.input_sizes.get(card.name)] * len(input_ids)
    empty: list[bool] = []
    seen: dict[str, list[tuple[bool, bool]]] = {target: [] for target in targets}
    for index in tqdm(chosen, desc=card.name):
        study = dataset[index]
        own = study["prompts"][:count]
        wrong = [
            own[0].window if own[0].window_name == "picture" else window for _, window in foreign
        ]
        masks: PackedMasks = inferer(
            study["image"], network, input_ids, [*(prompt.window for prompt in own), *wrong], frames
        )
        empty += [not masks.bits_PKHW[prompt].any() for prompt in range(count, len(input_ids))]
        presence = masks.presence_PK if masks.smoothed_PK is None else masks.smoothed_PK
        if presence is None:
            continue
        for number, target in enumerate(targets):
            shown = masks.plan.cut(study["study"].reference(target)).any((1, 2))
            said = presence[number] >= inferer.presence_threshold
            seen[target] += zip(shown.tolist(), said.tolist(), strict=True)
    return empty, seen


def print_caches(line: Line, options: argparse.Namespace) -> list[DatasetCard]:
    """Both tables of the caches; returns their cards and those that were asked for besides."""
    by_cache = [
        open_labelled_cases(caches=folder, part=options.part, card="phantom")
        for folder in options.caches
    ]
    cards = [*(cases[0].card for cases in by_cache), *map(load_card, options.cards)]
    silence = [["card", "volumes", "prompts", "pairs", "empty", "95 % interval"]]
    gate = [["card", "target", "slices with", "sensitivity", "slices without", "specificity"]]
    pooled: list[bool] = []
    for cases in by_cache:
        card = cases[0].card
        order = np.random.default_rng(options.seed).permutation(len(cases))
        chosen = sorted(order[: options.max_cases].tolist())
        empty, seen = measure_cache(line, cases, cards, chosen)
        pooled += empty
        asked = str(len(empty) // len(chosen))
        silence.append([card.name, str(len(chosen)), asked, *format_share(sum(empty), len(empty))])
        for target, pairs in seen.items():
            said = np.array([said for shown, said in pairs if shown])
            # Where a card is not exhaustive, a slice without the target's label may yet show it.
            unsaid = np.array([not said for shown, said in pairs if not shown and card.exhaustive])
            shares = [
                part
                for kind in (said, unsaid)
                for part in format_share(int(kind.sum()), len(kind))[:2]
            ]
            gate.append([card.name, target, *shares])
    silence.append(["all", "", "", *format_share(sum(pooled), len(pooled))])
    print("\nMasks of wrong prompts:\n")
    print(align_columns(silence, [column == 0 for column in range(6)]))
    if line[0].presence is not None:
        print(f"\nPresence gate at {line[1].presence_threshold}:\n")
        print(align_columns(gate, [column < 2 for column in range(6)]))
    return cards


def print_studies(line: Line, cards: Sequence[DatasetCard], options: argparse.Namespace) -> None:
    """What wrong prompts outline in whole studies."""
    network, inferer, prepare = line
    regions_known = sorted(
        {region_of(target.site) for card in cards for target in card.targets.values()}
    )
    targets_known = sorted({name for card in cards for name in card.targets})
    rows = [["study", "prompt", "card", "wrong", "mm³", "ml"]]
    empty: dict[str, list[bool]] = {}
    for given in tqdm(options.studies, desc="studies"):
        path, _, regions = given.partition("=")
        named = [part.strip() for part in regions.split(",")]
        shown = {name if name in targets_known else region_of(name) for name in named}
        if not shown <= {*regions_known, *FURTHER_REGIONS, *targets_known}:
            expected = ", ".join(dict.fromkeys((*regions_known, *FURTHER_REGIONS, *targets_known)))
            raise ValueError(
                f"--studies {given}: expected PATH=REGION,REGION,TARGET of {expected}, received"
                f" {regions!r}"
            )
        image = read_volume(path)
        modality = image.meta["modality"] or options.modality
        if modality is None:
            raise ValueError(
                f"{path}: expected a file that says its modality, found none; pass --modality CT"
                " or MR"
            )
        asked, prompts = [], []
        for card in cards:
            for target in card.targets.values():
                reasons = ["region"] * (
                    region_of(target.site) not in shown and target.name not in shown
                )
                reasons += ["modality"] * (card.modality != modality)
                if reasons:
                    asked.append((target.prompts[0], card.name, " and ".join(reasons)))
                    prompts.append(look_up_prompt(target.prompts[0], [card], modality=modality))
        study = {
            "image": image,
            "input_ids": tokenize_prompts([text for text, *_ in asked]),
            "prompts": prompts,
        }
        masks = inferer(image, network, **prepare([study])[3])
        voxel_mm3 = voxel_volume_mm3(np.asarray(image.affine))
        for number, (text, card_name, reason) in enumerate(asked):
            volume_mm3 = float(masks.slices(number).sum()) * voxel_mm3
            empty.setdefault(reason, []).append(volume_mm3 == 0)
            measures = [f"{volume_mm3:.1f}", f"{volume_mm3 / 1000:.3f}"]
            rows.append([Path(path).name, text, card_name, reason, *measures])
    print("\nWhat wrong prompts outline:\n")
    print(align_columns(rows, [column < 4 for column in range(6)]))
    for reason, found in empty.items():
        total, share, interval = format_share(sum(found), len(found))
        print(f"\nwrong {reason}: {share} of {total} masks are empty ({interval})")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="the bundle's own by default")
    parser.add_argument(
        "--frames", type=ast.literal_eval, help="instead of the checkpoint's, as in inference.yaml"
    )
    parser.add_argument("--presence-threshold", type=float, default=0.5)
    parser.add_argument("--presence-smoothing-mm", type=float, default=0.0)
    parser.add_argument("--caches", nargs="+", default=[], help="made by `boltzmed prepare`")
    parser.add_argument("--part", default="test", choices=["train", "validation", "test"])
    parser.add_argument("--max-cases", type=int, help="so many of each cache, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--cards", nargs="+", default=[], help="further cards whose targets are asked for"
    )
    parser.add_argument(
        "--studies", nargs="+", default=[], metavar="PATH=REGION,TARGET", help="and what they show"
    )
    parser.add_argument("--modality", choices=["CT", "MR"], help="of studies that don't say")
    options = parser.parse_args()
    if not options.caches and not (options.studies and options.cards):
        parser.error("expected --caches, or --studies with --cards")
    if options.max_cases is not None and options.max_cases < 1:
        parser.error(f"--max-cases: expected 1 or more, received {options.max_cases}")
    settings = {
        name: getattr(options, name)
        for name in ("frames", "presence_threshold", "presence_smoothing_mm")
    }
    if options.checkpoint:
        settings["checkpoint"] = options.checkpoint
    line = build_line(settings)
    cards = (
        print_caches(line, options)
        if options.caches
        else [load_card(card) for card in options.cards]
    )
    if options.studies:
        print_studies(line, cards, options)


if __name__ == "__main__":
    main()
