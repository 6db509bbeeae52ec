"""Finding series in folders and zips."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite

from boltzmed.errors import InputError
from boltzmed.volumes import list_series, read_volume, write_ct_series


def test_several_series_are_listed_and_picked(
    series: Path, hu: np.ndarray, affine_ras: np.ndarray
) -> None:
    write_ct_series(hu[..., :3] + 7, affine_ras, series / "second", seed=8)
    first, second = list_series(series)
    assert (first.num_images, second.num_images) == (5, 3)
    assert (first.modality, first.rows, first.columns, first.row_gap_mm) == ("CT", 6, 7, 0.8)
    with pytest.raises(InputError) as caught:
        read_volume(series)
    message = str(caught.value)
    assert message.startswith("study: expected one DICOM series, received 2; pick one by its UID")
    assert f"{second.uid} (CT, 3 images of 7 x 6, 0.7 x 0.8 mm)" in message and first.uid in message
    assert "Phantom" not in message and "\n" not in message
    np.testing.assert_array_equal(
        np.asarray(read_volume(series, series_uid=second.uid)[0]), hu[..., :3] + 7
    )
    np.testing.assert_array_equal(np.asarray(read_volume(series, series_uid=first.uid)[0]), hu)
    with pytest.raises(
        InputError, match=r"expected a DICOM series with UID 1\.2\.3, received none; pick one of"
    ):
        read_volume(series, series_uid="1.2.3")


def test_other_files_are_passed_over(series: Path, hu: np.ndarray) -> None:
    (series / "notes.txt").write_text("no image")
    (series / ".hidden.dcm").write_bytes(b"\0" * 128 + b"DICM garbage")
    (series / "noise").write_bytes(b"\x08\x00" + bytes(range(250)))
    (series / "empty").write_bytes(b"")
    report = dcmread(series / "slice_0001.dcm")
    for keyword in ("PixelData", "Rows", "Columns"):
        del report[keyword]
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.104.1"  # encapsulated PDF
    report.SeriesInstanceUID = "1.2.3"
    report.save_as(series / "report.dcm")
    np.testing.assert_array_equal(np.asarray(read_volume(series)[0]), hu)
    for path in series.glob("slice*"):
        path.unlink()
    with pytest.raises(
        InputError, match=r"^study: .*received only 1 Encapsulated PDF \(report\.dcm\)"
    ):
        read_volume(series)


def test_empty_and_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="received an empty folder"):
        read_volume(tmp_path)
    (tmp_path / "a.txt").write_text("no image")
    with pytest.raises(InputError, match="received 1 files that are not DICOM"):
        read_volume(tmp_path)


def test_header_that_is_cut_off_is_named_not_passed_over(series: Path) -> None:
    path = series / "slice_0005.dcm"  # the top slice: without it the others would make a volume
    content = path.read_bytes()
    for kept in (0, 300, 500, 700, 1000, 1200):
        path.write_bytes(content[:kept])
        with pytest.raises(InputError, match=r"^slice_0005\.dcm: ") as caught:
            read_volume(series)
        assert "\n" not in str(caught.value)


def test_malformed_number_is_named(series: Path) -> None:
    path = series / "slice_0002.dcm"
    path.write_bytes(path.read_bytes().replace(b"0.8\\0.7", b"0.8\\abc"))
    with pytest.raises(
        InputError, match=r"^slice_0002\.dcm: expected 2 numbers in PixelSpacing, received others"
    ):
        read_volume(series)


def test_file_without_preamble(series: Path, hu: np.ndarray) -> None:
    for index, path in enumerate(sorted(series.iterdir())):
        dataset = dcmread(path)
        bare = Dataset()
        bare.update(dataset)
        dcmwrite(path, bare, implicit_vr=bool(index % 2), little_endian=True)
        assert path.read_bytes()[:2] == b"\x08\x00"
    np.testing.assert_array_equal(np.asarray(read_volume(series)[0]), hu)


def test_damaged_zips_are_refused(series: Path, tmp_path: Path) -> None:
    pack = tmp_path / "pack.zip"
    pack.write_bytes(b"no zip at all")
    with pytest.raises(InputError, match=r"^pack\.zip: expected a zip with a DICOM series"):
        read_volume(pack)
    with zipfile.ZipFile(pack, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(series.iterdir()):
            archive.write(path, path.name)
        offset = archive.getinfo("slice_0003.dcm").header_offset
    content = bytearray(pack.read_bytes())
    content[offset + 200 : offset + 260] = bytes(60)
    pack.write_bytes(content)
    with pytest.raises(InputError, match=r"^slice_0003\.dcm: ") as caught:
        read_volume(pack)
    assert "\n" not in str(caught.value)
