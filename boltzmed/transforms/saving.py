"""MONAI transforms that write a study's outputs: masks, DICOM SEG, last of all ``run.json``.

A study's folder appears whole: the transforms write into a temporary folder beside it, and
``SaveRund`` moves it to its name. What an earlier run's ``run.json`` lists in the same folder
is replaced, so that masks of two runs never stand side by side; other files stay.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform
from numpy.typing import NDArray

import boltzmed
from boltzmed.cards import PromptTarget
from boltzmed.errors import InputError, OutputError
from boltzmed.files import RUN_FILE, check_writable, whole_file, whole_folder
from boltzmed.geometry import orientation_codes, spacing_mm
from boltzmed.slugs import slug_prompts
from boltzmed.studies import Study
from boltzmed.transforms.packed_masks import PackedMasks
from boltzmed.volumes import CodedTerm, Segment, write_mask, write_segmentation

SEGMENTATION_FILE = "segmentation.dcm"


class StudyFolders:
    """The folders of studies' masks, ``OUTPUT/<case>``, one written at a time.

    Args:
        output_dir: OUTPUT.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = Path(str(output_dir))
        self._case: str | None = None
        self._open: AbstractContextManager[Path] | None = None
        self._folder = self.output_dir

    def check(self, studies: Mapping[str, Path]) -> None:
        """Fail before the work, not after it, where nothing can or should be written.

        Args:
            studies: case → where the study lies.

        Raises:
            OutputError: OUTPUT cannot be written, or a case's folder is a file or the study itself.
        """
        check_writable(self.output_dir)
        for case, study in studies.items():
            folder = self.output_dir / case
            if folder.exists() and not folder.is_dir():
                raise OutputError(
                    f"{folder}: expected a folder for the masks of {study.name}, found a file of"
                    " that name; move it, or choose another output folder"
                )
            if study.is_dir() and folder.resolve() == study.resolve():
                raise OutputError(
                    f"{self.output_dir}: expected an output folder apart from the study, whose"
                    f" masks would be written among its images in {study}; choose another output"
                    " folder"
                )

    @contextmanager
    def writing(self, case: str) -> Iterator[Path]:
        """Yield the temporary folder of a case; whatever the block raises, it is gone then."""
        if self._case != case:
            self.discard()
            target = self.output_dir / case
            opened = whole_folder(target, replaced=_list_written(target), last=RUN_FILE)
            self._folder = opened.__enter__()
            self._open = opened
            self._case = case
        try:
            yield self._folder
        except BaseException as error:
            # It removes the folder, and may raise an error that says what could not be written.
            self._take().__exit__(type(error), error, error.__traceback__)
            raise

    def finish(self, case: str) -> None:
        """Move what was written for a case to its name."""
        if self._case == case:
            self._take().__exit__(None, None, None)

    def discard(self) -> None:
        """Remove what was written of a case that was not finished."""
        if self._case is not None:
            error = _UnfinishedError()
            self._take().__exit__(type(error), error, None)

    def _take(self) -> AbstractContextManager[Path]:
        assert self._open is not None
        opened = self._open
        self._case = None
        self._open = None
        return opened


class _UnfinishedError(ValueError):
    """Ends a folder that nobody finished; it reaches no caller."""


class SaveMasksd(MapTransform):
    """Write ``<prompt-slug>.nii.gz`` for every prompt, uint8, on exactly the study's grid.

    Args:
        keys: of the ``PackedMasks``.
        folders: where they go.
        prompts_key: of the prompts' meanings.
        study_key: of the study.
        output_key: where the files' names go, one for each prompt.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        *,
        folders: StudyFolders,
        prompts_key: str = "prompts",
        study_key: str = "study",
        output_key: str = "mask_files",
    ) -> None:
        super().__init__(keys)
        self.folders = folders
        self.prompts_key = prompts_key
        self.study_key = study_key
        self.output_key = output_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with the names of the files.

        Raises:
            OutputError: the folder cannot be written, or the disk is full.
        """
        item = dict(data)
        study: Study = item[self.study_key]
        slugs = slug_prompts([prompt.prompt for prompt in item[self.prompts_key]])
        files = [f"{slug}.nii.gz" for slug in slugs]
        for key in self.key_iterator(item):
            with self.folders.writing(study.case) as folder:
                for prompt, file in enumerate(files):
                    write_mask(item[key].volume(prompt), study.grid, folder / file)
        item[self.output_key] = files
        return item


