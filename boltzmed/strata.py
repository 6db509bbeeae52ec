"""Object-size bins: by share of the image, by volume and by equivalent diameter.

Every bin includes its lower edge and excludes its upper one: exactly 1 % of the image counts as
1–10 %, matching the published tables' "≥ 1 %". An object of size 0 is no object and belongs to no
bin (index -1).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray


def name_bins(edges: Sequence[float], unit: str) -> tuple[str, ...]:
    """Returns the bins' names between ascending edges: "<3 mm", "3–6 mm", "≥6 mm".

    Raises:
        ValueError: no edge, or edges that are not positive, finite and ascending.
    """
    numbers = np.asarray(edges, dtype=np.float64)
    if not (
        numbers.ndim == 1
        and numbers.size
        and np.isfinite(numbers).all()
        and (np.diff(numbers, prepend=0) > 0).all()
    ):
        raise ValueError(
            f"edges: expected ascending numbers above 0 ({unit}), got"
            f" {', '.join(map(str, edges)) or 'none'}"
        )
    texts = [
        np.format_float_positional(edge, precision=6, fractional=False, trim="-")
        for edge in numbers
    ]
    inner = [f"{low}–{high} {unit}" for low, high in pairwise(texts)]
    return (f"<{texts[0]} {unit}", *inner, f"≥{texts[-1]} {unit}")


AREA_EDGES: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
"""Edges between the area bins: mask pixels over the area of the padded square."""

AREA_BINS: tuple[str, ...] = name_bins([100 * edge for edge in AREA_EDGES], "%")
"""Names of the area bins, small to large."""

PUBLISHED_AREA_EDGE = 1e-2
"""What divides small objects from large ones in the paper's Table 2."""

DIAMETER_EDGES_MM: tuple[float, ...] = (3.0, 6.0, 10.0, 30.0)
"""Edges between the diameter bins. In the Fleischner Society's terms for the lung, below 3 mm is a
micronodule, below 6 mm a nodule that mostly needs no follow-up (2017 guideline), and above 30 mm a
mass."""

VOLUME_EDGES_MM3: tuple[float, ...] = tuple(
    float(np.pi / 6 * edge**3) for edge in DIAMETER_EDGES_MM
)
"""Volumes of the spheres with the edges' diameters: about 14, 113, 524 and 14137 mm³."""


SIZES = ("area", "diameter", "volume")
"""What an object's size may be measured by: area fraction, equivalent diameter in mm, volume in
mm³.
"""


@overload
def area_fraction(pixels: int, height: int, width: int) -> float: ...


@overload
def area_fraction(pixels: NDArray[np.integer], height: int, width: int) -> NDArray[np.float64]: ...


def area_fraction(
    pixels: int | NDArray[np.integer], height: int, width: int
) -> float | NDArray[np.float64]:
    """Return a mask's pixels over the area of the slice's padded square.

    Args:
        pixels: of the mask at the slice's own size; several in an array.
        height: of the slice.
        width: of the slice.

    Returns:
        0 … 1: pixels / max(height, width)².
    """
    return pixels / max(height, width) ** 2


def assign_area_bins(
    area_fractions: ArrayLike, edges: Sequence[float] = AREA_EDGES
) -> NDArray[np.int64]:
    """Returns the index of the bin of each area fraction, in `AREA_BINS` for the usual edges; -1
    for 0.

    Args:
        area_fractions: any shape, 0 … 1.
        edges: between the bins, ascending.

    Raises:
        ValueError: a value that is NaN, negative or above 1 (a percentage by mistake, most likely).
    """
    fractions = np.asarray(area_fractions, dtype=np.float64)
    outside = ~((fractions >= 0) & (fractions <= 1))
    if outside.any():
        raise ValueError(f"area fraction: expected 0 to 1, got {fractions[outside].flat[0]:g}")
    return _assign(fractions, edges)


def assign_diameter_bins(
    diameters_mm: ArrayLike, edges: Sequence[float] = DIAMETER_EDGES_MM
) -> NDArray[np.int64]:
    """Returns the index of the bin of each diameter in mm, -1 for 0 (ValueError below 0 or not
    finite).
    """
    return _assign(_sizes("diameter", diameters_mm), edges)


def assign_volume_bins(
    volumes_mm3: ArrayLike, edges: Sequence[float] = VOLUME_EDGES_MM3
) -> NDArray[np.int64]:
    """Returns the index of the bin of each volume in mm³, -1 for 0 (ValueError below 0 or not
    finite).
    """
    return _assign(_sizes("volume", volumes_mm3), edges)


def equivalent_diameters_mm(volumes_mm3: ArrayLike) -> NDArray[np.float64]:
    """Returns the diameter of the sphere of each volume: (6 V / π)^(1/3)."""
    return np.cbrt(_sizes("volume", volumes_mm3) * (6 / np.pi))


def list_bins(by: str, edges: Sequence[float] | None = None) -> tuple[str, ...]:
    """Returns the names of the bins of `split_by_size`, small to large, without the groups that
    overlap them.

    Raises:
        ValueError: edges or a size that are none.
    """
    if by == "area":
        return name_bins(
            [round(100 * edge, 10) for edge in (AREA_EDGES if edges is None else edges)], "%"
        )
    if by == "diameter":
        return name_bins(DIAMETER_EDGES_MM if edges is None else edges, "mm")
    if by == "volume":
        return name_bins(VOLUME_EDGES_MM3 if edges is None else edges, "mm³")
    raise ValueError(f"size: expected one of {', '.join(SIZES)}, got {by!r}")


def split_by_size(
    by: str, sizes: ArrayLike, edges: Sequence[float] | None = None
) -> dict[str, NDArray[np.bool_]]:
    """Returns which objects are in each stratum, by the stratum's name, small to large.

    Strata by area end with the paper's two groups, below 1 % and from 1 % on, which overlap the
    bins (`list_bins`). A bin that is such a group stands once, in its place among the bins.

    Args:
        by: one of `SIZES`.
        sizes: area fractions, or volumes in mm³ for the other two; (n,). NaN is in no stratum, nor
            is 0.
        edges: between the bins: area fractions, mm or mm³; those above by default.

    Raises:
        ValueError: edges or sizes that are none.
    """
    names, groups = list_bins(by, edges), {}
    known = ~np.isnan(np.asarray(sizes, dtype=np.float64))
    given = np.where(known, sizes, 0.0)
    if by == "area":
        bins = assign_area_bins(given, AREA_EDGES if edges is None else edges)
        small = given < PUBLISHED_AREA_EDGE
        groups = {"<1 %": small & (given > 0), "≥1 %": ~small}
    elif by == "diameter":
        bins = assign_diameter_bins(
            equivalent_diameters_mm(given), DIAMETER_EDGES_MM if edges is None else edges
        )
    else:
        bins = assign_volume_bins(given, VOLUME_EDGES_MM3 if edges is None else edges)
    return {name: bins == index for index, name in enumerate(names)} | groups


def _sizes(name: str, values: ArrayLike) -> NDArray[np.float64]:
    sizes = np.asarray(values, dtype=np.float64)
    outside = ~((sizes >= 0) & np.isfinite(sizes))
    if outside.any():
        raise ValueError(f"{name}: expected a finite number from 0, got {sizes[outside].flat[0]:g}")
    return sizes


def _assign(values: NDArray[np.float64], edges: Sequence[float]) -> NDArray[np.int64]:
    return np.where(values > 0, np.digitize(values, edges, right=False), -1).astype(np.int64)
