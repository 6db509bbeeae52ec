"""Masks against references: one target of one case, or a folder against a folder."""

from __future__ import annotations

from boltzmed.evaluation.folder_options import FolderOptions
from boltzmed.evaluation.folders import FolderScores, score_folder, write_evaluation, write_scores
from boltzmed.evaluation.scores import (
    Certainty,
    PlainMasks,
    Scoring,
    score_mask,
    score_study,
    score_target,
)

__all__ = [
    "Certainty",
    "FolderOptions",
    "FolderScores",
    "PlainMasks",
    "Scoring",
    "score_folder",
    "score_mask",
    "score_study",
    "score_target",
    "write_evaluation",
    "write_scores",
]
