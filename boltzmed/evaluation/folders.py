"""A folder of masks against a folder of references → rows of results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from boltzmed.cards import DatasetCard, load_card
from boltzmed.errors import InputError, one_line
from boltzmed.evaluation.case_files import CaseFiles, check_unnamed, match_cases
from boltzmed.evaluation.folder_options import FolderOptions
from boltzmed.evaluation.pairs import PairScoring, missing_line
from boltzmed.files import check_writable
from boltzmed.masks.dataset_json import find_label_names
from boltzmed.masks.folders import CaseMasks, MaskFile, list_cases
from boltzmed.masks.label_names import check_names, name_labels
from boltzmed.masks.label_values import list_values
from boltzmed.results import (
    CaseResult,
    LesionResult,
    write_exclusions,
    write_lesions,
    write_results,
)

_NAMED = 3
"""So many cases of a folder are named in a message."""

Cases = Mapping[str, CaseMasks]


@dataclass
class FolderScores:
    """What came of comparing two folders.

    Attributes:
        rows: what was scored.
        lesions: what was scored.
        cases: names of the cases with a row.
        excluded: a line for each case, or target of a case, that has no row, and for lesion scores
            of no lesion or lesions of no score.
        never_predicted: a line for each target that no case has a prediction of, and which
            therefore has no row.
        passed_over: a line for each prediction that has no reference.
        repeated: a line for each target of a case that has several predictions, of a row each.
        unnamed: a line for each set of label values that --labels does not name.
        report: called with each of these lines, as it comes.
    """

    rows: list[CaseResult] = field(default_factory=list)
    lesions: list[LesionResult] = field(default_factory=list)
    cases: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    never_predicted: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    report: Callable[[str], None] | None = field(default=None, repr=False)

    def tell(self, line: str, lines: list[str]) -> None:
        """Add a line to one of the lists and report it, once."""
        if line in lines:
            return
        lines.append(line)
        if self.report is not None:
            self.report(line)


def score_folder(  # noqa: C901  (to be split with its options)
    predictions: str | Path,
    references: str | Path,
    options: FolderOptions | None = None,
    *,
    report: Callable[[str], None] | None = None,
) -> FolderScores:
    """Score every reference that has a prediction of the same case and target.

    Args:
        predictions: folders, see `boltzmed.masks.folders`.
        references: folders, see `boltzmed.masks.folders`.
        options: what is scored, and how; the defaults of `FolderOptions` without.
        report: called with each line of what is excluded or passed over, as it comes.

    Raises:
        ValueError: folders that hold no masks, no case in common, or nothing to score.
    """
    options = FolderOptions() if options is None else options
    predictions = Path(predictions)
    references = Path(references)
    card = load_card(options.card) if options.card else None
    scoring = PairScoring.of(options, card, predictions, references)
    wanted = _list_targets(references, options, card)
    predicted = _list_targets(predictions, options, card)
    _check_shared(predictions, predicted, references, wanted)
    check_unnamed(wanted, predicted)
    scores = FolderScores(report=report)
    for case in predicted:
        if case not in wanted:
            scores.tell(f"case {case}: no reference, passed over", scores.passed_over)
    if options.missing == "exclude":
        wanted = _exclude_never_predicted(wanted, predicted, scores)
    if options.missing == "error":
        _refuse_missing(wanted, predicted)
    unnamed: dict[frozenset[int], list[str]] = {}
    for files in match_cases(wanted, predicted):
        _score_case(files, scoring, scores)
        # A card refuses such a file; --labels may name a part on purpose, and has to be told of
        # the rest.
        if card is None:
            named = set().union(*(options.labels or {}).values())
            for path, values in files.list_unnamed(named):
                unnamed.setdefault(values, []).append(path)
    _tell_unnamed(unnamed, scores)
    if scoring.lesion_scores is not None and "volume" in options.levels:
        for line in scoring.lesion_scores.list_unmatched():
            scores.tell(line, scores.excluded)
    if not scores.rows:
        raise InputError(
            f"nothing could be scored, all of {len(wanted)} references are excluded; mend what is"
            " listed"
        )
    return scores


def _list_targets(folder: Path, options: FolderOptions, card: DatasetCard | None) -> Cases:
    """List a folder's cases, the targets of label maps by the names that the options give them."""
    cases = list_cases(folder)
    nested = any(mask.names for masks in cases.values() for mask in masks.masks)
    if nested or not (options.labels or card):
        return cases
    if card is not None:
        names = find_label_names(folder, card)
        check_names(names.targets)
    else:
        names = name_labels(options.labels or {})
    return {case: masks.as_targets(names) for case, masks in cases.items()}


