"""Outlines with pixels counted by hand, marks that belong together or not, a published file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Polygon
from scipy import ndimage

from boltzmed.data.layouts.lidc_contours import (
    Mark,
    Outline,
    Region,
    fill_outline,
    group_regions,
    read_reading,
    read_series_uid,
    take_consensus,
    trace_mark,
)
from boltzmed.errors import InputError

PUBLISHED = Path(__file__).resolve().parents[4] / "shared" / "data" / "lidc_xml"
SHAPE = (40, 12, 10)


def published(name: str) -> Path:
    if not (PUBLISHED / name).exists():
        pytest.skip(f"needs ../shared/data/lidc_xml/{name}")
    return PUBLISHED / name


def walk(pixels: np.ndarray) -> np.ndarray:
    """A closed chain of neighbours over all pixels of a connected mask: to each and back again."""
    left = {tuple(pixel) for pixel in np.argwhere(pixels).tolist()}
    chain = [min(left)]
    left.remove(chain[0])
    path = [chain[0]]
    while path:
        x, y = path[-1]
        near = [(x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (x + i, y + j) in left]
        if near:
            left.remove(near[0])
            path.append(near[0])
        else:
            path.pop()
        chain += path[-1:]
    assert not left, "the outline is one piece"
    return np.array(chain)


def drawing(*rows: str) -> tuple[np.ndarray, set[tuple[int, int]]]:
    """Outline (#) and nodule (o) of a picture; columns come first."""
    picture = np.array([list(row) for row in rows]).T
    return walk(picture == "#"), pixels_of(np.argwhere(picture == "o"))


def pixels_of(found: np.ndarray) -> set[tuple[int, int]]:
    return {(x, y) for x, y in found.tolist()}


# What an outline encloses


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        (["..#..", ".#o#.", "#ooo#", ".#o#.", "..#.."], 5),  # closed by corners alone
        (["#####", "#ooo#", "#ooo#", "#####"], 6),
        ([".#.", "#o#", ".#."], 1),
        (["####....", "#oo#####", "#oooooo#", "####oo#.", "...####."], 10),
        (["#####..", "#ooo#..", "#ooo###", "#####.."], 6),  # a spur of the outline adds nothing
        (
            ["###....", "#o#####", "#o#ooo#", "#o###o#", "###.###"],
            7,
        ),  # two lobes with a wall between them
        (["##", "##"], 0),
        (["#####"], 0),
    ],
)
def test_the_nodule_is_what_its_outline_encloses(rows, count):
    chain, expected = drawing(*rows)
    assert len(expected) == count
    for points in (chain, chain[::-1], np.roll(chain, 3, axis=0), chain + 100):
        enclosed, filled = fill_outline(points)
        shift = points.min(axis=0) - chain.min(axis=0)
        assert pixels_of(enclosed - shift) == expected
        assert pixels_of(filled) == pixels_of(enclosed) | pixels_of(points)


def test_gaps_are_closed_by_straight_lines():
    square = np.array([(2, 2), (6, 2), (6, 6), (2, 6)])
    assert pixels_of(fill_outline(square)[0]) == {(x, y) for x in (3, 4, 5) for y in (3, 4, 5)}
    diamond = np.array([(2, 0), (4, 2), (2, 4), (0, 2)])
    assert pixels_of(fill_outline(diamond)[0]) == {(2, 1), (1, 2), (2, 2), (3, 2), (2, 3)}
    triangle = np.array([(0, 0), (4, 2), (0, 4)])
    assert pixels_of(fill_outline(triangle)[0]) == {(1, 2), (1, 3), (2, 2)}


@pytest.mark.parametrize(
    "points", [[(5, 7)], [(5, 7), (5, 7)], [(5, 7), (6, 8)], [(5, 7), (6, 7), (6, 8)]]
)
def test_few_points_enclose_nothing(points):
    enclosed, filled = fill_outline(np.array(points))
    assert enclosed.shape == (0, 2) and pixels_of(filled) == set(points)


