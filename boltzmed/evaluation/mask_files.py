"""Folders of masks: which cases and targets they hold, and one mask of them, read.

A folder holds either ``CASE.nii.gz`` files, label maps or masks of one thing, or
``CASE/TARGET.nii.gz`` masks, as `boltzmed predict` writes them with a ``run.json`` beside that says
what each was asked by.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from boltzmed.cards import DatasetCard
from boltzmed.data.nnunet_labels import find_predicted_dataset
from boltzmed.errors import InputError
from boltzmed.files import RUN_FILE
from boltzmed.slugs import slug_prompts
from boltzmed.volumes.nifti import NIFTI_SUFFIXES, case_name, read_nifti


@dataclass(frozen=True)
class MaskFile:
    """Where one target's mask of a case lies.

    Attributes:
        names: what it may be called: the target, the prompt, the file's name; none where nothing
            names it.
        values: the label values that it consists of; None: whatever is not 0, if that is one value.
        known: all label values that the file may hold, where a card or nnU-Net's ``dataset.json``
            says so.
        prompt: what was asked, where ``run.json`` says so.
        presence: from ``run.json``: probability that the target is there, of each slice.
        components: from ``run.json``: (volume in mm³, highest probability) of each, the largest
            first.
    """

    path: Path
    names: tuple[str, ...] = ()
    values: tuple[int, ...] | None = None
    known: frozenset[int] | None = None
    prompt: str | None = None
    presence: tuple[float, ...] | None = None
    components: tuple[tuple[float, float], ...] | None = None

    @property
    def slugs(self) -> frozenset[str]:
        """The names as file names write them, by which two masks are known to be of one thing."""
        return frozenset(slug_prompts([name])[0] for name in self.names if name.strip())


@dataclass(frozen=True)
class CaseMasks:
    """The masks of a case, the seed and plane of the run that made them, or the line why they
    cannot be used.
    """

    masks: tuple[MaskFile, ...]
    seed: int = 0
    plane: str = "axial"
    problem: str | None = None

    def without(self, target: str) -> CaseMasks:
        """The same without one of the label maps' targets."""
        return replace(
            self, masks=tuple(m for m in self.masks if m.values is None or m.names != (target,))
        )


def parse_labels(text: str) -> dict[str, tuple[int, ...]]:
    """Read "1=anterior,2=posterior,1+2=hippocampus": name → label values; ValueError where it says
    something else.
    """
    labels: dict[str, tuple[int, ...]] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+(?:\+\d+)*)\s*=\s*(\S.*?)\s*", part)
        if match is None or match[2] in labels or "0" in (values := match[1].split("+")):
            raise ValueError(
                f"labels: expected such as 1=anterior,2=posterior,1+2=whole, received {part!r} in"
                f" {text!r}"
            )
        labels[match[2]] = tuple(int(value) for value in values)
    return labels


