"""Data sets of whole studies, read one at a time: to segment by prompts, or with a reference."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from monai.config import KeysCollection
from monai.data import Dataset
from monai.transforms import Compose, MapTransform

from boltzmed.cards import DatasetCard, PromptTarget, load_card, look_up_prompt
from boltzmed.data.cache import SliceCache
from boltzmed.data.case_file import CaseFile
from boltzmed.data.layouts.case import LabelledVolume, SourceCase
from boltzmed.data.layouts.label_maps import read_label_map
from boltzmed.data.slice_sources import read_datalist
from boltzmed.errors import InputError, unwrapped_input_errors
from boltzmed.masks.label_names import labelled_targets
from boltzmed.slugs import slug_prompts
from boltzmed.studies import LabelledStudy, empty_grid
from boltzmed.transforms.restore import check_restorable
from boltzmed.transforms.tokenize import TokenizePromptsd, tokenize_prompts
from boltzmed.volumes.nifti import case_name

_LONGEST_NAME = 200
"""Bytes; file systems allow 255, and temporary names add some."""

PROMPT_VARIANTS = ("first", "held_out")

Item = dict[str, Any]
Preprocessing = Callable[[Mapping[str, Any]], Item]


class _TransformedStudies(Dataset):
    """Items that preprocessing has read; wrong input is raised as it was, not as MONAI wraps it."""

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        """Return what preprocessing makes of an item.

        Raises:
            ValueError: the study cannot be used, or preprocessing moved it off its grid for good.
        """
        with unwrapped_input_errors():
            item: Item = self.transform(self.data[index])
        study = item["study"]
        check_restorable(item["image"], study.grid, study.case)
        return item


class StudyDataset(_TransformedStudies):
    """Studies to segment, read one at a time, each by the same prompts.

    Preprocessing gets ``{"image": path, "prompts": texts}`` and makes of it ``image``, a MetaTensor
    (1,I,J,K), ``study`` (``Study``), ``prompts``, P ``PromptTarget``s, and ``input_ids``
    (P,T).

    Args:
        studies: a path or several: ``.nii``, ``.nii.gz``, a folder or zip with a DICOM series.
        prompts: what to find, at least one; two may not be equal.
        transform: the preprocessing.
        truncate: prompts of more than 77 tokens are cut instead of refused.

    Raises:
        ValueError: no study or prompt, an unusable prompt, or two studies whose outputs would have
            the same name.
    """

    def __init__(
        self,
        studies: str | Path | Sequence[str | Path] | None,
        prompts: str | Sequence[str],
        *,
        transform: Preprocessing,
        truncate: bool = False,
    ) -> None:
        self.studies = _list_studies(studies)
        texts = _as_list(prompts)
        _check_prompts(texts, truncate)
        data = [{"image": study, "prompts": texts} for study in self.studies]
        super().__init__(data, transform)


def _list_studies(studies: Any) -> list[Path]:
    expected = "expected a .nii, .nii.gz, or a folder or zip with a DICOM series"
    paths = []
    for study in _as_list(studies):
        if not str(study):
            raise InputError(f"{expected}, received an empty path")
        paths.append(Path(str(study)))
    if not paths:
        raise ValueError("expected a study to segment, received none; pass --image PATH")
    names: dict[str, Path] = {}
    for path in paths:
        if not _exists(path):
            raise InputError(f"{path}: {expected}, found nothing there; check the path")
        name = case_name(path)
        other = names.setdefault(name, path)
        if other is not path:
            raise InputError(
                f"{other} and {path}: expected studies of different names, both would be written"
                f" to {name}; rename one or run them apart"
            )
        if len(os.fsencode(name)) > _LONGEST_NAME:
            raise InputError(
                f"{path}: expected a name of {_LONGEST_NAME} bytes at most, for a folder of masks"
                " has that name; rename the study"
            )
    return paths


def find_studies(dataset_dir: str | Path, studies: Any) -> list[Any]:
    """Return paths of studies, one or several, relative ones from a folder.

    Args:
        dataset_dir: the folder.
        studies: a path, a list of such, or None for none.
    """
    return [Path(dataset_dir) / study if str(study) else study for study in _as_list(studies)]


def _check_prompts(prompts: Sequence[str], truncate: bool) -> None:
    if not prompts:
        raise ValueError(
            "expected at least one prompt, received none; pass --prompts \"['liver in abdomen"
            " CT']\""
        )
    for prompt in prompts:
        if any("\ud800" <= character <= "\udfff" for character in str(prompt)):
            raise ValueError(
                f"prompt {prompt!r}: expected text, received bytes that are none; write it in UTF-8"
            )
    # Before anything is read: what cannot be encoded, or would share a file's name.
    tokenize_prompts(prompts, truncate=truncate)
    slug_prompts(prompts)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, a folder that may not be searched
        return False


@dataclass(frozen=True)
class LabelledCase:
    """A case with a reference, and what it is asked for; nothing of it has been read.

    Attributes:
        case: name within the data set.
        card: whose labels its reference holds.
        prompts: what it is asked for.
        requested_slices: for each prompt the slices that are scored, None for all.
        patient: whose it is, "" where nothing says.
        files: image and label map; None for a case of a cache.
        cached: the file of a slice cache; None for files.
    """

    case: str
    card: DatasetCard
    prompts: tuple[PromptTarget, ...]
    requested_slices: tuple[frozenset[int] | None, ...]
    patient: str
    files: tuple[Path, Path] | None = None
    cached: Path | None = None

    def read(self) -> LabelledVolume:
        """Read the image and its reference.

        Raises:
            InputError: a file cannot be read, or they do not belong together.
        """
        if self.cached is not None:
            return CaseFile(self.cached).volume()
        assert self.files is not None
        image, label = self.files
        return read_label_map(SourceCase(self.case, (image,), (label,)), self.card)


class LoadLabelledStudyd(MapTransform):
    """MONAI transform: a ``LabelledCase`` becomes a volume with its reference and prompts.

    Args:
        keys: of the case; the volume, a MetaTensor (1,I,J,K), takes its place.
        study_key: where the ``LabelledStudy`` goes.
        prompts_key: where the ``PromptTarget``s go.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        *,
        study_key: str = "study",
        prompts_key: str = "prompts",
    ) -> None:
        super().__init__(keys)
        self.study_key = study_key
        self.prompts_key = prompts_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with the volume, its study and its prompts.

        Raises:
            InputError: see ``LabelledCase.read``.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            start = time.perf_counter()
            case: LabelledCase = item[key]
            volume = case.read()
            item[key] = volume.image
            item[self.prompts_key] = _list_prompts(case, volume)
            item[self.study_key] = LabelledStudy(
                case=case.case,
                patient=case.patient,
                labels=volume.labels,
                label_values=volume.values,
                grid=empty_grid(volume.image),
                requested_slices=case.requested_slices,
                read_seconds=time.perf_counter() - start,
            )
        return item


