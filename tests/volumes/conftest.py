"""Small DICOM series to break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from boltzmed.volumes import write_ct_series


@pytest.fixture
def hu() -> np.ndarray:
    """(7, 6, 5) int16 HU, every voxel different."""
    return (np.arange(7 * 6 * 5).reshape(7, 6, 5) * 9 - 1000).astype(np.int16)


@pytest.fixture
def affine_ras() -> np.ndarray:
    """Axes L, P, S at 0.7 x 0.8 x 2.5 mm."""
    affine = np.diag([-0.7, -0.8, 2.5, 1.0])
    affine[:3, 3] = [80.25, 90.5, -100.75]
    return affine


@pytest.fixture
def series(tmp_path: Path, hu: np.ndarray, affine_ras: np.ndarray) -> Path:
    """A folder with a good series of five slices, slice_0001.dcm (lowest) to slice_0005.dcm."""
    return write_ct_series(hu, affine_ras, tmp_path / "study", seed=3)


@pytest.fixture
def edit() -> Callable[..., None]:
    """Change attributes of one DICOM file in place; None deletes."""

    def change(path: Path, **values: object) -> None:
        dataset = pydicom.dcmread(path)
        for keyword, value in values.items():
            if value is None:
                del dataset[keyword]
            else:
                setattr(dataset, keyword, value)
        dataset.save_as(path)

    return change
