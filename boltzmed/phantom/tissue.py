"""What the torso is made of: HU by contrast phase, and the order in which parts are painted.

``u(low, high)`` draws uniformly. The order of the draws is part of the phantom, see `anatomy`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from boltzmed.phantom.anatomy import Anatomy
from boltzmed.phantom.painting import Canvas, Layer
from boltzmed.phantom.shapes import (
    FloatArray,
    Point,
    around,
    beside,
    bumps,
    draw_points,
    ellipsoid,
    inside,
    plus,
    rotation,
    smooth_max,
)
from boltzmed.phantom.skeleton import BODY, paint_skeleton
from boltzmed.phantom.vessels import grow_tree

LUNGS = {"right": 1, "left": 2}
VESSELS = {"right": 3, "left": 14}
HEART = 5
AORTA = 6
LIVER = 7
SPLEEN = 8
KIDNEYS = {"right": 9, "left": 10}

PHASES = ("none", "arterial", "portal", "delayed")
"""Contrast phases of clinical body CT: unenhanced, arterial, portal venous, delayed."""

_PHASE_RATES = (0.3, 0.2, 0.35, 0.15)

# HU ranges of each structure, one for each phase. "uptake" is what soft tissue gains.
_HU_RANGES = {
    "aorta": ((36, 50), (220, 400), (130, 200), (80, 120)),
    "lung vessel": ((30, 55), (110, 320), (110, 190), (70, 115)),
    "vein": ((34, 48), (50, 130), (110, 170), (80, 115)),
    "liver": ((50, 68), (52, 78), (85, 120), (68, 95)),
    "portal": ((34, 46), (60, 120), (140, 190), (85, 110)),
    "spleen": ((40, 54), (90, 160), (95, 135), (65, 95)),
    "cortex": ((28, 40), (130, 220), (150, 210), (105, 150)),
    "medulla": ((26, 38), (45, 80), (110, 170), (110, 170)),
    "myocardium": ((40, 52), (80, 120), (90, 120), (65, 90)),
    "uptake": ((0, 5), (10, 60), (20, 80), (15, 70)),
}

_ONLY_BODY = (BODY,)
_BODY_AND_LUNGS = (BODY, *LUNGS.values())


class Torso:
    """One anatomy, painted onto a canvas; every HU offset is drawn from ``rng``.

    Attributes:
        phase: one of `PHASES`.
        hu: HU by structure.
    """

    def __init__(self, canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator) -> None:
        self.canvas = canvas
        self.anatomy = anatomy
        self.rng = rng
        self.phase = str(rng.choice(PHASES, p=_PHASE_RATES))
        self.hu: dict[str, float] = {}
        for name, ranges in _HU_RANGES.items():
            self.hu[name] = float(rng.uniform(*ranges[PHASES.index(self.phase)]))
        self.hu |= {
            "muscle": rng.uniform(42, 68) + 0.1 * self.hu["uptake"],
            "fat": rng.uniform(-118, -92),
            "soft": rng.uniform(20, 45),
            "lung": rng.uniform(-895, -800),
            "cortex bone": rng.uniform(430, 700),
            "marrow": rng.uniform(120, 240),
            "mediastinum": rng.uniform(-105, -40),
        }

    def paint(self) -> None:
        """Paint everything, what lies on top last."""
        if self.rng.random() < 0.8:
            self._paint_couch()
        self._paint_wall()
        self._paint_psoas()
        self._paint_fat_planes()
        self._paint_bowel()
        self._paint_pancreas_and_stomach()
        self._paint_lungs()
        self._paint_oesophagus_and_great_vessels()
        self._paint_hila()
        self._paint_lymph_nodes()
        self._paint_airways()
        self._paint_organs()
        self._paint_heart()
        self._shape(
            "aorta", [(0, self.hu["soft"], AORTA), (1.3, self.hu["aorta"], AORTA)], 4.0, 3.0
        )
        paint_skeleton(self.canvas, self.anatomy, self.rng, self.hu)

    def _shape(
        self,
        name: str,
        layers: Sequence[Layer],
        texture_hu: float,
        step_mm: float = 4.0,
        over: tuple[int, ...] | None = None,
    ) -> None:
        """Paint one of the anatomy's shapes."""
        shape = self.anatomy.shapes[name]
        box = self.anatomy.boxes[name]
        self.canvas.paint(shape, box, layers, texture_hu, step_mm, over)

    def _paint_couch(self) -> None:
        """Paint a curved couch top: a dense shell around light foam."""
        u = self.rng.uniform
        back_y = self.anatomy.back_y
        drop = back_y + u(2, 12)
        bend = u(300, 700)

        def couch(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
            rise = drop - x * x / np.float32(2 * bend)
            value: FloatArray = np.maximum(np.abs(y - rise - 14) - 12, np.abs(x) - 215)
            return value.astype(np.float32)

        box = ((-230.0, back_y - 110, -330.0), (230.0, back_y + 60, 330.0))
        self.canvas.paint(couch, box, [(0, u(-150, 40), None), (3, u(-960, -880), None)], 0.0)

    def _paint_wall(self) -> None:
        """Paint skin, fat, muscle and what fills the cavity, fatter below the diaphragm."""
        u = self.rng.uniform
        hu = self.hu
        cavity = self.anatomy.shapes["cavity"]
        diaphragm = self.anatomy.diaphragm
        self._shape("body", [(0, u(-10, 40), BODY), (2.0, hu["fat"], BODY)], 7.0)
        self._shape("muscle", [(0, hu["muscle"], BODY)], 14.0)
        self._shape("cavity", [(0, hu["mediastinum"], BODY)], 14.0)

        def low_fat(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
            return smooth_max(cavity(x, y, z) + 3, diaphragm(x, y, z) + 2, 5)

        box = ((-170, -120, -330), (170, 135, 30))
        self.canvas.paint(low_fat, box, [(0, hu["fat"] + u(0, 15), BODY)], 12.0)

    def _paint_psoas(self) -> None:
        """Paint the psoas muscles inside the cavity."""
        anatomy = self.anatomy
        layers: list[Layer] = [(0, self.hu["muscle"], BODY)]
        for sign in (-1, 1):
            knots = []
            for z, dx, dy in ((-60, 24, 4), (-150, 36, 4), (-270, 48, -4)):
                x = float(anatomy.spine_x(z) + sign * dx)
                knots.append((x, float(anatomy.spine_y(z) + dy), z))
            radii = np.array([6.0, 17.0, 24.0]) * self.rng.uniform(0.85, 1.15)
            self.canvas.paint_tube(knots, radii, layers, 10.0, 4.0)

    def _paint_fat_planes(self) -> None:
        """Paint fat between the layers of the trunk's muscles and in the shoulder girdle."""
        u = self.rng.uniform
        fat = self.hu["fat"]
        muscle = self.anatomy.shapes["muscle"]
        wave = bumps(self.rng, 3.0, 70.0)

        def sheets(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
            depth = muscle(x, y, z) + wave(x, y, z)
            thin = np.minimum(np.abs(depth + 5.0), np.abs(depth + 9.5)) - 0.9
            value: FloatArray = np.maximum(thin, np.maximum(30 - np.abs(x), np.abs(y) - 70))
            return value

        box = ((-200, -75, -300), (200, 75, 40))
        self.canvas.paint(sheets, box, [(0, fat + 20, BODY)], 10.0, 3.0)
        for sign in (-1, 1):
            for _ in range(self.rng.integers(4, 8)):
                spot = (sign * u(95, 150), u(-45, 75), u(120, 250))
                turn = rotation(u(-30, 30), u(-30, 30), u(0, 180))
                blob = ellipsoid(spot, (u(15, 40), u(3, 9), u(15, 45)), turn)
                ripple = bumps(self.rng, 2.5, 30.0)
                streak = inside(muscle, 4, plus(blob, ripple), 3)
                layers: list[Layer] = [(0, fat + u(0, 25), BODY)]
                self.canvas.paint(streak, around(spot, 50), layers, 12.0, 3.0)

    def _paint_bowel(self) -> None:
        """Paint loops of small bowel and the colon, with contrast, stool and gas."""
        u = self.rng.uniform
        rng = self.rng
        wall = self.hu["soft"] + 0.5 * self.hu["uptake"]
        self.oral_hu = u(120, 260) if rng.random() < 0.15 else u(0, 35)
        for _ in range(rng.integers(24, 40)):
            start = np.array([u(-70, 82), u(-66, 14), u(-250, -112)])
            knots = start + np.cumsum(rng.normal(0, 17, (5, 3)) * [1, 0.7, 0.8], axis=0)
            knots[:, 1] = knots[:, 1].clip(-75, 22)
            knots[:, 2] = knots[:, 2].clip(-330, -112)
            content = self.oral_hu + u(-12, 12)
            layers: list[Layer] = [(0, wall + u(-8, 20), BODY), (2.6, content, BODY)]
            if rng.random() < 0.25:
                layers.append((u(4, 7), -920.0, BODY))
            self.canvas.paint_tube(knots, u(9, 14), layers, 8.0)
        for part in self._draw_colon():
            radii = u(13, 22) * (1 + 0.18 * rng.standard_normal(9)).clip(0.65, 1.4)
            stool = u(-80, 45)
            gas_depth = u(5.0, 12.0)
            layers = [(0, wall, BODY), (2.5, stool, BODY)]
            if rng.random() < 0.7:
                layers.append((gas_depth, -930.0, BODY))
            self.canvas.paint_tube(part, radii, layers, 30.0)

    def _draw_colon(self) -> tuple[list[Point], list[Point], list[Point]]:
        """Draw the knots of ascending, transverse and descending colon."""
        u = self.rng.uniform
        x = u(84, 96)
        y = u(5, 30)
        ascending: list[Point] = [
            (-x, y, -320),
            (-x - 3, y - 5, -220),
            (-x + 4, y - 12, -150),
        ]
        transverse: list[Point] = [
            (-x + 6, -25, -142),
            (-48, -66, -150),
            (0, -76, u(-190, -140)),
            (52, -64, -130),
            (x - 5, -10, -92),
        ]
        descending: list[Point] = [(x, 12, -100), (x + 2, y + 12, -180), (x - 2, y + 8, -320)]
        return ascending, transverse, descending

    def _paint_pancreas_and_stomach(self) -> None:
        u = self.rng.uniform
        hu = self.hu
        wall = hu["soft"] + 0.5 * hu["uptake"]
        spine_y = float(self.anatomy.spine_y(-80))
        pancreas = [
            (-32, spine_y - 52, -112),
            (-5, spine_y - 62, -92),
            (35, spine_y - 48, -78),
            (72, spine_y - 20, -62),
        ]
        radii = np.array([14, 9, 9, 7]) * u(0.8, 1.1)
        layers: list[Layer] = [(0, hu["soft"] + 0.7 * hu["uptake"], BODY)]
        self.canvas.paint_tube(pancreas, radii, layers, 14.0)
        content = u(0, 40) if self.rng.random() < 0.7 else self.oral_hu
        self._shape("stomach", [(0, wall + u(0, 20), BODY), (u(3, 6), content, BODY)], 10.0)
        if self.rng.random() < 0.85:
            self._shape("stomach gas", [(0, -940.0, BODY)], 0.0)

    def _paint_lungs(self) -> None:
        u = self.rng.uniform
        canvas = self.canvas
        self._shape("diaphragm", [(0, self.hu["muscle"], BODY)], 6.0, 3.0, over=_ONLY_BODY)
        grain = u(15, 40)
        for side, label in LUNGS.items():
            self._shape(f"{side} lung", [(0, self.hu["lung"] + u(-8, 8), label)], grain, 3.0)
        # The lung lying underneath is denser: a linear rise to the back.
        slope = u(0.1, 0.75)
        y = canvas.frame.axes_mm[1].astype(np.float32)
        rise = slope * (y + 20)
        for k in range(len(canvas.hu)):
            is_lung = (canvas.labels[k] == LUNGS["right"]) | (canvas.labels[k] == LUNGS["left"])
            if is_lung.any():
                canvas.hu[k] += is_lung * rise[:, None]

    def _paint_oesophagus_and_great_vessels(self) -> None:
        """Paint the oesophagus, the venae cavae, their branches and those of the aortic arch."""
        u = self.rng.uniform
        hu = self.hu
        tube = self.canvas.paint_tube
        sx = self.anatomy.spine_x
        sy = self.anatomy.spine_y
        heart_y = self.anatomy.heart_centre[1]
        soft = hu["soft"] + 0.5 * hu["uptake"]
        gullet = []
        for z, dx, dy in ((270, 0, 22), (120, 4, 24), (40, 6, 30), (-25, 16, 42)):
            gullet.append((float(sx(z) + dx), float(sy(z) - dy), z))
        radius = u(6.5, 9)
        tube(gullet, radius, [(0, soft, BODY), (4.5, u(-300, 40), BODY)], over=_ONLY_BODY)
        vein: list[Layer] = [(0, hu["vein"], BODY)]
        lower_cava = [
            (-22, heart_y + 26, 12),
            (-24, float(sy(-60) - 34), -60),
            (float(sx(-150) - 19), float(sy(-150) - 36), -150),
            (-18, float(sy(-320) - 36), -320),
        ]
        tube(lower_cava, u(9, 13), vein, over=_ONLY_BODY)
        upper_cava = [(-24, -14, 155), (-26, -20, 100), (-24, -18, 58)]
        tube(upper_cava, u(7.5, 10), vein, over=_ONLY_BODY)
        left_branch = [(-24, -14, 155), (0, -32, 148), (34, -10, 190), (40, 0, 260)]
        tube(left_branch, u(5, 7), vein, over=_ONLY_BODY)
        right_branch = [(-24, -14, 155), (-36, -4, 195), (-40, 5, 260)]
        tube(right_branch, u(5, 7), vein, over=_ONLY_BODY)
        for x0, y0, x1 in ((-8, -6, -24), (4, 2, 14), (14, 14, 30)):
            artery = [(x0, y0, 116), (x0 * 1.1, y0 + 2, 160), (x1, y0 + 6, 260)]
            tube(artery, u(3.6, 5.2), [(0, hu["aorta"], BODY)], 3.0, 2.0)

    def _paint_hila(self) -> None:
        """Paint the pulmonary trunk and arteries, and the veins to the left atrium."""
        tube = self.canvas.paint_tube
        centre = self.anatomy.heart_centre
        right = self.anatomy.points["right hilum"]
        left = self.anatomy.points["left hilum"]
        hu = self.hu["lung vessel"]
        artery: list[Layer] = [(0, hu, BODY)]
        trunk = [
            (centre[0] - 4, centre[1] - 24, 70),
            (16, -24, 86),
            (20, -8, 88),
            beside(left, 4, 0, 6),
        ]
        tube(trunk, np.array([13, 12, 10, 8.0]), artery, over=_BODY_AND_LUNGS)
        right_artery = [(16, -20, 86), (-6, -8, 80), beside(right, -2, 0, 2)]
        tube(right_artery, np.array([11, 9, 8.0]), artery, over=_BODY_AND_LUNGS)
        for hilum, sign in ((right, -1), (left, 1)):
            atrium = (centre[0] - 10 + sign * 16, centre[1] + 34, centre[2] + 22)
            vein = [atrium, beside(hilum, sign * 5, -2, -16)]
            tube(vein, np.array([7, 6.0]), [(0, hu + 8, BODY)], over=_BODY_AND_LUNGS)

    def _paint_lymph_nodes(self) -> None:
        rng = self.rng
        soft = self.hu["soft"] + 0.5 * self.hu["uptake"]

        def near_midline(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
            value: FloatArray = np.abs(x) - 32
            return value

        box = ((-40, -45, 40), (40, 35, 160))
        for spot in draw_points(rng, near_midline, box, int(rng.integers(6, 16)), -99, 0):
            radii = tuple(rng.uniform(2.5, 6.5) * rng.uniform(0.8, 1.5, 3))
            node = ellipsoid(tuple(spot), radii)
            layers: list[Layer] = [(0, soft + rng.uniform(-5, 25), BODY)]
            self.canvas.paint(node, around(tuple(spot), 12), layers, 4.0, 2.0, _ONLY_BODY)

    def _paint_airways(self) -> None:
        """Paint the trachea and the main bronchi, which keep the labels around them."""
        u = self.rng.uniform
        sx = self.anatomy.spine_x
        sy = self.anatomy.spine_y
        carina = (float(sx(95)) - 2, float(sy(95)) - 40, 92.0)
        top = (float(sx(260)), float(sy(260)) - 28, 265.0)
        middle = (u(-3, 3), carina[1] - 3, 150.0)
        layers: list[Layer] = [(0, self.hu["soft"], None), (1.6, -985.0, None)]
        self.canvas.paint_tube([top, middle, carina], u(8.5, 11), layers, 0.0, 2.5)
        for side, sign, fall in (("right", -1, 6), ("left", 1, 14)):
            bronchus = [carina, beside(self.anatomy.points[f"{side} hilum"], sign * 8, 2, -fall)]
            self.canvas.paint_tube(bronchus, np.array([8.0, 5.5]), layers, 0.0, 2.0)

    def _paint_organs(self) -> None:
        """Paint liver, gallbladder, spleen and kidneys."""
        u = self.rng.uniform
        hu = self.hu
        bladder = (-38 + u(-8, 8), -52 + u(-8, 8), -98 + u(-8, 8))
        self._shape("liver", [(0, hu["liver"], LIVER)], 6.0, 3.0)
        self._paint_liver_contents()
        if self.rng.random() < 0.85:
            radii = (u(9, 16), u(10, 16), u(20, 34))
            shape = ellipsoid(bladder, radii, rotation(u(-30, 30), u(-30, 10), 0))
            layers: list[Layer] = [(0, hu["soft"] + 8, BODY), (2, u(2, 18), BODY)]
            self.canvas.paint(shape, around(bladder, 38), layers, 3.0)
        # In the arterial phase the spleen enhances in bands.
        bands = 14.0 if self.phase == "arterial" else 0.0
        self._shape("spleen", [(0, hu["spleen"], SPLEEN)], 6.0 + bands, 3.0)
        for side in KIDNEYS:
            self._paint_kidney(side)

    def _paint_kidney(self, side: str) -> None:
        """Paint one kidney with its vessels and, in some, cysts."""
        u = self.rng.uniform
        hu = self.hu
        anatomy = self.anatomy
        label = KIDNEYS[side]
        self._shape(f"{side} kidney", [(0, hu["cortex"], label)], 6.0, 3.0)
        self._shape(f"{side} medulla", [(0, hu["medulla"], None)], 6.0, 3.0, over=(label,))
        hilum = anatomy.points[f"{side} renal hilum"]
        z = hilum[2]
        off_spine = 14 if side == "left" else -14
        end = (anatomy.spine_x(z) + off_spine, anatomy.spine_y(z) - 34, z + 8)
        blood: list[Layer] = [(0, 0.5 * (hu["aorta"] + hu["vein"]), BODY)]
        self.canvas.paint_tube([tuple(hilum), end], u(4, 6), blood, step_mm=2.0, over=_ONLY_BODY)
        kidney = anatomy.shapes[f"{side} kidney"]
        for _ in range(self.rng.poisson(0.5)):
            for spot in draw_points(self.rng, kidney, anatomy.boxes[f"{side} kidney"], 1, -9, -1):
                radius = float(np.exp(u(np.log(3), np.log(14))))
                self._paint_spot(spot, np.full(3, radius), None, u(-5, 20), 2.0, label)

    def _paint_heart(self) -> None:
        hu = self.hu
        wall: list[Layer] = [(0, 0.6 * hu["myocardium"], HEART), (3.0, hu["myocardium"], HEART)]
        self._shape("heart", wall, 6.0, 3.0)
        arterial = 0.5 * (hu["aorta"] + hu["lung vessel"])
        mixed = 0.5 * (hu["vein"] + hu["lung vessel"])
        for side, value in (("left", arterial), ("right", mixed)):
            for chamber in ("ventricle", "atrium"):
                self._shape(f"{side} {chamber}", [(0, value, None)], 6.0, 3.0, over=(HEART,))

    def _paint_liver_contents(self) -> None:
        """Paint portal and hepatic veins and, in some, cysts and lesions."""
        u = self.rng.uniform
        rng = self.rng
        liver = self.anatomy.shapes["liver"]
        box = self.anatomy.boxes["liver"]
        for root, hu_vessel, tip in (
            ((-24, -4, -62), self.hu["portal"], 0.9),
            ((-20, 12, -8), self.hu["vein"], 1.0),
        ):
            targets = draw_points(rng, liver, box, 34, -200, -6)
            tree = grow_tree(rng, np.array(root, float), targets, tip)
            self.canvas.paint_tubes(tree.tubes(hu_vessel, {LIVER: LIVER}, 3.0))
        for _ in range(rng.poisson(1.0)):
            for spot in draw_points(rng, liver, box, 1, -200, -8):
                radii = np.exp(u(np.log(2.5), np.log(18))) * rng.uniform(0.8, 1.25, 3)
                value = u(0, 15) if rng.random() < 0.6 else self.hu["liver"] + u(-35, 30)
                turn = rotation(*u(-60, 60, 3))
                self._paint_spot(spot, radii, turn, value, 4.0, LIVER)

    def _paint_spot(
        self,
        centre: NDArray[np.float64],
        radii: NDArray[np.float64],
        turn: NDArray[np.float64] | None,
        value_hu: float,
        texture_hu: float,
        over: int,
    ) -> None:
        """Paint a cyst or lesion inside one label, which it keeps."""
        shape = ellipsoid(tuple(centre), tuple(radii), turn)
        box = around(tuple(centre), float(radii.max()) + 3)
        self.canvas.paint(shape, box, [(0, value_hu, None)], texture_hu, 2.0, (over,))
