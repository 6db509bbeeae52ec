"""Lesions: connected components of two masks, matched with each other.

Two rules say what is found.

``overlap``: a reference lesion is matched if it shares a voxel with any predicted one; a predicted
lesion is false if it shares no voxel with any of the reference. So two lesions merged into one
prediction are both matched, and of a lesion predicted in two pieces, which is matched once, neither
piece is false.

``iou:T``: pairs of an IoU of at least T are matched one to one, so that the sum of their IoUs is
largest; whatever is left is missed or false. Of two lesions merged into one prediction one is
missed, of two pieces one is false.

Counted are TP matched and FN missed lesions of the reference and FP false lesions of the
prediction. Panoptic quality (Kirillov et al., CVPR 2019) has a rule of its own, IoU > 0.5, where a
lesion has one partner at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import generate_binary_structure, label
from scipy.optimize import linear_sum_assignment

CONNECTIVITIES = (6, 18, 26)
"""Neighbours that touch a voxel: by a face, an edge too, a corner too. In a slice 6 stands for 4,
the others for 8.
"""

FROC_RATES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
"""False positives per scan at which sensitivity is reported, as in LUNA16 (Setio et al., 2017)."""

_PANOPTIC_IOU = 0.5


@dataclass(frozen=True)
class LesionMatch:
    """The lesions of a reference (R) and of a prediction (P), and who found whom.

    Attributes:
        reference_matched_R: True for a reference lesion that was found; for a predicted one that is
            not false.
        prediction_matched_P: as ``reference_matched_R``.
        reference_iou_R: IoU with the one it is matched with, else the largest with any.
        prediction_iou_P: as ``reference_iou_R``.
        found_by: for each reference lesion the predicted ones, from 0, that count as finding it.
        panoptic_quality: sum of the IoUs above 0.5 / (their number + half the number of all other
            lesions); None where there is no lesion at all.
    """

    reference_matched_R: NDArray[np.bool_]
    prediction_matched_P: NDArray[np.bool_]
    reference_iou_R: NDArray[np.float64]
    prediction_iou_P: NDArray[np.float64]
    found_by: tuple[tuple[int, ...], ...]
    panoptic_quality: float | None

    @property
    def matched(self) -> int:
        """Reference lesions that were found (TP)."""
        return int(self.reference_matched_R.sum())

    @property
    def missed(self) -> int:
        """Reference lesions that were not (FN)."""
        return len(self.reference_matched_R) - self.matched

    @property
    def false(self) -> int:
        """Predicted lesions that are none (FP)."""
        return int((~self.prediction_matched_P).sum())

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + FP + FN); None where nothing is to be found and nothing was."""
        return detection_f1(self.matched, self.missed, self.false)


def detection_f1(matched: int, missed: int, false: int) -> float | None:
    """Return 2 TP / (2 TP + FP + FN), None for 0/0."""
    total = 2 * matched + missed + false
    return 2 * matched / total if total else None


def read_rule(text: str) -> float | None:
    """Read "overlap" (None) or "iou:0.1" (0.1), the least IoU of a match; ValueError for anything
    else.
    """
    name, _, number = text.partition(":")
    try:
        if name == "iou" and 0 < float(number) <= 1:
            return float(number)
    except ValueError:
        pass
    if text == "overlap":
        return None
    raise ValueError(
        f"match: expected overlap, or iou:T with 0 < T ≤ 1 such as iou:0.1, received {text!r}"
    )


