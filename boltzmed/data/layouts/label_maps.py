"""Images with a label map on their grid, as every NIfTI layout has them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from boltzmed.cards import DatasetCard
from boltzmed.data.layouts.case import LabelledVolume, SourceCase
from boltzmed.errors import InputError, one_line
from boltzmed.masks.grids import Grid, check_grid
from boltzmed.masks.label_values import HIGHEST_LABEL, check_values, read_labels
from boltzmed.volumes import read_volume


def pair_files(
    case: str,
    image: Path,
    label: Path,
    *,
    subset: str | None = None,
    patient: str | None = None,
    split: str | None = None,
) -> SourceCase:
    """Return a case of one image and one label map, with its problem where either is not there.

    Args:
        case: its name.
        image: files that belong together.
        label: files that belong together.
        subset: what the data set says of the case, where it does.
        patient: what the data set says of the case, where it does.
        split: what the data set says of the case, where it does.
    """
    missing = []
    for kind, path in (("image", image), ("label", label)):
        # Not `path.exists()`, which raises for a name that is too long.
        if not os.path.exists(path):
            missing.append(f"{kind} {path.name}")
    problem = None
    if missing:
        listing = " and ".join(missing)
        problem = f"case {case}: expected {listing}, found nothing there; copy it again"
    return SourceCase(case, (image,), (label,), subset, patient, split, problem)


def read_label_map(
    found: SourceCase, card: DatasetCard, *, channel: int | None = None
) -> LabelledVolume:
    """Read a case of one image and one label map whose values are the card's.

    Args:
        found: the case as a layout listed it.
        card: whose labels the map holds.
        channel: which one, where the image's file holds several.

    Raises:
        InputError: a file that is missing or cannot be read, an image without contrast, a label map
            on another grid or with values that the card does not know. One line that begins with
            the case.
    """
    refuse_problem(found)
    with naming_case(found.case, found.image[0]):
        image = read_volume(found.image[0], modality=card.modality, channel=channel)
    with naming_case(found.case, found.label[0]):
        label = read_labels(found.label[0], highest=HIGHEST_LABEL)
        check_values(found.label[0].name, label.values, card.labels, f"card {card.name}")
    grid = Grid(image.shape[1:], np.asarray(image.affine, np.float64))
    check_grid(f"case {found.case}", grid, label.grid)
    refuse_flat(found, image)
    label_values = {name: target.labels for name, target in card.targets.items()}
    return LabelledVolume(image, label.labels_IJK, label_values)


def refuse_problem(found: SourceCase) -> None:
    """Raise InputError for a case that could not be read when it was listed."""
    if found.problem is not None:
        raise InputError(found.problem)


def refuse_flat(found: SourceCase, image: torch.Tensor) -> None:
    """Raise InputError for an image that shows nothing: all of its voxels are equal."""
    lowest = float(image.min())
    if lowest == float(image.max()):
        raise InputError(
            f"case {found.case}: expected an image, received {lowest:g} in every voxel of "
            f"{found.image[0].name}; copy it again"
        )


@contextmanager
def naming_case(case: str, path: Path) -> Iterator[None]:
    """Begin the error of reading a file with its case, and name the file without its folders."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(f"case {case}: {one_line(error, path)}") from error
