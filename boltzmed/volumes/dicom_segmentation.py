"""Masks out as a DICOM segmentation (PS3.3 A.51) that references the series they were made from.

highdicom builds everything but the frames, once, for a single empty segment: patient, study,
references, derivation and one functional group per slice. The frames are then added segment by
segment, one mask in memory at a time and one bit per voxel, which keeps fifteen masks of a
600-slice study far below what encoding them together takes.
"""

from __future__ import annotations

import colorsys
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import ArrayLike, NDArray
from pydicom import Dataset, dcmread
from pydicom.valuerep import DSfloat

from boltzmed.errors import InputError, OutputError
from boltzmed.files import whole_file
from boltzmed.geometry import spacing_mm
from boltzmed.volumes.dicom_series import read_source_headers
from boltzmed.volumes.silence import silent_headers

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription


class CodedTerm(NamedTuple):
    """A concept of a coding scheme (PS3.3 8): SNOMED CT (scheme SCT) unless said otherwise."""

    value: str
    meaning: str
    scheme: str = "SCT"


# : What a segment is coded as when its target has no code: some tissue, neither organ nor lesion
# (CID 7150, CID 7166).
TISSUE = CodedTerm("85756007", "Tissue")

_TYPE_2_ATTRIBUTES = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)

# : Those of them whose values have a form, which writers miss; an empty one is allowed and says
# nothing wrong.
_MAY_BE_EMPTIED = ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime")

Mask = ArrayLike | torch.Tensor


@dataclass(frozen=True)
class Segment:
    """One prompt's mask and what it stands for.

    Attributes:
        label: the prompt. Up to 64 characters become the segment's label, all of it its
            description.
        mask: (I, J, K) bool or uint8 (not 0 is inside) on the source's grid, or a callable that
            gives it. It is asked for twice, for writing and for comparing, and never kept.
        category: CID 7150, such as ``CodedTerm("123037004", "Anatomical Structure")``.
        property_type: what the segment shows, such as ``CodedTerm("64033007", "Kidney")``.
        modifier: its side, such as ``CodedTerm("7771000", "Left")``.
        region: where in the body, such as ``CodedTerm("39607008", "Lung")``.
    """

    label: str
    mask: Mask | Callable[[], Mask]
    category: CodedTerm = TISSUE
    property_type: CodedTerm = TISSUE
    modifier: CodedTerm | None = None
    region: CodedTerm | None = None


def write_segmentation(
    segments: Sequence[Segment],
    source: MetaTensor,
    path: str | os.PathLike[str],
    *,
    algorithm_name: str = "BoltzFormer",
    algorithm_version: str = "1",
    software_version: str = "1",
    series_description: str = "Segmentation from text prompts",
) -> Path:
    """Write one BINARY segmentation with a segment per prompt; slices without a mask are left out.

    Segments may overlap and may be empty. Where all are empty, the first one is stored with every
    (empty) slice, since an image cannot have no frames. Patient and study are the source's, as the
    standard asks; a birth date, sex, study date or time that is malformed there is left empty.

    The file is read back by highdicom and compared voxel for voxel with the masks before it takes
    its name.

    Args:
        segments: at least one.
        source: the volume as `read_volume` gave it from a DICOM series.
        path: the file to write.

    Raises:
        ValueError: no segment, an empty label, or a mask of another shape or dtype than the
            source's grid asks for.
        InputError: the source is not from DICOM, has changed, or lacks the UIDs that a segmentation
            refers to.
        OutputError: the folder is read-only or full, or what was read back differs.
    """
    if not segments:
        raise ValueError(f"{Path(path).name}: expected at least one segment, received none")
    for segment in segments:
        if not segment.label.strip():
            raise ValueError(
                f"{Path(path).name}: expected a label for every segment, received an empty one"
            )
    with silent_headers():
        headers = read_source_headers(source)
        _check_references(headers, str(source.meta.get("case")))
        dataset = _build_template(
            segments, headers, source, (algorithm_name, algorithm_version, software_version)
        )
        dataset.SeriesDescription = series_description[:64]
        _add_frames(dataset, segments, [str(header.SOPInstanceUID) for header in headers])
        with whole_file(path) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
            del dataset
            _compare(temporary, segments, headers, Path(path).name)
    return Path(path)


