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
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
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
    """A concept of a coding scheme (PS3.3 8): SNOMED CT (scheme SCT) unless another is named."""

    value: str
    meaning: str
    scheme: str = "SCT"


TISSUE = CodedTerm("85756007", "Tissue")
"""Code of a segment whose target has none: neither organ nor lesion (CID 7150, CID 7166)."""

# Type 2 attributes (PS3.5 7.4.3) that writers leave out, though the standard asks for them.
_TYPE_2_ATTRIBUTES = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)

# Those of them whose values have a format, which some writers break; empty is allowed.
_MAY_BE_EMPTIED = ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime")

# UIDs of an image by which a segmentation refers to it.
_REFERENCES = (
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"),
    "FrameOfReferenceUID",
)

# What pydicom and highdicom raise on malformed header values.
_MALFORMED = (ValueError, TypeError, AttributeError, KeyError)

Mask = ArrayLike | torch.Tensor


class Algorithm(NamedTuple):
    """What made the masks, as the segmentation records it."""

    name: str
    version: str
    software_version: str


@dataclass(frozen=True)
class Segment:
    """One prompt's mask and what it stands for.

    Attributes:
        label: the prompt. Up to 64 characters become the segment's label, all of it its
            description.
        mask: (I, J, K) bool or uint8 (not 0 is inside) on the source's grid, or a callable that
            returns it. It is called twice, for writing and for comparing, and its mask never kept.
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
        source: the volume as `read_volume` returned it from a DICOM series.
        path: the file to write.
        algorithm_name: what made the masks.
        algorithm_version: what made the masks.
        software_version: of the program around the algorithm.
        series_description: what viewers list the series as; up to 64 characters are kept.

    Raises:
        ValueError: no segment, an empty label, or a mask of another shape or dtype than those of
            the source's grid.
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
        algorithm = Algorithm(algorithm_name, algorithm_version, software_version)
        dataset = _build_template(segments, headers, source, algorithm)
        dataset.SeriesDescription = series_description[:64]
        _add_frames(dataset, segments, [str(header.SOPInstanceUID) for header in headers])
        with whole_file(path) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
            del dataset
            _compare(temporary, segments, headers, Path(path).name)
    return Path(path)


def _check_references(headers: list[Dataset], case: str) -> None:
    """Check that the images have every UID the segmentation refers to, each its own."""
    missing = []
    for keyword in _REFERENCES:
        if not all(header.get(keyword) for header in headers):
            missing.append(keyword)
    if missing:
        raise InputError(
            f"{case}: expected UIDs that a DICOM segmentation can refer to, received images with an"
            f" empty or missing {', '.join(missing)}; write the masks as NIfTI"
        )
    if len({str(header.SOPInstanceUID) for header in headers}) < len(headers):
        raise InputError(
            f"{case}: expected one SOPInstanceUID per image, received images that share one; write"
            " the masks as NIfTI"
        )


def _build_template(
    segments: Sequence[Segment],
    headers: list[Dataset],
    source: MetaTensor,
    algorithm: Algorithm,
) -> Segmentation:
    """Return a segmentation of all descriptions and no masks.

    It has one empty frame per slice, in highdicom's order.
    """
    _complete_headers(headers, float(spacing_mm(source.affine)[2]))
    descriptions = []
    for number, segment in enumerate(segments, start=1):
        descriptions.append(_describe(segment, number, len(segments), algorithm))
    try:
        try:
            template = _make_segmentation(headers, descriptions[:1], algorithm)
        except _MALFORMED:
            for header in headers:
                for keyword in _MAY_BE_EMPTIED:
                    setattr(header, keyword, "")
            template = _make_segmentation(headers, descriptions[:1], algorithm)
    except _MALFORMED as error:
        # The reason may quote a header value: its type has to do, in a traceback, too.
        raise InputError(
            f"{source.meta.get('case')}: expected headers that a DICOM segmentation can take over,"
            f" received some that are malformed ({type(error).__name__}); write the masks as NIfTI"
        ) from None
    template.SegmentSequence = descriptions
    # True of the template, not of frames that are omitted or repeated for each segment.
    template.pop("DimensionOrganizationType", None)
    template.SharedFunctionalGroupsSequence[0].pop("SegmentIdentificationSequence", None)
    return template


def _complete_headers(headers: list[Dataset], slice_gap_mm: float) -> None:
    """Add to the images' headers what highdicom requires of them."""
    for header in headers:
        for keyword in _TYPE_2_ATTRIBUTES:
            header.setdefault(keyword, "")  # an empty value means the same as none
        # highdicom takes over the source's slice gap, which is optional there and often stale.
        header.SpacingBetweenSlices = DSfloat(slice_gap_mm, auto_format=True)
        if not header.get("SliceThickness"):
            header.SliceThickness = header.SpacingBetweenSlices


