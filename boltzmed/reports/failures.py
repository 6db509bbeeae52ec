"""Where methods fail: the worst objects of each target, and pictures of them as in the paper's
Figure 9.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

from boltzmed.reports.figures import REFERENCE_COLOUR
from boltzmed.reports.pictures import CasePicture
from boltzmed.reports.scores import DIFFERENCES, ERRORS, OBJECT, is_same_size
from boltzmed.reports.viewer import scale_grey

_SIDE = 240  # pixels of a thumbnail
_LEAST_MM = 24.0
"""Least width of the magnified part."""
_OPACITY = 0.45


def pair_scores(rows: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Return a row per object, worst first: identity, `size`, how many methods missed it, their
    mean, each score.

    Objects that most methods missed altogether stand first, then the worst mean over methods: the
    lowest, of `ERRORS` the highest, of `DIFFERENCES` the one furthest from 0.

    Args:
        rows: Of `select_objects`: a row per method and object, with `score`, `size` and `missed`.
        metric: What the score is.

    Returns:
        `OBJECT`, `prompt` ("" where the tables have none), `size`, `same_size` (whether the
        references of the methods
            that have the object are of one), `missed`, `mean`, then a column "score:METHOD" per
            method (NaN where it has no score), in the methods' order.
    """
    methods = list(rows["method"].unique())
    rows = rows if "prompt" in rows else rows.assign(prompt="")
    key = list(OBJECT)
    scores = rows.pivot(index=key, columns="method", values="score")[methods]
    known = rows.drop_duplicates(key).set_index(key)[["prompt", "size"]]
    missed = rows.groupby(key)["missed"].sum().reindex(scores.index)
    sizes = rows.groupby(key)["size"].agg(["min", "max", "count", "size"]).reindex(scores.index)
    same = is_same_size(sizes["min"], sizes["max"]) & (
        sizes["count"].eq(0) | sizes["count"].eq(sizes["size"])
    )
    table = known.reindex(scores.index).assign(
        same_size=same, missed=missed, mean=scores.mean(axis=1)
    )
    table = table.join(scores.add_prefix("score:"))
    worse = (
        -table["mean"]
        if metric in ERRORS
        else -table["mean"].abs()
        if metric in DIFFERENCES
        else table["mean"]
    )
    worst_first = table.assign(worse=worse).sort_values(
        ["missed", "worse"], ascending=[False, True], kind="stable"
    )
    return worst_first.drop(columns="worse").reset_index()


