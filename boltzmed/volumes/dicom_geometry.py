"""Whether the slices of a DICOM series make one regular volume, and which.

A series is a volume when all its slices have one orientation, one size and one pixel spacing, and
their positions are evenly spaced points of one line along the normal. Anything else is refused,
never respaced or reordered by guesswork.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boltzmed.errors import InputError
from boltzmed.geometry import ImagePlane, volume_affine_ras
from boltzmed.volumes.dicom_files import ScannedFile, class_name

DIRECTION_TOLERANCE = 1e-3
"""Largest difference of a direction cosine between slices, and largest cosine between row and
column direction (0.06°). Scanners round to six decimals, anonymisers sometimes to three.
"""

PIXEL_SPACING_TOLERANCE_MM = 1e-4
"""Largest difference of the pixel spacing between slices: 0.05 mm over a row of 512."""

SLICE_POSITION_TOLERANCE_MM = 0.1
"""Largest distance of a slice from its place on the even grid: positions may be rounded to 0.1."""

SLICE_POSITION_TOLERANCE_GAPS = 0.25
"""The same, in slice gaps, for slices so thin that 0.1 mm would hide a missing one."""

DUPLICATE_TOLERANCE_MM = 0.01
"""Slices closer than this lie at the same position."""

TILT_TOLERANCE_DEGREES = 0.1
TILT_TOLERANCE_MM = 0.1
"""Tilt of the line of positions against the normal is refused where it exceeds both."""

SIDEWAYS_TOLERANCE_MM = 0.1
"""Largest sideways distance of a slice from the straight line of positions."""


@dataclass(frozen=True)
class SliceStack:
    """Slices that make one volume (I columns, J rows, K slices).

    Attributes:
        files: sorted along the normal, K ascending.
        affine_ras: (4, 4) voxel index to RAS mm.
    """

    files: list[ScannedFile]
    affine_ras: NDArray[np.float64]


def stack_slices(files: list[ScannedFile]) -> SliceStack:
    """Sort the slices of one series and check that they make one regular volume.

    The third axis is the mean step between neighbouring positions, so every slice lies where its
    header says to within the tolerances above.

    Raises:
        InputError: one line with the file, the millimetres and the way out.
    """
    for file in files:
        _check_single_frame(file)
    planes = [_read_plane(file) for file in files]
    _check_same_size(files)
    _check_localizers(files)
    _check_same_orientation(files, planes)
    _check_same_spacing(files, planes)
    normal = planes[0].normal_lps
    positions = np.stack([plane.position_lps for plane in planes])
    along = np.array([position @ normal for position in positions])  # mm
    order = np.argsort(along, kind="stable")
    files = [files[index] for index in order]
    first_plane = planes[order[0]]
    if len(files) == 1:
        step = normal * _single_slice_extent_mm(files[0])
        return SliceStack(files, volume_affine_ras(first_plane, step))
    along = along[order]
    positions = positions[order]
    _check_duplicates(files, along)
    _check_gaps(files, along)
    step = (positions[-1] - positions[0]) / (len(files) - 1)
    _check_tilt(files[0], step, normal, len(files))
    _check_sideways(files, positions, step)
    return SliceStack(files, volume_affine_ras(first_plane, step))


def _check_single_frame(file: ScannedFile) -> None:
    header = file.header
    frames = int(header.get("NumberOfFrames") or 1)
    kind = class_name(header)
    if frames > 1 or kind.startswith(("Enhanced", "Legacy Converted")):
        raise InputError(
            f"{file.file_name}: expected single-frame images, received a multi-frame object"
            f" ({kind}, {frames} frames); convert it to NIfTI or to a single-frame series first"
        )
    samples = int(header.get("SamplesPerPixel") or 1)
    colours = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
    if samples != 1 or not colours.startswith("MONOCHROME"):
        raise InputError(
            f"{file.file_name}: expected grey values, received colour pixels ({colours}); pick the"
            " series of CT or MR images"
        )


def _read_plane(file: ScannedFile) -> ImagePlane:
    """Return where a slice lies, its directions normalised."""
    position = _read_numbers(file, "ImagePositionPatient", 3)
    directions = _read_numbers(file, "ImageOrientationPatient", 6)
    row_gap_mm, column_gap_mm = _read_numbers(file, "PixelSpacing", 2).tolist()
    if min(row_gap_mm, column_gap_mm) <= 0:
        raise InputError(
            f"{file.file_name}: expected a positive PixelSpacing, received {row_gap_mm:g} x"
            f" {column_gap_mm:g} mm; export the series again"
        )
    along_row = directions[:3]
    along_column = directions[3:]
    row_length = float(np.linalg.norm(along_row))
    column_length = float(np.linalg.norm(along_column))
    cosine = float(along_row @ along_column)
    if max(abs(row_length - 1), abs(column_length - 1), abs(cosine)) > DIRECTION_TOLERANCE:
        raise InputError(
            f"{file.file_name}: expected two perpendicular unit vectors in ImageOrientationPatient,"
            f" received lengths {row_length:.4f} and {column_length:.4f}, cosine {cosine:.4f};"
            " export the series again"
        )
    return ImagePlane(
        position_lps=position,
        along_row_lps=along_row / row_length,
        along_column_lps=along_column / column_length,
        row_gap_mm=row_gap_mm,
        column_gap_mm=column_gap_mm,
    )


def _read_numbers(file: ScannedFile, keyword: str, count: int) -> NDArray[np.float64]:
    """Return the (count,) finite numbers of an attribute."""
    element = file.header.get(keyword)
    try:
        values = np.array([float(value) for value in element or []])
    except (TypeError, ValueError):  # a lone number, or an empty component
        values = np.array([np.nan])
    if values.shape != (count,) or not np.isfinite(values).all():
        received = "others" if element else "none"
        raise InputError(
            f"{file.file_name}: expected {count} numbers in {keyword}, received {received}"
            f" ({class_name(file.header)}); pick a series of image slices with a position in the"
            " patient"
        )
    return values


def _check_same_size(files: list[ScannedFile]) -> None:
    sizes = [(int(file.header.Columns), int(file.header.Rows)) for file in files]
    usual = _most_frequent(sizes)
    for file, size in zip(files, sizes, strict=True):
        if size != usual:
            raise InputError(
                f"{file.file_name}: expected {usual[0]} x {usual[1]} pixels as in the other slices,"
                f" received {size[0]} x {size[1]}; take it out of the series"
            )


def _check_localizers(files: list[ScannedFile]) -> None:
    scouts = []
    for file in files:
        if "LOCALIZER" in map(str, file.header.get("ImageType") or []):
            scouts.append(file)
    if scouts and len(scouts) < len(files):
        more = f" and {len(scouts) - 1} more" if len(scouts) > 1 else ""
        raise InputError(
            f"{scouts[0].file_name}{more}: expected slices of one volume, received a localizer"
            " among them; take it out of the series"
        )


def _check_same_orientation(files: list[ScannedFile], planes: list[ImagePlane]) -> None:
    cosines = np.stack([(*plane.along_row_lps, *plane.along_column_lps) for plane in planes])
    agreeing = [(_differences(cosines, row) <= DIRECTION_TOLERANCE).sum() for row in cosines]
    usual = cosines[np.argmax(agreeing)]
    odd = np.flatnonzero(_differences(cosines, usual) > DIRECTION_TOLERANCE)
    if odd.size:
        usual_normal = np.cross(usual[:3], usual[3:])
        angle = np.degrees(np.arccos(np.clip(planes[odd[0]].normal_lps @ usual_normal, -1, 1)))
        raise InputError(
            f"{files[odd[0]].file_name}: expected one orientation, received {odd.size} of"
            f" {len(files)} slices turned against the others (this one by {angle:.1f} degrees);"
            " pass each orientation in a folder of its own"
        )


def _differences(cosines: NDArray[np.float64], row: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest difference of any direction cosine, slice by slice."""
    largest: NDArray[np.float64] = np.abs(cosines - row).max(axis=1)
    return largest


