"""From a DICOM object's pixel data to modality values (HU for CT)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_fragmented_frames
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from boltzmed.errors import InputError, one_line

# JPEG syntaxes whose code stream ends with the marker FF D9; a stream without it was cut off.
_JPEG_FAMILY = "1.2.840.10008.1.2.4."
_END_OF_IMAGE = b"\xff\xd9"

# JPEG processes that may hold twelve bits: extended sequential and full progression (PS3.5 8.2.1).
_TWELVE_BIT_JPEG = ("1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55")

# What describes the pixel data itself (PS3.3 C.7.6.3), all that a decoder has to know.
_PIXEL_DESCRIPTION = (
    *("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit"),
    "PixelRepresentation",
)

# Type 1 attributes (PS3.3 C.7.6.3) that some writers leave out, and their usual values.
_USUAL_DESCRIPTION = {
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "PixelRepresentation": 0,
}


# What pydicom and its plugins raise on pixels that they cannot decode.
_UNDECODED = (*(ValueError, RuntimeError, AttributeError, OSError, EOFError, IndexError),)


def read_pixels(dataset: Dataset, file_name: str) -> NDArray[np.float32]:
    """Return the modality values (rows, columns) float32 of a single-frame object.

    They are the stored values, rescaled (PS3.3 C.11.1).

    pydicom decodes what it can (Pillow and pyjpegls behind it); the rest of the compressed syntaxes
    go through SimpleITK's GDCM. MONOCHROME1 changes how values are shown, not what they are, and is
    not inverted. Bits beyond BitsStored are not part of a value.

    Raises:
        InputError: no pixels, cut off, or a transfer syntax nobody here decodes; the line names the
            syntax.
    """
    syntax = _transfer_syntax(dataset)
    if "PixelData" not in dataset:
        raise InputError(
            f"{file_name}: expected pixel data, received none; copy the file again or take it out"
        )
    for keyword, usual in _USUAL_DESCRIPTION.items():
        if keyword not in dataset:
            setattr(dataset, keyword, usual)
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    stored = _decode(dataset, syntax, file_name)
    expected = (int(dataset.Rows), int(dataset.Columns))
    if stored.shape != expected:
        raise InputError(
            f"{file_name}: expected {expected} pixels, received {stored.shape}; copy the file again"
        )
    values = _rescale(stored, dataset, file_name)
    if not np.isfinite(values).all():
        raise InputError(
            f"{file_name}: expected finite values, received NaN or infinity; export the series"
            " again"
        )
    return values


def _decode(dataset: Dataset, syntax: UID, file_name: str) -> NDArray[Any]:
    """Return the stored values, by pydicom where it can, else by GDCM."""
    reason = ""
    # Twelve-bit JPEG is beyond Pillow, which says so on the terminal: it is not tried.
    if syntax not in _TWELVE_BIT_JPEG or int(dataset.get("BitsAllocated") or 16) == 8:
        try:
            return np.asarray(dataset.pixel_array)
        except _UNDECODED as error:
            reason = one_line(error)
    if not syntax.is_encapsulated:
        raise InputError(
            f"{file_name}: expected {int(dataset.Rows)} x {int(dataset.Columns)} whole pixels,"
            " received data that is cut off or does not fit its header; copy the file again"
        )
    try:
        return _decode_by_gdcm(dataset, syntax)
    except (RuntimeError, ValueError, OSError, AttributeError) as error:
        detail = ""
        # pydicom's reason helps for the syntax that it decodes, unless a plugin is "missing".
        if reason and syntax == JPEGBaseline8Bit and "missing" not in reason:
            detail = f" ({reason[:160]})"
        raise InputError(
            f"{file_name}: expected pixels that pydicom or GDCM can decode, received {syntax.name}"
            f" ({syntax}), cut off or not supported{detail}; copy the file again, or convert it to"
            " Explicit VR Little Endian"
        ) from error


def _decode_by_gdcm(dataset: Dataset, syntax: UID) -> NDArray[Any]:
    """Return the stored values through SimpleITK.

    It reads a bare copy of the pixels, so that no other header field changes the values.
    """
    import SimpleITK

    sitk: Any = SimpleITK  # its functions have no types
    frame = b"".join(next(generate_fragmented_frames(dataset.PixelData, number_of_frames=1)))
    if syntax.startswith(_JPEG_FAMILY) and _END_OF_IMAGE not in frame[-4:]:
        raise ValueError("the compressed stream ends before its end marker")
    bare = Dataset()
    for keyword in _PIXEL_DESCRIPTION:
        setattr(bare, keyword, dataset.get(keyword))
    bare.PhotometricInterpretation = "MONOCHROME2"
    bare.SOPClassUID = SecondaryCaptureImageStorage
    bare.SOPInstanceUID = generate_uid()
    bare.Modality = "OT"
    bare.PixelData = encapsulate([frame])
    bare["PixelData"].VR = "OB"
    bare["PixelData"].is_undefined_length = True
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = syntax
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slice.dcm"
        bare.save_as(path, enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        stored: NDArray[Any] = sitk.GetArrayFromImage(reader.Execute())[0]
        return stored


def _rescale(stored: NDArray[Any], dataset: Dataset, file_name: str) -> NDArray[np.float32]:
    if dataset.get("ModalityLUTSequence"):
        return np.asarray(apply_modality_lut(stored, dataset), dtype=np.float32)
    slope = _number(dataset, "RescaleSlope", 1.0)
    intercept = _number(dataset, "RescaleIntercept", 0.0)
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise InputError(
            f"{file_name}: expected a rescale slope other than 0, received slope {slope:g} and"
            f" intercept {intercept:g}; export the series again"
        )
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def _number(dataset: Dataset, keyword: str, default: float) -> float:
    try:
        value = dataset.get(keyword)
        return default if value in (None, "") else float(value)
    except (TypeError, ValueError):
        return float("nan")


def _transfer_syntax(dataset: Dataset) -> UID:
    """Return the syntax in the file meta group, else the one that the data set was parsed by."""
    meta = getattr(dataset, "file_meta", None)
    if meta is not None and meta.get("TransferSyntaxUID"):
        return UID(str(meta.TransferSyntaxUID))
    implicit, little_endian = dataset.original_encoding
    if implicit is not False:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian
