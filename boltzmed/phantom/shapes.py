"""Implicit shapes in body coordinates and the ways to join, bend and sample them.

A shape is a function ``shape(x, y, z) -> values`` (float32, mm), negative inside. Values are about
mm near the surface; only the zero set and the sign have to be right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

FloatArray = NDArray[np.float32]
Shape = Callable[[FloatArray, FloatArray, FloatArray], FloatArray]
Point = tuple[float, ...]
"""Three numbers along x, y, z, mm: a place or sizes."""

Box = tuple[Point, Point]
"""Lowest and highest corner."""

Profile = Callable[[Any], FloatArray]
"""A curve over z: mm (number or array) -> mm of the same shape."""

FAR_MM = 25.0
"""Where the values of a `tube` stop, to spare the voxels far from it."""


def smooth_min(a: FloatArray, b: FloatArray, reach_mm: float) -> FloatArray:
    """Return the minimum with the crease rounded over ``reach_mm``: the union of two shapes."""
    h: FloatArray = np.clip(0.5 + (b - a) * np.float32(0.5 / reach_mm), 0, 1)
    smallest: FloatArray = b + (a - b) * h - np.float32(reach_mm) * h * (1 - h)
    return smallest


def smooth_max(a: FloatArray, b: FloatArray, reach_mm: float) -> FloatArray:
    """Return the maximum with the crease rounded over ``reach_mm``: the shapes' intersection."""
    largest: FloatArray = -smooth_min(-a, -b, reach_mm)
    return largest


