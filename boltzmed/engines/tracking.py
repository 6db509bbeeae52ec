"""What a training shows of itself and keeps: a bar or lines; curves and pictures, for TensorBoard
or MLflow.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler, StatsHandler
from torch import Tensor
from tqdm import tqdm

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Tracking:
    """Show how a training goes, and track it; with several processes the first one alone does.

    By iteration, as means since the point before: ``loss``, its parts ``loss_dice`` … and
    ``learning_rate``. By epoch: ``epoch/loss`` …, ``epoch/learning_rate``,
    ``epoch/images_per_second`` (of training alone, all processes together), and the validation's
    metrics under their own names, those of a dictionary as ``val_dice_by_size/0.1–1 %``. On a
    terminal a bar shows the time left until the last epoch; elsewhere lines do. It changes nothing
    that is trained and is no part of a training's state.

    Args:
        folder: Of the training.
        evaluator: The validation's engine.
        loss: The trainer's loss; its ``latest`` has the parts of the iteration by name, ``total``
            among them.
        tensorboard: Whether to write events into the folder. MLflow comes by
            ``take_over_mlflow``.
        sheets: Draws pictures of validation slices: ``sheets(title)`` gives figures by name.
        sheet_interval: Epochs between two of them, the last epoch's come in any case; 0 for none.
        log_interval: Iterations between two points of a curve, or two lines.

    Raises:
        ValueError: A switch that is no boolean (on MONAI's command line ``false`` is a text,
            ``False`` is none), or an interval that is none.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        evaluator: Engine,
        loss: Any,
        tensorboard: bool = True,
        sheets: Callable[[str], Mapping[str, Figure]] | None = None,
        sheet_interval: int = 5,
        log_interval: int = 20,
    ) -> None:
        if not isinstance(tensorboard, bool):
            raise ValueError(f"tensorboard: expected True or False, received {tensorboard!r}")
        if sheet_interval < 0 or log_interval < 1:
            raise ValueError(
                "expected a sheet_interval of 0 or more and a log_interval of 1 or more, "
                f"received {sheet_interval} and {log_interval}"
            )
        self.folder, self.evaluator, self.loss, self.sheets = Path(folder), evaluator, loss, sheets
        self.sheet_interval, self.log_interval = sheet_interval, log_interval
        self.tensorboard = tensorboard
        self.mlflow: MLFlowHandler | None = None
        self._writers: list[_Writer] = []
        self._bar: tqdm | None = None
        self._prints = StatsHandler(iteration_log=False)
        self._window, self._epoch = _Means(), _Means()
        self._drawn = 0  # the epoch of the last sheets

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer, and to its evaluator."""
        if idist.get_rank() != 0:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_STARTED, self._start_iteration)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._complete_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._complete_epoch)
        engine.add_event_handler(Events.COMPLETED, self._complete)
        self._prints.attach(self.evaluator)
        self.evaluator.add_event_handler(Events.COMPLETED, self._complete_validation)

    def _start_epoch(self, engine: Engine) -> None:
        state = engine.state
        if self._bar is None:  # only now is it known where a training goes on
            # Without smoothing, the time left counts what validation takes; disable=None: on a
            # terminal alone.
            self._bar = tqdm(
                total=_count_iterations(engine),
                initial=state.iteration,
                disable=None,
                leave=False,
                smoothing=0,
                miniters=1,
                dynamic_ncols=True,
            )
            if self.tensorboard:
                self._writers.append(_TensorBoard(self.folder, engine))
            if self.mlflow is not None:
                self._writers.append(_MLflow(self.mlflow, engine))
            self._first_iteration, self._started = state.iteration, time.perf_counter()
        self._bar.set_description(f"Epoch {state.epoch}/{state.max_epochs}", refresh=False)
        self._images, self._epoch_started = 0, time.perf_counter()

    def _start_iteration(self, engine: Engine) -> None:
        self._rate = max(group["lr"] for group in engine.optimizer.param_groups)  # type: ignore[attr-defined]

    def _complete_iteration(self, engine: Engine) -> None:
        assert self._bar is not None
        state, output = engine.state, engine.state.output
        parts = {f"loss_{name}": part for name, part in self.loss.latest.items() if name != "total"}
        for kept in (self._window, self._epoch):
            kept.add({"loss": output["loss"], **parts})  # type: ignore[index, call-overload]
        self._images += len(output["image"]) * idist.get_world_size()  # type: ignore[index, call-overload]
        self._seconds = time.perf_counter() - self._epoch_started
        self._bar.update()
        assert state.epoch_length is not None
        place = (state.iteration - 1) % state.epoch_length + 1
        if place % self.log_interval == 0 or place == state.epoch_length:
            means = self._window.take()
            self._write({**means, "learning_rate": self._rate}, state.iteration)
            self._bar.set_postfix(loss=f"{means['loss']:.4f}")
            if self._bar.disable:
                self._print(
                    f"Epoch: {state.epoch}/{state.max_epochs}, Iter: {place}/{state.epoch_length}"
                    f" -- {_list(means)} time left: {self._time_left(engine)}"
                )
        if place == state.epoch_length:
            self._bar.clear()  # lines about the epoch follow

    def _complete_epoch(self, engine: Engine) -> None:
        rates = {"learning_rate": self._rate, "images_per_second": self._images / self._seconds}
        means, epoch = self._epoch.take(), engine.state.epoch
        self._write({f"epoch/{name}": value for name, value in {**means, **rates}.items()}, epoch)
        self._print(
            f"Epoch[{epoch}] Training -- {_list(means)} images/s: {rates['images_per_second']:.2f}"
        )

    def _complete_validation(self, evaluator: Engine) -> None:
        epoch, metrics = evaluator.state.epoch, evaluator.state.metrics
        by_name = {name: value for name, value in metrics.items() if isinstance(value, Mapping)}
        known = {
            key for values in by_name.values() for key in values
        }  # Ignite puts them among the metrics, too
        values = {
            name: value
            for name, value in metrics.items()
            if name not in known and name not in by_name
        }
        values |= {
            f"{name}/{key}": value for name, part in by_name.items() for key, value in part.items()
        }
        self._write(values, epoch)
        if self.sheet_interval and epoch % self.sheet_interval == 0:
            self._draw(epoch)

    def _complete(self, engine: Engine) -> None:
        if self._bar is None:
            return  # all epochs were done before
        if self.sheet_interval:
            self._draw(engine.state.epoch)
        for writer in self._writers:
            writer.close()
        self._writers.clear()
        self._bar.close()
        self._bar = None

    def _write(self, values: Mapping[str, float], step: int) -> None:
        for writer in self._writers:
            writer.add_scalars(values, step)

    def _draw(self, epoch: int) -> None:
        if self._writers and self.sheets is not None and self._drawn != epoch:
            for name, figure in self.sheets(f"epoch {epoch}").items():
                for writer in self._writers:
                    writer.add_figure(name, figure, epoch)
            self._drawn = epoch

    def _print(self, line: str) -> None:
        self._prints.logger.info(line)

    def _time_left(self, engine: Engine) -> str:
        done = engine.state.iteration - self._first_iteration
        seconds = (time.perf_counter() - self._started) / done
        return tqdm.format_interval(seconds * (_count_iterations(engine) - engine.state.iteration))


def take_over_mlflow(handlers: Sequence[Any]) -> list[Any]:
    """Return an engine's handlers without MONAI's for MLflow, whose run `Tracking` uses instead.

    ``monai.bundle run --tracking mlflow`` appends them. Alone they'd log the loss of decollated
    outputs only, and names of metrics that MLflow refuses.
    """
    kept = [handler for handler in handlers if not isinstance(handler, MLFlowHandler)]
    for tracking in kept:
        if isinstance(tracking, Tracking):
            tracking.mlflow = next(
                (handler for handler in handlers if isinstance(handler, MLFlowHandler)), None
            )
    return kept


def mlflow_uri(folder: str | Path) -> str:
    """Return the address of a folder's MLflow database, ``sqlite:///FOLDER/mlflow.db``, for who is
    about to use it.

    Raises:
        ValueError: MLflow is not installed.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise ValueError(
            "tracking: mlflow is not installed; in boltzmed's source folder: "
            'pip install -c constraints.txt ".[mlflow]"'
        )
    return f"sqlite:///{Path(folder).resolve().as_posix()}/mlflow.db"


