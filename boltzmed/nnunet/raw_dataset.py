"""A slice cache as raw data sets of nnU-Net v2.

`DatasetNNN_NAME/{dataset.json, splits_final.json, imagesTr, labelsTr, imagesTs, labelsTs,
boltzmed.json}` holds the original intensities on the cache's grid, with its affine. Training and
validation cases are "Tr", test cases "Ts"; `labelsTs` is for `nnUNetv2_evaluate_folder`, no folder
of nnU-Net's own. Its planner copies `splits_final.json` to where training looks for it, so that
fold 0 is the cache's own split by patient.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from boltzmed.data.cache import SliceCache
from boltzmed.files import whole_file
from boltzmed.geometry import shear_degrees
from boltzmed.masks.dataset_json import DATASET_JSON, read_json
from boltzmed.nnunet.labels import RawPlan, plan_datasets
from boltzmed.volumes import write_image

RECORD, SPLITS = "boltzmed.json", "splits_final.json"
ENDING = ".nii.gz"
_FOLDERS = {"train": "Tr", "validation": "Tr", "test": "Ts"}
_WRITTEN, _KEPT = "written", "kept"
_MOST_SHEAR_DEGREES = 0.01
"""ITK, by which nnU-Net reads NIfTI, knows no axes but perpendicular ones."""


@dataclass(frozen=True)
class Export:
    """A raw data set that `export_dataset` wrote.

    Attributes:
        folder: `DatasetNNN_NAME`.
        written: cases whose files were made now, and those that an earlier run had made.
        kept: cases whose files were made now, and those that an earlier run had made.
        excluded: case -> why nnU-Net cannot have it.
    """

    folder: Path
    written: tuple[str, ...]
    kept: tuple[str, ...]
    excluded: dict[str, str]


def export_dataset(
    cache: str | Path,
    raw_dir: str | Path,
    dataset_id: int,
    *,
    name: str | None = None,
    targets: Sequence[str] | None = None,
    mode: str = "multiclass",
) -> list[Export]:
    """Writes a cache as raw data sets, or completes what an earlier run of the same began.

    Args:
        cache: What `boltzmed prepare` wrote.
        raw_dir: The folder that nnU-Net knows as `nnUNet_raw`.
        dataset_id: 1 to 999; of the first, where there are several.
        name: Of the data set; the card's by default.
        targets: Which ones; all of the card's by default.
        mode: "multiclass": one data set, whose classes are the label values that the targets are
            made of. "experts": one of a single class for each target, as the paper's nnU-Nets were
            trained.

    Raises:
        ValueError: The cache is unfinished, holds pictures, or lacks training or validation cases;
            an unusable id, name, mode or target; or there is another data set of this id.
        OutputError: The folder is read-only or full.
    """
    opened, raw_dir = SliceCache.open(cache), Path(raw_dir)
    for part in ("train", "validation"):
        opened.list_part(part)
    if any(entry["spacing_mm"] is None for entry in opened.cases.values()):
        raise ValueError(
            f"{cache}: expected volumes with a voxel size, found pictures; prepare the volumes"
            " themselves"
        )
    plans = plan_datasets(opened.card, dataset_id, name or opened.card.name, targets, mode)
    records = [_make_record(opened, plan) for plan in plans]
    for plan, record in zip(plans, records, strict=True):
        _check_place(raw_dir, plan, record)
    return [_export(opened, raw_dir, *pair) for pair in zip(plans, records, strict=True)]


def name_case(case: str) -> str:
    """The name of a case's files: its own; one with spaces or beyond ASCII becomes a number made of
    it.
    """
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", case)
    return case if plain else f"case_{sha256(case.encode()).hexdigest()[:12]}"


def _export(cache: SliceCache, raw_dir: Path, plan: RawPlan, record: dict[str, Any]) -> Export:
    folder = raw_dir / plan.folder
    made_by = {"cache": cache.folder.resolve().name, "version": version("boltzmed")}
    _write_json(folder / RECORD, record | made_by)
    for file in folder.glob(
        "*/.*"
    ):  # what a killed run left half-written; nnU-Net would take it for a case
        if re.match(r"\.[0-9a-f]{12}\.", file.name):
            file.unlink(missing_ok=True)
    numbers = np.zeros(256, np.uint8)
    for number, values in enumerate(plan.classes.values(), start=1):
        numbers[list(values)] = number
    outcomes = {}
    for case, entry in tqdm(cache.cases.items(), desc=plan.folder, unit="case", disable=None):
        suffix, name = _FOLDERS[entry["split"]], name_case(case)
        image = folder / f"images{suffix}" / f"{name}_0000{ENDING}"
        label = folder / f"labels{suffix}" / f"{name}{ENDING}"
        outcomes[case] = _export_case(cache, case, image, label, numbers)
    excluded = {
        case: outcome for case, outcome in outcomes.items() if outcome not in (_WRITTEN, _KEPT)
    }
    train, validation = (
        [name_case(case) for case in cache.list_part(part) if case not in excluded]
        for part in ("train", "validation")
    )
    _write_json(folder / SPLITS, [{"train": train, "val": validation}])
    _write_json(folder / RECORD, record | made_by | {"excluded": excluded})
    # Last, since nnU-Net takes no folder without it.
    _write_json(
        folder / DATASET_JSON,
        {
            # nnU-Net normalises "CT" by the training set's percentiles, and anything else by each
            # volume's z-score.
            "channel_names": {"0": cache.card.modality},
            "labels": (
                {"background": 0}
                | {name: number for number, name in enumerate(plan.classes, start=1)}
            ),
            "numTraining": len(train) + len(validation),
            "file_ending": ENDING,
            "name": plan.folder,
            "reference": cache.card.citation,
            "licence": cache.card.licence,
            "boltzmed": {"card": cache.card.name, "targets": plan.targets},
        },
    )
    written, kept = (
        tuple(c for c, outcome in outcomes.items() if outcome == state)
        for state in (_WRITTEN, _KEPT)
    )
    return Export(folder, written, kept, excluded)


def _export_case(
    cache: SliceCache, case: str, image: Path, label: Path, numbers: NDArray[np.uint8]
) -> str:
    """Writes a case's two files; says what it did, or why it did nothing."""
    if image.is_file() and label.is_file():
        return _KEPT
    volume = cache.case_file(case).volume()
    affine_ras = np.asarray(volume.image.affine, np.float64)
    if (shear := shear_degrees(affine_ras)) > _MOST_SHEAR_DEGREES:
        return (
            f"case {case}: expected perpendicular axes, found a shear of {shear:.2g} degrees;"
            " resample it first"
        )
    voxels = volume.image[0].numpy()
    with np.errstate(invalid="ignore"):
        whole = voxels.astype(np.int16)
    write_image(whole if np.array_equal(whole, voxels) else voxels, affine_ras, image)
    write_image(numbers[volume.labels], affine_ras, label)
    return _WRITTEN


def _make_record(cache: SliceCache, plan: RawPlan) -> dict[str, Any]:
    """What decides the files, and which case each is."""
    fields = ("patient", "split", "image_sha256", "label_sha256")
    return {
        "card": cache.card.name,
        "plane": cache.plane,
        "classes": {name: list(values) for name, values in plan.classes.items()},
        "targets": dict(plan.targets),
        "cases": {
            name_case(case): {"case": case} | {name: entry[name] for name in fields}
            for case, entry in cache.cases.items()
        },
    }


def _check_place(raw_dir: Path, plan: RawPlan, record: Mapping[str, Any]) -> None:
    """Refuse an id that is taken: nnU-Net would mix the files of the two."""
    for folder in sorted(raw_dir.glob(f"Dataset{plan.number:03d}_*")):
        same = folder.name == plan.folder and (folder / RECORD).is_file()
        if same:
            earlier = read_json(folder / RECORD)
            same = {key: earlier.get(key) for key in record} == record
        if not same:
            raise ValueError(
                f"{folder}: expected no data set of id {plan.number}, or one that the same export"
                " began, got another; delete it, or pass another --id"
            )


def _write_json(path: Path, content: Any) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
