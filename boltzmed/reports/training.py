"""How a training went, epoch by epoch: a table and curves from its TensorBoard events, for a model
card.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from boltzmed.files import whole_file
from boltzmed.reports.tables import align_columns
from boltzmed.strata import AREA_BINS

_FIRST = ("loss", "loss_dice", "loss_bce", "loss_presence", "val_loss", "val_dice")
_LAST = ("learning_rate", "images_per_second")
_EVERY_EPOCH = "epoch/"
_DIGITS = {"learning_rate": ".2e", "images_per_second": ".1f"}


def read_training(folder: str | Path) -> pd.DataFrame:
    """Read what a training's TensorBoard events say of each epoch.

    Where a training was interrupted and went on, what it did again counts.

    Args:
        folder: The training's output folder, with one event file or more.

    Returns:
        A row an epoch (the index, from 1), with as many as there are of the columns: loss, its
        parts, val_loss, val_dice and further metrics of validation, val_dice by object size (the
        names of the bins), learning_rate, images_per_second. What an epoch lacks is not a number.

    Raises:
        ValueError: There are no events, or none of an epoch.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not any(Path(folder).glob("events.out.tfevents.*")):
        raise ValueError(
            f"{folder}: expected the folder of a training tracked by TensorBoard, found no events"
            " there"
        )
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1})
    events.Reload()
    columns = {}
    for tag in events.Tags()["scalars"]:
        if not tag.startswith((_EVERY_EPOCH, "val_")):
            continue
        kept: list[tuple[int, float]] = []
        for event in events.Scalars(tag):
            while kept and kept[-1][0] >= event.step:  # an interrupted run had been here before
                kept.pop()
            kept.append((event.step, event.value))
        columns[tag.removeprefix(_EVERY_EPOCH).removeprefix("val_dice_by_size/")] = pd.Series(
            dict(kept)
        )
    if not columns:
        raise ValueError(f"{folder}: expected a training that ended an epoch, found events of none")
    others = [name for name in columns if name not in (*_FIRST, *AREA_BINS, *_LAST)]
    order = [name for name in (*_FIRST, *others, *AREA_BINS, *_LAST) if name in columns]
    return pd.DataFrame(columns)[order].rename_axis("epoch")


def summarise_training(table: pd.DataFrame) -> str:
    """Return what `read_training` gave as lines of text, the best validation Dice last."""
    cells = [["epoch", *table.columns]]
    for epoch, row in table.iterrows():
        cells.append([str(epoch), *(_format(str(name), value) for name, value in row.items())])
    text = align_columns(cells, [False] * len(cells[0]))
    if "val_dice" in table and table["val_dice"].notna().any():
        best = int(table["val_dice"].argmax())
        text += (
            f"\n\nbest val_dice {table['val_dice'].iloc[best]:.4f} after epoch {table.index[best]}"
            f" of {table.index[-1]}"
        )
    return text


def draw_training(table: pd.DataFrame, path: str | Path) -> None:
    """Draw the curves of what `read_training` gave into a PNG file: losses, Dice, learning rate,
    speed.

    Raises:
        OutputError: The folder cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = [str(name) for name in table.columns]
    pictures = {
        "loss": [name for name in columns if "loss" in name],
        "Dice of validation": [name for name in columns if name == "val_dice" or name in AREA_BINS],
        "learning rate": [name for name in columns if name == "learning_rate"],
        "images per second": [name for name in columns if name == "images_per_second"],
    }
    shown = [(title, names) for title, names in pictures.items() if names]
    figure = Figure(figsize=(4.6 * len(shown), 3.6), dpi=110)
    FigureCanvasAgg(figure)
    for ax, (title, names) in zip(
        figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True
    ):
        for name in names:
            width = 2.2 if name in ("loss", "val_dice") else 1.2
            ax.plot(table.index, table[name], marker=".", linewidth=width, label=name)
        ax.set_title(title, fontsize=11)
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
        if title == "Dice of validation":
            ax.set_ylim(0, 1)
        if len(names) > 1:
            ax.legend(fontsize=8)
    figure.tight_layout()
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _format(name: str, value: float) -> str:
    return "–" if np.isnan(value) else format(value, _DIGITS.get(name, ".4f"))
