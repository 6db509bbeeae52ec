"""Records what one prompt's queries sampled on slices, and draws it: ``boltzmed sampling``, and
sheets of training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.networks.utils import eval_mode
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from boltzmed.geometry import describe_grid, is_same_grid
from boltzmed.metrics.overlap import dice
from boltzmed.reports.contact_sheet import Panel, make_contact_sheet
from boltzmed.reports.sampling import (
    SampledSlice,
    draw_sampling,
    make_sampling_figure,
    write_sampling_sheet,
)
from boltzmed.transforms.network_input import NetworkInput
from boltzmed.transforms.slices import SlicePlan
from boltzmed.transforms.window import WindowIntensity
from boltzmed.volumes import read_volume
from boltzmed.workflow import read_inference

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    """Draw which patches a query sampled in each layer: on one slice (.png), or all through a study
    (.html).

    Args:
        study: See ``read_volume``.
        prompt: What is looked for.
        output: The file; its ending decides.
        slice_index: Of a picture, in the network's order (axial: from feet to head); the middle one
            by default.
        step: Of a sheet: every how many slices one is shown.
        query: Which of the network's queries; the paper shows the first.
        reference: A mask or label map on the study's grid, to be outlined.
        label: The value that is inside; by default all but 0.
        modality: ``"CT"`` or ``"MR"`` for files that don't say.
        **overrides: Any value of ``inference.yaml`` that is of a single slice (``checkpoint``,
            ``cards``, ``seed``, ``threshold`` …); see `read_inference`. Presence is not smoothed,
            which takes the neighbours'.

    Returns:
        The file.

    Raises:
        ValueError: The study, prompt, slice, query or file name is unusable.
    """
    output = Path(output)
    if output.suffix.lower() not in (".png", ".html"):
        raise ValueError(
            f"{output}: expected a file .png (of one slice) or .html (of the whole study)"
        )
    whole = output.suffix.lower() == ".html"
    if whole and slice_index is not None:
        raise ValueError(
            f"slice: expected none for a sheet of the whole study, received {slice_index}; write a"
            " .png"
        )
    if step < 1 or (step > 1 and not whole):
        raise ValueError(
            f"step: expected 1 or more, and a sheet (.html) if more, received {step} for"
            f" {output.name}"
        )
    watched = _WatchedStudy(
        study, prompt, reference=reference, label=label, modality=modality, overrides=overrides
    )
    if not 0 <= query < watched.num_queries:
        raise ValueError(f"query: expected 0 to {watched.num_queries - 1}, received {query}")
    of_all = f"query {query + 1} of {watched.num_queries}"
    if whole:
        slices = (watched.look(index) for index in range(0, watched.plan.count, step))
        write_sampling_sheet(
            slices, output, title=f"{prompt}: {of_all}", query=query, plane=watched.plan.plane
        )
    else:
        index = watched.plan.count // 2 if slice_index is None else slice_index
        if not 0 <= index < watched.plan.count:
            raise ValueError(f"slice: expected 0 to {watched.plan.count - 1}, received {index}")
        draw_sampling(
            watched.look(index), output, title=f"{prompt}: slice {index}, {of_all}", query=query
        )
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
        parser = read_inference(**overrides)
        # A tuple of paths and texts: MONAI would evaluate a text that begins with "$".
        parser.update({"image": (Path(study),), "prompts": (prompt,), "modality": modality})
        item = parser.get_parsed_content("dataset")[0]
        self._volume = np.asarray(item["image"][0])
        self.plan = SlicePlan.from_affine(
            np.asarray(item["image"].affine), self._volume.shape, parser["plane"]
        )
        inferer = parser.get_parsed_content("inferer")
        *_, settings = parser.get_parsed_content("prepare_batch")(item)
        size = (settings["input_sizes"][0] or inferer.input_size).around(*self.plan.slice_shape)
        self._window = WindowIntensity(settings["windows"][0]).measured_on(self._volume)
        self._way = NetworkInput(self.plan.slice_shape, self.plan.count, size, inferer.channels)
        self._reference = None
        if reference is not None:
            self._reference = _read_reference(Path(reference), label, item["image"], Path(study))
        self._thresholds = inferer.threshold, inferer.presence_threshold
        self._network = parser.get_parsed_content("network")
        self._device = next(self._network.parameters()).device
        self._text = self._network.encode_text(settings["input_ids"][None].to(self._device))
        self.num_queries: int = self._network.decoder.num_queries

    @torch.no_grad()
    def look(self, index: int) -> SampledSlice:
        """Segment one slice and return what was sampled on it."""
        slices = self.plan.slices_at(self._volume, self._way.needed_slices([index]))
        image = self._way.stack(self._way.square(slices, self._window), [index]).contiguous()
        reference = None
        if self._reference is not None:
            mask = torch.from_numpy(self.plan.slice_at(self._reference, index).copy())[None, None]
            reference = self._way.to_target(mask)[0, 0].numpy() > 0.5
        return _record(self._network, image, self._text, index, reference, *self._thresholds)


def _read_reference(
    path: Path, label: int | None, image: MetaTensor, study: Path
) -> NDArray[np.bool_]:
    """Return a reference mask (I,J,K) on the image's grid, what has the label or is not 0."""
    mask = read_volume(path)
    mask_grid = (tuple(mask.shape[1:]), np.asarray(mask.affine))
    image_grid = (tuple(image.shape[1:]), np.asarray(image.affine))
    if not is_same_grid(*image_grid, *mask_grid):
        raise ValueError(
            f"{path.name}: expected a mask on the grid of {study.name},"
            f" {describe_grid(*image_grid)}, received {describe_grid(*mask_grid)}"
        )
    values = np.asarray(mask[0])
    inside = values != 0 if label is None else values == label
    if not inside.any():
        raise ValueError(f"{path.name}: expected voxels of {label or 'some value'}, found none")
    return inside


