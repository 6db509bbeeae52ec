"""NIfTI in and out."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import ArrayLike, NDArray

from boltzmed.errors import InputError, one_line
from boltzmed.files import whole_file
from boltzmed.geometry import check_affine

NIFTI_SUFFIXES = (".nii.gz", ".nii")

# : Header fields that place the voxels. They are carried over bit by bit, so that a mask lies
# exactly on its image.
_GEOMETRY_FIELDS = (
    *("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
_GZIP_MAGIC = b"\x1f\x8b"
_SCANNER_ANATOMICAL = 1  # NIFTI_XFORM_SCANNER_ANAT: what DICOM positions are
# : What nibabel raises on bytes that are not what they should be; a header may promise more voxels
# than memory holds.
_BROKEN = (EOFError, zlib.error, OSError, ValueError, MemoryError, ImageFileError, HeaderDataError)
_AFFINE_TOLERANCE_MM = 1e-3  # an affine that moved by less than this is the file's own, rounded


def read_nifti(path: str | os.PathLike[str], *, channel: int | None = None) -> MetaTensor:
    """Read a NIfTI-1 or NIfTI-2 file as (1, I, J, K) float32, in the file's own voxel order.

    The file's scale is applied. The affine is the sform if it has a code, else the qform if it has
    one, else nibabel's default (voxel sizes, centred, codes 0 are kept). A file of shape (I, J) or
    (I, J, K, 1) is a volume, too. K runs slowest in memory, as in the file, so axial slices of most
    files are contiguous. ``channel`` picks one of a file of shape (I, J, K, C), which is refused
    without it.

    Meta: ``filename_or_obj``, ``case``, ``modality`` (None: NIfTI does not say), ``source_format``
    "nifti", ``stored_dtype``, and ``nifti_geometry``, the header fields that `write_mask` copies.

    Raises:
        InputError: no NIfTI, truncated or damaged, not one scalar volume, NaN or infinite voxels,
            no usable affine.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            compressed = file.read(2) == _GZIP_MAGIC
        with gzip.open(path, "rb") if compressed else open(path, "rb") as stream:
            image = _parse(cast(io.IOBase, stream), path.name)
            _check_header(image, path.name, channel)
            voxels = np.asarray(image.dataobj, dtype=np.float32)
            # Reading on to the end makes gzip compare its checksum: a flipped bit is an error, not
            # a voxel.
            while stream.read(1 << 20):
                pass
    except InputError:
        raise
    except (*_BROKEN, gzip.BadGzipFile) as error:
        reason = one_line(error, path)
        raise InputError(
            f"{path.name}: expected a whole NIfTI file, got one that is truncated or damaged"
            f" ({reason}); copy or convert it again"
        ) from error
    if channel is not None and voxels.ndim == 4:
        voxels = voxels[..., channel].copy(
            order="K"
        )  # a view would keep the other channels in memory
    shape = (*voxels.shape, 1, 1, 1)[:3]
    voxels = voxels.reshape(shape, order="F")
    check_voxels(voxels, path.name)
    try:
        affine_ras = check_affine(image.affine)
    except ValueError as error:
        raise InputError(
            f"{path.name}: {error}; correct its sform or qform, or convert it again"
        ) from error
    header = image.header
    geometry = {
        name: np.array(header[name]).astype(header[name].dtype.newbyteorder("="))
        for name in _GEOMETRY_FIELDS
    }
    geometry["shape"] = np.array(image.shape if channel is None else shape)
    geometry["version"] = np.array(2 if isinstance(image, nib.Nifti2Image) else 1)
    meta = {
        "filename_or_obj": str(path),
        "case": case_name(path),
        "modality": None,
        "source_format": "nifti",
        "stored_dtype": header.get_data_dtype().name,
        "nifti_geometry": geometry,
    }
    return as_volume(voxels, affine_ras, meta)


