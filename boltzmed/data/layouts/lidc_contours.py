"""LIDC-IDRI's annotation files: what each reader outlined, in voxels, and where readers agree.

A file holds one ``readingSession`` per reader (four, mostly), each reader's marks
(``unblindedReadNodule``) and each mark's outlines (``roi``): one slice, a chain of pixels, and
whether what it encloses is included or excluded.

- ``xCoord`` is the column and ``yCoord`` the row, both counted from 0.
- An outline is the first pixels outside the nodule, so the nodule is what it encloses, without
  itself (Armato et al., Med. Phys. 38, 915, 2011). An excluded outline (around an air-filled
  cavity) is no more part of the nodule than what it encloses: the consortium's answer to the makers
  of the collection's DICOM version.
- Included outlines of one mark in one slice are united: one takes nothing from what another
  encloses. Then what is excluded goes.
- An outline of one point encloses nothing and is left out. A mark that has no other stands for a
  nodule below 3 mm, and is no mark here; neither is a ``nonNodule``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from boltzmed.errors import InputError, one_line

_CT_READING = "LidcReadMessage"  # the root of a CT's file; a chest radiograph's is IdriReadMessage
_LOWERING = 0.9
"""What the tolerance is multiplied by where it joins two marks of one reader, as in pylidc."""

_ROUNDING = 1e-6
"""Slack of comparisons that are meant to hold at equality: in mm, and in fractions of readers."""


@dataclass(frozen=True)
class Outline:
    """One chain of pixels in one slice.

    Attributes:
        instance_uid: the slice's SOPInstanceUID; for matching, never for messages.
        z_mm: the slice's height as the file has it, None where it has none.
        included: whether what the outline encloses belongs to the nodule (else it is cut out of
            it).
        points: (N, 2) columns and rows, counted from 0.
    """

    instance_uid: str
    z_mm: float | None
    included: bool
    points: NDArray[np.int64]


@dataclass(frozen=True)
class Mark:
    """What one reader (counted from 0) outlined as one nodule of at least 3 mm."""

    reader: int
    outlines: tuple[Outline, ...]


@dataclass(frozen=True)
class Reading:
    """An annotation file: the series that was read, and all readers' marks."""

    series_uid: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Region:
    """A mark as voxels, by their sorted flat indices into the volume (C order).

    Attributes:
        reader: whose mark it is.
        voxels: the nodule; empty where the outlines enclose nothing.
        extent: what lies in or on an included outline; tells how far marks are apart.
    """

    reader: int
    voxels: NDArray[np.int64]
    extent: NDArray[np.int64]


def read_series_uid(path: Path) -> str | None:
    """Return the UID of the series that a file annotates, None for an XML that reads no CT.

    Raises:
        InputError: no XML, or a reading that names no series.
    """
    return _series_uid(path, _parse(path, header_only=True))


def read_reading(path: Path) -> Reading:
    """Read a CT's annotation file.

    Raises:
        InputError: no XML, no reading of a CT, or an outline without its slice, its points or its
            inclusion.
    """
    root = _parse(path)
    series_uid = _series_uid(path, root)
    if series_uid is None:
        raise InputError(
            f"{path.name}: expected LIDC's reading of a CT, received another XML; pass the CT's own"
        )
    marks = []
    for reader, session in enumerate(_children(root, "readingSession")):
        for nodule in _children(session, "unblindedReadNodule"):
            try:
                outlines = [_read_outline(roi) for roi in _children(nodule, "roi")]
            except ValueError as error:
                raise InputError(
                    f"{path.name}: expected outlines with a slice, whole-numbered points and TRUE"
                    f" or FALSE as inclusion, received one of reader {reader + 1} without; download"
                    " the file again"
                ) from error
            # A single point encloses nothing: it stands for a nodule below 3 mm.
            chains = tuple(outline for outline in outlines if len(outline.points) > 1)
            if chains:
                marks.append(Mark(reader, chains))
    return Reading(series_uid, tuple(marks))


