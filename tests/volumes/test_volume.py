"""Paths that lead to no volume."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltzmed.errors import InputError
from boltzmed.volumes import read_volume


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "missing.nii.gz",
            None,
            r"^missing\.nii\.gz: expected a file or folder, received a path that does not exist",
        ),
        (
            "a.mha",
            b"ObjectType = Image",
            r"^a\.mha: expected \.nii, \.nii\.gz, or a folder .* received another kind",
        ),
        ("a.zip", b"", r"^a\.zip: expected a zip with a DICOM series"),
    ],
)
def test_paths_that_are_no_study(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        read_volume(tmp_path / name)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_one_dicom_file_is_no_series(series: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"^slice_0001\.dcm: expected a whole DICOM series, received one DICOM file",
    ):
        read_volume(series / "slice_0001.dcm")


def test_case_is_named_after_the_folder_even_from_within(
    series: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(series)
    assert read_volume(".").meta["case"] == "study"
    assert read_volume(str(series) + "/").meta["case"] == "study"
