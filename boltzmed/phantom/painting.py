"""Paints signed implicit shapes and tapering tubes into a CT volume, with partial volume.

Arrays are ``[K, J, I]`` (slice, row, column), so that one slice is one contiguous block. A shape's
values are divided by their gradient, which turns any smooth implicit function into a first-order
distance in mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from boltzmed.phantom.frame import Frame, interpolation_weights, smooth_noise
from boltzmed.phantom.shapes import Box, FloatArray, Shape, dense_curve

TEXTURE_STEP_MM = 5.0
# (depth, HU, label): what lies deeper than ``depth`` mm below the surface; label None leaves the
# labels alone.
Layer = tuple[float, float, int | None]


@dataclass(frozen=True)
class Tubes:
    """Tapering capsules between body points: ``segments`` (n, 2) indexes ``points`` (m, 3) mm and
    ``radii`` (m,) mm.

    ``labels`` maps a label below the tube to the tube's label there; labels not listed keep theirs
    and, unless ``everywhere``, their HU as well. ``flatten`` < 1 makes the cross-section taller in
    z than in the plane.
    """

    points: NDArray[np.float64]
    radii: NDArray[np.float64]
    segments: NDArray[np.int64]
    hu: float
    labels: dict[int, int]
    everywhere: bool = False
    flatten: float = 1.0
    texture_hu: float = 0.0


class Canvas:
    """A CT volume under construction: ``hu`` float32 and ``labels`` uint8, both [K, J, I]."""

    def __init__(self, frame: Frame, texture_rng: np.random.Generator):
        self.frame = frame
        x, y, z = frame.axes_mm
        size = (len(z), len(y), len(x))
        self.hu = np.full(size, -1000.0, np.float32)
        self.labels = np.zeros(size, np.uint8)
        counts = [int(2 * half / TEXTURE_STEP_MM) + 2 for half in (400.0, 320.0, 320.0)]
        coarse = 0.7 * smooth_noise(texture_rng, counts, 2.2) + 0.7 * smooth_noise(
            texture_rng, counts, 0.8
        )
        wx, wy = (
            interpolation_weights(axis, -320.0, TEXTURE_STEP_MM, counts[2]) for axis in (x, y)
        )
        planes = np.tensordot(
            interpolation_weights(z, -400.0, TEXTURE_STEP_MM, counts[0]), coarse, axes=(1, 0)
        )
        self.texture = np.empty(size, np.float32)
        for k, plane in enumerate(planes):
            np.matmul(wy @ plane, wx.T, out=self.texture[k])

    def paint(
        self,
        shape: Shape,
        box: Box,
        layers: Sequence[Layer],
        texture_hu: float,
        step_mm: float = 4.0,
        over: tuple[int, ...] | None = None,
    ) -> None:
        """Paints one shape; edges are blended over the voxel's extent along the surface normal.

        Args:
            shape: body mm, negative inside.
            box: body mm, holds the shape.
            layers: from the outside in.
            texture_hu: standard deviation of the smooth texture.
            step_mm: the grid on which the shape is evaluated, before linear interpolation to the
                voxels.
            over: the labels it may cover; None means all.
        """
        # A grid finer than the pixels adds nothing.
        step = max(step_mm, min(self.frame.spacing_mm))
        window = self.frame.window(box, 2 * step)
        if window is None:
            return
        axes = [axis[lo:hi] for axis, (lo, hi) in zip(self.frame.axes_mm, window, strict=True)]
        # One grid node beyond each end, so that the gradient is central wherever a voxel can be.
        nodes = [np.arange(a[0] - step, a[-1] + 2 * step, step) for a in axes]
        values = shape(*self.frame.body_grid(*nodes))
        self._fill(window, nodes, values, layers, step, texture_hu, over)

    def paint_tube(
        self,
        knots: ArrayLike,
        radius: ArrayLike,
        layers: Sequence[Layer],
        texture_hu: float = 5.0,
        step_mm: float = 3.0,
        over: tuple[int, ...] | None = None,
    ) -> None:
        """Paints one tube through body points; ``radius`` (mm) is one number or several spread
        along it.
        """
        curve = dense_curve(np.array(knots, float), 7.0)
        radii = np.interp(
            np.linspace(0, 1, len(curve)), np.linspace(0, 1, np.size(radius)), np.ravel(radius)
        )
        chain = np.stack([np.arange(len(curve) - 1), np.arange(1, len(curve))], axis=1)
        tubes = Tubes(curve, radii, chain, 0.0, {}, texture_hu=texture_hu)
        self.paint_thick_tubes(tubes, layers, step_mm, over)

    def paint_thick_tubes(
        self,
        tubes: Tubes,
        layers: Sequence[Layer],
        step_mm: float,
        over: tuple[int, ...] | None = None,
    ) -> None:
        """Paints tubes wider than about two grid steps as one shape; HU and labels come from the
        layers.
        """
        step_mm = max(step_mm, 0.7 * min(self.frame.spacing_mm))
        points = self.frame.scanner_from_body(tubes.points)
        reach = float(tubes.radii.max()) / tubes.flatten + 3 * step_mm
        window = self._ranges(points.min(axis=0) - reach, points.max(axis=0) + reach)
        if window is None:
            return
        axes = [axis[lo:hi] for axis, (lo, hi) in zip(self.frame.axes_mm, window, strict=True)]
        nodes = [np.arange(a[0] - step_mm, a[-1] + 2 * step_mm, step_mm) for a in axes]
        values = np.full((len(nodes[2]), len(nodes[1]), len(nodes[0])), 4 * step_mm, np.float32)
        for a, b in tubes.segments:
            block = _capsule(
                nodes,
                points[a],
                points[b],
                tubes.radii[a],
                tubes.radii[b],
                tubes.flatten,
                3 * step_mm,
            )
            if block is not None:
                where, distance = block
                np.minimum(values[where], distance, out=values[where])
        self._fill(window, nodes, values, layers, step_mm, tubes.texture_hu, over, exact=True)

    def _fill(
        self,
        window: Sequence[tuple[int, int]],
        nodes: Sequence[NDArray],
        values: FloatArray,
        layers: Sequence[Layer],
        step: float,
        texture_hu: float,
        over: tuple[int, ...] | None,
        exact: bool = False,
    ) -> None:
        distance, extent = _distance_and_extent(values, step, self.frame.spacing_mm, exact)
        axes = [axis[lo:hi] for axis, (lo, hi) in zip(self.frame.axes_mm, window, strict=True)]
        wx, wy, wz = (
            interpolation_weights(a, n[0], step, len(n)) for a, n in zip(axes, nodes, strict=True)
        )
        (i0, _), (j0, _), (k0, _) = window
        allowed = None if over is None else np.isin(np.arange(256), over)
        for inset_mm, value_hu, label in layers:
            depth = np.clip(distance + np.float32(inset_mm), -4 * step, 4 * step) / extent
            for k in range(len(axes[2])):
                low = int(np.argmax(wz[k] != 0))
                plane = depth[low] * wz[k, low]
                if low + 1 < len(depth):
                    plane = plane + depth[low + 1] * wz[k, low + 1]
                touched = plane < 0.5
                if not touched.any():
                    continue
                # Only the voxels around the nodes that the shape reaches in this slice.
                jj, ii = (
                    _reached(touched.any(axis=a), n, voxels)
                    for a, n, voxels in ((1, nodes[1], axes[1]), (0, nodes[0], axes[0]))
                )
                cover = np.clip(0.5 - (wy[jj] @ plane) @ wx[ii].T, 0, 1)
                where = np.s_[k0 + k, j0 + jj.start : j0 + jj.stop, i0 + ii.start : i0 + ii.stop]
                labels = self.labels[where]
                if allowed is not None:
                    cover *= allowed[labels]
                target: FloatArray | np.float32 = np.float32(value_hu)
                if texture_hu:
                    target = target + np.float32(texture_hu) * self.texture[where]
                hu = self.hu[where]
                hu += cover * (target - hu)
                if label is not None:
                    labels[cover >= 0.5] = label

    def paint_tubes(self, tubes: Tubes) -> None:
        """Paints tapering tubes, each averaged over the slice thickness."""
        points = self.frame.scanner_from_body(tubes.points)
        box = _bounds(points, tubes.radii)
        ranges = self._ranges(*box)
        if ranges is None or not len(tubes.segments):
            return
        (i0, i1), (j0, j1), (k0, k1) = ranges
        cover = np.zeros((k1 - k0, j1 - j0, i1 - i0), np.float32)
        x, y, z = (axis[lo:hi] for axis, (lo, hi) in zip(self.frame.axes_mm, ranges, strict=True))
        for a, b in tubes.segments:
            self._stamp(
                cover,
                (x, y, z),
                points[a],
                points[b],
                tubes.radii[a],
                tubes.radii[b],
                tubes.flatten,
            )
        where = np.s_[k0:k1, j0:j1, i0:i1]
        labels = self.labels[where]
        if not tubes.everywhere:
            cover *= np.isin(np.arange(256), list(tubes.labels))[labels]
        target: FloatArray | np.float32 = np.float32(tubes.hu)
        if tubes.texture_hu:
            target = target + np.float32(tubes.texture_hu) * self.texture[where]
        hu = self.hu[where]
        hu += cover * (target - hu)
        mapping = np.arange(256, dtype=np.uint8)
        for below, label in tubes.labels.items():
            mapping[below] = label
        inside = cover >= 0.5
        labels[inside] = mapping[labels[inside]]

    def _ranges(self, low: NDArray, high: NDArray) -> list[tuple[int, int]] | None:
        ranges = []
        for axis, spacing, lo, hi in zip(
            self.frame.axes_mm, self.frame.spacing_mm, low, high, strict=True
        ):
            first, last = np.searchsorted(axis, (lo - spacing, hi + spacing))
            if first >= last:
                return None
            ranges.append((int(first), int(last)))
        return ranges

    def _stamp(
        self,
        cover: FloatArray,
        axes: tuple[NDArray, NDArray, NDArray],
        a: NDArray,
        b: NDArray,
        radius_a: float,
        radius_b: float,
        flatten: float,
    ) -> None:
        radius = max(radius_a, radius_b)
        sub = slice_offsets(self.frame.spacing_mm[2])
        found = _capsule(axes, a, b, radius_a, radius_b, flatten, self.frame.spacing_mm[0], sub)
        if found is None:
            return
        where, distance = found
        pixel = self.frame.spacing_mm[0]
        # A tube thinner than a pixel can't fill it: scale by its share of the pixel's width.
        share = np.float32(min(1.0, 2 * radius / pixel))
        part = np.clip(0.5 - distance / np.float32(pixel), 0, 1) * share
        part = part.reshape(-1, len(sub), *part.shape[1:]).mean(axis=1)
        block = cover[where]
        block += part * (1 - block)


def slice_offsets(thickness_mm: float) -> NDArray[np.float64]:
    """Positions (mm, about the centre) that sample a slice's thickness at about 1 mm."""
    count = max(1, round(thickness_mm))
    return (np.arange(count) + 0.5) / count * thickness_mm - thickness_mm / 2


