"""Training handlers: stop on non-finite loss, early stopping, checkpointing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from monai.engines import IterationEvents
from monai.handlers import CheckpointLoader, EarlyStopHandler
from torch import Tensor

from boltzmed.files import final_name

_IGNITE_TEMPORARY = re.compile(r"tmp[a-z0-9_]{8}")
"""Names of checkpoints that Ignite is writing, which it takes from `tempfile`."""


def named_handler(**handlers: Any) -> Any:
    """Return the handler of a list's entry, which has its options under its own name.

    Args:
        **handlers: one handler, by the name of its section in the training's config.

    Raises:
        ValueError: an option for the entry, which the handler, built already, would not get.
    """
    (name, handler), *options = handlers.items()
    for option, value in options:
        raise ValueError(
            f"train#handlers: handlers are named: expected --train#{name}#{option} {value},"
            f" received the option by a number"
        )
    return handler


class FiniteLoss:
    """Stop training at a loss that is not a finite number, before the step it would spoil; names
    the cases.
    """

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer that fires MONAI's iteration events."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        loss = engine.state.output["loss"]  # type: ignore[index]
        if not torch.isfinite(loss):
            cases, found = _find_cases(engine)
            where = f"cases {', '.join(sorted(set(found or cases)))}"
            if not found and idist.get_world_size() > 1:
                where += ", or on those that another process names"
            raise ValueError(
                f"epoch {engine.state.epoch}, iteration {engine.state.iteration}: expected a finite"
                f" loss, received {loss.item()} on {where}; check those images or lower the rate"
            )


def _find_cases(engine: Engine) -> tuple[list[str], list[str]]:
    """The cases of this process's batch, and those among them with an image, target or logits that
    are not finite.
    """
    output: dict[str, Any] = engine.state.output  # type: ignore[assignment]
    cases = list(engine.state.batch.get("case", ["unknown"]))  # type: ignore[union-attr]
    tensors = [output.get("image")]
    for part in (output.get("label"), output.get("pred")):
        tensors += part.values() if isinstance(part, Mapping) else [part]
    rows = [value for value in tensors if isinstance(value, Tensor) and len(value) == len(cases)]
    return cases, [
        case
        for k, case in enumerate(cases)
        if not all(torch.isfinite(value[k]).all() for value in rows)
    ]


class TrainingCheckpoints:
    """Save the whole training after every epoch, and go on from the newest save.

    Files are ``checkpoint_epoch=N.pt``, written whole, then renamed (which MONAI's saver does not
    do); the two written last are kept. The newest is the one written last, whatever its epoch;
    where it is damaged, the one before it stands in, and a line says so.

    Args:
        folder: Where they lie.
        state: Name → object with ``state_dict``; the trainer itself (epoch, iteration) is added.
        settings: What has to stay as it was for a training to go on, plain values by name.
        former_names: former name of a setting → its name, for saves of an earlier version.
        resume: Whether to load the newest one when training starts; without any, training starts
            fresh.

    Raises:
        ValueError: ``resume`` is no boolean (on MONAI's command line ``false`` is a text, ``False``
            is none); or, when training starts, saves none of which can be read, or that were made
            with other settings.
    """

    def __init__(
        self,
        folder: str,
        state: Mapping[str, Any],
        *,
        settings: Mapping[str, Any] | None = None,
        former_names: Mapping[str, str] | None = None,
        resume: bool = True,
    ) -> None:
        if not isinstance(resume, bool):
            raise ValueError(f"resume: expected True or False, received {resume!r}")
        self.folder, self.resume = Path(folder), resume
        self.state = {"settings": _Settings(settings or {}, former_names or {}), **state}

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        state = {**self.state, "trainer": engine}
        saver = Checkpoint(
            state,
            DiskSaver(str(self.folder), atomic=True, create_dir=True, require_empty=False),
            filename_prefix="checkpoint",
            score_function=lambda engine: engine.state.epoch,
            score_name="epoch",
            filename_pattern="{filename_prefix}_{score_name}={score}.{ext}",
            n_saved=None,  # it would remove an older file before it writes the new one
        )
        if idist.get_rank() == 0:
            for left in self._find_cut_off():
                left.unlink(missing_ok=True)
        if self.resume and (path := self._choose_saved(engine)) is not None:
            # By way of the CPU: else each process would load onto the device of the one that saved.
            loader = CheckpointLoader(str(path), state, map_location="cpu")  # type: ignore[arg-type]
            engine.add_event_handler(Events.STARTED, self._load, loader)
        engine.add_event_handler(Events.EPOCH_COMPLETED, saver)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._remove_older)

    def _find_cut_off(self) -> list[Path]:
        """What a kill left of a checkpoint or ``model.pt``: a temporary name, and an archive's
        beginning or nothing.
        """
        found = []
        for path in self.folder.glob("*"):
            is_temporary = (
                _IGNITE_TEMPORARY.fullmatch(path.name) or final_name(path.name) == "model.pt"
            )
            if path.is_file() and is_temporary:
                with path.open("rb") as file:
                    if file.read(2) in (b"", b"PK"):
                        found.append(path)
        return found

    def _find_saved(self) -> list[Path]:
        return sorted(
            self.folder.glob("checkpoint_epoch=*.pt"), key=lambda path: path.stat().st_mtime_ns
        )

    def _choose_saved(self, engine: Engine) -> Path | None:
        """The newest save that is whole, as the first process sees it: all have to go on from the
        same one.
        """
        name = ""
        if idist.get_rank() == 0 and (saved := self._find_saved()):
            # A crash of the machine may cut what was renamed already; such a file lacks the
            # archive's end.
            whole = [path for path in saved if is_zipfile(path)] or saved
            name = whole[-1].name
            for path in saved[saved.index(whole[-1]) + 1 :]:
                engine.logger.info("%s is damaged: going on from %s", path, name)
        name = str(idist.broadcast(name, src=0))
        if name and not (self.folder / name).is_file():
            raise ValueError(
                f"{self.folder / name}: the first process goes on from it, process"
                f" {idist.get_rank()} finds none; output_dir has to be on storage that all"
                " processes share"
            )
        return self.folder / name if name else None

    def _load(self, engine: Engine, loader: CheckpointLoader) -> None:
        advice = "remove it, start afresh by --resume False, or choose another output_dir"
        try:
            loader(engine)
        except _OtherSettingsError as error:
            raise ValueError(f"{loader.load_path}: {error}; {advice}") from None
        except (RuntimeError, EOFError, UnpicklingError, KeyError) as error:
            line = str(error).splitlines()[0]
            raise ValueError(
                f"{loader.load_path}: expected this training's checkpoint, received {line};"
                f" {advice}"
            ) from error

    def _remove_older(self) -> None:
        if idist.get_rank() == 0:
            for path in self._find_saved()[:-2]:
                path.unlink(missing_ok=True)


class _OtherSettingsError(ValueError):
    """A checkpoint of a training with other settings."""


class _Settings:
    """Plain values that are saved with a training, and have to be the same when it goes on."""

    def __init__(self, values: Mapping[str, Any], former_names: Mapping[str, str]) -> None:
        self.values = _plain(values)
        self.former_names = former_names

    def state_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = self.values
        return values

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        saved = {self.former_names.get(name, name): value for name, value in saved.items()}
        for name, value in self.values.items():
            # A save from before networks were recorded tells by its weights' shapes alone.
            if name == "network" and name not in saved and "size" in saved:
                continue
            if name not in saved:
                raise _OtherSettingsError(
                    f"expected a training with {name} {value}, received one with none"
                )
            for place, expected, received in _differences(name, value, _plain(saved[name])):
                raise _OtherSettingsError(
                    f"expected a training with {place} {expected}, received one with {received}"
                )


def _differences(name: str, expected: Any, received: Any) -> Iterator[tuple[str, Any, Any]]:
    """Where two plain values differ, down to the entries of mappings, with both."""
    if isinstance(expected, Mapping) and isinstance(received, Mapping):
        for key in {**expected, **received}:
            yield from _differences(
                f"{name}.{key}", expected.get(key, "none"), received.get(key, "none")
            )
    elif expected != received:
        yield name, expected, received


def _plain(value: Any) -> Any:
    """A value as a save holds it: tuples are lists."""
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


class EarlyStop(EarlyStopHandler):
    """Stop a training after some epochs without a lower value; their count is part of the
    training's state.

    Args:
        patience: Number of such epochs.
        metric: Of the evaluator that it is attached to, by name; smaller is better.

    Raises:
        ValueError: The value is not a finite number, to which nothing compares; names the cases.
    """

    def __init__(self, patience: int, metric: str) -> None:
        if not isinstance(patience, int) or isinstance(patience, bool) or patience < 0:
            raise ValueError(
                f"early_stopping_patience: expected a whole number, received {patience!r}"
            )
        super().__init__(patience, self._score)
        self.metric = metric
        self._not_finite: set[str] = set()

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: self._not_finite.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._watch)
        super().attach(engine)

    def _watch(self, engine: Engine) -> None:
        self._not_finite.update(_find_cases(engine)[1])

    def _score(self, engine: Engine) -> float:
        value = float(engine.state.metrics[self.metric])
        if not math.isfinite(value):
            names = sorted(self._not_finite)
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            where = f"cases {', '.join(names[:10])}{more}" if names else "no case of this process"
            raise ValueError(
                f"validation after epoch {engine.state.epoch}: expected a finite {self.metric},"
                f" received {value}; what is not finite is of {where}; check those images, or lower"
                " the rate where it is all of them"
            )
        return -value

    def state_dict(self) -> Mapping[str, Any]:
        """For the training's checkpoint; the best score is minus the lowest value."""
        assert self._handler is not None, "set_trainer comes before training"
        return {**self._handler.state_dict(), "metric": self.metric}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; the count of another metric starts anew."""
        assert self._handler is not None, "set_trainer comes before training"
        if state["metric"] == self.metric:
            self._handler.load_state_dict(state)
            if self._handler.counter >= self._handler.patience:  # it had come to its end
                self._handler.trainer.terminate()


class BestCheckpoint:
    """Write a checkpoint that inference can use whenever validation gives a new best value of its
    key metric.

    The best value is part of a training's state (give the handler to ``TrainingCheckpoints``),
    so that a training that goes on does not overwrite a better file. With several processes the
    first one writes.

    Args:
        path: The file, replaced whole.
        save: Writes it: ``save(path)``.
    """

    def __init__(self, path: str | Path, save: Callable[[Path], None]) -> None:
        self.path, self.save = Path(path), save
        self.best = -math.inf

    def attach(self, engine: Engine) -> None:
        """Attach to a MONAI evaluator that has a key metric; larger is better."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        value = float(engine.state.metrics[engine.state.key_metric_name])  # type: ignore[attr-defined]
        if value > self.best:
            self.best = value
            if idist.get_rank() == 0:
                self.save(self.path)

    def state_dict(self) -> dict[str, float]:
        """For the training's checkpoint."""
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from there."""
        self.best = state["best"]
