"""A finished slice cache, opened: its manifest, index and card, checked against each other."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from boltzmed.cards import DatasetCard, load_card
from boltzmed.data.case_file import SUFFIX, CaseFile
from boltzmed.data.prepare import CASES, INDEX, MANIFEST
from boltzmed.errors import InputError

_TEXT = ("dataset", "case", "patient", "split", "target", "window")


@dataclass(frozen=True)
class SliceCache:
    """What ``boltzmed prepare`` wrote.

    Attributes:
        folder: where it lies.
        card: its own copy of the card.
        protocol: what it was prepared by, see ``prepare_cache``.
        plane: what it was prepared by, see ``prepare_cache``.
        cases: case -> its entry of the manifest.
        index: table with the columns ``boltzmed.data.index.COLUMNS``.
    """

    folder: Path
    card: DatasetCard
    protocol: str
    plane: str
    cases: Mapping[str, Mapping[str, Any]]
    index: pd.DataFrame

    @classmethod
    def open(cls, folder: str | Path) -> SliceCache:
        """Open a cache; no case file is read yet.

        Raises:
            InputError: it is unfinished, lacks a file, or its index is not the one that prepare
                wrote.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise InputError(
                f"{folder}: expected a finished cache, found no {MANIFEST}; run `boltzmed prepare`"
            )
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            written = (folder / INDEX).read_bytes()
            if hashlib.sha256(written).hexdigest() != manifest["index_sha256"]:
                raise ValueError(f"{INDEX} is not the one it was finished with")
            index = pd.read_csv(
                io.BytesIO(written), dtype=dict.fromkeys(_TEXT, str), keep_default_na=False
            )
            cases = {case["case"]: case for case in manifest["cases"]}
            card = load_card(folder / f"{manifest['card']}.yaml")
            cache = cls(folder, card, manifest["protocol"], manifest["plane"], cases, index)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder}: expected a whole cache, found {_describe(error)}; run the same"
                " `boltzmed prepare` again"
            ) from error
        missing = [case for case in cases if not cache.path(case).is_file()]
        if missing:
            others = " and others" if len(missing) > 1 else ""
            raise InputError(
                f"{folder}: expected a file for each of {len(cases)} cases, found none for"
                f" {missing[0]}{others}; run the same `boltzmed prepare` again"
            )
        return cache

    def path(self, case: str) -> Path:
        """Return the path of a case's file."""
        return self.folder / CASES / f"{case}{SUFFIX}"

    def case_file(self, case: str) -> CaseFile:
        """Open a case's file; InputError if it is damaged."""
        return CaseFile(self.path(case))

    def list_part(self, part: str) -> list[str]:
        """Return the cases of "train", "validation" or "test"; ValueError if there is none."""
        cases = []
        parts = set()
        for case, facts in self.cases.items():
            parts.add(facts["split"])
            if facts["split"] == part:
                cases.append(case)
        if not cases:
            raise ValueError(
                f"{self.folder}: expected cases in part {part!r}, found none; it has"
                f" {', '.join(sorted(parts)) or 'no case at all'}"
            )
        return cases


def _describe(error: Exception) -> str:
    """Return why a cache's tables cannot be read."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # Of a ValueError's subclasses the text is a library's: JSON's, pandas', Unicode's.
    return str(error) if type(error) is ValueError else "damaged tables"
