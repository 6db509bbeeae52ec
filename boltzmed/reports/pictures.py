"""Pictures of scored cases: image, reference and every method's mask, cut as evaluation cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from boltzmed.cards import DatasetCard, Target, Window
from boltzmed.errors import InputError
from boltzmed.geometry import orientation_codes, spacing_mm
from boltzmed.masks.dataset_json import find_label_names
from boltzmed.masks.folders import find_mask, find_target
from boltzmed.masks.grids import Grid, check_grid
from boltzmed.masks.label_names import LabelNames
from boltzmed.masks.label_values import read_labels
from boltzmed.studies import ReferencedImage
from boltzmed.transforms.slices import SlicePlan
from boltzmed.volumes import read_volume
from boltzmed.volumes.nifti import NIFTI_SUFFIXES

Spacing = tuple[float, float, float]

_PERCENTILES = (0.5, 99.5)
"""What is shown of an image of unknown kind."""

_MEASURED_SLICES = 32
"""About as many slices are looked at for the percentiles."""


@dataclass(frozen=True)
class CasePicture:
    """One target of one case; slices (K,H,W), H and W as the network sees them.

    Attributes:
        title: case and target.
        image: intensities.
        window: (low, high) shown from black to white.
        reference: bool.
        predictions: method → bool mask.
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
        dataset: names in the table.
        case: names in the table.
        target: names in the table.
        axis: the plane of the slices, "" where the table has none.
        slice_index: None for whole volumes.
        prompt: "" where the table has none.
    """

    dataset: str
    case: str
    target: str
    axis: str = ""
    slice_index: int | None = None
    prompt: str = ""


class PreparedImages(Protocol):
    """Images with references that were prepared for training, as a slice cache holds them."""

    @property
    def card(self) -> DatasetCard:
        """Whose targets the references are."""

    @property
    def plane(self) -> str:
        """How slices were cut."""

    def read_image(self, case: str, target: str) -> ReferencedImage:
        """Read a case's image and one target's reference.

        Raises:
            InputError: there is no such case or target.
        """


@dataclass(frozen=True)
class PictureFolders:
    """Where images, references and masks lie.

    A case's image is ``CASE.nii.gz``, ``CASE_0000.nii.gz`` (nnU-Net's) or a folder ``CASE`` with
    its DICOM series. Masks are found as `find_mask` says; the values of a label map
    ``CASE.nii.gz`` are named by ``labels``, nnU-Net's ``dataset.json`` or the data set's card.

    Attributes:
        images: folder, or None.
        cache: prepared images and references, instead of ``images``.
        references: folder; None with a cache, whose labels are the references.
        predictions: method → folder.
        window: (low, high) for all; the card's for the target, or the image's percentiles, by
            default.
        cards: data set's name in the tables → its card, where there is one.
        labels: names of the values of label maps, instead of what the cards say.
    """

    images: Path | None = None
    cache: PreparedImages | None = None
    references: Path | None = None
    predictions: Mapping[str, Path] = field(default_factory=dict)
    window: Window | None = None
    cards: Mapping[str, DatasetCard] = field(default_factory=dict)
    labels: LabelNames | None = None

    @property
    def given(self) -> bool:
        """Whether there is anything to show."""
        return self.images is not None or self.cache is not None

    def read(self, shown: ScoredObject, methods: Sequence[str]) -> CasePicture:
        """Read one object's picture; methods without a folder are passed over.

        Raises:
            InputError: a file is missing or broken, or a mask does not fit its image. One line.
        """
        if Path(shown.case).name != shown.case:
            raise InputError(
                f"{shown.case}: expected a case's name to look for, received a path; correct the"
                " table"
            )
        if self.cache is not None:
            card: DatasetCard | None = self.cache.card
            plane = self.cache.plane
            image = self.cache.read_image(shown.case, shown.target)
        else:
            card = self.cards.get(shown.dataset)
            plane = shown.axis or "axial"
            image = self._read_image(shown, card, plane)
        predictions = {}
        for method in methods:
            if method in self.predictions:
                folder = self.predictions[method]
                predictions[method] = self._read_mask(folder, method, shown, card, plane, image)
        affine_ras = image.affine_ras
        window = image.window or self.window or _find_window(card, shown.target)
        return CasePicture(
            title=f"{shown.case}, {shown.target}",
            image=image.image,
            window=window or _measure_window(image.image),
            reference=image.reference,
            predictions=predictions,
            spacing_mm=_measure_spacing(affine_ras),
            directions=(
                CasePicture.directions if affine_ras is None else orientation_codes(affine_ras)
            ),
        )

    def _read_image(
        self, shown: ScoredObject, card: DatasetCard | None, plane: str
    ) -> ReferencedImage:
        """Read an image and its reference from folders."""
        volume = read_volume(_find_image(self.images or Path(), shown.case))
        image, affine_ras = _cut(volume[0].numpy(), np.asarray(volume.affine), plane)
        unreferenced = ReferencedImage(image, np.zeros(0, bool), affine_ras)
        reference = self._read_mask(self.references, "references", shown, card, plane, unreferenced)
        return unreferenced._replace(reference=reference)

    def _read_mask(
        self,
        folder: Path | None,
        whose: str,
        shown: ScoredObject,
        card: DatasetCard | None,
        plane: str,
        image: ReferencedImage,
    ) -> NDArray[np.bool_]:
        """Read the mask of what is shown, cut as the image is."""
        mask = None
        if folder is not None:
            mask = find_mask(folder, shown.case, shown.target, shown.prompt)
        if folder is None or mask is None:
            raise InputError(
                f"{shown.case}, {shown.target}: expected a mask among the {whose}, found none;"
                " check the folder and its names"
            )
        if not mask.names:
            names = self.labels or _name_labels(folder, shown, card)
            mask = mask if names is None else mask.as_target(shown.target, names)
        try:
            labels = read_labels(mask.path)
            inside, affine_ras = _cut(find_target(mask, labels), labels.affine_ras, plane)
        except InputError as error:
            raise InputError(f"{whose}: {error}") from error
        _check_slices(f"{whose}: {mask.path.name}", image, inside, affine_ras)
        return inside


def open_pictures(
    cards: Mapping[str, DatasetCard],
    *,
    images: str | Path | None = None,
    cache: PreparedImages | None = None,
    references: str | Path | None = None,
    predictions: Mapping[str, str | Path] | None = None,
    window: Sequence[float] | None = None,
    labels: LabelNames | None = None,
) -> PictureFolders:
    """Check where pictures are said to lie.

    Args:
        cards: see `PictureFolders`.
        images: see `PictureFolders`.
        cache: see `PictureFolders`.
        references: see `PictureFolders`.
        predictions: see `PictureFolders`.
        window: see `PictureFolders`.
        labels: see `PictureFolders`.

    Raises:
        InputError: a folder is not there, or what is given cannot make a picture: images without
            references or with a cache, references or masks without images, a window that is none.
    """
    folders = {"images": images, "references": references, **(predictions or {})}
    for name, folder in folders.items():
        if folder is not None and not Path(folder).is_dir():
            raise InputError(
                f"{name}: expected a folder, received {folder}, which is none; check it"
            )
    anything = images is not None or references is not None or bool(predictions)
    if anything and (images is None) == (cache is None):
        raise InputError(
            "pictures: expected --images DIR and --references DIR, or --cache DIR alone, to draw"
            " masks on"
        )
    if (images is None) != (references is None):
        raise InputError(
            "pictures: expected --images DIR and --references DIR together (a cache has both)"
        )
    return PictureFolders(
        images=None if images is None else Path(images),
        cache=cache,
        references=None if references is None else Path(references),
        predictions={method: Path(folder) for method, folder in (predictions or {}).items()},
        window=None if window is None else _check_window(window),
        cards=cards,
        labels=labels,
    )


def _check_window(window: Sequence[float]) -> Window:
    if not (len(window) == 2 and window[0] < window[1]):
        received = ",".join(f"{value:g}" for value in window)
        raise InputError(f"window: expected LOW,HIGH, received {received}")
    low, high = window
    return float(low), float(high)


def _cut(
    voxels: NDArray[Any], affine_ras: NDArray[np.float64], plane: str
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Slices (K,H,W) of a volume, and their affine to RAS mm.

    Files of one grid whose axes differ by order or direction give the same slices.
    """
    plan = SlicePlan.from_affine(affine_ras, voxels.shape, plane)
    return plan.cut(voxels), plan.slices_affine(affine_ras)


