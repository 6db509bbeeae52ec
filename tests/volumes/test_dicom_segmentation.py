"""Segmentations out: written, read back, and read by others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
import torch
from pydicom import dcmread
from scipy.spatial.transform import Rotation

from boltzmed.errors import InputError, OutputError
from boltzmed.volumes import (
    CodedTerm,
    Segment,
    dicom_segmentation,
    read_volume,
    write_ct_series,
    write_image,
    write_segmentation,
)

KIDNEY = CodedTerm("64033007", "Kidney")
ORGAN = CodedTerm("123037004", "Anatomical Structure")
LEFT = CodedTerm("7771000", "Left")


def find_program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"needs the program {name}")
    return found


def make_masks(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Three masks (I, J, K): one on some slices, one that overlaps it, one empty."""
    first, second, empty = (np.zeros(shape, dtype=np.uint8) for _ in range(3))
    first[1:4, 2:5, 1:] = 1
    second[2:6, 1:3, : shape[2] - 1] = 1
    return [first, second, empty]


def read_back(path: Path, series: Path, number: int) -> np.ndarray:
    """(I, J, K) with K along the files sorted by name."""
    uids = [str(dcmread(file).SOPInstanceUID) for file in sorted(series.iterdir())]
    pixels = hd.seg.segread(path).get_pixels_by_source_instance(
        uids, segment_numbers=[number], assert_missing_frames_are_empty=True
    )
    return pixels[..., 0].transpose(2, 1, 0)


def errors_of(path: Path) -> list[str]:
    run = subprocess.run(
        [find_program("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False
    )
    return [line for line in (run.stdout + run.stderr).splitlines() if "Error" in line]


def test_overlapping_and_empty_segments_come_back(series: Path, tmp_path: Path) -> None:
    volume = read_volume(series)
    masks = make_masks(tuple(volume.shape[1:]))
    segments = [
        Segment("left kidney in abdominal CT", masks[0], ORGAN, KIDNEY, LEFT),
        Segment("lung nodule in chest CT", lambda: torch.as_tensor(masks[1])),
        Segment("nothing", masks[2].astype(bool)),
    ]
    path = write_segmentation(
        segments, volume, tmp_path / "out" / "seg.dcm", algorithm_version="0.1"
    )
    assert os.listdir(tmp_path / "out") == ["seg.dcm"]
    for number, mask in enumerate(masks, start=1):
        np.testing.assert_array_equal(read_back(path, series, number), mask)
    written, source = dcmread(path), dcmread(series / "slice_0001.dcm")
    assert written.SegmentationType == "BINARY" and written.SegmentsOverlap == "YES"
    assert written.NumberOfFrames == 8  # two masks of four slices; empty frames are left out
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert written[keyword].value == source[keyword].value
    assert written.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert written.SeriesInstanceUID != source.SeriesInstanceUID
    first, second, _ = written.SegmentSequence
    assert (first.SegmentLabel, first.SegmentAlgorithmType) == (
        "left kidney in abdominal CT",
        "AUTOMATIC",
    )
    code = first.SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("64033007", "SCT")
    assert code.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert second.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
    assert errors_of(path) == []


def test_frames_lie_where_their_slices_lie(series: Path, tmp_path: Path) -> None:
    volume = read_volume(series)
    mask = make_masks(tuple(volume.shape[1:]))[0]
    written = dcmread(write_segmentation([Segment("a", mask)], volume, tmp_path / "seg.dcm"))
    assert written.SegmentsOverlap == "NO"
    heights = [
        float(g.PlanePositionSequence[0].ImagePositionPatient[2])
        for g in written.PerFrameFunctionalGroupsSequence
    ]
    assert sorted(heights) == [-98.25, -95.75, -93.25, -90.75]
    measures = written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(v) for v in measures.PixelSpacing] == [0.8, 0.7]
    assert float(measures.SpacingBetweenSlices) == 2.5
    positions = [
        g.FrameContentSequence[0].DimensionIndexValues[1]
        for g in written.PerFrameFunctionalGroupsSequence
    ]
    assert len(set(positions)) == 4


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_found_is_a_valid_segmentation(series: Path, tmp_path: Path, count: int) -> None:
    volume = read_volume(series)
    empty = np.zeros(tuple(volume.shape[1:]), np.uint8)
    path = write_segmentation(
        [Segment(f"target {n}", empty) for n in range(count)], volume, tmp_path / "seg.dcm"
    )
    assert dcmread(path).NumberOfFrames == 5
    for number in range(1, count + 1):
        assert not read_back(path, series, number).any()
    assert errors_of(path) == []


def test_oblique_series_reads_the_same_in_dcmqi(tmp_path: Path) -> None:
    program = find_program("segimage2itkimage")
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [12, -25, 140], degrees=True).as_matrix() * [
        0.75,
        0.9,
        3.0,
    ]
    affine[:3, 3] = [10, -20, 30]
    random = np.random.default_rng(0)
    write_ct_series(np.zeros((9, 11, 6), np.int16), affine, tmp_path / "ct")
    masks = [(random.random((9, 11, 6)) > limit).astype(np.uint8) for limit in (0.5, 0.9)]
    volume = read_volume(tmp_path / "ct")
    path = write_segmentation(
        [Segment(f"target {n}", mask) for n, mask in enumerate(masks)], volume, tmp_path / "s.dcm"
    )
    (tmp_path / "out").mkdir()
    command = [
        program,
        "--inputDICOM",
        str(path),
        "--outputDirectory",
        str(tmp_path / "out"),
        "-t",
        "nifti",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    for number, mask in enumerate(masks, start=1):
        theirs = nib.load(tmp_path / "out" / f"{number}.nii.gz")
        ours = nib.load(
            write_image(mask.astype(np.int16), volume.affine, tmp_path / f"ours_{number}.nii")
        )
        theirs, ours = nib.as_closest_canonical(theirs), nib.as_closest_canonical(ours)
        np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-3)
        np.testing.assert_array_equal(
            np.asarray(theirs.dataobj) != 0, np.asarray(ours.dataobj) != 0
        )


