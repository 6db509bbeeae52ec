"""A study as it was read, and one with its reference: what the pipeline hands from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray


@dataclass(frozen=True)
class Study:
    """A study to segment, without its voxels.

    Attributes:
        case: the name of its folder of masks.
        file: the file's or folder's own name.
        grid: (1,I,J,K) without memory of its own: shape, affine and headers of the study as it was
            read, on whose grid masks are written.
        read_seconds: how long reading took.
    """

    case: str
    file: str
    grid: MetaTensor
    read_seconds: float


@dataclass(frozen=True)
class LabelledStudy:
    """A volume's reference, and what is scored of it.

    Attributes:
        case: the name within the data set.
        patient: whose it is; "" where nothing says.
        labels: (I,J,K) uint8 on the study's own grid.
        label_values: target → the values whose union is its mask.
        grid: as in ``Study``.
        requested_slices: for each prompt the slices that are scored, None for all of them and the
            volume.
        read_seconds: how long reading took.
    """

    case: str
    patient: str
    labels: NDArray[np.uint8]
    label_values: Mapping[str, tuple[int, ...]]
    grid: MetaTensor
    requested_slices: tuple[frozenset[int] | None, ...]
    read_seconds: float

    def reference(self, target: str | None) -> NDArray[np.uint8]:
        """Return the reference mask (I,J,K) of a target, uint8 in {0,1}."""
        values = self.label_values.get(target or "", ())
        return np.isin(self.labels, values).astype(np.uint8)


class ReferencedImage(NamedTuple):
    """An image with its reference, both as slices (K,H,W).

    Attributes:
        image: intensities.
        reference: bool.
        affine_ras: (4,4) from (k, h, w) to RAS mm; None where voxels have no size.
        window: the window that the intensities went through already, or None.
    """

    image: NDArray[Any]
    reference: NDArray[np.bool_]
    affine_ras: NDArray[np.float64] | None
    window: tuple[float, float] | None = None


def empty_grid(image: MetaTensor) -> MetaTensor:
    """Return a volume's shape, affine and headers without its voxels: one zero stands for all."""
    voxels = image.as_tensor().new_zeros(1).expand(image.shape)
    return MetaTensor(voxels, affine=image.affine.clone(), meta=dict(image.meta))