def _check_slices(
    name: str,
    image: ReferencedImage,
    mask: NDArray[np.bool_],
    affine_ras: NDArray[np.float64],
) -> None:
    """Refuse a mask that would be drawn where it does not lie."""
    if image.affine_ras is not None:
        expected = Grid(image.image.shape, image.affine_ras)
        check_grid(name, expected, Grid(mask.shape, affine_ras), what="mask")
    elif mask.shape != image.image.shape:
        raise InputError(
            f"{name}: expected the image's {image.image.shape} slices, rows and columns, received"
            f" {mask.shape}; use the masks of this image"
        )


def _name_labels(folder: Path, shown: ScoredObject, card: DatasetCard | None) -> LabelNames | None:
    """What the label maps of a folder hold; None where nothing says where the target is in them."""
    target = card.targets.get(shown.target) if card else None
    if card is None or target is None or not target.labels:
        return None
    return _find_names(folder, card, target)


def _find_names(folder: Path, card: DatasetCard, target: Target) -> LabelNames:
    try:
        names = find_label_names(folder, card)
    except ValueError as error:
        raise InputError(str(error)) from error
    if target.name not in names.targets:
        raise InputError(
            f"{folder}: expected masks of {target.name}, received those of"
            f" {', '.join(names.targets)} by its dataset.json; leave the target or this folder out"
        )
    return names


def _find_image(folder: Path, case: str) -> Path:
    for name in (case, f"{case}_0000"):
        for suffix in NIFTI_SUFFIXES:
            path = folder / f"{name}{suffix}"
            if path.is_file():
                return path
    if (folder / case).is_dir():
        return folder / case
    raise InputError(
        f"{case}: expected an image of that name among the images, found none; check the folder"
    )


def _find_window(card: DatasetCard | None, target: str) -> Window | None:
    if card is None or target not in card.targets:
        return None
    return card.targets[target].window


def _measure_spacing(affine_ras: NDArray[np.float64] | None) -> Spacing:
    """Of slices, rows and columns; pictures have none, and are shown with square pixels."""
    if affine_ras is None:
        return 1.0, 1.0, 1.0
    slices_mm, rows_mm, columns_mm = (float(size) for size in spacing_mm(affine_ras))
    return slices_mm, rows_mm, columns_mm


def _measure_window(slices: NDArray[Any]) -> Window:
    """Percentiles of all voxels, air and bone included: what shows most of an unknown image."""
    step = max(1, len(slices) // _MEASURED_SLICES)
    low, high = np.percentile(slices[::step], _PERCENTILES)
    return float(low), float(max(high, low + 1e-3))
