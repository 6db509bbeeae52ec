"""How sure a method was of each lesion that it predicted: from ``run.json``, or from a table."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boltzmed.errors import one_line
from boltzmed.geometry import voxel_volume_mm3
from boltzmed.masks.label_values import list_values
from boltzmed.metrics.lesions import number_lesions
from boltzmed.results import read_text
from boltzmed.transforms.slices import SlicePlan

_COLUMNS = ("case", "target", "lesion", "score")
_ROUNDING_MM3 = 1e-3
"""What a volume may differ by: run.json's have three decimals."""


class LesionScores:
    """Scores of predicted lesions, and which of them were of use.

    Args:
        scores: (case, target) → number of a predicted lesion, from 1 by size → its score.
    """

    def __init__(self, scores: Mapping[tuple[str, str], Mapping[int, float]]) -> None:
        self.scores = scores
        self._lesions: dict[tuple[str, str], int] = {}

    def spread(self, case: str, target: str, numbers: NDArray[np.int32]) -> NDArray[np.float32]:
        """Give each voxel of a prediction's numbered lesions its lesion's score.

        Args:
            case: what the prediction is of.
            target: what the prediction is of.
            numbers: (I,J,K), see `spread_scores`.
        """
        key = (case, target)
        count = int(numbers.max(initial=0))
        self._lesions[key] = max(self._lesions.get(key, 0), count)
        return spread_scores(numbers, self.scores.get(key, {}))

    def list_unmatched(self) -> list[str]:
        """Return a line for scores of no lesion, and one for lesions of no score.

        Each case and target of the table or of what was spread has its own.
        """
        lines = []
        for case, target in dict.fromkeys((*self.scores, *self._lesions)):
            scored = set(self.scores.get((case, target), {}))
            predicted = set(range(1, self._lesions.get((case, target), 0) + 1))
            place = f"case {case}: {target}, lesions"
            if scored - predicted:
                lines.append(
                    f"{place} {list_values(scored - predicted)} of the table of scores: expected"
                    " predicted lesions of these numbers, found none; their scores are left out"
                )
            if predicted - scored:
                lines.append(
                    f"{place} {list_values(predicted - scored)} of the table of scores: expected"
                    " their scores, found none; FROC drops them first"
                )
        return lines


def read_lesion_scores(path: str | Path) -> LesionScores:
    """Read a table of scores of predicted lesions.

    Args:
        path: CSV with the columns ``case``, ``target``, ``lesion`` (as ``lesions.csv`` numbers
            them) and ``score``.

    Raises:
        ValueError: no such table, a column that lacks, a cell that is no number, a lesion that is
            no whole number from 1, or one of two scores.
    """
    try:
        text = io.StringIO(read_text(Path(path)))
        table = pd.read_csv(text, dtype={"case": str, "target": str})[list(_COLUMNS)]
        table = table.astype({"lesion": float, "score": float})
        _check_lesions(table)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{Path(path).name}: expected the columns {', '.join(_COLUMNS)}, received"
            f" {one_line(error)}; correct the table"
        ) from error
    scores: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    columns = [table[name].tolist() for name in ("case", "target", "lesion", "score")]
    for case, target, lesion, score in zip(*columns, strict=True):
        scores[case, target][int(lesion)] = score
    return LesionScores(dict(scores))


def _check_lesions(table: pd.DataFrame) -> None:
    """Raise ValueError for a row of which no use can be made."""
    numbers = table["lesion"]
    if not np.isfinite(table["score"]).all():
        raise ValueError("a score that is no finite number")
    odd = numbers[~((numbers >= 1) & (numbers % 1 == 0))]
    if odd.size:
        raise ValueError(f"lesion {odd.iloc[0]:g}, which is no whole number from 1")
    again = table[table.duplicated(["case", "target", "lesion"])]
    if again.size:
        first = again.iloc[0]
        raise ValueError(
            f"two scores of lesion {first.lesion:g} of {first.target} in case {first.case}"
        )


def spread_scores(numbers: NDArray[np.int32], scores: Mapping[int, float]) -> NDArray[np.float32]:
    """Give each voxel of numbered lesions its lesion's score.

    Args:
        numbers: of lesions from 1, 0 outside; any shape.
        scores: number → score.

    Returns:
        -inf outside, and where a lesion has none.
    """
    by_number = np.full(int(numbers.max(initial=0)) + 1, -np.inf, np.float32)
    for number, score in scores.items():
        if 0 < number < len(by_number):
            by_number[number] = score
    spread: NDArray[np.float32] = by_number[numbers]
    return spread


def recorded_scores(
    prediction: NDArray[Any],
    affine_ras: NDArray[np.float64],
    components: Sequence[tuple[float, float]],
    plane: str,
) -> NDArray[np.float32]:
    """Give each voxel of a mask of `boltzmed predict` the highest probability in its component.

    ``run.json`` lists components (26 neighbours) by size, equal ones in the order of the slices.

    Args:
        prediction: (I,J,K) bool.
        affine_ras: (4,4) of the mask to RAS mm.
        components: (volume in mm³, highest probability) of each.
        plane: how that run cut slices.

    Raises:
        ValueError: the mask does not have the components of the record.
    """
    plan = SlicePlan.from_affine(affine_ras, prediction.shape, plane)
    numbers, voxels = number_lesions(plan.cut(prediction), 26)
    volumes = voxels * voxel_volume_mm3(affine_ras)
    recorded = [volume for volume, _ in components]
    same = len(recorded) == len(volumes)
    if not same or not np.allclose(recorded, volumes, rtol=1e-6, atol=_ROUNDING_MM3):
        raise ValueError(
            f"expected the {len(recorded)} components that run.json records, found {len(volumes)},"
            " or of other sizes; use the masks of that run as they were written"
        )
    scores = {number: score for number, (_, score) in enumerate(components, start=1)}
    return np.ascontiguousarray(plan.stack(spread_scores(numbers, scores)))
