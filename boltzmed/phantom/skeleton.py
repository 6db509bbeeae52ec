"""The bones: how they are shaped beyond the anatomy's spine, and how they are painted (cortex
around marrow).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from boltzmed.phantom.anatomy import Anatomy
from boltzmed.phantom.painting import Canvas, Layer, Tubes
from boltzmed.phantom.shapes import FloatArray, around, ellipsoid, rotation

SPINE, RIB, BODY = 11, 12, 13


def paint_skeleton(
    canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator, hu: dict[str, float]
) -> None:
    """Paints shoulder girdle, sternum, ribs and spine; ``hu`` names "cortex bone" and "marrow"."""
    a = anatomy
    u = rng.uniform
    cortex = hu["cortex bone"]
    marrow = hu["marrow"]
    for sign in (-1, 1):
        blade = (sign * u(92, 104), 84 + u(-5, 6), 140 + u(-8, 8))
        tilt = rotation(u(-12, 0), 0, sign * u(52, 66))
        shape = ellipsoid(blade, (4.5, 46, 62), tilt)
        canvas.paint(
            shape,
            around(blade, 66),
            [(0, cortex * 0.8, BODY), (1.8, marrow, BODY)],
            15.0,
            2.5,
            (BODY,),
        )
        front = float(a.cavity_middle(180) - a.cavity_y(180))
        collar = [
            (sign * 16, front - 12, 186),
            (sign * 70, front + 2, 202),
            (sign * 140, front + 40, 218),
        ]
        canvas.paint_tube(
            collar, u(5, 7), [(0, cortex, BODY), (2, marrow, BODY)], 15.0, 2.5, (BODY,)
        )
    half = u(13, 18)

    def sternum(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        front = a.cavity_middle(z) - a.cavity_y(z) - 7
        width = half * (1 + 0.5 / (1 + np.exp(-(z - 145) / 8)))
        flat = np.maximum(np.abs(y - front) - 5.5, np.abs(x) - width)
        return np.maximum(flat, np.abs(z - 105) - 80).astype(np.float32)

    canvas.paint(
        sternum,
        ((-40, -150, 15), (40, 0, 195)),
        [(0, cortex * 0.7, BODY), (1.6, marrow, BODY)],
        20.0,
        2.5,
        (BODY,),
    )
    _paint_ribs(canvas, a, rng, hu)
    canvas.paint(
        a.shapes["arch"],
        a.boxes["arch"],
        [(0, cortex, SPINE), (1.8, marrow + 60, SPINE)],
        25.0,
        2.0,
    )
    canvas.paint(
        a.shapes["vertebra"],
        a.boxes["vertebra"],
        [(0, cortex, SPINE), (1.6, marrow, SPINE)],
        25.0,
        2.0,
    )
    canvas.paint(a.shapes["disc"], a.boxes["disc"], [(0, u(60, 110), SPINE)], 6.0, 2.0)
    canvas.paint(
        a.shapes["canal"],
        a.boxes["canal"],
        [(0, u(-20, 15), BODY), (2.5, u(25, 40), BODY)],
        3.0,
        2.0,
    )


def _paint_ribs(canvas: Canvas, a: Anatomy, rng: np.random.Generator, hu: dict[str, float]) -> None:
    """Twelve pairs of ribs around the cavity, each falling from its vertebra to the front, with
    costal cartilage.
    """
    u = rng.uniform
    first = int(np.argmin(np.abs(a.levels - 220)))
    bone: list[tuple[NDArray, float]] = []
    cartilage: list[tuple[NDArray, float]] = []
    slope = u(1.1, 1.6)
    for sign in (-1, 1):
        for number in range(12):
            level = a.levels[first - number] if first >= number else a.levels[0]
            end = [0.74, 0.76, 0.76, 0.75, 0.74, 0.72, 0.70, 0.67, 0.63, 0.58, 0.42, 0.27][
                number
            ] + u(-0.02, 0.02)
            drop = [28, 42, 50, 56, 60, 62, 62, 60, 55, 48, 36, 26][number] * slope + u(-4, 4)
            stop = 0.95 if number < 10 else end
            angle = np.linspace(0.1, stop, 44)
            z = level - drop * np.sin(np.minimum(angle, 0.72) / 0.72 * np.pi / 2) ** 1.5
            # Past the bony end, the cartilage climbs to the sternum.
            z = z + np.maximum(angle - 0.72, 0) * (20 + 22 * max(0, number - 3))
            half_x = a.cavity_x(z) + 5.0
            half_y = a.cavity_y(z) + 5.0
            phi = angle * np.pi
            x = a.spine_x(z) * 0.3 + sign * half_x * np.abs(np.sin(phi)) ** 0.87
            y = a.cavity_middle(z) + half_y * np.sign(np.cos(phi)) * np.abs(np.cos(phi)) ** 0.87
            curve = np.stack([x, y, z], axis=1) + rng.normal(0, 0.25, (44, 3))
            radius = float(rng.uniform(4.0, 5.2)) * (0.85 if number in (0, 10, 11) else 1.0)
            inside = angle <= end
            bone.append((curve[inside], radius))
            if number < 10:
                cartilage.append((curve[~inside], radius * 1.1))
    soft: list[Layer] = [(0.0, u(90, 170), BODY)]
    hard: list[Layer] = [(0.0, hu["cortex bone"], RIB), (1.6, hu["marrow"], RIB)]
    for group, layers in ((cartilage, soft), (bone, hard)):
        points = []
        radii = []
        segments = []
        offset = 0
        for curve, radius in group:
            if len(curve) < 2:
                continue
            points.append(curve)
            radii.append(np.full(len(curve), radius))
            segments.append(
                np.stack([np.arange(len(curve) - 1), np.arange(1, len(curve))], 1) + offset
            )
            offset += len(curve)
        tubes = Tubes(
            np.concatenate(points),
            np.concatenate(radii),
            np.concatenate(segments),
            0.0,
            {},
            flatten=0.72,
            texture_hu=15.0,
        )
        canvas.paint_thick_tubes(tubes, layers, 2.0)
