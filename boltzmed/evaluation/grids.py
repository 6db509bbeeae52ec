"""How a mask is brought onto another's grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform


def resample_nearest(
    voxels: NDArray, affine_ras: NDArray, shape: Sequence[int], onto_ras: NDArray
) -> NDArray:
    """Give each voxel of a grid the value of the nearest voxel of another volume; 0 outside it
    (-inf for floats).
    """
    index = np.linalg.inv(affine_ras) @ onto_ras
    outside = -np.inf if voxels.dtype.kind == "f" else 0
    source = voxels.astype(np.uint8) if voxels.dtype == bool else voxels
    # "grid-constant": the outer half of the outermost voxels is theirs, too.
    found = affine_transform(
        source,
        index[:3, :3],
        index[:3, 3],
        tuple(shape),
        order=0,
        mode="grid-constant",
        cval=outside,
    )
    return found.astype(voxels.dtype)
