"""Records what one prompt's queries sampled on a study's slices, and draws it. ``boltzmed sampling`` runs this."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch.nn.functional import interpolate

from boltzmed.cards import load_card, look_up_prompt
from boltzmed.reports.sampling import SampledSlice, draw_sampling, write_sampling_sheet
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
    step: int = 1,
    query: int = 0,
    reference: str | Path | None = None,
    label: int | None = None,
    modality: str | None = None,
    **overrides: Any,
) -> Path:
    """Draw which patches a query sampled in each layer: on one slice (.png), or all through a study (.html).

    Args:
        study: See ``read_volume``.
        prompt: What is looked for.
        output: The file; its ending decides.
        slice_index: Of a picture, in the network's order (axial: from feet to head); the middle one by default.
        step: Of a sheet: every how many slices one is shown.
        query: Which of the network's queries; the paper shows the first.
        reference: A mask or label map on the study's grid, to be outlined.
        label: The value that is inside; by default all but 0.
        modality: ``"CT"`` or ``"MR"`` for files that don't say.
        **overrides: Any value of ``inference.yaml``, such as ``checkpoint``, ``size`` or ``seed``.

    Returns:
        The file.

    Raises:
        ValueError: The study, prompt, slice, query or file name is unusable.
    """
    output = Path(output)
    if output.suffix.lower() not in (".png", ".html"):
        raise ValueError(f"{output}: expected a file .png (of one slice) or .html (of the whole study)")
    whole = output.suffix.lower() == ".html"
    if whole and slice_index is not None:
        raise ValueError(f"slice: expected none for a sheet of the whole study, received {slice_index}; write a .png")
    if step < 1 or (step > 1 and not whole):
        raise ValueError(f"step: expected 1 or more, and a sheet (.html) if more, received {step} for {output.name}")
    watched = _WatchedStudy(study, prompt, reference=reference, label=label, modality=modality, overrides=overrides)
    if not 0 <= query < watched.num_queries:
        raise ValueError(f"query: expected 0 to {watched.num_queries - 1}, received {query}")
    of_all = f"query {query + 1} of {watched.num_queries}"
    if whole:
        slices = (watched.look(index) for index in range(0, watched.plan.count, step))
        write_sampling_sheet(slices, output, title=f"{prompt}: {of_all}", query=query)
    else:
        index = watched.plan.count // 2 if slice_index is None else slice_index
        if not 0 <= index < watched.plan.count:
            raise ValueError(f"slice: expected 0 to {watched.plan.count - 1}, received {index}")
        draw_sampling(watched.look(index), output, title=f"{prompt}: slice {index}, {of_all}", query=query)
    return output


class _WatchedStudy:
    """A study, a prompt and the network, whose draws are recorded slice by slice."""

    def __init__(
        self,
        study: str | Path,
        prompt: str,
        *,
        reference: str | Path | None,
        label: int | None,
        modality: str | None,
        overrides: dict[str, Any],
    ) -> None:
        bundle = resource_folder("bundles") / "boltzformer"
        parser = ConfigParser()
        parser.read_config(str(bundle / "configs" / "inference.yaml"))
        parser.update({"bundle_root": str(bundle), **overrides})
        image = read_volume(study, modality=modality)
        cards = [load_card(card) for card in parser.get_parsed_content("cards")]
        window = look_up_prompt(prompt, cards, modality=image.meta["modality"]).window
        self.plan = SlicePlan.from_affine(np.asarray(image.affine), image.shape[1:], parser["plane"])
        self._volume = np.asarray(image[0])
        self._window = WindowIntensity(window).measured_on(self._volume)
        self._grid = SquareGrid(*self.plan.slice_shape, parser["image_size"])
        self._channels = parser["channels"]
        self._reference = None
        if reference is not None:
            mask = read_volume(reference)
            if mask.shape != image.shape or not np.allclose(mask.affine, image.affine, atol=1e-3):
                raise ValueError(
                    f"{Path(reference).name}: expected a mask on the grid of {Path(study).name}, got another grid"
                )
            values = np.asarray(mask[0])
            self._reference = values != 0 if label is None else values == label
            if not self._reference.any():
                raise ValueError(f"{Path(reference).name}: expected voxels of {label or 'some value'}, found none")
        self._network = parser.get_parsed_content("network")
        self._device = next(self._network.parameters()).device
        self._text = self._network.encode_text(tokenize_prompts([prompt])[None].to(self._device))
        self.num_queries: int = self._network.decoder.num_queries

    @torch.no_grad()
    def look(self, index: int) -> SampledSlice:
        """Segment one slice and return what was sampled on it."""
        slices = self.plan.slices_at(self._volume, channel_indices(index, self.plan.count, self._channels))
        seen = self._grid.to_image(self._window(slices)[None])
        features = self._network.encode_image(seen.to(self._device))
        trace: dict[str, list[Any]] = {}
        logits = self._network.decode(features, self._text, trace=trace)["mask_logits"]
        sizes = [tuple(scale.shape[-2:]) for scale in features.scales]
        masks = interpolate(logits.float(), seen.shape[-2:], mode="bilinear")
        reference = None
        if self._reference is not None:
            mask = torch.from_numpy(self.plan.slice_at(self._reference, index).copy())[None, None]
            reference = self._grid.to_target(mask)[0, 0].numpy() > 0.5
        return SampledSlice(
            index=index,
            image=seen[0, 1].numpy(),
            attended=[
                sampled[0, 0].reshape(-1, *sizes[layer % len(sizes)]).cpu().numpy()
                for layer, sampled in enumerate(trace["attended"])
            ],
            prediction=(masks[0, 0] > 0).cpu().numpy(),
            reference=reference,
        )
