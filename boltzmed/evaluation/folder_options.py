"""What a folder is scored by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from boltzmed.evaluation.scores import Scoring
from boltzmed.results import LEVELS
from boltzmed.transforms.slices import PLANES

MISSING = ("exclude", "empty", "error")
"""What may be done about a reference without a prediction."""


@dataclass(frozen=True)
class FolderOptions:
    """What `score_folder` scores, and how.

    Attributes:
        labels: target → label values, of ``CASE.nii.gz`` files.
        card: a dataset card that says the same, or nnU-Net's ``dataset.json`` for it, see
            `boltzmed.masks.dataset_json`.
        method: name of the method in the rows; the predictions' folder's by default.
        dataset: name of the data set in the rows; the card's or the references' folder's by
            default.
        patient_pattern: regular expression on the case's name; its first group, or the whole match,
            is the patient. Where it finds none, what the card says, else "": nothing says whose
            case it is.
        plane: how slices are cut.
        levels: which rows: "slice", "volume".
        scoring: what is measured.
        resample: bring a prediction on another grid onto its reference's, by nearest neighbour,
            instead of refusing it.
        missing: a reference without a prediction: "exclude" it, score an "empty" mask, or stop by
            an "error".
        lesion_scores: CSV of scores of predicted lesions; else ``run.json``'s serve.

    Raises:
        ValueError: an option has none of these values, or two exclude each other.
    """

    labels: Mapping[str, Sequence[int]] | None = None
    card: str | Path | None = None
    method: str | None = None
    dataset: str | None = None
    patient_pattern: str | None = None
    plane: str = "axial"
    levels: Sequence[str] = LEVELS
    scoring: Scoring = field(default_factory=Scoring)
    resample: bool = False
    missing: str = "exclude"
    lesion_scores: str | Path | None = None

    def __post_init__(self) -> None:
        if self.missing not in MISSING:
            raise ValueError(
                f"missing: expected one of {', '.join(MISSING)}, received {self.missing!r}"
            )
        if self.plane not in PLANES:
            raise ValueError(f"plane: expected one of {', '.join(PLANES)}, received {self.plane!r}")
        if self.labels and self.card:
            raise ValueError("expected --labels or --card, received both; leave one out")
