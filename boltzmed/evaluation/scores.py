"""Masks against references → rows of results, one target of one case at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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
from boltzmed.strata import area_fraction
from boltzmed.studies import LabelledStudy
from boltzmed.transforms.slices import SlicePlan

DISTANCES = ("volume", "all", "none")
"""The rows that may get surface distances."""

Array = NDArray[Any]


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
        for name, choices in (("distances", DISTANCES), ("connectivity", CONNECTIVITIES)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}: expected one of {', '.join(map(str, choices))}, received"
                    f" {getattr(self, name)!r}"
                )
        for name in ("tolerance_mm", "miss_penalty_mm"):
            distance_mm = getattr(self, name)
            if distance_mm is not None and not 0 <= distance_mm < np.inf:
                raise ValueError(
                    f"{name}: expected a number of mm from 0, received {distance_mm!r}"
                )

    @property
    def lesion_rule(self) -> str:
        """The column of that name; one text for each rule, however its number was written."""
        least_iou = read_rule(self.match)
        rule = "overlap" if least_iou is None else f"iou:{least_iou:g}"
        return f"{self.connectivity} {rule}"


@dataclass(frozen=True)
class Certainty:
    """How sure a method was of its prediction.

    Attributes:
        presence: probability that the target is there, of each slice.
        score_IJK: of each voxel; a lesion takes its highest.
    """

    presence: Sequence[float] | None = None
    score_IJK: NDArray[np.float32] | None = None


def score_mask(
    prediction: Array,
    reference: Array,
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
        affine_ras: of that grid, to RAS mm.
        identity: the fields of ``CaseResult`` that say what was scored: ``method, dataset,
            patient, case, target, prompt, seed``.
        plane: how slices are cut.
        presence: presence probability of each slice, if there is one.
        scoring: what is measured; distances of volumes alone by default.

    Raises:
        ValueError: the masks are on different grids.
    """
    rows, _ = score_target(
        prediction,
        reference,
        affine_ras,
        identity=identity,
        plane=plane,
        scoring=scoring,
        certainty=Certainty(presence),
    )
    return rows


def score_target(
    prediction: Array,
    reference: Array,
    affine_ras: NDArray[np.float64],
    *,
    identity: Mapping[str, Any],
    plane: str = "axial",
    scoring: Scoring | None = None,
    levels: Sequence[str] = LEVELS,
    certainty: Certainty | None = None,
) -> tuple[list[CaseResult], list[LesionResult]]:
    """Score as ``score_mask``, and list the volume's lesions.

    Args:
        prediction: see ``score_mask``.
        reference: see ``score_mask``.
        affine_ras: see ``score_mask``.
        identity: see ``score_mask``.
        plane: see ``score_mask``.
        scoring: see ``score_mask``.
        levels: which rows: "slice", "volume"; without "volume" no lesions are listed.
        certainty: how sure the method was, if it says so.

    Raises:
        ValueError: the masks are on different grids, or presence is of other slices.
    """
    scoring = Scoring() if scoring is None else scoring
    certainty = Certainty() if certainty is None else certainty
    presence = certainty.presence
    if prediction.shape != reference.shape:
        raise ValueError(
            f"{identity.get('case')}: expected prediction and reference on one grid, received"
            f" {prediction.shape} and {reference.shape} voxels; segment the image that the"
            " reference belongs to"
        )
    plan = SlicePlan.from_affine(affine_ras, reference.shape, plane)
    if presence is not None and len(presence) != plan.count:
        raise ValueError(
            f"{identity.get('case')}: expected a presence of each of {plan.count} slices, received"
            f" {len(presence)}; leave it out or pass that of this plane"
        )
    pixels_K = np.count_nonzero(plan.cut(reference), axis=(1, 2))
    rows: list[CaseResult] = []
    lesions: list[LesionResult] = []
    if "slice" in levels:
        measured_K = _measure_slices(prediction, reference, affine_ras, plan, scoring)
        for index, measured in enumerate(measured_K):
            rows.append(
                CaseResult(
                    **identity,
                    level="slice",
                    axis=plane,
                    slice_index=index,
                    area_fraction=area_fraction(int(pixels_K[index]), *plan.slice_shape),
                    presence_score=None if presence is None else float(presence[index]),
                    **measured,
                )
            )
    if "volume" in levels:
        pair = _MaskPair(prediction, reference, _voxel_steps(affine_ras))
        voxel_mm3 = voxel_volume_mm3(affine_ras)
        with_distances = scoring.distances != "none"
        measured, matched = _measure(pair, voxel_mm3, scoring, distances=with_distances)
        rows.append(
            CaseResult(
                **identity,
                level="volume",
                axis=plane,
                slice_index=None,
                area_fraction=area_fraction(int(pixels_K.max()), *plan.slice_shape),
                presence_score=None if presence is None else float(max(presence)),
                **measured,
            )
        )
        lesions = _list_lesions(matched, identity, voxel_mm3, certainty.score_IJK)
    return rows, lesions


