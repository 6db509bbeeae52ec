"""The bones: their shapes beyond the anatomy's spine, and their painting, cortex around marrow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from boltzmed.phantom.anatomy import Anatomy
from boltzmed.phantom.painting import Canvas, Layer, Tubes
from boltzmed.phantom.shapes import FloatArray, around, ellipsoid, rotation

SPINE = 11
RIB = 12
BODY = 13

# By rib, from the first: the angle (in half turns from the spine) at which the bone ends, and how
# far (mm, before a random slope) the rib falls from its vertebra.
_BONE_ENDS = (0.74, 0.76, 0.76, 0.75, 0.74, 0.72, 0.70, 0.67, 0.63, 0.58, 0.42, 0.27)
_DROPS_MM = (28, 42, 50, 56, 60, 62, 62, 60, 55, 48, 36, 26)

_Rod = tuple[NDArray[np.float64], float]  # a curve (n, 3) in body mm and its radius


def paint_skeleton(
    canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator, hu: dict[str, float]
) -> None:
    """Paint shoulder girdle, sternum, ribs and spine; ``hu`` names "cortex bone" and "marrow"."""
    _paint_shoulders(canvas, anatomy, rng, hu)
    _paint_sternum(canvas, anatomy, rng, hu)
    _paint_ribs(canvas, anatomy, rng, hu)
    _paint_spine(canvas, anatomy, rng, hu)


def _paint_shoulders(
    canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator, hu: dict[str, float]
) -> None:
    u = rng.uniform
    cortex = hu["cortex bone"]
    marrow = hu["marrow"]
    for sign in (-1, 1):
        blade = (sign * u(92, 104), 84 + u(-5, 6), 140 + u(-8, 8))
        tilt = rotation(u(-12, 0), 0, sign * u(52, 66))
        shape = ellipsoid(blade, (4.5, 46, 62), tilt)
        layers: list[Layer] = [(0, cortex * 0.8, BODY), (1.8, marrow, BODY)]
        canvas.paint(shape, around(blade, 66), layers, 15.0, 2.5, (BODY,))
        front = float(anatomy.cavity_middle(180) - anatomy.cavity_y(180))
        collar = [
            (sign * 16, front - 12, 186),
            (sign * 70, front + 2, 202),
            (sign * 140, front + 40, 218),
        ]
        radius = u(5, 7)
        canvas.paint_tube(
            collar, radius, [(0, cortex, BODY), (2, marrow, BODY)], 15.0, 2.5, (BODY,)
        )


def _paint_sternum(
    canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator, hu: dict[str, float]
) -> None:
    half = rng.uniform(13, 18)

    def sternum(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        front = anatomy.cavity_middle(z) - anatomy.cavity_y(z) - 7
        width = half * (1 + 0.5 / (1 + np.exp(-(z - 145) / 8)))
        flat = np.maximum(np.abs(y - front) - 5.5, np.abs(x) - width)
        value: FloatArray = np.maximum(flat, np.abs(z - 105) - 80)
        return value.astype(np.float32)

    box = ((-40, -150, 15), (40, 0, 195))
    layers: list[Layer] = [(0, hu["cortex bone"] * 0.7, BODY), (1.6, hu["marrow"], BODY)]
    canvas.paint(sternum, box, layers, 20.0, 2.5, (BODY,))


def _paint_spine(
    canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator, hu: dict[str, float]
) -> None:
    u = rng.uniform
    cortex = hu["cortex bone"]
    marrow = hu["marrow"]
    arch: list[Layer] = [(0, cortex, SPINE), (1.8, marrow + 60, SPINE)]
    vertebra: list[Layer] = [(0, cortex, SPINE), (1.6, marrow, SPINE)]
    disc: list[Layer] = [(0, u(60, 110), SPINE)]
    canal: list[Layer] = [(0, u(-20, 15), BODY), (2.5, u(25, 40), BODY)]
    # What is painted later lies on top: the canal runs through the arches.
    for name, layers, texture_hu in (
        ("arch", arch, 25.0),
        ("vertebra", vertebra, 25.0),
        ("disc", disc, 6.0),
        ("canal", canal, 3.0),
    ):
        canvas.paint(anatomy.shapes[name], anatomy.boxes[name], layers, texture_hu, 2.0)


def _paint_ribs(
    canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator, hu: dict[str, float]
) -> None:
    """Paint twelve pairs of ribs around the cavity, with costal cartilage."""
    u = rng.uniform
    bone: list[_Rod] = []
    cartilage: list[_Rod] = []
    slope = u(1.1, 1.6)
    for sign in (-1, 1):
        for number in range(12):
            end = _BONE_ENDS[number] + u(-0.02, 0.02)
            drop = _DROPS_MM[number] * slope + u(-4, 4)
            angle = np.linspace(0.1, 0.95 if number < 10 else end, 44)
            curve = _rib_curve(anatomy, number, sign, angle, drop)
            curve = curve + rng.normal(0, 0.25, (44, 3))
            radius = float(u(4.0, 5.2)) * (0.85 if number in (0, 10, 11) else 1.0)
            is_bone = angle <= end
            bone.append((curve[is_bone], radius))
            if number < 10:
                cartilage.append((curve[~is_bone], radius * 1.1))
    soft: list[Layer] = [(0.0, u(90, 170), BODY)]
    hard: list[Layer] = [(0.0, hu["cortex bone"], RIB), (1.6, hu["marrow"], RIB)]
    canvas.paint_thick_tubes(_join_rods(cartilage), soft, 2.0)
    canvas.paint_thick_tubes(_join_rods(bone), hard, 2.0)


def _rib_curve(
    anatomy: Anatomy, number: int, sign: int, angle: NDArray[np.float64], drop_mm: float
) -> NDArray[np.float64]:
    """Return a rib's course (n, 3), body mm, falling from its vertebra to the front.

    Args:
        anatomy: the cavity that the rib runs around.
        number: of the rib, from 0 at the top.
        sign: -1 on the right, 1 on the left.
        angle: (n,) in half turns from the spine.
        drop_mm: how far the rib falls.
    """
    first = int(np.argmin(np.abs(anatomy.levels - 220)))
    level = anatomy.levels[max(first - number, 0)]
    z = level - drop_mm * np.sin(np.minimum(angle, 0.72) / 0.72 * np.pi / 2) ** 1.5
    # Past the bony end, the cartilage climbs to the sternum.
    z = z + np.maximum(angle - 0.72, 0) * (20 + 22 * max(0, number - 3))
    half_x = anatomy.cavity_x(z) + 5.0
    half_y = anatomy.cavity_y(z) + 5.0
    phi = angle * np.pi
    x = anatomy.spine_x(z) * 0.3 + sign * half_x * np.abs(np.sin(phi)) ** 0.87
    across = np.sign(np.cos(phi)) * np.abs(np.cos(phi)) ** 0.87
    y = anatomy.cavity_middle(z) + half_y * across
    return np.stack([x, y, z], axis=1)


def _join_rods(rods: list[_Rod]) -> Tubes:
    """Return curves (n, 3) of one radius each as tubes, those of fewer than two points left out."""
    points = []
    radii = []
    segments = []
    offset = 0
    for curve, radius in rods:
        if len(curve) < 2:
            continue
        points.append(curve)
        radii.append(np.full(len(curve), radius))
        chain = np.stack([np.arange(len(curve) - 1), np.arange(1, len(curve))], 1)
        segments.append(chain + offset)
        offset += len(curve)
    return Tubes(
        np.concatenate(points),
        np.concatenate(radii),
        np.concatenate(segments),
        hu=0.0,
        labels={},
        flatten=0.72,
        texture_hu=15.0,
    )