def fill_outline(points: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what a chain of pixels encloses, and that together with the chain.

    The chain is closed, and where it jumps the straight line is drawn. Pixels that touch by a
    corner alone close it: enclosed is what no path over pixels' edges joins to the outside.

    Args:
        points: (N, 2) columns and rows, at least one.

    Returns:
        The pixels enclosed (M, 2), none where the chain encloses nothing, and all pixels in or on
        it.
    """
    next_points = np.roll(points, -1, axis=0)
    chain = np.concatenate(list(map(_draw_line, points, next_points)))
    origin = chain.min(axis=0)
    drawn = np.zeros(chain.max(axis=0) - origin + 1, dtype=bool)
    drawn[tuple((chain - origin).T)] = True
    filled = ndimage.binary_fill_holes(drawn)
    return np.argwhere(filled & ~drawn) + origin, np.argwhere(filled) + origin


def trace_mark(mark: Mark, slices: Mapping[str, int], shape: Sequence[int]) -> Region:
    """Return a mark's voxels.

    Args:
        mark: one whose slices are all known.
        slices: SOPInstanceUID -> index along K.
        shape: (I, J, K) of the volume.

    Raises:
        InputError: a point outside the slice.
    """
    nothing = np.empty(0, dtype=np.int64)  # so that there is something to concatenate
    included = [nothing]
    excluded = [nothing]
    extent = [nothing]
    for outline in mark.outlines:
        if (outline.points < 0).any() or (outline.points >= shape[:2]).any():
            raise InputError(
                f"expected outlines within {shape[0]} x {shape[1]} pixels, received one of"
                f" reader {mark.reader + 1} beyond; download annotation file and images again"
            )
        k = slices[outline.instance_uid]
        enclosed, filled = fill_outline(outline.points)
        if outline.included:
            included.append(_flat_indices(enclosed, k, shape))
            extent.append(_flat_indices(filled, k, shape))
        else:
            excluded.append(_flat_indices(filled, k, shape))
    voxels = np.setdiff1d(np.concatenate(included), np.concatenate(excluded))
    return Region(mark.reader, voxels, np.unique(np.concatenate(extent)))


def group_regions(
    regions: Sequence[Region], shape: Sequence[int], spacing_mm: ArrayLike, tolerance_mm: float
) -> list[list[int]]:
    """Group the regions that are one nodule.

    A chain of regions, each at most the tolerance from the next, is one. Distances are the smallest
    between voxel centres of two extents, 0 where these overlap. A chain that joins two regions of
    one reader is undone by lowering the tolerance for its regions alone, a tenth at a time, down to
    0. Two regions of one reader that are still joined, by overlap with each other's or another
    reader's, cannot be told apart and stay one nodule, in which that reader counts once.

    Args:
        regions: of one volume.
        shape: (I, J, K).
        spacing_mm: between voxels along I, J and K.
        tolerance_mm: usually the slice gap.

    Returns:
        Indices into ``regions``, each once; ascending in each nodule and by their first.
    """
    tolerance_mm += _ROUNDING
    centres_mm = []
    for region in regions:
        indices = np.stack(np.unravel_index(region.extent, tuple(shape)), axis=1)
        centres_mm.append(indices * np.asarray(spacing_mm))
    distances = np.full((len(regions), len(regions)), np.inf)
    np.fill_diagonal(distances, 0)
    for one, centres in enumerate(centres_mm):
        if not len(centres):
            continue
        tree = KDTree(centres)
        for other in range(one + 1, len(regions)):
            if len(centres_mm[other]):
                nearest, _ = tree.query(centres_mm[other], distance_upper_bound=tolerance_mm)
                distances[one, other] = distances[other, one] = nearest.min()
    readers = [region.reader for region in regions]
    return sorted(_split(distances, readers, list(range(len(regions))), tolerance_mm))


def take_consensus(regions: Iterable[Region], consensus: float) -> NDArray[np.int64]:
    """Return the voxels that enough of the readers who marked a nodule include.

    Args:
        regions: of one nodule. Several of one reader are united.
        consensus: the fraction of the readers that is enough, above 0, up to 1.

    Returns:
        Flat indices, sorted; none where so many readers include no voxel together.
    """
    by_reader: dict[int, list[NDArray[np.int64]]] = {}
    for region in regions:
        by_reader.setdefault(region.reader, []).append(region.voxels)
    united = [np.unique(np.concatenate(reader_voxels)) for reader_voxels in by_reader.values()]
    voxels, votes = np.unique(np.concatenate(united), return_counts=True)
    return voxels[votes >= consensus * len(by_reader) - _ROUNDING]


class _Builder(ElementTree.TreeBuilder):
    """Refuses a document type before it is read.

    Its entities could blow a small file up or name other files.
    """

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type")


class _HeaderBuilder(_Builder):
    """Tells when the header has been read; listing a thousand files needs no more of them."""

    def __init__(self) -> None:
        super().__init__()
        self.root: ElementTree.Element | None = None
        self.complete = False

    def start(self, tag: str, attrs: dict[str, str]) -> ElementTree.Element:
        element = super().start(tag, attrs)
        if self.root is None:
            self.root = element
        return element

    def end(self, tag: str) -> ElementTree.Element:
        element = super().end(tag)
        self.complete |= _name(element) == "ResponseHeader"
        return element


def _parse(path: Path, *, header_only: bool = False) -> ElementTree.Element:
    try:
        if not header_only:
            return ElementTree.parse(path, ElementTree.XMLParser(target=_Builder())).getroot()
        builder = _HeaderBuilder()
        parser = ElementTree.XMLParser(target=builder)
        with open(path, "rb") as file:
            while chunk := file.read(4096):
                parser.feed(chunk)
                if builder.complete and builder.root is not None:
                    return builder.root
        return parser.close()
    except (ElementTree.ParseError, ValueError, LookupError, OSError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(
            f"{path.name}: expected an annotation file in plain XML, received one that cannot be"
            f" read ({reason}); download it again"
        ) from error


def _series_uid(path: Path, root: ElementTree.Element) -> str | None:
    if _name(root) != _CT_READING:
        return None
    for header in _children(root, "ResponseHeader"):
        for element in header:
            # Written SeriesInstanceUid in most files and SeriesInstanceUID in some.
            if _name(element).lower() != "seriesinstanceuid":
                continue
            uid = (element.text or "").strip()
            if uid:
                return uid
    raise InputError(
        f"{path.name}: expected a SeriesInstanceUid in its ResponseHeader, found none; download the"
        " file again"
    )


def _read_outline(roi: ElementTree.Element) -> Outline:
    """Read one outline; ValueError where something is missing or wrong."""
    uid = _text(roi, "imageSOP_UID")
    z_mm = _text(roi, "imageZposition")
    inclusion = _text(roi, "inclusion").upper()
    points = []
    for edge in _children(roi, "edgeMap"):
        points.append((int(_text(edge, "xCoord")), int(_text(edge, "yCoord"))))
    if not points or not uid or inclusion not in ("TRUE", "FALSE"):
        raise ValueError("incomplete outline")
    return Outline(
        instance_uid=uid,
        z_mm=float(z_mm) if z_mm else None,
        included=inclusion == "TRUE",
        points=np.array(points, dtype=np.int64),
    )


def _name(element: ElementTree.Element) -> str:
    """Return an element's name without the namespace, which differs between files."""
    return element.tag.rpartition("}")[2]


def _children(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return (child for child in element if _name(child) == name)


def _text(element: ElementTree.Element, name: str) -> str:
    """Return the text of the first child of that name, "" where there is none."""
    for child in _children(element, name):
        return (child.text or "").strip()
    return ""


def _draw_line(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (N, 2) pixels from one to the other, each a neighbour of the next."""
    steps = max(int(np.abs(end - start).max()), 1)
    # In whole numbers, so that halves go one way.
    offsets = (2 * np.arange(steps + 1)[:, None] * (end - start) + steps) // (2 * steps)
    line: NDArray[np.int64] = start + offsets
    return line


def _flat_indices(pixels: NDArray[np.int64], k: int, shape: Sequence[int]) -> NDArray[np.int64]:
    """Return pixels (N, 2) of slice k as flat indices into a volume (I, J, K)."""
    return np.ravel_multi_index((*pixels.T, np.full(len(pixels), k)), tuple(shape))


def _split(
    distances: NDArray[np.float64], readers: Sequence[int], members: list[int], tolerance_mm: float
) -> Iterator[list[int]]:
    """Yield the members of each nodule, see ``group_regions``."""
    near = distances[np.ix_(members, members)] <= tolerance_mm
    _, groups = connected_components(near, directed=False)
    for group in np.unique(groups):
        part = [members[position] for position in np.flatnonzero(groups == group)]
        part_readers = {readers[member] for member in part}
        if len(part_readers) == len(part) or tolerance_mm == 0:
            yield part
            continue
        inner = distances[np.ix_(part, part)]
        lowered = tolerance_mm * _LOWERING
        # Below the smallest distance only overlap joins regions, whatever the tolerance.
        if lowered < inner[inner > 0].min(initial=np.inf):
            lowered = 0.0
        yield from _split(distances, readers, part, lowered)
