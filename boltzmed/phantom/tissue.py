"""What the torso is made of: HU by contrast phase, and the order in which the structures are
painted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from boltzmed.phantom.anatomy import Anatomy
from boltzmed.phantom.painting import Canvas, Layer
from boltzmed.phantom.shapes import (
    FloatArray,
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

# HU ranges by contrast phase, arranged as in clinical body CT: unenhanced, arterial, portal venous,
# delayed.
PHASES: dict[str, dict[str, tuple[float, float]]] = {
    "none": {
        "aorta": (36, 50), "lung vessel": (30, 55), "vein": (34, 48), "liver": (50, 68), "portal": (34, 46),
        "spleen": (40, 54), "cortex": (28, 40), "medulla": (26, 38), "myocardium": (40, 52), "uptake": (0, 5),
    },
    "arterial": {
        "aorta": (220, 400), "lung vessel": (110, 320), "vein": (50, 130), "liver": (52, 78), "portal": (60, 120),
        "spleen": (90, 160), "cortex": (130, 220), "medulla": (45, 80), "myocardium": (80, 120), "uptake": (10, 60),
    },
    "portal": {
        "aorta": (130, 200), "lung vessel": (110, 190), "vein": (110, 170), "liver": (85, 120), "portal": (140, 190),
        "spleen": (95, 135), "cortex": (150, 210), "medulla": (110, 170), "myocardium": (90, 120), "uptake": (20, 80),
    },
    "delayed": {
        "aorta": (80, 120), "lung vessel": (70, 115), "vein": (80, 115), "liver": (68, 95), "portal": (85, 110),
        "spleen": (65, 95), "cortex": (105, 150), "medulla": (110, 170), "myocardium": (65, 90), "uptake": (15, 70),
    },
}  # fmt: skip


class Torso:
    """Paints one anatomy onto a canvas; every HU offset is drawn from ``rng``."""

    def __init__(self, canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator):
        self.canvas = canvas
        self.anatomy = anatomy
        self.rng = rng
        self.phase = str(rng.choice(list(PHASES), p=[0.3, 0.2, 0.35, 0.15]))
        self.hu = {name: float(rng.uniform(*span)) for name, span in PHASES[self.phase].items()}
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
        self._paint_wall()
        self._paint_gut()
        self._paint_lungs()
        self._paint_mediastinum()
        self._paint_organs()
        paint_skeleton(self.canvas, self.anatomy, self.rng, self.hu)

    def _shape(
        self,
        name: str,
        layers: Sequence[Layer],
        texture_hu: float,
        step_mm: float = 4.0,
        over: tuple[int, ...] | None = None,
    ) -> None:
        shape = self.anatomy.shapes[name]
        box = self.anatomy.boxes[name]
        self.canvas.paint(shape, box, layers, texture_hu, step_mm, over)

    def _paint_wall(self) -> None:
        a = self.anatomy
        u = self.rng.uniform
        hu = self.hu
        if self.rng.random() < 0.8:
            # A curved couch top: a dense shell around light foam.
            drop = a.back_y + u(2, 12)
            bend = u(300, 700)

            def couch(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
                rise = drop - x * x / np.float32(2 * bend)
                return np.maximum(np.abs(y - rise - 14) - 12, np.abs(x) - 215).astype(np.float32)

            box = ((-230.0, a.back_y - 110, -330.0), (230.0, a.back_y + 60, 330.0))
            self.canvas.paint(couch, box, [(0, u(-150, 40), None), (3, u(-960, -880), None)], 0.0)
        self._shape("body", [(0, u(-10, 40), BODY), (2.0, hu["fat"], BODY)], 7.0)
        self._shape("muscle", [(0, hu["muscle"], BODY)], 14.0)
        self._shape("cavity", [(0, hu["mediastinum"], BODY)], 14.0)

        def low_fat(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
            return smooth_max(a.shapes["cavity"](x, y, z) + 3, a.diaphragm(x, y, z) + 2, 5)

        self.canvas.paint(
            low_fat, ((-170, -120, -330), (170, 135, 30)), [(0, hu["fat"] + u(0, 15), BODY)], 12.0
        )
        for sign in (-1, 1):
            # Psoas inside the cavity and the erector spinae behind the ribs.
            knots = [
                (a.spine_x(z) + sign * d, a.spine_y(z) + dy, z)
                for z, d, dy in ((-60, 24, 4), (-150, 36, 4), (-270, 48, -4))
            ]
            self.canvas.paint_tube(
                knots,
                np.array([6.0, 17.0, 24.0]) * u(0.85, 1.15),
                [(0, hu["muscle"], BODY)],
                10.0,
                4.0,
            )
        # Fat planes between the layers of the trunk's muscles.
        muscle = a.shapes["muscle"]
        deep = (5.0, 9.5)
        wave = bumps(self.rng, 3.0, 70.0)

        def sheets(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
            depth = muscle(x, y, z) + wave(x, y, z)
            thin = np.minimum(np.abs(depth + deep[0]), np.abs(depth + deep[1])) - 0.9
            return np.maximum(thin, np.maximum(30 - np.abs(x), np.abs(y) - 70))

        self.canvas.paint(
            sheets, ((-200, -75, -300), (200, 75, 40)), [(0, hu["fat"] + 20, BODY)], 10.0, 3.0
        )
        # Fat between the muscles of the shoulder girdle.
        for sign in (-1, 1):
            for _ in range(self.rng.integers(4, 8)):
                spot = (sign * u(95, 150), u(-45, 75), u(120, 250))
                turn = rotation(u(-30, 30), u(-30, 30), u(0, 180))
                blob = ellipsoid(spot, (u(15, 40), u(3, 9), u(15, 45)), turn)
                ripple = bumps(self.rng, 2.5, 30.0)
                streak = inside(muscle, 4, plus(blob, ripple), 3)
                self.canvas.paint(
                    streak, around(spot, 50), [(0, hu["fat"] + u(0, 25), BODY)], 12.0, 3.0
                )

    def _paint_gut(self) -> None:
        u = self.rng.uniform
        hu = self.hu
        rng = self.rng
        wall = hu["soft"] + 0.5 * hu["uptake"]
        oral = u(120, 260) if rng.random() < 0.15 else u(0, 35)
        for _ in range(rng.integers(24, 40)):
            start = np.array([u(-70, 82), u(-66, 14), u(-250, -112)])
            knots = start + np.cumsum(rng.normal(0, 17, (5, 3)) * [1, 0.7, 0.8], axis=0)
            knots[:, 1] = knots[:, 1].clip(-75, 22)
            knots[:, 2] = knots[:, 2].clip(-330, -112)
            content = oral + u(-12, 12)
            layers = [(0, wall + u(-8, 20), BODY), (2.6, content, BODY)]
            if rng.random() < 0.25:
                layers.append((u(4, 7), -920.0, BODY))
            self.canvas.paint_tube(knots, u(9, 14), layers, 8.0)
        x = u(84, 96)
        y = u(5, 30)
        colon = (
            [(-x, y, -320), (-x - 3, y - 5, -220), (-x + 4, y - 12, -150)],
            [
                (-x + 6, -25, -142),
                (-48, -66, -150),
                (0, -76, u(-190, -140)),
                (52, -64, -130),
                (x - 5, -10, -92),
            ],
            [(x, 12, -100), (x + 2, y + 12, -180), (x - 2, y + 8, -320)],
        )
        for part in colon:
            radii = u(13, 22) * (1 + 0.18 * rng.standard_normal(9)).clip(0.65, 1.4)
            stool = u(-80, 45)
            gas = u(5.0, 12.0)
            layers = [(0, wall, BODY), (2.5, stool, BODY)]
            if rng.random() < 0.7:
                layers.append((gas, -930.0, BODY))
            self.canvas.paint_tube(part, radii, layers, 30.0)
        spine_y = float(self.anatomy.spine_y(-80))
        pancreas = [
            (-32, spine_y - 52, -112),
            (-5, spine_y - 62, -92),
            (35, spine_y - 48, -78),
            (72, spine_y - 20, -62),
        ]
        self.canvas.paint_tube(
            pancreas,
            np.array([14, 9, 9, 7]) * u(0.8, 1.1),
            [(0, hu["soft"] + 0.7 * hu["uptake"], BODY)],
            14.0,
        )
        content = u(0, 40) if rng.random() < 0.7 else oral
        self._shape("stomach", [(0, wall + u(0, 20), BODY), (u(3, 6), content, BODY)], 10.0)
        if rng.random() < 0.85:
            self._shape("stomach gas", [(0, -940.0, BODY)], 0.0)

    def _paint_lungs(self) -> None:
        a = self.anatomy
        u = self.rng.uniform
        self._shape("diaphragm", [(0, self.hu["muscle"], BODY)], 6.0, 3.0, over=(BODY,))
        grain = u(15, 40)
        for side, label in LUNGS.items():
            self._shape(f"{side} lung", [(0, self.hu["lung"] + u(-8, 8), label)], grain, 3.0)
        # The lung lying underneath is denser: a linear rise to the back.
        slope = u(0.1, 0.75)
        y = self.canvas.frame.axes_mm[1].astype(np.float32)
        rise = slope * (y + 20)
        for k in range(len(self.canvas.hu)):
            inside = self.canvas.labels[k]
            lung = (inside == LUNGS["right"]) | (inside == LUNGS["left"])
            if lung.any():
                self.canvas.hu[k] += lung * rise[:, None]
        self.hilum_mm = {side: a.points[f"{side} hilum"] for side in LUNGS}

    def _paint_mediastinum(self) -> None:
        a = self.anatomy
        u = self.rng.uniform
        hu = self.hu
        rng = self.rng
        soft = hu["soft"] + 0.5 * hu["uptake"]
        vein = hu["vein"]
        artery = hu["lung vessel"]
        right = self.hilum_mm["right"]
        left = self.hilum_mm["left"]
        c = a.heart_centre
        over = (BODY,)
        sx = a.spine_x
        sy = a.spine_y
        gullet = [
            (sx(z) + dx, sy(z) - dy, z)
            for z, dx, dy in ((270, 0, 22), (120, 4, 24), (40, 6, 30), (-25, 16, 42))
        ]
        self.canvas.paint_tube(
            gullet, u(6.5, 9), [(0, soft, BODY), (4.5, u(-300, 40), BODY)], over=over
        )
        ivc = [
            (-22, c[1] + 26, 12),
            (-24, sy(-60) - 34, -60),
            (sx(-150) - 19, sy(-150) - 36, -150),
            (-18, sy(-320) - 36, -320),
        ]
        self.canvas.paint_tube(ivc, u(9, 13), [(0, vein, BODY)], over=over)
        self.canvas.paint_tube(
            [(-24, -14, 155), (-26, -20, 100), (-24, -18, 58)],
            u(7.5, 10),
            [(0, vein, BODY)],
            over=over,
        )
        self.canvas.paint_tube(
            [(-24, -14, 155), (0, -32, 148), (34, -10, 190), (40, 0, 260)],
            u(5, 7),
            [(0, vein, BODY)],
            over=over,
        )
        self.canvas.paint_tube(
            [(-24, -14, 155), (-36, -4, 195), (-40, 5, 260)], u(5, 7), [(0, vein, BODY)], over=over
        )
        for x0, y0, x1 in ((-8, -6, -24), (4, 2, 14), (14, 14, 30)):
            self.canvas.paint_tube(
                [(x0, y0, 116), (x0 * 1.1, y0 + 2, 160), (x1, y0 + 6, 260)],
                u(3.6, 5.2),
                [(0, hu["aorta"], BODY)],
                3.0,
                2.0,
            )
        hila = (BODY, 1, 2)
        trunk = [(c[0] - 4, c[1] - 24, 70), (16, -24, 86), (20, -8, 88), beside(left, 4, 0, 6)]
        self.canvas.paint_tube(trunk, np.array([13, 12, 10, 8.0]), [(0, artery, BODY)], over=hila)
        self.canvas.paint_tube(
            [(16, -20, 86), (-6, -8, 80), beside(right, -2, 0, 2)],
            np.array([11, 9, 8.0]),
            [(0, artery, BODY)],
            over=hila,
        )
        for hilum, sign in ((right, -1), (left, 1)):
            atrium = (c[0] - 10 + sign * 16, c[1] + 34, c[2] + 22)
            self.canvas.paint_tube(
                [atrium, beside(hilum, sign * 5, -2, -16)],
                np.array([7, 6.0]),
                [(0, artery + 8, BODY)],
                over=hila,
            )
        for spot in draw_points(
            rng,
            lambda x, y, z: np.abs(x) - 32,
            ((-40, -45, 40), (40, 35, 160)),
            int(rng.integers(6, 16)),
            -99,
            0,
        ):
            r = tuple(rng.uniform(2.5, 6.5) * rng.uniform(0.8, 1.5, 3))
            self.canvas.paint(
                ellipsoid(tuple(spot), r),
                around(tuple(spot), 12),
                [(0, soft + u(-5, 25), BODY)],
                4.0,
                2.0,
                over,
            )
        carina = (float(sx(95)) - 2, float(sy(95)) - 40, 92.0)
        top = (float(sx(260)), float(sy(260)) - 28, 265.0)
        tracheal = (u(-3, 3), carina[1] - 3, 150.0)
        airway = [(0, hu["soft"], None), (1.6, -985.0, None)]
        self.canvas.paint_tube([top, tracheal, carina], u(8.5, 11), airway, 0.0, 2.5)
        for hilum, sign in ((right, -1), (left, 1)):
            self.canvas.paint_tube(
                [carina, beside(hilum, sign * 8, 2, -6 if sign < 0 else -14)],
                np.array([8.0, 5.5]),
                airway,
                0.0,
                2.0,
            )

    def _paint_organs(self) -> None:
        a = self.anatomy
        u = self.rng.uniform
        hu = self.hu
        rng = self.rng
        bladder = (-38 + u(-8, 8), -52 + u(-8, 8), -98 + u(-8, 8))
        self._shape("liver", [(0, hu["liver"], 7)], 6.0, 3.0)
        self._paint_liver_contents()
        if rng.random() < 0.85:
            shape = ellipsoid(
                bladder, (u(9, 16), u(10, 16), u(20, 34)), rotation(u(-30, 30), u(-30, 10), 0)
            )
            self.canvas.paint(
                shape, around(bladder, 38), [(0, hu["soft"] + 8, BODY), (2, u(2, 18), BODY)], 3.0
            )
        self._shape(
            "spleen", [(0, hu["spleen"], 8)], 6.0 + (14.0 if self.phase == "arterial" else 0.0), 3.0
        )
        for side, label in (("right", 9), ("left", 10)):
            self._shape(f"{side} kidney", [(0, hu["cortex"], label)], 6.0, 3.0)
            self._shape(f"{side} medulla", [(0, hu["medulla"], None)], 6.0, 3.0, over=(label,))
            hilum = a.points[f"{side} renal hilum"]
            z = hilum[2]
            vessel = [
                tuple(hilum),
                (a.spine_x(z) + (14 if side == "left" else -14), a.spine_y(z) - 34, z + 8),
            ]
            self.canvas.paint_tube(
                vessel,
                u(4, 6),
                [(0, 0.5 * (hu["aorta"] + hu["vein"]), BODY)],
                step_mm=2.0,
                over=(BODY,),
            )
            for _ in range(rng.poisson(0.5)):
                box = a.boxes[f"{side} kidney"]
                spot = draw_points(rng, a.shapes[f"{side} kidney"], box, 1, -9, -1)
                for s in spot:
                    r = float(np.exp(u(np.log(3), np.log(14))))
                    self.canvas.paint(
                        ellipsoid(tuple(s), (r, r, r)),
                        around(tuple(s), r + 3),
                        [(0, u(-5, 20), None)],
                        2.0,
                        2.0,
                        (label,),
                    )
        self._paint_heart()
        self._shape("aorta", [(0, hu["soft"], 6), (1.3, hu["aorta"], 6)], 4.0, 3.0)

    def _paint_heart(self) -> None:
        hu = self.hu
        self._shape("heart", [(0, 0.6 * hu["myocardium"], 5), (3.0, hu["myocardium"], 5)], 6.0, 3.0)
        blood = 0.5 * (hu["aorta"] + hu["lung vessel"])
        mixed = 0.5 * (hu["vein"] + hu["lung vessel"])
        for name, value in (
            ("left ventricle", blood), ("left atrium", blood), ("right ventricle", mixed), ("right atrium", mixed),
        ):  # fmt: skip
            self._shape(name, [(0, value, None)], 6.0, 3.0, over=(5,))

    def _paint_liver_contents(self) -> None:
        a = self.anatomy
        u = self.rng.uniform
        hu = self.hu
        rng = self.rng
        liver = a.shapes["liver"]
        box = a.boxes["liver"]
        for root, hu_vessel, tip in (
            ((-24, -4, -62), hu["portal"], 0.9),
            ((-20, 12, -8), hu["vein"], 1.0),
        ):
            targets = draw_points(rng, liver, box, 34, -200, -6)
            tree = grow_tree(rng, np.array(root, float), targets, tip)
            self.canvas.paint_tubes(tree.tubes(hu_vessel, {7: 7}, 3.0))
        for _ in range(rng.poisson(1.0)):
            for spot in draw_points(rng, liver, box, 1, -200, -8):
                r = np.exp(u(np.log(2.5), np.log(18))) * rng.uniform(0.8, 1.25, 3)
                value = u(0, 15) if rng.random() < 0.6 else hu["liver"] + u(-35, 30)
                spot_shape = ellipsoid(tuple(spot), tuple(r), rotation(*u(-60, 60, 3)))
                self.canvas.paint(
                    spot_shape,
                    around(tuple(spot), float(r.max()) + 3),
                    [(0, value, None)],
                    4.0,
                    2.0,
                    (7,),
                )
