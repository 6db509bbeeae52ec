"""Cards and small NIfTI pairs of every layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boltzmed.cards import DatasetCard, load_card
from boltzmed.volumes import write_image


def write_dataset_json(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write a data set's ``dataset.json`` without the fields that are None; return the folder."""
    folder.mkdir(exist_ok=True)
    fields = {key: value for key, value in content.items() if value is not None}
    (folder / "dataset.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture
def make_card() -> Callable[..., DatasetCard]:
    """A card with these targets, label values and layout; its label names are made up."""
    phantom = load_card("phantom")

    def make(
        layout: Mapping[str, Any],
        targets: Mapping[str, tuple[int, ...]] | None = None,
        *,
        modality: str = "CT",
        values: tuple[int, ...] = (0, 1, 2),
    ) -> DatasetCard:
        targets = {"organ": (1, 2), "lesion": (2,)} if targets is None else targets
        return replace(
            phantom,
            name="toy",
            modality=modality,
            labels={value: f"label {value}" for value in values},
            targets={
                name: replace(
                    phantom.target("liver"), name=name, labels=labels, prompts=(f"{name} in CT",)
                )
                for name, labels in targets.items()
            },
            layout=layout,
        )

    return make


@pytest.fixture
def affine_ras() -> np.ndarray:
    """Axes L, P, S at 0.7 x 0.8 x 2.5 mm."""
    affine = np.diag([-0.7, -0.8, 2.5, 1.0])
    affine[:3, 3] = [80.25, 90.5, -100.75]
    return affine


@pytest.fixture
def write_pair(affine_ras: np.ndarray) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Write an image of all different voxels and a label map of 0, 1 and 2; return both."""

    def write(
        image: Path | None, label: Path | None, *, start: int = -1000
    ) -> tuple[np.ndarray, np.ndarray]:
        hu = (np.arange(7 * 6 * 5).reshape(7, 6, 5) * 9 + start).astype(np.int16)
        labels = np.zeros((7, 6, 5), np.uint8)
        labels[1:4, 2:5, 1:3] = 1
        labels[2, 3, 2] = 2
        for path, voxels in ((image, hu), (label, labels)):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(voxels, affine_ras, path)
        return hu, labels

    return write