class StudyMasks(Protocol):
    """A study's masks by the number of their prompt, as `PackedMasks` holds them."""

    def volume(self, prompt: int) -> Array:
        """Return a mask (I,J,K)."""

    def presence(self, prompt: int) -> Sequence[float] | None:
        """Return the probability of each slice that it is there, if there is one."""

    def probability_volume(self, prompt: int) -> NDArray[np.float32] | None:
        """Return the probability of each of the mask's voxels (I,J,K), if there is one."""


@dataclass(frozen=True)
class PlainMasks:
    """Masks of a method that does not say how sure it is, as `StudyMasks`.

    Attributes:
        masks: (I,J,K), one a prompt.
    """

    masks: Sequence[Array]

    def volume(self, prompt: int) -> Array:
        """Return a mask (I,J,K)."""
        return self.masks[prompt]

    def presence(self, prompt: int) -> None:
        """Return None: there is no presence."""

    def probability_volume(self, prompt: int) -> None:
        """Return None: there are no probabilities."""


def score_study(
    study: LabelledStudy,
    prompts: Sequence[PromptTarget],
    masks: StudyMasks,
    *,
    method: str,
    seed: int = 0,
    plane: str = "axial",
    scoring: Scoring | None = None,
) -> tuple[list[CaseResult], list[LesionResult]]:
    """Score every target that a labelled study is asked for.

    Args:
        study: the case, its reference and what is scored of it.
        prompts: what it was asked for.
        masks: one a prompt.
        method: of the rows.
        seed: of the rows.
        plane: see `score_target`.
        scoring: see `score_target`.
    """
    rows: list[CaseResult] = []
    lesions: list[LesionResult] = []
    scored_targets: set[str | None] = set()
    for index, (prompt, slices) in enumerate(zip(prompts, study.requested_slices, strict=True)):
        case = study.case
        if prompt.target in scored_targets:
            # Another window of the published protocol makes another case, as in its file names.
            case = f"{study.case}_{prompt.window_name}"
        scored_targets.add(prompt.target)
        whole = slices is None  # the published protocol asks for slices alone
        certainty = Certainty(
            masks.presence(index), masks.probability_volume(index) if whole else None
        )
        target_rows, target_lesions = score_target(
            masks.volume(index),
            study.reference(prompt.target),
            np.asarray(study.grid.affine),
            identity={
                "method": method,
                "dataset": prompt.card,
                "patient": study.patient,
                "case": case,
                "target": prompt.target,
                "prompt": prompt.prompt,
                "seed": seed,
            },
            plane=plane,
            scoring=scoring,
            levels=LEVELS if whole else ("slice",),
            certainty=certainty,
        )
        for row in target_rows:
            if slices is None or row.slice_index in slices:
                rows.append(row)
        lesions += target_lesions
    return rows, lesions


class _MaskPair(NamedTuple):
    """Two masks on one grid, of a slice or a volume.

    Attributes:
        prediction: (…), as many axes as the grid.
        reference: (…), as many axes as the grid.
        steps: (axes, 3) mm from a voxel to the next one, a row an axis.
    """

    prediction: Array
    reference: Array
    steps: NDArray[np.float64]


@dataclass(frozen=True)
class _Lesions:
    """Numbered lesions inside a box of the volume, and how they match."""

    box: tuple[slice, ...]
    prediction: NDArray[np.int32]
    prediction_voxels_P: NDArray[np.int64]
    reference_voxels_R: NDArray[np.int64]
    match: LesionMatch