def map_nifti(path: str | os.PathLike[str]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Open a NIfTI file for reading parts of it: (voxels (I, J, K), affine_ras), in the file's own
    order and type.

    Uncompressed voxels are memory-mapped, so that a slice is read without the rest; compressed ones
    are read whole. Their values are not checked: for files that this package wrote, or that
    `read_volume` accepted once.

    Raises:
        InputError: no NIfTI file, a truncated one, or one that does not hold a single volume.
    """
    try:
        image: Any = nib.load(path)
        if len(image.shape) < 3 or max(image.shape[3:], default=1) > 1:
            raise InputError(
                f"{Path(path).name}: expected one volume (I, J, K), got shape {image.shape}; split"
                " it into volumes"
            )
        voxels = np.asanyarray(image.dataobj)
        return voxels.reshape(image.shape[:3]), np.asarray(image.affine, dtype=np.float64)
    except _BROKEN as error:
        raise InputError(
            f"{Path(path).name}: expected a whole NIfTI file, got {one_line(error, path)}; copy or"
            " convert it again"
        ) from error


def write_mask(
    mask: ArrayLike | torch.Tensor, like: MetaTensor, path: str | os.PathLike[str]
) -> Path:
    """Write a mask on the grid of the volume it was made from.

    Args:
        mask: (I, J, K) bool or uint8, in the array order of ``like``.
        like: the volume (1, I, J, K) as `read_volume` gave it; its file's shape, affine and
            sform/qform codes are repeated (a DICOM volume gives code 1, scanner coordinates, for
            both). Units are written as mm.
        path: ends in .nii or .nii.gz; an older file is replaced, only once the new one is complete.

    Raises:
        ValueError: another dtype, or another shape than ``like``'s.
        OutputError: the folder is read-only or full.
    """
    voxels = np.asarray(mask.detach().cpu() if isinstance(mask, torch.Tensor) else mask)
    if voxels.dtype not in (np.dtype(np.uint8), np.dtype(bool)):
        raise ValueError(
            f"{Path(path).name}: expected a mask of uint8 or bool, got {voxels.dtype}; threshold it"
            " first"
        )
    if voxels.shape != tuple(like.shape[1:]):
        raise ValueError(
            f"{Path(path).name}: expected a mask of the image's shape {tuple(like.shape[1:])}, got"
            f" {voxels.shape}; bring it back to the image's grid first"
        )
    affine_ras = np.asarray(like.affine, dtype=np.float64)
    geometry = like.meta.get("nifti_geometry")
    return _write(voxels.astype(np.uint8, copy=False), affine_ras, path, geometry)


def write_image(voxels: ArrayLike, affine_ras: ArrayLike, path: str | os.PathLike[str]) -> Path:
    """Write an image (I, J, K) of any real dtype (int16 for CT) with its affine as sform and qform,
    code 1, in mm.

    Raises:
        ValueError: not three axes, or an affine that places no voxels.
        OutputError: the folder is read-only or full.
    """
    array = np.asarray(voxels)
    if array.ndim != 3:
        raise ValueError(
            f"{Path(path).name}: expected an image of three axes, got shape {array.shape}"
        )
    return _write(array, check_affine(affine_ras), path, None)


def case_name(path: str | os.PathLike[str]) -> str:
    """A study's name: the file's or folder's own, without .nii, .nii.gz or .zip."""
    name = Path(path).resolve().name if Path(path).name in ("", "..") else Path(path).name
    for suffix in (*NIFTI_SUFFIXES, ".zip"):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def check_voxels(voxels: NDArray[np.float32], name: str) -> None:
    """Refuse NaN and infinite voxels, slice by slice to spare memory."""
    for index in range(voxels.shape[-1]):
        finite = np.isfinite(voxels[..., index])
        if not finite.all():
            count = sum(
                int((~np.isfinite(voxels[..., k])).sum()) for k in range(index, voxels.shape[-1])
            )
            first = (*(int(axis[0]) for axis in np.nonzero(~finite)), index)
            raise InputError(
                f"{name}: expected finite voxels, got {count} that are NaN or infinite, the first"
                f" at {first}; replace them by a value (air is -1000 HU) and try again"
            )


def as_volume(
    voxels: NDArray[np.float32], affine_ras: NDArray[np.float64], meta: dict[str, Any]
) -> MetaTensor:
    """Wrap voxels (I, J, K) as (1, I, J, K) with the keys that MONAI's inverses and writers look
    for.
    """
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


def _parse(stream: io.IOBase, name: str) -> nib.Nifti1Image | nib.Nifti2Image:
    start = stream.read(540)
    stream.seek(0)
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        if kind.header_class.may_contain_header(start):
            return kind.from_stream(stream)
    raise InputError(
        f"{name}: expected a NIfTI file (.nii or .nii.gz), got something else; check the file or"
        " its name"
    )


def _check_header(image: nib.Nifti1Image | nib.Nifti2Image, name: str, channel: int | None) -> None:
    shape, dtype = image.shape, image.get_data_dtype()
    if dtype.fields is not None:
        raise InputError(
            f"{name}: expected grey values, got colour voxels; convert it to a scalar image"
        )
    if dtype.kind == "c":
        raise InputError(
            f"{name}: expected real voxels, got complex ones; take the magnitude first"
        )
    if len(shape) < 2 or any(size < 1 for size in shape):
        raise InputError(
            f"{name}: expected a volume of at least one voxel along each axis, got shape {shape}"
        )
    channels = shape[3] if len(shape) == 4 else 1
    if channel is not None and not 0 <= channel < channels:
        raise InputError(
            f"{name}: expected a channel from 0 to {channels - 1}, got {channel}; choose another"
        )
    if any(size != 1 for size in shape[3 if channel is None else 4 :]):
        raise InputError(
            f"{name}: expected one 3D volume, got shape {shape}; split it and pass the volume you"
            " mean (one channel or time point)"
        )
    unit = image.header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise InputError(
            f"{name}: expected coordinates in mm, got {unit}; convert its affine and units to mm"
        )


def _write(
    voxels: NDArray[Any],
    affine_ras: NDArray[np.float64],
    path: str | os.PathLike[str],
    geometry: Mapping[str, Any] | None,
) -> Path:
    path = Path(path)
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        raise ValueError(
            f"{path.name}: expected a name ending in .nii or .nii.gz; rename the output"
        )
    fields = {key: np.asarray(value) for key, value in (geometry or {}).items()}
    kind = nib.Nifti2Image if int(fields.get("version", 1)) == 2 else nib.Nifti1Image
    header = kind.header_class()
    header.set_data_dtype(voxels.dtype)
    if fields:
        # The channel axis of the network's world was never the file's: put (I, J, K, 1) and (I, J)
        # back.
        shape = tuple(int(size) for size in fields["shape"])
        if (
            int(np.prod(shape)) == voxels.size
            and tuple(s for s in (*shape, 1, 1)[:3]) == voxels.shape
        ):
            voxels = voxels.reshape(shape, order="F")
        header.set_data_shape(voxels.shape)
        for name in _GEOMETRY_FIELDS:
            header[name] = fields[name]
    image = kind(voxels, None, header)
    stored = image.header.get_best_affine()
    if not fields or not np.allclose(stored, affine_ras, rtol=0, atol=_AFFINE_TOLERANCE_MM):
        qform_code, sform_code = (
            (int(fields["qform_code"]), int(fields["sform_code"]))
            if fields
            else (_SCANNER_ANATOMICAL,) * 2
        )
        image.header.set_data_shape(voxels.shape)
        image.set_qform(affine_ras, code=qform_code or _SCANNER_ANATOMICAL)
        image.set_sform(affine_ras, code=sform_code or _SCANNER_ANATOMICAL)
    image.header.set_xyzt_units(xyz="mm")
    with whole_file(path) as temporary:
        nib.save(image, temporary)
    return path
