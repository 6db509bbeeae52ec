"""What a run leaves behind: folders of masks, or tables of an evaluation; and after an error."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, Transform
from torch.utils.data import DataLoader

import boltzmed.evaluation.transform
from boltzmed.data.studies import ReadableStudies
from boltzmed.engines.batches import segment_readable, take_study
from boltzmed.errors import InputError, OutputError
from boltzmed.evaluation.transform import ScoreMasksd
from boltzmed.outputs import ResultsWriter, StudyOutputs
from boltzmed.results import read_results
from boltzmed.transforms.saving import SaveMasksd, StudyFolders
from tests.reports.test_evaluation import LESION, VOLUME
from tests.transforms.drawn_masks import (
    make_image,
    make_prompt,
    make_study,
    pack_masks,
    place_affine,
)


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


class Fails(Transform):
    """Raises an error, as a transform of a user's may."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, data: Any) -> Any:
        raise self.error


class TestStudyOutputs:
    SHAPE = (6, 5, 3)

    def run(self, output: Path, *others: Transform, study: Path = Path("study.nii.gz")) -> Any:
        """Segment one study by a network that finds nothing; return what became of it."""
        affine = place_affine((-1, -1, 1))
        image = make_image(self.SHAPE, affine)
        nothing = np.zeros((1, *self.SHAPE), np.uint8)
        folders = StudyFolders(output)
        item = {"image": image, "study": make_study(image), "prompts": [make_prompt("liver")]}
        engine = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=DataLoader(OneStudy(study, item), collate_fn=take_study),
            network=torch.nn.Linear(1, 1),
            inferer=lambda *_, **__: pack_masks(nothing, nothing, affine),
            prepare_batch=lambda batch, *_, **__: (batch["image"], None, (), {}),
            postprocessing=Compose([SaveMasksd(folders=folders), *others], log_stats=False),
            val_handlers=[StudyOutputs(folders)],
            decollate=False,
        )
        engine.logger.setLevel("CRITICAL")
        engine.run()
        folders.finish("study")
        return engine.state.output

    def test_time_and_device_are_handed_on(self, tmp_path):
        output = self.run(tmp_path / "out")
        assert output["device"] == "cpu" and 0 <= output["infer_seconds"] < 60
        assert output["inferred_at"] > 0
        assert list_files(tmp_path) == ["study"]

    @pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()])
    def test_an_error_after_masks_were_written_leaves_nothing_of_them(self, tmp_path, error):
        with pytest.raises((RuntimeError, KeyboardInterrupt)):
            self.run(tmp_path / "out", Fails(error))
        assert list_files(tmp_path) == []

    def test_what_cannot_be_written_is_told_before_the_work(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "study").write_text("mine")
        seen: list[Any] = []
        with pytest.raises(OutputError, match=r"found a file of that name"):
            self.run(tmp_path / "out", seen.append)  # type: ignore[arg-type]
        assert not seen and (tmp_path / "out" / "study").read_text() == "mine"


class OneStudy(torch.utils.data.Dataset):
    """A study that was read already."""

    def __init__(self, study: Path, item: dict[str, Any]) -> None:
        self.studies = [study]
        self.item = item

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.item
