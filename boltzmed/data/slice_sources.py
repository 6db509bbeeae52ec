"""Where training slices come from: NIfTI files of a datalist, mapped into memory, or prepared slice
caches.

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

from boltzmed.cards import DatasetCard, load_card
from boltzmed.data.cache import SliceCache
from boltzmed.data.index import absent_pairs
from boltzmed.data.labels import as_labels, check_grid, labelled_targets
from boltzmed.transforms.slices import SlicePlan
from boltzmed.transforms.window import Window, measure_percentiles
from boltzmed.volumes import map_nifti

MIN_PIXELS = 4
"""Native pixels under which a target is too small to be asked for on a slice; being there, it is
not absent either.
"""

_OPEN_FILES = 64


@dataclass(frozen=True)
class SliceEntry:
    """One slice of one case under one window.

    Attributes:
        window: (low, high), None for the volume's percentiles.
        area_fractions: target -> mask pixels over the padded square's pixels, 0 for one that is
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
        """Returns intensities (n,H,W) of the slices `indices`, labels (H,W) of the entry's own, and
        its window.
        """

    def count(self, case: str) -> int:
        """Returns the number of slices of a case."""

    def label_values(self, case: str, target: str) -> tuple[int, ...]:
        """Returns the label values whose union is a target's mask."""


def read_datalist(path: str | Path | None, key: str = "training") -> list[dict[str, str]]:
    """Read a MONAI datalist whose paths are relative to its own folder.

    Args:
        path: JSON file with a list of ``{"image", "label", "case", "patient"}`` under ``key``.
        key: The list to take.

    Raises:
        ValueError: The file, the list or one of the named images is missing, or no file was named
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
    cases = []
    for record in content[key]:
        case = dict(record)
        if missing := {"image", "label", "case"} - set(case):
            raise ValueError(
                f"{path}: expected image, label and case in every record, one lacks {min(missing)}"
            )
        for field in ("image", "label"):
            file = path.parent / record[field]
            if not file.is_file():
                raise ValueError(
                    f"{path}: case {record.get('case')}: {field} {record[field]} does not exist"
                    " beside it"
                )
            case[field] = str(file)
        cases.append(case)
    return cases


def open_sources(
    *,
    datalist: str | Path | None = None,
    caches: str | Path | Sequence[str | Path] | None = None,
    part: str = "train",
    card: DatasetCard | str | Path,
    plane: str = "axial",
    empty_slices: bool = False,
) -> list[SliceSource]:
    """Opens what a training is given: a datalist of NIfTI files, or one or several prepared caches.

    Args:
        datalist: see `read_datalist`; all its cases are taken.
        caches: folders that `boltzmed prepare` made; their cases of `part` are taken, each by its
            cache's own card.
        card: of the datalist.
        empty_slices: see `CachedSlices`; a datalist's are not listed.

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
    if datalist is not None:
        return [NiftiSlices(read_datalist(datalist), card, plane)]
    folders = [caches] if isinstance(caches, str | Path) else list(caches or ())
    return [
        CachedSlices(folder, part=part, plane=plane, empty_slices=empty_slices)
        for folder in folders
    ]


class NiftiSlices:
    """Slices of labelled NIfTI files. Uncompressed ones are memory-mapped; compressed ones work,
    slowly.

    Args:
        cases: Records with ``image``, ``label``, ``case`` (see :func:`read_datalist`).
        card: The card, or its name: labels → targets → windows and prompts.
        plane: Slice plane of the network (see :class:`SlicePlan`).
        min_pixels: See ``MIN_PIXELS``.
    """

    def __init__(
        self,
        cases: Sequence[Mapping[str, Any]],
        card: DatasetCard | str | Path,
        plane: str = "axial",
        *,
        min_pixels: int = MIN_PIXELS,
    ) -> None:
        self.min_pixels = min_pixels
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
        """See `SliceSource`."""
        case, plan = self.cases[entry.case], self._plans[entry.case]
        volume, labels = map_nifti(case["image"])[0], map_nifti(case["label"])[0]
        label = as_labels(
            entry.case, np.ascontiguousarray(plan.slice_at(labels, entry.slice_index))
        )
        return plan.slices_at(volume, indices), label, entry.window or measure_percentiles(volume)

    def count(self, case: str) -> int:
        """See `SliceSource`."""
        return self._plans[case].count

    def label_values(self, case: str, target: str) -> tuple[int, ...]:
        """See `SliceSource`."""
        return self.card.targets[target].labels

    def _index_case(self, case: Mapping[str, Any]) -> Iterator[SliceEntry]:
        labels, affine_ras = map_nifti(case["label"])
        image, image_affine_ras = map_nifti(case["image"])
        check_grid(case["case"], image.shape, image_affine_ras, labels.shape, affine_ras)
        plan = SlicePlan.from_affine(affine_ras, labels.shape, self.plane)
        self._plans[case["case"]] = plan
        slices = plan.cut(as_labels(case["case"], labels))
        by_window: dict[Window | None, list[str]] = {}
        for name, target in self.card.targets.items():
            by_window.setdefault(target.window, []).append(name)
        for slice_index, labels_hw in enumerate(slices):
            counts = np.bincount(labels_hw.reshape(-1), minlength=256)
            pixels = {
                name: int(counts[list(target.labels)].sum())
                for name, target in self.card.targets.items()
            }
            for window, names in by_window.items():
                known = [
                    n
                    for n in names
                    if pixels[n] >= self.min_pixels or (pixels[n] == 0 and self.card.exhaustive)
                ]
                areas = {name: pixels[name] / max(slices.shape[1:]) ** 2 for name in known}
                if any(areas.values()):
                    yield SliceEntry(case["case"], slice_index, window, areas)


