"""DICOM objects in a folder or a zip, by series."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import BinaryIO, cast

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from boltzmed.errors import InputError, one_line
from boltzmed.volumes.silence import silent_headers

# The only attributes that listing and checking a series reads.
_SCANNED_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"),
    *("Modality", "ImageType", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"),
    *("PhotometricInterpretation", "PixelSpacing", "ImagePositionPatient"),
    *("ImageOrientationPatient", "SliceThickness", "SpacingBetweenSlices"),
]

# Storage classes (PS3.4 B.5) that have rows and columns but are made from images, not acquired.
_DERIVED_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "label map segmentation",
    "1.2.840.10008.5.1.4.1.1.30": "parametric map",
    "1.2.840.10008.5.1.4.1.1.481.2": "RT dose",
}
_DERIVED_MODALITIES = frozenset(
    {"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "SR", "DOC", "PR", "KO", "REG"}
)
BROKEN_DICOM = (
    *(InvalidDicomError, EOFError, ValueError, KeyError, AttributeError, TypeError),
    *(NotImplementedError, struct.error, zlib.error),
)
"""What pydicom raises on damaged bytes."""

_DICOM_MAGIC = b"DICM"  # behind a preamble of 128 bytes (PS3.10 7.1)
# How a data set without preamble begins: group 0002 or 0008, in either byte order.
_BARE_STARTS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")


class DicomFolder:
    """Every file of a folder (its subfolders too) or zip, by its relative name, but hidden ones.

    Zip members are read in memory: nothing is unpacked, so no member can be written outside a
    folder. Use it in a ``with`` block; the zip stays open inside. pydicom's warnings and log lines
    are silent inside, for they quote header values.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not os.fspath(path):
            raise InputError(
                "expected a folder or zip with a DICOM series, received an empty path; name one"
            )
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        self._silence = ExitStack()

    def __enter__(self) -> DicomFolder:
        if not self.path.exists():
            raise InputError(
                f"{self.path}: expected a folder or zip with a DICOM series, received a path that"
                " does not exist; check it"
            )
        if not self.path.is_dir():
            try:
                self._zip = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError) as error:
                raise InputError(
                    f"{self.path.name}: expected a zip with a DICOM series, received a file that"
                    f" does not open as one ({one_line(error, self.path)}); pack it again or pass"
                    " the folder"
                ) from error
        self._silence.enter_context(silent_headers())
        return self

    def __exit__(self, *exception: object) -> None:
        self._silence.close()
        if self._zip is not None:
            self._zip.close()

    @property
    def names(self) -> list[str]:
        """Relative file names, sorted."""
        names = []
        if self._zip is not None:
            for info in self._zip.infolist():
                if not info.is_dir():
                    names.append(info.filename)
        else:
            for folder, _, files in os.walk(self.path):
                for file in files:
                    names.append((Path(folder) / file).relative_to(self.path).as_posix())
        return sorted(name for name in names if not _is_hidden(name))

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open one file for reading in bytes."""
        try:
            if self._zip is None:
                with open(self.path / name, "rb") as file:
                    yield file
            else:
                with self._zip.open(name) as member:
                    yield cast(BinaryIO, member)
        except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(
                f"{Path(name).name}: expected a readable file in {self.path.name}, received "
                f"{one_line(error, self.path / name)}; check its permissions, password or copy"
            ) from error

    def read(self, name: str, *, pixels: bool = True) -> Dataset:
        """Read a data set, with or without preamble; ``pixels=False`` stops before the pixels."""
        with self.open(name) as file:
            content: BinaryIO = io.BytesIO(file.read()) if pixels else file
            try:
                return dcmread(content, force=True, stop_before_pixels=not pixels)
            except BROKEN_DICOM as error:
                raise _broken_file(name, error) from None  # its message may quote header values


@dataclass(frozen=True)
class SeriesRecord:
    """What tells one series from another when a user has to pick, and nothing of the patient."""

    uid: str
    modality: str | None
    num_images: int
    rows: int
    columns: int
    row_gap_mm: float | None
    column_gap_mm: float | None

    def __str__(self) -> str:
        gaps = ""
        if self.row_gap_mm is not None and self.column_gap_mm is not None:
            gaps = f", {self.column_gap_mm:g} x {self.row_gap_mm:g} mm"
        images = "1 image" if self.num_images == 1 else f"{self.num_images} images"
        modality = self.modality or "modality unknown"
        return (
            f"{self.uid or '(empty UID)'} ({modality}, {images} of {self.columns} x"
            f" {self.rows}{gaps})"
        )


@dataclass(frozen=True)
class ScannedFile:
    """The header (without pixels, scanned tags only) of one DICOM file."""

    name: str
    header: Dataset

    @property
    def file_name(self) -> str:
        """The file's own name, the only part of its path that messages show."""
        return self.name.rsplit("/", 1)[-1]


def list_series(path: str | os.PathLike[str]) -> list[SeriesRecord]:
    """Return the image series in a folder or zip, largest first.

    Raises:
        InputError: nothing there, or no DICOM images in it.
    """
    with DicomFolder(path) as folder:
        return [*starmap(_record, scan_series(folder).items())]