def ellipsoid(centre: Point, radii: Point, tilt: NDArray[np.float64] | None = None) -> Shape:
    """Return an ellipsoid with mm-like values; ``tilt`` (3, 3) turns its axes into the body's."""
    turn = np.eye(3) if tilt is None else tilt
    rows = (turn / np.asarray(radii, float)).T.astype(np.float32)
    size = np.float32(np.prod(radii) ** (1 / 3))
    c = [np.float32(v) for v in centre]

    def shape(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        dx, dy, dz = x - c[0], y - c[1], z - c[2]
        total: FloatArray | float = 0.0
        for r in rows:
            total = total + (r[0] * dx + r[1] * dy + r[2] * dz) ** 2
        return (np.sqrt(total) - 1) * size

    return shape


def plus(shape: Shape, offset: Shape) -> Shape:
    """Return a shape whose surface is moved by an offset (mm, positive shrinks it)."""
    return lambda x, y, z: shape(x, y, z) + offset(x, y, z)


def minus(shape: Shape, hole: Shape, reach_mm: float) -> Shape:
    """Return a shape without what lies in ``hole``, the edge rounded over ``reach_mm``."""
    return lambda x, y, z: smooth_max(shape(x, y, z), -hole(x, y, z), reach_mm)


def inside(outer: Shape, inset_mm: float, shape: Shape, reach_mm: float) -> Shape:
    """Return the part of a shape that lies at least ``inset_mm`` deep in ``outer``.

    The edge is rounded over ``reach_mm``.
    """
    return lambda x, y, z: smooth_max(
        shape(x, y, z), outer(x, y, z) + np.float32(inset_mm), reach_mm
    )


def rotation(degrees_x: float, degrees_y: float, degrees_z: float) -> NDArray[np.float64]:
    """Return the rotation (3, 3) about x, then y, then z."""
    radians = np.radians([degrees_x, degrees_y, degrees_z])
    cx, cy, cz = np.cos(radians)
    sx, sy, sz = np.sin(radians)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turn: NDArray[np.float64] = about_z @ about_y @ about_x
    return turn


def profile(z_mm: Sequence[float], values: Sequence[float] | NDArray[np.float64]) -> Profile:
    """Return a monotone-smooth curve over z through the given values, constant beyond its ends."""
    return tabulate(np.array(z_mm, float), PchipInterpolator(z_mm, values))


def tabulate(
    z_mm: NDArray[np.float64], curve: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> Profile:
    """Return a curve over z that is read from a table, much faster than evaluating it.

    Its steps of 0.3 mm are shorter than any voxel.
    """
    start = float(z_mm[0])
    step = 0.3
    heights = np.minimum(np.arange(start, z_mm[-1] + step, step), z_mm[-1])
    table: FloatArray = curve(heights).astype(np.float32)

    def read(z: Any) -> FloatArray:
        steps = (np.asarray(z, np.float32) - np.float32(start)) * np.float32(1 / step)
        return table[np.clip(steps.astype(np.int32), 0, len(table) - 1)]

    return read


def bumps(rng: np.random.Generator, amplitude_mm: float, wavelength_mm: float) -> Shape:
    """Return a smooth random offset (mm), the sum of four plane waves, for an organ's outline."""
    direction = rng.standard_normal((4, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    k = direction * (2 * np.pi / (wavelength_mm * rng.uniform(0.7, 1.6, (4, 1))))
    phase = rng.uniform(0, 2 * np.pi, 4)
    k32 = k.astype(np.float32)
    phase32 = phase.astype(np.float32)

    def shape(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        total = np.zeros_like(x)
        for row, p in zip(k32, phase32, strict=True):
            total += np.sin(row[0] * x + row[1] * y + row[2] * z + p)
        return total * np.float32(amplitude_mm / 2)

    return shape


def beside(
    point: NDArray[np.float64], dx: float, dy: float, dz: float
) -> tuple[float, float, float]:
    """Return the point moved by an offset (mm)."""
    return float(point[0] + dx), float(point[1] + dy), float(point[2] + dz)


def around(centre: Point, reach: float | Point) -> Box:
    """Return the box of half-size ``reach`` about a centre."""
    half_size = np.broadcast_to(np.asarray(reach, float), 3)
    middle = np.asarray(centre, float)
    return tuple((middle - half_size).tolist()), tuple((middle + half_size).tolist())


def dense_curve(knots: NDArray[np.float64], step_mm: float) -> NDArray[np.float64]:
    """Return a smooth curve (n, 3) through knots (m, 3), its points about ``step_mm`` apart."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
    count = max(2, int(length[-1] / step_mm) + 1)
    positions = np.linspace(0, length[-1], count)
    columns = [PchipInterpolator(length, knots[:, axis])(positions) for axis in range(3)]
    return np.stack(columns, axis=1)


def tube(curve: NDArray[np.float64], radius_mm: float, taper: float = 1.0) -> Shape:
    """Return a round tube about a dense curve, ending at ``taper`` times its first radius.

    Values stop at ``FAR_MM``.
    """
    radii = np.linspace(radius_mm, radius_mm * taper, len(curve))
    chain = list(zip(curve[:-1], curve[1:], radii[:-1], radii[1:], strict=True))
    low = curve.min(axis=0) - FAR_MM
    high = curve.max(axis=0) + FAR_MM

    def shape(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        near = (
            (x > low[0])
            & (x < high[0])
            & (y > low[1])
            & (y < high[1])
            & (z > low[2])
            & (z < high[2])
        )
        out = np.full(np.shape(x), FAR_MM, np.float32)
        px, py, pz = x[near], y[near], z[near]
        best = np.full(px.shape, FAR_MM, np.float32)
        for a, b, ra, rb in chain:
            d = (b - a).astype(np.float32)
            qx, qy, qz = px - np.float32(a[0]), py - np.float32(a[1]), pz - np.float32(a[2])
            along = np.clip((qx * d[0] + qy * d[1] + qz * d[2]) / np.float32(d @ d), 0, 1)
            square = (qx - along * d[0]) ** 2 + (qy - along * d[1]) ** 2 + (qz - along * d[2]) ** 2
            np.minimum(
                best, np.sqrt(square) - np.float32(ra) - np.float32(rb - ra) * along, out=best
            )
        out[near] = best
        return out

    return shape


def box_of(points: NDArray[np.float64], margin: float) -> Box:
    """Return the box around points (n, 3), wider by ``margin`` mm on every side."""
    return tuple(points.min(axis=0) - margin), tuple(points.max(axis=0) + margin)


def evaluate(shape: Shape, points: NDArray[np.float64]) -> FloatArray:
    """Return a shape's values (n,) at points (n, 3)."""
    x, y, z = (points[:, axis].astype(np.float32) for axis in range(3))
    return shape(x, y, z)


def draw_points(
    rng: np.random.Generator, shape: Shape, box: Box, count: int, low: float, high: float
) -> NDArray[np.float64]:
    """Draw up to ``count`` points (n, 3), uniform where the shape's value is in (low, high)."""
    kept: list[NDArray[np.float64]] = []
    total = 0
    for _ in range(40):
        points = rng.uniform(box[0], box[1], (max(256, 8 * count), 3))
        value = evaluate(shape, points)
        between = points[(value > low) & (value < high)]
        kept.append(between)
        total += len(between)
        if total >= count:
            break
    return np.concatenate(kept)[:count]
