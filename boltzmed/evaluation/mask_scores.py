"""How sure a method was of each lesion that it predicted: from ``run.json``, or from a table."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boltzmed.evaluation.mask_files import list_values
from boltzmed.geometry import voxel_volume_mm3
from boltzmed.metrics.lesions import number_lesions
from boltzmed.results import read_text
from boltzmed.transforms.slices import SlicePlan

_COLUMNS = ("case", "target", "lesion", "score")
_ROUNDING_MM3 = 1e-3  # run.json's volumes have three decimals


class LesionScores:
    """Scores of predicted lesions, and which of them were of use.

    Args:
        scores: (case, target) → number of a predicted lesion, from 1 by size → its score.
    """

    def __init__(self, scores: Mapping[tuple[str, str], Mapping[int, float]]) -> None:
        self.scores = scores
        self._lesions: dict[tuple[str, str], int] = {}

    def spread(self, case: str, target: str, numbers: NDArray[np.int32]) -> NDArray[np.float32]:
        """Give each voxel of a prediction's numbered lesions its lesion's score, see
        `spread_scores`.
        """
        key = (case, target)
        self._lesions[key] = max(self._lesions.get(key, 0), int(numbers.max(initial=0)))
        return spread_scores(numbers, self.scores.get(key, {}))

    def list_unmatched(self) -> list[str]:
        """A line for each case and target with scores of no lesion, or lesions of no score, of what
        was spread.
        """
        lines = []
        for case, target in dict.fromkeys((*self.scores, *self._lesions)):
            given = set(self.scores.get((case, target), {}))
            there = set(range(1, self._lesions.get((case, target), 0) + 1))
            for numbers, words in (
                (
                    given - there,
                    (
                        "expected predicted lesions of these numbers, found none; their scores are"
                        " left out"
                    ),
                ),
                (there - given, "expected their scores, found none; FROC drops them first"),
            ):
                if numbers:
                    lines.append(
                        f"case {case}: {target}, lesions {list_values(numbers)} of the table of"
                        f" scores: {words}"
                    )
        return lines


def read_lesion_scores(path: str | Path) -> LesionScores:
    """Read a CSV with the columns ``case``, ``target``, ``lesion`` (as ``lesions.csv`` numbers
    them) and ``score``.

    Raises:
        ValueError: no such table, a column that lacks, a cell that is no number, a lesion that is
            no whole number from 1, or one of two scores.
    """
    try:
        table = pd.read_csv(io.StringIO(read_text(Path(path))), dtype={"case": str, "target": str})[
            list(_COLUMNS)
        ]
        numbers, values = table.lesion.astype(float), table.score.astype(float)
        if not np.isfinite(values).all():
            raise ValueError("a score that is no finite number")
        if (odd := numbers[~((numbers >= 1) & (numbers % 1 == 0))]).size:
            raise ValueError(f"lesion {odd.iloc[0]:g}, which is no whole number from 1")
        if (
            again := table[table.assign(lesion=numbers).duplicated(["case", "target", "lesion"])]
        ).size:
            first = again.iloc[0]
            raise ValueError(
                f"two scores of lesion {first.lesion} of {first.target} in case {first.case}"
            )
    except (ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{Path(path).name}: expected the columns {', '.join(_COLUMNS)}; got {reason}"
        ) from error
    scores: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for case, target, number, value in zip(table.case, table.target, numbers, values, strict=True):
        scores[case, target][int(number)] = float(value)
    return LesionScores(dict(scores))


def spread_scores(numbers: NDArray[np.int32], scores: Mapping[int, float]) -> NDArray[np.float32]:
    """Give each voxel of numbered lesions its lesion's score; -inf outside, and where a lesion has
    none.
    """
    by_number = np.full(int(numbers.max(initial=0)) + 1, -np.inf, np.float32)
    for number, score in scores.items():
        if 0 < number < len(by_number):
            by_number[number] = score
    return by_number[numbers]


def recorded_scores(
    prediction: NDArray, affine_ras: NDArray, components: Sequence[tuple[float, float]], plane: str
) -> NDArray[np.float32]:
    """Give each voxel (I,J,K) of a mask that `boltzmed predict` wrote the highest probability in
    its component.

    ``run.json`` lists components (26 neighbours) by size, equal ones in the order of the slices.

    Args:
        components: (volume in mm³, highest probability) of each.
        plane: how that run cut slices.

    Raises:
        ValueError: the mask does not have the components of the record.
    """
    plan = SlicePlan.from_affine(affine_ras, prediction.shape, plane)
    numbers, voxels = number_lesions(plan.cut(prediction), 26)
    volumes, recorded = voxels * voxel_volume_mm3(affine_ras), [volume for volume, _ in components]
    if len(recorded) != len(volumes) or not np.allclose(
        recorded, volumes, rtol=1e-6, atol=_ROUNDING_MM3
    ):
        raise ValueError(
            f"expected the {len(recorded)} components that run.json records, found {len(volumes)},"
            " or of other sizes; use the masks of that run as they were written"
        )
    scores = {number: score for number, (_, score) in enumerate(components, start=1)}
    return np.ascontiguousarray(plan.stack(spread_scores(numbers, scores)))