def _record(
    network: Any,
    image: Tensor,
    text: Any,
    index: int,
    reference: NDArray[np.bool_] | None,
    threshold: float = 0.5,
    presence_threshold: float = 0.5,
) -> SampledSlice:
    """Segment one image (1,3,S,S) by the text features of one prompt, and return what was sampled
    on it.
    """
    features = network.encode_image(image.to(next(network.parameters()).device))
    trace: dict[str, list[Any]] = {}
    output = network.decode(features, text, trace=trace)
    logits, presence = output["mask_logits"], output["presence_logits"]
    absent = presence is not None and float(presence[0, 0].sigmoid()) < presence_threshold
    sizes = [tuple(scale.shape[-2:]) for scale in features.scales]
    masks = interpolate(logits.float(), image.shape[-2:], mode="bilinear")
    return SampledSlice(
        index=index,
        image=image[0, 1].numpy(),
        attended=[
            sampled[0, 0].reshape(-1, *sizes[layer % len(sizes)]).cpu().numpy()
            for layer, sampled in enumerate(trace["attended"])
        ],
        prediction=((masks[0, 0] > math.log(threshold / (1 - threshold))) & (not absent))
        .cpu()
        .numpy(),
        reference=reference,
    )


class ValidationSheets:
    """Draws what a network in training makes of some validation slices, always the same ones.

    Args:
        dataset: Of the validation's items.
        batches: Lists of the dataset's keys, the same every time. Slices are taken evenly from all
            of them, so that no data set is left out; of each the first prompt whose target it
            shows, which is the smallest of them.
        network: In training mode or not, which it keeps.
        count: How many slices.
        query: Whose samples are drawn, on the first of the slices.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: Iterable[list[Any]],
        network: nn.Module,
        *,
        count: int = 8,
        query: int = 0,
    ) -> None:
        self.dataset, self.batches, self.network = dataset, batches, network
        self.count, self.query = count, query

    def __call__(self, title: str) -> dict[str, Figure]:
        """Return two figures, ``masks`` and ``sampling``."""
        keys = [key for batch in self.batches for key in batch]
        places = np.linspace(0, len(keys) - 1, min(self.count, len(keys))).round().astype(int)
        with eval_mode(self.network):
            looks = [self._look(self.dataset[keys[place]]) for place in places]
        panels = [
            Panel(
                title=name,
                image=seen.image[None],
                window=(0.0, 255.0),
                prediction=seen.prediction[None],
                reference=None if seen.reference is None else seen.reference[None],
                pixel_mm=(1.0, 1.0),
                note=_score(seen),
            )
            for name, seen in looks
        ]
        name, first = looks[0]
        heading = f"{title}: {name}, query {self.query + 1}"
        return {
            "masks": make_contact_sheet(panels, title=title),
            "sampling": make_sampling_figure(first, title=heading, query=self.query),
        }

    def _look(self, item: dict[str, Any]) -> tuple[str, SampledSlice]:
        network: Any = self.network
        references = item["label"].numpy() > 0
        number = int(references.any((1, 2)).argmax())  # the first of all where it shows none
        name = f"{item['target'][number]}, {item['case']} slice {item['slice_index']}"
        input_ids = item["input_ids"][None, number : number + 1]
        text = network.encode_text(input_ids.to(next(network.parameters()).device))
        return name, _record(
            network, item["image"][None], text, item["slice_index"], references[number]
        )


def _score(seen: SampledSlice) -> str:
    assert seen.reference is not None
    value = dice(seen.prediction, seen.reference)
    return "no target, no mask" if value is None else f"Dice {value:.2f}"
