"""A made-up copy of the publisher's tree: small CTs and nodules that are counted by hand."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from boltzmed.cards import load_card
from boltzmed.data.layouts.lidc_idri import list_cases, read_case
from boltzmed.errors import InputError
from boltzmed.volumes import write_ct_series

CARD = load_card("lidc_idri")
SHAPE = (24, 20, 6)
Box = tuple[int, int, int, int, int]
"""First column, first row, last column, last row of what is enclosed, and the slice."""

# four readers, who agree on slices 1 and 2; the first alone sees it on slice 3, the third sees less
# of it
NODULE: list[list[Box]] = [
    [(3, 4, 5, 7, 1), (3, 4, 5, 7, 2), (3, 4, 5, 7, 3)],
    [(3, 4, 5, 7, 1), (3, 4, 5, 7, 2)],
    [(4, 5, 5, 7, 1), (4, 5, 5, 7, 2)],
    [(3, 4, 5, 7, 1)],
]
SMALL: list[list[Box]] = [[], [], [(14, 12, 15, 13, 5)], []]
PAIR: list[list[Box]] = [[(12, 3, 13, 4, 0)], [], [], [(13, 3, 14, 4, 0)]]


class Series:
    """A CT on disk, with the UIDs that its annotation file needs."""

    def __init__(self, folder: Path, seed: int, hu: np.ndarray | None = None) -> None:
        affine = np.diag([-0.7, -0.8, 2.5, 1.0])
        affine[:3, 3] = [80.25, 90.5, -100.75]
        image = np.full(SHAPE, -800) if hu is None else hu
        self.folder = write_ct_series(image, affine, folder, seed=seed)
        # Names in the order from head to feet, as scanners number them.
        files = sorted(self.folder.iterdir())
        for number, file in enumerate(reversed(files), start=1):
            file.rename(self.folder / f"1-{number:03d}.dcm")
        slices = [pydicom.dcmread(file) for file in sorted(self.folder.iterdir(), reverse=True)]
        self.uid = str(slices[0].SeriesInstanceUID)
        self.slices = [str(header.SOPInstanceUID) for header in slices]
        self.heights_mm = [float(header.ImagePositionPatient[2]) for header in slices]

    def reading(self, *nodules: Sequence[Sequence[Box]], root: str = "LidcReadMessage") -> str:
        """An annotation file: each nodule's boxes by reader, drawn as the pixels just outside."""
        sessions = ""
        for reader in range(4):
            marks = "".join(self._mark(nodule[reader]) for nodule in nodules if nodule[reader])
            small = f"<noduleID>9</noduleID>{self._roi([(1, 1)], 0)}"
            marks += f"<unblindedReadNodule>{small}</unblindedReadNodule>"
            marks += f"<nonNodule><nonNoduleID>8</nonNoduleID>{self._roi([(2, 2)], 0)}</nonNodule>"
            sessions += f"<readingSession>{marks}</readingSession>"
        header = (
            f"<ResponseHeader><SeriesInstanceUid>{self.uid}</SeriesInstanceUid></ResponseHeader>"
        )
        return (
            f'<?xml version="1.0"?><{root} xmlns="http://www.nih.gov">{header}{sessions}</{root}>'
        )

    def _mark(self, boxes: Sequence[Box]) -> str:
        rois = ""
        for left, top, right, bottom, k in boxes:
            ring = [(x, top - 1) for x in range(left, right + 1)] + [
                (right + 1, y) for y in range(top, bottom + 1)
            ]
            ring += [(x, bottom + 1) for x in range(right, left - 1, -1)]
            ring += [(left - 1, y) for y in range(bottom, top - 1, -1)]
            rois += self._roi(ring, k)
        header = "<noduleID>1</noduleID><characteristics/>"
        return f"<unblindedReadNodule>{header}{rois}</unblindedReadNodule>"

    def _roi(self, points: Sequence[tuple[int, int]], k: int) -> str:
        edges = "".join(
            f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points
        )
        return (
            f"<roi><imageZposition>{self.heights_mm[k]}</imageZposition><imageSOP_UID>{self.slices[k]}</imageSOP_UID>"
            f"<inclusion>TRUE</inclusion>{edges}</roi>"
        )