def number_lesions(
    mask: NDArray, connectivity: int = 26
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Number the connected components of a mask, the largest 1; of equal ones, that whose first
    voxel comes first.

    Args:
        mask: (I,J,K) or (H,W); not 0 is inside.
        connectivity: one of `CONNECTIVITIES`.

    Returns:
        (int32 numbers of the mask's shape, 0 outside; voxels of each lesion (N,)).
    """
    if connectivity not in CONNECTIVITIES:
        raise ValueError(
            f"connectivity: expected one of {', '.join(map(str, CONNECTIVITIES))}, received"
            f" {connectivity}"
        )
    reach = min(CONNECTIVITIES.index(connectivity) + 1, mask.ndim)
    found, count = label(mask != 0, structure=generate_binary_structure(mask.ndim, reach))
    voxels = np.bincount(found.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-voxels, kind="stable")
    numbers = np.zeros(count + 1, np.int32)
    numbers[order + 1] = np.arange(1, count + 1)
    return numbers[found], voxels[order]


def match_lesions(
    prediction: NDArray[np.int32],
    reference: NDArray[np.int32],
    prediction_voxels_P: NDArray[np.int64],
    reference_voxels_R: NDArray[np.int64],
    least_iou: float | None = None,
) -> LesionMatch:
    """Match numbered lesions.

    Args:
        prediction: numbers of one shape, and the voxels of each, as `number_lesions` gives them.
        reference: as ``prediction``.
        least_iou: None for the rule ``overlap``, T for ``iou:T``.
    """
    count_R, count_P = len(reference_voxels_R), len(prediction_voxels_P)
    shared = (prediction > 0) & (reference > 0)
    codes = (reference[shared].astype(np.int64) - 1) * count_P + prediction[shared] - 1
    pairs, voxels = np.unique(codes, return_counts=True)
    of_R, of_P = np.divmod(pairs, max(count_P, 1))
    ious = voxels / (reference_voxels_R[of_R] + prediction_voxels_P[of_P] - voxels)
    kept = np.ones(len(pairs), bool) if least_iou is None else _assign(of_R, of_P, ious, least_iou)

    reference_iou, prediction_iou = np.zeros(count_R), np.zeros(count_P)
    np.maximum.at(reference_iou, of_R, ious)
    np.maximum.at(prediction_iou, of_P, ious)
    if least_iou is not None:
        reference_iou[of_R[kept]] = prediction_iou[of_P[kept]] = ious[kept]
    reference_matched, prediction_matched = np.zeros(count_R, bool), np.zeros(count_P, bool)
    reference_matched[of_R[kept]] = prediction_matched[of_P[kept]] = True
    found_by: list[list[int]] = [[] for _ in range(count_R)]
    for found, by in zip(of_R[kept], of_P[kept], strict=True):
        found_by[found].append(int(by))
    good = ious[ious > _PANOPTIC_IOU]
    quality = float(good.sum() / ((count_R + count_P) / 2)) if count_R + count_P else None
    return LesionMatch(
        reference_matched,
        prediction_matched,
        reference_iou,
        prediction_iou,
        tuple(map(tuple, found_by)),
        quality,
    )


def find_sensitivities(
    found_scores: Sequence[float], missed: int, false_scores: Sequence[float], scans: int
) -> tuple[float, ...] | None:
    """Return lesion sensitivity at each of `FROC_RATES` false positives per scan (FROC; Bunch et
    al. 1977).

    Lesions of a lower score than some limit are dropped, and the limit runs over all scores: at
    each rate stands the best sensitivity whose false positives per scan do not exceed it, without
    interpolation. What no limit reaches, since the method proposed nothing more, stays at the last
    value.

    Args:
        found_scores: of each reference lesion that was found, the highest score of what found it.
        missed: number of those that nothing found.
        false_scores: of each false predicted lesion.
        scans: number of volumes that were searched, those without lesions included.

    Returns:
        Sensitivities in [0,1]; None where there is no lesion to be found.
    """
    lesions = len(found_scores) + missed
    if not lesions:
        return None
    found, false = (
        np.sort(np.asarray(found_scores, float)),
        np.sort(np.asarray(false_scores, float)),
    )
    limits = np.unique(np.concatenate([found, false]))
    kept_found = len(found) - np.searchsorted(found, limits)
    kept_false = (len(false) - np.searchsorted(false, limits)) / scans
    return tuple(
        float(kept_found[kept_false <= rate].max(initial=0)) / lesions for rate in FROC_RATES
    )


def _assign(of_R: NDArray, of_P: NDArray, ious: NDArray, least_iou: float) -> NDArray[np.bool_]:
    """Which pairs are matched one to one, so that the sum of their IoUs is largest."""
    kept = np.zeros(len(ious), bool)
    candidates = np.flatnonzero(ious >= least_iou)
    rows, row = np.unique(of_R[candidates], return_inverse=True)
    columns, column = np.unique(of_P[candidates], return_inverse=True)
    gains, pair = np.zeros((len(rows), len(columns))), np.full((len(rows), len(columns)), -1)
    gains[row, column], pair[row, column] = ious[candidates], candidates
    chosen = pair[linear_sum_assignment(gains, maximize=True)]
    kept[chosen[chosen >= 0]] = True
    return kept
