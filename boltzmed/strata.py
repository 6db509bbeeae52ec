"""Object-size bins: by share of the image, by volume and by equivalent diameter.

Every bin includes its lower edge and excludes its upper one: exactly 1 % of the image counts as 1–10 %, matching the
published tables' "≥ 1 %". An object of size 0 is no object and belongs to no bin (index -1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

AREA_EDGES: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
"""Edges between the area bins: mask pixels over the area of the padded square."""

AREA_BINS: tuple[str, ...] = ("<0.01 %", "0.01–0.1 %", "0.1–1 %", "1–10 %", "≥10 %")
"""Names of the area bins, small to large."""

DIAMETER_EDGES_MM: tuple[float, ...] = (3.0, 6.0, 10.0, 30.0)
"""Edges between the diameter bins. In the Fleischner Society's terms for the lung, below 3 mm is a micronodule,
below 6 mm a nodule that mostly needs no follow-up (2017 guideline), and above 30 mm a mass."""

DIAMETER_BINS: tuple[str, ...] = ("<3 mm", "3–6 mm", "6–10 mm", "10–30 mm", "≥30 mm")
"""Names of the diameter bins, small to large."""

VOLUME_EDGES_MM3: tuple[float, ...] = tuple(float(np.pi / 6 * edge**3) for edge in DIAMETER_EDGES_MM)
"""Volumes of the spheres with the edges' diameters: about 14, 113, 524 and 14137 mm³."""


def assign_area_bins(area_fractions: ArrayLike) -> NDArray[np.int64]:
    """Returns the index in `AREA_BINS` of each area fraction, -1 for 0.

    Args:
        area_fractions: any shape, 0 … 1.

    Raises:
        ValueError: a value that is NaN, negative or above 1 (a percentage by mistake, most likely).
    """
    fractions = np.asarray(area_fractions, dtype=np.float64)
    outside = ~((fractions >= 0) & (fractions <= 1))
    if outside.any():
        raise ValueError(f"area fraction: expected 0 to 1, got {fractions[outside].flat[0]:g}")
    return _assign(fractions, AREA_EDGES)


def assign_diameter_bins(diameters_mm: ArrayLike) -> NDArray[np.int64]:
    """Returns the index in `DIAMETER_BINS` of each diameter in mm, -1 for 0 (ValueError below 0 or not finite)."""
    return _assign(_sizes("diameter", diameters_mm), DIAMETER_EDGES_MM)


def assign_volume_bins(volumes_mm3: ArrayLike) -> NDArray[np.int64]:
    """Returns the index in `DIAMETER_BINS` of each volume in mm³, -1 for 0 (ValueError below 0 or not finite)."""
    return _assign(_sizes("volume", volumes_mm3), VOLUME_EDGES_MM3)


def equivalent_diameters_mm(volumes_mm3: ArrayLike) -> NDArray[np.float64]:
    """Returns the diameter of the sphere of each volume: (6 V / π)^(1/3)."""
    return np.cbrt(_sizes("volume", volumes_mm3) * (6 / np.pi))


def _sizes(name: str, values: ArrayLike) -> NDArray[np.float64]:
    sizes = np.asarray(values, dtype=np.float64)
    outside = ~((sizes >= 0) & np.isfinite(sizes))
    if outside.any():
        raise ValueError(f"{name}: expected a finite number from 0, got {sizes[outside].flat[0]:g}")
    return sizes


def _assign(values: NDArray[np.float64], edges: tuple[float, ...]) -> NDArray[np.int64]:
    return np.where(values > 0, np.digitize(values, edges, right=False), -1).astype(np.int64)
