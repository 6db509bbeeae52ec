"""Pairs of image and label map named in a table: CSV, gzipped or not, or a MONAI datalist in JSON.

Columns (or the fields of a record) are image and label, and perhaps case, patient and split; others
are passed over. Paths are relative to the table's own folder, or absolute.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boltzmed.cards import DatasetCard
from boltzmed.data.layouts.case import LabelledVolume, SourceCase
from boltzmed.data.layouts.label_maps import pair_files, read_label_map
from boltzmed.masks.dataset_json import read_json
from boltzmed.masks.label_names import labelled_targets
from boltzmed.volumes.nifti import case_name

TABLE_SUFFIXES = (".csv", ".csv.gz", ".json")

_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
}
"""What a table may call a part -> the part."""

_SUBSETS = {"train": "training", "validation": "validation", "test": "test"}


def list_cases(source: Path, card: DatasetCard) -> list[SourceCase]:
    """List the pairs of a table, by case name; a datalist's own lists are the subsets.

    Raises:
        ValueError: a table that is missing, unreadable or empty, that lacks image or label, a line
            of another length, or an unknown split; with the file and the line.
    """
    labelled_targets(card)
    if not source.name.lower().endswith(TABLE_SUFFIXES) or source.is_dir():
        raise ValueError(
            f"{source}: expected a table of pairs, received another thing; pass a .csv or .json"
            " file"
        )
    if not source.is_file():
        raise ValueError(f"{source}: expected a table of pairs, found no such file; check the path")
    list_pairs = _list_records if source.name.lower().endswith(".json") else _list_rows
    cases = list_pairs(source)
    if not cases:
        raise ValueError(
            f"{source.name}: expected at least one pair of image and label, found none"
        )
    return sorted(cases, key=lambda case: case.case)


def read_case(case: SourceCase, card: DatasetCard) -> LabelledVolume:
    """Read one pair; InputError in one line that names it."""
    return read_label_map(case, card)


def _list_rows(source: Path) -> list[SourceCase]:
    cases = []
    open_table = gzip.open if source.name.lower().endswith(".gz") else open
    place = source.name
    try:
        with open_table(source, "rt", encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            columns = [name.strip() for name in next(rows, [])]
            missing = {"image", "label"} - set(columns)
            if missing:
                raise ValueError(
                    f"{place}: expected columns image and label, found no {min(missing)} in"
                    f" {columns}; commas separate them"
                )
            if len(set(columns)) < len(columns):
                raise ValueError(
                    f"{place}: expected columns of different names, received {columns}"
                )
            for row in rows:
                place = f"{source.name}, line {rows.line_num}"
                if not row:
                    continue
                if len(row) != len(columns):
                    raise ValueError(
                        f"{place}: expected {len(columns)} cells, received {len(row)}; mend the"
                        " line"
                    )
                cells = dict(zip(columns, row, strict=True))
                cases.append(_read_pair(cells, source.parent, place))
    except (OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(
            f"{place}: expected a CSV table in UTF-8, received something else ({error})"
        ) from error
    return cases


def _list_records(source: Path) -> list[SourceCase]:
    cases = []
    for key, records in read_json(source).items():
        if not isinstance(records, list):
            continue
        # Lists without labels are test images or facts about the data set, such as its authors.
        if not any(isinstance(record, dict) and "label" in record for record in records):
            continue
        split = _SPLITS.get(key.strip().casefold())
        subset = None if split is None else _SUBSETS[split]
        for index, record in enumerate(records):
            place = f"{source.name}, {key}[{index}]"
            if not isinstance(record, dict):
                raise ValueError(
                    f"{place}: expected a record with image and label, received {record!r}"
                )
            cases.append(_read_pair(record, source.parent, place, subset=subset))
    return cases


def _read_pair(
    record: Mapping[str, Any], folder: Path, place: str, *, subset: str | None = None
) -> SourceCase:
    image = _read_text(record, "image", place)
    label = _read_text(record, "label", place)
    case = _read_text(record, "case", place)
    patient = _read_text(record, "patient", place)
    split = _read_text(record, "split", place)
    if image is None or label is None:
        raise ValueError(f"{place}: expected image and label, received {image} and {label}")
    if split is not None:
        if split.casefold() not in _SPLITS:
            raise ValueError(
                f"{place}: expected a split of train, validation or test, received {split!r}"
            )
        split = _SPLITS[split.casefold()]
    return pair_files(
        case or case_name(folder / image),
        folder / image,
        folder / label,
        subset=subset,
        patient=patient,
        split=split,
    )


def _read_text(record: Mapping[str, Any], field: str, place: str) -> str | None:
    """Return a cell as text, None where it is empty; JSON may number its patients."""
    value = record.get(field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{place}: expected text as {field}, received {value!r}")
    return (value or "").strip() or None