def _check_same_spacing(files: list[ScannedFile], planes: list[ImagePlane]) -> None:
    gaps = [(round(plane.column_gap_mm, 4), round(plane.row_gap_mm, 4)) for plane in planes]
    usual = _most_frequent(gaps)
    for file, plane in zip(files, planes, strict=True):
        difference = max(abs(plane.column_gap_mm - usual[0]), abs(plane.row_gap_mm - usual[1]))
        # Twice, since the usual spacing was rounded by up to half the tolerance.
        if difference > 2 * PIXEL_SPACING_TOLERANCE_MM:
            raise InputError(
                f"{file.file_name}: expected pixels of {usual[0]:g} x {usual[1]:g} mm as in the"
                f" other slices, received {plane.column_gap_mm:g} x {plane.row_gap_mm:g} mm; take"
                " it out of the series"
            )


def _single_slice_extent_mm(file: ScannedFile) -> float:
    """Return how thick a lone slice is. Volumes in mm³ depend on it, so it is not invented."""
    for keyword in ("SliceThickness", "SpacingBetweenSlices"):
        value = file.header.get(keyword)
        if value in (None, ""):
            continue
        extent_mm = float(value)
        if np.isfinite(extent_mm) and extent_mm > 0:
            return extent_mm
    raise InputError(
        f"{file.file_name}: expected a slice thickness for a series of one slice, received neither"
        " SliceThickness nor SpacingBetweenSlices; convert it to NIfTI with the right voxel size"
    )


