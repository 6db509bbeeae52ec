"""One case as its publisher ships it: where it lies, whose it is, and what reading it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray

from boltzmed.cards import Window


@dataclass(frozen=True)
class SourceCase:
    """A case that a layout's ``list_cases`` lists; nothing of it has been read but its place.

    Attributes:
        case: name within the data set; from file and folder names, never from a header.
        image: what the image is read from: a NIfTI file, a folder of DICOM files, or several
            pictures.
        label: what the reference is read from: label map, annotation file, or several masks.
        subset: the publisher's own part of the data ("training", "validation", "test"), which the
            card's split rule translates; None where the layout has none.
        patient: whose case it is, where the source says so; the card's rule finds it otherwise.
        split: the part that the source itself assigns ("train", "validation", "test"); it outranks
            the card's rule.
        problem: why it cannot be read, found while listing (a missing file); None for a case that
            may be read.
    """

    case: str
    image: tuple[Path, ...]
    label: tuple[Path, ...]
    subset: str | None = None
    patient: str | None = None
    split: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class LabelledVolume:
    """A case that a layout's ``read_case`` has read.

    Attributes:
        image: (1,I,J,K) float32 in the array order of its file, with ``.affine`` to RAS mm.
        labels: (I,J,K) uint8 on the image's grid.
        values: target name -> the label values whose union is its mask; every target that the case
            could show.
        window: the window that the image's values already went through, (0, 255) for pictures; None
            for HU and raw MR intensities, to which the card's windows apply.
        has_spacing: whether the affine is true to mm; False for pictures.
        findings: what else is known of its objects, e.g. ``{"nodule": 1, "readers": 3}``; JSON
            values alone.
    """

    image: MetaTensor
    labels: NDArray[np.uint8]
    values: Mapping[str, tuple[int, ...]]
    window: Window | None = None
    has_spacing: bool = True
    findings: Sequence[Mapping[str, Any]] = ()
