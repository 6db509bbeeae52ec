"""Where a query looked, layer by layer: the paper's Figures 4 to 8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boltzmed.reports.contact_sheet import make_sheet
from boltzmed.volumes.output import whole_file

_REFERENCE, _PREDICTION = "#ff5a4a", "#2f8fff"
_UNSEEN = 0.25
"""Brightness of what a layer doesn't see; the paper blackens it, and with it the anatomy that tells where one is."""
_COLUMNS = 5


def draw_sampling(
    image: NDArray,
    attended: Sequence[NDArray[np.bool_]],
    path: str | Path,
    *,
    title: str,
    prediction: NDArray | None = None,
    reference: NDArray | None = None,
) -> None:
    """Draw one picture a layer into a PNG file: sampled patches bright, the rest dark, masks outlined.

    Args:
        image: (S,S), 0 … 255, as the network saw it.
        attended: A layer's sampled tokens (h,w), True where sampled; h and w divide S.
        path: Where the picture goes, whole or not at all.
        title: Over the figure.
        prediction, reference: Masks (S,S), outlined blue and red.

    Raises:
        OutputError: The folder cannot be written.
    """
    columns = min(_COLUMNS, len(attended) + 1)
    lines = -(-(len(attended) + 1) // columns)
    figure, axes = make_sheet(lines, columns, (3.2 * columns, 3.5 * lines + 0.6), title=title, font_size=13)
    pictures = [("image", np.ones((1, 1), bool)), *((f"layer {k + 1}", seen) for k, seen in enumerate(attended))]
    for ax, (name, seen) in zip(axes, pictures, strict=False):
        patch = np.kron(seen, np.ones((image.shape[0] // seen.shape[0], image.shape[1] // seen.shape[1]), bool))
        ax.imshow(np.where(patch, image, _UNSEEN * image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        for mask, colour in ((prediction, _PREDICTION), (reference, _REFERENCE)):
            if mask is not None and mask.any():
                ax.contour(mask, levels=[0.5], colors=[colour], linewidths=0.9)
        share = f": {100 * seen.mean():.1f} % of {seen.shape[0]}×{seen.shape[1]}" if name != "image" else ""
        ax.set_title(f"{name}{share}", color="white", fontsize=9)
    legend = [text for text, mask in (("blue: mask", prediction), ("red: reference", reference)) if mask is not None]
    figure.text(0.99, 0.005, "    ".join(["bright: sampled", *legend]), color="#bbbbbb", fontsize=9, ha="right")
    figure.tight_layout(rect=(0, 0.02, 1, 0.97))
    with whole_file(path) as temporary:
        figure.savefig(temporary, facecolor="black", format="png")
