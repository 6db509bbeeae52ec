"""Labelled volumes for evaluation: a case with a prompt for every target of its card."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from boltzmed.cards import DatasetCard, load_card, look_up_prompt
from boltzmed.transforms.tokenize import tokenize_prompts
from boltzmed.volumes import VolumeError, read_volume

PHRASINGS = ("first", "held_out")


class LabelledStudyDataset(Dataset):
    """Volumes with their label maps, each asked for every target of a card.

    An item is ``{"image" MetaTensor (1,I,J,K), "labels" uint8 (I,J,K), "input_ids" (P,T), "prompts" P PromptTargets,
    "case", "patient", "read_seconds"}``.

    Args:
        cases: Records with ``image``, ``label``, ``case`` and perhaps ``patient`` (see ``read_datalist``).
        card: The card, or its name, that maps labels to targets.
        phrasings: ``"first"`` asks each target by the card's first phrasing, ``"held_out"`` by its first phrasing that
            training never saw.
        targets: Names of the targets to ask for; all of the card's by default.

    Raises:
        ValueError: An unknown phrasing or target.
    """

    def __init__(
        self,
        cases: Sequence[Mapping[str, Any]],
        card: DatasetCard | str,
        *,
        phrasings: str = "first",
        targets: Sequence[str] | None = None,
    ) -> None:
        if phrasings not in PHRASINGS:
            raise ValueError(f"phrasings: expected one of {', '.join(PHRASINGS)}, received {phrasings!r}")
        self.cases = list(cases)
        self.card = load_card(card) if isinstance(card, str) else card
        self.targets = [self.card.target(name) for name in targets or self.card.targets]
        texts = [t.prompts[0] if phrasings == "first" else t.held_out_prompts[0] for t in self.targets]
        self.prompts = [look_up_prompt(text, [self.card], modality=self.card.modality) for text in texts]
        self.input_ids = tokenize_prompts(texts)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = time.perf_counter()
        case = self.cases[index]
        image = read_volume(case["image"], modality=self.card.modality)
        label = read_volume(case["label"])
        if label.shape != image.shape or not np.allclose(np.asarray(label.affine), np.asarray(image.affine), atol=1e-3):
            raise VolumeError(
                f"case {case['case']}: expected image and label on one grid, received {tuple(image.shape[1:])} and "
                f"{tuple(label.shape[1:])} voxels or different affines; resample the label to the image"
            )
        return {
            "image": image,
            "labels": np.asarray(label[0]).astype(np.uint8),
            "input_ids": self.input_ids,
            "prompts": self.prompts,
            "case": case["case"],
            "patient": case.get("patient", case["case"]),
            "read_seconds": time.perf_counter() - start,
        }
