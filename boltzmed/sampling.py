"""Records what one prompt's queries sampled on one slice, and draws it. ``boltzmed sampling`` runs this."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from boltzmed.cards import load_card, look_up_prompt
from boltzmed.reports.sampling import draw_sampling
from boltzmed.resources import resource_folder
from boltzmed.transforms.channels import channel_indices
from boltzmed.transforms.slices import SlicePlan
from boltzmed.transforms.square import SquareGrid
from boltzmed.transforms.tokenize import tokenize_prompts
from boltzmed.transforms.window import WindowIntensity
from boltzmed.volumes import read_volume


def show_sampling(
    study: str | Path,
    prompt: str,
    output: str | Path,
    *,
    slice_index: int | None = None,
    query: int = 0,
    reference: str | Path | None = None,
    modality: str | None = None,
    **overrides: Any,
) -> Path:
    """Draw which patches a query sampled in each layer on one slice of a study.

    Args:
        study: See ``read_volume``.
        prompt: What is looked for.
        output: The PNG file.
        slice_index: In the network's order (axial: from feet to head); the middle one by default.
        query: Which of the network's queries; the paper shows the first.
        reference: A mask on the study's grid, not 0 inside, to be outlined.
        modality: ``"CT"`` or ``"MR"`` for files that don't say.
        **overrides: Any value of ``inference.yaml``, such as ``checkpoint``, ``size`` or ``seed``.

    Returns:
        The file.

    Raises:
        ValueError: The study, prompt, slice or query is unusable.
    """
    bundle = resource_folder("bundles") / "boltzformer"
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.yaml"))
    parser.update({"bundle_root": str(bundle), **overrides})
    image = read_volume(study, modality=modality)
    cards = [load_card(card) for card in parser.get_parsed_content("cards")]
    meaning = look_up_prompt(prompt, cards, modality=image.meta["modality"])
    plan = SlicePlan.from_affine(np.asarray(image.affine), image.shape[1:], parser["plane"])
    index = plan.count // 2 if slice_index is None else slice_index
    if not 0 <= index < plan.count:
        raise ValueError(f"slice: expected 0 to {plan.count - 1}, received {index}")
    grid = SquareGrid(*plan.slice_shape, parser["image_size"])
    network = parser.get_parsed_content("network")
    if not 0 <= query < network.decoder.num_queries:
        raise ValueError(f"query: expected 0 to {network.decoder.num_queries - 1}, received {query}")

    volume = np.asarray(image[0])
    slices = plan.slices_at(volume, channel_indices(index, plan.count, parser["channels"]))
    seen = grid.to_image(WindowIntensity(meaning.window).measured_on(volume)(slices)[None])
    trace: dict[str, list[Any]] = {}
    device = next(network.parameters()).device
    with torch.no_grad():
        features = network.encode_image(seen.to(device))
        text = network.encode_text(tokenize_prompts([prompt])[None].to(device))
        logits = network.decode(features, text, trace=trace)["mask_logits"]
    sizes = [tuple(scale.shape[-2:]) for scale in features.scales]
    attended = [
        sampled[0, 0, query].reshape(sizes[layer % len(sizes)]).cpu().numpy()
        for layer, sampled in enumerate(trace["attended"])
    ]
    masks = torch.nn.functional.interpolate(logits.float(), seen.shape[-2:], mode="bilinear")
    target = None
    if reference is not None:
        mask = read_volume(reference)
        if mask.shape != image.shape or not np.allclose(mask.affine, image.affine, atol=1e-3):
            raise ValueError(
                f"{Path(reference).name}: expected a mask on the grid of {Path(study).name}, got another grid"
            )
        target = grid.to_target(torch.from_numpy(plan.slice_at(np.asarray(mask[0]), index).copy() > 0)[None, None])
    draw_sampling(
        seen[0, 1].numpy(),
        attended,
        output,
        title=f"{prompt}: slice {index}, query {query + 1} of {network.decoder.num_queries}",
        prediction=(masks[0, 0] > 0).cpu().numpy(),
        reference=None if target is None else target[0, 0].numpy(),
    )
    return Path(output)
