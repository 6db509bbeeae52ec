"""Ignite handlers around what a run leaves behind: folders of masks, or tables of an evaluation."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import IterationEvents

from boltzmed.files import check_writable
from boltzmed.results import (
    CaseResult,
    LesionResult,
    write_exclusions,
    write_lesions,
    write_results,
)
from boltzmed.transforms.saving import StudyFolders
from boltzmed.volumes.nifti import case_name


class StudyOutputs:
    """Watch over the folders that postprocessing writes: checked before, cleaned up after an error.

    How long a study took, and on which device, is handed to the transform that writes ``run.json``.

    Args:
        folders: where the transforms write.
    """

    def __init__(self, folders: StudyFolders) -> None:
        self.folders = folders
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        """Attach to a ``SupervisedEvaluator`` over a ``StudyDataset``."""
        engine.add_event_handler(Events.STARTED, self._check)
        engine.add_event_handler(Events.ITERATION_STARTED, self._start)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._note)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._clean_up)

    def _check(self, engine: Engine) -> None:
        dataset: Any = engine.state.dataloader.dataset  # type: ignore[union-attr]
        studies = getattr(dataset, "dataset", dataset).studies  # perhaps one study of several
        self.folders.check({case_name(study): study for study in studies})

    def _start(self) -> None:
        self._started = time.perf_counter()

    def _note(self, engine: Engine) -> None:
        output: Any = engine.state.output
        output["inferred_at"] = time.perf_counter()
        output["infer_seconds"] = output["inferred_at"] - self._started
        output["device"] = str(next(engine.network.parameters()).device)  # type: ignore[attr-defined]

    def _clean_up(self, error: BaseException) -> None:
        self.folders.discard()
        raise error


class ResultsWriter:
    """Collect what every case scored; ``results.csv`` and ``lesions.csv`` stand at the end.

    Beside them ``left_out.csv`` lists the cases that could not be read (``excluded``). Of an
    evaluation that fails or is interrupted ``results.partial.csv`` and ``lesions.partial.csv`` keep
    what was scored.

    Args:
        path: the CSV file (see ``results.py``).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.rows: list[CaseResult] = []
        self.lesions: list[LesionResult] = []
        self.excluded: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator whose postprocessing scores studies (``ScoreMasksd``)."""
        engine.add_event_handler(Events.STARTED, self._check_output)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._keep)

    def __call__(self, engine: Engine) -> None:
        """Take the rows of one case, or the reason why there are none."""
        batch: Any = engine.state.batch
        if "problem" in batch:
            self.excluded.append(batch["problem"])
            return
        output: Any = engine.state.output
        self.rows += output["rows"]
        self.lesions += output["lesions"]

    def _check_output(self) -> None:
        """Fail before the work, not after it, where nothing can be written."""
        check_writable(self.path.parent)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def _finish(self) -> None:
        lesions = self.path.with_name("lesions.csv")
        write_exclusions(self.path.with_name("left_out.csv"), {"excluded": self.excluded})
        if not self.rows:
            reason = self.excluded[0] if self.excluded else "there is no case"
            raise ValueError(f"nothing could be scored; {reason}")
        write_results(self.path, self.rows)
        write_lesions(lesions, self.lesions)
        for path in (self.path, lesions):
            _name_partial(path).unlink(missing_ok=True)

    def _keep(self, error: BaseException) -> None:
        """Write what is scored under names that say that it is not all; then the error goes on."""
        if self.rows:
            with suppress(ValueError):  # a full disk, say, which must not hide the error
                write_results(_name_partial(self.path), self.rows)
                write_lesions(_name_partial(self.path.with_name("lesions.csv")), self.lesions)
        raise error


def _name_partial(path: Path) -> Path:
    name, dot, ending = path.name.partition(".")
    return path.with_name(f"{name}.partial{dot}{ending}")
