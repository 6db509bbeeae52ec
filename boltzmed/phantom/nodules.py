"""Lung nodules, and what resembles them in a lung: scars, filled bronchi, collapsed strips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boltzmed.phantom.frame import Frame
from boltzmed.phantom.painting import Canvas
from boltzmed.phantom.shapes import (
    Box,
    FloatArray,
    Shape,
    around,
    bumps,
    draw_points,
    ellipsoid,
    evaluate,
    minus,
    rotation,
)
from boltzmed.phantom.vessels import NODE_STEP_MM, Tree


@dataclass(frozen=True)
class NoduleShape:
    """A nodule before it is painted.

    Attributes:
        centre: (3,) body mm.
        diameter_mm: of the sphere of the same volume.
        kind: "solid", "ground-glass" or "part-solid".
        touches: "vessel", "pleura" or "none".
        hu: of the nodule, and of a part-solid one's core.
        core_hu: of the nodule, and of a part-solid one's core.
        waves: outline, see `draw_relief`.
        feeders: vessels that run into it.
    """

    centre: NDArray[np.float64]
    diameter_mm: float
    kind: str
    touches: str
    hu: float
    core_hu: float
    waves: NDArray[np.float64]
    feeders: tuple[Tree, ...] = ()

    def radius(self, direction: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the radius (mm) along unit directions (..., 3)."""
        relief = _relief(self.waves, direction)
        return (relief * np.float32(self.diameter_mm / 2)).astype(np.float32)


