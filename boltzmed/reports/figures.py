"""Figures of scores: by object size, paired, and their agreement. Colours that every colour vision
tells apart.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boltzmed.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCE_COLOUR = "#F0E442"
METHOD_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Okabe and Ito's palette (2008); its yellow is the reference's, its black the text's."""

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_CLOUD = 3000  # more points than this are counted in hexagons
_COLUMNS = 2  # on a phone, a figure is as wide as two panels
_Z = 1.96  # limits of agreement: mean ± 1.96 standard deviations (Bland & Altman 1986)


def colour_of(methods: Sequence[str], method: str) -> str:
    """Return a method's colour, the same in every figure and in the viewer."""
    return METHOD_COLOURS[list(methods).index(method) % len(METHOD_COLOURS)]


def draw_sizes(
    cells: pd.DataFrame, *, strata: Sequence[str], score: str, size: str, share: bool = True
) -> Figure:
    """Draw the mean score of each stratum with its interval, a panel per data set, a marker per
    method.

    Under a stratum stands its n, or that of each method in the legend's order where they differ.

    Args:
        cells: A row per dataset, stratum and method: mean, low, high (NaN: no interval), n.
        strata: Their names, small to large; those without a row in a data set are not in its panel.
        score: What is on the vertical axis.
        size: What the strata are of.
        share: Whether the score goes from 0 to 1.
    """
    methods, datasets = list(cells["method"].unique()), list(cells["dataset"].unique())
    columns = min(_COLUMNS, len(datasets))
    figure, axes = _make_figure(-(-len(datasets) // columns), columns, (5.0, 3.2))
    for ax, dataset in zip(axes, datasets, strict=False):
        part = cells[cells["dataset"].eq(dataset)]
        present = [name for name in strata if name in set(part["stratum"])]
        for index, method in enumerate(methods):
            own = part[part["method"].eq(method)].set_index("stratum").reindex(present)
            x = np.arange(len(present)) + 0.6 * ((index + 0.5) / len(methods) - 0.5)
            bars = np.nan_to_num(np.abs(own[["low", "high"]].to_numpy().T - own["mean"].to_numpy()))
            style = {
                "fmt": _MARKERS[index % len(_MARKERS)],
                "color": colour_of(methods, method),
                "label": method,
            }
            ax.errorbar(x, own["mean"], yerr=bars, markersize=6, capsize=3, linewidth=1.4, **style)  # type: ignore[arg-type]
        numbers = (
            part.pivot(index="stratum", columns="method", values="n")
            .reindex(present, columns=methods)
            .fillna(0)
        )
        counts = [[str(int(n)) for n in line] for line in numbers.to_numpy()]
        counts = [line if len(set(line)) > 1 else line[:1] for line in counts]
        ticks = [
            "\nn=".join([name, "\n".join(line)]) for name, line in zip(present, counts, strict=True)
        ]
        ax.set_xticks(range(len(present)), ticks, fontsize=8)
        ax.set_xlim(
            -0.5, len(present) - 0.5
        )  # a method without a mean would shift the others in their stratum
        ax.set_title(_plain(dataset), fontsize=10)
        if share:
            ax.set_ylim(0, 1.02)
        ax.set_ylabel(score)
        ax.set_xlabel(size, fontsize=9)
        ax.grid(axis="y", color="#dddddd")
    for ax in axes[len(datasets) :]:
        ax.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        map(_plain, labels),
        loc="outside lower center",
        ncols=min(len(methods), 4),
        frameon=False,
    )
    return figure


def draw_pairs(scores: Mapping[str, NDArray[np.float64]], *, score: str) -> Figure:
    """Draw the first method's score of each object against each other method's; above the diagonal
    the other is better.

    Args:
        scores: Of each method, of the same objects in the same order, 0 … 1; at least two methods.
        score: The score's name.
    """
    (first, x), *others = scores.items()
    figure, axes = _make_figure(1, len(others), (4.1, 3.9))
    for ax, (name, y) in zip(axes, others, strict=True):
        _draw_cloud(ax, x, y, colour_of(list(scores), name), extent=(0, 1, 0, 1))
        ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
        better, worse = int((y > x).sum()), int((y < x).sum())
        ax.set_title(
            f"{_plain(name)} better {better},\nworse {worse}, equal {len(x) - better - worse}",
            fontsize=9,
        )
        ax.set_xlabel(f"{score}, {_plain(first)}")
        ax.set_ylabel(f"{score}, {_plain(name)}")
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    return figure


def draw_agreement(scores: Mapping[str, NDArray[np.float64]], *, score: str) -> Figure:
    """Draw Bland and Altman's plot of the first method and each other one: difference against mean,
    of each object.

    The mean difference and the limits of agreement (mean ± 1.96 standard deviations over objects)
    are written beside their lines.

    Args:
        scores: See `draw_pairs`.
        score: The score's name.
    """
    (first, x), *others = scores.items()
    figure, axes = _make_figure(1, len(others), (4.6, 3.7))
    for ax, (name, y) in zip(axes, others, strict=True):
        agreement = limits_of_agreement(x, y)
        _draw_cloud(ax, (x + y) / 2, y - x, colour_of(list(scores), name), extent=(0, 1, -1, 1))
        for label, value in agreement.items():
            ax.axhline(
                value,
                color="black",
                linewidth=1.2 if label == "mean" else 0.9,
                dashes=[] if label == "mean" else [4, 3],
            )
            ax.annotate(
                f"{label} {value:+.3f}",
                (1.0, value),
                xytext=(-2, 2),
                textcoords="offset points",
                fontsize=8,
                ha="right",
                bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5},
            )
        ax.set_xlabel(f"mean {score} of both")
        ax.set_ylabel(f"{_plain(name)} − {_plain(first)}")
        ax.set(xlim=(-0.02, 1.02), ylim=(-1.05, 1.05))
        ax.set_title(f"{len(x)} objects", fontsize=9)
    return figure