def make_case(
    source: Path, patient: str = "LIDC-IDRI-0001", *, seed: int = 1, hu: np.ndarray | None = None
) -> Series:
    """A patient's CT where TCIA puts it; no annotation file yet."""
    return Series(source / patient / f"1.2.{seed}.4" / f"1.2.{seed}.5", seed, hu)


def make_radiograph(source: Path, patient: str, *, seed: int) -> Series:
    series = Series(source / patient / f"1.2.{seed}.8" / f"1.2.{seed}.9", seed)
    for file in series.folder.iterdir():
        header = pydicom.dcmread(file)
        header.Modality = "DX"
        header.save_as(file)
    return series


def annotate(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def only(source: Path, card=CARD):
    (found,) = list_cases(source, card)
    assert found.problem is None, found.problem
    return found


def box(*spans: Box) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    for left, top, right, bottom, k in spans:
        mask[left : right + 1, top : bottom + 1, k] = True
    return mask


# Reading


def test_labels_voxel_by_voxel(tmp_path):
    nodule = box(
        (3, 4, 5, 7, 1), (3, 4, 5, 7, 2)
    )  # 12 pixels each: 3 of 4 readers, and exactly 2 of 4
    small = box((14, 12, 15, 13, 5))  # 4 pixels: 1 of 1
    pair = box((12, 3, 14, 4, 0))  # 6 pixels: 1 of 2, or both
    hu = np.where(nodule | small | pair, 40, -800)
    series = make_case(tmp_path / "LIDC-IDRI", hu=hu)
    annotate(series.folder / "069.xml", series.reading(SMALL, NODULE, PAIR))
    found = only(tmp_path)
    assert (found.case, found.patient) == ("LIDC-IDRI-0001", "LIDC-IDRI-0001")
    assert found.image == (series.folder,) and found.label == (series.folder / "069.xml",)

    volume = read_case(found, CARD)
    assert volume.labels.dtype == np.uint8
    assert np.array_equal(volume.labels, (nodule | small | pair).astype(np.uint8))
    assert np.array_equal(np.asarray(volume.image[0]) == 40, volume.labels == 1)
    assert np.allclose(np.diag(volume.image.affine), [-0.7, -0.8, 2.5, 1])
    assert volume.image.meta["case"] == "LIDC-IDRI-0001" and volume.image.meta["modality"] == "CT"
    assert volume.values == {"lung nodule": (1,)} and volume.window is None and volume.has_spacing
    voxel_mm3 = 0.7 * 0.8 * 2.5  # 1.4
    assert [list(finding.values())[:4] for finding in volume.findings] == [
        [1, 2, True, 6],
        [2, 4, True, 24],
        [3, 1, True, 4],
    ]
    for finding in volume.findings:
        assert finding["volume_mm3"] == pytest.approx(finding["voxels"] * voxel_mm3)
        assert finding["diameter_mm"] == pytest.approx(
            (6 * finding["volume_mm3"] / np.pi) ** (1 / 3), abs=1e-3
        )
    assert [(f["first_slice"], f["last_slice"]) for f in volume.findings] == [
        (0, 0),
        (1, 2),
        (5, 5),
    ]
    assert json.loads(json.dumps(volume.findings)) == volume.findings


def test_the_cards_options_count(tmp_path):
    series = make_case(tmp_path)
    annotate(series.folder / "069.xml", series.reading(NODULE, SMALL, PAIR))
    all_agree = replace(CARD, layout={"reader": "lidc_idri", "consensus": 1.0})
    volume = read_case(only(tmp_path), all_agree)
    # The fourth reader drew nothing on slice 2; the pair's readers share one column.
    assert np.array_equal(
        volume.labels == 1,
        box((4, 5, 5, 7, 1), (14, 12, 15, 13, 5), (13, 3, 13, 4, 0)).astype(bool),
    )
    two_readers = replace(CARD, layout={"reader": "lidc_idri", "min_readers": 2})
    volume = read_case(only(tmp_path), two_readers)
    assert np.array_equal(
        volume.labels == 1, box((3, 4, 5, 7, 1), (3, 4, 5, 7, 2), (12, 3, 14, 4, 0))
    )
    assert [(f["readers"], f["kept"], f["voxels"]) for f in volume.findings] == [
        *((2, True, 6), (4, True, 24), (1, False, 4)),
    ]
    assert read_case(only(tmp_path), replace(CARD, layout={})).labels.sum() == 24 + 4 + 6


def test_readers_who_share_no_voxel_leave_none(tmp_path):
    series = make_case(tmp_path)
    apart: list[list[Box]] = [[(3, 4, 4, 5, 1)], [(6, 4, 7, 5, 1)], [], []]
    annotate(series.folder / "069.xml", series.reading(apart))
    volume = read_case(only(tmp_path), replace(CARD, layout={"consensus": 1.0}))
    assert not volume.labels.any()
    assert volume.findings == [
        {
            **{
                "nodule": 1,
                "readers": 2,
                "kept": False,
                "voxels": 0,
                "volume_mm3": 0.0,
                "diameter_mm": 0.0,
            },
            **{"first_slice": None, "last_slice": None},
        }
    ]


def test_a_scan_without_nodules_has_empty_labels(tmp_path):
    series = make_case(tmp_path)
    annotate(series.folder / "069.xml", series.reading())
    volume = read_case(only(tmp_path), CARD)
    assert volume.labels.shape == SHAPE and not volume.labels.any() and volume.findings == []
    assert volume.values == {"lung nodule": (1,)}


# Listing


def test_annotation_files_in_a_folder_of_their_own(tmp_path):
    expected = {}
    for seed, patient in ((1, "LIDC-IDRI-0003"), (2, "LIDC-IDRI-0002"), (3, "LIDC-IDRI-0007")):
        series = make_case(tmp_path / "LIDC-IDRI", patient, seed=seed)
        path = tmp_path / "LIDC-XML-only" / "tcia-lidc-xml" / "157" / f"{seed}58.xml"
        expected[patient] = (series.folder, annotate(path, series.reading(NODULE)))
    found = list_cases(tmp_path, CARD)
    assert [case.case for case in found] == sorted(expected)
    for case in found:
        assert (*case.image, *case.label) == expected[case.case] and case.problem is None
        assert read_case(case, CARD).labels.sum() == 24


def test_the_source_may_be_any_folder_on_the_way(tmp_path):
    series = make_case(tmp_path / "manifest-16" / "LIDC-IDRI")
    annotate(series.folder / "069.xml", series.reading(NODULE))
    for source in (tmp_path, *series.folder.parents):
        assert only(source).case == "LIDC-IDRI-0001"
        if source == series.folder.parents[3]:
            break
    assert only(series.folder).case == "LIDC-IDRI-0001"
    other = Series(tmp_path / "others" / "patient A" / "ct", 5)
    annotate(other.folder / "070.xml", other.reading(NODULE))
    assert only(tmp_path / "others").case == "patient A"


def test_patients_with_several_cts_are_numbered_by_path(tmp_path):
    for seed in (2, 1):
        series = make_case(tmp_path, "LIDC-IDRI-0132", seed=seed)
        annotate(series.folder / f"{seed}.xml", series.reading(NODULE if seed == 1 else SMALL))
    found = list_cases(tmp_path, CARD)
    assert [(case.case, case.patient) for case in found] == [
        ("LIDC-IDRI-0132-1", "LIDC-IDRI-0132"),
        ("LIDC-IDRI-0132-2", "LIDC-IDRI-0132"),
    ]
    assert [read_case(case, CARD).labels.sum() for case in found] == [24, 4]


def test_no_image_is_opened_where_the_annotation_file_lies_beside_it(tmp_path, monkeypatch):
    series = make_case(tmp_path)
    annotate(series.folder / "069.xml", series.reading(NODULE))
    monkeypatch.setattr(
        "boltzmed.data.layouts.lidc_idri.read_identity",
        lambda folder: pytest.fail(f"opened {folder}"),
    )
    assert only(tmp_path).case == "LIDC-IDRI-0001"


def test_radiographs_and_other_files_are_passed_over(tmp_path):
    series = make_case(tmp_path)
    annotate(series.folder / "069.xml", series.reading(NODULE))
    radiograph = make_radiograph(tmp_path, "LIDC-IDRI-0001", seed=2)
    annotate(radiograph.folder / "070.xml", radiograph.reading(root="IdriReadMessage"))
    make_radiograph(tmp_path, "LIDC-IDRI-0002", seed=3)
    annotate(tmp_path / "list.csv", "patient,nodules\n")
    annotate(tmp_path / "LIDC-IDRI-0001" / "._069.xml", "macOS")
    annotate(tmp_path / ".cache" / "069.xml", "hidden")
    assert only(tmp_path).label == (series.folder / "069.xml",)


def test_a_copy_of_the_annotation_file_is_no_second_reading(tmp_path):
    series = make_case(tmp_path)
    path = annotate(series.folder / "069.xml", series.reading(NODULE))
    annotate(tmp_path / "AAA" / "158.xml", path.read_text())
    assert read_case(only(tmp_path), CARD).labels.sum() == 24


# What does not fit together


def problem(source: Path, case: str) -> str:
    """The problem of one case; one line, without any UID."""
    text = {found.case: found.problem for found in list_cases(source, CARD)}[case]
    assert text is not None and text.startswith(f"case {case}: ")
    return check_line(text)


def refusal(source: Path) -> str:
    """Why the only case cannot be read."""
    with pytest.raises(InputError, match=r"^case LIDC-IDRI-0001: ") as error:
        read_case(only(source), CARD)
    return check_line(str(error.value))


def check_line(text: str) -> str:
    assert "\n" not in text and not re.search(r"\d+\.\d+\.\d+", text) and "Phantom" not in text
    return text


def test_a_ct_without_annotation_file(tmp_path):
    make_case(tmp_path)
    other = make_case(tmp_path, "LIDC-IDRI-0002", seed=2)
    annotate(other.folder / "069.xml", other.reading(NODULE))
    assert "no annotation file names its series" in problem(tmp_path, "LIDC-IDRI-0001")
    assert [found.problem is None for found in list_cases(tmp_path, CARD)] == [False, True]


def test_annotation_files_without_ct(tmp_path):
    series = make_case(tmp_path)
    text = series.reading(NODULE)
    annotate(series.folder / "069.xml", text)
    for folder, name in (("185", "158.xml"), ("186", "158.xml"), ("186", "200.xml")):
        annotate(
            tmp_path / "tcia-lidc-xml" / folder / name, text.replace(series.uid, f"1.2.{folder}")
        )
    assert [found.case for found in list_cases(tmp_path, CARD)] == [
        "158-1",
        "158-2",
        "200",
        "LIDC-IDRI-0001",
    ]
    for case, name in (("158-1", "158.xml"), ("158-2", "158.xml"), ("200", "200.xml")):
        assert f"{name}: expected the CT that it annotates below" in problem(tmp_path, case)


def test_two_annotation_files_of_one_ct(tmp_path):
    series = make_case(tmp_path)
    annotate(series.folder / "069.xml", series.reading(NODULE))
    annotate(tmp_path / "xml" / "158.xml", series.reading(SMALL))
    assert (
        "expected one annotation file of its CT, received 2 that differ (069.xml, 158.xml)"
        in problem(tmp_path, "LIDC-IDRI-0001")
    )


def test_one_ct_in_two_folders(tmp_path):
    series = make_case(tmp_path)
    annotate(series.folder / "069.xml", series.reading(NODULE))
    shutil.copytree(series.folder, tmp_path / "LIDC-IDRI-0002" / "copy")
    for case in ("LIDC-IDRI-0001", "LIDC-IDRI-0002"):
        assert "expected one folder with the CT that 069.xml annotates, received 2" in problem(
            tmp_path, case
        )


@pytest.mark.parametrize("text", ["", "<LidcReadMessage>", "<!DOCTYPE a><LidcReadMessage/>"])
def test_broken_annotation_files(tmp_path, text):
    series = make_case(tmp_path)
    annotate(series.folder / "069.xml", text)
    assert "069.xml: expected an annotation file in plain XML" in problem(tmp_path, "069")
    assert "no annotation file names its series" in problem(tmp_path, "LIDC-IDRI-0001")


def test_an_annotation_file_cut_off(tmp_path):
    series = make_case(tmp_path)
    annotate(series.folder / "069.xml", series.reading(NODULE)[:-30])
    assert "069.xml: expected an annotation file in plain XML" in refusal(tmp_path)


def test_the_annotation_file_of_another_series(tmp_path):
    series, other = make_case(tmp_path / "source"), make_case(tmp_path / "other", seed=2)
    annotate(series.folder / "069.xml", other.reading(NODULE))
    message = refusal(tmp_path / "source")
    assert "069.xml: expected the annotation of the CT series it is paired with" in message
    assert "received that of another" in message


def test_outlines_on_other_slices(tmp_path):
    series = make_case(tmp_path)
    text = series.reading(NODULE)
    annotate(series.folder / "069.xml", text.replace(series.slices[2], "1.2.3.4"))
    # Of eight outlines three lie on slice 2; single points are none.
    assert (
        "069.xml: expected 8 outlines on slices of the CT series, received 3 on others"
        in refusal(tmp_path)
    )


def test_a_slice_that_is_missing(tmp_path):
    series = make_case(tmp_path)
    annotate(series.folder / "069.xml", series.reading(NODULE, SMALL))
    (series.folder / "1-001.dcm").unlink()  # the topmost, on which the small nodule lies
    assert (
        "069.xml: expected 9 outlines on slices of the CT series, received 1 on others"
        in refusal(tmp_path)
    )


def test_outlines_at_another_height_than_their_slices(tmp_path):
    series = make_case(tmp_path)
    text = series.reading(NODULE)
    at = f"<imageZposition>{series.heights_mm[3]}<"
    annotate(
        series.folder / "069.xml",
        text.replace(at, f"<imageZposition>{series.heights_mm[3] + 1.2}<"),
    )
    assert read_case(only(tmp_path), CARD).labels.sum() == 24
    annotate(
        series.folder / "069.xml",
        text.replace(at, f"<imageZposition>{series.heights_mm[3] - 2.5}<"),
    )
    assert (
        "expected outlines within 1.25 mm of their slices' positions, received 1 of 8 farther off"
        " (2.50 mm" in refusal(tmp_path)
    )
    annotate(series.folder / "069.xml", text.replace(at, "<imageZposition>nan<"))
    assert "received 1 of 8 farther off" in refusal(tmp_path)
    annotate(series.folder / "069.xml", text.replace(at, "<imageZposition><"))
    assert read_case(only(tmp_path), CARD).labels.sum() == 24


def test_outlines_beyond_the_image(tmp_path):
    series = make_case(tmp_path)
    annotate(series.folder / "069.xml", series.reading([[], [(20, 4, 30, 7, 1)], [], []]))
    assert "expected outlines within 24 x 20 pixels, received one of reader 2 beyond" in refusal(
        tmp_path
    )


def test_a_broken_image_is_named_with_its_case(tmp_path):
    series = make_case(tmp_path)
    annotate(series.folder / "069.xml", series.reading(NODULE))
    (series.folder / "1-002.dcm").write_bytes(b"")
    assert "1-002.dcm" in refusal(tmp_path)


def test_a_source_without_cts(tmp_path):
    annotate(tmp_path / "readme.txt", "nothing")
    for source in (tmp_path, tmp_path / "missing"):
        with pytest.raises(
            InputError, match=f"^{source.name}: expected LIDC-IDRI's folders of DICOM series"
        ):
            list_cases(source, CARD)
