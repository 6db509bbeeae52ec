"""Where training slices come from: a datalist's NIfTI files, or prepared slice caches.

Both give the same: entries, which say what each slice shows, and the slice itself with its labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boltzmed.cards import DatasetCard, Target, load_card
from boltzmed.data.cache import SliceCache
from boltzmed.data.index import absent_pairs
from boltzmed.masks.grids import Grid, check_grid
from boltzmed.masks.label_names import labelled_targets
from boltzmed.masks.label_values import HIGHEST_LABEL, as_labels
from boltzmed.strata import area_fraction
from boltzmed.transforms.slices import SlicePlan
from boltzmed.transforms.window import Window, measure_percentiles
from boltzmed.volumes import map_nifti

MIN_PIXELS = 4
"""Native pixels under which a target is too small to be asked for on a slice; being there, it is
not absent either.
"""

_OPEN_FILES = 64

_SliceKey = tuple[str, int, str]
"""(case, slice index, window key)."""


@dataclass(frozen=True)
class SliceEntry:
    """One slice of one case under one window.

    Attributes:
        window: (low, high), None for the volume's percentiles.
        area_fractions: target → mask pixels over the padded square's pixels, 0 for one that is
            known to be absent. A target of which neither is known, or that is too small, is left
            out.
    """

    case: str
    slice_index: int
    window: Window | None
    area_fractions: Mapping[str, float]


class SliceSource(Protocol):
    """What a training data set reads from."""

    card: DatasetCard
    entries: list[SliceEntry]

    def read(
        self, entry: SliceEntry, indices: Sequence[int]
    ) -> tuple[NDArray[Any], NDArray[np.uint8], Window]:
        """Read slices.

        Args:
            entry: whose labels are read.
            indices: which slices.

        Returns:
            Intensities (n,H,W), labels (H,W) of the entry's own slice, and its window.
        """

    def count(self, case: str) -> int:
        """Return the number of slices of a case."""

    def label_values(self, case: str, target: str) -> tuple[int, ...]:
        """Return the label values whose union is a target's mask."""


def read_datalist(path: str | Path | None, key: str = "training") -> list[dict[str, str]]:
    """Read a MONAI datalist whose paths are relative to its own folder.

    Args:
        path: JSON file with a list of ``{"image", "label", "case", "patient"}`` under ``key``.
        key: the list to take.

    Raises:
        ValueError: the file, the list or one of the named images is missing, or no file was named
            (None).
    """
    if path is None:
        raise ValueError(
            "expected --datalist FILE.json, received none; `boltzmed phantom` writes images and"
            " such a list"
        )
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"{path}: expected a datalist JSON file, found none; write one with `boltzmed phantom`"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path}: expected a datalist in JSON, received something else ({error})"
        ) from error
    if not isinstance(content, dict) or not content.get(key):
        raise ValueError(f"{path}: expected a list named {key!r}, received {list(content)[:5]}")
    return [_find_files(path, record) for record in content[key]]


def _find_files(path: Path, record: Mapping[str, str]) -> dict[str, str]:
    """Return a datalist's record with paths from the working folder."""
    missing = {"image", "label", "case"} - set(record)
    if missing:
        raise ValueError(
            f"{path}: expected image, label and case in every record, one lacks {min(missing)}"
        )
    case = dict(record)
    for field in ("image", "label"):
        file = path.parent / record[field]
        if not file.is_file():
            raise ValueError(
                f"{path}: case {record['case']}: {field} {record[field]} does not exist beside it"
            )
        case[field] = str(file)
    return case


def open_sources(
    *,
    dataset_dir: str | Path = ".",
    datalist: str | Path | None = None,
    caches: str | Path | Sequence[str | Path] | None = None,
    part: str = "train",
    card: DatasetCard | str | Path,
    plane: str = "axial",
    empty_slices: bool = False,
) -> list[SliceSource]:
    """Open what a training is given: a datalist of NIfTI files, or one or several prepared caches.

    Args:
        dataset_dir: where relative paths of the datalist or caches begin.
        datalist: see ``read_datalist``; all its cases are taken.
        caches: folders that ``boltzmed prepare`` made; their cases of ``part`` are taken, each by
            its cache's own card.
        part: of the split: ``train``, ``validation`` or ``test``.
        card: of the datalist.
        plane: how slices are cut; caches must be cut so.
        empty_slices: see ``CachedSlices``; a datalist's are not listed.

    Raises:
        ValueError: neither or both are given, or one of them is unusable.
    """
    if (datalist is None) == (not caches):
        option = "--validation_datalist" if part == "validation" else "--datalist"
        raise ValueError(
            f"expected {option} FILE.json (`boltzmed phantom` writes images and such a list) or"
            " --caches DIR (`boltzmed prepare` writes it), received"
            f" {'neither' if datalist is None else 'both'}"
        )
    if not isinstance(empty_slices, bool):  # on MONAI's command line false is a text
        raise ValueError(f"empty_slices: expected True or False, received {empty_slices!r}")
    base = Path(dataset_dir)
    if datalist is not None:
        return [NiftiSlices(read_datalist(base / datalist), card, plane)]
    folders = [caches] if isinstance(caches, str | Path) else list(caches or ())
    return [
        CachedSlices(base / folder, part=part, plane=plane, empty_slices=empty_slices)
        for folder in folders
    ]