def _count_iterations(engine: Engine) -> int:
    """Of all epochs."""
    assert engine.state.max_epochs is not None and engine.state.epoch_length is not None
    return engine.state.max_epochs * engine.state.epoch_length


def _list(values: Mapping[str, float]) -> str:
    return " ".join(f"{name}: {value:.4f}" for name, value in values.items())


class _Means:
    """Means by name; the sums stay on their device until they are taken."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._sums[name] = (
                self._sums[name] + value.detach() if name in self._sums else value.detach()
            )
        self._count += 1

    def take(self) -> dict[str, float]:
        """The means, and start again."""
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        self.__init__()  # type: ignore[misc]
        return means


class _Writer(Protocol):
    """Where curves and pictures go."""

    def add_scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def add_figure(self, name: str, figure: Figure, step: int) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    def __init__(self, folder: Path, engine: Engine) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an interrupted run had written beyond its last checkpoint is hidden.
        self._events = SummaryWriter(str(folder), purge_step=engine.state.iteration + 1)

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        self._events.flush()

    def add_figure(self, name: str, figure: Figure, step: int) -> None:
        self._events.add_figure(name, figure, step)
        self._events.flush()

    def close(self) -> None:
        self._events.close()


class _MLflow:
    """MONAI's handler keeps the run: one that was interrupted goes on under its name."""

    def __init__(self, handler: MLFlowHandler, engine: Engine) -> None:
        # Nothing of a training leaves the machine unasked; what asks is read now, since MONAI has
        # imported MLflow.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.telemetry import set_telemetry_client

        set_telemetry_client()
        handler.start(engine)
        self._handler = handler
        self._client, self._run = handler.client, handler.cur_run.info.run_id  # type: ignore[attr-defined]

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [
            Metric(self._spell(name), float(value), now_ms, step) for name, value in values.items()
        ]
        self._client.log_batch(self._run, metrics=metrics)

    def add_figure(self, name: str, figure: Figure, step: int) -> None:
        self._client.log_figure(self._run, figure, f"{name}/epoch_{step:04d}.png")

    def close(self) -> None:
        self._handler.close()

    @staticmethod
    def _spell(name: str) -> str:
        """A metric's name without the signs that MLflow refuses."""
        for sign, words in (("<", "below "), ("≥", "from "), ("–", " to "), ("%", "percent")):
            name = name.replace(sign, words)
        return name