def _list_prompts(case: LabelledCase, volume: LabelledVolume) -> list[PromptTarget]:
    if volume.window is None:
        return list(case.prompts)
    # Pictures went through a window.
    return [replace(prompt, window_name="picture", window=volume.window) for prompt in case.prompts]


def list_labelled_cases(
    records: Iterable[Mapping[str, Any]],
    card: DatasetCard,
    *,
    prompt_variants: str = "first",
    targets: str | Sequence[str] | None = None,
    published: pd.DataFrame | None = None,
) -> list[LabelledCase]:
    """Return cases, each asked for targets of its card.

    Args:
        records: each with ``case``, perhaps ``patient`` (else what the card finds in the case's
            name), and ``image`` and ``label`` (see ``read_datalist``) or ``cached``, a file of a
            slice cache.
        card: maps labels to targets.
        prompt_variants: ``"first"`` asks each target by the card's first prompt, ``"held_out"`` by
            its first prompt that training never saw.
        targets: names of the targets to ask for, or one; all of the card's by default.
        published: the used rows of an index by the published protocol: its slices alone are scored,
            once more in each target's extra windows.

    Raises:
        ValueError: an unknown variant or target, or one without labels or without such a prompt.
    """
    prompts = _look_up_targets(card, prompt_variants, targets, extra_windows=published is not None)
    cases = []
    for record in records:
        name = record["case"]
        if published is None:
            requested: list[frozenset[int] | None] = [None] * len(prompts)
        else:
            requested = [_list_slices(published, card, name, prompt) for prompt in prompts]
        files = None if "cached" in record else (Path(record["image"]), Path(record["label"]))
        cases.append(
            LabelledCase(
                case=name,
                card=card,
                prompts=tuple(prompts),
                requested_slices=tuple(requested),
                patient=record.get("patient") or card.cases.find_patient(name) or "",
                files=files,
                cached=Path(record["cached"]) if "cached" in record else None,
            )
        )
    return cases


def _look_up_targets(
    card: DatasetCard,
    prompt_variants: str,
    names: str | Sequence[str] | None,
    *,
    extra_windows: bool,
) -> list[PromptTarget]:
    if prompt_variants not in PROMPT_VARIANTS:
        raise ValueError(
            f"prompt_variants: expected one of {', '.join(PROMPT_VARIANTS)}, received"
            f" {prompt_variants!r}"
        )
    targets = labelled_targets(card, None if names is None else _as_list(names))
    prompts = []
    for target in targets:
        if prompt_variants == "held_out" and not target.held_out_prompts:
            raise ValueError(
                f"card {card.name}: expected held_out_prompts of {target.name!r}, found none; add"
                " them to the card, or ask by --prompt_variants first"
            )
        texts = target.prompts if prompt_variants == "first" else target.held_out_prompts
        prompts.append(look_up_prompt(texts[0], [card], modality=card.modality))
    if extra_windows:
        for target, prompt in zip(targets, tuple(prompts), strict=True):
            for name in target.extra_windows:
                prompts.append(replace(prompt, window_name=name, window=card.windows[name]))
    return prompts


