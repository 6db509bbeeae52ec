"""One target of one case: its files read, brought onto one grid, scored."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boltzmed.cards import DatasetCard
from boltzmed.errors import InputError
from boltzmed.evaluation.case_files import CaseFiles, MaskPair
from boltzmed.evaluation.folder_options import FolderOptions
from boltzmed.evaluation.mask_scores import LesionScores, read_lesion_scores, recorded_scores
from boltzmed.evaluation.scores import Certainty, score_target
from boltzmed.masks.folders import MaskFile, find_target
from boltzmed.masks.grids import Grid, resample_nearest
from boltzmed.metrics.lesions import number_lesions
from boltzmed.results import CaseResult, LesionResult, compile_patient_pattern, match_patient


@dataclass(frozen=True)
class PairScoring:
    """What is the same for all cases of a folder.

    Attributes:
        options: what is scored, and how.
        method: names in the rows.
        dataset: names in the rows.
        card: that may know the patients.
        patient_pattern: that may find them in a case's name.
        lesion_scores: scores of predicted lesions from a table.
    """

    options: FolderOptions
    method: str
    dataset: str
    card: DatasetCard | None
    patient_pattern: re.Pattern[str] | None
    lesion_scores: LesionScores | None

    @classmethod
    def of(
        cls, options: FolderOptions, card: DatasetCard | None, predictions: Path, references: Path
    ) -> PairScoring:
        """Read what the options name.

        Args:
            options: of `score_folder`.
            card: the options' card, read.
            predictions: the folders; their names serve where the options give none.
            references: the folders; their names serve where the options give none.

        Raises:
            ValueError: a pattern that is none, or a table of scores that cannot be read.
        """
        dataset = card.name if card else references.resolve().name
        table = options.lesion_scores
        return cls(
            options=options,
            method=options.method or predictions.resolve().name,
            dataset=options.dataset or dataset,
            card=card,
            patient_pattern=compile_patient_pattern(options.patient_pattern),
            lesion_scores=read_lesion_scores(table) if table else None,
        )

    def score(
        self, files: CaseFiles, pair: MaskPair
    ) -> tuple[list[CaseResult], list[LesionResult]]:
        """Score one target of one case.

        Raises:
            ValueError: it cannot be scored, and why.
        """
        problem = files.reference.problem or files.prediction.problem
        if problem is not None:
            raise InputError(problem)
        # Only a case with a problem has no reference.
        assert pair.reference is not None
        if pair.prediction is None and self.options.missing != "empty":
            raise InputError(missing_line(files.case, pair.target))
        read = files.read(pair.reference)
        present = find_target(pair.reference, read)
        predicted = np.zeros(present.shape, bool)
        certainty = Certainty()
        prompt = pair.target
        if pair.prediction is not None:
            predicted, certainty = self._read_prediction(files, pair.prediction, read.grid)
            prompt = pair.prediction.prompt or pair.target
        if self.lesion_scores is not None:
            numbers, _ = number_lesions(predicted, self.options.scoring.connectivity)
            spread = self.lesion_scores.spread(files.case, pair.target, numbers)
            certainty = Certainty(certainty.presence, spread)
        identity: dict[str, Any] = {
            "method": self.method,
            "dataset": self.dataset,
            "patient": self._find_patient(files.case),
            "case": files.case,
            "target": pair.target,
            "prompt": prompt,
            "seed": files.prediction.seed,
        }
        return score_target(
            predicted,
            present,
            read.affine_ras,
            identity=identity,
            plane=self.options.plane,
            scoring=self.options.scoring,
            levels=self.options.levels,
            certainty=certainty,
        )

    def _read_prediction(
        self, files: CaseFiles, mask: MaskFile, grid: Grid
    ) -> tuple[NDArray[np.bool_], Certainty]:
        """Return a prediction on its reference's grid, and its certainty by ``run.json``."""
        read = files.read(mask)
        predicted = find_target(mask, read)
        score_IJK = None
        if self.lesion_scores is None and mask.components is not None:
            plane = files.prediction.plane
            score_IJK = recorded_scores(predicted, read.affine_ras, mask.components, plane)
        if grid.is_same(read.grid):
            # Presence belongs to the slices of the run.
            same_slices = files.prediction.plane == self.options.plane
            return predicted, Certainty(mask.presence if same_slices else None, score_IJK)
        if not self.options.resample:
            raise InputError(
                f"case {files.case}: expected reference and {mask.path.name} on one grid, received"
                f" {grid} and {read.grid}; segment the same image, or pass --resample"
            )
        predicted = resample_nearest(predicted, read.affine_ras, grid)
        if score_IJK is not None:
            score_IJK = resample_nearest(score_IJK, read.affine_ras, grid)
        return predicted, Certainty(None, score_IJK)

    def _find_patient(self, case: str) -> str:
        by_card = self.card.cases.find_patient(case) if self.card else None
        return match_patient(self.patient_pattern, case) or by_card or ""


def missing_line(case: str, target: str) -> str:
    """Return the line on a reference without a prediction."""
    return (
        f"case {case}: expected a prediction of {target}, found none; --missing empty scores such"
        " as an empty mask"
    )
