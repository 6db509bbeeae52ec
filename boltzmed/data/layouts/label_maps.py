"""Images with a label map on their grid, as every NIfTI layout has them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from boltzmed.cards import DatasetCard
from boltzmed.data.labels import as_labels, check_grid
from boltzmed.data.layouts.case import LabelledVolume, SourceCase
from boltzmed.errors import InputError
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
    """A case of one image and one label map, with its problem where either is not there."""
    missing = [
        f"{kind} {path.name}"
        for kind, path in (("image", image), ("label", label))
        if not os.path.exists(path)
    ]
    problem = (
        f"case {case}: expected {' and '.join(missing)}, found nothing there; copy it again"
        if missing
        else None
    )
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
        label = read_volume(found.label[0])
    check_grid(found.case, image.shape[1:], image.affine, label.shape[1:], label.affine)
    refuse_flat(found, image)
    labels = as_labels(found.case, np.asarray(label[0]))
    _check_values(found, card, labels)
    return LabelledVolume(
        image, labels, {name: target.labels for name, target in card.targets.items()}
    )


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
    """Begin the error of reading a file with its case, and name the file without the folders it
    lies in.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        line = " ".join(str(error).replace(str(path), path.name).split())
        raise InputError(f"case {case}: {line}") from error


def _check_values(found: SourceCase, card: DatasetCard, labels: NDArray[np.uint8]) -> None:
    # Slice by slice, since counting copies what it counts to 64 bits.
    counts = sum(
        np.bincount(labels[..., k].ravel(order="K"), minlength=256) for k in range(labels.shape[-1])
    )
    if unknown := [int(value) for value in np.flatnonzero(counts) if int(value) not in card.labels]:
        raise InputError(
            f"case {found.case}: expected labels {list_values(card.labels)} of card {card.name},"
            f" received {list_values(unknown)} in {found.label[0].name}; pass the card of this"
            " data set"
        )


def list_values(values: object) -> str:
    """Label values in order: "0, 1, 2"."""
    return ", ".join(map(str, sorted(values)))  # type: ignore[call-overload]
