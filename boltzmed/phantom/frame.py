"""Where a phantom lies: voxel centres, and the map between scanner and body coordinates.

scanner: LPS millimetres (x to the patient's left, y to posterior, z to superior), axis-aligned with
the voxels. body: the same axes before pose, size and the smooth warp; every shape is described
there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from boltzmed.phantom.shapes import Box, FloatArray

WARP_STEP_MM = 16.0
WARP_HALF_EXTENT_MM = (320.0, 320.0, 400.0)


class Frame:
    """Voxel centres of the acquisition and the map between scanner and body coordinates."""

    def __init__(
        self,
        axes_mm: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
        spacing_mm: tuple[float, float, float],
        rotation: NDArray[np.float64],
        scale: NDArray[np.float64],
        waves: NDArray[np.float64],
    ):
        """Args: axes_mm: voxel-centre coordinates along x, y, z, scanner mm, ascending. spacing_mm:
        voxel size along x, y, z. rotation: (3, 3), body to scanner. scale: (3,), body size factors
        along the body axes. waves: (n, 7), rows of displacement (3, mm), wave vector (3, rad/mm)
        and phase (rad), summed as sines.
        """
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
        self, x_mm: NDArray, y_mm: NDArray, z_mm: NDArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Body coordinates (each (nz, ny, nx), float32) of the scanner grid spanned by three axes."""
        weights = [
            interpolation_weights(axis, -half, WARP_STEP_MM, n)
            for axis, half, n in zip(
                (x_mm, y_mm, z_mm), WARP_HALF_EXTENT_MM, self.warp.shape[:0:-1], strict=True
            )
        ]
        out = []
        for c in range(3):
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
        """Scanner mm of body points (n, 3): the warp is small and smooth, so a few fixed-point
        steps invert it.
        """
        scanner = points @ self.to_scanner.T
        for _ in range(5):
            index = [
                (scanner[:, axis] + WARP_HALF_EXTENT_MM[axis]) / WARP_STEP_MM for axis in (2, 1, 0)
            ]
            shift = np.stack(
                [ndimage.map_coordinates(w, index, order=1, mode="nearest") for w in self.warp],
                axis=1,
            )
            scanner = (points - shift) @ self.to_scanner.T
        return scanner

    def window(self, box: Box, margin_mm: float) -> tuple[tuple[int, int], ...] | None:
        """Voxel ranges along x, y, z that can meet a body box; None where the field of view misses
        it.
        """
        corners = np.array([[box[(n >> axis) & 1][axis] for axis in range(3)] for n in range(8)])
        corners = corners @ self.to_scanner.T
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
    positions_mm: NDArray, start_mm: float, step_mm: float, count: int
) -> FloatArray:
    """Dense linear-interpolation matrix (len(positions), count); positions beyond the grid take its
    end values.
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
    """Gaussian noise blurred by ``sigma`` grid cells and scaled back to unit variance."""
    field = ndimage.gaussian_filter(
        rng.standard_normal(tuple(shape), dtype=np.float32), sigma, mode="wrap"
    )
    return field / np.float32(field.std())
