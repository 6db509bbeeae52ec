"""Painting of implicit shapes and tapering tubes into a CT volume, with partial volume.

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
TEXTURE_HALF_EXTENT_MM = (320.0, 320.0, 400.0)

Layer = tuple[float, float, int | None]
"""Depth in mm below the surface, HU and label of what lies deeper; None leaves the labels alone."""

Coordinates = NDArray[np.float64]
Ranges = Sequence[tuple[int, int]]
"""First voxel and the one behind the last, along x, y, z."""


@dataclass(frozen=True)
class Tubes:
    """Tapering capsules between body points.

    Attributes:
        points: (m, 3) body mm.
        radii: (m,) mm.
        segments: (n, 2) indices of the points that a capsule joins.
        hu: their value.
        labels: label below a tube -> the tube's label there. Labels that are not listed stay, and
            their HU too.
        flatten: below 1, the cross-section is taller in z than in the plane.
        texture_hu: standard deviation of the smooth texture.
    """

    points: NDArray[np.float64]
    radii: NDArray[np.float64]
    segments: NDArray[np.int64]
    hu: float
    labels: dict[int, int]
    flatten: float = 1.0
    texture_hu: float = 0.0


class Canvas:
    """A CT volume under construction.

    Args:
        frame: where its voxels lie.
        texture_rng: of the smooth texture.

    Attributes:
        hu: float32 [K, J, I].
        labels: uint8 [K, J, I].
        texture: float32 [K, J, I], smooth noise of unit variance.
    """

    def __init__(self, frame: Frame, texture_rng: np.random.Generator) -> None:
        self.frame = frame
        x, y, z = frame.axes_mm
        size = (len(z), len(y), len(x))
        self.hu = np.full(size, -1000.0, np.float32)
        self.labels = np.zeros(size, np.uint8)
        counts = [int(2 * half / TEXTURE_STEP_MM) + 2 for half in TEXTURE_HALF_EXTENT_MM]
        weights = []
        for axis, half, count in zip(frame.axes_mm, TEXTURE_HALF_EXTENT_MM, counts, strict=True):
            weights.append(interpolation_weights(axis, -half, TEXTURE_STEP_MM, count))
        wx, wy, wz = weights
        coarse = 0.7 * smooth_noise(texture_rng, counts[::-1], 2.2)
        coarse = coarse + 0.7 * smooth_noise(texture_rng, counts[::-1], 0.8)
        planes = np.tensordot(wz, coarse, axes=(1, 0))
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
        """Paint one shape; edges are blended over the voxel's extent along the surface normal.

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
        """Paint one tube through body points.

        Args:
            knots: (n, 3) body mm.
            radius: mm, one number or several spread along the tube.
            layers: see `paint`.
            texture_hu: see `paint`.
            step_mm: see `paint`.
            over: see `paint`.
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
        """Paint tubes wider than about two grid steps as one shape.

        HU and labels come from the layers, those of the tubes are not used; see `paint`.
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
        for first, last in tubes.segments:
            capsule = _Capsule(
                points[first],
                points[last],
                tubes.radii[first],
                tubes.radii[last],
                tubes.flatten,
            )
            block = capsule.measure(nodes, 3 * step_mm)
            if block is not None:
                where, distance = block
                np.minimum(values[where], distance, out=values[where])
        self._fill(window, nodes, values, layers, step_mm, tubes.texture_hu, over, exact=True)

    def _fill(
        self,
        window: Ranges,
        nodes: Sequence[Coordinates],
        values: FloatArray,
        layers: Sequence[Layer],
        step: float,
        texture_hu: float,
        over: tuple[int, ...] | None,
        exact: bool = False,
    ) -> None:
        """Blend layers in where ``values`` on a grid of nodes are negative; see `paint`.

        The loop over slices is where most of a phantom's time goes.
        """
        distance, extent = _distance_and_extent(values, step, self.frame.spacing_mm, exact)
        axes = [axis[lo:hi] for axis, (lo, hi) in zip(self.frame.axes_mm, window, strict=True)]
        weights = []
        for axis, grid in zip(axes, nodes, strict=True):
            weights.append(interpolation_weights(axis, grid[0], step, len(grid)))
        wx, wy, wz = weights
        i0, j0, k0 = (first for first, _ in window)
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
                jj = _reached(touched.any(axis=1), nodes[1], axes[1])
                ii = _reached(touched.any(axis=0), nodes[0], axes[0])
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
        """Paint tapering tubes, each averaged over the slice thickness."""
        points = self.frame.scanner_from_body(tubes.points)
        box = _bounds(points, tubes.radii)
        ranges = self._ranges(*box)
        if ranges is None or not len(tubes.segments):
            return
        (i0, i1), (j0, j1), (k0, k1) = ranges
        cover = np.zeros((k1 - k0, j1 - j0, i1 - i0), np.float32)
        axes = [axis[lo:hi] for axis, (lo, hi) in zip(self.frame.axes_mm, ranges, strict=True)]
        for first, last in tubes.segments:
            capsule = _Capsule(
                points[first],
                points[last],
                tubes.radii[first],
                tubes.radii[last],
                tubes.flatten,
            )
            self._stamp(cover, axes, capsule)
        where = np.s_[k0:k1, j0:j1, i0:i1]
        labels = self.labels[where]
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

    def _ranges(self, low: Coordinates, high: Coordinates) -> list[tuple[int, int]] | None:
        """Return the voxels between two scanner corners (3,); None where there are none."""
        ranges = []
        for axis, spacing, lo, hi in zip(
            self.frame.axes_mm, self.frame.spacing_mm, low, high, strict=True
        ):
            first, last = np.searchsorted(axis, (lo - spacing, hi + spacing))
            if first >= last:
                return None
            ranges.append((int(first), int(last)))
        return ranges

    def _stamp(self, cover: FloatArray, axes: Sequence[Coordinates], capsule: _Capsule) -> None:
        """Add to ``cover`` how much of each voxel a capsule fills."""
        pixel = self.frame.spacing_mm[0]
        sub = slice_offsets(self.frame.spacing_mm[2])
        block = capsule.measure(axes, pixel, sub)
        if block is None:
            return
        where, distance = block
        # A tube thinner than a pixel can't fill it: scale by its part of the pixel's width.
        filled = np.float32(min(1.0, 2 * capsule.radius / pixel))
        part = np.clip(0.5 - distance / np.float32(pixel), 0, 1) * filled
        part = part.reshape(-1, len(sub), *part.shape[1:]).mean(axis=1)
        covered = cover[where]
        covered += part * (1 - covered)