def _relief(waves: NDArray[np.float64], direction: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the relative radius along unit directions (..., 3) of waves, see `draw_relief`."""
    total = np.zeros(direction.shape[:-1], np.float32)
    for row in waves:
        angle = np.arccos(np.clip(direction @ row[:3].astype(np.float32), -1, 1))
        total += np.float32(row[3]) * np.cos(np.float32(row[4]) * angle)
    relief: NDArray[np.float32] = np.exp(total)
    return relief


def draw_relief(rng: np.random.Generator, roughness: float) -> NDArray[np.float64]:
    """Draw an outline of unit volume: an elongation (order 2) and some lobes (orders 3 to 5).

    Returns:
        Waves (n, 5) of the logarithm of the radius, one a row: direction (3), amplitude, order.
    """
    orders = np.array([2, 2, 3, 3, 4, 5])
    size = np.array([1.0, 0.8, 0.5, 0.5, 0.35, 0.3]) * roughness
    axes = rng.standard_normal((len(orders), 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    waves = np.column_stack([axes, rng.normal(0, 1, len(orders)).clip(-2, 2) * size, orders])
    n = np.arange(600) + 0.5
    polar = np.arccos(1 - 2 * n / 600)
    turn = np.pi * (1 + 5**0.5) * n
    sphere = np.stack(
        [np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], 1
    )
    # Directions spread evenly over a sphere (a Fibonacci spiral) average the volume.
    volume = float((_relief(waves, sphere.astype(np.float32)) ** 3).mean())
    # Order 0 is a constant: it carries the normalisation.
    return np.vstack([waves, [1.0, 0.0, 0.0, -np.log(volume) / 3, 0]])


@dataclass(frozen=True)
class _LungSpace:
    """Where a nodule may lie in a lung.

    Attributes:
        lung: the shape, mm below zero inside.
        points: (n, 3) and (n,), the nodes of the lung's vessels.
        radii: (n, 3) and (n,), the nodes of the lung's vessels.
        depth: (n,) the lung's value at them.
        pool: (m, 3) points all over the lung.
        pool_depth: (m,) the lung's value at them.
    """

    lung: Shape
    points: NDArray[np.float64]
    radii: NDArray[np.float64]
    depth: FloatArray
    pool: NDArray[np.float64]
    pool_depth: FloatArray

    def draw_centre(
        self, rng: np.random.Generator, touches: str, radius: float
    ) -> NDArray[np.float64] | None:
        """Draw a nodule's centre (3,) by what it touches; None where nothing of the lung fits."""
        if touches == "vessel":
            thick = float(np.clip(0.22 * radius, 0.5, 1.6))
            fit = np.flatnonzero(
                (self.depth < -max(2.0, 0.6 * radius))
                & (self.radii < max(1.2, 0.7 * radius))
                & (self.radii > thick)
            )
            if not len(fit):
                return None
            node = int(rng.choice(fit))
            away = rng.standard_normal(3)
            away /= np.linalg.norm(away)
            centre: NDArray[np.float64] = self.points[node] + away * radius * rng.uniform(0.3, 0.95)
            return centre
        if touches == "pleura":
            is_fit = (self.pool_depth > -radius * 0.95) & (self.pool_depth < -radius * 0.35)
        else:
            is_fit = (self.pool_depth > -200.0) & (self.pool_depth < -radius - 2.0)
        spots = np.flatnonzero(is_fit)
        return self.pool[int(rng.choice(spots))] if len(spots) else None

    def has_room(
        self, centre: NDArray[np.float64], radius: float, touches: str, others: list[NoduleShape]
    ) -> bool:
        """Return whether a nodule is inside the lung and touches nothing that it should not."""
        is_inside = evaluate(self.lung, centre[None])[0] < -0.3 * radius
        for other in others:
            if np.linalg.norm(centre - other.centre) <= radius + other.diameter_mm / 2 + 3:
                return False
        gap = np.linalg.norm(self.points - centre, axis=1) - self.radii - radius
        is_clear = touches == "vessel" or gap.min() > (0.5 if touches == "none" else -1.0)
        return bool(is_inside and is_clear)


def draw_nodules(
    rng: np.random.Generator,
    lung: Shape,
    box: Box,
    trees: list[Tree],
    count: int,
    enhancement_hu: float,
) -> list[NoduleShape]:
    """Draw up to ``count`` nodules of one lung.

    They are free, on a vessel or on the pleura, none overlaps another. One that finds no place in
    60 attempts is left out.
    """
    nodules: list[NoduleShape] = []
    points = np.concatenate([tree.points for tree in trees])
    radii = np.concatenate([tree.radii for tree in trees])
    pool = draw_points(rng, lung, box, 3000, -200.0, 0.0)
    space = _LungSpace(lung, points, radii, evaluate(lung, points), pool, evaluate(lung, pool))
    for _ in range(count):
        diameter = float(np.exp(rng.uniform(np.log(2.0), np.log(20.0))))
        radius = diameter / 2
        touches = str(rng.choice(["vessel", "pleura", "none"], p=[0.55, 0.27, 0.18]))
        kind = str(rng.choice(["solid", "ground-glass", "part-solid"], p=[0.62, 0.24, 0.14]))
        if diameter < 5 and kind != "solid":
            kind = "solid" if rng.random() < 0.7 else "ground-glass"
        core_hu = rng.uniform(-15, 60) + enhancement_hu * rng.uniform(0, 0.6)
        hu = core_hu if kind == "solid" else rng.uniform(-680, -420)
        for _ in range(60):
            centre = space.draw_centre(rng, touches, radius)
            if centre is None:
                break
            if space.has_room(centre, radius, touches, nodules):
                waves = draw_relief(rng, float(rng.uniform(0.05, 0.16)))
                feeders: tuple[Tree, ...] = ()
                if touches != "none" and diameter > 5:
                    feeders = _draw_feeders(rng, centre, radius, points, radii)
                nodules.append(
                    NoduleShape(centre, diameter, kind, touches, hu, core_hu, waves, feeders)
                )
                break
    return nodules


def _draw_feeders(
    rng: np.random.Generator,
    centre: NDArray[np.float64],
    radius: float,
    points: NDArray[np.float64],
    radii: NDArray[np.float64],
) -> tuple[Tree, ...]:
    """Draw vessels that run from the trees into a nodule, as they do in patients."""
    gap = np.linalg.norm(points - centre, axis=1)
    near = np.flatnonzero((gap > radius + 2) & (gap < radius + 30) & (radii > 0.8))
    feeders = []
    for node in rng.permutation(near)[: rng.integers(1, 4)]:
        steps = int(gap[node] / NODE_STEP_MM) + 2
        t = np.linspace(0, 1, steps)[:, None]
        bow = rng.normal(0, 0.1, 3) * gap[node]
        path = (1 - t) * points[node] + t * centre + t * (1 - t) * 2 * bow
        end = float(np.clip(0.2 * radius, 0.7, 1.7))
        calibre = np.linspace(min(radii[node], 1.6 * end), end, steps)
        feeders.append(Tree(path, calibre, np.arange(-1, steps - 1)))
    return tuple(feeders)


@dataclass(frozen=True)
class Mimic:
    """What resembles a nodule: a scar, a mucus plug, a strip of collapsed lung at the pleura."""

    shape: Shape
    box: Box
    hu: float


def draw_mimics(
    rng: np.random.Generator, lung: Shape, box: Box, tree: Tree, count: int
) -> list[Mimic]:
    """Draw scars (bands seen edge-on in axial slices), filled bronchi and pleural strips."""
    mimics: list[Mimic] = []
    spots = draw_points(rng, lung, box, 4 * count + 40, -200, -4)
    rim = draw_points(rng, lung, box, 400, -3.0, 0)
    for number in range(count):
        kind = rng.choice(["scar", "plug", "strip"], p=[0.4, 0.3, 0.3])
        hu = float(rng.uniform(-250, 60))
        if kind == "scar" and number < len(spots):
            mimics.append(_draw_scar(rng, spots[number], hu))
        elif kind == "plug":
            nodes = np.flatnonzero((tree.radii > 1.0) & (tree.radii < 3))
            if len(nodes):
                mimics.append(_draw_plug(rng, tree.points[int(rng.choice(nodes))]))
        elif kind == "strip" and len(rim):
            mimics.append(_draw_strip(rng, lung, rim, hu))
    return mimics


def _draw_scar(rng: np.random.Generator, spot: NDArray[np.float64], hu: float) -> Mimic:
    radii = (rng.uniform(1.0, 2.6), rng.uniform(8, 22), rng.uniform(5, 14))
    turn = rotation(rng.uniform(-30, 30), rng.uniform(-30, 30), rng.uniform(0, 180))
    return Mimic(ellipsoid(tuple(spot), radii, turn), around(tuple(spot), 24), hu)


def _draw_plug(rng: np.random.Generator, node: NDArray[np.float64]) -> Mimic:
    """Draw a filled bronchus, which runs beside its vessel."""
    centre = tuple(node + rng.normal(0, 4, 3))
    radii = (rng.uniform(8, 18), rng.uniform(2.0, 4.2), rng.uniform(2.0, 4.2))
    turn = rotation(0, rng.uniform(-35, 35), rng.uniform(0, 360))
    return Mimic(ellipsoid(centre, radii, turn), around(centre, 20), rng.uniform(-20, 50))


def _draw_strip(
    rng: np.random.Generator, lung: Shape, rim: NDArray[np.float64], hu: float
) -> Mimic:
    """Draw a strip of collapsed lung, mostly at the back, where the lung's weight lies on it."""
    rearmost = np.argsort(-rim[:, 1])[: len(rim) // 2 + 1]
    centre = tuple(rim[int(rng.choice(rearmost))])
    ripple = bumps(rng, 2.0, 18.0)
    radii = (rng.uniform(12, 30), rng.uniform(12, 26), rng.uniform(10, 26))
    blob = ellipsoid(centre, radii)
    thick = rng.uniform(2.5, 7.0)

    def deep(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        return lung(x, y, z) + thick - ripple(x, y, z)

    return Mimic(minus(blob, deep, 3), around(centre, 34), hu)


def paint_nodule(
    canvas: Canvas, nodule: NoduleShape, centre: NDArray[np.float64], labels: dict[int, int]
) -> int:
    """Paint one nodule at a scanner position and return the number of voxels it was labelled on.

    The mask takes voxels covered by more than half of the most that any voxel is, so that a nodule
    thinner than a slice, which fills no voxel, still has the mask a reader would draw; its HU keep
    the true partial volume.

    Args:
        canvas: to paint on.
        nodule: its shape.
        centre: (3,) scanner mm.
        labels: label below the nodule -> the nodule's label there; others are not covered.
    """
    samples = _sample_nodule(canvas.frame, nodule, centre)
    if samples is None:
        return 0
    below = canvas.labels[samples.where]
    hu = canvas.hu[samples.where]
    texture = canvas.texture[samples.where]
    allowed = np.isin(below, list(labels))
    cover = samples.cover() * allowed
    if nodule.kind == "solid":
        hu += cover * (nodule.hu + 8 * texture - hu)
    else:
        # Ground glass veils what lies in it: it only ever raises the lung's HU, vessels stay
        # visible.
        hu += cover * np.maximum(nodule.hu + 60 * texture - hu, 0)
    if nodule.kind == "part-solid":
        hu += samples.cover(0.55) * allowed * (nodule.core_hu - hu)
    if not cover.any():
        return 0
    inside = (cover > 0.5 * cover.max()) & allowed
    mapping = np.arange(256, dtype=np.uint8)
    for old, new in labels.items():
        mapping[old] = new
    below[inside] = mapping[below[inside]]
    return int(inside.sum())


@dataclass(frozen=True)
class _Samples:
    """A nodule on a grid finer than the voxels.

    Attributes:
        where: the voxels [K, J, I] around the nodule.
        distance: from its centre to each sample, and the outline's in that direction, mm.
        radius: from its centre to each sample, and the outline's in that direction, mm.
        size: (K, samples, J, samples, I, samples).
        step_mm: of the samples in the plane.
    """

    where: tuple[slice, slice, slice]
    distance: FloatArray
    radius: FloatArray
    size: tuple[int, ...]
    step_mm: float

    def cover(self, scale: float = 1.0) -> FloatArray:
        """Return how much of each voxel the nodule fills, its radius scaled."""
        filled = 0.5 - (self.distance - scale * self.radius) / np.float32(self.step_mm)
        cover: FloatArray = np.clip(filled, 0, 1).reshape(self.size).mean(axis=(1, 3, 5))
        return cover


def _sample_nodule(
    frame: Frame, nodule: NoduleShape, centre: NDArray[np.float64]
) -> _Samples | None:
    """Sample a nodule at a scanner position; None where it misses the field of view."""
    reach = nodule.diameter_mm * 0.85 + 1.0
    where = []
    for axis, spacing, middle in zip(frame.axes_mm, frame.spacing_mm, centre, strict=True):
        first, last = np.searchsorted(axis, (middle - reach - spacing, middle + reach + spacing))
        if first >= last:
            return None
        where.append(slice(int(first), int(last)))
    pixel, _, gap = frame.spacing_mm
    fine = max(1, int(np.ceil(4 * pixel / nodule.diameter_mm)))
    offsets_xy = np.zeros(1)
    if fine > 1:
        offsets_xy = ((np.arange(fine) + 0.5) / fine - 0.5) * pixel
    offsets_z = np.linspace(-0.5, 0.5, 2 * max(3, round(gap)) + 1)[1::2] * gap
    samples = []
    for axis, window, offsets, middle in zip(
        frame.axes_mm, where, (offsets_xy, offsets_xy, offsets_z), centre, strict=True
    ):
        positions = (axis[window, None] + offsets).ravel() - middle
        samples.append(positions.astype(np.float32))
    x, y, z = samples
    grid = np.stack(
        np.broadcast_arrays(x[None, None, :], y[None, :, None], z[:, None, None]), axis=-1
    )
    distance = np.linalg.norm(grid, axis=-1)
    radius = nodule.radius(grid / np.maximum(distance, np.float32(1e-4))[..., None])
    columns, rows, slices = (window.stop - window.start for window in where)
    size = (slices, len(offsets_z), rows, len(offsets_xy), columns, len(offsets_xy))
    return _Samples((where[2], where[1], where[0]), distance, radius, size, pixel / fine)
