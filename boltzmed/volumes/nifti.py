"""NIfTI in and out."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import ArrayLike, NDArray

from boltzmed.errors import InputError, one_line
from boltzmed.files import whole_file
from boltzmed.geometry import check_affine

NIFTI_SUFFIXES = (".nii.gz", ".nii")

# Header fields that place the voxels. They are carried over bit by bit, so that a mask lies exactly
# on its image.
_GEOMETRY_FIELDS = (
    *("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
_GZIP_MAGIC = b"\x1f\x8b"
_SCANNER_ANATOMICAL = 1  # NIFTI_XFORM_SCANNER_ANAT: what DICOM positions are
# What nibabel raises on damaged bytes; a header may promise more voxels than memory holds.
# BadGzipFile is an OSError.
_BROKEN = (EOFError, zlib.error, OSError, ValueError, MemoryError, ImageFileError, HeaderDataError)
_AFFINE_TOLERANCE_MM = 1e-3  # an affine that moved by less than this is the file's own, rounded


def read_nifti(path: str | os.PathLike[str], *, channel: int | None = None) -> MetaTensor:
    """Read a NIfTI-1 or NIfTI-2 file as (1, I, J, K) float32, in the file's own voxel order.

    The file's scale is applied. The affine is the sform if it has a code, else the qform if it has
    one, else nibabel's default (voxel sizes, centred, codes 0 are kept). A file of shape (I, J) or
    (I, J, K, 1) is a volume, too. K runs slowest in memory, as in the file, so axial slices of most
    files are contiguous.

    Meta: ``filename_or_obj``, ``case``, ``modality`` (None: NIfTI does not say), ``source_format``
    "nifti", ``stored_dtype``, and ``nifti_geometry``, the header fields that `write_mask` copies.

    Args:
        path: the file, compressed or not, whatever its suffix.
        channel: which one of a file of shape (I, J, K, C), which is refused without it.

    Raises:
        InputError: no NIfTI, truncated or damaged, not one scalar volume, NaN or infinite voxels,
            no usable affine.
    """
    path = Path(path)
    image, voxels = _load(path, channel)
    if channel is not None and voxels.ndim == 4:
        # A view would keep the other channels in memory.
        voxels = voxels[..., channel].copy(order="K")
    shape = (*voxels.shape, 1, 1, 1)[:3]
    voxels = voxels.reshape(shape, order="F")
    check_voxels(voxels, path.name)
    try:
        affine_ras = check_affine(image.affine)
    except ValueError as error:
        raise InputError(
            f"{path.name}: {error}; correct its sform or qform, or convert it again"
        ) from error
    geometry = _copy_geometry(image)
    if channel is not None:
        geometry["shape"] = np.array(shape)
    meta = {
        "filename_or_obj": str(path),
        "case": case_name(path),
        "modality": None,
        "source_format": "nifti",
        "stored_dtype": image.header.get_data_dtype().name,
        "nifti_geometry": geometry,
    }
    return as_volume(voxels, affine_ras, meta)


def map_nifti(path: str | os.PathLike[str]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Open a NIfTI file for reading parts of it, in the file's own order and type.

    Uncompressed voxels are memory-mapped, so that a slice is read without the rest; compressed ones
    are read whole. Their values are not checked: for files that this package wrote, or that
    `read_volume` accepted once.

    Returns:
        The voxels (I, J, K) and the affine to RAS mm.

    Raises:
        InputError: no NIfTI file, a truncated one, or one that does not hold a single volume.
    """
    try:
        image: Any = nib.load(path)
        if len(image.shape) < 3 or max(image.shape[3:], default=1) > 1:
            raise InputError(
                f"{Path(path).name}: expected one volume (I, J, K), received shape {image.shape};"
                " split it into volumes"
            )
        voxels = np.asanyarray(image.dataobj)
        return voxels.reshape(image.shape[:3]), np.asarray(image.affine, dtype=np.float64)
    except _BROKEN as error:
        raise InputError(
            f"{Path(path).name}: expected a whole NIfTI file, received {one_line(error, path)};"
            " copy or convert it again"
        ) from error


