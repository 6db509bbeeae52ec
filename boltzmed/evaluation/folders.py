"""A folder of masks against a folder of references → rows of results."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from boltzmed.cards import DatasetCard, load_card
from boltzmed.errors import InputError
from boltzmed.evaluation.case_files import CaseFiles, check_unnamed
from boltzmed.evaluation.grids import resample_nearest
from boltzmed.evaluation.mask_files import CaseMasks, MaskFile, find_target, list_cases, list_values
from boltzmed.evaluation.mask_scores import LesionScores, read_lesion_scores, recorded_scores
from boltzmed.evaluation.scores import Scoring, score_target
from boltzmed.files import check_writable
from boltzmed.geometry import describe_grid, is_same_grid
from boltzmed.metrics.lesions import number_lesions
from boltzmed.results import (
    LEVELS,
    CaseResult,
    LesionResult,
    compile_patient_pattern,
    match_patient,
    write_exclusions,
    write_lesions,
    write_results,
)
from boltzmed.transforms.slices import PLANES

MISSING = ("exclude", "empty", "error")


@dataclass
class FolderScores:
    """What came of comparing two folders.

    Attributes:
        rows: what was scored.
        lesions: what was scored.
        cases: names of the cases with a row.
        excluded: a line for each case, or target of a case, that has no row, and for lesion scores
            of no lesion or lesions of no score.
        never_predicted: a line for each target that no case has a prediction of, and which
            therefore has no row.
        passed_over: a line for each prediction that has no reference.
        repeated: a line for each target of a case that has several predictions, of a row each.
        unnamed: a line for each set of label values that --labels does not name.
    """

    rows: list[CaseResult] = field(default_factory=list)
    lesions: list[LesionResult] = field(default_factory=list)
    cases: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    never_predicted: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)


def score_folder(  # noqa: C901  (to be split with its options)
    predictions: str | Path,
    references: str | Path,
    *,
    labels: Mapping[str, tuple[int, ...]] | None = None,
    card: str | Path | None = None,
    method: str | None = None,
    dataset: str | None = None,
    patient_pattern: str | None = None,
    plane: str = "axial",
    levels: Sequence[str] = LEVELS,
    scoring: Scoring | None = None,
    resample: bool = False,
    missing: str = "exclude",
    lesion_scores: str | Path | None = None,
    report: Callable[[str], None] | None = None,
) -> FolderScores:
    """Score every reference that has a prediction of the same case and target.

    Args:
        predictions: folders, see `boltzmed.evaluation.mask_files`.
        references: folders, see `boltzmed.evaluation.mask_files`.
        labels: target → label values, of ``CASE.nii.gz`` files.
        card: a dataset card that says the same, or nnU-Net's ``dataset.json`` for it, see
            `list_cases`.
        method: their names in the rows; by default the predictions' folder's, and the card's or the
            references' folder's.
        dataset: as ``method``.
        patient_pattern: regular expression on the case's name; its first group, or the whole match,
            is the patient. Where it finds none, what the card says, else "": nothing says whose
            case it is.
        plane: see `score_target`.
        levels: see `score_target`.
        scoring: see `score_target`.
        resample: bring a prediction on another grid onto its reference's, by nearest neighbour,
            instead of refusing it.
        missing: a reference without a prediction: "exclude" it, score an "empty" mask, or stop by
            an "error".
        lesion_scores: CSV of scores of predicted lesions; else ``run.json``'s serve.
        report: called with each line of what is excluded or passed over, as it comes.

    Raises:
        ValueError: arguments that don't fit, folders that hold no masks, no case in common, or
            nothing to score.
    """
    if missing not in MISSING:
        raise ValueError(f"missing: expected one of {', '.join(MISSING)}, received {missing!r}")
    if plane not in PLANES:
        raise ValueError(f"plane: expected one of {', '.join(PLANES)}, received {plane!r}")
    if labels and card:
        raise ValueError("expected --labels or --card, received both; leave one out")
    read_card = load_card(card) if card else None
    task = _Task(
        method=method or Path(predictions).resolve().name,
        dataset=dataset or (read_card.name if read_card else Path(references).resolve().name),
        card=read_card,
        patient_pattern=compile_patient_pattern(patient_pattern),
        lesion_scores=read_lesion_scores(lesion_scores) if lesion_scores else None,
        options={"plane": plane, "levels": levels, "scoring": scoring or Scoring()},
        resample=resample,
        missing=missing,
    )
    wanted, given = (
        list_cases(references, labels, read_card),
        list_cases(predictions, labels, read_card),
    )
    if not set(wanted) & set(given):
        raise InputError(
            "expected predictions named as their references, found no case in common:"
            f" {_some(given)} in {Path(predictions).name}, {_some(wanted)} in"
            f" {Path(references).name}; rename one side"
        )
    check_unnamed(wanted, given)
    done = FolderScores()

    def tell(line: str, lines: list[str]) -> None:
        if line not in lines:
            lines.append(line)
            if report is not None:
                report(line)

    for case in given:
        if case not in wanted:
            tell(f"case {case}: no reference, passed over", done.passed_over)
    asked = {slug for masks in given.values() for mask in masks.masks for slug in mask.slugs}
    maps = {
        mask.names[0]: mask
        for masks in wanted.values()
        for mask in masks.masks
        if mask.values is not None
    }
    never = [target for target, mask in maps.items() if not mask.slugs & asked]
    for target in never if missing == "exclude" else ():
        line = (
            f"target {target}: expected predictions, found none in any case; --missing empty scores"
            " empty masks"
        )
        tell(line, done.never_predicted)
        wanted = {case: masks.without(target) for case, masks in wanted.items()}
    if missing == "error":
        for case, reference in wanted.items():
            files = CaseFiles(case, reference, given.get(case, CaseMasks(())))
            for target, _, predicted in files.pairs():
                if predicted is None and files.prediction.problem is None:
                    raise InputError(_missing_line(case, target))
    unnamed: dict[frozenset[int], list[str]] = {}
    for case, reference in wanted.items():
        files = CaseFiles(case, reference, given.get(case, CaseMasks(())))
        for mask in files.extra:
            tell(f"case {case}: no reference for {mask.path.name}, passed over", done.passed_over)
        pairs = list(files.pairs())
        for target, several in files.list_repeated(pairs):
            line = (
                f"case {case}: {target} has several predictions, {several}, and each its rows;"
                " compare and summarize"
            )
            tell(
                f"{line} take one for a method: evaluate the others under another --method",
                done.repeated,
            )
        for target, present, predicted in pairs:
            try:
                rows, lesions = task.score(files, target, present, predicted)
            except ValueError as error:
                line = " ".join(str(error).split())
                tell(line if line.startswith("case ") else f"case {case}: {line}", done.excluded)
                continue
            done.rows += rows
            done.lesions += lesions
            if case not in done.cases:
                done.cases.append(case)
        # A card refuses such a file; --labels may name a part on purpose, and has to be told of the
        # rest.
        for path, values in files.list_unnamed(labels or {}) if read_card is None else ():
            unnamed.setdefault(values, []).append(path)
    for values, paths in unnamed.items():
        line = (
            f"label values {list_values(values)} have no name in {len(paths)} files, such as"
            f" {paths[0]}"
        )
        tell(f"{line}, and are passed over; --labels can name them", done.unnamed)
    for line in (
        task.lesion_scores.list_unmatched() if task.lesion_scores and "volume" in levels else ()
    ):
        tell(line, done.excluded)
    if not done.rows:
        raise InputError(
            f"nothing could be scored, all of {len(wanted)} references are excluded; mend what is"
            " listed"
        )
    return done


def write_scores(scores: FolderScores, output: str | Path) -> list[Path]:
    """Write ``results.csv``, ``lesions.csv`` and ``left_out.csv`` into a folder, which is made;
    returns their paths.
    """
    check_writable(Path(output))
    left_out = {"excluded": scores.excluded, "never predicted": scores.never_predicted}
    left_out |= {"passed over": scores.passed_over, "several predictions": scores.repeated}
    left_out |= {"unnamed label values": scores.unnamed}
    return write_evaluation(output, scores.rows, scores.lesions, left_out)


def write_evaluation(
    folder: str | Path,
    rows: Iterable[CaseResult],
    lesions: Iterable[LesionResult],
    left_out: Mapping[str, Iterable[str]],
) -> list[Path]:
    """Write ``results.csv``, ``lesions.csv`` and ``left_out.csv`` into a folder, which is made;
    returns their paths.

    Args:
        folder: where they go.
        rows: what was scored.
        lesions: what was scored.
        left_out: lines on what has no rows, by kind.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("results.csv", "lesions.csv", "left_out.csv")]
    write_results(paths[0], rows)
    write_lesions(paths[1], lesions)
    write_exclusions(paths[2], left_out)
    return paths


