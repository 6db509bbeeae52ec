"""NIfTI in, masks out, on exactly the same grid."""

from __future__ import annotations

import errno
import gzip
import os
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from boltzmed.errors import InputError, OutputError
from boltzmed.volumes import map_nifti, read_volume, write_image, write_mask

ORIENTATIONS = [
    (order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)
]


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def save_fields(path: Path, **fields: object) -> Path:
    """A small image whose header fields are set behind nibabel's back."""
    header = nib.Nifti1Image(np.zeros((3, 3, 3), np.int16), np.eye(4)).header
    for name, value in fields.items():
        header[name] = value
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path.write_bytes(header.binaryblock + b"\0" * (4 + 54))
    return path


def round_trip(path: Path) -> nib.Nifti1Image:
    volume = read_volume(path)
    mask = (torch.as_tensor(np.asarray(volume[0])) > volume.mean().item()).to(torch.uint8)
    out = write_mask(mask, volume, path.with_name("out") / "mask.nii.gz")
    written = nib.load(out)
    assert written.get_data_dtype() == np.uint8
    assert np.asarray(written.dataobj).reshape(mask.shape, order="F").tolist() == mask.tolist()
    assert sorted(os.listdir(out.parent)) == ["mask.nii.gz"]
    return written


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_mask_lies_on_its_image_in_any_orientation(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis in range(3):
        affine[order[axis], axis] = signs[axis] * (0.7 + axis)
    affine[:3, 3] = [-12.5, 30.25, 7.125]
    voxels = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    path = save(tmp_path / "case.nii.gz", voxels, affine)
    volume = read_volume(path)
    assert volume.dtype == torch.float32 and volume.affine.dtype == torch.float64
    np.testing.assert_array_equal(np.asarray(volume[0]), voxels)
    written = round_trip(path)
    np.testing.assert_array_equal(written.affine, nib.load(path).affine)
    np.testing.assert_array_equal(written.affine, np.asarray(volume.affine))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 8)] * 3),
    origin=st.tuples(*[st.floats(-400, 400)] * 3),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    codes=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
    kind=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
)
def test_oblique_affines_and_codes_come_back(
    tmp_path, angles, spacing, origin, shape, codes, suffix, kind
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    affine[:3, 3] = origin
    image = kind(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    path = tmp_path / f"case{suffix}"
    nib.save(image, path)
    written, original = round_trip(path), nib.load(path)
    assert type(written) is type(original)
    assert written.shape == original.shape
    np.testing.assert_array_equal(written.affine, original.affine)
    for name in (
        "qform_code",
        "sform_code",
        "srow_x",
        "srow_y",
        "srow_z",
        "quatern_b",
        "qoffset_z",
        "pixdim",
    ):
        np.testing.assert_array_equal(written.header[name], original.header[name])
    assert written.header.get_xyzt_units()[0] == "mm"


def test_sform_goes_before_a_different_qform_and_both_are_kept(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((3, 3, 3), np.int16), None)
    image.set_sform(np.diag([2, 2, 2, 1]), 4)
    image.set_qform(np.diag([-2, -2, 2, 1]), 1)
    nib.save(image, tmp_path / "a.nii")
    assert (
        np.asarray(read_volume(tmp_path / "a.nii").affine).tolist()
        == np.diag([2, 2, 2, 1]).tolist()
    )
    written = round_trip(tmp_path / "a.nii")
    assert written.get_qform(coded=True)[0].tolist() == np.diag([-2, -2, 2, 1]).tolist()
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (1, 4)


def test_moved_affine_is_written_instead_of_the_files(tmp_path: Path) -> None:
    volume = read_volume(
        save(tmp_path / "a.nii", np.zeros((3, 3, 3), np.int16), np.diag([2, 2, 2, 1]))
    )
    volume.affine = torch.as_tensor(np.diag([2, 2, 4, 1.0]))
    written = nib.load(write_mask(np.zeros((3, 3, 3), np.uint8), volume, tmp_path / "m.nii"))
    np.testing.assert_array_equal(written.affine, np.diag([2, 2, 4, 1]))


@pytest.mark.parametrize("shape", [(4, 3, 2, 1), (4, 3), (4, 3, 1, 1)])
def test_other_shapes_of_one_volume_keep_theirs(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save(tmp_path / "a.nii.gz", np.arange(np.prod(shape), dtype=np.int16).reshape(shape))
    assert read_volume(path).shape == (1, 4, 3, shape[2] if len(shape) > 2 else 1)
    assert round_trip(path).shape == shape


def test_scale_meta_and_byte_order(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(np.array([[[0, 1], [2, 3]]], np.int16), np.eye(4), header)
    image.header.set_slope_inter(0.5, -10)
    nib.save(image, tmp_path / "a.b.NII.GZ")
    volume = read_volume(tmp_path / "a.b.NII.GZ", modality="MR")
    stored = np.asarray(nib.load(tmp_path / "a.b.NII.GZ").dataobj)
    np.testing.assert_array_equal(np.asarray(volume[0]), stored.astype(np.float32))
    assert (volume.meta["case"], volume.meta["modality"], volume.meta["source_format"]) == (
        "a.b",
        "MR",
        "nifti",
    )
    assert volume.meta["filename_or_obj"] == str(tmp_path / "a.b.NII.GZ")
    assert read_volume(tmp_path / "a.b.NII.GZ").meta["modality"] is None


def test_written_image_opens_in_simpleitk(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10, -20, 30], degrees=True).as_matrix() * [
        0.5,
        0.6,
        2,
    ]
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    image = sitk.ReadImage(str(write_image(voxels, affine, tmp_path / "a.nii.gz")))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0), voxels)
    np.testing.assert_allclose(image.GetSpacing(), [0.5, 0.6, 2], rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(read_volume(tmp_path / "a.nii.gz")[0]), voxels)


def test_voxels_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    voxels = np.zeros((3, 4, 5), np.float32)
    voxels[1, 2, 3], voxels[0, 0, 4] = np.nan, np.inf
    with pytest.raises(
        InputError,
        match=r"^a\.nii: .*received 2 that are NaN or infinite, the first at \(1, 2, 3\)",
    ):
        read_volume(save(tmp_path / "a.nii", voxels))


def test_other_kinds_of_image_are_refused(tmp_path: Path) -> None:
    colours = np.zeros((2, 2, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    cases = [
        (
            np.zeros((2, 3, 4, 5), np.int16),
            r"expected one 3D volume, received shape \(2, 3, 4, 5\)",
        ),
        (colours, "received colour voxels"),
        (np.zeros((2, 2, 2), np.complex64), "received complex"),
    ]
    for voxels, reason in cases:
        with pytest.raises(InputError, match=rf"^a\.nii\.gz: .*{reason}"):
            read_volume(save(tmp_path / "a.nii.gz", voxels))


def test_affines_that_place_nothing_and_other_units_are_refused(tmp_path: Path) -> None:
    for srow, reason in ([0, 0, 0, 0], "positive voxel sizes"), ([np.nan, 0, 0, 0], "finite"):
        path = save_fields(tmp_path / "a.nii", sform_code=1, srow_x=srow, srow_y=[0, 0, 0, 0])
        with pytest.raises(InputError, match=rf"^a\.nii: .*{reason}.*sform"):
            read_volume(path)
    with pytest.raises(InputError, match=r"^a\.nii: expected coordinates in mm, received micron"):
        read_volume(save_fields(tmp_path / "a.nii", xyzt_units=3))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    voxels = np.random.default_rng(0).integers(0, 999, (20, 20, 20), dtype=np.int16)
    content = save(tmp_path / f"a{suffix}", voxels).read_bytes()
    for kept in (10, 200, 360, len(content) // 2, len(content) - 1):
        (tmp_path / f"b{suffix}").write_bytes(content[:kept])
        with pytest.raises(InputError, match=rf"^b\{suffix}: expected a") as caught:
            read_volume(tmp_path / f"b{suffix}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_header_that_promises_too_much_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write_image(np.zeros((4, 4, 4), np.int16), np.eye(4), tmp_path / f"image{suffix}")
    content = bytearray(
        gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes()
    )
    content[40:48] = np.array([3, 32767, 32767, 32767], "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(content)) if suffix == ".nii.gz" else bytes(content))
    with pytest.raises(InputError, match=rf"image{suffix}: expected a whole NIfTI file"):
        read_volume(path)


def test_flipped_bit_fails_the_checksum(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.zeros((9, 9, 9), np.int16))
    content = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))
    content[-40] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^a\.nii\.gz: .*damaged"):
        read_volume(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_text_under_a_niftis_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("this is no image\n" * 40)
    with pytest.raises(InputError, match=r"expected a NIfTI file .* received something else"):
        read_volume(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"expected a NIfTI file .* received something else"):
        read_volume(tmp_path / name)


def test_masks_of_another_shape_or_dtype_are_refused(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "a.nii", np.zeros((3, 4, 5), np.int16)))
    with pytest.raises(ValueError, match=r"m\.nii: .*shape \(3, 4, 5\), received \(3, 4, 4\)"):
        write_mask(np.zeros((3, 4, 4), np.uint8), volume, tmp_path / "m.nii")
    with pytest.raises(ValueError, match="uint8 or bool, received float32"):
        write_mask(np.zeros((3, 4, 5), np.float32), volume, tmp_path / "m.nii")
    with pytest.raises(ValueError, match=r"ending in \.nii"):
        write_mask(np.zeros((3, 4, 5), np.uint8), volume, tmp_path / "m.png")
    assert sorted(os.listdir(tmp_path)) == ["a.nii"]


def test_full_disk_leaves_nothing_and_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = read_volume(save(tmp_path / "a.nii", np.zeros((3, 4, 5), np.int16)))
    mask = np.ones((3, 4, 5), np.uint8)
    write_mask(mask, volume, tmp_path / "m.nii.gz")
    before = (tmp_path / "m.nii.gz").read_bytes()

    def half_a_file(image: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(nib, "save", half_a_file)
    with pytest.raises(OutputError, match=r"m\.nii\.gz: .*No space left on device; free space"):
        write_mask(mask, volume, tmp_path / "m.nii.gz")
    assert (tmp_path / "m.nii.gz").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["a.nii", "m.nii.gz"]


def test_folder_that_is_a_file_is_an_output_error(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "a.nii", np.zeros((3, 4, 5), np.int16)))
    with pytest.raises(OutputError, match="expected to write into folder"):
        write_mask(np.ones((3, 4, 5), np.uint8), volume, tmp_path / "a.nii" / "m.nii")


def test_real_images_round_trip(tmp_path: Path, shared_data) -> None:
    for name in ("niivue_images/CT_pitch.nii.gz", "totalsegmentator_examples/example_ct.nii.gz"):
        path = shared_data(name)
        volume = read_volume(path)
        original = nib.load(path)
        np.testing.assert_array_equal(np.asarray(volume.affine), original.affine)
        np.testing.assert_allclose(np.asarray(volume[0]), original.get_fdata(dtype=np.float32))
        written = nib.load(write_mask(np.asarray(volume[0]) > 100, volume, tmp_path / "m.nii.gz"))
        np.testing.assert_array_equal(written.affine, original.affine)
        for code in ("qform_code", "sform_code"):
            assert written.header[code] == original.header[code]


@pytest.mark.parametrize("read", [read_volume, map_nifti])
def test_what_is_said_of_a_damaged_file_names_no_folder(read, tmp_path):
    path = tmp_path / "john_smith" / "c.nii"
    write_image(np.zeros((10, 20, 20), np.int32), np.eye(4), path)
    path.write_bytes(path.read_bytes()[:2648])
    with pytest.raises(InputError, match=r"^c\.nii: expected a whole NIfTI file") as caught:
        read(path)
    assert "john_smith" not in str(caught.value)
