"""Any study on disk as one volume."""

from __future__ import annotations

import os
from pathlib import Path

from monai.data.meta_tensor import MetaTensor

from boltzmed.errors import InputError
from boltzmed.volumes.dicom_series import MODALITIES, read_dicom_series
from boltzmed.volumes.nifti import NIFTI_SUFFIXES, read_nifti


def read_volume(
    path: str | os.PathLike[str],
    *,
    series_uid: str | None = None,
    modality: str | None = None,
    channel: int | None = None,
) -> MetaTensor:
    """Read a .nii or .nii.gz file, or a folder or .zip that holds a DICOM series.

    Args:
        path: the study. A folder is searched with its subfolders.
        series_uid: which DICOM series, where there are several.
        modality: "CT" or "MR" where the file does not say; it must agree with a file that does.
        channel: which one, where a NIfTI file holds several (I, J, K, C).

    Returns:
        (1, I, J, K) float32 in the array order of the file, finite everywhere, with ``.affine`` to
        RAS mm (float64) and the meta keys ``filename_or_obj``, ``case``, ``modality`` ("CT", "MR"
        or None) and ``source_format`` ("nifti", "dicom" or "dicom-zip"), besides what the writers
        of this package need.

    Raises:
        InputError: the path is missing, of another kind, or holds no regular finite volume. One
            line that says what was expected, what came, in which file, and what to do.
    """
    path = Path(path)
    if modality is not None and modality not in MODALITIES:
        raise InputError(
            f"{path.name}: expected modality CT or MR, received {modality!r}; leave it out or"
            " correct it"
        )
    if not path.exists():
        raise InputError(
            f"{path.name}: expected a file or folder, received a path that does not exist: {path};"
            " check it"
        )
    volume = _read(path, series_uid, channel)
    header_modality = volume.meta["modality"]
    if modality is not None and header_modality not in (None, modality):
        raise InputError(
            f"{path.name}: expected modality {modality}, received {header_modality} in its DICOM"
            " headers; leave the modality out"
        )
    volume.meta["modality"] = modality or header_modality
    return volume


def _read(path: Path, series_uid: str | None, channel: int | None) -> MetaTensor:
    """Read a study by the reader of its format, which its name or first bytes tell."""
    name = path.name.lower()
    if path.is_dir() or name.endswith(".zip"):
        if channel is not None:
            raise InputError(
                f"{path.name}: expected a NIfTI file to pick channel {channel} of, received DICOM;"
                " leave it out"
            )
        return read_dicom_series(path, series_uid=series_uid)
    if name.endswith(NIFTI_SUFFIXES):
        return read_nifti(path, channel=channel)
    if _is_dicom(path):
        raise InputError(
            f"{path.name}: expected a whole DICOM series, received one DICOM file; pass its folder"
        )
    raise InputError(
        f"{path.name}: expected .nii, .nii.gz, or a folder or .zip with a DICOM series, received"
        " another kind of file; convert it to NIfTI"
    )


def _is_dicom(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"
