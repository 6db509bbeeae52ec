"""What leaves names, and that names made equal by it stay apart and lead to their own pictures."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from boltzmed.cli import main
from boltzmed.reports.gallery import NO_PICTURE
from boltzmed.reports.names import ShownNames, redact_name
from boltzmed.reports.pictures import PictureFolders
from boltzmed.reports.report import write_report
from boltzmed.reports.scores import read_scores
from boltzmed.reports.summary import summarise
from boltzmed.volumes import write_image

HEADER = "method,dataset,case,target,dice,area_fraction"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("1.2.840.113619.2.55.3_nodule", "[UID]_nodule"),
        ("ct_20210314_chest", "ct_[date]_chest"),
        ("2021-03-14", "[date]"),
        ("20210314101500", "[date]"),
        ("ct_20210314_101500", "ct_[date]"),
        ("05.03.2021", "[date]"),
        ("scan 05-03-2021 b", "scan [date] b"),
        ("03-25-2021", "[date]"),
        ("DOE^JANE", "[name]"),
        ("Van Dyke^Anna Maria", "[name]"),
        ("10^3 mm", "10^3 mm"),
        ("amos_0233_160_CT", "amos_0233_160_CT"),
        ("LIDC-IDRI-0110_5_45", "LIDC-IDRI-0110_5_45"),
        ("phantom_910000", "phantom_910000"),
        ("amos_2021_0314", "amos_2021_0314"),
        ("1_2_840_113619_2_55_3", "[UID]"),
        ("CT-1-2-840-113619-2", "CT-[UID]"),
        ("2.25.329800735698586629", "[UID]"),
        ("1970-1-5", "[date]"),
        ("2020/03/14", "[date]"),
        ("14/03/2021", "[date]"),
        ("scan_14032021", "scan_[date]"),
        ("5-Jan-2020", "[date]"),
        ("Jan 5, 2020", "[date]"),
        ("05Dec19", "[date]"),
        ("2020-Jan-05", "[date]"),
        ("14.3.21", "[date]"),
        ("3/14/21", "[date]"),
        ("85-03-14", "[date]"),
        ("2021-03-14T10:15:00", "[date]"),
        ("doe^jane marie", "[name]"),
        ("lung_left_003", "lung_left_003"),
        ("case 5 marker 12", "case 5 marker 12"),
        ("v1.10.12", "v1.10.12"),
        ("nnU-Net 2.5.1", "nnU-Net 2.5.1"),
        ("liver_14_3_21", "liver_14_3_21"),
        ("Smith_John_CT", "Smith_John_CT"),  # --number-cases is for such
    ],
)
def test_uids_dates_and_persons_leave_names(name, shown):
    assert redact_name(name) == shown


def test_names_made_equal_get_the_same_numbers_in_any_order():
    cases = ["1.2.3.4.5.7", "a", "1.2.3.4.5.6"]
    rows = pd.DataFrame(
        {"method": "m", "dataset": ["x", "x", "y"] * 2, "case": cases * 2, "target": "t"}
    )
    rows = pd.concat([rows, rows.assign(dataset="x")])
    for order in (rows, rows[::-1]):
        names = ShownNames.of(order)
        shown = {"1.2.3.4.5.6": "[UID] 1", "1.2.3.4.5.7": "[UID] 2", "a": "a"}
        assert {case: names.cases["x", case] for case in cases} == shown
        assert names.cases["y", "1.2.3.4.5.6"] == "[UID]"  # alone in its data set
        assert names.find_case("x", "[UID] 2") == "1.2.3.4.5.7"


def test_every_failure_opens_its_own_case(tmp_path):
    """Two cases whose names are both UIDs, and a third of the same name in another data set."""
    first, second = "1.2.840.113619.2.55.3", "1.2.840.113619.2.55.4"
    affine_ras = np.diag([-1.0, -1.0, 3.0, 1.0])
    for number, case in enumerate((first, second)):
        mask = np.zeros((40, 40, 3), np.uint8)
        mask[10 : 15 + 10 * number, 10:15] = 1
        write_image(
            np.zeros((40, 40, 3), np.int16), affine_ras, tmp_path / "images" / f"{case}.nii.gz"
        )
        write_image(mask, affine_ras, tmp_path / "references" / f"{case}.nii.gz")
    objects = [("set", first, 0.1), ("set", second, 0.2), ("of 20210314", first, 0.3)]
    lines = [f"DOE^JANE's,{dataset},{case},nodule,{dice},0.01" for dataset, case, dice in objects]
    (tmp_path / "r.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    scores = read_scores([tmp_path / "r.csv"])
    pictures = PictureFolders(tmp_path / "images", None, tmp_path / "references", window=(0, 1))
    page = write_report(
        scores, summarise(scores.rows, resamples=20), None, tmp_path / "out", pictures=pictures
    )
    html = page.read_text(encoding="utf-8")
    volumes = re.findall(r'<script type="application/json" id="volume-\d">(.*?)</script>', html)
    titles = [json.loads(text)["title"] for text in volumes]
    assert sorted(titles) == [
        "of [date], [UID], nodule",
        "set, [UID] 1, nodule",
        "set, [UID] 2, nodule",
    ]
    for failure in re.findall(r'<article class="failure">(.*?)</article>', html, re.DOTALL):
        dataset, target, case = re.search(r"<h3>(.*?): (.*?), (.*?)</h3>", failure).groups()
        assert (
            titles[int(re.search(r'data-open-volume="(\d)"', failure)[1])]
            == f"{dataset}, {case}, {target}"
        )
    html = re.sub("[A-Za-z0-9+/=]{200,}", "", html)
    assert "DOE" not in html and "20210314" not in html and "113619" not in html
    listed = pd.read_csv(tmp_path / "out" / "objects.csv")
    assert (
        listed["case"].tolist() == ["[UID] 1", "[UID] 2", "[UID]"]
        and listed.columns[-1] == "[name]"
    )
    written = "".join(
        path.read_text()
        for path in (tmp_path / "out").rglob("*")
        if path.suffix in (".csv", ".svg")
    )
    assert "DOE" not in written and "113619" not in written and "20210314" not in written


def test_notes_and_reasons_keep_their_words_around_a_name():
    rows = pd.DataFrame(
        {"method": ["DOE^JANE's", "m"], "dataset": "of 5-Jan-2020", "case": "a", "target": "t"}
    )
    names = ShownNames.of(rows)
    excluded = pd.DataFrame(
        {
            "method": "m",
            "dataset": "of 5-Jan-2020",
            "reason": ["no score by DOE^JANE's to pair with"],
        }
    )
    assert names.redact_table(excluded).to_numpy().tolist() == [
        ["m", "of [date]", "no score by [name] to pair with"]
    ]


def test_cases_are_numbered_where_asked(tmp_path, capsys):
    """Nothing that is written tells the cases' names; numbers follow the names' order and open the
    right pictures.
    """
    people = ["Smith_John", "Adams, Ann"]
    affine_ras = np.diag([-1.0, -1.0, 3.0, 1.0])
    for number, case in enumerate(people):
        mask = np.zeros((40, 40, 3), np.uint8)
        mask[10 : 15 + 10 * number, 10:15] = 1
        write_image(
            np.zeros((40, 40, 3), np.int16), affine_ras, tmp_path / "images" / f"{case}.nii.gz"
        )
        write_image(mask, affine_ras, tmp_path / "references" / f"{case}.nii.gz")
    lines = [
        f'{method},{dataset},"{case}",nodule,0.{4 + rank}{rank},0.01'
        for method in ("a", "b")
        for dataset in ("set", "other")
        for rank, case in enumerate(people if dataset == "set" else ["Miller_Kim"])
    ]
    (tmp_path / "r.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    command = [
        "compare",
        str(tmp_path / "r.csv"),
        "--output",
        str(tmp_path / "out"),
        "--number-cases",
    ]
    folders = ["--images", str(tmp_path / "images"), "--references", str(tmp_path / "references")]
    assert main([*command, *folders, "--case", "Smith_John"]) == 0
    listed = pd.read_csv(tmp_path / "out" / "objects.csv")
    assert sorted(listed[["dataset", "case", "a"]].to_numpy().tolist()) == [
        ["other", "case 001", 0.4], ["set", "case 001", 0.51], ["set", "case 002", 0.4],
    ]  # fmt: skip
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    (volume,) = re.findall(r'<script type="application/json" id="volume-\d">(.*?)</script>', html)
    assert json.loads(volume)["title"] == "set, case 002, nodule"
    assert NO_PICTURE in html  # Miller_Kim's image is not there, which the terminal says by name
    printed = capsys.readouterr()
    assert (
        printed.err
        == "boltzmed: no picture: Miller_Kim: expected an image of that name among the images,"
        " found none; check the folder\n"
    )
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()] + [
        printed.out.encode()
    ]
    for person in ("Smith_John", "Adams", "Miller_Kim"):
        assert not any(person.encode() in content for content in written)
