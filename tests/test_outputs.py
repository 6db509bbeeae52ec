"""What an evaluation leaves behind: tables of all cases, of those that could be read, of those
before an error.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.engines import SupervisedEvaluator
from torch.utils.data import DataLoader

import boltzmed.evaluation.transform
from boltzmed.data.studies import ReadableStudies
from boltzmed.engines.batches import segment_readable, take_study
from boltzmed.errors import InputError
from boltzmed.evaluation.transform import ScoreMasksd
from boltzmed.outputs import ResultsWriter
from boltzmed.results import read_results
from tests.reports.test_evaluation import LESION, VOLUME


class Studies(torch.utils.data.Dataset):
    """So many studies; reading some of them fails."""

    def __init__(self, count: int, failing: dict[int, BaseException]) -> None:
        self.count, self.failing = count, failing

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self.failing:
            raise self.failing[index]
        return {"study": SimpleNamespace(case=f"c{index}"), "prompts": []}


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def score(study: Any, *_: Any, **__: Any) -> tuple[list, list]:
        case = study.case
        return [dataclasses.replace(VOLUME, case=case)], [dataclasses.replace(LESION, case=case)]

    def run(count: int, failing: dict[int, BaseException]) -> ResultsWriter:
        writer = ResultsWriter(tmp_path / "out" / "results.csv")
        masks = SimpleNamespace(volume=None, presence=None, probability_volume=None)
        SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=DataLoader(
                ReadableStudies(Studies(count, failing)),
                batch_size=1,
                collate_fn=take_study,
            ),
            network=torch.nn.Identity(),
            inferer=lambda *_, **__: masks,
            prepare_batch=lambda batch, *_, **__: (torch.zeros(1), None, (), {}),
            iteration_update=segment_readable,
            postprocessing=ScoreMasksd(method="m", seed=0),
            val_handlers=[writer],
            decollate=False,
        ).run()
        return writer

    monkeypatch.setattr(boltzmed.evaluation.transform, "score_study", score)
    return run


def list_files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "out").iterdir())


def test_a_case_that_cannot_be_read_is_left_out(evaluate, tmp_path: Path) -> None:
    line = "case c1: expected image and label on one grid"
    writer = evaluate(3, {1: InputError(line)})
    assert [row.case for row in read_results(tmp_path / "out" / "results.csv")] == ["c0", "c2"]
    assert writer.excluded == [line]
    assert (tmp_path / "out" / "left_out.csv").read_text() == f"kind,line\nexcluded,{line}\n"
    with pytest.raises(ValueError, match="nothing could be scored; case c0"):
        evaluate(1, {0: InputError("case c0: damaged")})


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_what_was_scored_before_an_error_is_kept(
    evaluate, tmp_path: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        evaluate(3, {2: error})
    assert list_files(tmp_path) == ["lesions.partial.csv", "results.partial.csv"]
    assert [row.case for row in read_results(tmp_path / "out" / "results.partial.csv")] == [
        "c0",
        "c1",
    ]
    evaluate(3, {})
    assert list_files(tmp_path) == ["left_out.csv", "lesions.csv", "results.csv"]
