"""A case's masks on both sides: which prediction belongs to which reference."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from boltzmed.errors import InputError
from boltzmed.masks.folders import WHITE, CaseMasks, MaskFile
from boltzmed.masks.label_values import LabelMap, read_labels

UNNAMED_TARGET = "foreground"


class MaskPair(NamedTuple):
    """A target's reference and one of its predictions; None where there is none."""

    target: str
    reference: MaskFile | None
    prediction: MaskFile | None


class CaseFiles:
    """One case's masks of both sides: who belongs to whom, each file read once.

    Args:
        case: its name.
        reference: its masks on either side.
        prediction: its masks on either side.
    """

    def __init__(self, case: str, reference: CaseMasks, prediction: CaseMasks) -> None:
        self.case = case
        self.reference = reference
        self.prediction = prediction
        self._read: dict[Path, LabelMap] = {}

    def pairs(self) -> Iterator[MaskPair]:
        """List every target, once for each prediction of it."""
        for mask in self.reference.masks:
            partners = self._partners(mask, self.prediction.masks, self.reference.masks)
            names = list(mask.names)
            for partner in partners:
                names += partner.names
            target = names[0] if names else UNNAMED_TARGET
            for partner in partners:
                yield MaskPair(target, mask, partner)
            if not partners:
                yield MaskPair(target, mask, None)
        if self.reference.problem is not None:
            yield MaskPair(UNNAMED_TARGET, None, None)

    @staticmethod
    def list_repeated(pairs: Sequence[MaskPair]) -> Iterator[tuple[str, str]]:
        """List each target that has several predictions, with their files' names.

        Args:
            pairs: of one case.
        """
        files: dict[str, list[str]] = {}
        for pair in pairs:
            if pair.prediction is not None:
                files.setdefault(pair.target, []).append(pair.prediction.path.name)
        for target, names in files.items():
            if len(names) > 1:
                yield target, ", ".join(names)

    @property
    def extra(self) -> list[MaskFile]:
        """Predictions that no reference asks for; a label map's other labels are none."""
        masks = self.prediction.masks
        extra = []
        for mask in masks:
            if mask.values is None and not self._partners(mask, self.reference.masks, masks):
                extra.append(mask)
        return extra

    @staticmethod
    def _partners(
        mask: MaskFile, others: Sequence[MaskFile], beside: Sequence[MaskFile]
    ) -> list[MaskFile]:
        """Return the masks of the other side that are of the same thing.

        Args:
            mask: of one side.
            others: all of the other side.
            beside: all of the mask's own side.
        """
        if len(others) == len(beside) == 1 and not (mask.names and others[0].names):
            return list(others)  # one thing on either side, and a side that does not name it
        return [other for other in others if mask.slugs & other.slugs]

    def list_unnamed(self, named: Collection[int]) -> Iterator[tuple[str, frozenset[int]]]:
        """List the label maps, of those read, that hold values without a name.

        Args:
            named: the values that have one.

        Yields:
            Folder and file in words, and the values.
        """
        maps = set()
        for mask in (*self.reference.masks, *self.prediction.masks):
            if mask.values is not None:
                maps.add(mask.path)
        for path, read in self._read.items():
            unnamed = read.values - {0, *named}
            if path in maps and unnamed:
                yield _place(path), unnamed

    def read(self, mask: MaskFile) -> LabelMap:
        """Read a mask's file, once for all targets in it."""
        if mask.path not in self._read:
            self._read[mask.path] = read_labels(mask.path)
        return self._read[mask.path]


def match_cases(
    references: Mapping[str, CaseMasks], predictions: Mapping[str, CaseMasks]
) -> Iterator[CaseFiles]:
    """Return the files of each case that has a reference."""
    for case, reference in references.items():
        yield CaseFiles(case, reference, predictions.get(case, CaseMasks(())))


def check_unnamed(
    references: Mapping[str, CaseMasks], predictions: Mapping[str, CaseMasks]
) -> None:
    """Refuse masks that nothing names unless all of them hold one label value.

    255 counts as 1. A class of its own in each file would pass for one thing else. Files that
    cannot be read are left to their case.

    Raises:
        InputError: two values, and where each was found first.
    """
    first_seen: dict[int, str] = {}
    for files in match_cases(references, predictions):
        for _, reference, prediction in files.pairs():
            if reference is None or prediction is None:
                continue
            if reference.names and prediction.names:
                continue
            for mask in (reference, prediction):
                for value in _list_foreground(files, mask):
                    stands_for = 1 if value == WHITE else value
                    first_seen.setdefault(stands_for, f"{value} in {_place(mask.path)}")
            if len(first_seen) > 1:
                raise InputError(
                    "expected masks of one thing, with one label value in all files (255 counts as"
                    f" 1), received {' and '.join(list(first_seen.values())[:2])}; name the values"
                    " by --labels 1=NAME,2=NAME or --card, or the masks as CASE/TARGET.nii.gz"
                )


def _list_foreground(files: CaseFiles, mask: MaskFile) -> list[int]:
    try:
        return sorted(files.read(mask).values - {0})
    except ValueError:
        return []


def _place(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