def slice_offsets(thickness_mm: float) -> NDArray[np.float64]:
    """Return positions (mm, about the centre) that sample a slice's thickness at about 1 mm."""
    count = max(1, round(thickness_mm))
    return (np.arange(count) + 0.5) / count * thickness_mm - thickness_mm / 2


@dataclass(frozen=True)
class _Capsule:
    """A tapering capsule from one scanner point (3,) to another, radii in mm."""

    start: Coordinates
    end: Coordinates
    start_radius: float
    end_radius: float
    flatten: float

    @property
    def radius(self) -> float:
        """The larger radius."""
        return max(self.start_radius, self.end_radius)

    def measure(
        self,
        axes: Sequence[Coordinates],
        margin_mm: float,
        sub_z: Coordinates | None = None,
    ) -> tuple[tuple[slice, slice, slice], FloatArray] | None:
        """Return the distance (mm) to the capsule on the part of a grid near it.

        Args:
            axes: of the grid, x, y, z in scanner mm.
            margin_mm: how far around the capsule.
            sub_z: repeats every slice at these offsets, side by side along the first axis.

        Returns:
            The part [K, J, I] of the grid and the distance there; None where the grid misses it.
        """
        low = np.minimum(self.start, self.end)
        high = np.maximum(self.start, self.end)
        half = 0.0 if sub_z is None else float(np.abs(sub_z).max())
        reaches = (self.radius, self.radius, self.radius / self.flatten + half)
        spans = []
        for axis, lowest, highest, reach in zip(axes, low, high, reaches, strict=True):
            ends = (lowest - reach - margin_mm, highest + reach + margin_mm)
            first, last = np.searchsorted(axis, ends)
            if first >= last:
                return None
            spans.append(slice(int(first), int(last)))
        heights = axes[2][spans[2]]
        if sub_z is not None:
            heights = (heights[:, None] + sub_z).ravel()
        x = (axes[0][spans[0]] - self.start[0]).astype(np.float32)[None, None, :]
        y = (axes[1][spans[1]] - self.start[1]).astype(np.float32)[None, :, None]
        z = (heights - self.start[2]).astype(np.float32)[:, None, None]
        d = (self.end - self.start).astype(np.float32)
        square_length = np.float32(max(float(d @ d), 1e-6))
        along = np.clip((x * d[0] + y * d[1] + z * d[2]) / square_length, 0, 1)
        square = (
            (x - along * d[0]) ** 2
            + (y - along * d[1]) ** 2
            + (np.float32(self.flatten) * (z - along * d[2])) ** 2
        )
        taper = np.float32(self.end_radius - self.start_radius)
        distance = np.sqrt(square) - (np.float32(self.start_radius) + taper * along)
        return (spans[2], spans[1], spans[0]), distance


def _reached(touched: NDArray[np.bool_], nodes: Coordinates, voxels: Coordinates) -> slice:
    """Return the voxels from one node before the first touched node to one after the last."""
    first, last = np.flatnonzero(touched)[[0, -1]]
    span = nodes[[max(first - 1, 0), min(last + 1, len(nodes) - 1)]]
    low, high = np.searchsorted(voxels, (span[0], span[1] + 1e-6))
    return slice(int(low), int(high))


def _bounds(points: Coordinates, radii: Coordinates) -> tuple[Coordinates, Coordinates]:
    return (points - 2 * radii[:, None]).min(axis=0), (points + 2 * radii[:, None]).max(axis=0)


def _distance_and_extent(
    values: FloatArray, step_mm: float, spacing_mm: tuple[float, float, float], exact: bool
) -> tuple[FloatArray, FloatArray]:
    """Return the distance to the zero set and the voxel's extent along the normal, both in mm.

    The distance is first-order: values over the length of their gradient, but ``exact`` values are
    distances already.
    """
    gz, gy, gx = np.gradient(values, np.float32(step_mm))
    length = np.sqrt(gx * gx + gy * gy + gz * gz) + np.float32(1e-3)
    extent = np.abs(gx) * np.float32(spacing_mm[0])
    extent += np.abs(gy) * np.float32(spacing_mm[1])
    extent += np.abs(gz) * np.float32(spacing_mm[2])
    extent /= length
    extent = np.maximum(extent, np.float32(0.5 * min(spacing_mm)))
    return (values if exact else values / length), extent
