"""Tracking of a training: what is measured, where it goes, what is shown, and that nothing else is
touched.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from monai.engines import SupervisedTrainer
from monai.handlers import MLFlowHandler
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from boltzmed.engines import tracking
from boltzmed.engines.tracking import Tracking, mlflow_uri, take_over_mlflow

SAMPLES = [{"image": torch.full((1,), k + 1.0), "label": torch.zeros(1)} for k in range(6)]
VALIDATION = {
    "val_dice": 0.5,
    "val_dice_by_size": {"<0.01 %": 0.25, "≥10 %": 0.75},
    "<0.01 %": 0.25,
    "≥10 %": 0.75,
}


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tracking, "time", clock)
    return clock


@pytest.fixture
def lines() -> Any:
    """What is printed during the test."""
    printed: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: printed.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("monai.handlers.StatsHandler")
    logger.addHandler(handler)
    yield printed
    logger.removeHandler(handler)


class SplitLoss(nn.Module):
    """The mean squared error as three quarters and one; every call takes a second."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.latest, self.totals = clock, {}, []

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        total = F.mse_loss(output, target)
        self.latest = {
            "total": total.detach(),
            "dice": 0.75 * total.detach(),
            "bce": 0.25 * total.detach(),
        }
        self.totals.append(total.item())
        self.clock.now += 1
        return total


class Run:
    """Epochs of three batches of two on a linear network; validation takes 30 seconds and finds
    what it finds.
    """

    def __init__(
        self, folder: Path, clock: Clock, *, epochs: int = 2, extra: Any = (), **named: Any
    ):
        torch.manual_seed(0)
        network = nn.Linear(1, 1)
        self.loss, self.clock, self.titles = SplitLoss(clock), clock, []
        self.evaluator = Engine(self.validate)
        named = {"log_interval": 2, **named}
        self.tracking = Tracking(
            folder, evaluator=self.evaluator, loss=self.loss, sheets=self.draw, **named
        )
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        self.trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=epochs,
            train_data_loader=DataLoader(
                SAMPLES, batch_size=2, sampler=DistributedSampler(SAMPLES, 1, 0)
            ),  # type: ignore[arg-type]
            network=network,
            optimizer=optimizer,
            loss_function=self.loss,
            train_handlers=take_over_mlflow([self.tracking, *extra]),
            decollate=False,
        )
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: scheduler.step())
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self.run_validation)

    def go_on_after(self, epoch: int) -> None:
        """As from a checkpoint, which is loaded once training starts."""
        state = {
            "epoch_length": 3,
            "max_epochs": self.trainer.state.max_epochs,
            "iteration": 3 * epoch,
        }
        self.trainer.add_event_handler(Events.STARTED, lambda: self.trainer.load_state_dict(state))

    def validate(self, engine: Engine, batch: Any) -> None:
        self.clock.now += 30

    def run_validation(self, engine: Engine) -> None:
        self.evaluator.state.metrics, self.evaluator.state.epoch = (
            dict(VALIDATION),
            engine.state.epoch - 1,
        )
        self.evaluator.state.max_epochs, self.evaluator.state.iteration = engine.state.epoch, 0
        self.evaluator.run([0], max_epochs=engine.state.epoch, epoch_length=1)

    def draw(self, title: str) -> dict[str, Figure]:
        self.titles.append(title)
        figure = Figure((1, 1), facecolor="black")
        return {"masks": figure}