def _check_duplicates(files: list[ScannedFile], along: NDArray[np.float64]) -> None:
    same = np.flatnonzero(np.diff(along) < DUPLICATE_TOLERANCE_MM)
    if not same.size:
        return
    index = int(same[0])
    first = files[index]
    second = files[index + 1]
    uid = first.header.get("SOPInstanceUID")
    is_copy = bool(uid) and uid == second.header.get("SOPInstanceUID")
    where = first.file_name
    if second.file_name == first.file_name:
        where += " of another folder"
    advice = "keep one time point, echo or reconstruction"
    if is_copy:
        advice = "remove the copies of the same object"
    raise InputError(
        f"{second.file_name}: expected one slice per position, received it where {where} lies"
        f" already ({along[index]:.2f} mm along the normal; {len(files)} slices at"
        f" {len(files) - same.size} positions); {advice}"
    )


def _check_gaps(files: list[ScannedFile], along: NDArray[np.float64]) -> None:
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    grid = np.linspace(along[0], along[-1], len(along))
    tolerance = min(SLICE_POSITION_TOLERANCE_MM, SLICE_POSITION_TOLERANCE_GAPS * usual)
    if np.abs(along - grid).max() <= tolerance:
        return
    odd = int(np.argmax(np.abs(gaps - usual)))
    missing = round(gaps[odd] / usual) - 1
    is_whole_gaps = abs(gaps[odd] - (missing + 1) * usual) <= 2 * SLICE_POSITION_TOLERANCE_MM
    if missing >= 1 and is_whole_gaps:
        problem = "a slice is missing" if missing == 1 else f"{missing} slices are missing"
        advice = "add what is missing, or convert the series to an evenly spaced NIfTI"
    else:
        problem = "uneven spacing"
        advice = "resample the series to an evenly spaced NIfTI, or pick another reconstruction"
    raise InputError(
        f"{files[odd + 1].file_name}: expected a slice gap of {usual:g} mm, received"
        f" {gaps[odd]:g} mm behind {files[odd].file_name} ({problem}); {advice}"
    )


def _check_tilt(
    file: ScannedFile, step: NDArray[np.float64], normal: NDArray[np.float64], count: int
) -> None:
    along = float(step @ normal)
    sideways = float(np.linalg.norm(step - along * normal))
    angle = float(np.degrees(np.arctan2(sideways, along)))
    drift = sideways * (count - 1)
    if angle > TILT_TOLERANCE_DEGREES and drift > TILT_TOLERANCE_MM:
        raise InputError(
            f"{file.file_name}: expected slices stacked along their normal, received a gantry tilt"
            f" of {angle:.1f} degrees ({sideways:.2f} mm sideways per slice, {drift:.1f} mm in"
            " all); resample the series to an upright NIfTI first"
        )


def _check_sideways(
    files: list[ScannedFile], positions: NDArray[np.float64], step: NDArray[np.float64]
) -> None:
    line = positions[0] + np.arange(len(files))[:, None] * step
    offset = positions - line
    direction = step / np.linalg.norm(step)
    sideways = np.linalg.norm(offset - (offset @ direction)[:, None] * direction, axis=1)
    worst = int(np.argmax(sideways))
    if sideways[worst] > SIDEWAYS_TOLERANCE_MM:
        raise InputError(
            f"{files[worst].file_name}: expected slices on one straight line, received one shifted"
            f" sideways by {sideways[worst]:.2f} mm; take it out of the series or pass each stack"
            " in a folder of its own"
        )


def _most_frequent(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return Counter(values).most_common(1)[0][0]
