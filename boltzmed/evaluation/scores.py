"""Masks against references → rows of results, one target of one case at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boltzmed.cards import PromptTarget
from boltzmed.geometry import voxel_volume_mm3
from boltzmed.metrics.lesions import (
    CONNECTIVITIES,
    LesionMatch,
    match_lesions,
    number_lesions,
    read_rule,
)
from boltzmed.metrics.overlap import bounding_box, count_voxels
from boltzmed.metrics.surface import NSD_TOLERANCE_MM, compare_surfaces
from boltzmed.results import LEVELS, CaseResult, LesionResult
from boltzmed.studies import LabelledStudy
from boltzmed.transforms.slices import SlicePlan

DISTANCES = ("volume", "all", "none")


@dataclass(frozen=True)
class Scoring:
    """What is measured, and how.

    Attributes:
        distances: the rows that get surface distances: "volume", "all" or "none".
        tolerance_mm: of the normalised surface Dice.
        connectivity: neighbours that make one lesion: 6, 18 or 26; in slices 4 for 6, else 8.
        match: which lesions are found, see `boltzmed.metrics.lesions`: "overlap", or "iou:0.1".
        miss_penalty_mm: the distance of rows where one mask alone is empty, in second means that
            tables show beside those without such rows; the rows themselves stay without a distance.
            None: no such means.

    Raises:
        ValueError: one of them is none of these.
    """

    distances: str = "volume"
    tolerance_mm: float = NSD_TOLERANCE_MM
    connectivity: int = 26
    match: str = "overlap"
    miss_penalty_mm: float | None = None

    def __post_init__(self) -> None:
        read_rule(self.match)
        for name, options in (("distances", DISTANCES), ("connectivity", CONNECTIVITIES)):
            if getattr(self, name) not in options:
                raise ValueError(
                    f"{name}: expected one of {', '.join(map(str, options))}, received"
                    f" {getattr(self, name)!r}"
                )
        for name in ("tolerance_mm", "miss_penalty_mm"):
            if (number := getattr(self, name)) is not None and not 0 <= number < np.inf:
                raise ValueError(f"{name}: expected a number of mm from 0, received {number!r}")

    @property
    def lesion_rule(self) -> str:
        """The column of that name; one text for each rule, however its number was written."""
        least_iou = read_rule(self.match)
        return f"{self.connectivity} " + ("overlap" if least_iou is None else f"iou:{least_iou:g}")


def score_mask(
    prediction: NDArray,
    reference: NDArray,
    affine_ras: NDArray[np.float64],
    *,
    identity: Mapping[str, Any],
    plane: str = "axial",
    presence: Sequence[float] | None = None,
    scoring: Scoring | None = None,
) -> list[CaseResult]:
    """Score one target of one case: a row per slice, then one for the volume.

    Slices where neither mask has a voxel give a row without a Dice.

    Args:
        prediction: (I,J,K) on one grid; not 0 is inside.
        reference: (I,J,K) on one grid; not 0 is inside.
        affine_ras: Of that grid, to RAS mm.
        identity: The fields of ``CaseResult`` that say what was scored: ``method, dataset,
            patient, case, target, prompt, seed``.
        plane: How slices are cut.
        presence: Presence probability of each slice, if there is one.
        scoring: What is measured; distances of volumes alone by default.

    Raises:
        ValueError: The masks are on different grids.
    """
    return score_target(
        prediction,
        reference,
        affine_ras,
        identity=identity,
        plane=plane,
        presence=presence,
        scoring=scoring,
    )[0]


def score_target(
    prediction: NDArray,
    reference: NDArray,
    affine_ras: NDArray[np.float64],
    *,
    identity: Mapping[str, Any],
    plane: str = "axial",
    presence: Sequence[float] | None = None,
    scoring: Scoring | None = None,
    levels: Sequence[str] = LEVELS,
    score_IJK: NDArray[np.float32] | None = None,
) -> tuple[list[CaseResult], list[LesionResult]]:
    """Score as ``score_mask``, and list the volume's lesions.

    Args:
        levels: Which rows: "slice", "volume"; without "volume" no lesions are listed.
        score_IJK: How sure the method was of each voxel of the prediction; a lesion takes its
            highest.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"{identity.get('case')}: expected prediction and reference on one grid, received"
            f" {prediction.shape} and {reference.shape} voxels; segment the image that the"
            " reference belongs to"
        )
    scoring = Scoring() if scoring is None else scoring
    plan = SlicePlan.from_affine(affine_ras, reference.shape, plane)
    if presence is not None and len(presence) != plan.count:
        raise ValueError(
            f"{identity.get('case')}: expected a presence of each of {plan.count} slices, received"
            f" {len(presence)}"
        )
    voxel_mm3, side2 = voxel_volume_mm3(affine_ras), max(plan.slice_shape) ** 2
    steps = np.asarray(affine_ras)[:3, :3].T  # mm from a voxel to the next one, a row an axis
    predicted_KHW, present_KHW = plan.cut(prediction), plan.cut(reference)
    pixels_K = np.count_nonzero(present_KHW, axis=(1, 2))
    rows: list[CaseResult] = []
    for index in range(plan.count) if "slice" in levels else ():
        measured, _ = _measure(
            *(
                predicted_KHW[index],
                present_KHW[index],
                steps[list(plan.axes[1:])],
                voxel_mm3,
                scoring,
            ),
            distances=scoring.distances == "all",
        )
        rows.append(
            CaseResult(
                **identity,
                level="slice",
                axis=plane,
                slice_index=index,
                area_fraction=int(pixels_K[index]) / side2,
                presence_score=None if presence is None else float(presence[index]),
                **measured,
            )
        )
    if "volume" not in levels:
        return rows, []
    measured, lesions = _measure(
        *(prediction, reference, steps, voxel_mm3, scoring), distances=scoring.distances != "none"
    )
    whole = CaseResult(
        **identity,
        level="volume",
        axis=plane,
        slice_index=None,
        area_fraction=int(pixels_K.max()) / side2,
        presence_score=None if presence is None else float(max(presence)),
        **measured,
    )
    return [*rows, whole], _list_lesions(lesions, identity, voxel_mm3, score_IJK)


