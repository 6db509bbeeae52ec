"""Label values of a mask's file: read, checked, listed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from boltzmed.errors import InputError
from boltzmed.masks.grids import Grid
from boltzmed.volumes import read_volume

HIGHEST_LABEL = 255
"""What a label value may be where it is kept as uint8, as in a slice cache."""

_LISTED = 9
"""So many label values are listed in a message."""


class LabelMap(NamedTuple):
    """A mask's file, read.

    Attributes:
        labels_IJK: label values, uint8, or int32 where one is above 255.
        affine_ras: (4,4) voxel indices to RAS mm.
        values: all values that occur, 0 included.
    """

    labels_IJK: NDArray[Any]
    affine_ras: NDArray[np.float64]
    values: frozenset[int]

    @property
    def grid(self) -> Grid:
        """Where its voxels lie."""
        return Grid(self.labels_IJK.shape, self.affine_ras)


def read_labels(path: Path, *, highest: int | None = None) -> LabelMap:
    """Read a label map.

    Args:
        path: of the file.
        highest: see `as_labels`.

    Raises:
        InputError: the file is missing or damaged, or holds values that are no whole numbers.
    """
    volume = read_volume(path)
    labels = as_labels(path.name, np.asarray(volume[0]), highest=highest)
    affine_ras = np.asarray(volume.affine, dtype=np.float64)
    return LabelMap(labels, affine_ras, _list_present(labels))


def as_labels(name: str, voxels: NDArray[Any], *, highest: int | None = None) -> NDArray[Any]:
    """Return label values of any dtype as uint8, or as int32 where one is above 255.

    Args:
        name: of the file or case, for the message.
        voxels: of any shape.
        highest: ``HIGHEST_LABEL`` where the values have to fit into uint8; None for any.

    Raises:
        InputError: a value that is no whole number from 0, or above ``highest``.
    """
    if voxels.dtype == np.uint8:
        return voxels
    fits = highest is not None or not voxels.size or not voxels.max() > HIGHEST_LABEL
    labels: NDArray[Any]
    with np.errstate(invalid="ignore"):
        labels = voxels.astype(np.uint8 if fits else np.int32)
    wrong = labels != voxels
    if not fits:
        wrong |= labels < 0  # uint8 has none, there they differ from what they were made of
    if wrong.any():
        limit = "" if highest is None else f" to {highest}"
        raise InputError(
            f"{name}: expected label values that are whole numbers from 0{limit}, received"
            f" {voxels[wrong].flat[0]:g}; write label values, not an image or probabilities"
        )
    return labels


def check_values(name: str, values: Collection[int], known: Collection[int], source: str) -> None:
    """Refuse label values that nobody named; 0 is the background everywhere.

    Args:
        name: of the file.
        values: what the file holds.
        known: what it may hold.
        source: what says so, such as "card amos22_ct".

    Raises:
        InputError: another value.
    """
    unknown = set(values) - {*known, 0}
    if unknown:
        raise InputError(
            f"{name}: expected the labels {list_values(known)} of {source}, received"
            f" {list_values(unknown)}; pass the card of this data set"
        )


def list_values(values: Collection[int]) -> str:
    """Return label values in words, in order: the first nine."""
    ordered = sorted(values)
    listing = ", ".join(map(str, ordered[:_LISTED]))
    return f"{listing} …" if len(ordered) > _LISTED else listing


def _list_present(labels_IJK: NDArray[Any]) -> frozenset[int]:
    # Slice by slice, since counting and sorting copy what they get.
    values: set[int] = set()
    for k in range(labels_IJK.shape[-1]):
        labels = labels_IJK[..., k]
        if labels.dtype == np.uint8:
            present = np.flatnonzero(np.bincount(labels.ravel(order="K")))
        else:
            present = np.unique(labels)
        values.update(present.tolist())
    return frozenset(values)
