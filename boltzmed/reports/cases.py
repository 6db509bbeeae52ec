"""Pictures of scored cases: image, reference and every method's mask, found in folders and cut as
evaluation cuts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from boltzmed.cards import DatasetCard, Target, Window
from boltzmed.data.cache import SliceCache
from boltzmed.data.layouts.label_maps import list_values
from boltzmed.data.nnunet_labels import find_predicted_dataset
from boltzmed.errors import InputError
from boltzmed.geometry import describe_grid, is_same_grid, orientation_codes, spacing_mm
from boltzmed.reports.patients import find_card
from boltzmed.slugs import slug_prompts
from boltzmed.transforms.slices import SlicePlan
from boltzmed.volumes import read_volume

Spacing = tuple[float, float, float]

_SUFFIXES = (".nii.gz", ".nii")
_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class CasePicture:
    """One target of one case; slices (K,H,W), H and W as the network sees them.

    Attributes:
        title: Case and target.
        image: Intensities.
        window: (low, high) shown from black to white.
        reference: bool.
        predictions: method -> bool mask.
        spacing_mm: of slices, rows and columns.
        directions: where slices, rows and columns run in the patient, such as ("S", "P", "L").
    """

    title: str
    image: NDArray[Any]
    window: Window
    reference: NDArray[np.bool_]
    predictions: Mapping[str, NDArray[np.bool_]]
    spacing_mm: Spacing
    directions: tuple[str, str, str] = ("S", "P", "L")


@dataclass(frozen=True)
class ScoredObject:
    """What a table of results says about what to show.

    Attributes:
        slice_index: None for whole volumes.
        prompt: "" where the table has none.
    """

    dataset: str
    case: str
    target: str
    axis: str = ""
    slice_index: int | None = None
    prompt: str = ""


@dataclass(frozen=True)
class PictureFolders:
    """Where images, references and masks lie.

    A case's image is `CASE.nii.gz`, `CASE_0000.nii.gz` (nnU-Net's) or a folder `CASE` with its
    DICOM series. A mask is `CASE/PROMPT.nii.gz` as `boltzmed predict` writes it,
    `CASE/TARGET.nii.gz`, `CASE_TARGET.nii.gz`, or a label map `CASE.nii.gz` whose values the data
    set's card explains, or nnU-Net's `dataset.json` where it lies in the folder or up to two above.
    `.nii` does as well.

    Attributes:
        images: Folder, or None.
        cache: A prepared slice cache, which holds images and references; instead of `images`.
        references: Folder; None with a cache, whose labels are the references.
        predictions: method -> folder.
        window: (low, high) for all; the card's for the target, or the image's percentiles, by
            default.
        cards: data set's name in the tables -> its card, where there is one.
    """

    images: Path | None = None
    cache: SliceCache | None = None
    references: Path | None = None
    predictions: Mapping[str, Path] = field(default_factory=dict)
    window: Window | None = None
    cards: Mapping[str, DatasetCard] = field(default_factory=dict)

    @property
    def given(self) -> bool:
        """Whether there is anything to show."""
        return self.images is not None or self.cache is not None

    def read(self, shown: ScoredObject, methods: Sequence[str]) -> CasePicture:
        """Read one object's picture; methods without a folder are left out.

        Raises:
            InputError: A file is missing or broken, or a mask does not fit its image. One line.
        """
        if Path(shown.case).name != shown.case:
            raise InputError(f"{shown.case}: expected a case's name to look for, got a path")
        card = self.cards.get(shown.dataset)
        if self.cache is not None:
            card, plane = self.cache.card, self.cache.plane
            image, reference, grid, window = self._read_cached(self.cache, shown)
        else:
            plane, window = shown.axis or "axial", None
            image, affine_ras = _read_slices(_find_image(self.images or Path(), shown.case), plane)
            grid = _Grid(image.shape, affine_ras)
            reference = _read_mask(self.references, "references", shown, card, plane, grid)
        predictions = {
            method: _read_mask(self.predictions[method], method, shown, card, plane, grid)
            for method in methods
            if method in self.predictions
        }
        target = card.targets.get(shown.target) if card else None
        return CasePicture(
            title=f"{shown.case}, {shown.target}",
            image=image,
            window=window or self.window or (target and target.window) or _measure_window(image),
            reference=reference,
            predictions=predictions,
            spacing_mm=grid.spacing_mm,
            directions=(
                CasePicture.directions
                if grid.affine_ras is None
                else orientation_codes(grid.affine_ras)
            ),
        )

    @staticmethod
    def _read_cached(
        cache: SliceCache, shown: ScoredObject
    ) -> tuple[NDArray[Any], NDArray[np.bool_], _Grid, Window | None]:
        if shown.case not in cache.cases:
            raise InputError(
                f"{shown.case}: expected a case of the cache {cache.folder.name}, found none of"
                " that name"
            )
        file = cache.case_file(shown.case)
        volume, facts = file.volume(), file.facts
        if shown.target not in facts.targets:
            raise InputError(
                f"{shown.case}: expected a target of the cache's card, got {shown.target}"
            )
        reference = np.isin(np.moveaxis(volume.labels, -1, 0), facts.targets[shown.target])
        # Pictures have no spacing, and went through their window already.
        grid = _Grid(tuple(facts.shape), np.array(facts.affine_ras) if facts.spacing_mm else None)
        return np.moveaxis(volume.image[0].numpy(), -1, 0), reference, grid, facts.window


def open_pictures(
    datasets: Sequence[str],
    images: str | Path | None = None,
    cache: str | Path | None = None,
    references: str | Path | None = None,
    predictions: Mapping[str, str | Path] | None = None,
    window: Sequence[float] | None = None,
) -> PictureFolders:
    """Check where pictures are said to lie, and find the cards of the data sets.

    Raises:
        InputError: A folder is not there, or what is given cannot make a picture: images without
            references or with a cache, references or masks without images, a window that is none.
    """
    folders = {"images": images, "references": references, **(predictions or {})}
    for name, folder in folders.items():
        if folder is not None and not Path(folder).is_dir():
            raise InputError(f"{name}: expected a folder, got {folder}, which is none; check it")
    if (images is None) == (cache is None) and (
        images is not None or references is not None or predictions
    ):
        raise InputError(
            "pictures: expected --images DIR and --references DIR, or --cache DIR alone, to draw"
            " masks on"
        )
    if (images is None) != (references is None):
        raise InputError(
            "pictures: expected --images DIR and --references DIR together (a cache has both)"
        )
    if window is not None and not (len(window) == 2 and window[0] < window[1]):
        raise InputError(
            f"window: expected LOW,HIGH, got {','.join(f'{value:g}' for value in window)}"
        )
    cards = {dataset: find_card(dataset) for dataset in datasets}
    return PictureFolders(
        images=None if images is None else Path(images),
        cache=None if cache is None else SliceCache.open(cache),
        references=None if references is None else Path(references),
        predictions={method: Path(folder) for method, folder in (predictions or {}).items()},
        window=None if window is None else (float(window[0]), float(window[1])),
        cards={dataset: card for dataset, card in cards.items() if card is not None},
    )


class _Grid(NamedTuple):
    """Where slices lie: their shape (K,H,W), and the affine from (k, h, w) to RAS mm; None for
    pictures.
    """

    shape: tuple[int, ...]
    affine_ras: NDArray[np.float64] | None

    @property
    def spacing_mm(self) -> Spacing:
        """Of slices, rows and columns."""
        if self.affine_ras is None:
            return 1.0, 1.0, 1.0
        slices_mm, rows_mm, columns_mm = (float(size) for size in spacing_mm(self.affine_ras))
        return slices_mm, rows_mm, columns_mm


def _read_slices(path: Path, plane: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Slices (K,H,W) of a file, and their affine to RAS mm."""
    volume = read_volume(path)
    affine_ras = np.asarray(volume.affine, dtype=np.float64)
    plan = SlicePlan.from_affine(affine_ras, tuple(volume.shape), plane)
    return plan.cut(volume[0].numpy()), plan.slices_affine(affine_ras)