def _check_shared(predictions: Path, predicted: Cases, references: Path, wanted: Cases) -> None:
    if not set(wanted) & set(predicted):
        raise InputError(
            "expected predictions named as their references, found no case in common:"
            f" {_list_some(predicted)} in {predictions.name}, {_list_some(wanted)} in"
            f" {references.name}; rename one side"
        )


def _list_some(cases: Cases) -> str:
    names = list(cases)
    listing = ", ".join(names[:_NAMED])
    return f"{listing} …" if len(names) > _NAMED else listing


def _exclude_never_predicted(wanted: Cases, predicted: Cases, scores: FolderScores) -> Cases:
    """Return the references without the label maps' targets that no case has a prediction of."""
    predicted_slugs: set[str] = set()
    for masks in predicted.values():
        for mask in masks.masks:
            predicted_slugs |= mask.slugs
    targets: dict[str, MaskFile] = {}
    for masks in wanted.values():
        for mask in masks.masks:
            if mask.values is not None:
                targets[mask.names[0]] = mask
    for target, mask in targets.items():
        if mask.slugs & predicted_slugs:
            continue
        line = (
            f"target {target}: expected predictions, found none in any case; --missing empty scores"
            " empty masks"
        )
        scores.tell(line, scores.never_predicted)
        wanted = {case: masks.without(target) for case, masks in wanted.items()}
    return wanted


def _refuse_missing(wanted: Cases, predicted: Cases) -> None:
    for files in match_cases(wanted, predicted):
        for pair in files.pairs():
            if pair.prediction is None and files.prediction.problem is None:
                raise InputError(missing_line(files.case, pair.target))


def _score_case(files: CaseFiles, scoring: PairScoring, scores: FolderScores) -> None:
    """Score the targets of one case, and tell what cannot be."""
    case = files.case
    for mask in files.extra:
        line = f"case {case}: no reference for {mask.path.name}, passed over"
        scores.tell(line, scores.passed_over)
    pairs = list(files.pairs())
    for target, names in files.list_repeated(pairs):
        line = (
            f"case {case}: {target} has several predictions, {names}, and each its rows; compare"
            " and summarize take one for a method: evaluate the others under another --method"
        )
        scores.tell(line, scores.repeated)
    for pair in pairs:
        try:
            rows, lesions = scoring.score(files, pair)
        except ValueError as error:
            line = one_line(error)
            scores.tell(
                line if line.startswith("case ") else f"case {case}: {line}", scores.excluded
            )
            continue
        scores.rows += rows
        scores.lesions += lesions
        if case not in scores.cases:
            scores.cases.append(case)


def _tell_unnamed(unnamed: Mapping[frozenset[int], list[str]], scores: FolderScores) -> None:
    for values, paths in unnamed.items():
        line = (
            f"label values {list_values(values)} have no name in {len(paths)} files, such as"
            f" {paths[0]}, and are passed over; --labels can name them"
        )
        scores.tell(line, scores.unnamed)


def write_scores(scores: FolderScores, output: str | Path) -> list[Path]:
    """Write ``results.csv``, ``lesions.csv`` and ``left_out.csv`` into a folder, which is made.

    Args:
        scores: what came of `score_folder`.
        output: the folder.

    Returns:
        The files' paths.
    """
    check_writable(Path(output))
    left_out = {
        "excluded": scores.excluded,
        "never predicted": scores.never_predicted,
        "passed over": scores.passed_over,
        "several predictions": scores.repeated,
        "unnamed label values": scores.unnamed,
    }
    return write_evaluation(output, scores.rows, scores.lesions, left_out)


def write_evaluation(
    folder: str | Path,
    rows: Iterable[CaseResult],
    lesions: Iterable[LesionResult],
    left_out: Mapping[str, Iterable[str]],
) -> list[Path]:
    """Write ``results.csv``, ``lesions.csv`` and ``left_out.csv`` into a folder, which is made.

    Args:
        folder: where they go.
        rows: what was scored.
        lesions: what was scored.
        left_out: lines on what has no rows, by kind.

    Returns:
        The files' paths.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("results.csv", "lesions.csv", "left_out.csv")]
    write_results(paths[0], rows)
    write_lesions(paths[1], lesions)
    write_exclusions(paths[2], left_out)
    return paths
