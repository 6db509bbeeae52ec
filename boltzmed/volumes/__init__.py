"""The only door to disk images: NIfTI in and out, DICOM series in, DICOM segmentations out."""

from __future__ import annotations

from boltzmed.volumes.dicom_ct_series import write_ct_series
from boltzmed.volumes.dicom_files import list_series
from boltzmed.volumes.dicom_identity import read_identity
from boltzmed.volumes.dicom_segmentation import CodedTerm, Segment, write_segmentation
from boltzmed.volumes.nifti import map_nifti, write_image, write_mask
from boltzmed.volumes.picture import read_picture
from boltzmed.volumes.volume import read_volume

__all__ = [
    "CodedTerm",
    "Segment",
    "list_series",
    "map_nifti",
    "read_identity",
    "read_picture",
    "read_volume",
    "write_ct_series",
    "write_image",
    "write_mask",
    "write_segmentation",
]