def limits_of_agreement(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> dict[str, float]:
    """Return the mean of second − first, and that mean ± 1.96 standard deviations (n - 1; 0 for one
    object).

    Returns:
        "upper limit", "mean", "lower limit" (Bland & Altman, Lancet 1986).
    """
    differences = second - first
    mean, spread = (
        float(differences.mean()),
        (float(differences.std(ddof=1)) if len(differences) > 1 else 0.0),
    )
    return {"upper limit": mean + _Z * spread, "mean": mean, "lower limit": mean - _Z * spread}


def save_figure(figure: Figure, path: Path) -> bytes:
    """Write a figure as PNG and SVG, whatever the path's suffix, and return the SVG for the page.

    Raises:
        OutputError: The folder cannot be written.
    """
    import matplotlib

    svg = io.BytesIO()
    # Text stays text, ids and metadata do not depend on when or where it was drawn.
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "boltzmed", "font.family": "sans-serif"}
    ):
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        with whole_file(path.with_suffix(".png")) as temporary:
            figure.savefig(temporary, format="png", dpi=150)
    with whole_file(path.with_suffix(".svg")) as temporary:
        temporary.write_bytes(svg.getvalue())
    return svg.getvalue()


def _make_figure(
    lines: int, columns: int, size_inches: tuple[float, float]
) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(size_inches[0] * columns, size_inches[1] * lines + 0.3), layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(lines, columns, squeeze=False).reshape(-1))
    for ax in axes:
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    return figure, axes


def _draw_cloud(
    ax: Axes, x: NDArray, y: NDArray, colour: str, extent: tuple[float, float, float, float]
) -> None:
    if len(x) <= _CLOUD:
        ax.scatter(x, y, s=9, alpha=0.45, color=colour, linewidths=0, rasterized=True)
        return
    from matplotlib.colors import LogNorm

    # From below 1, so that a single object is not white.
    shade = {"cmap": "Blues", "norm": LogNorm(vmin=0.2)}
    drawn = ax.hexbin(x, y, gridsize=45, mincnt=1, extent=extent, linewidths=0.1, **shade)  # type: ignore[arg-type]
    ax.figure.colorbar(drawn, ax=ax, label="objects", shrink=0.8)


def _plain(text: str) -> str:
    """Names are text, whatever they hold: "$" would begin a formula."""
    return text.replace("$", r"\$")
