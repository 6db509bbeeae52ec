"""Which series a folder holds, told by one file of it: collections of a thousand series are listed
without a scan.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from boltzmed.volumes.silence import silent_headers


@dataclass(frozen=True)
class SeriesIdentity:
    """What one DICOM file says of its series; "" where it says nothing. The UID is for matching,
    not for messages.
    """

    uid: str
    modality: str


def read_identity(folder: str | os.PathLike[str]) -> SeriesIdentity | None:
    """The identity of the first DICOM file, by name, that lies in a folder itself; None where none
    does.

    Files that are not DICOM (PS3.10 7.1) are passed over, and so is a broken one: reading the
    series names it.
    """
    with silent_headers():
        for path in sorted(
            path for path in Path(folder).iterdir() if path.is_file() and path.name[0] != "."
        ):
            try:
                header = dcmread(
                    path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "Modality"]
                )
                return SeriesIdentity(
                    str(header.get("SeriesInstanceUID") or ""), str(header.get("Modality") or "")
                )
            except (
                InvalidDicomError,
                OSError,
                EOFError,
                ValueError,
                KeyError,
                AttributeError,
                TypeError,
            ):
                continue
    return None
