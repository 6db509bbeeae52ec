"""Tables of pairs: every line becomes a case or is refused by file and line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from boltzmed.data.layouts.pairs import list_cases, read_case


@pytest.fixture
def card(make_card):
    return make_card({"reader": "pairs"})


@pytest.fixture
def folder(tmp_path: Path, write_pair) -> Path:
    for number, name in enumerate("ab"):
        write_pair(
            tmp_path / "images" / f"{name}.nii.gz",
            tmp_path / f"{name}_label.nii",
            start=-1000 * number,
        )
    return tmp_path


def write_table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def write_list(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


TABLE = "image,label\nimages/b.nii.gz,b_label.nii\nimages/a.nii.gz,a_label.nii\n"


def test_a_table_of_two_columns(folder: Path, card, write_pair):
    cases = list_cases(write_table(folder / "pairs.csv", TABLE), card)
    assert [
        (found.case, found.subset, found.patient, found.split, found.problem) for found in cases
    ] == [
        ("a", None, None, None, None),
        ("b", None, None, None, None),
    ]
    hu, labels = write_pair(None, None, start=-1000)
    volume = read_case(cases[1], card)
    assert np.array_equal(volume.image[0], hu) and np.array_equal(volume.labels, labels)


def test_paths_are_relative_to_the_table_or_absolute(
    folder: Path, card, monkeypatch: pytest.MonkeyPatch
):
    (folder / "tables").mkdir()
    rows = f"image,label\n../images/a.nii.gz,{folder / 'a_label.nii'}\n"
    write_table(folder / "tables" / "pairs.csv", rows)
    monkeypatch.chdir(folder / "tables")
    for source in (folder / "tables" / "pairs.csv", Path("pairs.csv")):
        (found,) = list_cases(source, card)
        assert found.problem is None and read_case(found, card).labels.max() == 2


@pytest.mark.parametrize("name", ["pairs.CSV", "pairs.csv.gz"])
def test_all_columns_gzipped_or_not(folder: Path, card, name: str):
    text = (
        "\ufeffcase, patient,image,note,label,split\r\n"
        '007, 0012,images/a.nii.gz,"two\r\nlines, and a comma",a_label.nii,Training\r\n'
        "\r\n"
        "NA,,images/b.nii.gz,,b_label.nii,\r\n"
    )
    content = text.encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    one, other = list_cases(folder / name, card)
    assert (one.case, one.patient, one.split) == ("007", "0012", "train")
    assert (other.case, other.patient, other.split) == ("NA", None, None)


@pytest.mark.parametrize(
    "written, meant",
    [
        *(("train", "train"), ("training", "train"), ("TEST", "test")),
        *(("validation", "validation"), ("val", "validation"), ("valid", "validation")),
    ],
)
def test_splits_have_several_names(folder: Path, card, written: str, meant: str):
    source = write_table(
        folder / "pairs.csv", f"image,label,split\nimages/a.nii.gz,a_label.nii,{written}\n"
    )
    assert [found.split for found in list_cases(source, card)] == [meant]


def test_missing_files_are_problems_of_their_cases(folder: Path, card):
    (folder / "a_label.nii").unlink()
    one, other = list_cases(write_table(folder / "pairs.csv", TABLE), card)
    assert one.problem == "case a: expected label a_label.nii, found nothing there; copy it again"
    assert other.problem is None


@pytest.mark.parametrize(
    "text, words",
    [
        ("", r"pairs.csv: expected columns image and label, found no image in \[\]"),
        (
            "image,mask\na,b\n",
            r"pairs.csv: expected columns image and label, found no label in \['image', 'mask'\]",
        ),
        ("image;label\na;b\n", "pairs.csv: expected columns image and label, found no image"),
        ("image,label,image\na,b,c\n", "pairs.csv: expected columns of different names"),
        ("image,label\n", "pairs.csv: expected at least one pair of image and label, found none"),
        ("image,label\na,b\na,b,c\n", "pairs.csv, line 3: expected 2 cells, received 3"),
        ("image,label\na\n", "pairs.csv, line 2: expected 2 cells, received 1"),
        ("image,label\na, \n", "pairs.csv, line 2: expected image and label, received a and None"),
        (
            "image,label,split\na,b,tset\n",
            "pairs.csv, line 2: expected a split of .*, received 'tset'",
        ),
        ('image,label\na,b\n"a,b\n', "pairs.csv, line 2: expected a CSV table"),
    ],
)
def test_wrong_tables_are_refused_by_line(folder: Path, card, text: str, words: str):
    with pytest.raises(ValueError, match=f"^{words}"):
        list_cases(write_table(folder / "pairs.csv", text), card)


@pytest.mark.parametrize(
    "name, content",
    [
        ("pairs.csv", b"image,label\n\xff\xfe,b\n"),
        ("pairs.csv.gz", b"image,label\na,b\n"),
        ("pairs.csv.gz", gzip.compress(b"image,label\n" * 100, mtime=0)[:-9]),
        ("pairs.json", b"image,label\n"),
        ("pairs.json", b"[]"),
    ],
)
def test_unreadable_tables_are_refused(folder: Path, card, name: str, content: bytes):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{name}(, line 100)?: expected"):
        list_cases(folder / name, card)


def test_other_sources_are_refused(folder: Path, card, make_card):
    with pytest.raises(ValueError, match=r"no.csv: expected a table of pairs, found no such file"):
        list_cases(folder / "no.csv", card)
    for source in (folder, folder / "a_label.nii"):
        with pytest.raises(ValueError, match=r"expected a table of pairs, received another thing"):
            list_cases(source, card)
    with pytest.raises(ValueError, match=r"card toy: expected a card that maps label values"):
        list_cases(write_table(folder / "pairs.csv", TABLE), make_card({}, {"organ": ()}))


def test_a_datalists_keys_are_the_subsets(folder: Path, card):
    a, b = ({"image": f"images/{name}.nii.gz", "label": f"{name}_label.nii"} for name in "ab")
    content = {
        "name": "Toy",
        "authors": ["somebody"],
        "training": [{**a, "fold": 0}],
        "validation": [{**b, "case": "v", "patient": 12}],
        "testing": [{**a, "case": "t", "split": "val", "patient": None}],
        "test": ["./images/a.nii.gz"],
        "extra": [{**b, "case": "x"}],
        "unlabelled": [{"image": "images/a.nii.gz"}],
    }
    cases = list_cases(write_list(folder / "datalist.json", content), card)
    assert [(found.case, found.subset, found.patient, found.split) for found in cases] == [
        ("a", "training", None, None),
        ("t", "test", None, "validation"),
        ("v", "validation", "12", None),
        ("x", None, None, None),
    ]
    assert read_case(cases[1], card).labels.max() == 2


@pytest.mark.parametrize(
    "records, words",
    [
        (
            [{"image": "a", "label": "b"}, {"image": "a"}],
            r"datalist.json, training\[1\]: expected image and label",
        ),
        ([{"image": "a", "label": "b"}, "a"], r"datalist.json, training\[1\]: expected a record"),
        (
            [{"image": ["a", "b"], "label": "b"}],
            r"datalist.json, training\[0\]: expected text as image",
        ),
        (
            [{"image": "a", "label": "b", "case": True}],
            r"datalist.json, training\[0\]: expected text as case",
        ),
        (
            [{"image": "a", "label": "b", "split": "x"}],
            r"datalist.json, training\[0\]: expected a split",
        ),
        ([], "datalist.json: expected at least one pair"),
    ],
)
def test_wrong_records_are_refused_by_number(folder: Path, card, records: Any, words: str):
    with pytest.raises(ValueError, match=f"^{words}"):
        list_cases(write_list(folder / "datalist.json", {"training": records}), card)


def test_nodules(shared_data, tmp_path: Path, make_card):
    root = shared_data("lidc_nodules")
    card = make_card({"reader": "pairs"}, {"nodule": (1,)}, values=(0, 1))
    with open(tmp_path / "nodules.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "label", "patient"])
        for image in (root / "images").glob("*.nii.gz"):
            table.writerow([image, root / "masks" / image.name, image.name[:14]])
    cases = list_cases(tmp_path / "nodules.csv", card)
    assert len(cases) == 820 and len({found.patient for found in cases}) == 455
    assert not any(found.problem for found in cases)
    for found in (cases[0], cases[400], cases[819]):
        volume = read_case(found, card)
        mask = np.asarray(nibabel.load(found.label[0]).dataobj)
        assert np.array_equal(volume.labels, mask) and set(np.unique(mask)) == {0, 1}
        assert volume.image.shape[1:] == mask.shape