def _list_slices(
    published: pd.DataFrame, card: DatasetCard, case: str, prompt: PromptTarget
) -> frozenset[int] | None:
    if prompt.target is None:
        return None
    target = card.target(prompt.target)
    rows = published[(published["case"] == case) & (published["target"] == prompt.target)]
    own = prompt.window_name == target.window_name
    window = target.window_key if own else prompt.window_name
    return frozenset(rows["slice_index"][rows["window"] == window].tolist())


def list_cached_cases(
    cache: SliceCache,
    names: Iterable[str],
    *,
    prompt_variants: str = "first",
    targets: str | Sequence[str] | None = None,
) -> list[LabelledCase]:
    """Return cases of a prepared cache, by name, with what its protocol asks for.

    It is the same for whoever scores. See ``list_labelled_cases``.
    """
    records = [
        {"case": name, "patient": cache.cases[name]["patient"], "cached": cache.path(name)}
        for name in names
    ]
    published = cache.index[cache.index["used"] == 1] if cache.protocol == "biomedparse" else None
    return list_labelled_cases(
        records, cache.card, prompt_variants=prompt_variants, targets=targets, published=published
    )


class LabelledStudyDataset(_TransformedStudies):
    """Cases with a reference, read one at a time.

    Preprocessing gets ``{"image": LabelledCase}`` and makes of it ``image``, a MetaTensor
    (1,I,J,K), ``study`` (``LabelledStudy``), ``prompts``, P ``PromptTarget``s, and
    ``input_ids`` (P,T).

    Args:
        cases: what to read.
        transform: the preprocessing; reading and tokenizing alone by default.
    """

    def __init__(
        self, cases: Sequence[LabelledCase], transform: Preprocessing | None = None
    ) -> None:
        self.cases = list(cases)
        if transform is None:
            transform = Compose([LoadLabelledStudyd(), TokenizePromptsd()], log_stats=False)
        super().__init__([{"image": case} for case in self.cases], transform)


class ReadableStudies(Dataset):
    """Studies of which one that cannot be read does not end the work.

    Its item is ``{"problem": the reason}``.

    Args:
        studies: the data set.
    """

    def __init__(self, studies: Sequence[Item]) -> None:
        super().__init__(studies)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        """Return a study's item, or the reason why there is none."""
        try:
            item: Item = self.data[index]
        except ValueError as error:
            return {"problem": " ".join(str(error).split())}
        return item


def open_labelled_cases(
    *,
    dataset_dir: str | Path = ".",
    datalist: str | Path | None = None,
    caches: str | Path | Sequence[str | Path] | None = None,
    part: str = "test",
    card: DatasetCard | str | Path,
    plane: str = "axial",
    prompt_variants: str = "first",
    targets: str | Sequence[str] | None = None,
) -> list[LabelledCase]:
    """List what an evaluation is given: a datalist, or one or several prepared caches.

    Args:
        dataset_dir: where relative paths of the datalist or caches begin.
        datalist: see ``read_datalist``; all its cases are taken, by ``card``.
        caches: folders that ``boltzmed prepare`` made; their cases of ``part`` are taken, each by
            its cache's card.
        part: of the split: ``train``, ``validation`` or ``test``.
        card: of the datalist.
        plane: how slices are cut; caches must be cut so.
        prompt_variants: see ``list_labelled_cases``.
        targets: see ``list_labelled_cases``.

    Raises:
        ValueError: neither or both are given, a cache is unfinished, damaged or cut otherwise, or
            has no case in this part.
    """
    if not caches:
        facts = card if isinstance(card, DatasetCard) else load_card(card)
        records = read_datalist(None if datalist is None else Path(dataset_dir) / datalist)
        return list_labelled_cases(records, facts, prompt_variants=prompt_variants, targets=targets)
    if datalist is not None:
        raise ValueError("expected --datalist or --caches, received both")
    cases = []
    for folder in _as_list(caches):
        cache = SliceCache.open(Path(dataset_dir) / folder)
        if cache.plane != plane:
            raise ValueError(
                f"{folder}: expected slices of plane {plane}, found {cache.plane}; pass --plane"
                f" {cache.plane} or prepare another cache"
            )
        names = cache.list_part(part)
        cases += list_cached_cases(cache, names, prompt_variants=prompt_variants, targets=targets)
    return cases


def open_labelled_studies(**settings: Any) -> LabelledStudyDataset:
    """Return the data set of what ``open_labelled_cases`` lists by the same settings."""
    return LabelledStudyDataset(open_labelled_cases(**settings))
