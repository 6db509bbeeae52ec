"""A CT volume out as a DICOM series, for phantoms: nothing in it comes from a patient."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

from boltzmed.errors import OutputError
from boltzmed.files import whole_folder
from boltzmed.geometry import ImagePlane, check_affine, image_plane, shear_degrees, spacing_mm

_RESCALE_INTERCEPT_HU = -1024  # what scanners write; stored values are HU + 1024
_LARGEST_SHEAR_DEGREES = 0.05  # half of what reading a series tolerates
_DATE = "20000101"
_TIME = "120000"


def write_ct_series(
    image_hu: ArrayLike, affine_ras: ArrayLike, folder: str | os.PathLike[str], *, seed: int = 0
) -> Path:
    """Write a volume as CT Image Storage (PS3.3 A.3), one file per slice.

    `read_volume` returns the same voxels again.

    Args:
        image_hu: (I, J, K) in HU, rounded to whole numbers, from -33792 to 31743. I becomes the
            columns, J the rows.
        affine_ras: right-handed, perpendicular axes (any rotation), mm.
        folder: new or empty.
        seed: names the fictitious patient "Phantom^Seed…". All UIDs follow from the seed and the
            content, so the same phantom has the same bytes.

    Raises:
        ValueError: not three axes, voxels out of range or not finite, a left-handed or sheared
            affine.
        OutputError: the folder holds something already, is read-only or full.
    """
    folder = Path(folder)
    stored = _stored_values(np.asarray(image_hu), folder.name)
    affine = _check_stackable(affine_ras, folder.name)
    if folder.is_dir() and any(folder.iterdir()):
        raise OutputError(
            f"{folder.name}: expected a new or empty folder for a DICOM series, received files;"
            " choose another"
        )
    content = hashlib.sha256(stored.tobytes() + affine.tobytes()).hexdigest()
    with whole_folder(folder, temporary_inside=True) as temporary:
        for index in range(stored.shape[2]):
            plane = image_plane(affine, index)
            slice_gap_mm = spacing_mm(affine)[2]
            dataset = _slice_dataset(
                stored[:, :, index].T, plane, slice_gap_mm, seed, content, index
            )
            file = temporary / f"slice_{index + 1:04d}.dcm"
            dataset.save_as(file, enforce_file_format=True)
    return folder


def _stored_values(image_hu: NDArray[Any], name: str) -> NDArray[np.int16]:
    if image_hu.ndim != 3 or 0 in image_hu.shape:
        raise ValueError(
            f"{name}: expected an image of three axes, received shape {image_hu.shape}"
        )
    limits = np.iinfo(np.int16)
    lowest = limits.min + _RESCALE_INTERCEPT_HU
    highest = limits.max + _RESCALE_INTERCEPT_HU
    # NaN compares false, so the range is tested by what is inside.
    if not (lowest <= float(image_hu.min()) and float(image_hu.max()) <= highest):
        raise ValueError(
            f"{name}: expected finite HU from {lowest} to {highest}, received values beyond; clip"
            " them first"
        )
    whole: NDArray[np.int32] = np.rint(image_hu).astype(np.int32)
    return (whole - _RESCALE_INTERCEPT_HU).astype(np.int16)


def _check_stackable(affine_ras: ArrayLike, name: str) -> NDArray[np.float64]:
    affine = check_affine(affine_ras)
    if np.linalg.det(affine[:3, :3]) < 0:
        raise ValueError(
            f"{name}: expected a right-handed affine, received a left-handed one; flip one axis and"
            " its voxels"
        )
    if shear_degrees(affine) > _LARGEST_SHEAR_DEGREES:
        raise ValueError(
            f"{name}: expected perpendicular voxel axes, received a shear of"
            f" {shear_degrees(affine):.2f} degrees; resample it"
        )
    return affine


def _slice_dataset(
    stored: NDArray[np.int16],
    plane: ImagePlane,
    slice_gap_mm: float,
    seed: int,
    content: str,
    index: int,
) -> Dataset:
    """Return one CT image.

    Args:
        stored: (rows, columns) stored values.
        plane: where the slice lies.
        slice_gap_mm: distance of neighbouring slices.
        seed: the phantom's.
        content: digest of the whole volume, from which the UIDs follow.
        index: the slice's, from 0.
    """

    def make_uid(*parts: str) -> str:
        return generate_uid(entropy_srcs=["boltzmed phantom", str(seed), content, *parts])

    dataset = Dataset()
    _add_patient_and_study(dataset, seed)
    dataset.StudyInstanceUID = make_uid("study")
    dataset.SeriesInstanceUID = make_uid("series")
    dataset.FrameOfReferenceUID = make_uid("frame of reference")
    dataset.SOPInstanceUID = make_uid("instance", str(index))
    dataset.InstanceNumber = index + 1
    dataset.SliceThickness = DSfloat(slice_gap_mm, auto_format=True)
    dataset.SpacingBetweenSlices = DSfloat(slice_gap_mm, auto_format=True)
    dataset.ImagePositionPatient = _decimals(plane.position_lps)
    dataset.ImageOrientationPatient = _decimals(
        np.concatenate([plane.along_row_lps, plane.along_column_lps])
    )
    dataset.PixelSpacing = _decimals(np.array([plane.row_gap_mm, plane.column_gap_mm]))
    _add_pixels(dataset, stored)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _add_patient_and_study(dataset: Dataset, seed: int) -> None:
    """Add what all slices share: a fictitious patient, study, series and scanner."""
    dataset.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID = CTImageStorage
    for event in ("Study", "Series", "Acquisition", "Content"):
        setattr(dataset, f"{event}Date", _DATE)
        setattr(dataset, f"{event}Time", _TIME)
    dataset.AccessionNumber = ""
    dataset.Modality = "CT"
    dataset.Manufacturer = "boltzmed"
    dataset.ManufacturerModelName = "phantom"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "Phantom"
    dataset.SeriesDescription = f"Phantom of seed {seed}"
    dataset.PatientName = f"Phantom^Seed{seed}"
    dataset.PatientID = f"PHANTOM-{seed}"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    dataset.PatientPosition = "HFS"
    dataset.BodyPartExamined = "CHESTABDOMEN"
    dataset.KVP = ""
    dataset.PositionReferenceIndicator = ""
    dataset.StudyID = "1"
    dataset.SeriesNumber = 1
    dataset.AcquisitionNumber = 1


def _add_pixels(dataset: Dataset, stored: NDArray[np.int16]) -> None:
    """Add the stored values (rows, columns) and how they become HU (PS3.3 C.7.6.3, C.8.2.1)."""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated = 16
    dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.RescaleIntercept = _RESCALE_INTERCEPT_HU
    dataset.RescaleSlope = 1
    dataset.RescaleType = "HU"
    dataset.PixelData = np.ascontiguousarray(stored, dtype="<i2").tobytes()
    dataset["PixelData"].VR = "OW"


def _decimals(values: NDArray[np.float64]) -> list[DSfloat]:
    """Return decimal strings of at most 16 characters (VR DS). Adding 0 turns -0 into 0."""
    return [DSfloat(float(value) + 0.0, auto_format=True) for value in values]