@given(arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))))
def test_any_blob_comes_back_from_the_pixels_just_outside_it(noise):
    assume(noise.any())
    # The blob: one piece of the noise, and whatever its outline shuts in or leaves no room beside.
    dilated = ndimage.binary_dilation(np.pad(noise, 2))
    pieces, _ = ndimage.label(dilated, np.ones((3, 3)))
    blob_and_outline = ndimage.binary_fill_holes(pieces == pieces.max())
    blob = ndimage.binary_erosion(blob_and_outline)
    enclosed, filled = fill_outline(walk(blob_and_outline & ~blob))
    assert np.array_equal(enclosed, np.argwhere(blob))
    assert np.array_equal(filled, np.argwhere(blob_and_outline))


# Marks


def square(low: int, high: int, *, included: bool = True, uid: str = "a") -> Outline:
    """An outline from (low, low) to (high, high), which encloses (high - low - 1)² pixels."""
    corners = [(low, low), (high, low), (high, high), (low, high)]
    return Outline(uid, None, included, np.array(corners))


def trace(*outlines: Outline) -> np.ndarray:
    """The mark's mask."""
    mask = np.zeros((12, 12, 3), dtype=bool)
    region = trace_mark(Mark(0, outlines), {"a": 1, "b": 2}, mask.shape)
    mask.reshape(-1)[region.voxels] = True
    return mask


def test_a_mark_lies_on_its_slices_columns_first():
    mask = trace(Outline("b", None, True, np.array([(1, 2), (7, 2), (7, 6), (1, 6)])))
    expected = np.zeros_like(mask)
    expected[2:7, 3:6, 2] = True
    assert np.array_equal(mask, expected)


def test_included_outlines_of_one_slice_are_united():
    mask = trace(square(0, 6), square(4, 10))
    assert mask.sum() == 25 + 25 - 1 and mask[5, 5, 1]
    assert trace(square(0, 6), square(0, 6, uid="b")).sum() == 50
    # The smaller one's own pixels lie within the larger and stay.
    assert trace(square(0, 8), square(2, 5)).sum() == 49


def test_excluded_outlines_take_themselves_and_what_they_enclose():
    cavity = Outline("a", None, False, np.array([(4, 2), (6, 4), (4, 6), (2, 4)]))
    for outlines in ([square(0, 8), cavity], [cavity, square(0, 8)]):
        mask = trace(*outlines)
        assert mask.sum() == 49 - 13
        assert not mask[4, 4, 1] and not mask[2, 4, 1] and mask[1, 4, 1] and mask[3, 2, 1]
    # In another slice it takes nothing.
    assert trace(square(0, 8, uid="b"), cavity).sum() == 49


@pytest.mark.parametrize("points", [[(-1, 0), (3, 3)], [(0, 0), (12, 3)], [(0, 0), (3, 12)]])
def test_points_beyond_the_slice_are_refused(points):
    with pytest.raises(
        InputError, match="expected outlines within 12 x 12 pixels, received one of reader 1 beyond"
    ):
        trace(Outline("a", None, True, np.array(points)))


# Grouping and consensus


def region(reader: int, columns: range, *, row: int = 0, k: int = 0) -> Region:
    voxels = np.array([np.ravel_multi_index((x, row, k), SHAPE) for x in columns])
    return Region(reader, voxels, voxels)


def group(*regions: Region, tolerance_mm: float, spacing_mm=(1.0, 1.0, 2.5)) -> list[list[int]]:
    return group_regions(regions, SHAPE, spacing_mm, tolerance_mm)


def test_marks_at_most_the_tolerance_apart_are_one_nodule():
    one, other = region(0, range(0, 5)), region(1, range(7, 9))  # columns 4 and 7: 3 apart
    assert group(one, other, tolerance_mm=3) == [[0, 1]]
    assert group(one, other, tolerance_mm=2.9) == [[0], [1]]
    assert group(one, other, tolerance_mm=3, spacing_mm=(1.1, 1, 2.5)) == [[0], [1]]
    above = region(1, range(0, 5), k=1)
    assert group(one, above, tolerance_mm=2.5) == [[0, 1]]
    assert group(one, above, tolerance_mm=2.4) == [[0], [1]]
    assert group(tolerance_mm=3) == []


