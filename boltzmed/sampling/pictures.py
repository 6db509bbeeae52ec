"""Pictures of where queries looked, layer by layer, as in the paper's Figures 4 to 8."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

from boltzmed.files import whole_file
from boltzmed.reports.contact_sheet import make_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REFERENCE = "#ff5a4a"
_PREDICTION = "#2f8fff"
_BOTH = "#ffe14a"
_UNSEEN = 0.25
"""Brightness of what a layer doesn't see; the paper blackens it, and with it the anatomy that tells
where one is.
"""
_LIFT = 0.2
"""Towards white, of what it does see: sampled air would look as dark as air that was not."""
_COLUMNS = 5
_LEFT = {"sagittal": "The patient's front is on the left. "}
_LEFT |= dict.fromkeys(("axial", "coronal"), "The patient's right is on the left. ")
"""Plane → a sentence; a plane of the file's own order (`array`) has none."""
_PAGE_PIXELS = 256
"""Side of a picture of the page, at most."""


@dataclass(frozen=True)
class SampledSlice:
    """One slice, and what each query sampled on it.

    Attributes:
        index: In the network's slice order.
        image: (S,S), 0 … 255, as the network saw it.
        attended: A layer's sampled tokens (Q,h,w), True where sampled; h and w divide S.
        prediction: Mask (S,S).
        reference: Mask (S,S), or None.
    """

    index: int
    image: NDArray[Any]
    attended: Sequence[NDArray[np.bool_]]
    prediction: NDArray[np.bool_]
    reference: NDArray[np.bool_] | None = None


@dataclass
class LayerShares:
    """How one layer's samples, of all queries, fell on an object, over the slices that show it.

    Attributes:
        tokens: Side of the layer's grid of tokens, (h, w).
        sampled: Samples.
        hits: Samples whose patch touches the object.
        expected: Hits of as many samples drawn evenly from the slice.
        drawable: Tokens from which was drawn, over all queries.
    """

    tokens: tuple[int, int]
    sampled: int = 0
    hits: int = 0
    expected: float = 0.0
    drawable: int = 0

    def add(self, attended_Qhw: NDArray[np.bool_], mask: NDArray[np.bool_]) -> None:
        """Count one slice."""
        height, width = attended_Qhw.shape[1:]
        patches = mask.reshape(height, mask.shape[0] // height, width, mask.shape[1] // width).any(
            (1, 3)
        )
        self.sampled += int(attended_Qhw.sum())
        self.hits += int(attended_Qhw[:, patches].sum())
        self.expected += float(attended_Qhw.sum() * patches.mean())
        self.drawable += attended_Qhw.size

    def cells(self, number: int) -> list[str]:
        """As texts of a table: layer, tokens, sampled, on the object, by chance, ratio."""
        sampled = max(self.sampled, 1)
        ratio = f"{self.hits / self.expected:.1f}×" if self.expected else "–"
        return [
            str(number),
            f"{self.tokens[0]}×{self.tokens[1]}",
            f"{100 * self.sampled / max(self.drawable, 1):.1f} %",
            f"{100 * self.hits / sampled:.1f} %",
            f"{100 * self.expected / sampled:.1f} %",
            ratio,
        ]


def draw_sampling(sampled: SampledSlice, path: str | Path, *, title: str, query: int = 0) -> None:
    """Draw a picture of each layer into a PNG file: sampled patches bright, the rest dark.

    Args:
        sampled: the slice; its prediction is outlined blue, its reference red.
        path: where the picture goes, whole or not at all.
        title: over the figure.
        query: whose samples.

    Raises:
        OutputError: the folder cannot be written.
    """
    figure = make_sampling_figure(sampled, title=title, query=query)
    with whole_file(path) as temporary:
        figure.savefig(temporary, facecolor="black", format="png")


