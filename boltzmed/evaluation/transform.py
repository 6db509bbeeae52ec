"""MONAI transform that scores the masks of a labelled study."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from boltzmed.evaluation.scores import Scoring, score_study
from boltzmed.transforms.packed_masks import PackedMasks


class ScoreMasksd(MapTransform):
    """Score masks against a study's reference: ``rows`` and ``lesions`` for tables of results.

    Args:
        keys: of the ``PackedMasks``.
        method: name of what made the masks.
        seed: of the draws.
        plane: how slices are cut.
        **scoring: ``distances``, ``tolerance_mm``, ``connectivity``, ``match`` and
            ``miss_penalty_mm``, see ``Scoring``.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        *,
        method: str,
        seed: int,
        plane: str = "axial",
        **scoring: Any,
    ) -> None:
        super().__init__(keys)
        self.method = method
        self.seed = seed
        self.plane = plane
        self.scoring = Scoring(**scoring)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with the study's rows."""
        item = dict(data)
        for key in self.key_iterator(item):
            masks: PackedMasks = item[key]
            item["rows"], item["lesions"] = score_study(
                item["study"],
                item["prompts"],
                masks,
                method=self.method,
                seed=self.seed,
                plane=self.plane,
                scoring=self.scoring,
            )
        return item