def _capsule(
    axes: Sequence[NDArray],
    a: NDArray,
    b: NDArray,
    radius_a: float,
    radius_b: float,
    flatten: float,
    margin_mm: float,
    sub_z: NDArray | None = None,
) -> tuple[tuple[slice, slice, slice], FloatArray] | None:
    """Distance (mm) to a tapering capsule on the part of a grid within ``margin_mm`` of it; None
    where it misses.

    ``sub_z`` repeats every slice at these offsets, side by side along the first axis.
    """
    radius = max(radius_a, radius_b)
    low = np.minimum(a, b)
    high = np.maximum(a, b)
    half = 0.0 if sub_z is None else float(np.abs(sub_z).max())
    spans = []
    for axis, reach in zip(range(3), (radius, radius, radius / flatten + half), strict=True):
        first, last = np.searchsorted(
            axes[axis], (low[axis] - reach - margin_mm, high[axis] + reach + margin_mm)
        )
        if first >= last:
            return None
        spans.append(slice(int(first), int(last)))
    heights = axes[2][spans[2]]
    if sub_z is not None:
        heights = (heights[:, None] + sub_z).ravel()
    x = (axes[0][spans[0]] - a[0]).astype(np.float32)[None, None, :]
    y = (axes[1][spans[1]] - a[1]).astype(np.float32)[None, :, None]
    z = (heights - a[2]).astype(np.float32)[:, None, None]
    d = (b - a).astype(np.float32)
    along = np.clip((x * d[0] + y * d[1] + z * d[2]) / np.float32(max(float(d @ d), 1e-6)), 0, 1)
    square = (
        (x - along * d[0]) ** 2
        + (y - along * d[1]) ** 2
        + (np.float32(flatten) * (z - along * d[2])) ** 2
    )
    distance = np.sqrt(square) - (np.float32(radius_a) + np.float32(radius_b - radius_a) * along)
    return (spans[2], spans[1], spans[0]), distance


