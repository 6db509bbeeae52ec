"""``boltzmed sampling``: a study segmented slice by slice, and what was sampled drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from boltzmed.geometry import describe_grid, is_same_grid
from boltzmed.sampling.pictures import SampledSlice, draw_sampling, write_sampling_page
from boltzmed.sampling.record import record_sampling
from boltzmed.transforms.network_input import NetworkInput
from boltzmed.transforms.slices import SlicePlan
from boltzmed.transforms.window import WindowIntensity
from boltzmed.volumes import read_volume
from boltzmed.workflow import read_inference


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
    **overrides: Any,
) -> Path:
    """Draw which patches a query sampled in each layer: a slice (.png), or a whole study (.html).

    Args:
        study: see ``read_volume``.
        prompt: what is looked for.
        output: the file; its ending decides.
        slice_index: of a picture, in the network's order (axial: from feet to head); the middle one
            by default.
        step: of a page: every how many slices one is shown.
        query: which of the network's queries; the paper shows the first.
        reference: a mask or label map on the study's grid, to be outlined.
        label: the value that is inside; by default all but 0.
        **overrides: any value of ``inference.yaml`` that is of a single slice (``checkpoint``,
            ``cards``, ``modality``, ``seed``, ``threshold`` …); see ``read_inference``. Presence is
            not smoothed, which takes the neighbours'.

    Returns:
        The file.

    Raises:
        ValueError: the study, prompt, slice, query or file name is unusable.
    """
    output = Path(output)
    _check_request(output, slice_index, step)
    watched = _WatchedStudy(study, prompt, reference, label, overrides)
    if not 0 <= query < watched.num_queries:
        raise ValueError(f"query: expected 0 to {watched.num_queries - 1}, received {query}")
    of_all = f"query {query + 1} of {watched.num_queries}"
    count = watched.plan.count
    if _is_page(output):
        slices = (watched.look(index) for index in range(0, count, step))
        write_sampling_page(
            slices, output, title=f"{prompt}: {of_all}", query=query, plane=watched.plan.plane
        )
        return output
    index = count // 2 if slice_index is None else slice_index
    if not 0 <= index < count:
        raise ValueError(f"slice: expected 0 to {count - 1}, received {index}")
    title = f"{prompt}: slice {index}, {of_all}"
    draw_sampling(watched.look(index), output, title=title, query=query)
    return output


def _is_page(output: Path) -> bool:
    return output.suffix.lower() == ".html"


def _check_request(output: Path, slice_index: int | None, step: int) -> None:
    if output.suffix.lower() not in (".png", ".html"):
        raise ValueError(
            f"{output}: expected a file .png (of one slice) or .html (of the whole study)"
        )
    if _is_page(output) and slice_index is not None:
        raise ValueError(
            f"slice: expected none for a page of the whole study, received {slice_index}; write a"
            " .png"
        )
    if step < 1 or (step > 1 and not _is_page(output)):
        raise ValueError(
            f"step: expected 1 or more, and a page (.html) if more, received {step} for"
            f" {output.name}"
        )


class _WatchedStudy:
    """A study, a prompt and the network, whose draws are recorded slice by slice."""

    def __init__(
        self,
        study: str | Path,
        prompt: str,
        reference: str | Path | None,
        label: int | None,
        overrides: dict[str, Any],
    ) -> None:
        parser = read_inference(**overrides)
        # A tuple of paths and texts: MONAI would evaluate a text that begins with "$".
        parser.update({"image": (Path(study),), "prompts": (prompt,)})
        item = parser.get_parsed_content("dataset")[0]
        inferer = parser.get_parsed_content("inferer")
        self._volume = np.asarray(item["image"][0])
        self.plan = SlicePlan.from_affine(
            np.asarray(item["image"].affine), self._volume.shape, inferer.plane
        )
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
        return record_sampling(
            self._network, image, self._text, index, reference, *self._thresholds
        )


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
    inside: NDArray[np.bool_] = values != 0 if label is None else values == label
    if not inside.any():
        raise ValueError(f"{path.name}: expected voxels of {label or 'some value'}, found none")
    return inside