def _read_mask(
    folder: Path | None,
    whose: str,
    shown: ScoredObject,
    card: DatasetCard | None,
    plane: str,
    grid: _Grid,
) -> NDArray[np.bool_]:
    slugs = [slug_prompts([text])[0] for text in (shown.prompt, shown.target) if text.strip()]
    names = (
        [f"{shown.case}/{slug}" for slug in slugs]
        + [f"{shown.case}_{slug}" for slug in slugs]
        + [shown.case]
    )
    path = _find_file(folder, names)
    if path is None:
        raise InputError(
            f"{shown.case}, {shown.target}: expected a mask among the {whose}, found none"
        )
    mask, affine_ras = _read_slices(path, plane)
    if mask.shape != grid.shape:
        raise InputError(
            f"{path.name} of {whose}: expected the image's {grid.shape} slices, rows and columns,"
            f" got {mask.shape}"
        )
    if grid.affine_ras is not None and not is_same_grid(
        grid.shape, grid.affine_ras, mask.shape, affine_ras
    ):
        raise InputError(
            f"{path.name} of {whose}: expected the image's grid,"
            f" {describe_grid(grid.shape, grid.affine_ras)}, got"
            f" {describe_grid(mask.shape, affine_ras)}"
        )
    found = {float(value) for value in np.unique(mask)} - {0.0}
    target = card.targets.get(shown.target) if card else None
    if card is None or target is None or not target.labels:
        if len(found) < 2:
            return mask != 0
        raise InputError(
            f"{path.name} of {whose}: expected a mask, got a label map of {len(found)} values"
            f" without a card that says which is {shown.target}"
        )
    is_map = path.parent == folder and path.name.startswith(f"{shown.case}.nii")
    values, known = (
        _find_values(path.parent, card, target) if is_map else (target.labels, card.labels)
    )
    # A map of several labels may hold one alone, which need not be the target's; of one label it is
    # a mask.
    if len(found) < 2 and (not is_map or len({*known, 0}) < 3):
        return mask != 0
    if is_map and (odd := found - {*known}):
        named = ", ".join(f"{value:g}" for value in sorted(odd)[:9])
        raise InputError(
            f"{path.name} of {whose}: expected the labels {list_values(known)}, got {named}"
        )
    return np.isin(mask, list(values))


