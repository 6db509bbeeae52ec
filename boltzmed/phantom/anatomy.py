"""The torso's organs as implicit shapes, drawn at random from a seed.

They stand in body coordinates, LPS mm before pose and size: x to the patient's left, y to
posterior, z to superior, the origin in the midline at the height of the right diaphragm's dome.
Sizes are those of an adult; every number below has a random part (``u(low, high)`` draws it
uniformly), and none ever changes sides: liver right, spleen and stomach left, heart apex left,
aorta left of the spine.

The order of the draws is part of the phantom: a draw that is added, removed or moved changes every
phantom of every seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from boltzmed.phantom.shapes import (
    Box,
    FloatArray,
    Point,
    Shape,
    around,
    beside,
    box_of,
    bumps,
    dense_curve,
    ellipsoid,
    minus,
    plus,
    profile,
    rotation,
    smooth_max,
    smooth_min,
    tabulate,
    tube,
)


@dataclass
class Anatomy:
    """One person's shapes (body mm, negative inside) and the curves that other parts follow.

    Attributes:
        rng: of all draws.
        shapes: by the organ's name.
        boxes: outside which a shape is surely absent, by the same names.
        points: places and curves (n, 3) by name.
        low_mm: the range of z that a scan covers, before size.
        high_mm: the range of z that a scan covers, before size.
    """

    rng: np.random.Generator
    shapes: dict[str, Shape] = field(default_factory=dict)
    boxes: dict[str, Box] = field(default_factory=dict)
    points: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    low_mm: float = -215.0
    high_mm: float = 235.0

    def __post_init__(self) -> None:
        self._draw_wall()
        self._draw_spine()
        self._draw_heart_and_aorta()
        self._draw_lungs()
        self._draw_liver_and_spleen()
        self._draw_kidneys()
        self._draw_gut()

    def add(self, name: str, shape: Shape, box: Box) -> None:
        """Keep a shape and its box (mm)."""
        self.shapes[name] = shape
        self.boxes[name] = box

    def _draw_wall(self) -> None:
        """Skin, fat, muscle and the cavity: superelliptic cross-sections whose size follows z."""
        u = self.rng.uniform
        width = u(0.93, 1.07)
        depth = u(0.92, 1.08)
        z = [-300, -240, -150, -60, 0, 60, 110, 150, 185, 207, 222, 232]
        half_x = np.array([124, 126, 130, 136, 138, 135, 126, 109, 83, 60, 36, 8]) * width
        half_y = np.array([72, 76, 84, 91, 93, 89, 82, 69, 52, 37, 22, 5]) * depth
        middle = np.array([-12, -10, -6, -1, 0, 2, 5, 9, 15, 18, 20, 20]) + u(-2, 2)
        self.cavity_x = profile(z, half_x)
        self.cavity_y = profile(z, half_y)
        self.cavity_middle = profile(z, middle)
        power = u(2.25, 2.7)

        def cavity(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
            a = self.cavity_x(z)
            b = self.cavity_y(z)
            dy = y - self.cavity_middle(z)
            q = (np.abs(x / a) ** power + np.abs(dy / b) ** power) ** (1 / power)
            value: FloatArray = (q - 1) * (a + b) / 2
            return value

        muscle = u(11, 19)
        zw = [-320, -240, -100, 0, 90, 140, 180, 220, 270]
        wall_x = np.array([136, 137, 139, 139, 141, 152, 162, 165, 150]) * width + muscle
        wall_y = np.array([84, 87, 92, 94, 91, 86, 78, 68, 62]) * depth + muscle + 3
        wall_middle = np.array([-4, -4, 2, 5, 6, 8, 13, 18, 20]) + u(-2, 2)
        wx = profile(zw, wall_x)
        wy = profile(zw, wall_y)
        wm = profile(zw, wall_middle)
        fat = float(np.exp(u(np.log(7), np.log(30))))
        belly = u(0.0, 0.9) * fat
        rough = bumps(self.rng, 3.0, 140.0)

        def outline(extra: float) -> Shape:
            def shape(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
                grow: NDArray[np.floating] | float = extra
                if extra:
                    below = 1 / (1 + np.exp((z + 20) / 40))
                    grow = extra + belly * below * np.clip(-y / 100 + 0.3, 0, 1) * (extra / fat)
                a = wx(z) + grow
                b = wy(z) + grow
                q = (np.abs(x / a) ** 2.5 + np.abs((y - wm(z)) / b) ** 2.5) ** 0.4
                value: FloatArray = ((q - 1) * (a + b) / 2 + rough(x, y, z)).astype(np.float32)
                return value

            return shape

        box: Box = ((-260, -200, -330), (260, 200, 330))
        self.add("body", outline(fat), box)
        self.add("muscle", outline(0.0), box)
        self.add("cavity", cavity, ((-170, -120, -330), (170, 135, 236)))
        self.back_y = float(np.max(wall_y) + fat + 5)

    def _draw_spine(self) -> None:
        """Vertebrae with discs, pedicles, spinous and transverse processes and a canal."""
        u = self.rng.uniform
        z = [-330, -200, -110, -20, 60, 140, 200, 260]
        curve_y = np.array([50, 46, 46, 54, 63, 64, 56, 44]) + u(-3, 3) + self.rng.normal(0, 1.5, 8)
        curve_x = np.cumsum(self.rng.normal(0, 2.0, 8))
        curve_x -= curve_x.mean()
        self.spine_x = profile(z, curve_x)
        self.spine_y = profile(z, curve_y)
        size = profile(z, list(np.array([25, 24, 23, 20, 17.5, 15.5, 14, 12.5]) * u(0.92, 1.08)))
        self.levels = _list_levels(top_mm=262.0 + u(-8, 8))
        number = np.arange(len(self.levels), dtype=float)
        gap = u(0.12, 0.2)
        muscle = self.shapes["muscle"]

        height = tabulate(self.levels, lambda z: np.interp(z, self.levels, number))

        def phase(z: FloatArray) -> FloatArray:
            return height(z) % 1

        def body(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
            r = size(z) * (1 + 0.07 * np.cos(2 * np.pi * phase(z)).astype(np.float32))
            dx = x - self.spine_x(z)
            dy = y - self.spine_y(z)
            value: FloatArray = np.sqrt((dx / 1.18) ** 2 + (dy / 0.95) ** 2) - r
            return value

        def disc(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
            p = phase(z)
            edge = (np.minimum(p, 1 - p) - np.float32(gap / 2)) * 28
            value: FloatArray = np.maximum(body(x, y, z) + 0.5, edge)
            return value

        def arch(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
            r = size(z)
            dx = x - self.spine_x(z)
            dy = y - self.spine_y(z) - 0.95 * r
            ring = np.abs(np.sqrt((dx / 1.1) ** 2 + (dy - 9) ** 2) - 12.5) - 3.2
            p = phase(z) - 0.5
            process = np.maximum(np.abs(dx) - 3.2 + 0.02 * dy, np.abs(dy - 34) - 16)
            process = np.maximum(process, np.abs(p) * 30 - 9)
            side = np.maximum(np.abs(dy - 12 - 0.15 * np.abs(dx)) - 4.0, np.abs(dx) - 34)
            side = np.maximum(side, np.abs(p + 0.1) * 30 - 6)
            out = smooth_min(smooth_min(ring, process, 4), side, 4)
            # Open the ring between neighbouring vertebrae (the foramina); the muscles cover the
            # processes.
            out = smooth_max(out, np.abs(p) * 30 - 11.5, 3)
            return smooth_max(out, muscle(x, y, z) + 3, 3).astype(np.float32)

        def canal(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
            dx = x - self.spine_x(z)
            dy = y - self.spine_y(z) - 0.95 * size(z)
            value: FloatArray = np.sqrt((dx / 1.1) ** 2 + (dy - 9) ** 2) - 8.5
            return value

        self.add("vertebra", body, ((-42, 10, -330), (42, 95, 260)))
        self.add("disc", disc, ((-42, 10, -330), (42, 95, 260)))
        self.add("arch", arch, ((-46, 45, -330), (46, 140, 260)))
        self.add("canal", canal, ((-22, 50, -330), (22, 110, 260)))

    def _draw_heart_and_aorta(self) -> None:
        u = self.rng.uniform
        size = u(0.9, 1.12)
        centre = (21 + u(-5, 5), -27 + u(-4, 4), 36 + u(-5, 5))
        # The heart's long axis runs from the right, back and above to the left, front and below.
        long_axis = np.array([0.74 + u(-0.1, 0.1), -0.50 + u(-0.1, 0.1), -0.54 + u(-0.1, 0.1)])
        long_axis /= np.linalg.norm(long_axis)
        side = np.cross(long_axis, [0, 0, 1])
        side /= np.linalg.norm(side)
        tilt = np.stack([long_axis, side, np.cross(long_axis, side)], axis=1)
        radii = (64 * size, 46 * size, 45 * size)
        outer = ellipsoid(centre, radii, tilt)
        rough = bumps(self.rng, 1.8, 70.0)
        self.add("heart", plus(outer, rough), around(centre, 75 * size))

        def inside(along: float, across: float, up: float) -> Point:
            return tuple(np.array(centre) + tilt @ (np.array([along, across, up]) * size))

        # side = long axis x up points to the front and right, so the right ventricle lies there.
        for name, spot, r in (
            ("left ventricle", inside(18, -16, -2), (33, 20, 20)),
            ("right ventricle", inside(8, 26, -4), (34, 12, 22)),
            ("left atrium", inside(-34, -20, 8), (20, 20, 22)),
            ("right atrium", inside(-36, 20, 2), (19, 19, 24)),
        ):
            axes = tuple(v * size * u(0.9, 1.1) for v in r)
            self.add(name, ellipsoid(spot, axes, tilt), around(spot, max(axes) + 4))
        self.heart_centre = np.array(centre)

        root = beside(self.heart_centre, -19, 4, 30)
        top = u(118, 134)
        sx = self.spine_x
        sy = self.spine_y
        lateral = u(21, 27)
        knots = [
            root,
            (root[0] - 8, root[1] - 8, 95),
            (-6, -12, top - 8),
            (5, 6, top),
            (17, 28, top - 10),
            (sx(90) + lateral, sy(90) - 16, 88),
            (sx(30) + lateral - 1, sy(30) - 18, 30),
            (sx(-30) + 16, sy(-30) - 27, -30),
            (sx(-110) + 13, sy(-110) - 35, -110),
            (sx(-250) + 11, sy(-250) - 38, -250),
        ]
        self.points["aorta"] = dense_curve(np.array(knots, float), 11.0)
        aorta = tube(self.points["aorta"], u(11.0, 14.5), taper=0.72)
        self.add("aorta", aorta, box_of(self.points["aorta"], 20))

    def _draw_lungs(self) -> None:
        u = self.rng.uniform
        dome = {"right": u(-6, 8), "left": u(-20, -8)}
        fall = {side: u(62, 85) for side in dome}
        half = (u(8, 11), u(20, 27))
        recess = u(2.0, 4.0)
        middle = u(-24, -14)

        def diaphragm(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
            """Height above the diaphragm: two domes and the heart's bed, falling to the ribs."""
            right = dome["right"] - fall["right"] * (((x + 68) / 95) ** 2 + ((y + 12) / 88) ** 2)
            left = dome["left"] - fall["left"] * (((x - 74) / 95) ** 2 + ((y + 12) / 88) ** 2)
            tendon = middle - 55 * (((x - 6) / 62) ** 2 + ((y + 34) / 75) ** 2)
            height = -smooth_min(-right.astype(np.float32), -left.astype(np.float32), 25)
            height = -smooth_min(-height, -tendon.astype(np.float32), 20)
            value: FloatArray = z - np.maximum(height, -115) + 0.10 * np.clip(y, 0, 90)
            return value.astype(np.float32)

        self.diaphragm = diaphragm
        cavity = self.shapes["cavity"]
        heart = self.shapes["heart"]

        def sheet(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
            value: FloatArray = np.maximum(np.abs(diaphragm(x, y, z) + 2.2) - 2.2, cavity(x, y, z))
            return value

        self.add("diaphragm", sheet, ((-150, -110, -130), (150, 125, 25)))
        spine = self.shapes["vertebra"]
        aorta = self.shapes["aorta"]
        rough = bumps(self.rng, 2.0, 60.0)

        def lung(sign: int) -> Shape:
            def shape(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
                width = half[0] + half[1] * np.exp(-(((y - 2) / 42) ** 2)) * (
                    0.75 + 0.25 * np.exp(-(((z - 75) / 50) ** 2))
                )
                out = smooth_max(cavity(x, y, z) + recess, (width - sign * x).astype(np.float32), 7)
                out = smooth_max(out, 2.0 - diaphragm(x, y, z), 4)
                out = smooth_max(out, 3.0 - heart(x, y, z), 6)
                out = smooth_max(out, 4.0 - spine(x, y, z), 6)
                # The gutter beside the spine ends at the ribs' heads: no lung behind the vertebra.
                behind = np.maximum(np.abs(x - self.spine_x(z)) - 27, self.spine_y(z) + 4 - y)
                out = smooth_max(out, -behind.astype(np.float32), 6)
                return out + rough(x, y, z)

            if sign < 0:
                return shape

            def left_shape(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
                return smooth_max(shape(x, y, z), 2.5 - aorta(x, y, z), 5)

            return left_shape

        self.add("right lung", lung(-1), ((-160, -115, -130), (0, 130, 234)))
        self.add("left lung", lung(1), ((0, -115, -130), (160, 130, 234)))
        level = u(60, 75)
        self.points["right hilum"] = np.array([-27.0, 4.0, level])
        self.points["left hilum"] = np.array([28.0, 8.0, level + u(3, 12)])

    def _draw_liver_and_spleen(self) -> None:
        u = self.rng.uniform
        cavity = self.shapes["cavity"]
        diaphragm = self.diaphragm
        size = u(0.9, 1.08)
        right = ellipsoid(
            (-70 + u(-5, 5), -4, -52), (88 * size, 98, 92 * size), rotation(0, u(5, 18), 0)
        )
        left = ellipsoid(
            (10 + u(-10, 10), -48, -42),
            (82 * size, 46, 42 * size),
            rotation(0, u(-4, 14), u(-8, 8)),
        )
        slope = u(0.28, 0.5)
        rise = u(0.1, 0.35)
        edge = u(-135, -112)
        rough = bumps(self.rng, 2.5, 60.0)
        spine = self.shapes["vertebra"]
        heart = self.shapes["heart"]

        def liver(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
            out = smooth_min(right(x, y, z), left(x, y, z), 18)
            out = smooth_max(out, cavity(x, y, z) + 4.5, 5)
            out = smooth_max(out, diaphragm(x, y, z) + 4.0, 4)
            # The visceral surface rises to the left and to the back, over the right kidney.
            under = edge + slope * (x + 110) + rise * (y + 20) - z
            out = smooth_max(out, (under * np.float32(0.8)).astype(np.float32), 14)
            out = smooth_max(out, 10.0 - spine(x, y, z), 8)
            out = smooth_max(out, 2.0 - heart(x, y, z), 4)
            return out + rough(x, y, z)

        self.add("liver", liver, ((-150, -110, -165), (110, 105, 12)))
        c = np.array([88 + u(-5, 5), 40 + u(-6, 6), -52 + u(-8, 8)])
        body = ellipsoid(
            tuple(c),
            (43 * u(0.92, 1.1), 58 * u(0.92, 1.1), 58 * u(0.9, 1.15)),
            rotation(u(-20, 10), u(-15, 5), 0),
        )
        notch = ellipsoid(beside(c, -38, -28, -4), (34, 42, 54), rotation(0, 0, u(-25, 5)))
        rough_spleen = bumps(self.rng, 2.0, 45.0)

        def spleen(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
            out = smooth_max(body(x, y, z), cavity(x, y, z) + 4.5, 5)
            out = smooth_max(out, diaphragm(x, y, z) + 4.0, 4)
            return smooth_max(out, -notch(x, y, z), 12) + rough_spleen(x, y, z)

        self.add("spleen", spleen, around(tuple(c), 75))

    def _draw_kidneys(self) -> None:
        u = self.rng.uniform
        left_z = -112 + u(-8, 8)
        for name, sign, z in (("right", -1, left_z - u(14, 26)), ("left", 1, left_z)):
            y0 = float(self.spine_y(z))
            x0 = float(self.spine_x(z))
            c = np.array([x0 + sign * u(56, 64), y0 + u(2, 9), z])
            # Upper poles lean to the spine and back, the hilum faces inwards and to the front.
            tilt = rotation(u(5, 14), sign * u(6, 14), sign * u(10, 35))
            radii = (u(24, 29), u(21, 26), u(50, 60))
            outer = ellipsoid(tuple(c), radii, tilt)
            rough = bumps(self.rng, 1.6, 35.0)
            hollow = tilt @ np.array([-sign * 21.0, 0, 0])
            sinus = ellipsoid(tuple(c + hollow), (19, 9, 21), tilt)
            deep = ellipsoid(tuple(c), (radii[0] * 0.68, radii[1] * 0.66, radii[2] * 0.82), tilt)
            kidney = minus(plus(outer, rough), sinus, 5)
            medulla = plus(deep, bumps(self.rng, 5.0, 22.0))
            box = around(tuple(c), (45, 45, 72))
            self.add(f"{name} kidney", kidney, box)
            self.add(f"{name} medulla", medulla, box)
            self.points[f"{name} renal hilum"] = c + hollow

    def _draw_gut(self) -> None:
        u = self.rng.uniform
        c = (46 + u(-8, 8), -34 + u(-8, 8), -45 + u(-10, 10))
        out = ellipsoid(
            c, (u(32, 46), u(28, 42), u(38, 58)), rotation(u(-20, 20), u(-35, -5), u(-20, 20))
        )
        rough = bumps(self.rng, 4.0, 50.0)
        cavity = self.shapes["cavity"]
        diaphragm = self.diaphragm

        def stomach(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
            value = smooth_max(out(x, y, z) + rough(x, y, z), cavity(x, y, z) + 5, 5)
            return smooth_max(value, diaphragm(x, y, z) + 5, 5)

        self.add("stomach", stomach, around(c, 72))
        level = c[1] - u(5, 25)
        self.add(
            "stomach gas",
            lambda x, y, z: np.maximum(stomach(x, y, z) + 4, y - level),
            around(c, 72),
        )


def _list_levels(top_mm: float) -> NDArray[np.float64]:
    """Return where the vertebrae meet, z in mm, ascending."""
    levels = [top_mm]
    while levels[-1] > -340:
        # Vertebra and disc together grow in height towards the lumbar spine.
        height = np.interp(levels[-1], [-330, -100, 0, 250], [37, 34, 27, 20])
        levels.append(float(levels[-1] - height))
    return np.array(levels[::-1])
