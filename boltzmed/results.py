"""The tables between evaluation and reports: a `CaseResult` per case and target, a `LesionResult`
per lesion, as CSV.

Columns are exactly the fields of the class, in their order. Empty cells mean "not applicable" or
"not defined"; they are never zeros.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from boltzmed.files import whole_file

LEVELS = ("slice", "volume")
AXES = ("axial", "coronal", "sagittal", "array")
LESION_KINDS = ("reference", "prediction")
_FRACTIONS = (
    "dice",
    "area_fraction",
    "presence_score",
    "iou",
    "nsd",
    "detection_f1",
    "panoptic_quality",
)
_SIZES = (
    *("volume_mm3", "hd95_mm", "assd_mm", "nsd_tolerance_mm", "prediction_volume_mm3"),
    *("false_positive_mm3", "false_negative_mm3"),
)
_COUNTS = (
    "reference_lesions",
    "predicted_lesions",
    "matched_lesions",
    "missed_lesions",
    "false_lesions",
)


@dataclass(frozen=True)
class CaseResult:
    """One target of one case, scored in one slice or in the whole volume.

    Attributes:
        method: what made the prediction.
        dataset: card name.
        patient: pseudonym that groups cases of one person; never a name or a hospital number. ""
            where nothing says whose case it is.
        case: file name without extension.
        level: "slice" or "volume".
        axis: the plane in which the volume was cut, one of `AXES`; a volume row may leave it empty
            ("").
        slice_index: 0 … K'-1 in the network's slice order, None for a volume row.
        target: target's name in the card, or the prompt itself for free text.
        prompt: the text asked.
        seed: of the sampling at inference.
        dice: 0 … 1, None where it is not defined (reference and prediction both empty).
        area_fraction: reference mask pixels over the area of the padded square, 0 … 1; a volume row
            takes its largest slice's; None without a reference.
        volume_mm3: of the reference (a slice row's: of its voxels); None without a reference.
        reference_empty: no voxel is set.
        prediction_empty: no voxel is set.
        presence_score: 0 … 1, None where the network gives none.
        iou: 0 … 1, None where dice is. What follows is None where it was not computed, too.
        hd95_mm: distances of the surfaces, see `boltzmed.metrics.surface`; None where a mask is
            empty.
        assd_mm: as ``hd95_mm``.
        nsd: share of the surfaces within nsd_tolerance_mm of each other, 0 … 1; None where both
            masks are empty.
        prediction_volume_mm3: of the prediction.
        volume_difference_mm3: prediction − reference.
        false_positive_mm3: volume in the prediction alone, in the reference alone.
        false_negative_mm3: as ``false_positive_mm3``.
        reference_lesions: connected components.
        predicted_lesions: connected components.
        matched_lesions: of the reference's, by the rule of `boltzmed.metrics.lesions`.
        missed_lesions: as ``matched_lesions``.
        false_lesions: of the prediction's.
        detection_f1: 0 … 1, None where there is no lesion in either.
        panoptic_quality: 0 … 1, None where there is no lesion in either.
        lesion_rule: neighbours that made a lesion and the rule that matched them, "26 overlap" or
            "6 iou:0.5"; "" where nothing says it.

    Raises:
        ValueError: a field of the wrong type or range.
    """

    method: str
    dataset: str
    patient: str
    case: str
    level: str
    axis: str
    slice_index: int | None
    target: str
    prompt: str
    seed: int
    dice: float | None
    area_fraction: float | None
    volume_mm3: float | None
    reference_empty: bool
    prediction_empty: bool
    presence_score: float | None
    iou: float | None = None
    hd95_mm: float | None = None
    assd_mm: float | None = None
    nsd: float | None = None
    nsd_tolerance_mm: float | None = None
    prediction_volume_mm3: float | None = None
    volume_difference_mm3: float | None = None
    false_positive_mm3: float | None = None
    false_negative_mm3: float | None = None
    reference_lesions: int | None = None
    predicted_lesions: int | None = None
    matched_lesions: int | None = None
    missed_lesions: int | None = None
    false_lesions: int | None = None
    detection_f1: float | None = None
    panoptic_quality: float | None = None
    lesion_rule: str = ""

    def __post_init__(self) -> None:
        for name in ("method", "dataset", "case", "target", "prompt"):
            _expect(
                name,
                getattr(self, name),
                isinstance(getattr(self, name), str) and getattr(self, name),
                "text",
            )
        for name in ("patient", "lesion_rule"):
            _expect(name, getattr(self, name), isinstance(getattr(self, name), str), "text")
        _expect("level", self.level, self.level in LEVELS, f"one of {', '.join(LEVELS)}")
        axis_fits = self.axis in AXES or (self.axis == "" and self.level == "volume")
        _expect("axis", self.axis, axis_fits, f"one of {', '.join(AXES)}")
        if self.level == "slice":
            is_slice = _is_integer(self.slice_index) and (self.slice_index or 0) >= 0
            _expect("slice_index", self.slice_index, is_slice, "an integer from 0 in a slice row")
        else:
            _expect(
                "slice_index", self.slice_index, self.slice_index is None, "nothing in a volume row"
            )
        _expect("seed", self.seed, _is_integer(self.seed), "an integer")
        _check_numbers(self)
        for name in ("reference_empty", "prediction_empty"):
            _expect(
                name, getattr(self, name), isinstance(getattr(self, name), bool), "true or false"
            )


@dataclass(frozen=True)
class LesionResult:
    """One lesion (connected component) of a reference or of a prediction.

    Attributes:
        method: as in `CaseResult`.
        dataset: as in `CaseResult`.
        patient: as in `CaseResult`.
        case: as in `CaseResult`.
        target: as in `CaseResult`.
        kind: "reference" or "prediction".
        lesion: 1, 2 … by size, the largest first.
        volume_mm3: its own.
        score: how sure the method was: a prediction's own, a reference's the highest of what found
            it; None without.
        matched: a reference lesion was found; a predicted one found one, or is not false.
        iou: with the one it is matched with, else the largest with any; 0 … 1.

    Raises:
        ValueError: a field of the wrong type or range.
    """

    method: str
    dataset: str
    patient: str
    case: str
    target: str
    kind: str
    lesion: int
    volume_mm3: float
    score: float | None
    matched: bool
    iou: float

    def __post_init__(self) -> None:
        _expect("kind", self.kind, self.kind in LESION_KINDS, f"one of {', '.join(LESION_KINDS)}")
        _expect(
            "lesion", self.lesion, _is_integer(self.lesion) and self.lesion > 0, "an integer from 1"
        )
        _expect(
            "score",
            self.score,
            self.score is None or math.isfinite(self.score),
            "a finite number or nothing",
        )
        _check_numbers(self)


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(CaseResult))
LESION_COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(LesionResult))

FIRST_COLUMNS: tuple[str, ...] = COLUMNS[: COLUMNS.index("iou")]
"""What every table of results has; one may end there."""

_READABLE = (
    COLUMNS,
    COLUMNS[:-1],
    FIRST_COLUMNS,
)  # what was written before there was a lesion_rule is read, too


def compile_patient_pattern(pattern: str | None) -> re.Pattern[str] | None:
    """Compiles a user's pattern of patients, see `match_patient`; None for none.

    Raises:
        ValueError: it is no regular expression.
    """
    try:
        return re.compile(pattern) if pattern else None
    except re.error as error:
        raise ValueError(
            f"--patient-pattern: expected a regular expression, got {pattern!r}: {error}"
        ) from error


def match_patient(pattern: re.Pattern[str] | None, case: str) -> str | None:
    """Returns what a pattern finds in a case's name, its first group or the whole match; None for
    nothing.
    """
    match = pattern.search(case) if pattern else None
    return None if match is None else match.group(min(match.re.groups, 1)) or None


def write_lesions(path: str | Path, rows: Iterable[LesionResult]) -> None:
    """Writes lesions as `write_results` writes rows."""
    _write_table(Path(path), LESION_COLUMNS, map(astuple, rows))


def write_exclusions(path: str | Path, lines: Mapping[str, Iterable[str]]) -> None:
    """Writes why something has no rows, as `write_results` writes rows: columns `kind` (a key) and
    `line`.
    """
    _write_table(
        Path(path), ("kind", "line"), ((kind, line) for kind in lines for line in lines[kind])
    )


def write_results(path: str | Path, rows: Iterable[CaseResult]) -> None:
    """Writes rows as CSV (UTF-8, gzipped when the name ends in .gz), whole or not at all.

    Numbers are written so that reading gives the same floats. The same rows give the same bytes.

    Raises:
        ValueError: the file cannot be written (no such folder, read-only, full).
    """
    _write_table(Path(path), COLUMNS, map(astuple, rows))


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    lines = [_line(columns), *(_line(_cell(value) for value in row) for row in rows)]
    content = "".join(lines).encode("utf-8")
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    with whole_file(path, make_folders=False) as temporary:
        temporary.write_bytes(content)


def read_results(path: str | Path) -> list[CaseResult]:
    """Reads what `write_results` wrote.

    Raises:
        ValueError: no such file, not this table (columns must be `COLUMNS`, perhaps without the
            last, or `FIRST_COLUMNS` alone, in order), or a wrong cell; one line that names the
            file, the line and the column.
    """
    path = Path(path)
    text = read_text(path)
    try:
        return list(_parse(text))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from error


def read_text(path: Path) -> str:
    """Returns the text (UTF-8) of a file, gzipped or not; ValueError if it has none."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise ValueError(f"{path}: expected text in UTF-8, found UTF-16; save it as UTF-8")
        return content.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = (
            getattr(error, "strerror", None)
            or f"not a text or complete gzip file ({type(error).__name__})"
        )
        raise ValueError(f"{path}: cannot be read: {reason}") from error


def _parse(text: str) -> Iterator[CaseResult]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = tuple(next(reader, []))
    if header not in _READABLE:
        odd = [name for name in COLUMNS if name not in header] + [
            name for name in header if name not in COLUMNS
        ]
        raise ValueError(
            f"expected the columns {','.join(COLUMNS)}; these differ:"
            f" {', '.join(odd) or 'their order'}"
        )
    for cells in reader:
        try:
            if len(cells) != len(header):
                raise ValueError(f"expected {len(header)} cells, got {len(cells)}")
            values: list[Any] = [
                _PARSERS[name](name, cell) for name, cell in zip(header, cells, strict=True)
            ]
            yield CaseResult(*values)
        except ValueError as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error


def _parse_text(_name: str, cell: str) -> str:
    return cell


def _parse_number(kind: type[float], words: str, name: str, cell: str) -> float | None:
    try:
        return None if cell == "" else kind(cell)
    except ValueError:
        raise ValueError(f"{name}: expected {words}, got {cell!r}") from None


def _parse_flag(name: str, cell: str) -> bool:
    if cell not in ("true", "false"):
        raise ValueError(f"{name}: expected true or false, got {cell!r}")
    return cell == "true"


_PARSERS: dict[str, Callable[[str, str], Any]] = {
    **dict.fromkeys(COLUMNS, _parse_text),
    **dict.fromkeys(("slice_index", "seed", *_COUNTS), partial(_parse_number, int, "an integer")),
    **dict.fromkeys(
        (*_FRACTIONS, *_SIZES, "volume_difference_mm3"), partial(_parse_number, float, "a number")
    ),
    **dict.fromkeys(("reference_empty", "prediction_empty"), _parse_flag),
}


def _check_numbers(row: CaseResult | LesionResult) -> None:
    for field in fields(row):
        name, value = field.name, getattr(row, field.name)
        if value is None:
            continue
        if name in _FRACTIONS:
            _expect(name, value, _is_number(value) and 0 <= value <= 1, "0 to 1 or nothing")
        elif name in _SIZES:
            _expect(
                name,
                value,
                _is_number(value) and 0 <= value < math.inf,
                "a finite number from 0 or nothing",
            )
        elif name in _COUNTS:
            _expect(name, value, _is_integer(value) and value >= 0, "an integer from 0 or nothing")
        elif name == "volume_difference_mm3":
            _expect(
                name,
                value,
                _is_number(value) and math.isfinite(value),
                "a finite number or nothing",
            )


def _line(cells: Iterable[str]) -> str:
    # The csv module quotes only those line breaks that its own terminator holds; a prompt may hold
    # either.
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n") + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    # float() first: NumPy's scalars are floats whose repr is not a plain number.
    return repr(float(value)) if isinstance(value, float) else str(value)


def _expect(name: str, value: Any, valid: Any, expected: str) -> None:
    if not valid:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
