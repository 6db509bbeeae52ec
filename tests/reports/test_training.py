"""A training's events as a table by epoch and as curves: of today's runs, of interrupted ones, of
older ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from boltzmed.cli import main
from boltzmed.reports.training import draw_training, read_training, summarise_training


def write_events(
    folder: Path, scalars: dict[str, dict[int, float]], *, start_s: float = 1000
) -> None:
    """One event file, as if begun at a time; the steps of its curves come a second apart."""
    with SummaryWriter(str(folder / "new")) as writer:
        for tag, curve in scalars.items():
            for step, value in curve.items():
                writer.add_scalar(tag, value, step, walltime=start_s + step)
    (file,) = (folder / "new").iterdir()
    file.rename(folder / f"events.out.tfevents.{start_s:012.1f}.host.1.0")
    (folder / "new").rmdir()


RUN = {
    "loss": {20: 9.0, 40: 8.0},
    "epoch/loss": {1: 1.5, 2: 0.75, 3: 0.5},
    "epoch/loss_bce": {1: 0.5, 2: 0.25, 3: 0.125},
    "epoch/loss_dice": {1: 1.0, 2: 0.5, 3: 0.375},
    "epoch/learning_rate": {1: 1e-3, 2: 5e-4, 3: 1e-5},
    "epoch/images_per_second": {1: 12.0, 2: 12.5, 3: 12.25},
    "val_dice": {1: 0.25, 2: 0.75, 3: 0.5},
    "val_recall": {1: 0.5, 2: 0.5, 3: 0.5},
    "val_dice_by_size/≥10 %": {1: 0.5, 2: 0.875, 3: 0.75},
    "val_dice_by_size/<0.01 %": {2: 0.125, 3: 0.25},
}
COLUMNS = [
    *("loss", "loss_dice", "loss_bce", "val_dice", "val_recall", "<0.01 %", "≥10 %"),
    *("learning_rate", "images_per_second"),
]


def test_a_row_an_epoch_and_the_columns_that_are_there(tmp_path):
    write_events(tmp_path, RUN)
    table = read_training(tmp_path)
    assert list(table.columns) == COLUMNS and list(table.index) == [1, 2, 3]
    for name, tag in (
        ("loss", "epoch/loss"),
        ("val_recall", "val_recall"),
        ("≥10 %", "val_dice_by_size/≥10 %"),
    ):
        assert table[name].to_dict() == RUN[tag]
    assert np.isnan(table["<0.01 %"][1]) and table["<0.01 %"][3] == 0.25
    header, _, first, *_, best = summarise_training(table).splitlines()
    assert header.split() == " ".join(["epoch", *COLUMNS]).split()
    assert first.split() == [
        "1",
        "1.5000",
        "1.0000",
        "0.5000",
        "0.2500",
        "0.5000",
        "–",
        "0.5000",
        "1.00e-03",
        "12.0",
    ]
    assert best == "best val_dice 0.7500 after epoch 2 of 3"


def test_what_an_interrupted_run_did_again_counts(tmp_path):
    write_events(
        tmp_path, {"epoch/loss": {1: 4.0, 2: 3.0, 3: 2.0}, "val_dice": {1: 0.1, 2: 0.2, 3: 0.3}}
    )
    write_events(
        tmp_path, {"epoch/loss": {2: 2.5, 3: 1.5, 4: 1.25}, "val_dice": {2: 0.4}}, start_s=2000
    )
    table = read_training(tmp_path)
    assert table["loss"].to_dict() == {1: 4.0, 2: 2.5, 3: 1.5, 4: 1.25}
    assert table["val_dice"].dropna().to_dict() == pytest.approx({1: 0.1, 2: 0.4})


def test_curves_are_drawn_for_what_is_there(tmp_path):
    write_events(tmp_path / "run", RUN)
    table = read_training(tmp_path / "run")
    widths = []
    for columns in (COLUMNS, ["loss", "val_dice"]):
        draw_training(table[columns], tmp_path / "deep" / "curves.png")
        picture = np.asarray(Image.open(tmp_path / "deep" / "curves.png").convert("RGB")).astype(
            int
        )
        widths.append(picture.shape[1])
        assert (np.ptp(picture, axis=2) > 60).sum() > 500  # coloured lines
    assert widths[0] == pytest.approx(2 * widths[1], abs=4)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["curves.png"]


def test_the_command_prints_and_draws(tmp_path, capsys):
    write_events(tmp_path, RUN)
    assert main(["training", str(tmp_path), "--output", str(tmp_path / "curves.png")]) == 0
    printed = capsys.readouterr().out
    assert printed == f"{summarise_training(read_training(tmp_path))}\n{tmp_path / 'curves.png'}\n"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("scalars", [None, {}, {"loss": {1: 1.0}}])
def test_folders_without_an_epoch_are_told_in_one_line(tmp_path, capsys, scalars):
    if scalars is not None:
        write_events(tmp_path / "run", scalars)
    assert main(["training", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip()
    assert (
        error.startswith(f"boltzmed: {tmp_path / 'run'}: expected ")
        and len(error.splitlines()) == 1
    )


def test_a_cut_event_file_is_read_as_far_as_it_goes(tmp_path):
    write_events(tmp_path, {"val_dice": {1: 0.25, 2: 0.5}})
    (file,) = tmp_path.glob("events.*")
    file.write_bytes(file.read_bytes()[:-7])
    assert read_training(tmp_path)["val_dice"].to_dict() == {1: 0.25}