def _check_references(headers: list[Dataset], case: str) -> None:
    """Every UID that the segmentation refers to has to be there, and the images' own to be unique."""
    missing = [
        keyword
        for keyword in (
            "StudyInstanceUID",
            "SeriesInstanceUID",
            "SOPInstanceUID",
            "SOPClassUID",
            "FrameOfReferenceUID",
        )
        if any(not header.get(keyword) for header in headers)
    ]
    if missing:
        raise InputError(
            f"{case}: expected UIDs that a DICOM segmentation can refer to, received images with an"
            f" empty or missing {', '.join(missing)}; write the masks as NIfTI"
        )
    if len({str(header.SOPInstanceUID) for header in headers}) < len(headers):
        raise InputError(
            f"{case}: expected one SOPInstanceUID per image, received images that share one; write the"
            " masks as NIfTI"
        )


def _build_template(
    segments: Sequence[Segment],
    headers: list[Dataset],
    source: MetaTensor,
    algorithm: tuple[str, str, str],
) -> Segmentation:
    """A segmentation of all descriptions and no masks: one empty frame per slice, in highdicom's
    order.
    """
    import highdicom as hd
    from highdicom.seg import Segmentation

    case = str(source.meta.get("case"))
    first, slice_gap_mm = headers[0], float(spacing_mm(source.affine)[2])
    descriptions = [
        _describe(segment, number, len(segments), algorithm)
        for number, segment in enumerate(segments, start=1)
    ]
    for header in headers:
        # Type 2 attributes (PS3.5 7.4.3) that writers leave out: empty says the same.
        for keyword in _TYPE_2_ATTRIBUTES:
            header.setdefault(keyword, "")
        # highdicom takes the source's word for the slice gap, which is optional there and often
        # stale.
        header.SpacingBetweenSlices = DSfloat(slice_gap_mm, auto_format=True)
        if not header.get("SliceThickness"):
            header.SliceThickness = header.SpacingBetweenSlices
    make = partial(
        Segmentation,
        source_images=headers,
        pixel_array=np.zeros((len(headers), int(first.Rows), int(first.Columns)), dtype=np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=descriptions[:1],
        series_instance_uid=hd.UID(),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="boltzmed",
        manufacturer_model_name=algorithm[0],
        software_versions=algorithm[2],
        device_serial_number="1",
        content_label="SEGMENTATION",
        omit_empty_frames=False,
        specific_character_set="ISO_IR 192",  # UTF-8 holds any patient's name and any prompt
    )
    malformed = (ValueError, TypeError, AttributeError, KeyError)
    try:
        try:
            template = make(series_number=_series_number(first))
        except malformed:
            for header in headers:
                for keyword in _MAY_BE_EMPTIED:
                    setattr(header, keyword, "")
            template = make(series_number=_series_number(first))
    except malformed as error:
        # The reason may quote a header value: its type has to do, in a traceback, too.
        raise InputError(
            f"{case}: expected headers that a DICOM segmentation can take over, received some that are"
            f" malformed ({type(error).__name__}); write the masks as NIfTI"
        ) from None
    template.SegmentSequence = descriptions
    # True of the template, not of frames that are left out or repeated for each segment.
    template.pop("DimensionOrganizationType", None)
    template.SharedFunctionalGroupsSequence[0].pop("SegmentIdentificationSequence", None)
    return template


def _describe(
    segment: Segment, number: int, count: int, algorithm: tuple[str, str, str]
) -> SegmentDescription:
    import highdicom as hd
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    # A backslash separates values in DICOM text.
    label = " ".join(segment.label.replace("\\", "/").split())
    red, green, blue = colorsys.hsv_to_rgb((number - 1) / count, 0.75, 0.95)
    description = SegmentDescription(
        segment_number=number,
        segment_label=label[:64].strip(),
        segmented_property_category=_code(segment.category),
        segmented_property_type=_code(segment.property_type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=algorithm[0][:64],
            family=codes.cid7162.ArtificialIntelligence,
            version=algorithm[1][:64],
        ),
        anatomic_regions=None if segment.region is None else [_code(segment.region)],
        display_color=hd.color.CIELabColor.from_rgb(
            round(255 * red), round(255 * green), round(255 * blue)
        ),
    )
    description.SegmentDescription = label[:1024]
    if segment.modifier is not None:
        description.SegmentedPropertyTypeCodeSequence[
            0
        ].SegmentedPropertyTypeModifierCodeSequence = [_code(segment.modifier)]
    return description


def _code(term: CodedTerm) -> Any:
    import highdicom as hd

    return hd.sr.CodedConcept(
        value=term.value, scheme_designator=term.scheme, meaning=term.meaning[:64]
    )


def _series_number(header: Dataset) -> int:
    """The source's number with two digits more, so that viewers list the segmentation behind it."""
    number = int(header.get("SeriesNumber") or 0)
    return 100 * number + 99 if 0 <= number < 10**6 else 99


def _add_frames(dataset: Dataset, segments: Sequence[Segment], source_uids: list[str]) -> None:
    """Replace the template's frames by those of the masks, segment by segment, each in the
    template's slice order.
    """
    slice_of = {uid: index for index, uid in enumerate(source_uids)}
    groups = list(dataset.PerFrameFunctionalGroupsSequence)
    order = [slice_of[_source_uid(group)] for group in groups]
    shape = int(dataset.Columns), int(dataset.Rows), len(source_uids)
    frames: list[Dataset] = []
    packer = _BitPacker()
    union, overlap = np.zeros(shape, dtype=bool), False
    for number, segment in enumerate(segments, start=1):
        mask = _load_mask(segment, shape)
        for group, index in zip(groups, order, strict=True):
            inside = mask[:, :, index]
            if not inside.any():
                continue
            overlap = overlap or bool((union[:, :, index] & inside).any())
            union[:, :, index] |= inside
            frames.append(_frame_group(group, number))
            packer.add(inside.T)
    if not frames:
        for group in groups:
            frames.append(_frame_group(group, 1))
            packer.add(np.zeros((shape[1], shape[0]), dtype=bool))
    dataset.SegmentsOverlap = "YES" if overlap else "NO"
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.NumberOfFrames = len(frames)
    dataset.PixelData = packer.finish()


def _frame_group(template: Dataset, segment_number: int) -> Dataset:
    """The template's group for another segment; position and derivation are shared, not copied."""
    content, identification, group = Dataset(), Dataset(), Dataset()
    position = template.FrameContentSequence[0].DimensionIndexValues[-1]
    content.DimensionIndexValues = [segment_number, int(position)]
    identification.ReferencedSegmentNumber = segment_number
    group.DerivationImageSequence = template.DerivationImageSequence
    group.FrameContentSequence = [content]
    group.PlanePositionSequence = template.PlanePositionSequence
    group.SegmentIdentificationSequence = [identification]
    return group


def _source_uid(group: Dataset) -> str:
    return str(group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)


def _load_mask(segment: Segment, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    loaded: Any = segment.mask() if callable(segment.mask) else segment.mask
    mask = np.asarray(loaded.detach().cpu() if isinstance(loaded, torch.Tensor) else loaded)
    if mask.shape != shape or mask.dtype not in (np.dtype(np.uint8), np.dtype(bool)):
        raise ValueError(
            f"segment {segment.label!r}: expected a uint8 or bool mask of the source's shape"
            f" {shape}, received {mask.dtype} {mask.shape}; bring it back to the image's grid first"
        )
    return mask != 0


class _BitPacker:
    """Frames of one bit per pixel, end to end without padding, first pixel in the lowest bit (PS3.5
    8.1.1).
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._rest = np.zeros(0, dtype=bool)

    def add(self, frame: NDArray[np.bool_]) -> None:
        bits = np.concatenate([self._rest, frame.ravel()])
        whole = bits.size // 8 * 8
        self._bytes += np.packbits(bits[:whole], bitorder="little").tobytes()
        self._rest = bits[whole:]

    def finish(self) -> bytes:
        self._bytes += np.packbits(self._rest, bitorder="little").tobytes()
        return bytes(self._bytes) + b"\x00" * (len(self._bytes) % 2)


def _compare(path: Path, segments: Iterable[Segment], headers: list[Dataset], name: str) -> None:
    """Read a segmentation back and compare every voxel with the masks."""
    from highdicom.seg import Segmentation

    uids = [str(header.SOPInstanceUID) for header in headers]
    shape = int(headers[0].Columns), int(headers[0].Rows), len(headers)
    written = Segmentation.from_dataset(dcmread(path), copy=False)
    for number, segment in enumerate(segments, start=1):
        stored = written.get_pixels_by_source_instance(
            uids, segment_numbers=[number], assert_missing_frames_are_empty=True
        )[..., 0]
        if not np.array_equal(stored.transpose(2, 1, 0) != 0, _load_mask(segment, shape)):
            raise OutputError(
                f"{name}: expected segment {number} ({segment.label!r}) to read back as written,"
                " received other voxels; the file was not kept, write the masks as NIfTI"
            )