def make_sampling_figure(sampled: SampledSlice, *, title: str, query: int = 0) -> Figure:
    """Return the figure of that file."""
    layers = [attended[query] for attended in sampled.attended]
    columns = min(_COLUMNS, len(layers) + 1)
    lines = -(-(len(layers) + 1) // columns)
    size = (3.2 * columns, 3.5 * lines + 0.6)
    figure, axes = make_sheet(lines, columns, size, title=title, font_size=13)
    for number, ax in enumerate(axes[: len(layers) + 1]):
        if number == 0:
            name = "image"
            picture = sampled.image
        else:
            layer = layers[number - 1]
            height, width = layer.shape
            name = f"layer {number}: {100 * layer.mean():.1f} % of {height}×{width}"
            picture = _darken(sampled.image, layer)
        ax.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        for mask, colour in ((sampled.prediction, _PREDICTION), (sampled.reference, _REFERENCE)):
            if mask is not None and mask.any():
                ax.contour(mask, levels=[0.5], colors=[colour], linewidths=0.9)
        ax.set_title(name, color="white", fontsize=9)
    legend = ["bright: sampled", "blue: mask"]
    if sampled.reference is not None:
        legend.append("red: reference")
    figure.text(0.99, 0.005, "    ".join(legend), color="#bbbbbb", fontsize=9, ha="right")
    figure.tight_layout(rect=(0, 0.02, 1, 0.97))
    return figure


def write_sampling_page(
    slices: Iterable[SampledSlice],
    path: str | Path,
    *,
    title: str,
    query: int = 0,
    plane: str = "axial",
) -> None:
    """Write a study's slices as one HTML page to scroll through, a row each, a column a layer.

    Above them a table says how each layer's samples, of all queries, fell on the object: the
    reference's, or the mask's own where there is no reference. Nothing is fetched from outside.

    Args:
        slices: at least one; taken one by one, so that only one is in memory.
        path: the file, whole or not at all.
        title: of the page.
        query: whose samples the pictures show.
        plane: in which the slices were cut, one of ``PLANES``, for what lies on the left.

    Raises:
        OutputError: the folder cannot be written.
    """
    shares: list[LayerShares] = []
    rows = []
    objects = 0
    referenced = False
    for sampled in slices:
        if not shares:
            shares = [LayerShares((grid.shape[1], grid.shape[2])) for grid in sampled.attended]
        referenced = sampled.reference is not None
        mask = sampled.prediction if sampled.reference is None else sampled.reference
        if mask.any():
            objects += 1
            for share, attended in zip(shares, sampled.attended, strict=True):
                share.add(attended, mask)
        rows.append(_draw_row(sampled, query))
    parts = {
        "STYLE": _fill_style(len(shares) + 1),
        "TITLE": html.escape(title),
        "REFERENCED": _REFERENCED if referenced else "",
        "LEFT": _LEFT.get(plane, ""),
        "OBJECTS": str(objects),
        "TABLE": _draw_table(shares, "reference" if referenced else "mask"),
        "WHAT": "reference" if referenced else "mask",
        "NAMES": "".join(f"<span>{name}</span>" for name in _name_columns(len(shares))),
        "ROWS": "".join(rows),
    }
    # In one pass: a title may hold what looks like a place of the page.
    page = re.sub(r"\[([A-Z]+)\]", lambda place: parts[place[1]], _PAGE)
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _name_columns(layers: int) -> list[str]:
    return ["image", *(f"layer {number + 1}" for number in range(layers))]


def _fill_style(columns: int) -> str:
    style = _STYLE.replace("COUNT", str(columns))
    for name, colour in (("PREDICTION", _PREDICTION), ("REFERENCE", _REFERENCE), ("BOTH", _BOTH)):
        style = style.replace(name, colour)
    return style


def _draw_table(shares: Sequence[LayerShares], what: str) -> str:
    columns = ["layer", "tokens", "sampled", f"of these on the {what}", "by chance", "ratio"]
    rows = "".join(_row("td", share.cells(number + 1)) for number, share in enumerate(shares))
    return f"<table><thead>{_row('th', columns)}</thead><tbody>{rows}</tbody></table>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>[TITLE]</title><style>[STYLE]</style></head><body>
<h1>[TITLE]</h1>
<p>Bright: sampled by this query in this layer. <b class="prediction">Blue</b>: mask.[REFERENCED]
[LEFT]Samples of all queries on the [OBJECTS] slices that show the [WHAT]:</p>
[TABLE]
<div class="names">[NAMES]</div>
[ROWS]
</body></html>
"""
_REFERENCED = ' <b class="reference">Red</b>: reference; <b class="both">yellow</b>: both.'

_STYLE = """
body{background:#000;color:#ddd;font:15px/1.5 system-ui,sans-serif;margin:1rem}
h1{font-size:1.2rem}
.prediction{color:PREDICTION}.reference{color:REFERENCE}.both{color:BOTH}
table{border-collapse:collapse;margin:0 0 1rem}
td,th{padding:.1rem .8rem .1rem 0;text-align:right;font-weight:400}
th{color:#999}
.names{position:sticky;top:0;background:#000;display:grid;max-width:1500px}
.names{grid-template-columns:repeat(COUNT,1fr)}
figure{margin:0 0 .6rem;max-width:1500px}figure img{width:100%;display:block}
figcaption{color:#999;font-size:.8rem}
@media print{body{background:#fff;color:#000}figure{break-inside:avoid}}
@media print{.names{position:static;background:#fff}}
"""


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _draw_row(sampled: SampledSlice, query: int) -> str:
    """One slice's pictures side by side, as HTML."""
    factor = max(1, sampled.image.shape[0] // _PAGE_PIXELS)
    pictures = [
        _paint(sampled, None, factor),
        *(_paint(sampled, layer[query], factor) for layer in sampled.attended),
    ]
    image = Image.fromarray(np.concatenate(pictures, axis=1))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85, subsampling=0)
    data = base64.b64encode(content.getvalue()).decode("ascii")
    name = f"slice {sampled.index}"
    return (
        f'<figure><figcaption>{name}</figcaption><img alt="{name}: the image, then what each layer'
        f' sampled" width="{image.width}" height="{image.height}"'
        f' src="data:image/jpeg;base64,{data}"></figure>\n'
    )


def _paint(
    sampled: SampledSlice, layer: NDArray[np.bool_] | None, factor: int
) -> NDArray[np.uint8]:
    """A picture (s,s,3), `factor` times smaller: unsampled patches dark, outlines a pixel wide."""
    shown = sampled.image if layer is None else _darken(sampled.image, layer)
    small = _in_blocks(shown, factor).mean((1, 3))
    picture = np.repeat(small.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    blue, red = (_outline(mask, factor) for mask in (sampled.prediction, sampled.reference))
    for outline, colour in ((blue, _PREDICTION), (red, _REFERENCE), (blue & red, _BOTH)):
        picture[outline] = tuple(bytes.fromhex(colour[1:]))
    return picture


def _outline(mask: NDArray[np.bool_] | None, factor: int) -> NDArray[np.bool_]:
    if mask is None:
        return np.zeros((), bool)
    inside = _in_blocks(mask, factor).mean((1, 3)) > 0.5
    eroded: NDArray[np.bool_] = binary_erosion(inside)
    outline: NDArray[np.bool_] = inside & ~eroded
    return outline


def _in_blocks(values: NDArray[Any], side: int) -> NDArray[Any]:
    height = values.shape[0] // side
    width = values.shape[1] // side
    return values[: height * side, : width * side].reshape(height, side, width, side)


def _darken(image: NDArray[Any], sampled: NDArray[np.bool_]) -> NDArray[Any]:
    """All but the patches of the sampled tokens is dark."""
    patch = np.ones((image.shape[0] // sampled.shape[0], image.shape[1] // sampled.shape[1]), bool)
    darkened: NDArray[Any] = np.where(
        np.kron(sampled, patch), image + _LIFT * (255 - image), _UNSEEN * image
    )
    return darkened
