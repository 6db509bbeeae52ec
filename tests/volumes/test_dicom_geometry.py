"""Each way a series fails to be a regular volume, with the file and the millimetres."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from boltzmed.errors import InputError
from boltzmed.volumes import read_volume


def refuse(folder: Path, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        read_volume(folder)
    assert "\n" not in str(caught.value)
    assert "Phantom" not in str(caught.value)


def move(path: Path, *offset_mm: float) -> None:
    dataset = pydicom.dcmread(path)
    dataset.ImagePositionPatient = [
        round(float(p) + o, 6) for p, o in zip(dataset.ImagePositionPatient, offset_mm, strict=True)
    ]
    dataset.save_as(path)


def test_missing_slices(series: Path) -> None:
    (series / "slice_0003.dcm").unlink()
    refuse(
        series,
        r"^slice_0004\.dcm: expected a slice gap of 2\.5 mm, received 5 mm behind slice_0002\.dcm"
        r" \(a"
        r" slice is",
    )
    (series / "slice_0002.dcm").unlink()
    shutil.copy(series / "slice_0005.dcm", series / "slice_0006.dcm")
    move(series / "slice_0006.dcm", 0, 0, 2.5)
    refuse(
        series,
        r"^slice_0004\.dcm: .*received 7\.5 mm behind slice_0001\.dcm \(2 slices are missing\)",
    )


def test_uneven_spacing(series: Path) -> None:
    move(series / "slice_0005.dcm", 0, 0, 0.7)
    refuse(
        series,
        r"^slice_0005\.dcm: expected a slice gap of 2\.5 mm, received 3\.2 mm .*uneven spacing",
    )


def test_rounded_positions_are_no_gaps(series: Path, hu: np.ndarray) -> None:
    move(series / "slice_0003.dcm", 0, 0, 0.04)
    move(series / "slice_0002.dcm", 0.001, 0, -0.04)
    np.testing.assert_array_equal(np.asarray(read_volume(series)[0]), hu)


def test_missing_one_of_very_thin_slices(series: Path, edit) -> None:
    for index, path in enumerate(sorted(series.iterdir())):
        position = [0, 0, 0.1 * (index + (index > 2))]
        edit(path, ImagePositionPatient=position)
    refuse(series, r"^slice_0004\.dcm: expected a slice gap of 0\.1 mm, received 0\.2 mm")


def test_two_slices_at_one_position(series: Path, edit) -> None:
    shutil.copy(series / "slice_0002.dcm", series / "copy.dcm")
    refuse(
        series,
        r"^slice_0002\.dcm: .*where copy\.dcm lies already \(-98\.25 mm .*6 slices at 5 .*remove"
        r" the copies",
    )
    edit(series / "copy.dcm", SOPInstanceUID="1.2.3")
    refuse(series, r"keep one time point, echo or reconstruction")
    (series / "copy.dcm").unlink()
    (series / "more").mkdir()
    shutil.copy(series / "slice_0002.dcm", series / "more")
    refuse(series, r"slice_0002\.dcm: .*where slice_0002\.dcm of another folder lies already")


def test_gantry_tilt(series: Path) -> None:
    for index, path in enumerate(sorted(series.iterdir())):
        move(path, 0, 0.5 * index, 0)
    refuse(series, r"gantry tilt of 11\.3 degrees \(0\.50 mm sideways per slice, 2\.0 mm in all\)")


def test_one_slice_shifted_sideways(series: Path) -> None:
    move(series / "slice_0003.dcm", 4, 0, 0)
    refuse(series, r"^slice_0003\.dcm: .*shifted sideways by 4\.00 mm")


def test_another_orientation_or_a_localizer(series: Path, edit) -> None:
    edit(series / "slice_0004.dcm", ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    refuse(
        series,
        r"^slice_0004\.dcm: expected one orientation, received 1 of 5 slices turned "
        r".*90\.0 degrees",
    )
    edit(series / "slice_0004.dcm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    refuse(series, r"^slice_0004\.dcm: .*received a localizer among them")


def test_another_matrix_or_pixel_spacing(series: Path, edit) -> None:
    edit(series / "slice_0001.dcm", PixelSpacing=[0.8, 0.9])
    refuse(
        series,
        r"^slice_0001\.dcm: expected pixels of 0\.7 x 0\.8 mm .* received 0\.9 x 0\.8 mm",
    )
    edit(series / "slice_0001.dcm", Rows=3, Columns=14)
    refuse(series, r"^slice_0001\.dcm: expected 7 x 6 pixels .* received 14 x 3")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            {"ImagePositionPatient": None},
            "expected 3 numbers in ImagePositionPatient, received none",
        ),
        (
            {"ImageOrientationPatient": [1, 0, 0]},
            "expected 6 numbers in ImageOrientationPatient, received others",
        ),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "perpendicular"),
        ({"PixelSpacing": None}, "expected 2 numbers in PixelSpacing"),
        ({"PixelSpacing": [0.8, 0]}, "positive PixelSpacing"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, r"colour pixels \(RGB\)"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour pixels"),
        ({"NumberOfFrames": 7}, r"multi-frame object \(CT Image Storage, 7 frames\)"),
        ({"RescaleSlope": 0}, "rescale slope other than 0"),
    ],
)
def test_headers_that_do_not_place_a_slice(series: Path, edit, values: dict, reason: str) -> None:
    edit(series / "slice_0002.dcm", **values)
    refuse(series, rf"^slice_0002\.dcm: .*{reason}")