def _find_values(
    folder: Path, card: DatasetCard, target: Target
) -> tuple[Collection[int], Collection[int]]:
    """The values of a folder's label maps that are the target's, and all that they may hold.

    nnU-Net numbers the classes of its data set from 1, whatever the card has; its `dataset.json`
    says how.
    """
    try:
        numbered = find_predicted_dataset(folder, card)
    except ValueError as error:
        raise InputError(str(error)) from error
    if target.name not in numbered.targets:
        raise InputError(
            f"{folder}: expected masks of {target.name}, got those of {', '.join(numbered.targets)}"
            " by its dataset.json"
        )
    return numbered.targets[target.name], numbered.values


def _find_image(folder: Path, case: str) -> Path:
    found = _find_file(folder, [case, f"{case}_0000"])
    if found is None and (folder / case).is_dir():
        return folder / case
    if found is None:
        raise InputError(f"{case}: expected an image of that name among the images, found none")
    return found


def _find_file(folder: Path | None, names: Sequence[str]) -> Path | None:
    paths = (
        [folder / f"{name}{suffix}" for name in names for suffix in _SUFFIXES]
        if folder is not None
        else []
    )
    return next((path for path in paths if path.is_file()), None)


def _measure_window(slices: NDArray[Any]) -> Window:
    """What shows most of an image of unknown kind: percentiles of all its voxels, air and bone
    included.
    """
    low, high = np.percentile(slices[:: max(1, len(slices) // 32)], _PERCENTILES)
    return float(low), float(max(high, low + 1e-3))
