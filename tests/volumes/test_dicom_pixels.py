"""Stored bits to modality values, in every transfer syntax at hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import MPEG2MPML, JPEG2000Lossless, JPEGLosslessSV1, RLELossless

from boltzmed.errors import InputError
from boltzmed.volumes import read_volume

#: Largest difference to the uncompressed slice in HU; lossy files are allowed what they lose.
SYNTAXES = {
    "1.2.840.10008.1.2": 0, "1.2.840.10008.1.2.1": 0, "1.2.840.10008.1.2.1.99": 0,
    "1.2.840.10008.1.2.2": 0, "1.2.840.10008.1.2.5": 0, "1.2.840.10008.1.2.4.57": 0,
    "1.2.840.10008.1.2.4.70": 0, "1.2.840.10008.1.2.4.80": 0,
    "1.2.840.10008.1.2.4.90": 0, "1.2.840.10008.1.2.4.81": 1, "1.2.840.10008.1.2.4.91": 5,
    "1.2.840.10008.1.2.4.50": 65, "1.2.840.10008.1.2.4.51": 36, "1.2.840.10008.1.2.4.53": 36,
    "1.2.840.10008.1.2.4.55": 36,
}  # fmt: skip


def test_every_transfer_syntax_is_decoded(shared_data, tmp_path: Path) -> None:
    folder = shared_data("ct_transfer_syntaxes")
    files = sorted(folder.glob("*.dcm"))
    assert len(files) == 16
    reference = None
    for path in [folder / "CTImage.dcm", *files] if (folder / "CTImage.dcm").exists() else files:
        alone = tmp_path / path.stem
        alone.mkdir(exist_ok=True)
        shutil.copy(path, alone)
        voxels = np.asarray(read_volume(alone)[0, ..., 0])
        reference = voxels if reference is None else reference
        meta = getattr(dcmread(path, force=True, stop_before_pixels=True), "file_meta", {})
        syntax = str(meta.get("TransferSyntaxUID", "1.2.840.10008.1.2"))
        assert np.abs(voxels - reference).max() <= SYNTAXES[syntax], syntax
        assert voxels.min() < -2900 and np.abs(voxels - reference).mean() < 20


def rewrite(series: Path, stored: np.ndarray, **values: object) -> np.ndarray:
    """Give every slice the same stored values (rows, columns) and attributes; read the first one
    back.
    """
    for path in series.iterdir():
        dataset = dcmread(path)
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        dataset.PixelData = stored.tobytes()
        dataset.RescaleIntercept = 0
        dataset.save_as(path)
    return np.asarray(read_volume(series)[0, ..., 0]).T


def test_signs_and_depths(series: Path) -> None:
    values = np.arange(42).reshape(6, 7)
    for dtype, bits, signed in (
        ("<u2", 16, 0),
        ("<i2", 16, 1),
        ("<u2", 12, 0),
        ("<i2", 12, 1),
        ("u1", 8, 0),
    ):
        stored = (values - 20 * signed).astype(dtype)
        allocated = 8 * stored.itemsize
        read = rewrite(
            series,
            stored,
            BitsAllocated=allocated,
            BitsStored=bits,
            HighBit=bits - 1,
            PixelRepresentation=signed,
        )
        np.testing.assert_array_equal(read, stored)


def test_bits_beyond_bits_stored_are_no_value(series: Path) -> None:
    stored = np.arange(42, dtype="<u2").reshape(6, 7)
    with_overlay = stored | np.uint16(0xF000)
    read = rewrite(series, with_overlay, BitsStored=12, HighBit=11, PixelRepresentation=0)
    np.testing.assert_array_equal(read, stored)


def test_monochrome1_changes_the_display_not_the_values(series: Path, hu: np.ndarray, edit) -> None:
    for path in series.iterdir():
        edit(path, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(np.asarray(read_volume(series)[0]), hu)


def test_compressed_series_equals_the_plain_one(series: Path, hu: np.ndarray) -> None:
    for path in series.iterdir():
        dataset = dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)
    np.testing.assert_array_equal(np.asarray(read_volume(series)[0]), hu)


def test_cut_off_pixels_are_refused(series: Path) -> None:
    content = (series / "slice_0004.dcm").read_bytes()
    (series / "slice_0004.dcm").write_bytes(content[:-20])
    with pytest.raises(InputError, match=r"^slice_0004\.dcm: .*cut off"):
        read_volume(series)


def test_missing_pixels_are_refused(series: Path, edit) -> None:
    edit(series / "slice_0004.dcm", PixelData=None)
    with pytest.raises(InputError, match=r"^slice_0004\.dcm: expected pixel data, received none"):
        read_volume(series)


@pytest.mark.parametrize("syntax", [MPEG2MPML, JPEGLosslessSV1, JPEG2000Lossless])
def test_what_cannot_be_decoded_is_named_with_its_syntax(series: Path, syntax) -> None:
    for path in series.iterdir():
        dataset = dcmread(path)
        dataset.PixelData = encapsulate([b"\xff\xd8 this is no image \xff\xd9"])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path)
    with pytest.raises(InputError, match=rf"^slice_0001\.dcm: .*{syntax}") as caught:
        read_volume(series)
    assert "\n" not in str(caught.value)


def test_cut_off_jpeg_is_not_filled_with_grey(shared_data, tmp_path: Path) -> None:
    for syntax in ("70", "51", "90", "80", "50"):
        (path,) = shared_data("ct_transfer_syntaxes").glob(f"*1.2.4.{syntax}.dcm")
        dataset = dcmread(path)
        frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
        dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
        dataset["PixelData"].is_undefined_length = True
        (tmp_path / syntax).mkdir()
        dataset.save_as(tmp_path / syntax / "cut.dcm")
        with pytest.raises(InputError, match=r"^cut\.dcm: .*cut off"):
            read_volume(tmp_path / syntax)
