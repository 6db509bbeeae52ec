"""One case of a slice cache: a safetensors file, read slice by slice without decompressing.

Tensors: ``image`` (K,H,W) int16 or float32, the file's own intensities; ``labels`` (K,H,W) uint8;
``pixels`` (K,V) int32, how many pixels of each slice have each label value. Slices are cut as the
network sees them (``SlicePlan``), at their original spacing; nothing is windowed or resampled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from boltzmed.cards import Window
from boltzmed.data.layouts.case import LabelledVolume
from boltzmed.errors import InputError
from boltzmed.files import whole_file
from boltzmed.geometry import spacing_mm
from boltzmed.transforms.slices import SlicePlan
from boltzmed.transforms.window import measure_percentiles

FORMAT = 1
SUFFIX = ".safetensors"
_INT16 = np.iinfo(np.int16)
# One key: the order in which safetensors writes several is not fixed, and a cache has to be equal
# bit by bit.
_KEY = "boltzmed"


@dataclass(frozen=True)
class CaseFacts:
    """What a case file knows besides its tensors.

    Attributes:
        shape: (K,H,W).
        spacing_mm: of slices, rows and columns; None for pictures, which have none.
        affine_ras: (4,4) from (k, h, w) to RAS mm.
        window: the window that the intensities already went through, None for HU and raw MR.
        percentiles: the volume's percentile window (``measure_percentiles``) for MR, None for CT.
        label_values: what the columns of ``pixels`` count.
        targets: target -> its label values.
        findings: see ``LabelledVolume``.
        made_from: checksums of the source's files and of the recipe; the file is up to date while
            they stay.
    """

    case: str
    plane: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None
    affine_ras: list[list[float]]
    window: Window | None
    percentiles: Window | None
    label_values: tuple[int, ...]
    targets: Mapping[str, tuple[int, ...]]
    findings: Sequence[Mapping[str, Any]]
    made_from: Mapping[str, str]
    format: int = FORMAT


def write_case(
    path: Path,
    case: str,
    volume: LabelledVolume,
    *,
    plane: str,
    percentiles: bool,
    made_from: Mapping[str, str],
) -> None:
    """Write a case file, whole or not at all; the same volume gives the same bytes.

    Args:
        path: the file.
        case: its name within the data set.
        volume: what the layout's reader returned.
        plane: how slices are cut, see ``SlicePlan``.
        percentiles: measure the percentile window, which MR needs.
        made_from: see ``CaseFacts``.

    Raises:
        OutputError: the folder is read-only or full.
    """
    affine_ras = np.asarray(volume.image.affine, dtype=np.float64)
    voxels = volume.image[0].numpy()
    plan = SlicePlan.from_affine(affine_ras, voxels.shape, plane)
    slices_affine = plan.slices_affine(affine_ras)
    labels = np.ascontiguousarray(plan.cut(volume.labels))
    used_values = sorted(set(chain.from_iterable(volume.values.values())))
    spacing = None
    if volume.has_spacing:
        along_k, along_h, along_w = map(float, spacing_mm(slices_affine))
        spacing = (along_k, along_h, along_w)
    facts = CaseFacts(
        case=case,
        plane=plane,
        shape=(plan.count, *plan.slice_shape),
        spacing_mm=spacing,
        affine_ras=slices_affine.tolist(),
        window=volume.window,
        percentiles=measure_percentiles(voxels) if percentiles else None,
        label_values=tuple(used_values),
        targets=volume.values,
        findings=volume.findings,
        made_from=made_from,
    )
    pixels = np.empty((plan.count, len(used_values)), np.int32)
    for k, slice_hw in enumerate(labels):
        pixels[k] = np.bincount(slice_hw.reshape(-1), minlength=256)[used_values]
    tensors = {
        "image": _smallest(plan.cut(voxels)),
        "labels": labels,
        "pixels": pixels,
    }
    with whole_file(path) as temporary:
        # Not `save_file`: it writes through a temporary file of its own, which a kill would leave
        # behind.
        temporary.write_bytes(save(tensors, {_KEY: json.dumps(asdict(facts), sort_keys=True)}))


class CaseFile:
    """An open case file: its facts, and its slices by number.

    Raises:
        InputError: the file is missing, broken, or of another format.
    """

    def __init__(self, path: Path) -> None:
        try:
            # Any, since safetensors' stub leaves the methods of an open file untyped.
            self._file = cast(Any, safe_open(path, framework="numpy"))
            content = json.loads(self._file.metadata()[_KEY])
            if content["format"] != FORMAT:
                raise InputError(
                    f"{path.name}: expected a case file of format {FORMAT}, received"
                    f" {content['format']}; prepare again"
                )
            self.facts = _read_facts(content)
            self._image = self._file.get_slice("image")
            self._labels = self._file.get_slice("labels")
            self.pixels: NDArray[np.int32] = self._file.get_tensor("pixels")
        except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise InputError(
                f"{path.name}: expected a whole case file of a slice cache, received one that does"
                f" not read ({type(error).__name__}); delete it and run `boltzmed prepare` again"
            ) from error

    def image_at(self, slice_index: int) -> NDArray[Any]:
        """Return the intensities (H,W) of a slice, a copy."""
        image_hw: NDArray[Any] = self._image[slice_index]
        return image_hw

    def labels_at(self, slice_index: int) -> NDArray[np.uint8]:
        """Return the label values (H,W) of a slice, a copy."""
        labels_hw: NDArray[np.uint8] = self._labels[slice_index]
        return labels_hw

    def volume(self) -> LabelledVolume:
        """Return the source's voxels in slice order: image (1,H,W,K), labels (H,W,K)."""
        facts = self.facts
        affine_ras = np.array(facts.affine_ras)[:, [1, 2, 0, 3]]
        voxels = np.moveaxis(self._file.get_tensor("image"), 0, -1).astype(np.float32)
        return LabelledVolume(
            image=MetaTensor(torch.from_numpy(voxels)[None], affine=torch.from_numpy(affine_ras)),
            labels=np.moveaxis(self._file.get_tensor("labels"), 0, -1),
            values=facts.targets,
            window=facts.window,
            has_spacing=facts.spacing_mm is not None,
            findings=facts.findings,
        )


def _read_facts(content: Mapping[str, Any]) -> CaseFacts:
    """Return the facts of a file's JSON, whose lists become the tuples they were."""
    facts = dict(content)
    for name in ("shape", "label_values"):
        facts[name] = tuple(content[name])
    for name in ("spacing_mm", "window", "percentiles"):
        facts[name] = tuple(content[name]) if content[name] else None
    facts["targets"] = {name: tuple(values) for name, values in content["targets"].items()}
    return CaseFacts(**facts)


def _smallest(voxels: NDArray[np.float32]) -> NDArray[Any]:
    """Return the voxels as int16 where that loses nothing, as for all CT, else as they are."""
    # Slice by slice: a comparison of whole volumes would take several times their memory.
    whole = np.empty(voxels.shape, np.int16)
    for k, image in enumerate(voxels):
        if not (_INT16.min <= image.min() and image.max() <= _INT16.max):
            return np.ascontiguousarray(voxels)
        whole[k] = image
        if not np.array_equal(whole[k], image):
            return np.ascontiguousarray(voxels)
    return whole
