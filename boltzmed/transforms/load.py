"""MONAI transform that reads a study."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from boltzmed.studies import Study, empty_grid
from boltzmed.volumes import read_volume


class LoadStudyd(MapTransform):
    """Read studies: a path under a key becomes a MetaTensor (1,I,J,K; float32; RAS; mm).

    What stays true of the study whatever is done to its voxels stands under ``study_key``
    (``Study``).

    Args:
        keys: of the path; one.
        series_uid: which DICOM series, where a folder holds several.
        modality: ``"CT"`` or ``"MR"`` for files that do not say.
        study_key: where the ``Study`` goes.
        allow_missing_keys: the path may be absent.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        *,
        series_uid: str | None = None,
        modality: str | None = None,
        study_key: str = "study",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.series_uid = series_uid
        self.modality = modality
        self.study_key = study_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with the volume in place of its path.

        Raises:
            InputError: no regular volume is there, see ``read_volume``.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            start = time.perf_counter()
            image = read_volume(item[key], series_uid=self.series_uid, modality=self.modality)
            item[self.study_key] = Study(
                case=str(image.meta["case"]),
                file=Path(str(image.meta["filename_or_obj"])).name,
                grid=empty_grid(image),
                read_seconds=time.perf_counter() - start,
            )
            item[key] = image
        return item
