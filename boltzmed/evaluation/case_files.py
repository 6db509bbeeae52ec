"""A case's masks on both sides: which prediction belongs to which reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from boltzmed.errors import InputError
from boltzmed.evaluation.mask_files import CaseMasks, LabelMap, MaskFile, read_labels

UNNAMED_TARGET = "foreground"
_WHITE = 255
"""What pictures and many tools write for 1 in a mask of one thing."""


class CaseFiles:
    """One case's masks of both sides: who belongs to whom, each file read once."""

    def __init__(self, case: str, reference: CaseMasks, prediction: CaseMasks) -> None:
        self.case, self.reference, self.prediction = case, reference, prediction
        self._read: dict[Path, LabelMap] = {}

    def pairs(self) -> Iterator[tuple[str, MaskFile | None, MaskFile | None]]:
        """(target, reference, prediction), a reference once for each prediction; None where there
        is none.
        """
        for mask in self.reference.masks:
            found = self._partners(mask, self.prediction.masks, self.reference.masks)
            named = [
                *mask.names,
                *(name for other in found for name in other.names),
                UNNAMED_TARGET,
            ]
            for other in found or (None,):
                yield named[0], mask, other
        if self.reference.problem is not None:
            yield UNNAMED_TARGET, None, None

    @staticmethod
    def list_repeated(
        pairs: Sequence[tuple[str, MaskFile | None, MaskFile | None]],
    ) -> Iterator[tuple[str, str]]:
        """Yield (target, its predictions' files) of each target of the pairs that has several."""
        for name in dict.fromkeys(target for target, _, _ in pairs):
            files = [
                mask.path.name for target, _, mask in pairs if target == name and mask is not None
            ]
            if len(files) > 1:
                yield name, ", ".join(files)

    @property
    def extra(self) -> list[MaskFile]:
        """Predictions that no reference asks for; a label map's other labels are none."""
        masks = self.prediction.masks
        return [
            m
            for m in masks
            if m.values is None and not self._partners(m, self.reference.masks, masks)
        ]

    @staticmethod
    def _partners(
        mask: MaskFile, others: Sequence[MaskFile], beside: Sequence[MaskFile]
    ) -> list[MaskFile]:
        if len(others) == len(beside) == 1 and not (mask.names and others[0].names):
            return list(others)  # one thing on either side, and a side that does not name it
        return [other for other in others if mask.slugs & other.slugs]

    def list_unnamed(
        self, labels: Mapping[str, tuple[int, ...]]
    ) -> Iterator[tuple[str, frozenset[int]]]:
        """(folder and file, values) of each label map that holds values without a name, of what was
        read.
        """
        named = {0, *(value for values in labels.values() for value in values)}
        maps = {
            mask.path
            for mask in (*self.reference.masks, *self.prediction.masks)
            if mask.values is not None
        }
        for path, read in self._read.items():
            if path in maps and (unnamed := read.values - named):
                yield _place(path), unnamed

    def read(self, mask: MaskFile) -> LabelMap:
        """A mask's file."""
        if mask.path not in self._read:
            self._read[mask.path] = read_labels(mask.path)
        return self._read[mask.path]


def check_unnamed(
    references: Mapping[str, CaseMasks], predictions: Mapping[str, CaseMasks]
) -> None:
    """Refuse masks that nothing names unless all of them hold one label value, where 255 counts as
    1.

    A class of its own in each file would pass for one thing else. Files that cannot be read are
    left to their case.

    Raises:
        InputError: two values, and where each was found first.
    """
    found: dict[int, str] = {}
    for case, reference in references.items():
        files = CaseFiles(case, reference, predictions.get(case, CaseMasks(())))
        for _, mask, other in files.pairs():
            if mask is None or other is None or (mask.names and other.names):
                continue
            for each in (mask, other):
                try:
                    values = files.read(each).values - {0}
                except ValueError:
                    continue
                for value in sorted(values):
                    found.setdefault(
                        1 if value == _WHITE else value, f"{value} in {_place(each.path)}"
                    )
            if len(found) > 1:
                raise InputError(
                    "expected masks of one thing, with one label value in all files (255 counts as"
                    f" 1), received {' and '.join(list(found.values())[:2])}; name the values by"
                    " --labels 1=NAME,2=NAME or --card, or the masks as CASE/TARGET.nii.gz"
                )


def _place(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
