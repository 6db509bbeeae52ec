"""Masks that nnU-Net predicted → rows of results, under the cases' own names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from boltzmed.data.cache import SliceCache
from boltzmed.data.studies import LabelledStudyDataset, list_cached_cases
from boltzmed.errors import one_line
from boltzmed.evaluation import PlainMasks, Scoring, score_study, write_evaluation
from boltzmed.files import check_writable
from boltzmed.masks.dataset_json import read_label_names
from boltzmed.masks.folders import list_mask_files
from boltzmed.masks.grids import Grid, check_grid
from boltzmed.masks.label_names import LabelNames
from boltzmed.masks.label_values import HIGHEST_LABEL, check_values, read_labels
from boltzmed.metrics.overlap import dice
from boltzmed.nnunet.raw_dataset import ENDING, name_case
from boltzmed.nnunet.summary import SUMMARY_JSON, Summary, disagree, read_summary
from boltzmed.results import CaseResult, LesionResult
from boltzmed.studies import LabelledStudy

Masks = Mapping[str, NDArray[np.uint8]]
"""Target → its mask (I,J,K)."""


@dataclass
class Import:
    """What came of `import_predictions`.

    Attributes:
        rows: as our own evaluation writes them.
        lesions: as our own evaluation writes them.
        compared: how many of nnU-Net's own Dice were compared with ours.
        excluded: a line for each prediction or case that has no rows.
        disagreements: a line for each Dice that ``summary.json`` has otherwise, or that only one of
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
    """Score the masks that nnU-Net predicted for the cases of a cache.

    Where nnU-Net left a ``summary.json``, each Dice in it of a target of the card is compared with
    our own.

    Args:
        folders: nnU-Net's ``fold_0/validation``, or what ``nnUNetv2_predict`` wrote; several, where
            each has other targets.
        cache: what the raw data set was exported from, or another cache of the same cases.
        output: folder for ``results.csv``, ``lesions.csv`` and ``left_out.csv``, if they are to be
            written.
        part: which part of the cache was predicted; "validation" for a folder of that name by
            default, else "test".
        method: its name in the rows.
        scoring: what is measured, and how; as our own evaluation does by default.

    Raises:
        ValueError: a folder without predictions of that part, or whose JSON files are damaged or of
            another data set.
        OutputError: the output folder is read-only or full.
    """
    opened = SliceCache.open(cache)
    if output is not None:
        check_writable(Path(output))
    imported = Import()
    owner: dict[str, Path] = {}
    paths = [folders] if isinstance(folders, str | Path) else folders
    for folder in map(Path, paths):
        if not folder.is_dir():
            raise ValueError(
                f"{folder}: expected a folder of nnU-Net's predictions, found none; check the path"
            )
        names = read_label_names(folder, opened.card)
        for target in names.targets:
            other = owner.setdefault(target, folder)
            if other is not folder:
                raise ValueError(
                    f"{folder}: expected other targets than {other} has, received {target!r} in"
                    " both; import them one by one"
                )
        predicted_part = part
        if predicted_part is None:
            predicted_part = "validation" if folder.resolve().name == "validation" else "test"
        _FolderImport(folder, names, opened, predicted_part, method, scoring).add_to(imported)
    if output is not None:
        left_out = {"excluded": imported.excluded, "disagreement": imported.disagreements}
        write_evaluation(output, imported.rows, imported.lesions, left_out)
    return imported