def write_mask(
    mask: ArrayLike | torch.Tensor, like: MetaTensor, path: str | os.PathLike[str]
) -> Path:
    """Write a mask on the grid of the volume it was made from.

    Args:
        mask: (I, J, K) bool or uint8, in the array order of ``like``.
        like: the volume (1, I, J, K) as `read_volume` returned it; its file's shape, affine and
            sform/qform codes are repeated (a DICOM volume has code 1, scanner coordinates, for
            both). Units are written as mm.
        path: ends in .nii or .nii.gz; an older file is replaced, only once the new one is complete.

    Raises:
        ValueError: another dtype, or another shape than ``like``'s.
        OutputError: the folder is read-only or full.
    """
    if isinstance(mask, torch.Tensor):
        mask = mask.detach().cpu()
    voxels = np.asarray(mask)
    if voxels.dtype not in (np.dtype(np.uint8), np.dtype(bool)):
        raise ValueError(
            f"{Path(path).name}: expected a mask of uint8 or bool, received {voxels.dtype};"
            " threshold it first"
        )
    if voxels.shape != tuple(like.shape[1:]):
        raise ValueError(
            f"{Path(path).name}: expected a mask of the image's shape {tuple(like.shape[1:])},"
            f" received {voxels.shape}; bring it back to the image's grid first"
        )
    affine_ras = np.asarray(like.affine, dtype=np.float64)
    geometry = like.meta.get("nifti_geometry") or {}  # a DICOM volume has none
    return _write(voxels.astype(np.uint8, copy=False), affine_ras, path, geometry)


def write_image(voxels: ArrayLike, affine_ras: ArrayLike, path: str | os.PathLike[str]) -> Path:
    """Write an image (I, J, K) of any real dtype (int16 for CT).

    Its affine is written as sform and qform, code 1 (scanner coordinates), in mm.

    Raises:
        ValueError: not three axes, or an affine that places no voxels.
        OutputError: the folder is read-only or full.
    """
    array = np.asarray(voxels)
    if array.ndim != 3:
        raise ValueError(
            f"{Path(path).name}: expected an image of three axes, received shape {array.shape}"
        )
    return _write(array, check_affine(affine_ras), path, {})


def case_name(path: str | os.PathLike[str]) -> str:
    """Return a study's name: that of its file or folder, without .nii, .nii.gz or .zip."""
    name = Path(path).name
    if name in ("", ".."):
        name = Path(path).resolve().name
    for suffix in (*NIFTI_SUFFIXES, ".zip"):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def check_voxels(voxels: NDArray[np.float32], name: str) -> None:
    """Refuse NaN and infinite voxels, slice by slice to spare memory."""
    for index in range(voxels.shape[-1]):
        is_finite = np.isfinite(voxels[..., index])
        if not is_finite.all():
            count = voxels.size - int(np.isfinite(voxels).sum())
            row, column = map(int, np.argwhere(~is_finite)[0])
            raise InputError(
                f"{name}: expected finite voxels, received {count} that are NaN or infinite, the"
                f" first at {(row, column, index)}; replace them by a value (air is -1000 HU) and"
                " try again"
            )


def as_volume(
    voxels: NDArray[np.float32], affine_ras: NDArray[np.float64], meta: dict[str, Any]
) -> MetaTensor:
    """Wrap voxels (I, J, K) as (1, I, J, K) with the keys that MONAI's inverses and writers use."""
    affine = torch.as_tensor(affine_ras, dtype=torch.float64)
    meta = {
        **meta,
        "original_affine": affine.clone(),
        "spatial_shape": np.array(voxels.shape),
        "space": "RAS",
    }
    if not voxels.flags.writeable:
        voxels = voxels.copy(order="K")
    return MetaTensor(torch.from_numpy(voxels)[None], affine=affine, meta=meta)


def _load(path: Path, channel: int | None) -> tuple[Any, NDArray[np.float32]]:
    """Return nibabel's image and its scaled voxels, all channels, once the file is read to its end.

    Images are ``Any``, since most of nibabel has no types.
    """
    try:
        with open(path, "rb") as file:
            is_compressed = file.read(2) == _GZIP_MAGIC
        with gzip.open(path, "rb") if is_compressed else open(path, "rb") as stream:
            image = _parse(stream, path.name)
            _check_header(image, path.name, channel)
            voxels = np.asarray(image.dataobj, dtype=np.float32)
            # Reading on to the end makes gzip compare its checksum: a flipped bit is an error, not
            # a voxel.
            while stream.read(1 << 20):
                pass
    except InputError:
        raise
    except _BROKEN as error:
        reason = one_line(error, path)
        raise InputError(
            f"{path.name}: expected a whole NIfTI file, received one that is truncated or damaged"
            f" ({reason}); copy or convert it again"
        ) from error
    return image, voxels