def _make_segmentation(
    headers: list[Dataset], descriptions: list[SegmentDescription], algorithm: Algorithm
) -> Segmentation:
    """Return highdicom's segmentation of one empty segment."""
    import highdicom as hd
    from highdicom.seg import Segmentation

    first = headers[0]
    return Segmentation(
        source_images=headers,
        pixel_array=np.zeros((len(headers), int(first.Rows), int(first.Columns)), dtype=np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=hd.UID(),
        series_number=_series_number(first),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="boltzmed",
        manufacturer_model_name=algorithm.name,
        software_versions=algorithm.software_version,
        device_serial_number="1",
        content_label="SEGMENTATION",
        omit_empty_frames=False,
        specific_character_set="ISO_IR 192",  # UTF-8 holds any patient's name and any prompt
    )


def _describe(
    segment: Segment, number: int, count: int, algorithm: Algorithm
) -> SegmentDescription:
    """Return the description of segment ``number`` of ``count``, in a colour of its own."""
    import highdicom as hd
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    # A backslash separates values in DICOM text.
    label = " ".join(segment.label.replace("\\", "/").split())
    colour = colorsys.hsv_to_rgb((number - 1) / count, 0.75, 0.95)
    description = SegmentDescription(
        segment_number=number,
        segment_label=label[:64].strip(),
        segmented_property_category=_code(segment.category),
        segmented_property_type=_code(segment.property_type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=algorithm.name[:64],
            family=codes.cid7162.ArtificialIntelligence,
            version=algorithm.version[:64],
        ),
        anatomic_regions=None if segment.region is None else [_code(segment.region)],
        display_color=hd.color.CIELabColor.from_rgb(*(round(255 * part) for part in colour)),
    )
    description.SegmentDescription = label[:1024]
    if segment.modifier is not None:
        property_type = description.SegmentedPropertyTypeCodeSequence[0]
        property_type.SegmentedPropertyTypeModifierCodeSequence = [_code(segment.modifier)]
    return description


def _code(term: CodedTerm) -> Any:
    import highdicom as hd

    return hd.sr.CodedConcept(
        value=term.value, scheme_designator=term.scheme, meaning=term.meaning[:64]
    )


def _series_number(header: Dataset) -> int:
    """Return the source's number with 99 behind it: viewers list the segmentation after it."""
    number = int(header.get("SeriesNumber") or 0)
    # The value is an integer string of at most 12 characters (VR IS).
    return 100 * number + 99 if 0 <= number < 10**6 else 99


def _add_frames(dataset: Dataset, segments: Sequence[Segment], source_uids: list[str]) -> None:
    """Replace the template's frames by those of the masks.

    They run segment by segment, each in the template's slice order.
    """
    slice_of = {uid: index for index, uid in enumerate(source_uids)}
    groups = list(dataset.PerFrameFunctionalGroupsSequence)
    order = [slice_of[_source_uid(group)] for group in groups]
    shape = (int(dataset.Columns), int(dataset.Rows), len(source_uids))
    frames: list[Dataset] = []
    packer = _BitPacker()
    union = np.zeros(shape, dtype=bool)
    overlap = False
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
    if not frames:  # an image cannot have none
        for group in groups:
            frames.append(_frame_group(group, 1))
            packer.add(np.zeros((shape[1], shape[0]), dtype=bool))
    dataset.SegmentsOverlap = "YES" if overlap else "NO"
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.NumberOfFrames = len(frames)
    dataset.PixelData = packer.finish()


def _frame_group(template: Dataset, segment_number: int) -> Dataset:
    """Return the template's group for another segment.

    Position and derivation are shared, not copied.
    """
    position = template.FrameContentSequence[0].DimensionIndexValues[-1]
    content = Dataset()
    content.DimensionIndexValues = [segment_number, int(position)]
    identification = Dataset()
    identification.ReferencedSegmentNumber = segment_number
    group = Dataset()
    group.DerivationImageSequence = template.DerivationImageSequence
    group.FrameContentSequence = [content]
    group.PlanePositionSequence = template.PlanePositionSequence
    group.SegmentIdentificationSequence = [identification]
    return group


def _source_uid(group: Dataset) -> str:
    return str(group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)


def _load_mask(segment: Segment, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    loaded: Any = segment.mask() if callable(segment.mask) else segment.mask
    if isinstance(loaded, torch.Tensor):
        loaded = loaded.detach().cpu()
    mask: NDArray[Any] = np.asarray(loaded)
    if mask.shape != shape or mask.dtype not in (np.dtype(np.uint8), np.dtype(bool)):
        raise ValueError(
            f"segment {segment.label!r}: expected a uint8 or bool mask of the source's shape"
            f" {shape}, received {mask.dtype} {mask.shape}; bring it back to the image's grid first"
        )
    return np.asarray(mask != 0)


class _BitPacker:
    """Frames of one bit per pixel, end to end without padding (PS3.5 8.1.1).

    The first pixel is in the lowest bit.
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
    shape = (int(headers[0].Columns), int(headers[0].Rows), len(headers))
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
