"""A DICOM series in a folder or zip as one volume."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from monai.data.meta_tensor import MetaTensor
from pydicom import Dataset

from boltzmed.errors import InputError
from boltzmed.volumes.dicom_files import DicomFolder, ScannedFile, pick_series
from boltzmed.volumes.dicom_geometry import SliceStack, stack_slices
from boltzmed.volumes.dicom_pixels import read_pixels
from boltzmed.volumes.nifti import as_volume, case_name

MODALITIES = ("CT", "MR")
"""Modalities that dataset cards have intensity windows for."""


def read_dicom_series(path: str | os.PathLike[str], *, series_uid: str | None = None) -> MetaTensor:
    """Read a DICOM series as (1, I, J, K) float32.

    I is the pixel's column, J its row, K the slice. Slices ascend along the normal (row direction x
    column direction), whatever their names or numbers. Values are rescaled slice by slice. See
    `boltzmed.volumes.dicom_geometry` for what makes a regular volume.

    Meta: ``filename_or_obj``, ``case``, ``modality`` ("CT", "MR" or None), ``source_format``
    ("dicom" or "dicom-zip") and ``source``: where `write_segmentation` finds the headers again. The
    last holds a UID; keep it out of logs.

    Raises:
        InputError: no series, several of them, no regular volume, neither CT nor MR, or pixels
            nobody here decodes.
    """
    path = Path(path)
    with DicomFolder(path) as folder:
        uid, files = pick_series(folder, series_uid)
        stack = stack_slices(files)
        header = stack.files[0].header
        # (K, J, I) in memory is (I, J, K) with I fastest, as in a NIfTI file.
        voxels = np.empty(
            (len(stack.files), int(header.Rows), int(header.Columns)), dtype=np.float32
        )
        for index, file in enumerate(stack.files):
            voxels[index] = read_pixels(folder.read(file.name), file.file_name)
    meta = {
        "filename_or_obj": str(path),
        "case": case_name(path),
        "modality": _modality(stack.files, case_name(path)),
        "source_format": "dicom" if path.is_dir() else "dicom-zip",
        "source": {"path": str(path.resolve()), "series_uid": uid},
    }
    return as_volume(voxels.transpose(2, 1, 0), stack.affine_ras, meta)


def read_source_headers(volume: MetaTensor) -> list[Dataset]:
    """Return the full headers (no pixels) of the slices a volume was read from, along its K axis.

    Raises:
        InputError: the volume is not from DICOM, or its series is no longer what was read.
    """
    source = volume.meta.get("source")
    case = volume.meta.get("case", "volume")
    if not source:
        raise InputError(
            f"{case}: expected a volume read from a DICOM series, received one from"
            f" {volume.meta.get('source_format')}; write its masks as NIfTI"
        )
    with DicomFolder(str(source["path"])) as folder:
        _, files = pick_series(folder, str(source["series_uid"]))
        stack = stack_slices(files)
        if not _is_same_stack(stack, volume):
            raise InputError(
                f"{case}: expected the series that was read, received a changed one; read the study"
                " again"
            )
        return [folder.read(file.name, pixels=False) for file in stack.files]


def _is_same_stack(stack: SliceStack, volume: MetaTensor) -> bool:
    header = stack.files[0].header
    shape = (1, int(header.Columns), int(header.Rows), len(stack.files))
    return tuple(volume.shape) == shape and np.allclose(
        stack.affine_ras, np.asarray(volume.affine), rtol=0, atol=1e-6
    )


def _modality(files: list[ScannedFile], case: str) -> str | None:
    """Return the modality in the headers; None where they say nothing, "other", or two things."""
    header_modalities = {str(file.header.get("Modality") or "OT") for file in files} - {"OT"}
    if others := sorted(header_modalities - set(MODALITIES)):
        # What is no code of the standard may be anything, a name too: it is not quoted.
        is_code = others[0].isalpha() and len(others[0]) <= 4
        received = others[0] if is_code else "another one"
        raise InputError(
            f"{case}: expected images of modality CT or MR, received {received}; pick another"
            " series"
        )
    return header_modalities.pop() if len(header_modalities) == 1 else None