class NiftiSlices:
    """Slices of labelled NIfTI files. Uncompressed ones are memory-mapped; compressed ones work,
    slowly.

    Args:
        cases: records with ``image``, ``label``, ``case`` (see ``read_datalist``).
        card: the card, or its name: labels → targets → windows and prompts.
        plane: slice plane of the network (see ``SlicePlan``).

    Raises:
        ValueError: the card has no labels, an image and its labels do not lie on one grid, or
            nothing is shown anywhere.
    """

    def __init__(
        self,
        cases: Sequence[Mapping[str, Any]],
        card: DatasetCard | str | Path,
        plane: str = "axial",
    ) -> None:
        self.cases = {case["case"]: case for case in cases}
        self.card = card if isinstance(card, DatasetCard) else load_card(card)
        labelled_targets(self.card)
        self.plane = plane
        self._plans: dict[str, SlicePlan] = {}
        self.entries = [entry for case in cases for entry in self._index_case(case)]
        if not self.entries:
            raise ValueError(
                f"card {self.card.name}: none of its targets is on any slice of {len(self.cases)}"
                " cases"
            )

    def read(
        self, entry: SliceEntry, indices: Sequence[int]
    ) -> tuple[NDArray[Any], NDArray[np.uint8], Window]:
        """See ``SliceSource``."""
        case = self.cases[entry.case]
        plan = self._plans[entry.case]
        volume = map_nifti(case["image"])[0]
        labels = map_nifti(case["label"])[0]
        own_labels = np.ascontiguousarray(plan.slice_at(labels, entry.slice_index))
        window = entry.window or measure_percentiles(volume)
        own_labels = as_labels(f"case {entry.case}", own_labels, highest=HIGHEST_LABEL)
        return plan.slices_at(volume, indices), own_labels, window

    def count(self, case: str) -> int:
        """See ``SliceSource``."""
        return self._plans[case].count

    def label_values(self, case: str, target: str) -> tuple[int, ...]:
        """See ``SliceSource``."""
        return self.card.targets[target].labels

    def _index_case(self, case: Mapping[str, Any]) -> Iterator[SliceEntry]:
        name = case["case"]
        labels, affine_ras = map_nifti(case["label"])
        image, image_affine_ras = map_nifti(case["image"])
        grid = Grid(labels.shape, affine_ras)
        check_grid(f"case {name}", Grid(image.shape, image_affine_ras), grid)
        plan = SlicePlan.from_affine(affine_ras, labels.shape, self.plane)
        self._plans[name] = plan
        by_window: dict[Window | None, list[Target]] = {}
        for target in self.card.targets.values():
            by_window.setdefault(target.window, []).append(target)
        labels = as_labels(f"case {name}", labels, highest=HIGHEST_LABEL)
        for slice_index, labels_HW in enumerate(plan.cut(labels)):
            counts = np.bincount(labels_HW.reshape(-1), minlength=256)
            for window, targets in by_window.items():
                areas = self._list_areas(targets, counts, plan.slice_shape)
                if any(areas.values()):
                    yield SliceEntry(name, slice_index, window, areas)

    def _list_areas(
        self, targets: Sequence[Target], counts: NDArray[np.int64], shape: tuple[int, int]
    ) -> dict[str, float]:
        """Area fraction of each target of which it is known, from counts of label values."""
        areas = {}
        for target in targets:
            pixels = int(counts[list(target.labels)].sum())
            if pixels >= MIN_PIXELS or (pixels == 0 and self.card.exhaustive):
                areas[target.name] = area_fraction(pixels, *shape)
        return areas