class CachedSlices:
    """Slices of a cache that `boltzmed prepare` made, of the rows that its protocol uses.

    Args:
        folder: The cache.
        part: "train", "validation" or "test".
        plane: How the network's slices are cut; the cache must be cut so.
        empty_slices: Also list slices that show no target, of which absent ones can be asked for.

    Raises:
        ValueError: The cache is unfinished, damaged or cut otherwise, or has no case in this part.
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
        """Negatives: (case, slice_index, target) of this part without a pixel; none where that is
        not known.

        Known it is of an exhaustively annotated data set whose masks are all there; published
        pictures had their small masks taken out.
        """
        known = self.card.exhaustive and self.card.layout.get("reader") != "biomedparse"
        return absent_pairs(self.index, self._counts if known else {}, list(self.card.targets))

    def read(
        self, entry: SliceEntry, indices: Sequence[int]
    ) -> tuple[NDArray[Any], NDArray[np.uint8], Window]:
        """See `SliceSource`."""
        file = self._open(entry.case)
        images = [file.image_at(index) for index in indices]
        window = file.facts.window or entry.window or file.facts.percentiles
        assert window is not None  # MR files carry percentiles
        return (
            np.stack(images) if len(images) > 1 else images[0][None],
            file.labels_at(entry.slice_index),
            window,
        )

    def count(self, case: str) -> int:
        """See `SliceSource`."""
        return self._counts[case]

    def label_values(self, case: str, target: str) -> tuple[int, ...]:
        """See `SliceSource`."""
        return self._open(case).facts.targets.get(target, ())

    def __getstate__(self) -> dict[str, Any]:
        # Open files stay with their process.
        return {name: value for name, value in self.__dict__.items() if name != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = lru_cache(maxsize=_OPEN_FILES)(self.cache.case_file)

    def _list_entries(self, empty_slices: bool) -> list[SliceEntry]:
        shown: dict[tuple[str, int, str], dict[str, float]] = {}
        columns = ("case", "slice_index", "target", "window", "pixels", "area_fraction", "used")
        for case, k, target, window, pixels, area, used in zip(
            *(self.index[name] for name in columns), strict=True
        ):
            if used and pixels >= MIN_PIXELS:
                shown.setdefault((case, k, window), {})[target] = area
        targets, windows = self.card.targets, self.card.windows
        absent: dict[tuple[str, int, str], list[str]] = {}
        for case, k, name in self.absent().itertuples(index=False):
            absent.setdefault((case, k, targets[name].window_key), []).append(name)
        # In the card's order, as a datalist's entries are.
        rank = {name: place for place, name in enumerate(targets)}
        order = [
            key for target in targets.values() for key in (target.window_key, *target.extra_windows)
        ]
        entries = []
        keys = shown.keys() | absent.keys() if empty_slices else shown.keys()
        for key in sorted(keys, key=lambda key: (*key[:2], order.index(key[2]))):
            case, k, window = key
            known = shown.get(key, {}) | dict.fromkeys(absent.get(key, ()), 0.0)
            known = {name: known[name] for name in sorted(known, key=rank.__getitem__)}
            entries.append(SliceEntry(case, int(k), _read_window(window, windows), known))
        return entries


def _read_window(key: str, windows: Mapping[str, Window | None]) -> Window | None:
    """What `Target.window_key` stands for."""
    if key in windows or key == "percentiles":
        return windows.get(key)
    low, high = map(float, key.split(","))
    return low, high