def test_a_chain_of_marks_is_one_nodule():
    marks = [region(0, range(0, 3)), region(1, range(10, 12)), region(2, range(5, 8))]
    assert group(*marks, tolerance_mm=3) == [[0, 1, 2]]


def test_two_near_nodules_of_one_reader_stay_two():
    # Columns 0-4 and 7-11, 3 apart, by both readers; elsewhere, two readers' marks 3 apart are one
    # nodule still.
    near = [
        region(0, range(0, 5)),
        region(0, range(7, 12)),
        region(1, range(1, 5)),
        region(1, range(8, 12)),
    ]
    far = [region(0, range(30, 32)), region(1, range(34, 36))]
    assert group(*near, *far, tolerance_mm=3) == [[0, 2], [1, 3], [4, 5]]


def test_the_tolerance_is_lowered_no_further_than_it_takes():
    # The second reader's mark is 2 from the first reader's one and 3 from the other.
    marks = [region(0, range(0, 3)), region(0, range(9, 12)), region(1, range(4, 7))]
    assert group(*marks, tolerance_mm=3) == [[0, 2], [1]]


def test_two_marks_of_one_reader_within_anothers_are_one_nodule():
    marks = [region(0, range(0, 5)), region(0, range(7, 12)), region(1, range(0, 12))]
    assert group(*marks, tolerance_mm=3) == [[0, 1, 2]]
    # Two readers, not three: voxels that one of them includes are included by half.
    assert take_consensus(marks, 0.5).size == 12 and take_consensus(marks, 0.6).size == 10
    # A voxel in both marks of one reader has that reader's one vote.
    twice = [region(0, range(0, 5)), region(0, range(3, 8)), region(1, range(7, 9))]
    assert np.unravel_index(take_consensus(twice, 1.0), SHAPE)[0].tolist() == [7]


@pytest.mark.parametrize(
    ("spans", "consensus", "expected"),
    [
        ([(0, 4)], 0.5, range(0, 4)),  # 1 of 1
        ([(0, 4), (2, 6)], 0.5, range(0, 6)),  # 1 of 2 is exactly half
        ([(0, 4), (2, 6)], 0.51, range(2, 4)),
        ([(0, 4), (2, 6), (3, 9)], 0.5, range(2, 6)),  # 1 of 3 is not
        ([(0, 4), (2, 6), (3, 9)], 2 / 3, range(2, 6)),
        ([(0, 4), (2, 6), (3, 9)], 1.0, range(3, 4)),
        ([(0, 8), (2, 6), (4, 6), (9, 12)], 0.5, range(2, 6)),  # 2 of 4 and more; 1 of 4 is out
        ([(0, 8), (2, 6), (4, 6), (9, 12)], 0.25, [*range(0, 8), *range(9, 12)]),
        ([(0, 8), (2, 6), (4, 6), (9, 12)], 1.0, []),
    ],
)
def test_consensus_is_the_share_of_those_who_marked_the_nodule(spans, consensus, expected):
    regions = [region(reader, range(*span)) for reader, span in enumerate(spans)]
    voxels = take_consensus(regions, consensus)
    assert np.unravel_index(voxels, SHAPE)[0].tolist() == list(expected)


# Files

ROI = (
    "<roi><imageZposition>-12.5</imageZposition><imageSOP_UID>1.2.9</imageSOP_UID><inclusion>TRUE</inclusion>"
    "<edgeMap><xCoord>3</xCoord><yCoord>4</yCoord></edgeMap><edgeMap><xCoord>5</xCoord><yCoord>6</yCoord></edgeMap></roi>"
)
POINT = ROI.replace("<edgeMap><xCoord>5</xCoord><yCoord>6</yCoord></edgeMap>", "")