class CachedSlices:
    """Slices of a cache that ``boltzmed prepare`` made, of the rows that its protocol uses.

    Args:
        folder: the cache.
        part: ``train``, ``validation`` or ``test``.
        plane: how the network's slices are cut; the cache must be cut so.
        empty_slices: also list slices that show no target, of which absent ones can be asked for.

    Raises:
        ValueError: the cache is unfinished, damaged or cut otherwise, or has no case in this part.
    """

    def __init__(
        self, folder: str | Path, *, part: str, plane: str = "axial", empty_slices: bool = False
    ) -> None:
        self.cache = SliceCache.open(folder)
        if self.cache.plane != plane:
            raise ValueError(
                f"{folder}: expected slices of plane {plane}, found {self.cache.plane}; prepare"
                f" another cache with --plane {plane}"
            )
        self.card = self.cache.card
        self._counts = {
            case: self.cache.cases[case]["shape"][0] for case in self.cache.list_part(part)
        }
        self.index = self.cache.index[self.cache.index["split"] == part]
        self._open = lru_cache(maxsize=_OPEN_FILES)(self.cache.case_file)
        self.entries = self._list_entries(empty_slices)
        if not self.entries:
            raise ValueError(f"{folder}: expected slices with targets in part {part!r}, found none")

    def absent(self) -> pd.DataFrame:
        """Return (case, slice_index, target) of this part without a pixel, where that is known.

        Known it is of an exhaustively annotated data set whose masks are all there; published
        pictures had their small masks taken out.
        """
        known = self.card.exhaustive and self.card.layout.get("reader") != "biomedparse"
        return absent_pairs(self.index, self._counts if known else {}, list(self.card.targets))

    def read(
        self, entry: SliceEntry, indices: Sequence[int]
    ) -> tuple[NDArray[Any], NDArray[np.uint8], Window]:
        """See ``SliceSource``."""
        file = self._open(entry.case)
        images = [file.image_at(index) for index in indices]
        window = file.facts.window or entry.window or file.facts.percentiles
        assert window is not None  # MR files carry percentiles
        # One slice needs no copy.
        slices = np.stack(images) if len(images) > 1 else images[0][None]
        return slices, file.labels_at(entry.slice_index), window

    def count(self, case: str) -> int:
        """See ``SliceSource``."""
        count: int = self._counts[case]
        return count

    def label_values(self, case: str, target: str) -> tuple[int, ...]:
        """See ``SliceSource``."""
        return self._open(case).facts.targets.get(target, ())

    def __getstate__(self) -> dict[str, Any]:
        # Open files stay with their process.
        return {name: value for name, value in self.__dict__.items() if name != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = lru_cache(maxsize=_OPEN_FILES)(self.cache.case_file)

    def _list_entries(self, empty_slices: bool) -> list[SliceEntry]:
        shown = self._list_shown()
        absent = self._list_absent()
        keys = shown.keys() | absent.keys() if empty_slices else shown.keys()
        # In the card's order, as a datalist's entries are.
        names = list(self.card.targets)
        windows = []
        for target in self.card.targets.values():
            windows += [target.window_key, *target.extra_windows]
        entries = []
        for key in sorted(keys, key=lambda key: (*key[:2], windows.index(key[2]))):
            case, slice_index, window = key
            areas = shown.get(key, {}) | dict.fromkeys(absent.get(key, ()), 0.0)
            ordered = {name: areas[name] for name in sorted(areas, key=names.index)}
            bounds = _read_window(window, self.card.windows)
            entries.append(SliceEntry(case, int(slice_index), bounds, ordered))
        return entries

    def _list_shown(self) -> dict[_SliceKey, dict[str, float]]:
        """Slices that show something → area fraction of each target."""
        shown: dict[_SliceKey, dict[str, float]] = {}
        columns = ("case", "slice_index", "target", "window", "pixels", "area_fraction", "used")
        rows = zip(*(self.index[name] for name in columns), strict=True)
        for case, slice_index, target, window, pixels, area, used in rows:
            if used and pixels >= MIN_PIXELS:
                shown.setdefault((case, slice_index, window), {})[target] = area
        return shown

    def _list_absent(self) -> dict[_SliceKey, list[str]]:
        """Slices → targets that are known not to be there."""
        absent: dict[_SliceKey, list[str]] = {}
        for case, slice_index, name in self.absent().itertuples(index=False):
            window = self.card.targets[name].window_key
            absent.setdefault((case, slice_index, window), []).append(name)
        return absent


def _read_window(key: str, windows: Mapping[str, Window | None]) -> Window | None:
    """What ``Target.window_key`` stands for."""
    if key in windows or key == "percentiles":
        return windows.get(key)
    low, high = map(float, key.split(","))
    return low, high
