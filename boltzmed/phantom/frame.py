"""Where a phantom lies: voxel centres, and the map between scanner and body coordinates.

Scanner coordinates are LPS millimetres (x to the patient's left, y to posterior, z to superior),
axis-aligned with the voxels. Body coordinates have the same axes before pose, size and the smooth
warp; every shape is described in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from boltzmed.phantom.shapes import Box, FloatArray

WARP_STEP_MM = 16.0
"""Of the grid that holds the warp, between the nodes of which it is interpolated."""

WARP_HALF_EXTENT_MM = (320.0, 320.0, 400.0)


Axes = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Coordinates along x, y, z, mm, ascending."""


class Frame:
    """Voxel centres of the acquisition and the map between scanner and body coordinates.

    Args:
        axes_mm: voxel centres along x, y, z, scanner mm.
        spacing_mm: voxel size along x, y, z.
        rotation: (3, 3), body to scanner.
        scale: (3,), size factors along the body's axes.
        waves: (n, 7), rows of displacement (3, mm), wave vector (3, rad/mm) and phase (rad), summed
            as sines.
    """

    def __init__(
        self,
        axes_mm: Axes,
        spacing_mm: tuple[float, float, float],
        rotation: NDArray[np.float64],
        scale: NDArray[np.float64],
        waves: NDArray[np.float64],
    ) -> None:
        self.axes_mm = axes_mm
        self.spacing_mm = spacing_mm
        self.to_scanner = rotation * scale[None, :]
        self.to_body = np.linalg.inv(self.to_scanner)
        grid = [np.arange(-half, half + WARP_STEP_MM, WARP_STEP_MM) for half in WARP_HALF_EXTENT_MM]
        z, y, x = np.meshgrid(grid[2], grid[1], grid[0], indexing="ij")
        self.warp = np.zeros((3, *x.shape), np.float32)
        for row in waves:
            wave = np.sin(row[3] * x + row[4] * y + row[5] * z + row[6])
            self.warp += (row[:3, None, None, None] * wave[None]).astype(np.float32)
        self.warp_limit_mm = float(np.abs(self.warp).max())

    def body_grid(
        self, x_mm: NDArray[np.float64], y_mm: NDArray[np.float64], z_mm: NDArray[np.float64]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the body coordinates, each (nz, ny, nx) float32, of the grid of three axes."""
        counts = self.warp.shape[:0:-1]  # nodes along x, y, z; the warp is (3, nz, ny, nx)
        weights = []
        for axis, half, count in zip((x_mm, y_mm, z_mm), WARP_HALF_EXTENT_MM, counts, strict=True):
            weights.append(interpolation_weights(axis, -half, WARP_STEP_MM, count))
        out = []
        for c in range(3):
            # Linear interpolation is separable: along z, then y, then x.
            field = np.tensordot(weights[2], self.warp[c], axes=(1, 0))
            field = np.matmul(weights[1], field)
            field = np.matmul(field, weights[0].T)
            m = self.to_body[c].astype(np.float32)
            field += (m[0] * x_mm).astype(np.float32)[None, None, :]
            field += (m[1] * y_mm).astype(np.float32)[None, :, None]
            field += (m[2] * z_mm).astype(np.float32)[:, None, None]
            out.append(field)
        return out[0], out[1], out[2]

    def scanner_from_body(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scanner mm (n, 3) of body points (n, 3).

        The warp is small and smooth, so a few fixed-point steps invert it.
        """
        scanner = points @ self.to_scanner.T
        for _ in range(5):
            x, y, z = ((scanner + WARP_HALF_EXTENT_MM) / WARP_STEP_MM).T
            shifts = []
            for warp in self.warp:
                shifts.append(ndimage.map_coordinates(warp, [z, y, x], order=1, mode="nearest"))
            scanner = (points - np.stack(shifts, axis=1)) @ self.to_scanner.T
        return scanner

    def window(self, box: Box, margin_mm: float) -> tuple[tuple[int, int], ...] | None:
        """Return the voxel ranges along x, y, z that can meet a body box; None where none can."""
        box_corners = [*product(*zip(*box, strict=True))]
        corners = np.array(box_corners) @ self.to_scanner.T
        # The warp moves a body point further than its limit where the body is scaled up.
        margin = margin_mm + 1.3 * self.warp_limit_mm
        ranges = []
        for axis in range(3):
            lo = corners[:, axis].min() - margin
            hi = corners[:, axis].max() + margin
            first, last = np.searchsorted(self.axes_mm[axis], (lo, hi))
            if first >= last:
                return None
            ranges.append((int(first), int(last)))
        return tuple(ranges)


def interpolation_weights(
    positions_mm: NDArray[np.float64], start_mm: float, step_mm: float, count: int
) -> FloatArray:
    """Return the dense matrix (len(positions), count) of linear interpolation on a grid.

    Positions beyond the grid take its end values.
    """
    position = np.clip((np.asarray(positions_mm, np.float64) - start_mm) / step_mm, 0, count - 1)
    low = np.minimum(position.astype(np.int64), count - 2)
    rest = (position - low).astype(np.float32)
    weights = np.zeros((len(position), count), np.float32)
    rows = np.arange(len(position))
    weights[rows, low] = 1 - rest
    weights[rows, low + 1] = rest
    return weights


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], sigma: float) -> FloatArray:
    """Draw Gaussian noise, blurred by ``sigma`` grid cells and scaled back to unit variance."""
    field: FloatArray = ndimage.gaussian_filter(
        rng.standard_normal(tuple(shape), dtype=np.float32), sigma, mode="wrap"
    )
    return field / np.float32(field.std())