def _voxel_steps(affine_ras: NDArray[np.float64]) -> NDArray[np.float64]:
    steps: NDArray[np.float64] = np.asarray(affine_ras)[:3, :3].T
    return steps


def _measure_slices(
    prediction: Array,
    reference: Array,
    affine_ras: NDArray[np.float64],
    plan: SlicePlan,
    scoring: Scoring,
) -> Iterator[dict[str, Any]]:
    """The measured columns of each slice's row."""
    voxel_mm3 = voxel_volume_mm3(affine_ras)
    steps = _voxel_steps(affine_ras)[list(plan.axes[1:])]
    distances = scoring.distances == "all"
    slices = zip(plan.cut(prediction), plan.cut(reference), strict=True)
    for predicted_HW, present_HW in slices:
        pair = _MaskPair(predicted_HW, present_HW, steps)
        columns, _ = _measure(pair, voxel_mm3, scoring, distances=distances)
        yield columns


def _measure(
    pair: _MaskPair, voxel_mm3: float, scoring: Scoring, *, distances: bool
) -> tuple[dict[str, Any], _Lesions]:
    """The columns of a row that come from the masks alone."""
    box = bounding_box(pair.prediction, pair.reference)
    prediction = pair.prediction[box]
    reference = pair.reference[box]
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
        boxed = _MaskPair(prediction, reference, pair.steps)
        if counts.predicted + counts.referenced:
            boxed = _drop_thin_axis(boxed, pair.reference.shape)
        surfaces = compare_surfaces(*boxed, tolerance_mm=scoring.tolerance_mm)
        columns |= surfaces._asdict()
        columns["nsd_tolerance_mm"] = float(scoring.tolerance_mm)
    return columns, _Lesions(box, numbered, voxels_P, voxels_R, match)


def _drop_thin_axis(pair: _MaskPair, shape: tuple[int, ...]) -> _MaskPair:
    """Return a volume of one slice as that slice.

    It has no surface above and below, only an outline.
    """
    if len(shape) != 3 or 1 not in shape:
        return pair
    thin = shape.index(1)
    return _MaskPair(
        pair.prediction.take(0, thin),
        pair.reference.take(0, thin),
        np.delete(pair.steps, thin, 0),
    )


def _list_lesions(
    lesions: _Lesions,
    identity: Mapping[str, Any],
    voxel_mm3: float,
    score_IJK: NDArray[np.float32] | None,
) -> list[LesionResult]:
    """A row for each lesion of the reference, then for each predicted one."""
    match = lesions.match
    scores = _score_predicted(lesions, score_IJK)
    reference_scores = [_best_score(scores, numbers) for numbers in match.found_by]
    kinds = {
        "reference": (
            lesions.reference_voxels_R,
            reference_scores,
            match.reference_matched_R,
            match.reference_iou_R,
        ),
        "prediction": (
            lesions.prediction_voxels_P,
            scores,
            match.prediction_matched_P,
            match.prediction_iou_P,
        ),
    }
    names = ("method", "dataset", "patient", "case", "target")
    lesion_identity = {name: identity[name] for name in names}
    rows = []
    for kind, columns in kinds.items():
        for number, (size, score, matched, iou) in enumerate(zip(*columns, strict=True), start=1):
            rows.append(
                LesionResult(
                    **lesion_identity,
                    kind=kind,
                    lesion=number,
                    volume_mm3=int(size) * voxel_mm3,
                    score=score,
                    matched=bool(matched),
                    iou=float(iou),
                )
            )
    return rows


def _score_predicted(
    lesions: _Lesions, score_IJK: NDArray[np.float32] | None
) -> list[float | None]:
    """The highest score in each predicted lesion; None where it has none."""
    count = len(lesions.prediction_voxels_P)
    if score_IJK is None:
        return [None] * count
    inside = lesions.prediction > 0
    highest = np.full(count, -np.inf)
    np.maximum.at(highest, lesions.prediction[inside] - 1, score_IJK[lesions.box][inside])
    return [float(score) if np.isfinite(score) else None for score in highest]


def _best_score(scores: Sequence[float | None], numbers: Iterable[int]) -> float | None:
    """The highest score of the predicted lesions that found a reference's."""
    best = None
    for number in numbers:
        score = scores[number]
        if score is not None and (best is None or score > best):
            best = score
    return best