@dataclass(frozen=True)
class _FolderImport:
    """One folder of predictions.

    Attributes:
        folder: where they lie.
        names: of their label values.
        cache: with the references.
        part: which part of it was predicted.
        method: see `import_predictions`.
        scoring: see `import_predictions`.
    """

    folder: Path
    names: LabelNames
    cache: SliceCache
    part: str
    method: str
    scoring: Scoring | None

    @property
    def place(self) -> str:
        """The beginning of a line about a case."""
        return f"{self.names.dataset}: {self.part}"

    def add_to(self, imported: Import) -> None:
        """Add the folder's rows, and what is to be said of them.

        Raises:
            ValueError: the folder has no prediction of the part, or its summary is damaged.
        """
        case_of = {name_case(case): case for case in self.cache.list_part(self.part)}
        paths = {}
        for path in list_mask_files(self.folder):
            if path.name.endswith(ENDING):  # nnU-Net's, as the data set was exported
                paths[path.name.removesuffix(ENDING)] = path
        summary = None
        if (self.folder / SUMMARY_JSON).is_file():
            summary = read_summary(self.folder / SUMMARY_JSON, ENDING)
        if not set(paths) & set(case_of):
            raise ValueError(
                f"{self.folder}: expected predictions of the {len(case_of)} {self.part} cases of"
                f" {self.cache.folder}, such as {min(case_of)}{ENDING}, found none of them; pass"
                " their folder and --part"
            )
        for name in sorted(set(case_of) - set(paths)):
            imported.excluded.append(f"{self.place} case {name}: no prediction {name}{ENDING}")
        for name in sorted(set(paths) - set(case_of)):
            imported.excluded.append(
                f"{self.names.dataset}: {name}{ENDING} is of no {self.part} case"
            )
        predicted_cases = [case for name, case in case_of.items() if name in paths]
        self._score_cases(predicted_cases, paths, summary, imported)
        if summary is not None:
            for name in sorted(set(summary) - set(paths)):
                imported.disagreements.append(
                    f"{self.place} case {name}: in {SUMMARY_JSON}, but without a prediction"
                )

    def _score_cases(
        self,
        cases: Sequence[str],
        paths: Mapping[str, Path],
        summary: Summary | None,
        imported: Import,
    ) -> None:
        labelled = list_cached_cases(self.cache, cases, targets=list(self.names.targets))
        studies = LabelledStudyDataset(labelled)
        for index in tqdm(range(len(studies)), desc=self.names.dataset, unit="case", disable=None):
            try:
                item = studies[index]
                study: LabelledStudy = item["study"]
                name = name_case(study.case)
                masks = self._read_masks(paths[name], name, study)
                rows, lesions = score_study(
                    study,
                    item["prompts"],
                    PlainMasks([masks[prompt.target] for prompt in item["prompts"]]),
                    method=self.method,
                    plane=self.cache.plane,
                    scoring=self.scoring,
                )
            except ValueError as error:
                imported.excluded.append(f"{self.names.dataset}: {one_line(error)}")
                continue
            imported.rows += rows
            imported.lesions += lesions
            if summary is None:
                continue
            if name in summary:
                self._compare(masks, study, name, summary[name], imported)
            else:
                imported.disagreements.append(
                    f"{self.place} case {name}: a prediction, but not in {SUMMARY_JSON}"
                )

    def _read_masks(self, path: Path, name: str, study: LabelledStudy) -> Masks:
        """Read a prediction, a mask for each target."""
        predicted = read_labels(path, highest=HIGHEST_LABEL)
        grid = Grid(study.grid.shape[1:], np.asarray(study.grid.affine, np.float64))
        check_grid(f"case {name}", grid, predicted.grid, what="prediction")
        known = self.names.known or ()
        check_values(f"case {name}: {path.name}", predicted.values, known, self.names.source)
        masks = {}
        for target, values in self.names.targets.items():
            masks[target] = np.isin(predicted.labels_IJK, list(values)).astype(np.uint8)
        return masks

    def _compare(
        self,
        masks: Masks,
        study: LabelledStudy,
        name: str,
        nnunet_dice: Mapping[frozenset[int], float | None],
        imported: Import,
    ) -> None:
        """Compare the Dice that ``summary.json`` has of a case with ours."""
        for target, mask in masks.items():
            values = self.names.targets[target]
            if values not in nnunet_dice:  # a target of several classes has no Dice there
                continue
            our_dice = dice(mask, study.reference(target))
            imported.compared += 1
            if disagree(our_dice, nnunet_dice[values]):
                imported.disagreements.append(
                    f"{self.place} case {name}, {target}: Dice {_format_dice(our_dice)} here,"
                    f" {_format_dice(nnunet_dice[values])} in {SUMMARY_JSON}"
                )


def _format_dice(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.6f}"