def message(
    marks: str = ROI,
    *,
    header: str = "<SeriesInstanceUid>1.2.3</SeriesInstanceUid>",
    namespace: str = "",
) -> str:
    return (
        '<?xml version="1.0"?><LidcReadMessage'
        f' uid="1"{namespace}><ResponseHeader><Version>1</Version>{header}'
        f"</ResponseHeader><readingSession/><readingSession><unblindedReadNodule><noduleID>1</noduleID>{marks}"
        "</unblindedReadNodule><nonNodule><nonNoduleID>2</nonNoduleID></nonNodule></readingSession></LidcReadMessage>"
    )


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    (folder / "158.xml").write_bytes(text.encode(encoding))
    return folder / "158.xml"


@pytest.mark.parametrize(
    "namespace", ["", ' xmlns="http://www.nih.gov"', ' xmlns="http://www.nih.gov/idri"']
)
@pytest.mark.parametrize("element", ["SeriesInstanceUid", "SeriesInstanceUID"])
def test_what_a_file_says(tmp_path, namespace, element):
    path = write(tmp_path, message(header=f"<{element}> 1.2.3\n</{element}>", namespace=namespace))
    assert read_series_uid(path) == "1.2.3"
    reading = read_reading(path)
    assert reading.series_uid == "1.2.3" and len(reading.marks) == 1
    (mark,) = reading.marks
    (outline,) = mark.outlines
    assert mark.reader == 1
    assert (outline.instance_uid, outline.z_mm, outline.included) == ("1.2.9", -12.5, True)
    assert outline.points.tolist() == [[3, 4], [5, 6]]


def test_single_points_are_no_outlines(tmp_path):
    assert read_reading(write(tmp_path, message(POINT))).marks == ()
    (mark,) = read_reading(write(tmp_path, message(ROI + POINT))).marks
    assert len(mark.outlines) == 1
    assert read_reading(write(tmp_path, message(""))).marks == ()


@pytest.mark.parametrize("inclusion", ["FALSE", "False", "false"])
def test_excluded_outlines_are_known(tmp_path, inclusion):
    (mark,) = read_reading(write(tmp_path, message(ROI + ROI.replace("TRUE", inclusion)))).marks
    assert [outline.included for outline in mark.outlines] == [True, False]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("<xCoord>3.5<", "<xCoord>3<"),
        ("<xCoord><", "<xCoord>3<"),
        ("<inclusion>maybe<", "<inclusion>TRUE<"),
        ("<imageSOP_UID><", "<imageSOP_UID>1.2.9<"),
        ("<imageZposition>high<", "<imageZposition>-12.5<"),
        ("<yCoord/>", "<yCoord>4</yCoord>"),
    ],
)
def test_incomplete_outlines_are_refused(tmp_path, wrong, right):
    path = write(tmp_path, message(ROI.replace(right, wrong)))
    with pytest.raises(
        InputError,
        match=r"^158.xml: expected outlines with a slice, .* received one of reader 2 without;",
    ):
        read_reading(path)


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize("read", [read_series_uid, read_reading])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("doctype", [BOMB, OUTSIDE, "<!DOCTYPE LidcReadMessage>"])
def test_document_types_are_refused(tmp_path, read, encoding, doctype):
    text = message(
        header="<SeriesInstanceUid>&a;</SeriesInstanceUid>" if "ENTITY" in doctype else ""
    )
    text = text.replace(
        '<?xml version="1.0"?>', f'<?xml version="1.0" encoding="{encoding}"?>{doctype}'
    )
    with pytest.raises(
        InputError, match=r"^158.xml: expected an annotation file in plain XML, .*document type\);"
    ):
        read(write(tmp_path, text, encoding))