def score_study(
    study: LabelledStudy,
    prompts: Sequence[PromptTarget],
    masks: Callable[[int], NDArray],
    *,
    method: str,
    seed: int = 0,
    plane: str = "axial",
    scoring: Scoring | None = None,
    presence: Callable[[int], Sequence[float] | None] = lambda index: None,
    score_IJK: Callable[[int], NDArray[np.float32] | None] = lambda index: None,
) -> tuple[list[CaseResult], list[LesionResult]]:
    """Score every target that a labelled study is asked for.

    Args:
        study: the case, its reference and what is scored of it.
        prompts: what it was asked for.
        masks: The number of a prompt → its mask (I,J,K), and what `score_target` takes beside it.
        presence: as ``masks``.
        score_IJK: as ``masks``.
        method: Of the rows.
        seed: Of the rows.
        plane: See `score_target`.
        scoring: See `score_target`.
    """
    rows: list[CaseResult] = []
    lesions: list[LesionResult] = []
    for index, (prompt, asked) in enumerate(zip(prompts, study.requested_slices, strict=True)):
        # Another window of the published protocol makes another case, as in its file names.
        again = prompt.target in (other.target for other in prompts[:index])
        volume = asked is None  # the published protocol asks for slices alone
        scored, listed = score_target(
            masks(index),
            study.reference(prompt.target),
            np.asarray(study.grid.affine),
            identity={
                "method": method,
                "dataset": prompt.card,
                "patient": study.patient,
                "case": f"{study.case}_{prompt.window_name}" if again else study.case,
                "target": prompt.target,
                "prompt": prompt.prompt,
                "seed": seed,
            },
            plane=plane,
            presence=presence(index),
            scoring=scoring,
            levels=LEVELS if volume else ("slice",),
            score_IJK=score_IJK(index) if volume else None,
        )
        rows += [row for row in scored if asked is None or row.slice_index in asked]
        lesions += listed
    return rows, lesions


