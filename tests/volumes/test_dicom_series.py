"""A DICOM series as a volume: order, values, affine, and what real scanners write."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.data import decollate_batch, list_data_collate
from scipy.spatial.transform import Rotation

from boltzmed.errors import InputError, OutputError
from boltzmed.geometry import RAS_FROM_LPS, orientation_codes
from boltzmed.volumes import Segment, read_volume, write_ct_series, write_mask, write_segmentation


def read_with_simpleitk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (I, J, K) and RAS affine, K along SimpleITK's own order."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), RAS_FROM_LPS @ affine


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 5)] * 3),
    origin=st.tuples(*[st.floats(-400, 400)] * 3),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    seed=st.integers(0, 9),
)
def test_any_right_handed_volume_comes_back(
    tmp_path_factory, angles, spacing, origin, shape, seed
) -> None:
    folder = tmp_path_factory.mktemp("series")
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    affine[:3, 3] = origin
    random = np.random.default_rng(seed)
    hu = random.integers(-2000, 3000, shape).astype(np.int16)
    write_ct_series(hu, affine, folder / "a", seed=seed)
    # Names tell nothing about positions: shuffle them.
    (folder / "b" / "deeper").mkdir(parents=True)
    for name, number in zip(
        sorted(os.listdir(folder / "a")), random.permutation(shape[2]), strict=True
    ):
        shutil.copy(
            folder / "a" / name, folder / "b" / ("deeper" if number % 2 else "") / f"IM{number}"
        )
    volume = read_volume(folder / "b")
    np.testing.assert_array_equal(np.asarray(volume[0]), hu)
    np.testing.assert_allclose(np.asarray(volume.affine), affine, atol=1e-6)
    assert volume.dtype.is_floating_point and volume.affine.dtype.itemsize == 8


def test_slices_ascend_along_the_normal_whichever_way_they_were_numbered(
    series: Path, hu: np.ndarray, edit
) -> None:
    for index, path in enumerate(sorted(series.iterdir())):
        edit(path, InstanceNumber=99 - index)
    np.testing.assert_array_equal(np.asarray(read_volume(series)[0]), hu)


def test_meta_says_where_it_came_from(series: Path, tmp_path: Path) -> None:
    volume = read_volume(series)
    assert {
        key: volume.meta[key] for key in ("case", "modality", "source_format", "filename_or_obj")
    } == {
        "case": "study",
        "modality": "CT",
        "source_format": "dicom",
        "filename_or_obj": str(series),
    }
    assert "Phantom" not in str(
        {key: value for key, value in volume.meta.items() if key != "filename_or_obj"}
    )


def test_volume_travels_through_monais_collation(
    series: Path, tmp_path: Path, hu: np.ndarray
) -> None:
    batch = list_data_collate([{"image": read_volume(series)}])
    volume = decollate_batch(batch)[0]["image"]
    write_segmentation([Segment("a", (hu > 0).astype(np.uint8))], volume, tmp_path / "seg.dcm")
    written = nib.load(write_mask((hu > 0).astype(np.uint8), volume, tmp_path / "mask.nii.gz"))
    np.testing.assert_allclose(written.affine, np.asarray(volume.affine), atol=1e-4)
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (1, 1)


def test_zip_gives_the_same_volume(series: Path, tmp_path: Path, hu: np.ndarray) -> None:
    with zipfile.ZipFile(tmp_path / "pack.ZIP", "w", zipfile.ZIP_DEFLATED) as pack:
        pack.writestr("../../evil.txt", "outside")
        pack.writestr("__MACOSX/study/._slice_0001.dcm", "resource fork")
        for path in series.iterdir():
            pack.write(path, f"patient/study/{path.name}")
    volume = read_volume(tmp_path / "pack.ZIP")
    np.testing.assert_array_equal(np.asarray(volume[0]), hu)
    assert (volume.meta["case"], volume.meta["source_format"]) == ("pack", "dicom-zip")
    assert sorted(os.listdir(tmp_path)) == ["pack.ZIP", "study"]


def test_rescale_is_applied_slice_by_slice(series: Path, hu: np.ndarray, edit) -> None:
    edit(series / "slice_0002.dcm", RescaleSlope=2, RescaleIntercept=-100)
    edit(series / "slice_0003.dcm", RescaleSlope=None, RescaleIntercept=None)
    voxels = np.asarray(read_volume(series)[0])
    stored = hu.astype(np.float32) + 1024
    np.testing.assert_array_equal(voxels[..., 0], hu[..., 0])
    np.testing.assert_array_equal(voxels[..., 1], stored[..., 1] * 2 - 100)
    np.testing.assert_array_equal(voxels[..., 2], stored[..., 2])


def test_modality_comes_from_the_header_or_the_caller_but_not_from_both(series: Path, edit) -> None:
    with pytest.raises(InputError, match="expected modality MR, received CT in its DICOM headers"):
        read_volume(series, modality="MR")
    for path in series.iterdir():
        edit(path, Modality=None)
    assert read_volume(series).meta["modality"] is None
    assert read_volume(series, modality="MR").meta["modality"] == "MR"
    for stated, told in (("PT", "received PT"), ("Mustermann", "received another one")):
        for path in series.iterdir():
            edit(path, Modality=stated)
        with pytest.raises(
            InputError, match=f"expected images of modality CT or MR, {told}; pick another series"
        ):
            read_volume(series, modality="CT")
    with pytest.raises(InputError, match="expected modality CT or MR, received 'PET'"):
        read_volume(series, modality="PET")


def test_lone_slice_needs_a_thickness(series: Path, edit) -> None:
    for path in sorted(series.iterdir())[1:]:
        path.unlink()
    edit(series / "slice_0001.dcm", SliceThickness="1.5")
    assert read_volume(series).affine[2, 2] == 1.5
    edit(series / "slice_0001.dcm", SliceThickness="", SpacingBetweenSlices=None)
    with pytest.raises(InputError, match=r"^slice_0001\.dcm: expected a slice thickness"):
        read_volume(series)


def test_written_series_is_reproducible_and_fictitious(
    tmp_path: Path, hu: np.ndarray, affine_ras: np.ndarray
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_ct_series(hu, affine_ras, tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name / "slice_0001.dcm").read_bytes() for name in "abc")
    assert a == b != c
    header = pydicom.dcmread(tmp_path / "a" / "slice_0001.dcm")
    assert (header.PatientName, header.PatientID) == ("Phantom^Seed1", "PHANTOM-1")
    with pytest.raises(OutputError, match=r"^a: expected a new or empty folder"):
        write_ct_series(hu, affine_ras, tmp_path / "a", seed=1)


def test_written_slice_is_clean_in_dciodvfy(series: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs the program dciodvfy")
    command = ["dciodvfy", "-new", str(series / "slice_0001.dcm")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line for line in (run.stdout + run.stderr).splitlines() if "Error" in line] == []


def test_volumes_that_no_series_can_hold_are_refused(
    tmp_path: Path, hu: np.ndarray, affine_ras: np.ndarray
) -> None:
    sheared = affine_ras.copy()
    sheared[1, 2] = 0.5
    cases = [
        (hu, affine_ras @ np.diag([1, 1, -1, 1]), "left-handed"),
        (hu, sheared, "shear"),
        (hu.astype(float) * np.nan, affine_ras, "finite HU"),
        (hu.astype(np.int32) + 40000, affine_ras, "finite HU"),
        (hu[0], affine_ras, "three axes"),
    ]
    for image, affine, reason in cases:
        with pytest.raises(ValueError, match=reason):
            write_ct_series(image, affine, tmp_path / "x")
        assert not (tmp_path / "x").exists()


REAL = [
    ("dcm_qa_ct/Philips/S21570/S2010", (512, 512, 28), "LPS", "CT"),
    ("prostatex_0000/t2_tra_dicom", (384, 384, 19), "LPS", "MR"),
    ("prostatex_0000/t2_sag_dicom", (320, 320, 19), "PIR", "MR"),
    ("dcmqi/ct-3slice", (512, 512, 3), "LPS", "CT"),
    ("odd/torchio_ct_series", (88, 128, 17), "RAS", "CT"),
    ("dicom2nifti/anatomical/001", (256, 256, 4), "PIR", "MR"),
    ("dicom2nifti/generic/compressed_j2k/001", (256, 256, 4), "PIR", "MR"),
    ("dicom2nifti/generic/compressed_jpegls/001", (256, 256, 4), "PIR", "MR"),
    ("dicom2nifti/generic/compressed_rle/001", (256, 256, 4), "PIR", "MR"),
]


@pytest.mark.parametrize(("name", "shape", "codes", "modality"), REAL)
def test_real_series_agree_with_simpleitk(
    shared_data, name: str, shape: tuple, codes: str, modality: str
) -> None:
    folder = shared_data(name)
    volume = read_volume(folder)
    assert volume.shape[1:] == shape
    assert "".join(orientation_codes(volume.affine)) == codes
    assert volume.meta["modality"] == modality
    voxels, affine = read_with_simpleitk(folder)
    # Both orders are sorted along the normal.
    np.testing.assert_array_equal(np.asarray(volume[0]), voxels)
    np.testing.assert_allclose(np.asarray(volume.affine), affine, atol=2e-3)


def test_real_series_agree_with_expected_nifti(shared_data) -> None:
    folder = shared_data("dicom2nifti/generic/compressed_j2k")
    volume = read_volume(folder / "001")
    expected = nib.load(folder / "001_ground_truth.nii.gz")
    ours = nib.as_closest_canonical(
        nib.Nifti1Image(np.asarray(volume[0]), np.asarray(volume.affine))
    )
    theirs = nib.as_closest_canonical(expected)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-2)
    np.testing.assert_allclose(ours.get_fdata(), theirs.get_fdata(), atol=1e-3)


def test_expert_mask_lies_on_the_series_it_was_drawn_on(shared_data) -> None:
    volume = read_volume(shared_data("prostatex_0000/t2_tra_dicom"))
    lesion = nib.load(shared_data("prostatex_0000/lesion.nii.gz"))
    ours = nib.as_closest_canonical(
        nib.Nifti1Image(np.asarray(volume[0]), np.asarray(volume.affine))
    )
    theirs = nib.as_closest_canonical(lesion)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(
        ours.affine, theirs.affine, atol=0.05
    )  # the expert's file keeps four digits


def test_series_without_uids_or_modality_is_read(shared_data) -> None:
    volume = read_volume(shared_data("totalsegmentator_examples/example_ct_dicom"))
    assert volume.shape == (1, 512, 512, 20)
    assert volume.affine[2, 2] == 2
    assert read_volume(shared_data("odd/no_modality_tag")).meta["modality"] is None
    assert read_volume(shared_data("odd/rtstruct_oriented")).shape == (1, 100, 50, 3)


REFUSED = [
    (
        "dicom2nifti/failing/gantrytilting/001",
        r"IM-0001-0001\.dcm: .*gantry tilt of 14\.0 degrees \(1\.21 mm",
    ),
    ("dicom2nifti/failing/notavolume/001", r"002\.dcm: .*where 001\.dcm lies already \(61\.50 mm"),
    (
        "dicom2nifti/failing/sliceorientation/001",
        r"expected one orientation, received 2 of 4 .*degrees",
    ),
    (
        "dicom2nifti/hyperfine/anatomical",
        r"001\.dcm: .*multi-frame object \(Enhanced MR .* 8 frames\)",
    ),
    (
        "dicom2nifti/siemens_multiframe/anatomical",
        r"multi-frame object \(Enhanced MR Image Storage, 8 frames\)",
    ),
    ("dcmqi/23x38x3/multiframe", r"mf\.dcm: .*multi-frame object \(Legacy Converted Enhanced CT"),
    ("odd/dupe-positions.zip", r"CT28\.dcm: .*where CT26\.dcm lies already \(-90\.00 mm"),
    ("dcmqi/23x38x3/seg", r"received only 1 segmentation \(label\.seg\)"),
    ("lidc_nodules", r"received a folder with NIfTI files; pass one of them, such as LIDC"),
]


@pytest.mark.parametrize(("name", "reason"), REFUSED)
def test_real_oddities_are_refused_by_name(shared_data, name: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        read_volume(shared_data(name))
    assert "\n" not in str(caught.value)
