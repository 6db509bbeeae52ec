"""Which series a folder holds, read from one file: a thousand series are listed without a scan."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread

from boltzmed.volumes.dicom_files import BROKEN_DICOM
from boltzmed.volumes.silence import silent_headers

_TAGS = ["SeriesInstanceUID", "Modality"]


@dataclass(frozen=True)
class SeriesIdentity:
    """What one DICOM file says of its series; "" where it says nothing.

    Attributes:
        uid: SeriesInstanceUID, for matching, not for messages.
        modality: Modality, such as "CT".
    """

    uid: str
    modality: str


def read_identity(folder: str | os.PathLike[str]) -> SeriesIdentity | None:
    """Return the identity of the first DICOM file, by name, in a folder itself; None without one.

    Files that are not DICOM (PS3.10 7.1) are passed over, and so is a broken one: reading the
    series names it.
    """
    with silent_headers():
        for path in sorted(Path(folder).iterdir()):
            if path.name.startswith(".") or not path.is_file():
                continue
            try:
                header = dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
                uid = str(header.get("SeriesInstanceUID") or "")
                return SeriesIdentity(uid, str(header.get("Modality") or ""))
            except (*BROKEN_DICOM, OSError):
                continue
    return None