def choose_worst(pairs: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return `count` rows of `pair_scores`, from each data set's targets in turn, so that every
    target has its worst.

    A case is shown once for a target, by its worst slice.
    """
    first = pairs.drop_duplicates(["dataset", "case", "target"])
    turn = first.groupby(["dataset", "target"], sort=False).cumcount()
    chosen = first.assign(turn=turn).sort_values("turn", kind="stable").head(count)
    return chosen.sort_values(["dataset", "target", "turn"]).drop(columns="turn")


def choose_slice(picture: CasePicture, slice_index: int | None = None) -> int:
    """Return the slice to show: the given one, else the one of the largest reference, else of the
    largest masks.
    """
    if slice_index is not None and 0 <= slice_index < len(picture.image):
        return slice_index
    masks = [picture.reference] if picture.reference.any() else list(picture.predictions.values())
    areas = sum(
        (np.count_nonzero(mask, axis=(1, 2)) for mask in masks), np.zeros(len(picture.image), int)
    )
    return int(areas.argmax()) if areas.any() else len(picture.image) // 2


def draw_thumbnails(
    picture: CasePicture, index: int, colours: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Draw the whole slice with a frame, the framed part with the reference outlined, then with
    each method's mask.

    Args:
        picture: See `CasePicture`.
        index: Which slice.
        colours: Of the methods, "#rrggbb".

    Returns:
        Captions, and PNG pictures as data URIs.
    """
    grey = scale_grey(picture.image[index], picture.window)
    reference = picture.reference[index]
    pixel_mm = picture.spacing_mm[1:]
    whole = (slice(0, grey.shape[0]), slice(0, grey.shape[1]))
    frame = _frame([reference, *(mask[index] for mask in picture.predictions.values())], pixel_mm)
    panels = [("image", _draw(grey, whole, pixel_mm, framed=frame))]
    panels.append(("reference", _draw(grey, frame, pixel_mm, outline=reference)))
    for method, mask in picture.predictions.items():
        panels.append(
            (
                method,
                _draw(
                    grey,
                    frame,
                    pixel_mm,
                    outline=reference,
                    mask=mask[index],
                    colour=colours[method],
                ),
            )
        )
    return [(caption, _as_uri(panel)) for caption, panel in panels]


def _frame(masks: Sequence[NDArray[np.bool_]], pixel_mm: Sequence[float]) -> tuple[slice, slice]:
    """Return a square in mm, twice as wide as the masks, inside the slice as far as it goes."""
    shape = masks[0].shape
    found = np.argwhere(np.any(masks, axis=0))
    if not len(found):
        return slice(0, shape[0]), slice(0, shape[1])
    low, high = found.min(0), found.max(0) + 1
    side_mm = max(_LEAST_MM, 2.0 * float(((high - low) * pixel_mm).max()))
    parts = []
    for axis in range(2):
        length = min(shape[axis], max(8, round(side_mm / pixel_mm[axis])))
        start = int(np.clip((low[axis] + high[axis] - length) // 2, 0, shape[axis] - length))
        parts.append(slice(start, start + length))
    return parts[0], parts[1]


def _draw(
    grey: NDArray[np.uint8],
    part: tuple[slice, slice],
    pixel_mm: Sequence[float],
    *,
    outline: NDArray[np.bool_] | None = None,
    mask: NDArray[np.bool_] | None = None,
    colour: str = "",
    framed: tuple[slice, slice] | None = None,
) -> NDArray[np.uint8]:
    """An RGB picture (h,w,3) whose longer side is `_SIDE`, in true proportions."""
    extent_mm = [(part[axis].stop - part[axis].start) * pixel_mm[axis] for axis in range(2)]
    size = [max(1, round(_SIDE * extent / max(extent_mm))) for extent in extent_mm]
    picture = np.repeat(
        _resize(grey[part], size, Image.Resampling.BILINEAR)[..., None], 3, axis=2
    ).astype(np.float32)
    if mask is not None:
        inside = _resize(mask[part].astype(np.uint8), size, Image.Resampling.NEAREST).astype(bool)
        picture[inside] += _OPACITY * (np.array(_rgb(colour)) - picture[inside])
        picture[_edge(inside)] = _rgb(colour)
    if outline is not None:
        picture[
            _edge(
                _resize(outline[part].astype(np.uint8), size, Image.Resampling.NEAREST).astype(bool)
            )
        ] = _rgb(REFERENCE_COLOUR)
    if framed is not None:
        rows, columns = (
            [
                round((edge - part[axis].start) * size[axis] / (part[axis].stop - part[axis].start))
                for edge in edges
            ]
            for axis, edges in enumerate([(side.start, side.stop) for side in framed])
        )
        box = np.zeros(picture.shape[:2], bool)
        box[rows[0] : rows[1], columns[0] : columns[1]] = True
        picture[_edge(box)] = 255
    return picture.round().astype(np.uint8)


def _resize(
    array: NDArray[np.uint8], size: Sequence[int], how: Image.Resampling
) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(np.ascontiguousarray(array)).resize((size[1], size[0]), how))


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The outermost two pixels inside a mask (h,w)."""
    return mask & ~binary_erosion(mask, iterations=2)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _as_uri(picture: NDArray[np.uint8]) -> str:
    png = io.BytesIO()
    Image.fromarray(picture).save(png, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode("ascii")
