"""Pairs of image and label map named in a table: a CSV file, gzipped or not, or a MONAI datalist in
JSON.

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
from boltzmed.masks.label_names import labelled_targets
from boltzmed.data.layouts.case import LabelledVolume, SourceCase
from boltzmed.masks.dataset_json import read_json
from boltzmed.data.layouts.label_maps import pair_files, read_label_map
from boltzmed.volumes.nifti import case_name

TABLE_SUFFIXES = (".csv", ".csv.gz", ".json")

_SPLITS = {
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **{"validation": "validation", "val": "validation", "valid": "validation"},
}
_SUBSETS = {"train": "training", "validation": "validation", "test": "test"}


def list_cases(source: Path, card: DatasetCard) -> list[SourceCase]:
    """The pairs of a table, by case name; a datalist's own lists are the subsets.

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
    cases = _list_records(source) if source.name.lower().endswith(".json") else _list_rows(source)
    if not cases:
        raise ValueError(
            f"{source.name}: expected at least one pair of image and label, found none"
        )
    return sorted(cases, key=lambda found: found.case)


def read_case(found: SourceCase, card: DatasetCard) -> LabelledVolume:
    """Reads one pair; InputError in one line that names it."""
    return read_label_map(found, card)


def _list_rows(source: Path) -> list[SourceCase]:
    cases = []
    compressed = source.name.lower().endswith(".gz")
    place = source.name
    try:
        with (gzip.open if compressed else open)(
            source, "rt", encoding="utf-8-sig", newline=""
        ) as file:
            rows = csv.reader(file, strict=True)
            columns = [name.strip() for name in next(rows, [])]
            if missing := {"image", "label"} - set(columns):
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
                if row and len(row) != len(columns):
                    raise ValueError(
                        f"{place}: expected {len(columns)} cells, received {len(row)}; mend the"
                        " line"
                    )
                if row:
                    cases.append(_pair(dict(zip(columns, row, strict=True)), source.parent, place))
    except (OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(
            f"{place}: expected a CSV table in UTF-8, received something else ({error})"
        ) from error
    return cases


def _list_records(source: Path) -> list[SourceCase]:
    cases = []
    for key, records in read_json(source).items():
        # Lists without labels are test images or facts about the data set, such as its authors.
        if not isinstance(records, list) or not any(
            isinstance(item, dict) and "label" in item for item in records
        ):
            continue
        split = _SPLITS.get(key.strip().casefold())
        for index, record in enumerate(records):
            place = f"{source.name}, {key}[{index}]"
            if not isinstance(record, dict):
                raise ValueError(
                    f"{place}: expected a record with image and label, received {record!r}"
                )
            cases.append(
                _pair(record, source.parent, place, subset=_SUBSETS[split] if split else None)
            )
    return cases


def _pair(
    record: Mapping[str, Any], folder: Path, place: str, *, subset: str | None = None
) -> SourceCase:
    fields = {
        name: _text(record, name, place) for name in ("image", "label", "case", "patient", "split")
    }
    if fields["image"] is None or fields["label"] is None:
        raise ValueError(
            f"{place}: expected image and label, received {fields['image']} and {fields['label']}"
        )
    split = fields["split"]
    if split is not None and split.casefold() not in _SPLITS:
        raise ValueError(
            f"{place}: expected a split of train, validation or test, received {split!r}"
        )
    image, label = folder / fields["image"], folder / fields["label"]
    return pair_files(
        fields["case"] or case_name(image),
        image,
        label,
        subset=subset,
        patient=fields["patient"],
        split=None if split is None else _SPLITS[split.casefold()],
    )


def _text(record: Mapping[str, Any], field: str, place: str) -> str | None:
    """A cell as text, None where it is empty; JSON may number its patients."""
    value = record.get(field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{place}: expected text as {field}, received {value!r}")
    return (value or "").strip() or None
