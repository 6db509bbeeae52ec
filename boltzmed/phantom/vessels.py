"""Branching vessels: trees that fill an organ from a root, tapering by Murray's law."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boltzmed.phantom.painting import Tubes

NODE_STEP_MM = 7.0
MURRAY_EXPONENT = 2.5
RADIUS_LIMIT_MM = 7.5
"""Largest radius near the root."""


@dataclass(frozen=True)
class Tree:
    """A branching tree.

    Attributes:
        points: (n, 3) body mm.
        radii: (n,) mm.
        parents: (n,) index of the node before, -1 at the root.
    """

    points: NDArray[np.float64]
    radii: NDArray[np.float64]
    parents: NDArray[np.int64]

    @property
    def segments(self) -> NDArray[np.int64]:
        """Parent and child (n - 1, 2) of every segment."""
        child = np.flatnonzero(self.parents >= 0)
        return np.stack([self.parents[child], child], axis=1)

    def tubes(self, hu: float, labels: dict[int, int], texture_hu: float = 0.0) -> Tubes:
        """Return the branches as tubes of one HU; ``labels`` as of `Tubes`."""
        return Tubes(self.points, self.radii, self.segments, hu, labels, texture_hu=texture_hu)


def grow_tree(
    rng: np.random.Generator,
    root: NDArray[np.float64],
    targets: NDArray[np.float64],
    tip_radius_mm: float,
) -> Tree:
    """Grow a tree from a root (3,) to targets (n, 3), body mm.

    Every target, nearest the root first, is joined to the node that costs the least new and total
    length. Radii follow Murray's law, r_parent^n = sum r_child^n with n = 2.5, from the tips
    inwards.
    """
    capacity = 64 * (len(targets) + 1)
    points = np.zeros((capacity, 3))
    heading = np.zeros((capacity, 3))
    path = np.zeros(capacity)
    parents = np.full(capacity, -1, np.int64)
    points[0] = root
    count = 1
    for target in targets[np.argsort(np.linalg.norm(targets - root, axis=1))]:
        offset = target - points[:count]
        gap = np.linalg.norm(offset, axis=1)
        forward = (offset * heading[:count]).sum(axis=1) / np.maximum(gap, 1e-6)
        cost = gap * (1.25 - 0.35 * forward) + 0.25 * path[:count]
        start = int(np.argmin(cost))
        length = float(gap[start])
        steps = int(length / NODE_STEP_MM) + 1
        if length < 2.0 or count + steps >= capacity:
            continue
        # The branch leaves along its parent's heading and bends to the target, with a little
        # wander.
        bend = (
            points[start]
            + 0.5 * offset[start]
            + heading[start] * length * 0.12
            + rng.normal(0, 0.06, 3) * length
        )
        t = np.linspace(0, 1, steps + 1)[1:, None]
        curve = (1 - t) ** 2 * points[start] + 2 * t * (1 - t) * bend + t**2 * target
        curve[:-1] += rng.normal(0, 0.35, (steps - 1, 3))
        previous = start
        for point in curve:
            step = point - points[previous]
            size = float(np.linalg.norm(step))
            points[count] = point
            parents[count] = previous
            heading[count] = step / max(size, 1e-6)
            path[count] = path[previous] + size
            previous = count
            count += 1
    radii = _taper(rng, parents[:count], tip_radius_mm)
    return Tree(points[:count], radii, parents[:count])


def _taper(
    rng: np.random.Generator, parents: NDArray[np.int64], tip_radius_mm: float
) -> NDArray[np.float64]:
    """Return the nodes' radii (n,) by Murray's law, r^n of a tip being the unit of flow."""
    count = len(parents)
    flow = np.zeros(count)
    flow[np.setdiff1d(np.arange(count), parents)] = 1.0
    for node in range(count - 1, 0, -1):  # a parent's index is lower than its children's
        flow[parents[node]] += flow[node]
    thickness = tip_radius_mm * np.maximum(flow, 1) ** (1 / MURRAY_EXPONENT)
    radii: NDArray[np.float64] = np.minimum(thickness, RADIUS_LIMIT_MM)
    # Ends taper further: the last stretch before a tip thins out.
    is_end = flow <= 1
    radii[is_end] *= rng.uniform(0.75, 1.0, int(is_end.sum()))
    return radii
