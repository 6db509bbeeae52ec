"""The series of a folder, told by its first DICOM file."""

from __future__ import annotations

import pydicom

from boltzmed.volumes import read_identity


def test_the_first_dicom_file_speaks_for_its_folder(series, edit):
    expected = str(pydicom.dcmread(series / "slice_0001.dcm").SeriesInstanceUID)
    (series / "a note.txt").write_text("not DICOM")
    (series / ".hidden").write_bytes((series / "slice_0002.dcm").read_bytes())
    (series / "empty.dcm").write_bytes(b"")
    identity = read_identity(series)
    assert identity is not None and (identity.uid, identity.modality) == (expected, "CT")
    edit(series / "slice_0001.dcm", SeriesInstanceUID="1.2.3", Modality=None)
    identity = read_identity(str(series))
    assert identity is not None and (identity.uid, identity.modality) == ("1.2.3", "")


def test_other_folders_have_none(series, tmp_path):
    assert read_identity(tmp_path) is None  # the series lies in a folder below
    (tmp_path / "a note.txt").write_text("not DICOM")
    assert read_identity(tmp_path) is None