def _reached(touched: NDArray[np.bool_], nodes: NDArray, voxels: NDArray) -> slice:
    """The voxels from one node before the first touched node to one node after the last."""
    first, last = np.flatnonzero(touched)[[0, -1]]
    span = nodes[[max(first - 1, 0), min(last + 1, len(nodes) - 1)]]
    low, high = np.searchsorted(voxels, (span[0], span[1] + 1e-6))
    return slice(int(low), int(high))


def _bounds(points: NDArray, radii: NDArray) -> tuple[NDArray, NDArray]:
    return (points - 2 * radii[:, None]).min(axis=0), (points + 2 * radii[:, None]).max(axis=0)


def _distance_and_extent(
    values: FloatArray, step_mm: float, spacing_mm: tuple[float, float, float], exact: bool
) -> tuple[FloatArray, FloatArray]:
    """Distance to the zero set (mm; first-order unless ``exact``) and the voxel's extent along the
    normal (mm).
    """
    gz, gy, gx = np.gradient(values, np.float32(step_mm))
    length = np.sqrt(gx * gx + gy * gy + gz * gz) + np.float32(1e-3)
    extent = np.abs(gx) * np.float32(spacing_mm[0])
    extent += np.abs(gy) * np.float32(spacing_mm[1])
    extent += np.abs(gz) * np.float32(spacing_mm[2])
    extent /= length
    extent = np.maximum(extent, np.float32(0.5 * min(spacing_mm)))
    return (values if exact else values / length), extent
