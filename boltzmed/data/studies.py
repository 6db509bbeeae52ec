"""Whole studies, read one at a time: to segment by given prompts, or labelled and asked for every
target of a card.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch.utils.data import ConcatDataset, Dataset

from boltzmed.cards import DatasetCard, PromptTarget, load_card, look_up_prompt
from boltzmed.data.cache import SliceCache
from boltzmed.data.case_file import CaseFile
from boltzmed.data.labels import labelled_targets
from boltzmed.data.layouts.case import LabelledVolume, SourceCase
from boltzmed.data.layouts.label_maps import read_label_map
from boltzmed.data.slice_sources import read_datalist
from boltzmed.errors import InputError
from boltzmed.slugs import slug_prompts
from boltzmed.transforms.tokenize import tokenize_prompts
from boltzmed.volumes import read_volume
from boltzmed.volumes.nifti import case_name

_LONGEST_NAME = 200
"""Bytes; file systems allow 255, and temporary names add some."""

PHRASINGS = ("first", "held_out")


class StudyDataset(Dataset):
    """Studies to segment, read one at a time, each with the same prompts looked up for its
    modality.

    An item is ``{"image" MetaTensor (1,I,J,K), "input_ids" (P,T), "prompts" P PromptTargets,
    "read_seconds" float}``.

    Args:
        studies: A path or several: ``.nii``, ``.nii.gz``, a folder or zip with a DICOM series.
        prompts: What to find, at least one; two may not be equal.
        cards: Names or paths of the cards that know prompts, the first match wins.
        series_uid: Which DICOM series, where a folder holds several.
        modality: ``"CT"`` or ``"MR"`` for files that don't say (NIfTI).
        window: Overrides the cards' windows: a window's name or ``"LOW,HIGH"`` in HU.
        truncate: Cut prompts of more than 77 tokens instead of refusing them.

    Raises:
        ValueError: No study or prompt, an unusable prompt, or two studies whose outputs would have
            the same name.
    """

    def __init__(
        self,
        studies: str | Path | Sequence[str | Path] | None,
        prompts: str | Sequence[str],
        *,
        cards: str | Sequence[str],
        series_uid: str | None = None,
        modality: str | None = None,
        window: str | Sequence[float] | None = None,
        truncate: bool = False,
    ) -> None:
        if any(not str(study) for study in _as_list(studies)):
            raise InputError(
                "expected a .nii, .nii.gz, or a folder or zip with a DICOM series, got an empty"
                " path"
            )
        self.studies = [Path(str(study)) for study in _as_list(studies)]
        self.prompts = _as_list(prompts)
        if not self.studies:
            raise ValueError("expected a study to segment, received none; pass --image PATH")
        names: dict[str, Path] = {}
        for study in self.studies:
            if not _exists(study):
                raise InputError(
                    f"{study}: expected a .nii, .nii.gz, or a folder or zip with a DICOM series,"
                    " found nothing there; check the path"
                )
            if (other := names.setdefault(case_name(study), study)) is not study:
                raise InputError(
                    f"{other} and {study}: expected studies of different names, both would be"
                    f" written to {case_name(study)}; rename one or run them apart"
                )
            if len(os.fsencode(case_name(study))) > _LONGEST_NAME:
                raise InputError(
                    f"{study}: expected a name of {_LONGEST_NAME} bytes at most, for a folder of"
                    " masks has that name; rename the study"
                )
        if not self.prompts:
            raise ValueError(
                "expected at least one prompt, received none; pass --prompts \"['liver in abdomen"
                " CT']\""
            )
        if not isinstance(truncate, bool):
            raise ValueError(f"truncate_prompts: expected True or False, received {truncate!r}")
        for prompt in self.prompts:
            if any("\ud800" <= character <= "\udfff" for character in str(prompt)):
                raise ValueError(
                    f"prompt {prompt!r}: expected text, received bytes that are none; write it in"
                    " UTF-8"
                )
        self.input_ids = tokenize_prompts(self.prompts, truncate=truncate)
        slug_prompts(self.prompts)
        self.cards = [load_card(card) for card in _as_list(cards)]
        self.series_uid, self.modality, self.window = series_uid, modality, window

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = time.perf_counter()
        image = read_volume(self.studies[index], series_uid=self.series_uid, modality=self.modality)
        modality = image.meta["modality"]
        prompts = [
            look_up_prompt(p, self.cards, modality=modality, window=self.window)
            for p in self.prompts
        ]
        first = prompts[0]
        if other := [prompt for prompt in prompts if prompt.modality != first.modality]:
            raise ValueError(
                f"{self.studies[index].name}: expected prompts of one modality, received"
                f" {first.prompt!r} of {first.modality} and {other[0].prompt!r} of"
                f" {other[0].modality}; pass --modality CT or MR"
            )
        image.meta["modality"] = first.modality  # where the file doesn't say, its prompts do
        return {
            "image": image,
            "input_ids": self.input_ids,
            "prompts": prompts,
            "read_seconds": time.perf_counter() - start,
        }


def _as_list(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, a folder that may not be searched
        return False


class LabelledStudyDataset(Dataset):
    """Volumes with their label maps, each asked for every target of a card.

    An item is ``{"image" MetaTensor (1,I,J,K), "labels" uint8 (I,J,K), "values" target -> label
    values, "input_ids" (P,T), "prompts" P PromptTargets, "asked" P sets of slices or None for all,
    "case", "patient", "read_seconds"}``.

    Args:
        cases: Records with ``case``, perhaps ``patient`` (else what the card finds in the case's
            name, or ""), and ``image`` and ``label`` (see ``read_datalist``) or ``cached``, a file
            of a slice cache.
        card: The card, or its name, that maps labels to targets.
        phrasings: ``"first"`` asks each target by the card's first phrasing, ``"held_out"`` by its
            first phrasing that training never saw.
        targets: Names of the targets to ask for, or one; all of the card's by default.
        published: The used rows of an index by the published protocol: its slices alone are asked
            for, once more in each target's extra windows.

    Raises:
        ValueError: An unknown phrasing or target, or one without labels or without such a phrasing.
    """

    def __init__(
        self,
        cases: Sequence[Mapping[str, Any]],
        card: DatasetCard | str | Path,
        *,
        phrasings: str = "first",
        targets: str | Sequence[str] | None = None,
        published: pd.DataFrame | None = None,
    ) -> None:
        if phrasings not in PHRASINGS:
            raise ValueError(
                f"phrasings: expected one of {', '.join(PHRASINGS)}, received {phrasings!r}"
            )
        self.cases = list(cases)
        self.card = card if isinstance(card, DatasetCard) else load_card(card)
        self.targets = labelled_targets(self.card, None if targets is None else _as_list(targets))
        for target in self.targets:
            if phrasings == "held_out" and not target.held_out_prompts:
                raise ValueError(
                    f"card {self.card.name}: expected held_out_prompts of {target.name!r}, found"
                    " none; add them to the card, or ask by --phrasings first"
                )
        texts = [
            t.prompts[0] if phrasings == "first" else t.held_out_prompts[0] for t in self.targets
        ]
        self.prompts = [
            look_up_prompt(text, [self.card], modality=self.card.modality) for text in texts
        ]
        if published is not None:
            for target, prompt in zip(self.targets, tuple(self.prompts), strict=True):
                for name in target.extra_windows:
                    self.prompts.append(
                        replace(prompt, window_name=name, window=self.card.windows[name])
                    )
        self.published = published
        self.input_ids = tokenize_prompts([prompt.prompt for prompt in self.prompts])

    @classmethod
    def of_cache(
        cls, cache: SliceCache, names: Iterable[str], **asked: Any
    ) -> LabelledStudyDataset:
        """Cases of a prepared cache, by name, with what its protocol asks for: the same for whoever
        scores.
        """
        cases = [
            {"case": case, "patient": cache.cases[case]["patient"], "cached": cache.path(case)}
            for case in names
        ]
        published = (
            cache.index[cache.index["used"] == 1] if cache.protocol == "biomedparse" else None
        )
        return cls(cases, cache.card, published=published, **asked)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = time.perf_counter()
        case = self.cases[index]
        volume = self._read(case)
        prompts = self.prompts
        if volume.window is not None:  # pictures went through one
            prompts = [
                replace(prompt, window_name="picture", window=volume.window) for prompt in prompts
            ]
        return {
            "image": volume.image,
            "labels": volume.labels,
            "values": volume.values,
            "input_ids": self.input_ids,
            "prompts": prompts,
            "asked": [self._asked_slices(case["case"], prompt) for prompt in self.prompts],
            "case": case["case"],
            "patient": case.get("patient") or self.card.cases.find_patient(case["case"]) or "",
            "read_seconds": time.perf_counter() - start,
        }

    def _asked_slices(self, case: str, prompt: PromptTarget) -> set[int] | None:
        if self.published is None or prompt.target is None:
            return None
        rows = self.published[
            (self.published["case"] == case) & (self.published["target"] == prompt.target)
        ]
        target = self.card.target(prompt.target)
        window = (
            target.window_key if prompt.window_name == target.window_name else prompt.window_name
        )
        return set(rows["slice_index"][rows["window"] == window].tolist())

    def _read(self, case: Mapping[str, Any]) -> LabelledVolume:
        if "cached" in case:
            return CaseFile(Path(case["cached"])).volume()
        return read_label_map(
            SourceCase(case["case"], (Path(case["image"]),), (Path(case["label"]),)), self.card
        )


class ReadableStudies(Dataset):
    """Studies of which one that cannot be read does not end the work: its item is ``{"problem": the
    reason}``.
    """

    def __init__(self, studies: Dataset) -> None:
        self.studies = studies

    def __len__(self) -> int:
        return len(self.studies)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return self.studies[index]
        except ValueError as error:
            return {"problem": " ".join(str(error).split())}


def open_labelled_studies(
    *,
    datalist: str | Path | None = None,
    caches: str | Path | Sequence[str | Path] | None = None,
    part: str = "test",
    card: DatasetCard | str | Path,
    plane: str = "axial",
    phrasings: str = "first",
    targets: str | Sequence[str] | None = None,
) -> Dataset:
    """Opens what an evaluation is given: a datalist, or one or several prepared caches.

    Args:
        datalist: See ``read_datalist``; all its cases are taken, by ``card``.
        caches: Folders that ``boltzmed prepare`` made; their cases of ``part`` are taken, each by
            its cache's card.
        plane: How slices are cut; caches must be cut so.
        phrasings, targets: See ``LabelledStudyDataset``.

    Raises:
        ValueError: Neither or both are given, a cache is unfinished, damaged or cut otherwise, or
            has no case in this part.
    """
    asked: dict[str, Any] = {"phrasings": phrasings, "targets": targets}
    if not caches:
        return LabelledStudyDataset(read_datalist(datalist), card, **asked)
    if datalist is not None:
        raise ValueError("expected --datalist or --caches, received both")
    studies = []
    for folder in _as_list(caches):
        cache = SliceCache.open(folder)
        if cache.plane != plane:
            raise ValueError(
                f"{folder}: expected slices of plane {plane}, found {cache.plane}; pass --plane"
                f" {cache.plane} or prepare another cache"
            )
        studies.append(LabelledStudyDataset.of_cache(cache, cache.list_part(part), **asked))
    return ConcatDataset(studies)