def read_events(folder: Path) -> tuple[dict[str, dict[int, float]], dict[str, list[int]]]:
    """Scalars by tag and step, steps of pictures by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    scalars = {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }
    return scalars, {
        tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]
    }


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def check_scalars(scalars: dict[str, dict[int, float]], totals: list[float]) -> None:
    """Two epochs of three iterations, a point every second one."""
    windows = {2: totals[:2], 3: totals[2:3], 5: totals[3:5], 6: totals[5:]}
    epochs = {1: totals[:3], 2: totals[3:]}
    for name, share in (("loss", 1), ("loss_dice", 0.75), ("loss_bce", 0.25)):
        assert scalars[name] == pytest.approx(
            {step: share * mean(part) for step, part in windows.items()}
        )
        assert scalars[f"epoch/{name}"] == pytest.approx(
            {step: share * mean(part) for step, part in epochs.items()}
        )
    # The rate that a step was made with, halved after every step; validation is not in the speed.
    assert scalars["learning_rate"] == pytest.approx(
        {step: 0.01 * 0.5 ** (step - 1) for step in windows}
    )
    assert scalars["epoch/learning_rate"] == pytest.approx({1: 0.01 / 4, 2: 0.01 / 32})
    assert scalars["epoch/images_per_second"] == pytest.approx({1: 2.0, 2: 2.0})
    assert scalars["val_dice"] == {1: 0.5, 2: 0.5}


def test_curves_are_means_of_what_was_computed(tmp_path, clock):
    run = Run(tmp_path, clock)
    run.trainer.run()
    scalars, _ = read_events(tmp_path)
    check_scalars(scalars, run.loss.totals)
    assert len(run.loss.totals) == 6  # nothing is computed twice
    assert scalars["val_dice_by_size/<0.01 %"] == {1: 0.25, 2: 0.25}
    assert scalars["val_dice_by_size/≥10 %"] == {1: 0.75, 2: 0.75}
    assert not {"<0.01 %", "val_dice_by_size"} & scalars.keys()


@pytest.mark.parametrize(
    ("epochs", "interval", "expected"), [(5, 2, [2, 4, 5]), (4, 2, [2, 4]), (2, 5, [2]), (3, 0, [])]
)
def test_sheets_come_at_their_epochs_and_at_the_end(tmp_path, clock, epochs, interval, expected):
    run = Run(tmp_path, clock, epochs=epochs, sheet_interval=interval)
    run.trainer.run()
    assert run.titles == [f"epoch {epoch}" for epoch in expected]
    assert read_events(tmp_path)[1] == ({"masks": expected} if expected else {})


def test_a_training_that_stops_early_still_gets_its_last_sheet(tmp_path, clock):
    run = Run(tmp_path, clock, epochs=9)
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=3), lambda: run.trainer.terminate())
    run.trainer.run()
    assert run.titles == ["epoch 3"]


def test_untracked_training_writes_and_draws_nothing(tmp_path, clock, lines):
    run = Run(tmp_path, clock, tensorboard=False, sheet_interval=1)
    run.trainer.run()
    assert not list(tmp_path.iterdir()) and not run.titles
    assert any("time left" in line for line in lines)


def test_only_the_first_process_shows_and_tracks(tmp_path, clock, lines, monkeypatch):
    monkeypatch.setattr(tracking.idist, "get_rank", lambda: 1)
    run = Run(tmp_path, clock, sheet_interval=1)
    run.trainer.run()
    assert not list(tmp_path.iterdir()) and not run.titles and not lines


def test_images_of_all_processes_count(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(tracking.idist, "get_world_size", lambda: 4)
    Run(tmp_path, clock).trainer.run()
    assert read_events(tmp_path)[0]["epoch/images_per_second"] == {1: 8.0, 2: 8.0}


def test_lines_tell_the_time_left(tmp_path, clock, lines):
    run = Run(tmp_path, clock)
    run.trainer.run()
    shown = [
        re.search(r"Epoch: (\d/2, Iter: \d/3) -- loss: (\S+) .* time left: (\S+)", line)
        for line in lines
    ]
    found = [match.groups() for match in shown if match]
    assert [place for place, _, _ in found] == [
        "1/2, Iter: 2/3",
        "1/2, Iter: 3/3",
        "2/2, Iter: 2/3",
        "2/2, Iter: 3/3",
    ]
    assert float(found[0][1]) == pytest.approx(mean(run.loss.totals[:2]), abs=1e-4)
    # Two seconds for two of six; after five, 35 seconds with the validation between.
    assert [left for _, _, left in found] == ["00:04", "00:03", "00:07", "00:00"]
    assert any("val_dice: 0.5" in line for line in lines)


class Terminal(io.StringIO):
    """A file that says it is one."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_instead_of_lines(tmp_path, clock, lines, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    Run(tmp_path, clock).trainer.run()
    bar = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "Epoch 1/2" in bar and "/6 [" in bar and not any("Iter:" in line for line in lines)
    assert sum("Training" in line and "images/s: 2.00" in line for line in lines) == 2


