"""One picture of many masks: for each prompt the slice where its target is largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REFERENCE, _PREDICTION = "#ffd54a", "#2f8fff"  # told apart by every common colour vision
_COLUMNS = 4


@dataclass(frozen=True)
class Panel:
    """One picture of the sheet; all arrays are slices (K,H,W) of one study, H and W as the network
    sees them.

    Attributes:
        title: The prompt.
        image: In HU or raw MR units.
        window: (low, high) shown from black to white.
        prediction: Mask.
        reference: Mask, or None.
        pixel_mm: (H, W) pixel spacing in mm, for the aspect and the scale bar.
        note: A line under the title.
    """

    title: str
    image: NDArray
    window: tuple[float, float]
    prediction: NDArray
    reference: NDArray | None
    pixel_mm: tuple[float, float]
    note: str = ""


def draw_contact_sheet(panels: Sequence[Panel], path: str | Path, *, title: str) -> None:
    """Draw panels into a PNG file: reference outlined, prediction filled, a small target magnified
    in a corner.

    Args:
        panels: At least one.
        path: Where the picture goes.
        title: Over the sheet.
    """
    figure = make_contact_sheet(panels, title=title)
    figure.text(0.01, 0.005, "patient's right is on the left", color="#bbbbbb", fontsize=9)
    figure.savefig(path, facecolor="black", format="png")


def make_contact_sheet(panels: Sequence[Panel], *, title: str) -> Figure:
    """Return the figure of that file, which does not say how the slices lie."""
    columns = min(_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = make_sheet(
        lines, columns, (4.2 * columns, 4.4 * lines + 0.7), title=title, font_size=14
    )
    for ax, panel in zip(axes, panels, strict=False):
        _draw_panel(ax, panel)
    figure.text(
        0.99,
        0.005,
        "yellow outline: reference    blue: prediction",
        color="#bbbbbb",
        fontsize=9,
        ha="right",
    )
    figure.tight_layout(rect=(0, 0.02, 1, 0.97))
    return figure


def make_sheet(
    lines: int, columns: int, size_inches: tuple[float, float], *, title: str, font_size: int
) -> tuple[Figure, NDArray[Any]]:
    """Return an empty black figure with its title, and its axes (lines · columns,), which show
    nothing yet.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_inches, facecolor="black", dpi=110)
    FigureCanvasAgg(figure)
    figure.suptitle(title, color="white", fontsize=font_size)
    axes = figure.subplots(lines, columns, squeeze=False).reshape(-1)
    for ax in axes:
        ax.set_axis_off()
    return figure, axes


def _draw_panel(ax, panel: Panel) -> None:
    guide = (
        panel.prediction
        if panel.reference is None or not panel.reference.any()
        else panel.reference
    )
    sizes = np.count_nonzero(guide, axis=(1, 2))
    index = int(sizes.argmax()) if sizes.any() else len(sizes) // 2
    aspect = panel.pixel_mm[0] / panel.pixel_mm[1]
    _draw_masks(ax, panel, index, aspect)
    ax.set_title(f"{panel.title}\n{panel.note or f'slice {index}'}", color="white", fontsize=10)
    found = np.argwhere(guide[index])
    height, width = guide.shape[1:]
    if len(found) and np.ptp(found, axis=0).max() < 0.12 * max(height, width):
        centre, half = found.mean(0), max(12.0, 1.2 * np.ptp(found, axis=0).max())
        inset = ax.inset_axes((0.62, 0.12, 0.36, 0.36))  # above the title of the panel below
        _draw_masks(inset, panel, index, aspect)
        inset.set_xlim(centre[1] - half, centre[1] + half)
        inset.set_ylim(centre[0] + half, centre[0] - half)
        inset.set_xticks([])
        inset.set_yticks([])
        for spine in inset.spines.values():
            spine.set_color("#888888")


def _draw_masks(ax, panel: Panel, index: int, aspect: float) -> None:
    low, high = panel.window
    ax.imshow(
        panel.image[index],
        cmap="gray",
        vmin=low,
        vmax=high,
        aspect=aspect,
        interpolation="bilinear",
    )
    for mask, colour, filled in (
        (panel.prediction, _PREDICTION, True),
        (panel.reference, _REFERENCE, False),
    ):
        if mask is None or not mask[index].any():
            continue
        if filled:
            ax.contourf(mask[index], levels=[0.5, 1.5], colors=[colour], alpha=0.45)
        else:
            ax.contour(mask[index], levels=[0.5], colors=[colour], linewidths=1.1)