@dataclass(frozen=True)
class _Lesions:
    """Numbered lesions inside a box of the volume, and how they match."""

    box: tuple[slice, ...]
    prediction: NDArray[np.int32]
    prediction_voxels_P: NDArray[np.int64]
    reference_voxels_R: NDArray[np.int64]
    match: LesionMatch


def _measure(
    prediction: NDArray,
    reference: NDArray,
    steps: NDArray,
    voxel_mm3: float,
    scoring: Scoring,
    *,
    distances: bool,
) -> tuple[dict[str, Any], _Lesions]:
    """The columns of a row that come from the masks alone."""
    shape, box = reference.shape, bounding_box(prediction, reference)
    prediction, reference = prediction[box], reference[box]
    counts = count_voxels(prediction, reference)
    numbered, voxels_P = number_lesions(prediction, scoring.connectivity)
    numbered_reference, voxels_R = number_lesions(reference, scoring.connectivity)
    match = match_lesions(
        numbered, numbered_reference, voxels_P, voxels_R, read_rule(scoring.match)
    )
    columns: dict[str, Any] = {
        "dice": counts.dice,
        "volume_mm3": counts.referenced * voxel_mm3,
        "reference_empty": counts.referenced == 0,
        "prediction_empty": counts.predicted == 0,
        "iou": counts.iou,
        "prediction_volume_mm3": counts.predicted * voxel_mm3,
        "volume_difference_mm3": (counts.predicted - counts.referenced) * voxel_mm3,
        "false_positive_mm3": counts.prediction_only * voxel_mm3,
        "false_negative_mm3": counts.reference_only * voxel_mm3,
        "reference_lesions": len(voxels_R),
        "predicted_lesions": len(voxels_P),
        "matched_lesions": match.matched,
        "missed_lesions": match.missed,
        "false_lesions": match.false,
        "detection_f1": match.f1,
        "panoptic_quality": match.panoptic_quality,
        "lesion_rule": scoring.lesion_rule,
    }
    if distances:
        if len(shape) == 3 and 1 in shape and counts.predicted + counts.referenced:
            thin = shape.index(
                1
            )  # a volume of one slice has no surface above and below it, only an outline
            prediction, reference, steps = (
                prediction.take(0, thin),
                reference.take(0, thin),
                np.delete(steps, thin, 0),
            )
        surfaces = compare_surfaces(prediction, reference, steps, tolerance_mm=scoring.tolerance_mm)
        columns |= {**surfaces._asdict(), "nsd_tolerance_mm": float(scoring.tolerance_mm)}
    return columns, _Lesions(box, numbered, voxels_P, voxels_R, match)


def _list_lesions(
    lesions: _Lesions, identity: Mapping[str, Any], voxel_mm3: float, score_IJK: NDArray | None
) -> list[LesionResult]:
    match, whose = (
        lesions.match,
        {name: identity[name] for name in ("method", "dataset", "patient", "case", "target")},
    )
    scores: list[float | None] = [None] * len(lesions.prediction_voxels_P)
    if score_IJK is not None:
        inside = lesions.prediction > 0
        highest = np.full(len(scores), -np.inf)
        np.maximum.at(highest, lesions.prediction[inside] - 1, score_IJK[lesions.box][inside])
        scores = [float(score) if np.isfinite(score) else None for score in highest]
    reference_scores = [
        max((score for p in found_by if (score := scores[p]) is not None), default=None)
        for found_by in match.found_by
    ]
    kinds = (
        (
            "reference",
            lesions.reference_voxels_R,
            reference_scores,
            match.reference_matched_R,
            match.reference_iou_R,
        ),
        (
            "prediction",
            lesions.prediction_voxels_P,
            scores,
            match.prediction_matched_P,
            match.prediction_iou_P,
        ),
    )
    return [
        LesionResult(
            **whose,
            kind=kind,
            lesion=number,
            volume_mm3=int(size) * voxel_mm3,
            score=score,
            matched=bool(matched),
            iou=float(iou),
        )
        for kind, *columns in kinds
        for number, (size, score, matched, iou) in enumerate(zip(*columns, strict=True), start=1)
    ]