def _copy_geometry(image: Any) -> dict[str, NDArray[Any]]:
    """Return the header fields that place the voxels, in the machine's byte order."""
    header = image.header
    geometry: dict[str, NDArray[Any]] = {}
    for name in _GEOMETRY_FIELDS:
        native = header[name].dtype.newbyteorder("=")
        geometry[name] = np.array(header[name]).astype(native)
    geometry["shape"] = np.array(image.shape)
    geometry["version"] = np.array(2 if isinstance(image, nib.Nifti2Image) else 1)
    return geometry


def _parse(stream: IO[bytes] | gzip.GzipFile, name: str) -> Any:
    start = stream.read(540)
    stream.seek(0)
    kinds: tuple[Any, ...] = (nib.Nifti1Image, nib.Nifti2Image)
    for kind in kinds:
        if kind.header_class.may_contain_header(start):
            return kind.from_stream(stream)
    raise InputError(
        f"{name}: expected a NIfTI file (.nii or .nii.gz), received something else; check the file"
        " or its name"
    )


def _check_header(image: Any, name: str, channel: int | None) -> None:
    """Refuse what is not one scalar volume in mm, before its voxels are read."""
    shape = image.shape
    dtype = image.get_data_dtype()
    if dtype.fields is not None:
        raise InputError(
            f"{name}: expected grey values, received colour voxels; convert it to a scalar image"
        )
    if dtype.kind == "c":
        raise InputError(
            f"{name}: expected real voxels, received complex ones; take the magnitude first"
        )
    if len(shape) < 2 or min(shape) < 1:
        raise InputError(
            f"{name}: expected a volume of at least one voxel along each axis, received shape"
            f" {shape}; convert it again"
        )
    channels = shape[3] if len(shape) == 4 else 1
    if channel is not None and not 0 <= channel < channels:
        raise InputError(
            f"{name}: expected a channel from 0 to {channels - 1}, received {channel}; choose"
            " another"
        )
    further_axes = shape[3:] if channel is None else shape[4:]
    if max(further_axes, default=1) > 1:
        raise InputError(
            f"{name}: expected one 3D volume, received shape {shape}; split it and pass the volume"
            " you mean (one channel or time point)"
        )
    unit = image.header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise InputError(
            f"{name}: expected coordinates in mm, received {unit}; convert its affine and units to"
            " mm"
        )


def _write(
    voxels: NDArray[Any],
    affine_ras: NDArray[np.float64],
    path: str | os.PathLike[str],
    geometry: Mapping[str, Any],
) -> Path:
    """Write voxels (I, J, K) with the header fields of another file, or with none of them.

    Where the other file's fields no longer give ``affine_ras``, since the volume was cropped or
    resampled, the affine is written as sform and qform.
    """
    path = Path(path)
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        raise ValueError(
            f"{path.name}: expected a name ending in .nii or .nii.gz; rename the output"
        )
    version = int(geometry.get("version", 1))
    kind: Any = nib.Nifti2Image if version == 2 else nib.Nifti1Image
    header = kind.header_class()
    header.set_data_dtype(voxels.dtype)
    if geometry:
        voxels = _restore_shape(voxels, geometry["shape"])
        header.set_data_shape(voxels.shape)
        for name in _GEOMETRY_FIELDS:
            header[name] = np.asarray(geometry[name])
    image = kind(voxels, None, header)
    stored = image.header.get_best_affine()
    if not geometry or not np.allclose(stored, affine_ras, rtol=0, atol=_AFFINE_TOLERANCE_MM):
        qform_code = int(geometry.get("qform_code", 0)) or _SCANNER_ANATOMICAL
        sform_code = int(geometry.get("sform_code", 0)) or _SCANNER_ANATOMICAL
        image.header.set_data_shape(voxels.shape)
        image.set_qform(affine_ras, code=qform_code)
        image.set_sform(affine_ras, code=sform_code)
    image.header.set_xyzt_units(xyz="mm")
    with whole_file(path) as temporary:
        nib.save(image, temporary)
    return path


def _restore_shape(voxels: NDArray[Any], file_shape: ArrayLike) -> NDArray[Any]:
    """Return voxels (I, J, K) in their file's shape, where that was (I, J) or (I, J, K, 1)."""
    shape = tuple(map(int, np.asarray(file_shape)))
    is_same_volume = int(np.prod(shape)) == voxels.size and (*shape, 1, 1)[:3] == voxels.shape
    return voxels.reshape(shape, order="F") if is_same_volume else voxels