@pytest.mark.parametrize("read", [read_series_uid, read_reading])
@pytest.mark.parametrize(
    "text", ["", "LIDC", message()[:60], '<?xml version="1.0" encoding="none"?><a/>', "<a>\x00</a>"]
)
def test_broken_files_are_refused(tmp_path, read, text):
    with pytest.raises(
        InputError,
        match=r"^158.xml: expected an annotation file in plain XML, received .*; download",
    ) as error:
        read(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_file_cut_off_behind_its_header_is_refused_when_read(tmp_path):
    path = write(tmp_path, message()[:-40])
    assert read_series_uid(path) == "1.2.3"
    with pytest.raises(InputError, match=r"^158.xml: expected an annotation file in plain XML"):
        read_reading(path)


def test_a_reading_without_series_is_refused(tmp_path):
    for header in ("", "<SeriesInstanceUid/>", "<CTSeriesInstanceUid>1.2</CTSeriesInstanceUid>"):
        with pytest.raises(
            InputError,
            match=r"^158.xml: expected a SeriesInstanceUid in its ResponseHeader, found none",
        ):
            read_series_uid(write(tmp_path, message(header=header)))


def test_other_files_are_no_reading_of_a_ct(tmp_path):
    radiograph = write(tmp_path, message().replace("LidcReadMessage", "IdriReadMessage"))
    assert read_series_uid(radiograph) is None
    with pytest.raises(
        InputError, match=r"^158.xml: expected LIDC's reading of a CT, received another XML"
    ):
        read_reading(radiograph)
    assert read_series_uid(published("037.xml")) is None


# The published file: patient LIDC-IDRI-0078


def trace_published() -> tuple[tuple[Mark, ...], list[Region], tuple[int, int, int]]:
    marks = read_reading(published("158.xml")).marks
    heights = {outline.instance_uid: outline.z_mm for mark in marks for outline in mark.outlines}
    slices = {uid: round((z - 1400.5) / 3) for uid, z in heights.items() if z is not None}
    shape = (512, 512, 80)
    return marks, [trace_mark(mark, slices, shape) for mark in marks], shape


def test_published_readers_and_nodules():
    marks, regions, shape = trace_published()
    assert [sum(mark.reader == reader for mark in marks) for reader in range(4)] == [3, 3, 4, 3]
    nodules = group_regions(regions, shape, (0.65, 0.65, 3.0), 3.0)
    assert sorted([regions[n].reader for n in nodule] for nodule in nodules) == [
        [0, 1, 2, 3]
    ] * 3 + [[2]]
    for nodule in nodules:
        sizes = [regions[n].voxels.size for n in nodule]
        assert (
            min(sizes) <= take_consensus([regions[n] for n in nodule], 0.5).size <= max(sizes) * 1.1
        )


def test_published_coordinates_count_from_zero():
    # pylidc, whose masks have been checked against the images, gives this mark rows 151 to 184 and
    # columns 349 to 375.
    first = read_reading(published("158.xml")).marks[0]
    points = np.concatenate([outline.points for outline in first.outlines])
    assert points.min(axis=0).tolist() == [349, 151] and points.max(axis=0).tolist() == [375, 184]
    assert len(first.outlines) == 6


def test_published_masks_lie_within_their_outlines():
    marks, regions, shape = trace_published()
    for mark, region in zip(marks, regions, strict=True):
        mask = np.zeros(shape, dtype=bool)
        mask.reshape(-1)[region.voxels] = True
        for outline in mark.outlines:
            assert outline.z_mm is not None and outline.included
            plane = mask[:, :, round((outline.z_mm - 1400.5) / 3)]
            found = np.argwhere(plane)
            low, high = outline.points.min(axis=0), outline.points.max(axis=0)
            assert (
                len(found) and (low < found.min(axis=0)).all() and (found.max(axis=0) < high).all()
            )
            assert not plane[tuple(outline.points.T)].any()
            # By another rule: centres that the polygon through the points contains, without the
            # points.
            box = np.argwhere(np.ones(high - low + 1)) + low
            contained = Polygon(outline.points, closed=True).contains_points(box)
            assert pixels_of(found) == pixels_of(box[contained]) - pixels_of(outline.points)
