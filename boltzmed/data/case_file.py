"""One case of a slice cache: a safetensors file whose slices are read at random without
decompressing anything.

Tensors: `image` (K,H,W) int16 or float32, the file's own intensities; `labels` (K,H,W) uint8;
`pixels` (K,V) int32, how many pixels of each slice have each label value. Slices are cut as the
network sees them (`SlicePlan`), at their original spacing; nothing is windowed or resampled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
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
        percentiles: the volume's percentile window (`measure_percentiles`) for MR, None for CT.
        label_values: what the columns of `pixels` count.
        targets: target -> its label values.
        findings: see `LabelledVolume`.
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
    """Writes a case file, whole or not at all. The same volume gives the same bytes.

    Args:
        percentiles: measure the percentile window, which MR needs.
        made_from: see `CaseFacts`.

    Raises:
        OutputError: the folder is read-only or full.
    """
    affine_ras = np.asarray(volume.image.affine, dtype=np.float64)
    voxels = volume.image[0].numpy()
    plan = SlicePlan.from_affine(affine_ras, voxels.shape, plane)
    slices_affine = plan.slices_affine(affine_ras)
    labels = np.ascontiguousarray(plan.cut(volume.labels))
    used = sorted({value for values in volume.values.values() for value in values})
    facts = CaseFacts(
        case=case,
        plane=plane,
        shape=(plan.count, *plan.slice_shape),
        spacing_mm=tuple(map(float, spacing_mm(slices_affine))) if volume.has_spacing else None,  # type: ignore[arg-type]
        affine_ras=slices_affine.tolist(),
        window=volume.window,
        percentiles=measure_percentiles(voxels) if percentiles else None,
        label_values=tuple(used),
        targets=volume.values,
        findings=volume.findings,
        made_from=made_from,
    )
    pixels = np.stack(
        [np.bincount(slice_hw.reshape(-1), minlength=256)[used] for slice_hw in labels]
    )
    tensors = {
        "image": _smallest(plan.cut(voxels)),
        "labels": labels,
        "pixels": pixels.astype(np.int32),
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
            self._file = safe_open(path, framework="numpy")
            content = json.loads(self._file.metadata()[_KEY])
            if content["format"] != FORMAT:
                raise InputError(
                    f"{path.name}: expected a case file of format {FORMAT}, got"
                    f" {content['format']}; prepare again"
                )
            self.facts = _read_facts(content)
            self._image, self._labels = (
                self._file.get_slice("image"),
                self._file.get_slice("labels"),
            )
            self.pixels: NDArray[np.int32] = self._file.get_tensor("pixels")
        except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise InputError(
                f"{path.name}: expected a whole case file of a slice cache, got one that does not"
                f" read ({type(error).__name__}); delete it and run `boltzmed prepare` again"
            ) from error

    def image_at(self, slice_index: int) -> NDArray[Any]:
        """Intensities (H,W) of a slice, a copy."""
        return self._image[slice_index]

    def labels_at(self, slice_index: int) -> NDArray[np.uint8]:
        """Label values (H,W) of a slice, a copy."""
        return self._labels[slice_index]

    def volume(self) -> LabelledVolume:
        """The whole case as a volume (1,H,W,K) with labels (H,W,K): the voxels of the source, in
        slice order.
        """
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
    pairs = {
        name: tuple(content[name]) if content[name] else None
        for name in ("spacing_mm", "window", "percentiles")
    }
    lists = {name: tuple(content[name]) for name in ("shape", "label_values")}
    targets = {name: tuple(values) for name, values in content["targets"].items()}
    return CaseFacts(**{**content, **pairs, **lists, "targets": targets})


def _smallest(voxels: NDArray[np.float32]) -> NDArray[Any]:
    """The voxels as int16 where that loses nothing, as for all CT; slice by slice, to spare memory."""
    whole = np.empty(voxels.shape, np.int16)
    for k, image in enumerate(voxels):
        if not (_INT16.min <= image.min() and image.max() <= _INT16.max):
            return np.ascontiguousarray(voxels)
        whole[k] = image
        if not np.array_equal(whole[k], image):
            return np.ascontiguousarray(voxels)
    return whole
