"""What the page's volume viewer needs: NiiVue from an installed package, and volumes small enough
to travel inline.
"""

from __future__ import annotations

import base64
import gzip
import importlib.util
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, generate_binary_structure

from boltzmed.reports.pictures import CasePicture
from boltzmed.volumes import write_image

_MARGIN_MM = 30.0
"""Kept around the masks where a whole volume is too large for the page."""
_NPM_BUNDLE = Path("node_modules", "@niivue", "niivue", "dist", "niivue.umd.js")
# ipyniivue's module exports its widget alone; the class is found where the widget makes one.
_WIDGET_CLASS = re.compile(r'"Creating new Niivue instance"\).{0,200}?=new ([\w$]+)\(')
_WIDGET_EXPORT = re.compile(r"export\s*\{[^{}]*\};?\s*$")


def find_niivue(folder: str | Path = ".") -> str | None:
    """Return NiiVue as a script that sets `globalThis.Niivue`, from an installed package; None
    where there is none.

    npm's `@niivue/niivue` in `folder` or above it is taken first, then PyPI's ipyniivue (the extra
    `report`). Nothing is fetched.
    """
    folder = Path(folder).resolve()
    for place in (folder, *folder.parents):
        if (place / _NPM_BUNDLE).is_file():
            return (place / _NPM_BUNDLE).read_text(
                encoding="utf-8"
            ) + "\n;globalThis.Niivue = niivue.Niivue;"
    package = importlib.util.find_spec("ipyniivue")
    widget = (
        Path(package.origin).parent / "static" / "widget.js" if package and package.origin else None
    )
    if widget is None or not widget.is_file():
        return None
    text = widget.read_text(encoding="utf-8")
    made, exported = _WIDGET_CLASS.search(text), _WIDGET_EXPORT.search(text)
    if not made or not exported:
        return None  # a version built another way: the page falls back to its slider, and says so
    return (
        f'(() => {{"use strict";\n{text[: exported.start()]}\nglobalThis.Niivue ='
        f" {made[1]};\n}})();\n"
    )


def encode_script(script: str) -> str:
    """Return text gzipped as base64, a third of its size; the page unpacks it when the viewer is
    opened.
    """
    return base64.b64encode(gzip.compress(script.encode("utf-8"), mtime=0)).decode("ascii")


def embed_case(
    picture: CasePicture, colours: Mapping[str, str], *, slice_index: int, megabytes: float
) -> dict[str, Any]:
    """Return a case as what the page's script reads: volumes as base64 NIfTI files (uint8,
    gzipped), names, colours.

    A case that would need more than `megabytes` is cropped to its masks and a margin, then thinned
    in plane: means of the image, any voxel of a mask. Headers are new ones: they hold the shape and
    the spacing, nothing else of the file's. The reference travels as its outline in each slice.

    Args:
        picture: see `CasePicture`.
        colours: of each method and of "reference", as "#rrggbb".
        slice_index: the one to begin with.
        megabytes: about how much of the page the case may take.
    """
    grey = scale_grey(picture.image, picture.window)
    masks = {"reference": picture.reference, **picture.predictions}
    spacing_mm = np.asarray(picture.spacing_mm, dtype=np.float64)
    note = ""
    # A windowed image shrinks to about two thirds by gzip and grows by a third as base64; masks are
    # next to nothing.
    limit, first = max(int(megabytes * 1e6), 1), 0
    if grey.size > limit:
        box = _bounding_box(list(masks.values()), spacing_mm)
        grey, masks = grey[box], {name: mask[box] for name, mask in masks.items()}
        first = box[0].start or 0
        note = f"cropped to the masks and {_MARGIN_MM:g} mm around them"
    step = int(np.ceil(np.sqrt(grey.size / limit))) if grey.size > limit else 1
    if step > 1:
        grey = _thin(grey, step, np.mean)
        masks = {name: _thin(mask, step, np.max) for name, mask in masks.items()}
        spacing_mm = spacing_mm * (1, step, step)
        note += f", every {step} pixels in plane shown as one"
    return {
        "title": picture.title,
        "note": note,
        "shape": list(grey.shape[::-1]),
        "spacing_mm": [round(float(size), 4) for size in spacing_mm[::-1]],
        "first": first,
        "slice": int(np.clip(slice_index - first, 0, len(grey) - 1)),
        "view": _describe_view(picture.directions[0]),
        "image": _encode_volume(grey, spacing_mm, picture.directions),
        "masks": [
            {
                "name": name,
                "colour": colours[name],
                "data": _encode_volume(
                    _outline(mask) if name == "reference" else mask, spacing_mm, picture.directions
                ),
            }
            for name, mask in masks.items()
        ],
    }


def scale_grey(image: NDArray[Any], window: tuple[float, float]) -> NDArray[np.uint8]:
    """Return intensities of any shape as 0 … 255, from the window's lower to its upper end."""
    low, high = window
    return (
        (255 * np.clip((image.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1))
        .round()
        .astype(np.uint8)
    )


def _describe_view(direction: str) -> dict[str, Any]:
    """Which of NiiVue's views shows slices that follow each other in a direction, and along which
    RAS axis.
    """
    axis = next(axis for axis, ends in enumerate(("LR", "PA", "IS")) if direction in ends)
    return {
        "name": ("Sagittal", "Coronal", "Axial")[axis],
        "axis": axis,
        "reversed": direction in "LPI",
    }


def _encode_volume(
    slices: NDArray[Any], spacing_mm: NDArray[np.float64], directions: tuple[str, str, str]
) -> str:
    affine_ras = np.diag([0.0, 0.0, 0.0, 1.0])
    for column, (direction, size_mm) in enumerate(
        zip(directions[::-1], spacing_mm[::-1], strict=True)
    ):
        view = _describe_view(direction)  # the file's axes are columns, rows and slices
        affine_ras[view["axis"], column] = -size_mm if view["reversed"] else size_mm
    with tempfile.TemporaryDirectory() as folder:
        path = write_image(
            slices.astype(np.uint8).transpose(2, 1, 0), affine_ras, Path(folder) / "volume.nii"
        )
        return base64.b64encode(gzip.compress(path.read_bytes(), 6, mtime=0)).decode("ascii")


def _bounding_box(masks: Sequence[NDArray[Any]], spacing_mm: Iterable[float]) -> tuple[slice, ...]:
    found = np.argwhere(np.any(masks, axis=0))
    if not len(found):
        return (slice(None),) * 3
    margins = [int(np.ceil(_MARGIN_MM / size)) for size in spacing_mm]
    low, high = found.min(0), found.max(0) + 1
    return tuple(slice(max(a - m, 0), b + m) for a, b, m in zip(low, high, margins, strict=True))


def _thin(slices: NDArray[Any], step: int, combine: Any) -> NDArray[Any]:
    count, height, width = slices.shape
    padded = np.pad(slices, ((0, 0), (0, -height % step), (0, -width % step)), mode="edge")
    blocks = padded.reshape(count, padded.shape[1] // step, step, padded.shape[2] // step, step)
    return combine(blocks, axis=(2, 4)).astype(slices.dtype)


def _outline(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels of a mask (K,H,W) with a neighbour in their slice that is outside."""
    return mask.astype(bool) & ~binary_erosion(mask, generate_binary_structure(2, 1)[None])