def scan_series(folder: DicomFolder) -> dict[str, list[ScannedFile]]:
    """Return the headers of all image objects by SeriesInstanceUID, the largest series first.

    The UID is "" where that is empty. Files that are not DICOM are passed over. Objects that hold
    no acquired image (segmentations, structure sets, reports, documents) are passed over as long as
    there is a series of images.
    """
    names = folder.names
    series: dict[str, list[ScannedFile]] = {}
    others: list[tuple[str, str]] = []
    for name in names:
        header = _read_header(folder, name)
        if header is None:
            continue
        file = ScannedFile(name, header)
        other_kind = _describe_non_image(header)
        if other_kind is None:
            series.setdefault(str(header.get("SeriesInstanceUID") or ""), []).append(file)
        else:
            others.append((other_kind, file.file_name))
    if not series:
        raise InputError(_explain_nothing(folder, names, others))
    return dict(sorted(series.items(), key=lambda item: (-len(item[1]), item[0])))


def pick_series(folder: DicomFolder, series_uid: str | None) -> tuple[str, list[ScannedFile]]:
    """Return the UID and files of a folder's only series, or of the one that ``series_uid`` names.

    Raises:
        InputError: several series and no UID, or none of that UID; the line lists them.
    """
    series = scan_series(folder)
    listed = "; ".join(map(str, starmap(_record, series.items())))
    if series_uid is None:
        if len(series) > 1:
            raise InputError(
                f"{folder.path.name}: expected one DICOM series, received {len(series)}; "
                f"pick one by its UID (series_uid): {listed}"
            )
        return next(iter(series.items()))
    if series_uid not in series:
        raise InputError(
            f"{folder.path.name}: expected a DICOM series with UID {series_uid}, received none;"
            f" pick one of: {listed}"
        )
    return series_uid, series[series_uid]


def class_name(header: Dataset) -> str:
    """Return the object's kind in the standard's words, such as "Enhanced MR Image Storage"."""
    meta = getattr(header, "file_meta", None) or {}
    uid = str(header.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
    return UID(uid).name if uid else "object without SOP class"


def _record(uid: str, files: list[ScannedFile]) -> SeriesRecord:
    header = files[0].header
    modality = None
    for file in files:
        if file.header.get("Modality"):
            modality = str(file.header.Modality)
            break
    row_gap_mm = None
    column_gap_mm = None
    spacing = header.get("PixelSpacing")
    if spacing and len(spacing) == 2:
        row_gap_mm, column_gap_mm = map(float, spacing)
    return SeriesRecord(
        uid=uid,
        modality=modality,
        num_images=len(files),
        rows=int(header.Rows),
        columns=int(header.get("Columns") or 0),
        row_gap_mm=row_gap_mm,
        column_gap_mm=column_gap_mm,
    )


def _read_header(folder: DicomFolder, name: str) -> Dataset | None:
    """Return the scanned tags of a DICOM file, None for any other file."""
    with folder.open(name) as file:
        start = file.read(132)
        if not start and name.lower().endswith(".dcm"):
            raise _broken_file(name, EOFError())
        has_preamble = start[128:] == _DICOM_MAGIC
        if not has_preamble and start[:2] not in _BARE_STARTS:
            return None
        file.seek(0)
        try:
            header = dcmread(
                file,
                stop_before_pixels=True,
                force=not has_preamble,
                specific_tags=list(_SCANNED_TAGS),
            )
            # Values are converted at their first use: use them now, so that a malformed one is met
            # here.
            for _ in header:
                pass
        except BROKEN_DICOM as error:
            if has_preamble:
                raise _broken_file(name, error) from None  # its message may quote header values
            return None
    # Without preamble any bytes pass for DICOM: only what says what it is counts.
    if not has_preamble and not (
        header.get("SOPClassUID") or (header.get("Rows") and header.get("Columns"))
    ):
        return None
    # A header cut off before its image would pass for no image, and a slice would be lost in
    # silence.
    if not header.get("Rows") and "Image Storage" in class_name(header):
        raise _broken_file(name, EOFError())
    return header


def _broken_file(name: str, error: Exception) -> InputError:
    # The reason would quote header values: its type has to do.
    return InputError(
        f"{Path(name).name}: expected a DICOM file, received one that cannot be parsed"
        f" ({type(error).__name__}); copy it again or take it out of the folder"
    )


def _describe_non_image(header: Dataset) -> str | None:
    """Return None for an acquired image, else what the object is."""
    uid = str(header.get("SOPClassUID") or "")
    if uid in _DERIVED_CLASSES:
        return _DERIVED_CLASSES[uid]
    if not header.get("Rows") or not header.get("Columns"):
        if not uid:
            return "object without pixels"
        return UID(uid).name.removesuffix(" Storage")
    if not uid and str(header.get("Modality") or "") in _DERIVED_MODALITIES:
        return f"object of modality {header.Modality}"
    return None


def _explain_nothing(folder: DicomFolder, names: list[str], others: list[tuple[str, str]]) -> str:
    """Say what a folder without images holds instead; ``others`` are (kind, file name)."""
    where = folder.path.name or str(folder.path)
    if others:
        examples = dict(reversed(others))  # the first file of each kind
        counts = Counter(kind for kind, _ in others)
        listed = []
        for kind, count in counts.most_common():
            listed.append(f"{count} {kind} ({examples[kind]})")
        return (
            f"{where}: expected a DICOM series of images, received only {', '.join(listed)}; pass"
            " the images' folder"
        )
    if not names:
        return f"{where}: expected a DICOM series, received an empty folder; check the path"
    for name in names:
        if name.lower().endswith((".nii", ".nii.gz")):
            return (
                f"{where}: expected a DICOM series, received a folder with NIfTI files; pass one of"
                f" them, such as {Path(name).name}"
            )
    return (
        f"{where}: expected a DICOM series, received {len(names)} files that are not DICOM; check"
        " the path"
    )


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