def test_source_in_a_zip(series: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as pack:
        for path in series.iterdir():
            pack.write(path, path.name)
    volume = read_volume(tmp_path / "study.zip")
    mask = make_masks(tuple(volume.shape[1:]))[0]
    path = write_segmentation([Segment("a", mask)], volume, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read_back(path, series, 1), mask)


def test_labels_of_any_length_and_script(series: Path, tmp_path: Path) -> None:
    volume = read_volume(series)
    mask = make_masks(tuple(volume.shape[1:]))[0]
    label = "Läsion \\ 肺結節 " + "very " * 20 + "long"
    segment = dcmread(
        write_segmentation([Segment(label, mask)], volume, tmp_path / "seg.dcm")
    ).SegmentSequence[0]
    assert segment.SegmentLabel == segment.SegmentDescription[:64].strip()
    assert segment.SegmentDescription == " ".join(label.replace("\\", "/").split())


def test_headers_that_leave_things_out(series: Path, tmp_path: Path, edit) -> None:
    for path in series.iterdir():
        edit(
            path,
            PatientName=None,
            StudyID=None,
            SliceThickness="",
            StudyDate=None,
            ReferringPhysicianName=None,
        )
    volume = read_volume(series)
    mask = make_masks(tuple(volume.shape[1:]))[0]
    path = write_segmentation([Segment("a", mask)], volume, tmp_path / "seg.dcm")
    assert (
        float(
            dcmread(path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness
        )
        == 2.5
    )


def test_malformed_values_that_may_be_empty_become_so(series: Path, tmp_path: Path, edit) -> None:
    for path in series.iterdir():
        edit(path, PatientBirthDate="1960-05-17", PatientSex="f", StudyTime="noon", PatientID="P1")
    volume = read_volume(series)
    mask = make_masks(tuple(volume.shape[1:]))[0]
    path = write_segmentation([Segment("a", mask)], volume, tmp_path / "seg.dcm")
    written = dcmread(path)
    assert [
        written[name].value or "" for name in ("PatientBirthDate", "PatientSex", "StudyTime")
    ] == ["", "", ""]
    assert written.PatientID == "P1"
    np.testing.assert_array_equal(read_back(path, series, 1), mask)


def test_a_segments_region_is_written(series: Path, tmp_path: Path) -> None:
    volume = read_volume(series)
    mask = make_masks(tuple(volume.shape[1:]))[0]
    segment = Segment("nodule", mask, region=CodedTerm("39607008", "Lung"))
    written = dcmread(write_segmentation([segment], volume, tmp_path / "seg.dcm")).SegmentSequence[
        0
    ]
    assert written.AnatomicRegionSequence[0].CodeValue == "39607008"


def test_no_warning_quotes_a_patient(series: Path, tmp_path: Path, edit, capfd, caplog) -> None:
    for path in series.iterdir():
        edit(path, PatientName="Mustermann", PatientID="secret", FrameOfReferenceUID="1.2.secret.3")
    caplog.clear()
    caplog.set_level("DEBUG")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume = read_volume(series)
        empty = np.zeros(tuple(volume.shape[1:]), np.uint8)
        write_segmentation([Segment("a", empty)], volume, tmp_path / "seg.dcm")
    printed = capfd.readouterr()
    text = "".join([*(str(w.message) for w in caught), printed.out, printed.err, caplog.text])
    assert "Mustermann" not in text and "secret" not in text


def test_sources_without_uids_are_refused_with_the_reason(
    series: Path, tmp_path: Path, edit, shared_data
) -> None:
    for path in series.iterdir():
        edit(path, FrameOfReferenceUID=None)
    volume = read_volume(series)
    segment = Segment("a", make_masks(tuple(volume.shape[1:]))[0])
    with pytest.raises(
        InputError, match=r"^study: .*empty or missing FrameOfReferenceUID; write .* NIfTI"
    ):
        write_segmentation([segment], volume, tmp_path / "seg.dcm")
    for path in series.iterdir():
        edit(path, FrameOfReferenceUID="1.2.3", SOPInstanceUID="1.2.3")
    with pytest.raises(InputError, match="one SOPInstanceUID per image"):
        write_segmentation([segment], volume, tmp_path / "seg.dcm")
    volume = read_volume(shared_data("totalsegmentator_examples/example_ct_dicom"))
    segment = Segment("a", np.zeros((512, 512, 20), np.uint8))
    with pytest.raises(
        InputError, match="missing StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID, SOPClassUID"
    ):
        write_segmentation([segment], volume, tmp_path / "seg.dcm")
    assert sorted(os.listdir(tmp_path)) == ["study"]


def test_what_is_no_segmentation_is_refused(series: Path, tmp_path: Path) -> None:
    volume = read_volume(series)
    shape = tuple(volume.shape[1:])
    mask = np.zeros(shape, np.uint8)
    for segments, reason in (
        ([], "at least one segment"),
        ([Segment(" ", mask)], "a label for every segment"),
        ([Segment("a", mask[:-1])], "uint8 or bool mask of the source's shape"),
        ([Segment("a", mask.astype(np.float32))], "uint8 or bool mask of the source's shape"),
    ):
        with pytest.raises(ValueError, match=reason):
            write_segmentation(segments, volume, tmp_path / "seg.dcm")
    nifti = read_volume(write_image(mask.astype(np.int16), np.eye(4), tmp_path / "a.nii"))
    with pytest.raises(
        InputError, match=r"^a: expected a volume read from a DICOM series, received one from nifti"
    ):
        write_segmentation([Segment("a", mask)], nifti, tmp_path / "seg.dcm")
    (series / "slice_0005.dcm").unlink()
    with pytest.raises(
        InputError, match=r"^study: expected the series that was read, received a changed one"
    ):
        write_segmentation([Segment("a", mask)], volume, tmp_path / "seg.dcm")
    assert not (tmp_path / "seg.dcm").exists()


def test_file_that_reads_back_differently_is_not_kept(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = read_volume(series)
    mask = make_masks(tuple(volume.shape[1:]))[0]
    finish = dicom_segmentation._BitPacker.finish
    monkeypatch.setattr(
        dicom_segmentation._BitPacker,
        "finish",
        lambda self: bytes([finish(self)[0] ^ 128]) + finish(self)[1:],
    )
    with pytest.raises(
        OutputError, match=r"seg\.dcm: expected segment 1 \('a'\) to read back as written"
    ):
        write_segmentation([Segment("a", mask)], volume, tmp_path / "seg.dcm")
    assert sorted(os.listdir(tmp_path)) == ["study"]


@pytest.mark.parametrize(
    "name",
    [
        "prostatex_0000/t2_tra_dicom",
        "dcm_qa_ct/Philips",
        "dcmqi/ct-3slice",
        "odd/torchio_ct_series",
    ],
)
def test_real_sources_give_clean_segmentations_that_dcmqi_reads(
    shared_data, tmp_path: Path, name: str
) -> None:
    volume = read_volume(shared_data(name))
    mask = np.asarray(volume[0] > torch.quantile(volume[0].flatten()[::97], 0.9)).astype(np.uint8)
    path = write_segmentation(
        [Segment("bright", mask, ORGAN, KIDNEY)], volume, tmp_path / "seg.dcm"
    )
    if shutil.which("dciodvfy"):
        assert errors_of(path) == []
    (tmp_path / "out").mkdir()
    program = find_program("segimage2itkimage")
    command = [
        program,
        "--inputDICOM",
        str(path),
        "--outputDirectory",
        str(tmp_path / "out"),
        "-t",
        "nifti",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    theirs = nib.as_closest_canonical(nib.load(tmp_path / "out" / "1.nii.gz"))
    ours = nib.as_closest_canonical(nib.Nifti1Image(mask, np.asarray(volume.affine)))
    np.testing.assert_allclose(theirs.affine, ours.affine, atol=2e-3)
    np.testing.assert_array_equal(np.asarray(theirs.dataobj) != 0, np.asarray(ours.dataobj) != 0)
