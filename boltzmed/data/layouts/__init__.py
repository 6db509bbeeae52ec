"""The layouts in which data sets are published: a module each lists its cases and reads one."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

from boltzmed.cards import DatasetCard
from boltzmed.data.layouts.case import LabelledVolume, SourceCase
from boltzmed.data.layouts.pairs import TABLE_SUFFIXES

__all__ = ["READERS", "LabelledVolume", "SourceCase", "list_source_cases", "read_source_case"]

READERS = {
    "amos22": "amos",
    "biomedparse": "biomedparse",
    "decathlon": "decathlon",
    "lidc_idri": "lidc_idri",
    "nnunet": "nnunet",
    "pairs": "pairs",
}
"""A card's ``reader`` -> its module: ``list_cases(source, card)`` and ``read_case(case, card)``."""

_LONGEST_NAME = 200
"""In bytes; file systems allow 255, and temporary names add some."""


def list_source_cases(source: str | os.PathLike[str], card: DatasetCard) -> list[SourceCase]:
    """List the cases of a data set as it was published, by name; no volume is opened.

    Args:
        source: the folder that the card's layout describes, or a table of pairs (.csv, .csv.gz,
            .json), whatever the card's layout is.
        card: the data set's card.

    Returns:
        At least one case; those that cannot be read have a ``problem``, one line that begins with
        the case. Names that occur twice, or that cannot name a file, are problems.

    Raises:
        ValueError: the source is not what the card's layout describes.
    """
    source = Path(source)
    cases: list[SourceCase] = _find_reader(source, card).list_cases(source, card)
    if not cases:
        raise ValueError(
            f"{source}: expected cases of card {card.name} ({card.modality}), found none; check the"
            " path"
        )
    by_name: dict[str, list[SourceCase]] = defaultdict(list)
    for case in cases:
        by_name[case.case].append(case)
    checked = []
    for case in cases:
        problem = _name_problem(by_name[case.case]) or case.problem
        checked.append(replace(case, problem=problem))
    return checked


def read_source_case(
    case: SourceCase, card: DatasetCard, source: str | os.PathLike[str]
) -> LabelledVolume:
    """Read one case that ``list_source_cases`` listed in the same source.

    Raises:
        InputError: the case has a problem, or its files cannot be read; one line that begins with
            the case.
    """
    volume: LabelledVolume = _find_reader(Path(source), card).read_case(case, card)
    return volume


def _find_reader(source: Path, card: DatasetCard) -> ModuleType:
    name = card.layout.get("reader")
    if source.name.lower().endswith(TABLE_SUFFIXES) and not source.is_dir():
        name = "pairs"
    if name not in READERS:
        raise ValueError(
            f"card {card.name}: expected a layout whose reader is one of"
            f" {', '.join(sorted(READERS))}, received {name}; pass a .csv or .json that names its"
            " images and labels"
        )
    return import_module(f"boltzmed.data.layouts.{READERS[name]}")


def _name_problem(namesakes: Sequence[SourceCase]) -> str | None:
    """Return why a case's name cannot stand for it alone, or cannot be the name of a file."""
    name = namesakes[0].case
    if len(namesakes) > 1:
        one, other = map(_short_path, namesakes[:2])
        return (
            f"case {name}: expected one case of that name, received {len(namesakes)}, of {one} and"
            f" {other}; give each its own name"
        )
    if name.startswith(".") or not name.isprintable() or "/" in name or "\\" in name:
        return (
            f"case {name!r}: expected a name that a file can have: printable, without slash or"
            " leading dot; rename it"
        )
    if len(os.fsencode(name)) > _LONGEST_NAME:
        return f"case {name}: expected a name of {_LONGEST_NAME} bytes at most; rename it"
    return None


def _short_path(case: SourceCase) -> str:
    """Return the first file of a case with the folder it lies in, and no folder above."""
    first_file = [*case.image, *case.label][0]
    return "/".join(first_file.parts[-2:])
