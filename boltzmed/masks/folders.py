"""Folders of masks: which cases and targets they hold.

A folder holds either ``CASE.nii.gz`` files, label maps or masks of one thing, or
``CASE/TARGET.nii.gz`` masks, as `boltzmed predict` writes them with a ``run.json`` beside that says
what each was asked by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boltzmed.errors import InputError
from boltzmed.files import RUN_FILE
from boltzmed.masks.label_names import LabelNames, slug_name
from boltzmed.masks.label_values import HIGHEST_LABEL, LabelMap, check_values, list_values
from boltzmed.volumes.nifti import NIFTI_SUFFIXES, case_name

WHITE = HIGHEST_LABEL
"""What pictures and many tools write for 1 in a mask of one thing."""


@dataclass(frozen=True)
class MaskFile:
    """Where one target's mask of a case lies.

    Attributes:
        path: of the file.
        names: what it may be called: the target, the prompt, the file's name; none where nothing
            names it.
        values: the label values that it consists of; None: whatever is not 0, if that is one value.
        known: all label values that the file may hold, where a card or nnU-Net's ``dataset.json``
            says so.
        source: what says so.
        prompt: what was asked, where ``run.json`` says so.
        presence: from ``run.json``: probability that the target is there, of each slice.
        components: from ``run.json``: (volume in mm³, highest probability) of each, the largest
            first.
    """

    path: Path
    names: tuple[str, ...] = ()
    values: frozenset[int] | None = None
    known: frozenset[int] | None = None
    source: str = ""
    prompt: str | None = None
    presence: tuple[float, ...] | None = None
    components: tuple[tuple[float, float], ...] | None = None

    @property
    def slugs(self) -> frozenset[str]:
        """The names as file names write them, by which two masks are known to be of one thing."""
        return frozenset(slug_name(name) for name in self.names if name.strip())

    def as_target(self, target: str, names: LabelNames) -> MaskFile:
        """Return a file that nothing names as the label map of which a target is a part.

        A target that has no values stays as it is: the file has to be a mask of one thing.
        """
        values = names.find(target)
        if values is None:
            return self
        return replace(self, names=(target,), values=values, known=names.known, source=names.source)


@dataclass(frozen=True)
class CaseMasks:
    """The masks of a case.

    Attributes:
        masks: one a target.
        seed: of the run that made them.
        plane: how that run cut slices.
        problem: the line why they cannot be used.
    """

    masks: tuple[MaskFile, ...]
    seed: int = 0
    plane: str = "axial"
    problem: str | None = None

    def as_targets(self, names: LabelNames) -> CaseMasks:
        """Return the same with each file that nothing names as the targets of a label map."""
        if not names.targets:
            return self
        masks: list[MaskFile] = []
        for mask in self.masks:
            if mask.names:
                masks.append(mask)
            else:
                masks += [mask.as_target(target, names) for target in names.targets]
        return replace(self, masks=tuple(masks))

    def without(self, target: str) -> CaseMasks:
        """Return the same without one of the label maps' targets."""
        kept = []
        for mask in self.masks:
            if mask.values is None or mask.names != (target,):
                kept.append(mask)
        return replace(self, masks=tuple(kept))