def test_a_resumed_training_counts_from_where_it_goes_on(tmp_path, clock, lines, monkeypatch):
    run = Run(tmp_path, clock, epochs=4, log_interval=1)
    run.go_on_after(2)
    run.trainer.run()
    first = next(line for line in lines if "Iter:" in line)
    assert first.startswith("Epoch: 3/4, Iter: 1/3") and first.endswith("time left: 00:05")
    assert sorted(read_events(tmp_path)[0]["loss"]) == [7, 8, 9, 10, 11, 12]
    monkeypatch.setattr(sys, "stderr", Terminal())
    again = Run(tmp_path / "bar", clock, epochs=4)
    again.go_on_after(2)
    again.trainer.run()
    bar = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "6/12 [" in bar and "0/12 [" not in bar and "8/12 [" in bar


def test_what_an_interrupted_run_had_written_is_replaced(tmp_path, clock):
    interrupted = Run(tmp_path, clock, epochs=3, log_interval=1)
    interrupted.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # and errors pass as they are
        interrupted.trainer.run()
    (file,) = (
        tmp_path.iterdir()
    )  # files are read in the order of their names, which begin with the second
    file.rename(tmp_path / "events.out.tfevents.0000000001.host.1.0")
    again = Run(tmp_path, clock, epochs=3, log_interval=1)
    again.go_on_after(1)
    again.trainer.run()
    losses = read_events(tmp_path)[0]["loss"]
    assert losses == pytest.approx(
        dict(zip(range(1, 10), interrupted.loss.totals[:3] + again.loss.totals, strict=True))
    )


def test_a_finished_training_leaves_no_further_file(tmp_path, clock):
    run = Run(tmp_path, clock, epochs=2)
    run.go_on_after(2)
    run.trainer.run()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"tensorboard": "false"}, "tensorboard: expected True or False, received 'false'"),
        ({"log_interval": 0}, "log_interval of 1 or more, received 5 and 0"),
        ({"sheet_interval": -1}, "sheet_interval of 0 or more .* received -1 and 2"),
    ],
)
def test_wrong_settings_are_told_in_one_line(tmp_path, clock, named, message):
    with pytest.raises(ValueError, match=message) as error:
        Run(tmp_path, clock, **named)
    assert "\n" not in str(error.value)


def test_missing_mlflow_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError,
        match=r"^tracking: mlflow is not installed; in boltzmed.s source folder: pip install",
    ):
        mlflow_uri(tmp_path)


@pytest.mark.parametrize("asked", [None, "false"])
def test_mlflow_reports_nothing_by_itself(monkeypatch, asked):
    """What is set when its client of usage reports starts decides."""
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    if asked is not None:
        monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", asked)
    seen = []
    telemetry = SimpleNamespace(
        set_telemetry_client=lambda: seen.append(os.environ["MLFLOW_DISABLE_TELEMETRY"])
    )
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(telemetry=telemetry))
    monkeypatch.setitem(sys.modules, "mlflow.telemetry", telemetry)
    run = SimpleNamespace(info=SimpleNamespace(run_id="1"))
    handler = SimpleNamespace(start=lambda engine: seen.append("started"), client=None, cur_run=run)
    tracking._MLflow(handler, Engine(lambda engine, batch: None))
    assert seen == [asked or "true", "started"]


def test_mlflow_gets_the_same(tmp_path, clock, monkeypatch):
    pytest.importorskip("mlflow", reason="MLflow is an extra: pip install 'boltzmed[mlflow]'")
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "my run"
    folder.mkdir()
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    assert mlflow_uri(folder) == f"sqlite:///{folder}/mlflow.db"
    handler = MLFlowHandler(
        tracking_uri=mlflow_uri(folder), experiment_name="boltzmed", run_name="my run"
    )
    run = Run(folder, clock, tensorboard=False, sheet_interval=1, extra=[handler])
    run.trainer.run()
    client = MlflowClient(mlflow_uri(folder))
    experiment = client.get_experiment_by_name("boltzmed")
    (kept,) = client.search_runs([experiment.experiment_id])
    assert kept.info.run_name == "my run" and kept.info.status == "FINISHED"
    scalars = {
        name: {
            point.step: point.value for point in client.get_metric_history(kept.info.run_id, name)
        }
        for name in kept.data.metrics
    }
    check_scalars(scalars, run.loss.totals)
    assert scalars["val_dice_by_size/below 0.01 percent"] == {1: 0.25, 2: 0.25}
    pictures = sorted((folder / "mlruns").rglob("*.png"))
    assert [path.name for path in pictures] == ["epoch_0001.png", "epoch_0002.png"]
    assert {path.name for path in folder.iterdir()} == {"mlflow.db", "mlruns"}