@dataclass(frozen=True)
class _Task:
    """What is the same for all cases of a folder."""

    method: str
    dataset: str
    card: DatasetCard | None
    patient_pattern: re.Pattern[str] | None
    lesion_scores: LesionScores | None
    options: Mapping[str, Any]
    resample: bool
    missing: str

    def score(
        self, files: CaseFiles, target: str, reference: MaskFile | None, prediction: MaskFile | None
    ) -> tuple[list[CaseResult], list[LesionResult]]:
        """Score one target of one case; ValueError says why it can't be."""
        case = files.case
        if problem := files.reference.problem or files.prediction.problem:
            raise InputError(problem)
        assert reference is not None
        if prediction is None and self.missing != "empty":
            raise InputError(_missing_line(case, target))
        affine, present = (
            files.read(reference).affine_ras,
            find_target(reference, files.read(reference)),
        )
        predicted, presence, score_IJK = np.zeros(present.shape, bool), None, None
        if prediction is not None:
            read = files.read(prediction)
            own_affine, predicted = read.affine_ras, find_target(prediction, read)
            if self.lesion_scores is None and prediction.components is not None:
                made = (prediction.components, files.prediction.plane)
                score_IJK = recorded_scores(predicted, own_affine, *made)
            if is_same_grid(predicted.shape, own_affine, present.shape, affine):
                presence = (
                    prediction.presence if files.prediction.plane == self.options["plane"] else None
                )
            elif self.resample:
                predicted = resample_nearest(predicted, own_affine, present.shape, affine)
                if score_IJK is not None:
                    score_IJK = resample_nearest(score_IJK, own_affine, present.shape, affine)
            else:
                raise InputError(
                    f"case {case}: expected {prediction.path.name} on its reference's grid,"
                    f" received {describe_grid(predicted.shape, own_affine)} for"
                    f" {describe_grid(present.shape, affine)}; segment the same image, or pass"
                    " --resample"
                )
        if self.lesion_scores is not None:
            numbers, _ = number_lesions(predicted, self.options["scoring"].connectivity)
            score_IJK = self.lesion_scores.spread(case, target, numbers)
        prompt = (prediction.prompt if prediction else None) or target
        identity: dict[str, Any] = {
            "method": self.method,
            "dataset": self.dataset,
            "case": case,
            "target": target,
        }
        identity |= {
            "patient": self._patient(case),
            "prompt": prompt,
            "seed": files.prediction.seed,
        }
        return score_target(
            predicted,
            present,
            affine,
            identity=identity,
            presence=presence,
            score_IJK=score_IJK,
            **self.options,
        )

    def _patient(self, case: str) -> str:
        by_card = self.card.cases.find_patient(case) if self.card else None
        return match_patient(self.patient_pattern, case) or by_card or ""


def _missing_line(case: str, target: str) -> str:
    return (
        f"case {case}: expected a prediction of {target}, found none; --missing empty scores such"
        " as an empty mask"
    )


def _some(cases: Mapping[str, CaseMasks]) -> str:
    names = list(cases)
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