def list_cases(
    folder: str | Path,
    labels: Mapping[str, tuple[int, ...]] | None = None,
    card: DatasetCard | None = None,
) -> dict[str, CaseMasks]:
    """List a folder's cases in order.

    Args:
        folder: see above; hidden files are passed over.
        labels: target → values of the label maps; without any, a file directly inside is one
            thing's mask.
        card: says the same instead; the values are those of nnU-Net's ``dataset.json`` where one
            lies in the folder or up to two above, see `boltzmed.data.nnunet_labels`.

    Raises:
        ValueError: no such folder, no masks in it, files and folders of masks side by side, targets
            whose names file names cannot tell apart, or a ``dataset.json`` that does not fit the
            card.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of masks, found none; check the path")
    files = _list_masks(folder)
    nested = {
        path.name: found
        for path in sorted(folder.iterdir())
        if path.is_dir() and (found := _list_masks(path))
    }
    if bool(files) == bool(nested):
        raise InputError(
            f"{folder}: expected masks, all as CASE.nii.gz or all as CASE/TARGET.nii.gz, found "
            f"{'both' if files else 'neither'}; pass such a folder"
        )
    if nested:
        return {case: _open_case(case, folder / case, found) for case, found in nested.items()}
    values_of, known = labels or {}, None
    if card:
        numbered = find_predicted_dataset(folder, card)
        values_of = {name: tuple(sorted(values)) for name, values in numbered.targets.items()}
        known = numbered.values
    _check_names(values_of)
    cases: dict[str, CaseMasks] = {}
    for path in files:
        case = case_name(path)
        masks = [MaskFile(path, (name,), values, known) for name, values in values_of.items()] or [
            MaskFile(path)
        ]
        cases[case] = CaseMasks(
            tuple(masks), problem=_twice_line(case, case) if case in cases else None
        )
    return cases


class LabelMap(NamedTuple):
    """A mask's file, read: label values (I,J,K), their affine to RAS mm, and which values there
    are.
    """

    labels_IJK: NDArray[Any]
    affine_ras: NDArray[np.float64]
    values: frozenset[int]


def read_labels(path: Path) -> LabelMap:
    """Read a label map.

    Raises:
        InputError: no NIfTI file, a damaged one, or values that are no whole numbers from 0.
    """
    volume = read_nifti(path)
    voxels = np.asarray(volume[0])
    lowest, highest = float(voxels.min()), float(voxels.max())
    labels = voxels.astype(
        np.uint8 if lowest >= 0 and highest <= np.iinfo(np.uint8).max else np.int32
    )
    odd = voxels[labels != voxels]
    if lowest < 0 or len(odd):
        raise InputError(
            f"{path.name}: expected label values that are whole numbers from 0, received "
            f"{lowest if lowest < 0 else odd[0]:g}; write masks, not images or probabilities"
        )
    values = {int(value) for k in range(labels.shape[-1]) for value in np.unique(labels[..., k])}
    return LabelMap(labels, np.asarray(volume.affine, dtype=np.float64), frozenset(values))


def find_target(mask: MaskFile, read: LabelMap) -> NDArray[np.bool_]:
    """Tell which voxels (I,J,K) of a mask's file, as `read_labels` gave it, are the target's.

    Raises:
        InputError: values that nobody named, or several where one was expected.
    """
    if mask.values is None:
        if len(several := read.values - {0}) > 1:
            raise InputError(
                f"{mask.path.name}: expected a mask of one label value, received"
                f" {list_values(several)}; name them by --labels 1=NAME,2=NAME or --card"
            )
        return read.labels_IJK != 0
    if mask.known is not None and (odd := read.values - {*mask.known, 0}):
        raise InputError(
            f"{mask.path.name}: expected the labels {list_values(mask.known)} that the card or"
            f" dataset.json has, received {list_values(odd)}; pass the card of this data set"
        )
    if len(mask.values) == 1:
        return read.labels_IJK == mask.values[0]
    return np.isin(read.labels_IJK, mask.values)


def list_values(values: Collection[int]) -> str:
    """Label values in words, the first nine."""
    return ", ".join(map(str, sorted(values)[:9])) + (" …" if len(values) > 9 else "")


def _check_names(names: Collection[str]) -> None:
    owner: dict[str, str] = {}
    for name in names:
        if (other := owner.setdefault(slug_prompts([name])[0], name)) != name:
            raise ValueError(
                "labels: expected names that differ by more than case and punctuation, received"
                f" {other!r} and {name!r}; rename one"
            )


def _list_masks(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(NIFTI_SUFFIXES)
        and not path.name.startswith(".")
        and path.is_file()
    )


def _twice_line(case: str, name: str) -> str:
    return f"case {case}: expected one file {name}, found .nii and .nii.gz; keep one"


def _open_case(case: str, folder: Path, files: list[Path]) -> CaseMasks:
    names = [case_name(path) for path in files]
    if twice := [name for name in names if names.count(name) > 1]:
        return CaseMasks(
            tuple(MaskFile(path, (case_name(path),)) for path in files),
            problem=_twice_line(case, twice[0]),
        )
    if not (folder / RUN_FILE).exists():
        return CaseMasks(tuple(MaskFile(path, (case_name(path),)) for path in files))
    try:
        record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        entries = {entry["file"]: entry for entry in record["prompts"]}
        masks = [_open_mask(path, entries.get(path.name, {})) for path in files]
        return CaseMasks(tuple(masks), int(record["seed"]), str(record["settings"]["plane"]))
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        problem = (
            f"case {case}: expected {RUN_FILE} as boltzmed predict writes it, found another"
            f" ({reason}); run it again"
        )
        return CaseMasks((), problem=problem)


def _open_mask(path: Path, entry: Mapping[str, Any]) -> MaskFile:
    names = (entry.get("target"), entry.get("prompt"), case_name(path))
    presence, components = entry.get("presence"), entry.get("components")
    return MaskFile(
        path,
        tuple(str(name) for name in names if name),
        prompt=entry.get("prompt"),
        presence=None if presence is None else tuple(float(value) for value in presence),
        components=(
            None
            if components is None
            else tuple(
                (float(each["volume_mm3"]), float(each["max_probability"])) for each in components
            )
        ),
    )