class SaveSegmentationd(MapTransform):
    """Write ``segmentation.dcm``, all masks as one DICOM SEG, for studies that came as DICOM.

    Args:
        keys: of the ``PackedMasks``.
        folders: where it goes.
        enabled: False writes none.
        prompts_key: of the prompts' meanings.
        study_key: of the study.
        output_key: where a mapping goes: ``file``, or None with the ``reason``.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        *,
        folders: StudyFolders,
        enabled: bool = True,
        prompts_key: str = "prompts",
        study_key: str = "study",
        output_key: str = "segmentation",
    ) -> None:
        super().__init__(keys)
        if not isinstance(enabled, bool):
            raise ValueError(f"segmentation: expected True or False, received {enabled!r}")
        self.folders = folders
        self.enabled = enabled
        self.prompts_key = prompts_key
        self.study_key = study_key
        self.output_key = output_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with what became of the DICOM SEG.

        Raises:
            OutputError: the folder cannot be written, or the disk is full.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            item[self.output_key] = self._write(
                item[self.study_key], item[self.prompts_key], item[key]
            )
        return item

    def _write(
        self, study: Study, prompts: Sequence[PromptTarget], masks: PackedMasks
    ) -> dict[str, str | None]:
        if not self.enabled:
            return {"file": None, "reason": "not asked for"}
        if study.grid.meta["source_format"] == "nifti":
            return {"file": None, "reason": "the input is not DICOM"}
        segments = [_make_segment(prompt, masks, index) for index, prompt in enumerate(prompts)]
        with self.folders.writing(study.case) as folder:
            try:
                write_segmentation(
                    segments,
                    study.grid,
                    folder / SEGMENTATION_FILE,
                    software_version=boltzmed.__version__,
                )
            except OutputError:
                raise
            except InputError as error:
                # The masks are good; only the DICOM form is refused (empty UIDs, say).
                return {"file": None, "reason": str(error)}
        return {"file": SEGMENTATION_FILE, "reason": None}


def _make_segment(prompt: PromptTarget, masks: PackedMasks, index: int) -> Segment:
    codes = {
        "category": prompt.category,
        "property_type": prompt.code,
        "modifier": prompt.modifier,
        "region": prompt.region,
    }
    terms = {}
    for field, code in codes.items():
        if code is not None:
            terms[field] = CodedTerm(code.value, code.meaning, code.scheme)
    return Segment(prompt.prompt, lambda: masks.volume(index), **terms)


class SaveRund(MapTransform):
    """Write ``run.json``, what was asked and found by what, and move the folder to its name.

    Args:
        keys: of the ``PackedMasks``.
        folders: where it goes.
        bundle: the bundle's folder; its version and the SHA-256 of its configs are recorded.
        checkpoint: its SHA-256 is recorded.
        seed: of the draws, recorded.
        settings: further plain values to record (size, image size, plane, channels, thresholds …).
        preprocessing: the names of its transforms are recorded.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        *,
        folders: StudyFolders,
        bundle: str | Path,
        checkpoint: str | Path,
        seed: int,
        settings: Mapping[str, Any],
        preprocessing: Compose | None = None,
    ) -> None:
        super().__init__(keys)
        self.folders = folders
        self.bundle = Path(bundle)
        self.checkpoint = Path(checkpoint)
        self.seed = seed
        self.settings = dict(settings)
        self.preprocessing = preprocessing

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary; the study's folder is there.

        Raises:
            OutputError: the folder cannot be written, or the disk is full.
        """
        item = dict(data)
        study: Study = item["study"]
        for key in self.key_iterator(item):
            with self.folders.writing(study.case) as folder:
                record = self._describe(item, item[key])
                text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
                with whole_file(folder / RUN_FILE) as path:
                    path.write_text(text, encoding="utf-8")
        self.folders.finish(study.case)
        return item

    def _describe(self, item: Mapping[Hashable, Any], masks: PackedMasks) -> dict[str, Any]:
        study: Study = item["study"]
        prompts = []
        for index, prompt in enumerate(item["prompts"]):
            prompts.append(_describe_prompt(item, prompt, masks, index))
        return {
            "case": study.case,
            "input": study.file,
            "modality": item["image"].meta["modality"],
            "geometry": _describe_geometry(study.grid),
            "prompts": prompts,
            "segmentation": item["segmentation"],
            "seed": self.seed,
            "settings": self.settings,
            "preprocessing": self._list_preprocessing(),
            **self._provenance,
            "versions": {
                "boltzmed": boltzmed.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "monai": monai.__version__,
            },
            "device": item["device"],
            "seconds": {
                "read": round(study.read_seconds, 2),
                "infer": round(item["infer_seconds"], 2),
                "write": round(time.perf_counter() - item["inferred_at"], 2),
            },
        }

    def _list_preprocessing(self) -> list[str]:
        if self.preprocessing is None:
            return []
        return [type(transform).__name__ for transform in self.preprocessing.transforms]

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        """Bundle and checkpoint, hashed once for all studies: a checkpoint may hold gigabytes."""
        return {
            "bundle": _describe_bundle(self.bundle),
            "checkpoint": {"file": self.checkpoint.name, "sha256": _sha256(self.checkpoint)},
        }


def _describe_geometry(grid: MetaTensor) -> dict[str, Any]:
    affine_ras = np.asarray(grid.affine)
    return {
        "shape": list(grid.shape[1:]),
        "affine_ras": affine_ras.tolist(),
        "spacing_mm": [float(step) for step in spacing_mm(affine_ras)],
        "orientation": "".join(orientation_codes(affine_ras)),
    }


def _describe_prompt(
    item: Mapping[Hashable, Any], prompt: PromptTarget, masks: PackedMasks, index: int
) -> dict[str, Any]:
    description = {
        "prompt": prompt.prompt,
        "target": prompt.target,
        "card": prompt.card,
        "file": item["mask_files"][index],
        "window": {"name": prompt.window_name, "range": masks.windows[index]},
        "input_size": asdict(masks.input_sizes[index]),
        "presence": _round(masks.presence_PK, index),
    }
    if masks.smoothed_PK is not None:
        description["presence_smoothed"] = _round(masks.smoothed_PK, index)
    measures: dict[str, Any] = item["measures"][index]
    return description | measures


def _round(curves_PK: NDArray[np.float32] | None, index: int) -> list[float] | None:
    if curves_PK is None:
        return None
    return [round(float(value), 4) for value in curves_PK[index]]


def _list_written(folder: Path) -> list[str]:
    """Names of the files that an earlier run wrote into a case's folder, by its ``run.json``."""
    try:
        record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        names = [entry["file"] for entry in record["prompts"]] + [record["segmentation"]["file"]]
    except (OSError, ValueError, TypeError, LookupError):
        return []
    return [name for name in names if isinstance(name, str) and Path(name).name == name]


def _describe_bundle(folder: Path) -> dict[str, str]:
    """Version of a bundle, and one hash of all its configs: they hold every hyper-parameter."""
    configs = sorted(
        path for path in (folder / "configs").iterdir() if path.suffix in (".json", ".yaml")
    )
    digests = "".join(f"{path.name} {_sha256(path)}\n" for path in configs)
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return {
        "version": metadata["version"],
        "configs_sha256": hashlib.sha256(digests.encode()).hexdigest(),
    }


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
