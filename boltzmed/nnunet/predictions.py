"""Masks that nnU-Net predicted → rows of results, on the same cases and under the same names as
ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from boltzmed.data.cache import SliceCache
from boltzmed.data.labels import as_labels, check_grid
from boltzmed.data.nnunet_labels import PredictedDataset, read_predicted_dataset
from boltzmed.data.studies import LabelledStudyDataset, list_cached_cases
from boltzmed.errors import InputError
from boltzmed.evaluation import Scoring, score_study, write_evaluation
from boltzmed.files import check_writable
from boltzmed.metrics.overlap import dice
from boltzmed.nnunet.raw_dataset import ENDING, name_case
from boltzmed.nnunet.summary import SUMMARY_JSON, disagree, read_summary
from boltzmed.results import CaseResult, LesionResult
from boltzmed.studies import LabelledStudy
from boltzmed.volumes import read_volume


@dataclass
class Import:
    """What `import_predictions` found.

    Attributes:
        rows: as our own evaluation writes them.
        lesions: as our own evaluation writes them.
        compared: how many of nnU-Net's own Dice were held against ours.
        excluded: a line for each prediction or case that has no rows.
        disagreements: a line for each Dice that `summary.json` has otherwise, or that only one of
            the two has.
    """

    rows: list[CaseResult] = field(default_factory=list)
    lesions: list[LesionResult] = field(default_factory=list)
    compared: int = 0
    excluded: list[str] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)


def import_predictions(
    folders: str | Path | Sequence[str | Path],
    cache: str | Path,
    output: str | Path | None = None,
    *,
    part: str | None = None,
    method: str = "nnU-Net",
    scoring: Scoring | None = None,
) -> Import:
    """Scores the masks that nnU-Net predicted for the cases of a cache.

    Where nnU-Net left a `summary.json`, each Dice in it of a target of ours is held against our
    own.

    Args:
        folders: nnU-Net's `fold_0/validation`, or what `nnUNetv2_predict` wrote; several, where
            each has other targets.
        cache: What the raw data set was exported from, or another cache of the same cases.
        output: Folder for `results.csv`, `lesions.csv` and `left_out.csv`, if they are to be
            written.
        part: Which part of the cache was predicted; "validation" for a folder of that name by
            default, else "test".
        method: What the rows call it.
        scoring: What is measured, and how; as our own evaluation does by default.

    Raises:
        ValueError: A folder without predictions of that part, or whose JSON files are damaged or of
            another data set.
        OutputError: The output folder is read-only or full.
    """
    opened = SliceCache.open(cache)
    if output is not None:
        check_writable(Path(output))
    done = Import()
    owner: dict[str, Path] = {}
    for folder in (
        [Path(folders)] if isinstance(folders, str | Path) else [Path(folder) for folder in folders]
    ):
        if not folder.is_dir():
            raise ValueError(
                f"{folder}: expected a folder of nnU-Net's predictions, found none; check the path"
            )
        dataset = read_predicted_dataset(folder, opened.card)
        for target in dataset.targets:
            if (other := owner.setdefault(target, folder)) is not folder:
                raise ValueError(
                    f"{folder}: expected other targets than {other} has, found {target!r} in both"
                )
        inferred = "validation" if folder.resolve().name == "validation" else "test"
        _import(folder, dataset, opened, part or inferred, method, scoring, done)
    if output is not None:
        left_out = {"excluded": done.excluded, "disagreement": done.disagreements}
        write_evaluation(output, done.rows, done.lesions, left_out)
    return done


def _import(
    folder: Path,
    dataset: PredictedDataset,
    cache: SliceCache,
    part: str,
    method: str,
    scoring: Scoring | None,
    done: Import,
) -> None:
    """Adds the rows of one folder, and what is to be said of it."""
    expected = {name_case(case): case for case in cache.list_part(part)}
    found = {path.name.removesuffix(ENDING) for path in folder.glob(f"[!.]*{ENDING}")}
    summary = (
        read_summary(folder / SUMMARY_JSON, ENDING) if (folder / SUMMARY_JSON).is_file() else None
    )
    if not found & set(expected):
        raise ValueError(
            f"{folder}: expected predictions of the {len(expected)} {part} cases of {cache.folder},"
            f" such as {min(expected)}{ENDING}, found none of them; pass their folder and --part"
        )
    place = f"{dataset.name}: {part}"
    done.excluded += [
        f"{place} case {name}: no prediction {name}{ENDING}"
        for name in sorted(set(expected) - found)
    ]
    done.excluded += [
        f"{dataset.name}: {name}{ENDING} is of no {part} case"
        for name in sorted(found - set(expected))
    ]
    cases = [case for name, case in expected.items() if name in found]
    studies = LabelledStudyDataset(list_cached_cases(cache, cases, targets=list(dataset.targets)))
    for index in tqdm(range(len(studies)), desc=dataset.name, unit="case", disable=None):
        try:
            item = studies[index]
            study: LabelledStudy = item["study"]
            name = name_case(study.case)
            mask = _read_mask(folder / f"{name}{ENDING}", name, study, dataset)
            masks = {
                target: np.isin(mask, list(values)).astype(np.uint8)
                for target, values in dataset.targets.items()
            }
            by_prompt = [masks[prompt.target] for prompt in item["prompts"]]
            rows, lesions = score_study(
                study,
                item["prompts"],
                by_prompt.__getitem__,
                method=method,
                plane=cache.plane,
                scoring=scoring,
            )
        except ValueError as error:
            done.excluded.append(f"{dataset.name}: {' '.join(str(error).split())}")
            continue
        done.rows += rows
        done.lesions += lesions
        if summary is not None:
            _compare(masks, study, summary.get(name), f"{place} case {name}", dataset, done)
    if summary is not None:
        lost = sorted(set(summary) - found)
        done.disagreements += [
            f"{place} case {name}: in {SUMMARY_JSON}, but without a prediction" for name in lost
        ]


def _read_mask(
    path: Path, name: str, study: LabelledStudy, dataset: PredictedDataset
) -> NDArray[np.uint8]:
    predicted = read_volume(path)
    image = study.grid
    check_grid(
        name,
        image.shape[1:],
        image.affine,
        predicted.shape[1:],
        predicted.affine,
        what="prediction",
    )
    labels = as_labels(name, np.asarray(predicted[0]))
    if unknown := set(np.unique(labels).tolist()) - dataset.values:
        raise InputError(
            f"case {name}: expected the values {sorted(dataset.values)} of dataset.json, received"
            f" {sorted(unknown)}; pass the predictions of this data set"
        )
    return labels


def _compare(
    masks: Mapping[str, NDArray[np.uint8]],
    study: LabelledStudy,
    theirs: Mapping[frozenset[int], float | None] | None,
    place: str,
    dataset: PredictedDataset,
    done: Import,
) -> None:
    """Holds the Dice that `summary.json` has of a case against ours."""
    if theirs is None:
        done.disagreements.append(f"{place}: a prediction, but not in {SUMMARY_JSON}")
        return
    for target, mask in masks.items():
        values = dataset.targets[target]
        if values not in theirs:  # a target of several classes has no Dice there
            continue
        reference = study.reference(target)
        ours = dice(mask, reference)
        done.compared += 1
        if disagree(ours, theirs[values]):
            done.disagreements.append(
                f"{place}, {target}: Dice {_say(ours)} here, {_say(theirs[values])} in"
                f" {SUMMARY_JSON}"
            )


def _say(dice: float | None) -> str:
    return "undefined" if dice is None else f"{dice:.6f}"