def list_cases(folder: str | Path) -> dict[str, CaseMasks]:
    """List a folder's cases in order.

    A file directly inside has no name: it is a mask of one thing, or a label map, see
    `CaseMasks.as_targets`.

    Args:
        folder: see above; hidden files are passed over.

    Raises:
        ValueError: no such folder, no masks in it, or files and folders of masks side by side.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of masks, found none; check the path")
    files = list_mask_files(folder)
    nested: dict[str, list[Path]] = {}
    for inner in sorted(folder.iterdir()):
        inner_files = list_mask_files(inner) if inner.is_dir() else []
        if inner_files:
            nested[inner.name] = inner_files
    if bool(files) == bool(nested):
        raise InputError(
            f"{folder}: expected masks, all as CASE.nii.gz or all as CASE/TARGET.nii.gz, found "
            f"{'both' if files else 'neither'}; pass such a folder"
        )
    if nested:
        return {case: _open_case(folder / case, inner) for case, inner in nested.items()}
    cases: dict[str, CaseMasks] = {}
    for path in files:
        case = case_name(path)
        problem = _twice_line(case, case) if case in cases else None
        cases[case] = CaseMasks((MaskFile(path),), problem=problem)
    return cases


def find_mask(folder: Path, case: str, target: str, prompt: str = "") -> MaskFile | None:
    """Find one target's mask of one case, whatever else the folder holds.

    It is looked for as ``CASE/NAME.nii.gz``, ``CASE_NAME.nii.gz``, then ``CASE.nii.gz``, where NAME
    is the prompt or the target. The last has no name: it may be a label map.

    Args:
        folder: of masks.
        case: its name, a plain file name.
        target: name of what is looked for.
        prompt: what it was asked by, "" where that is not known.

    Raises:
        InputError: ``run.json`` beside the masks is damaged, or there are two files of one name.
    """
    slugs = [slug_name(name) for name in (prompt, target) if name.strip()]
    inner = folder / case
    inner_files = list_mask_files(inner) if inner.is_dir() else []
    if inner_files:
        masks = _open_case(inner, inner_files)
        if masks.problem is not None:
            raise InputError(masks.problem)
        for slug in slugs:
            for mask in masks.masks:
                if slug in mask.slugs:
                    return mask
    for slug in slugs:
        path = _find_file(folder, case, f"{case}_{slug}")
        if path is not None:
            return MaskFile(path, (slug,))
    path = _find_file(folder, case, case)
    return None if path is None else MaskFile(path)


def find_target(mask: MaskFile, read: LabelMap) -> NDArray[np.bool_]:
    """Tell which voxels (I,J,K) of a mask's file are the target's.

    Args:
        mask: the file, and which values it is.
        read: what `read_labels` gave of it.

    Raises:
        InputError: values that nobody named, or several where one was expected.
    """
    present = read.values - {0}
    inside: NDArray[np.bool_]
    if mask.values is None:
        if len(present) > 1:
            raise InputError(
                f"{mask.path.name}: expected a mask of one label value, received"
                f" {list_values(present)}; name them by --labels 1=NAME,2=NAME or --card"
            )
        inside = read.labels_IJK != 0
        return inside
    if mask.known is not None:
        # Of a data set with one label, a map is a mask of one thing.
        if len(mask.known - {0}) == 1 and present == {WHITE}:
            inside = read.labels_IJK != 0
            return inside
        check_values(mask.path.name, read.values, mask.known, mask.source)
    if len(mask.values) == 1:
        (value,) = mask.values
        inside = read.labels_IJK == value
    else:
        inside = np.isin(read.labels_IJK, list(mask.values))
    return inside


def list_mask_files(folder: Path) -> list[Path]:
    """Return the files in a folder that may be masks, in order; hidden ones are passed over."""
    files = []
    for path in folder.iterdir():
        is_image = path.name.lower().endswith(NIFTI_SUFFIXES)
        if is_image and not path.name.startswith(".") and path.is_file():
            files.append(path)
    return sorted(files)


def _find_file(folder: Path, case: str, name: str) -> Path | None:
    paths = [folder / f"{name}{suffix}" for suffix in NIFTI_SUFFIXES]
    there = [path for path in paths if path.is_file()]
    if len(there) > 1:
        raise InputError(_twice_line(case, name))
    return there[0] if there else None


def _twice_line(case: str, name: str) -> str:
    return f"case {case}: expected one file {name}, found .nii and .nii.gz; keep one"


def _open_case(folder: Path, files: Sequence[Path]) -> CaseMasks:
    """Return the masks of a case that has a folder, named by ``run.json`` where there is one."""
    case = folder.name
    unrecorded = tuple(MaskFile(path, (case_name(path),)) for path in files)
    names = [case_name(path) for path in files]
    for name in names:
        if names.count(name) > 1:
            return CaseMasks(unrecorded, problem=_twice_line(case, name))
    if not (folder / RUN_FILE).exists():
        return CaseMasks(unrecorded)
    try:
        record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        entries = {entry["file"]: entry for entry in record["prompts"]}
        masks = [_open_mask(path, entries.get(path.name, {})) for path in files]
        return CaseMasks(tuple(masks), int(record["seed"]), str(record["settings"]["plane"]))
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        problem = (
            f"case {case}: expected {RUN_FILE} as boltzmed predict writes it, received another"
            f" ({reason}); run it again"
        )
        return CaseMasks((), problem=problem)


def _open_mask(path: Path, entry: Mapping[str, Any]) -> MaskFile:
    """Return a mask with what ``run.json`` says of it."""
    names = (entry.get("target"), entry.get("prompt"), case_name(path))
    presence = entry.get("presence")
    if presence is not None:
        presence = tuple(map(float, presence))
    components = entry.get("components")
    if components is not None:
        sizes = [float(component["volume_mm3"]) for component in components]
        scores = [float(component["max_probability"]) for component in components]
        components = tuple(zip(sizes, scores, strict=True))
    return MaskFile(
        path,
        tuple(str(name) for name in names if name),
        prompt=entry.get("prompt"),
        presence=presence,
        components=components,
    )
