"""The usual network beside ours: a plain 3D DynUNet, trained on one slice cache within a given time
and scored on its test part: ``python -m benchmarks.dynunet --cache CACHE --output DIR --minutes
15``.

It learns all targets of the cache's card at once (softmax over classes), sees one channel for each
window that the card gives them, and takes the weights of the last step: validation and test choose
nothing. ``DIR/results.csv`` has the rows that the bundle's evaluation writes for the same cache,
and each volume's row in any case. ``DIR/checkpoint.pt`` holds the training with the time it took;
after a kill the same command goes on there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import set_track_meta
from monai.inferers import SlidingWindowInferer
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.dynunet_patches import (
    PLANS,
    Plan,
    Preparation,
    Volume,
    box_shape,
    build_augmentation,
    draw_box,
    load_volumes,
)
from boltzmed.data.cache import SliceCache
from boltzmed.data.studies import open_labelled_studies
from boltzmed.evaluation import PlainMasks, score_study
from boltzmed.files import check_writable, whole_file
from boltzmed.results import write_results

LEARNING_RATE, WEIGHT_DECAY, LARGEST_GRADIENT = 2e-3, 1e-4, 12.0
WARM_UP_STEPS = 50
SAVE_SECONDS = 60.0
OVERLAP = 0.25
"""Of neighbouring patches at inference."""


def build_network(plan: Plan, channels: int, classes: int, seed: int) -> DynUNet:
    """MONAI's DynUNet with nnU-Net's plain blocks: instance norm, leaky ReLU, no residual and no
    further heads.
    """
    torch.manual_seed(seed)
    return DynUNet(
        spatial_dims=3,
        in_channels=channels,
        out_channels=classes,
        kernel_size=[3] * len(plan.strides),
        strides=plan.strides,
        upsample_kernel_size=plan.strides[1:],
        filters=plan.filters,
        norm_name=("INSTANCE", {"affine": True}),
    )


def train(
    network: DynUNet,
    volumes: list[Volume],
    plan: Plan,
    checkpoint: Path,
    settings: Mapping[str, Any],
    bfloat16: bool,
) -> None:
    """Train until ``settings["seconds"]`` of it have passed, those of earlier runs included.

    The rate warms up, then falls to 0 as that time passes. Every random number is keyed by the seed
    and the step.

    Raises:
        ValueError: The checkpoint was made with other settings.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    loss_function = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    augmentation, box, losses = build_augmentation(plan), box_shape(plan), []
    spent, step, seconds = 0.0, 0, settings["seconds"]
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        if state["settings"] != settings:
            raise ValueError(
                f"{checkpoint}: expected {settings}, found {state['settings']}; choose another"
                " --output, or delete it"
            )
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        spent, step = state["spent"], state["step"]
    network.train()
    start, saved = time.perf_counter() - spent, time.perf_counter()
    while spent < seconds:
        rate = LEARNING_RATE * min(1.0, (step + 1) / WARM_UP_STEPS) * (1 - spent / seconds) ** 0.9
        for group in optimizer.param_groups:
            group["lr"] = rate
        random = np.random.default_rng([settings["seed"], step])
        augmentation.set_random_state(seed=int(random.integers(2**31)))
        drawn = random.integers(len(volumes), size=plan.batch)
        items = [augmentation(draw_box(volumes[k], box, random)) for k in drawn]
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = network(torch.stack([item["image"] for item in items]))
        loss = loss_function(logits.float(), torch.stack([item["label"] for item in items]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        spent = time.perf_counter() - start
        if time.perf_counter() - saved > SAVE_SECONDS or spent >= seconds:
            print(
                f"{spent / 60:.1f} minutes: step {step}, {step / spent:.2f} a second, loss"
                f" {np.mean(losses):.3f}"
            )
            state = {
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "settings": dict(settings),
            }
            with whole_file(checkpoint) as path:
                torch.save({**state, "spent": spent, "step": step}, path)
            saved, losses = time.perf_counter(), []


def score_studies(
    studies: Any,
    segment: Callable[[Any], Mapping[str, NDArray]],
    *,
    method: str,
    seed: int,
    plane: str,
    path: Path,
) -> None:
    """Write the scores of what ``segment`` makes of each study, target → mask; print mean Dice over
    volumes.

    Rows are those of ``boltzmed.outputs.ResultsWriter``, but each target counts once, in the window
    it is asked in first, and has a row of the volume even where the published protocol asks for
    some slices alone.
    """
    rows = []
    for index in tqdm(range(len(studies)), desc="scored"):
        study = studies[index]
        masks = segment(study)
        first = {
            p.target: (p, k)
            for p, k in reversed(
                [*zip(study["prompts"], study["study"].requested_slices, strict=True)]
            )
        }
        prompts = [p for p in study["prompts"] if p is first[p.target][0]]
        whole = replace(study["study"], requested_slices=(None,) * len(prompts))
        found, _ = score_study(
            whole,
            prompts,
            PlainMasks([masks[prompt.target].astype(np.uint8) for prompt in prompts]),
            method=method,
            seed=seed,
            plane=plane,
        )
        for row in found:
            kept = first[row.target][1]
            if row.level == "volume" or kept is None or row.slice_index in kept:
                rows.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_results(path, rows)
    for target in dict.fromkeys(row.target for row in rows):
        scores = [
            r.dice
            for r in rows
            if r.target == target and r.level == "volume" and r.dice is not None
        ]
        print(f"{method}, {target}: mean Dice of {len(scores)} volumes {np.mean(scores):.3f}")


def main() -> None:
    """Trains, then scores."""
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--cache", required=True, metavar="DIR", help="made by `boltzmed prepare`")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument(
        "--minutes", type=float, default=15.0, help="of training; reading and scoring come on top"
    )
    parser.add_argument("--part", default="test", choices=["test", "validation"], help="to score")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="faster on processors that multiply it (AMX, AVX512-BF16)",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    set_track_meta(False)
    cache, output = SliceCache.open(options.cache), Path(options.output)
    if cache.card.name not in PLANS:
        parser.error(
            f"{options.cache}: expected a cache of {', '.join(PLANS)}, found {cache.card.name}; add"
            " its plan"
        )
    check_writable(output)
    plan, checkpoint = PLANS[cache.card.name], output / "checkpoint.pt"
    opened = {"caches": options.cache, "card": cache.card, "plane": cache.plane}
    preparation = Preparation(cache.card, plan)
    volumes, classes = load_volumes(open_labelled_studies(**opened, part="train"), preparation)
    network = build_network(plan, len(volumes[0].image), classes.count, options.seed)
    settings = {
        "seconds": 60 * options.minutes,
        "seed": options.seed,
        "bfloat16": options.bfloat16,
        "plan": repr(plan),
    }
    settings["cases"] = len(volumes)
    train(network, volumes, plan, checkpoint, settings, options.bfloat16)
    network.eval()
    inferer = SlidingWindowInferer(
        plan.patch, sw_batch_size=plan.batch, overlap=OVERLAP, mode="gaussian"
    )

    def segment(study: Mapping[str, Any]) -> dict[str, NDArray]:
        with (
            torch.inference_mode(),
            torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16),
        ):
            logits = inferer(preparation.image(study)[None], network)[0].float()
        found = preparation.restore(logits, study["study"].labels.shape)
        return {target: np.isin(found, members) for target, members in classes.members.items()}

    path = output / ("results.csv" if options.part == "test" else f"results_{options.part}.csv")
    studies = open_labelled_studies(**opened, part=options.part)
    score_studies(
        studies, segment, method="DynUNet", seed=options.seed, plane=cache.plane, path=path
    )


if __name__ == "__main__":
    main()
