"""Lung nodules, and the things in a lung that are none: scars, filled bronchi, strips of collapsed
lung.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boltzmed.phantom.painting import Canvas, slice_offsets
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
    """A nodule before rendering: centre in body mm, mean-volume diameter, kind, what it touches,
    and its outline.
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
        """Radius (mm) along unit directions (..., 3); the volume equals that of a sphere of
        ``diameter_mm``.
        """
        return (_relief(self.waves, direction) * np.float32(self.diameter_mm / 2)).astype(
            np.float32
        )


def _relief(waves: NDArray[np.float64], direction: NDArray[np.float32]) -> NDArray[np.float32]:
    """Relative radius along unit directions: rows of waves are (direction 3, amplitude, order)."""
    total = np.zeros(direction.shape[:-1], np.float32)
    for row in waves:
        total += np.float32(row[3]) * np.cos(
            np.float32(row[4]) * np.arccos(np.clip(direction @ row[:3].astype(np.float32), -1, 1))
        )
    return np.exp(total)


def draw_relief(rng: np.random.Generator, roughness: float) -> NDArray[np.float64]:
    """Random outline: an elongation (order 2) and some lobes (orders 3 to 5), normalised to unit
    volume.
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
    volume = float((_relief(waves, sphere.astype(np.float32)) ** 3).mean())
    # Order 0 is a constant: it carries the normalisation.
    return np.vstack([waves, [1.0, 0.0, 0.0, -np.log(volume) / 3, 0]])


def draw_nodules(
    rng: np.random.Generator,
    lung: Shape,
    box: Box,
    trees: list[Tree],
    count: int,
    enhancement_hu: float,
) -> list[NoduleShape]:
    """Places nodules in one lung: free, on a vessel or on the pleura, none overlapping another."""
    nodules: list[NoduleShape] = []
    points = np.concatenate([t.points for t in trees])
    radii = np.concatenate([t.radii for t in trees])
    depth = evaluate(lung, points)
    pool = draw_points(rng, lung, box, 3000, -200.0, 0.0)
    pool_depth = evaluate(lung, pool)
    for _ in range(count):
        diameter = float(np.exp(rng.uniform(np.log(2.0), np.log(20.0))))
        radius = diameter / 2
        touches = str(rng.choice(["vessel", "pleura", "none"], p=[0.55, 0.27, 0.18]))
        kind = str(rng.choice(["solid", "ground-glass", "part-solid"], p=[0.62, 0.24, 0.14]))
        if diameter < 5 and kind != "solid":
            kind = "solid" if rng.random() < 0.7 else "ground-glass"
        hu = rng.uniform(-15, 60) + enhancement_hu * rng.uniform(0, 0.6)
        core = hu
        if kind != "solid":
            hu = rng.uniform(-680, -420)
        for _ in range(60):
            if touches == "vessel":
                thick = float(np.clip(0.22 * radius, 0.5, 1.6))
                fit = np.flatnonzero(
                    (depth < -max(2.0, 0.6 * radius))
                    & (radii < max(1.2, 0.7 * radius))
                    & (radii > thick)
                )
                if not len(fit):
                    break
                node = int(rng.choice(fit))
                away = rng.standard_normal(3)
                away /= np.linalg.norm(away)
                centre = points[node] + away * radius * rng.uniform(0.3, 0.95)
            else:
                low, high = (
                    (-radius * 0.95, -radius * 0.35)
                    if touches == "pleura"
                    else (-200.0, -radius - 2.0)
                )
                spots = np.flatnonzero((pool_depth > low) & (pool_depth < high))
                if not len(spots):
                    break
                centre = pool[int(rng.choice(spots))]
            inside = evaluate(lung, centre[None])[0] < -0.3 * radius
            free = all(
                np.linalg.norm(centre - n.centre) > radius + n.diameter_mm / 2 + 3 for n in nodules
            )
            gap = np.linalg.norm(points - centre, axis=1) - radii - radius
            clear = touches == "vessel" or gap.min() > (0.5 if touches == "none" else -1.0)
            if inside and free and clear:
                waves = draw_relief(rng, float(rng.uniform(0.05, 0.16)))
                feeders = (
                    _draw_feeders(rng, centre, radius, points, radii)
                    if touches != "none" and diameter > 5
                    else ()
                )
                nodules.append(
                    NoduleShape(
                        centre, diameter, kind, touches, float(hu), float(core), waves, feeders
                    )
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
    """Vessels that run from the trees into a nodule, and tie it to them as they do in patients."""
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
    """A thing in the lung that is no nodule: a flat scar, a mucus plug, a strip of collapsed lung
    at the pleura.
    """

    shape: Shape
    box: Box
    hu: float


def draw_mimics(
    rng: np.random.Generator, lung: Shape, box: Box, tree: Tree, count: int
) -> list[Mimic]:
    """Draws scars (bands seen edge-on in axial slices), filled bronchi and dependent or pleural
    strips.
    """
    out: list[Mimic] = []
    spots = draw_points(rng, lung, box, 4 * count + 40, -200, -4)
    rim = draw_points(rng, lung, box, 400, -3.0, 0)
    for n in range(count):
        kind = rng.choice(["scar", "plug", "strip"], p=[0.4, 0.3, 0.3])
        hu = float(rng.uniform(-250, 60))
        if kind == "scar" and n < len(spots):
            radii = (rng.uniform(1.0, 2.6), rng.uniform(8, 22), rng.uniform(5, 14))
            turn = rotation(rng.uniform(-30, 30), rng.uniform(-30, 30), rng.uniform(0, 180))
            out.append(
                Mimic(ellipsoid(tuple(spots[n]), radii, turn), around(tuple(spots[n]), 24), hu)
            )
        elif kind == "plug":
            middle = np.flatnonzero((tree.radii > 1.0) & (tree.radii < 3))
            if len(middle):
                c = tree.points[int(rng.choice(middle))] + rng.normal(0, 4, 3)
                radii = (rng.uniform(8, 18), rng.uniform(2.0, 4.2), rng.uniform(2.0, 4.2))
                turn = rotation(0, rng.uniform(-35, 35), rng.uniform(0, 360))
                out.append(
                    Mimic(
                        ellipsoid(tuple(c), radii, turn), around(tuple(c), 20), rng.uniform(-20, 50)
                    )
                )
        elif kind == "strip" and len(rim):
            # Mostly at the back, where the lung collapses under its own weight.
            c = rim[int(rng.choice(np.argsort(-rim[:, 1])[: len(rim) // 2 + 1]))]
            wide = bumps(rng, 2.0, 18.0)
            radii = (rng.uniform(12, 30), rng.uniform(12, 26), rng.uniform(10, 26))
            blob = ellipsoid(tuple(c), radii)
            thick = rng.uniform(2.5, 7.0)

            def deep(
                x: FloatArray,
                y: FloatArray,
                z: FloatArray,
                wide: Shape = wide,
                thick: float = thick,
            ) -> FloatArray:
                return lung(x, y, z) + thick - wide(x, y, z)

            strip = minus(blob, deep, 3)
            out.append(Mimic(strip, around(tuple(c), 34), hu))
    return out


def paint_nodule(
    canvas: Canvas, nodule: NoduleShape, centre: NDArray[np.float64], labels: dict[int, int]
) -> int:
    """Paints one nodule at a scanner position and returns the number of voxels it was labelled on.

    The mask takes voxels covered by more than half of the most that any voxel is, so that a nodule
    thinner than a slice, which fills no voxel, still has the mask a reader would draw; its HU keep
    the true partial volume.
    """
    reach = nodule.diameter_mm * 0.85 + 1.0
    frame = canvas.frame
    spans = []
    for axis, spacing, c in zip(frame.axes_mm, frame.spacing_mm, centre, strict=True):
        first, last = np.searchsorted(axis, (c - reach - spacing, c + reach + spacing))
        if first >= last:
            return 0
        spans.append((int(first), int(last)))
    (i0, i1), (j0, j1), (k0, k1) = spans
    fine = max(1, int(np.ceil(4 * frame.spacing_mm[0] / nodule.diameter_mm)))
    sub_xy = slice_offsets(1.0)[:, None] if fine == 1 else ((np.arange(fine) + 0.5) / fine - 0.5)
    offsets_xy = np.ravel(sub_xy) * (0.0 if fine == 1 else frame.spacing_mm[0])
    offsets_z = (
        np.linspace(-0.5, 0.5, 2 * max(3, round(frame.spacing_mm[2])) + 1)[1::2]
        * frame.spacing_mm[2]
    )
    x = ((frame.axes_mm[0][i0:i1, None] + offsets_xy).ravel() - centre[0]).astype(np.float32)
    y = ((frame.axes_mm[1][j0:j1, None] + offsets_xy).ravel() - centre[1]).astype(np.float32)
    z = ((frame.axes_mm[2][k0:k1, None] + offsets_z).ravel() - centre[2]).astype(np.float32)
    grid = np.stack(
        np.broadcast_arrays(x[None, None, :], y[None, :, None], z[:, None, None]), axis=-1
    )
    distance = np.linalg.norm(grid, axis=-1)
    radius = nodule.radius(grid / np.maximum(distance, np.float32(1e-4))[..., None])
    pixel = np.float32(frame.spacing_mm[0] / fine)
    size = (k1 - k0, len(offsets_z), j1 - j0, len(offsets_xy), i1 - i0, len(offsets_xy))

    def coverage(share: float) -> NDArray[np.float32]:
        part = np.clip(0.5 - (distance - share * radius) / pixel, 0, 1)
        return part.reshape(size).mean(axis=(1, 3, 5))

    where = np.s_[k0:k1, j0:j1, i0:i1]
    below = canvas.labels[where]
    hu = canvas.hu[where]
    allowed = np.isin(below, list(labels))
    cover = coverage(1.0) * allowed
    texture = canvas.texture[where]
    if nodule.kind == "ground-glass":
        # Ground glass veils what lies in it: it only ever raises the lung's HU, vessels stay
        # visible.
        hu += cover * np.maximum(nodule.hu + 60 * texture - hu, 0)
    elif nodule.kind == "part-solid":
        hu += cover * np.maximum(nodule.hu + 60 * texture - hu, 0)
        hu += coverage(0.55) * allowed * (nodule.core_hu - hu)
    else:
        hu += cover * (nodule.hu + 8 * texture - hu)
    if not cover.any():
        return 0
    inside = (cover > 0.5 * cover.max()) & allowed
    mapping = np.arange(256, dtype=np.uint8)
    for old, new in labels.items():
        mapping[old] = new
    below[inside] = mapping[below[inside]]
    return int(inside.sum())
