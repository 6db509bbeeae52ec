"""What a run leaves behind: masks, DICOM SEG and ``run.json`` of each study, or ``results.csv`` of
an evaluation.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from numpy.typing import NDArray

import boltzmed
from boltzmed.cards import PromptTarget
from boltzmed.engines.inferer import PackedMasks
from boltzmed.errors import InputError, OutputError
from boltzmed.evaluation import Scoring, score_study
from boltzmed.evaluation.mask_files import RUN_FILE
from boltzmed.files import check_writable, whole_file, whole_folder
from boltzmed.geometry import orientation_codes, spacing_mm, voxel_volume_mm3
from boltzmed.results import (
    CaseResult,
    LesionResult,
    write_exclusions,
    write_lesions,
    write_results,
)
from boltzmed.slugs import slug_prompts
from boltzmed.volumes import CodedTerm, Segment, write_mask, write_segmentation
from boltzmed.volumes.nifti import case_name

SEGMENTATION_FILE = "segmentation.dcm"


class StudyWriter:
    """Write each study's masks, its DICOM SEG and ``run.json`` when the evaluator has segmented it.

    ``OUTPUT/<case>/<prompt-slug>.nii.gz`` for every prompt; ``segmentation.dcm`` for studies that
    came as DICOM, or the reason why there is none in ``run.json``. What an earlier run's
    ``run.json`` lists in the same folder is replaced, so that masks of two runs never stand side by
    side; other files stay.

    Args:
        output_dir: OUTPUT.
        bundle: The bundle's folder; its version and the SHA-256 of its configs are recorded.
        checkpoint: Its SHA-256 is recorded.
        seed: Of the draws, recorded.
        settings: Further plain values to record (size, image_size, plane, channels, thresholds …).
        segmentation: Whether to write a DICOM SEG where the study allows it.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        bundle: str | Path,
        checkpoint: str | Path,
        seed: int,
        settings: Mapping[str, Any],
        segmentation: bool = True,
    ) -> None:
        if not isinstance(segmentation, bool):
            raise ValueError(f"segmentation: expected True or False, received {segmentation!r}")
        self.output_dir, self.checkpoint, self.seed = Path(str(output_dir)), Path(checkpoint), seed
        self.bundle, self.settings, self.segmentation = Path(bundle), dict(settings), segmentation
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        """Attach to a ``SupervisedEvaluator``."""
        engine.add_event_handler(Events.STARTED, self._check_output)
        engine.add_event_handler(Events.ITERATION_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _check_output(self, engine: Engine) -> None:
        """Fail before the work, not after it, where nothing can or should be written."""
        check_writable(self.output_dir)
        dataset: Any = engine.state.dataloader.dataset  # type: ignore[union-attr]
        for study in getattr(dataset, "dataset", dataset).studies:  # perhaps one study of several
            folder = self.output_dir / case_name(study)
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

    def _start(self, engine: Engine) -> None:
        self._started = time.perf_counter()

    def __call__(self, engine: Engine) -> None:
        (study,) = engine.state.batch  # type: ignore[misc]
        masks: PackedMasks = engine.state.output["pred"]  # type: ignore[index,call-overload]
        inferred = time.perf_counter()
        image: MetaTensor = study["image"]
        case = str(image.meta["case"])
        with whole_folder(
            self.output_dir / case, replaced=_list_written(self.output_dir / case), last=RUN_FILE
        ) as folder:
            self._write(folder, study, masks, case, inferred, engine)

    def _write(
        self,
        folder: Path,
        study: Mapping[str, Any],
        masks: PackedMasks,
        case: str,
        inferred: float,
        engine: Engine,
    ) -> None:
        image: MetaTensor = study["image"]
        slugs = slug_prompts([prompt.prompt for prompt in study["prompts"]])
        found = []
        for index, (prompt, slug) in enumerate(zip(study["prompts"], slugs, strict=True)):
            write_mask(masks.volume(index), image, folder / f"{slug}.nii.gz")
            found.append(self._describe(prompt, f"{slug}.nii.gz", masks, index, image))
        segmentation = self._write_segmentation(folder, study, masks)
        record = {
            "case": case,
            "input": Path(str(image.meta["filename_or_obj"])).name,
            "modality": image.meta["modality"],
            "geometry": {
                "shape": list(image.shape[1:]),
                "affine_ras": np.asarray(image.affine).tolist(),
                "spacing_mm": [float(s) for s in spacing_mm(np.asarray(image.affine))],
                "orientation": "".join(orientation_codes(np.asarray(image.affine))),
            },
            "prompts": found,
            "segmentation": segmentation,
            "seed": self.seed,
            "settings": self.settings,
            **self._provenance,
            "versions": {
                "boltzmed": boltzmed.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "monai": monai.__version__,
            },
            "device": str(next(engine.network.parameters()).device),  # type: ignore[attr-defined]
            "seconds": {
                "read": round(study["read_seconds"], 2),
                "infer": round(inferred - self._started, 2),
                "write": round(time.perf_counter() - inferred, 2),
            },
        }
        with whole_file(folder / RUN_FILE) as path:
            path.write_text(
                json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        """Bundle and checkpoint, hashed once for all studies of a run: a checkpoint may hold
        gigabytes.
        """
        return {
            "bundle": _describe_bundle(self.bundle),
            "checkpoint": {"file": self.checkpoint.name, "sha256": _sha256(self.checkpoint)},
        }

    def _write_segmentation(
        self, folder: Path, study: Mapping[str, Any], masks: PackedMasks
    ) -> dict[str, str | None]:
        image = study["image"]
        if not self.segmentation:
            return {"file": None, "reason": "not asked for"}
        if image.meta["source_format"] == "nifti":
            return {"file": None, "reason": "the input is not DICOM"}
        segments = [_segment(prompt, masks, index) for index, prompt in enumerate(study["prompts"])]
        try:
            write_segmentation(
                segments, image, folder / SEGMENTATION_FILE, software_version=boltzmed.__version__
            )
        except OutputError:
            raise
        except InputError as error:
            # The masks are good; only the DICOM form is refused (empty UIDs, say).
            return {"file": None, "reason": str(error)}
        return {"file": SEGMENTATION_FILE, "reason": None}

    def _describe(
        self, prompt: PromptTarget, file: str, masks: PackedMasks, index: int, image: MetaTensor
    ) -> dict[str, Any]:
        from scipy.ndimage import generate_binary_structure, label

        slices = masks.slices(index)
        components, count = label(slices, structure=generate_binary_structure(3, 3))
        voxels, sums, largest = np.zeros(count, np.int64), np.zeros(count), np.zeros(count)
        # Slice by slice: a large study's voxels with their probabilities as numbers would take
        # gigabytes.
        for mask, numbered, probabilities in zip(
            slices, components, masks.probabilities(index), strict=True
        ):
            owner = numbered[mask > 0] - 1
            voxels += np.bincount(owner, minlength=count)
            sums += np.bincount(owner, weights=probabilities, minlength=count)
            np.maximum.at(largest, owner, probabilities)
        voxel_mm3 = voxel_volume_mm3(np.asarray(image.affine))
        order = np.argsort(-voxels, kind="stable")
        return {
            "prompt": prompt.prompt,
            "target": prompt.target,
            "card": prompt.card,
            "file": file,
            "window": {"name": prompt.window_name, "range": masks.windows[index]},
            "frame": asdict(masks.frames[index]),
            "presence": _round(masks.presence_PK, index),
            **(
                {}
                if masks.smoothed_PK is None
                else {"presence_smoothed": _round(masks.smoothed_PK, index)}
            ),
            "volume_mm3": round(float(voxels.sum() * voxel_mm3), 3),
            "components": [
                {
                    "volume_mm3": round(float(voxels[c] * voxel_mm3), 3),
                    "max_probability": round(float(largest[c]), 4),
                    "mean_probability": round(float(sums[c] / voxels[c]), 4),
                }
                for c in order
            ],
        }


class ResultsWriter:
    """Score every case that the evaluator has segmented; ``results.csv`` and ``lesions.csv`` stand
    at the end.

    Beside them ``left_out.csv`` lists the cases that could not be read (``excluded``). Of an
    evaluation that fails or is interrupted ``results.partial.csv`` and ``lesions.partial.csv`` keep
    what was scored.

    Args:
        path: The CSV file (see ``results.py``).
        method: Name of what made the masks.
        seed: Of the draws.
        plane: How slices are cut.
        distances, tolerance_mm, connectivity, match, miss_penalty_mm: See
            :class:`boltzmed.evaluation.Scoring`.
    """

    def __init__(
        self, path: str | Path, *, method: str, seed: int, plane: str = "axial", **scoring: Any
    ) -> None:
        self.path, self.scoring = Path(path), Scoring(**scoring)
        self.method, self.seed, self.plane = method, seed, plane
        self.rows: list[CaseResult] = []
        self.lesions: list[LesionResult] = []
        self.excluded: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Attach to a ``SupervisedEvaluator`` over a :class:`LabelledStudyDataset` or
        :class:`ReadableStudies`.
        """
        engine.add_event_handler(Events.STARTED, self._check_output)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._keep)

    def __call__(self, engine: Engine) -> None:
        (study,) = engine.state.batch  # type: ignore[misc]
        if "problem" in study:
            self.excluded.append(study["problem"])
            return
        masks: PackedMasks = engine.state.output["pred"]  # type: ignore[index,call-overload]
        presence_PK = masks.presence_PK
        rows, lesions = score_study(
            study,
            masks.volume,
            method=self.method,
            seed=self.seed,
            plane=self.plane,
            scoring=self.scoring,
            presence=lambda index: None if presence_PK is None else presence_PK[index].tolist(),
            score_IJK=lambda index: _list_probabilities(masks, index),
        )
        self.rows += rows
        self.lesions += lesions

    def _check_output(self, engine: Engine) -> None:
        """Fail before the work, not after it, where nothing can be written."""
        check_writable(self.path.parent)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def _finish(self, engine: Engine) -> None:
        lesions = self.path.with_name("lesions.csv")
        write_exclusions(self.path.with_name("left_out.csv"), {"excluded": self.excluded})
        if not self.rows:
            raise ValueError(
                "nothing could be scored;"
                f" {self.excluded[0] if self.excluded else 'there is no case'}"
            )
        write_results(self.path, self.rows)
        write_lesions(lesions, self.lesions)
        for path in (self.path, lesions):
            _name_partial(path).unlink(missing_ok=True)

    def _keep(self, engine: Engine, error: BaseException) -> None:
        """Write what is scored under names that say that it is not all; then the error, or Ctrl-C,
        goes on.
        """
        if self.rows:
            with suppress(ValueError):  # a full disk, say, which must not hide the error
                write_results(_name_partial(self.path), self.rows)
                write_lesions(_name_partial(self.path.with_name("lesions.csv")), self.lesions)
        raise error


def _name_partial(path: Path) -> Path:
    name, dot, ending = path.name.partition(".")
    return path.with_name(f"{name}.partial{dot}{ending}")


def _list_probabilities(masks: PackedMasks, index: int) -> np.ndarray:
    """Probabilities (I,J,K) of one mask's voxels, 0 outside."""
    slices = masks.slices(index)
    probabilities = np.zeros(slices.shape, np.float32)
    for inside, mask, stored in zip(probabilities, slices, masks.probabilities(index), strict=True):
        inside[mask > 0] = stored
    return masks.plan.stack(probabilities)


def _list_written(folder: Path) -> list[str]:
    """Names of the files that an earlier run wrote into a case's folder, by its ``run.json``."""
    try:
        record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        names = [entry["file"] for entry in record["prompts"]] + [record["segmentation"]["file"]]
    except (OSError, ValueError, TypeError, LookupError):
        return []
    return [name for name in names if isinstance(name, str) and Path(name).name == name]


def _round(curves_PK: NDArray[np.float32] | None, index: int) -> list[float] | None:
    return None if curves_PK is None else [round(float(value), 4) for value in curves_PK[index]]


def _segment(prompt: PromptTarget, masks: PackedMasks, index: int) -> Segment:
    codes = {}
    coded = {"category": prompt.category, "property_type": prompt.code}
    coded |= {"modifier": prompt.modifier, "region": prompt.region}
    for field, code in coded.items():
        if code is not None:
            codes[field] = CodedTerm(code.value, code.meaning, code.scheme)
    return Segment(prompt.prompt, lambda: masks.volume(index), **codes)


def _describe_bundle(folder: Path) -> dict[str, str]:
    """Version of a bundle, and one hash of all its configs: they hold every hyper-parameter."""
    configs = sorted(
        path for path in (folder / "configs").iterdir() if path.suffix in (".json", ".yaml")
    )
    digests = "".join(f"{path.name} {_sha256(path)}\n" for path in configs)
    version = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))[
        "version"
    ]
    return {"version": version, "configs_sha256": hashlib.sha256(digests.encode()).hexdigest()}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
