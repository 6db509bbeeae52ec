"""Preparing a cache: what it holds, keeps and refuses; an interruption leaves no trace."""

from __future__ import annotations

import errno
import gzip
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import yaml
from filelock import FileLock
from PIL import Image

from boltzmed.cli import main
from boltzmed.data import prepare
from boltzmed.data.case_file import CaseFile
from boltzmed.data.index import COLUMNS
from boltzmed.data.prepare import Preparation, prepare_cache
from boltzmed.errors import InputError, OutputError
from boltzmed.reports.sizes import read_object_sizes
from boltzmed.transforms.slices import SlicePlan
from boltzmed.volumes import read_volume, write_ct_series, write_image

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
SHAPE = (20, 16, 6)  # axial slices of 16 rows and 20 columns
AFFINE = np.diag([-0.7, -0.8, 2.5, 1.0])
CODES = ("LPS", "RAS", "LAS", "PSL")


def find_shared(name: str) -> Path:
    if not (SHARED_DATA / name).exists():
        pytest.skip(f"needs ../shared/data/{name}")
    return SHARED_DATA / name


def write_card(folder: Path, name: str = "toy", **changes: Any) -> Path:
    """A CT card of a Decathlon task: numbers to 6 train, the rest tests, two are a patient's."""

    def target(labels: list[int], window: str, *prompts: str, **more: Any) -> dict[str, Any]:
        return {
            "labels": labels,
            "site": "abdomen",
            "window": window,
            "prompts": list(prompts),
            **more,
        }

    card = {
        "name": name,
        "title": "Toy organs",
        **dict.fromkeys(("licence", "citation", "source"), "none"),
        "modality": "CT",
        "exhaustive": True,
        "protocol": "biomedparse",
        "layout": {"reader": "decathlon"},
        "cases": {"numbers_per_patient": 2},
        "labels": {0: "background", 1: "healthy", 2: "lesion"},
        "windows": {"abdomen": [-150, 250], "liver": [-25, 230]},
        "default_window": "abdomen",
        "split": {"by": "case number", "train": [[1, 6]], "test_share": 1.0},
        "targets": {
            "organ": target([1, 2], "abdomen", "organ in CT", extra_windows=["liver"]),
            "lesion": target([2], "liver", "lesion in CT"),
        },
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(
        yaml.safe_dump(
            {key: value for key, value in card.items() if value is not None}, sort_keys=False
        )
    )
    return path


def make_case(number: int, shape: Sequence[int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """HU, all different within a case, and labels that differ between cases."""
    hu = (np.arange(np.prod(shape)).reshape(shape) % 2000 - 1000 + number).astype(np.int16)
    labels = np.zeros(shape, np.uint8)
    labels[2 : 12 + number % 5, 2:12, 1:4] = 1
    labels[4:6, 4:6, 4] = 1  # dropped by the published protocol
    labels[4:7, 4 : 6 + number % 3, 2] = 2
    return hu, labels


def write_case(
    task: Path, number: int, *, hu: Any = None, labels: Any = None, affine: Any = None
) -> None:
    made_hu, made_labels = make_case(number)
    affine = AFFINE if affine is None else affine
    for folder, voxels in (
        ("imagesTr", made_hu if hu is None else hu),
        ("labelsTr", made_labels if labels is None else labels),
    ):
        (task / folder).mkdir(parents=True, exist_ok=True)
        write_image(voxels, affine, task / folder / f"toy_{number:03d}.nii.gz")


def write_list(task: Path, numbers: Sequence[int]) -> Path:
    names = [f"toy_{number:03d}.nii.gz" for number in numbers]
    content = {
        "name": "Toy",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "healthy", "2": "lesion"},
        "training": [
            {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names
        ],
    }
    (task / "dataset.json").write_text(json.dumps(content))
    return task


def write_task(folder: Path, numbers: Sequence[int] = range(1, 9)) -> Path:
    """A task whose volumes lie in the patient in four different ways."""
    task = folder / "Task99_Toy"
    for number in numbers:
        axes = {
            "L": (-0.7, 0),
            "R": (0.7, 0),
            "P": (-0.8, 1),
            "A": (0.8, 1),
            "I": (-2.5, 2),
            "S": (2.5, 2),
        }
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for column, code in enumerate(CODES[number % len(CODES)]):
            step, axis = axes[code]
            affine[axis, column] = step
        affine[:3, 3] = number, -number, 0.5
        write_case(task, number, affine=affine)
    return write_list(task, numbers)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted((folder / "cases").iterdir())}


def read_index(cache: Path) -> pd.DataFrame:
    return pd.read_csv(
        cache / "index.csv", dtype={"case": str, "patient": str}, keep_default_na=False
    )


def read_manifest(cache: Path) -> dict[str, Any]:
    return json.loads((cache / "manifest.json").read_text())


class Toy:
    """A card, its source and its cache."""

    def __init__(self, folder: Path, numbers: Sequence[int] = range(1, 9)) -> None:
        self.folder = folder
        self.card, self.task, self.cache = (
            write_card(folder),
            write_task(folder, numbers),
            folder / "cache",
        )

    def prepare(self, **options: Any) -> Preparation:
        return prepare_cache(self.card, self.task, self.cache, **options)

    def run(self, *options: str) -> int:
        return main(
            [
                "prepare",
                str(self.card),
                "--source",
                str(self.task),
                "--cache",
                str(self.cache),
                *options,
            ]
        )

    def fresh(self, **options: Any) -> dict[str, bytes]:
        """What an undisturbed run writes."""
        prepare_cache(self.card, self.task, self.folder / "fresh", **options)
        return snapshot(self.folder / "fresh")


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


NAMES = tuple(f"toy_{number:03d}" for number in range(1, 9))


class TestContents:
    @pytest.fixture(scope="class")
    def done(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Toy, Preparation]:
        toy = Toy(tmp_path_factory.mktemp("contents"))
        return toy, toy.prepare()

    def test_files(self, done):
        toy, preparation = done
        cases = {f"cases/{name}.safetensors" for name in NAMES}
        assert set(snapshot(toy.cache)) == cases | {
            "index.csv",
            "manifest.json",
            "toy.yaml",
            ".lock",
        }
        assert (toy.cache / "toy.yaml").read_bytes() == toy.card.read_bytes()
        assert preparation.written == NAMES and preparation.kept == () and preparation.failed == {}
        assert (
            preparation.parts == {"test": (1, 2), "train": (3, 6)}
            and preparation.cache == toy.cache
        )

    def test_case_files(self, done):
        toy, _ = done
        for number, name in enumerate(NAMES, 1):
            hu, labels = make_case(number)
            affine = nibabel.load(toy.task / "imagesTr" / f"{name}.nii.gz").affine
            plan = SlicePlan.from_affine(affine, SHAPE)
            file = CaseFile(toy.cache / "cases" / f"{name}.safetensors")
            assert file.facts.case == name and file.facts.percentiles is None
            for k, (image, label) in enumerate(zip(plan.cut(hu), plan.cut(labels), strict=True)):
                assert np.array_equal(file.image_at(k), image) and np.array_equal(
                    file.labels_at(k), label
                )
            np.testing.assert_allclose(file.facts.affine_ras, plan.slices_affine(affine), atol=1e-5)

    def test_index(self, done):
        toy, preparation = done
        index = read_index(toy.cache)
        assert tuple(index.columns) == COLUMNS
        expected = []
        for number, name in enumerate(NAMES, 1):
            affine = nibabel.load(toy.task / "labelsTr" / f"{name}.nii.gz").affine
            labels = SlicePlan.from_affine(affine, SHAPE).cut(make_case(number)[1])
            for target, values, windows in (
                ("organ", (1, 2), ("abdomen", "liver")),
                ("lesion", (2,), ("liver",)),
            ):
                pixels = np.isin(labels, values).sum((1, 2))
                for k in np.flatnonzero(pixels):
                    area = pixels[k] / max(labels.shape[1:]) ** 2
                    used = int(10 * pixels[k] >= pixels.max())
                    volume = round(float(pixels.sum() * 1.4), 1)
                    expected += [
                        (name, k, target, window, pixels[k], area, volume, used)
                        for window in windows
                    ]
        columns = [
            "case",
            "slice_index",
            "target",
            "window",
            "pixels",
            "area_fraction",
            "volume_mm3",
            "used",
        ]
        found = index[columns].assign(volume_mm3=index["volume_mm3"].round(1))
        assert sorted(found.itertuples(index=False, name=None)) == sorted(expected)
        assert preparation.rows == index["used"].sum() and 0 < preparation.rows < len(index)
        assert len(read_object_sizes(toy.cache)) == preparation.rows

    def test_manifest(self, done):
        toy, _ = done
        manifest = read_manifest(toy.cache)
        assert [manifest[name] for name in ("format", "card", "protocol", "plane")] == [
            1,
            "toy",
            "biomedparse",
            "axial",
        ]
        assert manifest["failed"] == [] and [case["case"] for case in manifest["cases"]] == list(
            NAMES
        )
        first = manifest["cases"][0]
        assert {name: first[name] for name in ("patient", "split")} == {
            "patient": "patient_0001",
            "split": "train",
        }
        assert first["shape"] == [6, 16, 20] and first["spacing_mm"] == pytest.approx(
            [2.5, 0.8, 0.7]
        )
        assert first.keys() == {
            "case",
            "patient",
            "split",
            "shape",
            "spacing_mm",
            "image_sha256",
            "label_sha256",
        }
        of_index = read_index(toy.cache).groupby("case")[["patient", "split"]].first()
        assert {case["case"]: (case["patient"], case["split"]) for case in manifest["cases"]} == {
            case: (row["patient"], row["split"]) for case, row in of_index.iterrows()
        }

    def test_nothing_tells_where_the_source_lay(self, done):
        toy, _ = done
        for name, content in snapshot(toy.cache).items():
            assert str(toy.folder).encode() not in content, name


def test_the_command_says_what_it_did(toy, capsys):
    assert toy.run() == 0
    output, errors = capsys.readouterr()
    assert output.splitlines() == [
        "test: 2 cases of 1 patients",
        "train: 6 cases of 3 patients",
        f"8 cases written, 0 kept, 0 broken; {read_index(toy.cache)['used'].sum()} objects",
        str(toy.cache),
    ]
    assert "boltzmed:" not in errors


class TestOnceMore:
    def test_nothing_is_done_twice(self, toy):
        toy.prepare()
        before, modified = snapshot(toy.cache), times(toy.cache)
        again = toy.prepare()
        assert again.written == () and again.kept == NAMES
        assert snapshot(toy.cache) == before and times(toy.cache) == modified

    def test_another_place_and_another_order_give_the_same_bytes(self, toy, tmp_path):
        toy.prepare()
        moved = tmp_path / "elsewhere" / "data"
        shutil.copytree(toy.task, moved)
        write_list(moved, list(range(8, 0, -1)))
        prepare_cache(toy.card, moved, tmp_path / "other")
        assert snapshot(tmp_path / "other") == snapshot(toy.cache)

    def test_a_changed_label_rewrites_its_case_alone(self, toy):
        toy.prepare()
        modified = times(toy.cache)
        file = toy.task / "labelsTr" / "toy_003.nii.gz"
        labels = make_case(3)[1]
        labels[10, 10, 3] = 2
        write_image(labels, nibabel.load(file).affine, file)
        assert toy.prepare().written == ("toy_003",)
        changed = {name for name, time_ns in times(toy.cache).items() if modified[name] != time_ns}
        assert changed == {"toy_003.safetensors"}
        assert snapshot(toy.cache) == toy.fresh()

    def test_a_changed_image_rewrites_its_case_alone(self, toy):
        toy.prepare()
        file = toy.task / "imagesTr" / "toy_005.nii.gz"
        write_image(make_case(5)[0] + 1, nibabel.load(file).affine, file)
        assert toy.prepare().written == ("toy_005",)
        assert snapshot(toy.cache) == toy.fresh()

    def test_a_new_case_is_added(self, toy):
        write_list(toy.task, range(1, 8))
        assert len(toy.prepare().written) == 7
        write_list(toy.task, range(1, 9))
        assert toy.prepare().written == ("toy_008",)
        assert snapshot(toy.cache) == toy.fresh()

    def test_changed_prompts_and_splits_rewrite_no_case(self, toy):
        toy.prepare()
        modified = times(toy.cache)
        text = toy.card.read_text()
        toy.card.write_text(
            text.replace("organ in CT", "that organ on CT").replace(
                "test_share: 1.0", "test_share: 0.1"
            )
        )
        again = toy.prepare()
        assert again.written == () and times(toy.cache) == modified
        assert again.parts == {"train": (4, 8)}
        assert (toy.cache / "toy.yaml").read_bytes() == toy.card.read_bytes()
        assert snapshot(toy.cache) == toy.fresh()

    @pytest.mark.parametrize(
        ("field", "value"),
        [("labels", {0: "background", 1: "good", 2: "lesion"}), ("modality", "MR")],
    )
    def test_what_reading_depends_on_rewrites_all(self, toy, field, value):
        toy.prepare()
        changes = {field: value}
        if field == "modality":
            content = json.loads((toy.task / "dataset.json").read_text())
            (toy.task / "dataset.json").write_text(
                json.dumps({**content, "modality": {"0": "MRI"}})
            )
        write_card(toy.folder, **changes)
        assert toy.prepare().written == NAMES
        assert snapshot(toy.cache) == toy.fresh()

    def test_changed_targets_rewrite_all(self, toy):
        toy.prepare()
        text = toy.card.read_text().replace(
            "    labels:\n    - 1\n    - 2\n", "    labels:\n    - 1\n"
        )
        toy.card.write_text(text)
        assert toy.prepare().written == NAMES
        assert snapshot(toy.cache) == toy.fresh()

    def test_another_protocol_rewrites_index_and_manifest_alone(self, toy):
        toy.prepare()
        before, modified = snapshot(toy.cache), times(toy.cache)
        again = toy.prepare(protocol="volume")
        assert again.written == () and times(toy.cache) == modified
        after = snapshot(toy.cache)
        assert {name for name in after if after[name] != before[name]} == {
            "index.csv",
            "manifest.json",
        }
        assert (
            read_manifest(toy.cache)["protocol"] == "volume" and read_index(toy.cache)["used"].all()
        )
        assert after == toy.fresh(protocol="volume")
        toy.prepare()
        assert snapshot(toy.cache) == before

    def test_a_damaged_case_file_is_made_again(self, toy):
        toy.prepare()
        before = snapshot(toy.cache)
        file = toy.cache / "cases" / "toy_004.safetensors"
        file.write_bytes(file.read_bytes()[:-7])
        (toy.cache / "cases" / "toy_005.safetensors").unlink()
        assert toy.prepare().written == ("toy_004", "toy_005")
        assert snapshot(toy.cache) == before

    @pytest.mark.parametrize("lost", ["manifest.json", "index.csv", "toy.yaml"])
    def test_lost_tables_are_written_again(self, toy, lost):
        toy.prepare()
        before = snapshot(toy.cache)
        (toy.cache / lost).unlink()
        assert toy.prepare().written == ()
        assert snapshot(toy.cache) == before


BROKEN: dict[int, tuple[Callable[[Path], None], str]] = {}
"""Case number -> how to break it, and the line that tells of it."""


def breaks(number: int, line: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def note(function: Callable[[Path], None]) -> Callable[[Path], None]:
        BROKEN[number] = function, line
        return function

    return note


@breaks(2, "expected image and label on one grid, received (20, 16, 6) voxels of ")
def _(task: Path) -> None:
    write_image(np.ones((20, 16, 5), np.uint8), AFFINE, task / "labelsTr" / "toy_002.nii.gz")


@breaks(3, "expected image and label on one grid, received ")
def _(task: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] = 0.1
    write_image(make_case(3)[1], moved, task / "labelsTr" / "toy_003.nii.gz")


@breaks(
    4,
    "toy_004.nii.gz: expected the labels 0, 1, 2 of card toy, received 7; pass the card of this"
    " data set",
)
def _(task: Path) -> None:
    labels = make_case(4)[1]
    labels[0, 0, 0] = 7
    write_case(task, 4, labels=labels)


@breaks(5, "expected an image, received -1000 in every voxel of toy_005.nii.gz; copy it again")
def _(task: Path) -> None:
    write_case(task, 5, hu=np.full(SHAPE, -1000, np.int16))


@breaks(6, "expected label toy_006.nii.gz, found nothing there; copy it again")
def _(task: Path) -> None:
    (task / "labelsTr" / "toy_006.nii.gz").unlink()


@breaks(7, "toy_007.nii.gz: expected a whole NIfTI file, received one that is truncated or damaged")
def _(task: Path) -> None:
    file = task / "imagesTr" / "toy_007.nii.gz"
    file.write_bytes(file.read_bytes()[:-100])


@breaks(
    8,
    "expected one case of that name, received 2, of imagesTr/toy_008.nii.gz and"
    " imagesTr/toy_008.nii.gz",
)
def _(task: Path) -> None:
    content = json.loads((task / "dataset.json").read_text())
    content["training"].append(
        next(record for record in content["training"] if "toy_008" in record["image"])
    )
    (task / "dataset.json").write_text(json.dumps(content))


@breaks(
    9,
    "toy_009.nii.gz: expected a volume of at least one voxel along each axis, received shape"
    " (20, 0, 6)",
)
def _(task: Path) -> None:
    file = task / "imagesTr" / "toy_009.nii.gz"
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[44:46] = (0).to_bytes(2, "little")  # dim[2]
    file.write_bytes(gzip.compress(content))


@breaks(
    10,
    "toy_010.nii.gz: expected finite voxels, received 1 that are NaN or infinite, the first at (1,"
    " 2, 3)",
)
def _(task: Path) -> None:
    hu = make_case(10)[0].astype(np.float32)
    hu[1, 2, 3] = np.nan
    write_case(task, 10, hu=hu)


@breaks(
    11,
    "toy_011.nii.gz: expected label values that are whole numbers from 0 to 255, received 0.5;",
)
def _(task: Path) -> None:
    write_case(task, 11, labels=make_case(11)[1].astype(np.float32) / 2)


@breaks(12, "toy_012.nii.gz: expected a NIfTI file (.nii or .nii.gz), received something else")
def _(task: Path) -> None:
    (task / "labelsTr" / "toy_012.nii.gz").write_bytes(
        gzip.compress(b"a page that says: not found" * 100)
    )


class TestBroken:
    NUMBERS = tuple(range(1, 14))

    def test_each_is_told_and_the_rest_is_there_and_mended_ones_are_taken_in(
        self, tmp_path, capsys
    ):
        toy = Toy(tmp_path, self.NUMBERS)
        whole = toy.fresh()
        shutil.copytree(toy.task, tmp_path / "mended")
        for harm, _ in BROKEN.values():
            harm(toy.task)
        assert toy.run() == 2
        lines = sorted(
            line for line in capsys.readouterr().err.splitlines() if line.startswith("boltzmed: ")
        )
        assert len(lines) == len(BROKEN)
        for (number, (_, expected)), line in zip(sorted(BROKEN.items()), lines, strict=True):
            assert line.startswith(f"boltzmed: case toy_{number:03d}: {expected}"), line
        manifest = read_manifest(toy.cache)
        assert [(case["case"], f"boltzmed: {case['reason']}") for case in manifest["failed"]] == [
            (line.split()[2].rstrip(":"), line) for line in lines
        ]
        assert [case["case"] for case in manifest["cases"]] == ["toy_001", "toy_013"]
        assert set(read_index(toy.cache)["case"]) == {"toy_001", "toy_013"}
        assert sorted(times(toy.cache)) == ["toy_001.safetensors", "toy_013.safetensors"]
        for name, content in snapshot(toy.cache).items():
            assert str(tmp_path).encode() not in content, name
            if name.startswith("cases/"):
                assert content == whole[name]

        broken_again = toy.prepare()
        assert broken_again.written == () and len(broken_again.failed) == len(BROKEN)
        shutil.rmtree(toy.task)
        (tmp_path / "mended").rename(toy.task)
        assert toy.run() == 0
        assert "11 cases written, 2 kept, 0 broken" in capsys.readouterr().out
        assert snapshot(toy.cache) == whole

    def test_a_case_that_breaks_leaves_the_tables_but_loses_nothing(self, toy):
        toy.prepare()
        before = snapshot(toy.cache)
        BROKEN[4][0](toy.task)
        BROKEN[8][0](toy.task)
        assert sorted(toy.prepare().failed) == ["toy_004", "toy_008"]
        # A disk that is away for a while costs no second reading.
        assert {"toy_004.safetensors", "toy_008.safetensors"} < set(times(toy.cache))
        assert not set(read_index(toy.cache)["case"]) & {"toy_004", "toy_008"}
        write_task(toy.folder)
        assert toy.prepare().written == ()
        assert snapshot(toy.cache) == before

    def test_a_full_disk_stops_the_run_with_a_line(self, toy, monkeypatch, capsys):
        def fill(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("boltzmed.data.case_file.save", fill)
        assert toy.run() == 2
        (line,) = [
            line for line in capsys.readouterr().err.splitlines() if line.startswith("boltzmed")
        ]
        assert "expected to write into folder" in line and "No space left on device" in line
        assert not list(toy.cache.rglob("*.safetensors"))
        monkeypatch.undo()
        assert toy.run() == 0

    def test_a_broken_case_moves_no_other_to_another_part(self, toy):
        toy.prepare()
        before = {case["case"]: case["split"] for case in read_manifest(toy.cache)["cases"]}
        BROKEN[7][0](toy.task)
        toy.prepare()
        after = {case["case"]: case["split"] for case in read_manifest(toy.cache)["cases"]}
        assert len(after) == 7 and after.items() < before.items()

    def test_a_source_of_broken_cases_alone_gives_an_empty_cache(self, tmp_path, capsys):
        toy = Toy(tmp_path, [5])
        BROKEN[5][0](toy.task)
        assert toy.run() == 2
        assert "0 cases written, 0 kept, 1 broken; 0 objects" in capsys.readouterr().out
        assert read_manifest(toy.cache)["cases"] == [] and read_index(toy.cache).empty
        write_case(toy.task, 5)
        assert toy.run() == 0 and times(toy.cache)

    def test_a_file_that_vanishes_in_the_meantime_is_told(self, toy, monkeypatch):
        listed = prepare.list_source_cases

        def list_and_lose(*given: Any) -> Any:
            found = listed(*given)
            (toy.task / "imagesTr" / "toy_002.nii.gz").unlink()
            return found

        monkeypatch.setattr(prepare, "list_source_cases", list_and_lose)
        (line,) = toy.prepare().failed.values()
        assert line.startswith(
            "case toy_002: toy_002.nii.gz: expected a file or folder, received a path that does not"
            " exist"
        )

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("expected three axes, got a"),
            MemoryError(),
            PermissionError(13, "Permission denied"),
        ],
    )
    def test_a_line_begins_with_its_case_whatever_went_wrong(self, tmp_path, monkeypatch, error):
        def fail(*_given: Any) -> None:
            raise error

        card = write_card(tmp_path, layout={"reader": "pairs"}, cases=None)
        write_task(tmp_path, [1])
        (tmp_path / "t.csv").write_text(
            "image,label,case\nTask99_Toy/imagesTr/toy_001.nii.gz,Task99_Toy/labelsTr/toy_001.nii.gz,a\n"
        )
        monkeypatch.setattr(prepare, "read_source_case", fail)
        (line,) = prepare_cache(card, tmp_path / "t.csv", tmp_path / "cache").failed.values()
        assert line.startswith("case a: ") and "\n" not in line and line.count("case a") == 1

    def test_namesakes_in_different_parts_are_each_a_line(self, tmp_path, capsys):
        card = write_card(tmp_path, layout={"reader": "pairs"}, cases=None)
        write_task(tmp_path, [1, 2])
        rows = [
            f"Task99_Toy/imagesTr/toy_00{n}.nii.gz,Task99_Toy/labelsTr/toy_00{n}.nii.gz"
            for n in (1, 2)
        ]
        (tmp_path / "t.csv").write_text(
            f"image,label,case,split\n{rows[0]},a,train\n{rows[0]},a,test\n{rows[1]},b,train\n"
        )
        assert (
            main(
                [
                    "prepare",
                    str(card),
                    "--source",
                    str(tmp_path / "t.csv"),
                    "--cache",
                    str(tmp_path / "c"),
                ]
            )
            == 2
        )
        assert (
            "boltzmed: case a: expected one case of that name, received 2"
            in capsys.readouterr().err
        )
        assert list(times(tmp_path / "c")) == ["b.safetensors"]


class TestRefusals:
    def refuse(self, toy: Toy, capsys: pytest.CaptureFixture, *words: str, **changes: Any) -> None:
        """One line, exit status 2, and the cache is as it was."""
        before = snapshot(toy.cache) if toy.cache.exists() else None
        options = [
            f"--{name}={value}" for name, value in changes.items() if name not in ("card", "source")
        ]
        card, source = changes.get("card", toy.card), changes.get("source", toy.task)
        assert (
            main(
                ["prepare", str(card), "--source", str(source), "--cache", str(toy.cache), *options]
            )
            == 2
        )
        line = [
            line for line in capsys.readouterr().err.splitlines() if not line.startswith("prepare:")
        ]
        assert len(line) == 1 and line[0].startswith("boltzmed: ")
        for word in words:
            assert word in line[0]
        assert (snapshot(toy.cache) if toy.cache.exists() else None) == before

    def test_the_cache_of_another_card(self, toy, capsys):
        toy.prepare()
        other = write_card(toy.folder, "other")
        self.refuse(
            toy,
            capsys,
            "expected a cache of card other, received one of toy; choose another --cache",
            card=other,
        )

    def test_another_plane(self, toy, capsys):
        toy.prepare()
        self.refuse(
            toy, capsys, "expected a cache of plane coronal, received one of axial", plane="coronal"
        )

    @pytest.mark.parametrize(
        "file", ["notes.txt", "index.csv.bak", "images/a.nii.gz", "other.yaml"]
    )
    def test_a_folder_of_other_files(self, toy, capsys, file):
        (toy.cache / file).parent.mkdir(parents=True)
        (toy.cache / file).write_text("mine")
        (toy.cache / ".lock").touch()
        self.refuse(
            toy,
            capsys,
            "expected a new folder or a cache, received one with other files; choose another"
            " --cache",
        )

    @pytest.mark.parametrize(
        "content", ["{}", '{"card": "liver", "plane": "axial"}', "[1]", '"text"', "no JSON"]
    )
    def test_a_manifest_of_others(self, toy, capsys, content):
        toy.cache.mkdir()
        (toy.cache / "manifest.json").write_text(content)
        (toy.cache / ".lock").touch()
        self.refuse(toy, capsys, str(toy.cache), "choose another --cache")

    def test_vanished_cases(self, toy, capsys):
        toy.prepare()
        write_list(toy.task, [1, 2, 3, 4, 6, 7])
        self.refuse(
            toy,
            capsys,
            "holds 2 cases that the source does not have, toy_005 for one; choose another --cache",
        )

    def test_a_missing_source(self, toy, capsys):
        self.refuse(
            toy,
            capsys,
            "gone: expected the data set's folder",
            "found nothing",
            source=toy.folder / "gone",
        )
        assert not toy.cache.exists()

    def test_a_source_of_another_kind(self, toy, capsys):
        toy.prepare()
        self.refuse(
            toy, capsys, "expected a folder with dataset.json, found none there", source=toy.folder
        )

    def test_unknown_cards_protocols_and_too_few_workers(self, toy, capsys):
        toy.prepare()
        self.refuse(
            toy, capsys, "no card 'msd_livers': expected one of amos22_ct", card="msd_livers"
        )
        self.refuse(toy, capsys, "no such file", card=toy.folder / "none.yaml")
        self.refuse(toy, capsys, "workers: expected at least 1, received 0", workers=0)

    def test_a_card_without_a_layout(self, toy, capsys):
        card = write_card(toy.folder, "bare", layout=None)
        toy.cache.mkdir()
        (toy.cache / ".lock").touch()
        self.refuse(toy, capsys, "card bare: expected a layout whose reader is one of", card=card)

    def test_a_patient_torn_between_parts(self, toy, capsys):
        toy.prepare()
        write_card(toy.folder, split={"by": "case number", "train": [[1, 5]], "test": [[6, 6]]})
        self.refuse(
            toy,
            capsys,
            "case toy_006: expected one part of the data",
            "for toy_005; correct the split",
        )

    def test_two_runs_at_once(self, toy, capsys, monkeypatch):
        toy.prepare()
        monkeypatch.setattr(prepare, "_LOCK_WAIT_S", 0.05)
        with FileLock(toy.cache / ".lock"):
            self.refuse(toy, capsys, "another `boltzmed prepare` is at work on it; wait for it")
        assert toy.run() == 0  # the file alone locks nothing

    def test_an_unknown_protocol_is_refused_before_the_work(self, toy):
        toy.prepare()
        before = snapshot(toy.cache)
        with pytest.raises(ValueError, match="protocol: expected one of volume, biomedparse"):
            toy.prepare(protocol="all")
        assert snapshot(toy.cache) == before

    def test_an_unknown_plane_is_refused_before_the_work(self, toy):
        with pytest.raises(ValueError, match="plane: expected one of axial"):
            toy.prepare(plane="oblique")

    def test_a_file_in_the_caches_place(self, toy):
        toy.cache.write_text("mine")
        with pytest.raises(OutputError, match="expected a folder to write into"):
            toy.prepare()
        assert toy.cache.read_text() == "mine"


def test_dicom_says_nothing_of_the_patient(tmp_path):
    hu, _ = make_case(1)
    secrets = {
        "PatientName": "Doe^Jane",
        "PatientID": "SECRET-4711",
        "InstitutionName": "St Elsewhere",
        "AccessionNumber": "A9988",
    }
    for name in ("scan_a", "scan_b"):
        for path in write_ct_series(hu, AFFINE, tmp_path / name, seed=3).rglob("*.dcm"):
            dataset = pydicom.dcmread(path)
            for keyword, value in secrets.items():
                setattr(dataset, keyword, value)
            dataset.PatientBirthDate = "19010203"
            dataset.save_as(path)
    volume = read_volume(tmp_path / "scan_a")
    write_image(
        np.asarray(volume[0] > 900).astype(np.uint8),
        volume.affine.numpy(),
        tmp_path / "label.nii.gz",
    )
    uids = {
        str(dataset[k].value)
        for k in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")
    }
    sorted((tmp_path / "scan_b").rglob("*.dcm"))[2].unlink()  # a gap
    (tmp_path / "t.csv").write_text("image,label\nscan_a,label.nii.gz\nscan_b,label.nii.gz\n")
    card = write_card(tmp_path / "cards", layout={"reader": "pairs"})
    done = prepare_cache(card, tmp_path / "t.csv", tmp_path / "cache")
    assert done.written == ("scan_a",) and list(done.failed) == ["scan_b"]
    for name, content in snapshot(tmp_path / "cache").items():
        for secret in (*secrets.values(), "Jane", "19010203", *uids, str(tmp_path)):
            assert secret.encode() not in content, (name, secret)


AMOS = {"Tr": (1, 229, 500, 501, 557), "Va": (8, 228, 230, 409, 507, 556, 558, 600)}


class TestAmos:
    """The shipped cards on the publisher's folders."""

    @pytest.fixture(scope="class")
    def source(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        source = tmp_path_factory.mktemp("amos") / "amos22"
        for ending, numbers in AMOS.items():
            for number in numbers:
                hu, _ = make_case(number)
                labels = np.zeros(SHAPE, np.uint8)
                labels[1:9, 1:9, 1:4] = 6
                labels[10:14, 2:6, 2:4], labels[10:14, 8:12, 3:5] = 2, 3
                labels[16:18, 2:4, 2], labels[16:18, 6:8, 2] = 15, 14
                for kind, voxels in (("images", hu), ("labels", labels)):
                    folder = source / f"{kind}{ending}"
                    folder.mkdir(parents=True, exist_ok=True)
                    write_image(voxels, AFFINE, folder / f"amos_{number:04d}.nii.gz")
        (source / "imagesTs").mkdir()
        write_image(make_case(1)[0], AFFINE, source / "imagesTs" / "amos_0009.nii.gz")
        return source

    @pytest.mark.parametrize(
        ("card", "first", "last", "tested"),
        [("amos22_ct", 1, 500, (230, 409)), ("amos22_mr", 501, 9999, (558, 600))],
    )
    def test_numbers_and_parts(self, source, tmp_path, card, first, last, tested):
        done = prepare_cache(card, source, tmp_path)
        assert not done.failed
        cases = {case["case"]: case["split"] for case in read_manifest(tmp_path)["cases"]}
        numbers = sorted(number for several in AMOS.values() for number in several)
        assert list(cases) == [
            f"amos_{number:04d}" for number in numbers if first <= number <= last
        ]
        assert [case for case, part in cases.items() if part == "test"] == [
            f"amos_{number:04d}" for number in tested
        ]
        assert Counter(cases.values())["validation"] == 1  # a fifth of the rest

    def test_what_shows_on_a_ct(self, source, tmp_path):
        prepare_cache("amos22_ct", source, tmp_path)
        index = read_index(tmp_path)
        index = index[index["case"] == "amos_0230"]
        slices = {
            (target, window): list(zip(rows["slice_index"], rows["used"], strict=True))
            for (target, window), rows in index.groupby(["target", "window"])
        }
        assert slices == {
            ("liver", "abdomen"): [(1, 1), (2, 1), (3, 1)],
            ("liver", "liver"): [(1, 1), (2, 1), (3, 1)],
            ("right kidney", "abdomen"): [(2, 1), (3, 1)],
            ("left kidney", "abdomen"): [(3, 1), (4, 1)],
            ("kidney", "abdomen"): [(2, 0), (3, 1), (4, 0)],
            ("bladder", "abdomen"): [(2, 1)],
        }
        assert CaseFile(tmp_path / "cases" / "amos_0230.safetensors").facts.percentiles is None

    def test_what_shows_on_an_mr(self, source, tmp_path):
        prepare_cache("amos22_mr", source, tmp_path)
        index = read_index(tmp_path)
        assert set(index["window"]) == {"percentiles"}
        assert set(index["target"]) == {"liver", "left kidney", "right kidney", "kidney"}
        facts = CaseFile(tmp_path / "cases" / "amos_0558.safetensors").facts
        hu = make_case(558)[0]
        assert facts.percentiles == pytest.approx(np.percentile(hu[hu > 0], (0.5, 99.5)))


class TestPictures:
    """Slices published as PNG files, with a mask for each target."""

    TARGETS: Mapping[str, Mapping[str, Any]] = {
        "kidney": {"all_labels": True},
        "left kidney": {},
        "right kidney": {},
        "liver": {"extra_windows": ["liver"]},
    }

    def write(self, folder: Path, slices: Sequence[Mapping[str, tuple[slice, slice]]]) -> Path:
        """A volume `a` whose slices have rectangles for masks; each picture is different."""
        shutil.rmtree(folder / "data", ignore_errors=True)
        content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
        for part in ("train", "train_mask"):
            (folder / "data" / part).mkdir(parents=True)
        for number, masks in enumerate(slices, 1):
            name = f"a_{number}_CT_abdomen"
            Image.fromarray((np.arange(80).reshape(8, 10) + number).astype(np.uint8)).save(
                folder / f"data/train/{name}.png"
            )
            content["images"].append({"id": number, "file_name": f"{name}.png"})
            for target, place in masks.items():
                mask = np.zeros((8, 10), np.uint8)
                mask[place] = 255
                file = f"{name}_{target.replace(' ', '+')}.png"
                Image.fromarray(mask).save(folder / "data" / "train_mask" / file)
                content["annotations"].append({"image_id": number, "mask_file": file})
        (folder / "data" / "train.json").write_text(json.dumps(content))
        return folder / "data"

    def prepare(
        self, folder: Path, slices: Sequence[Mapping[str, tuple[slice, slice]]]
    ) -> pd.DataFrame:
        targets = {
            name: {"site": "abdomen", "window": "abdomen", "prompts": [f"{name} in CT"], **facts}
            for name, facts in self.TARGETS.items()
        }
        card = write_card(
            folder,
            layout={"reader": "biomedparse"},
            labels={},
            targets=targets,
            cases=None,
            split=None,
        )
        done = prepare_cache(card, self.write(folder, slices), folder / "cache")
        assert not done.failed
        return read_index(folder / "cache")

    LEFT, RIGHT = (slice(0, 3), slice(6, 9)), (slice(0, 3), slice(0, 3))
    LIVER, OVER_LEFT = (slice(4, 7), slice(2, 7)), (slice(0, 3), slice(5, 8))

    def test_a_picture_has_its_window_and_no_volume(self, tmp_path):
        index = self.prepare(
            tmp_path,
            [{"left kidney": self.LEFT}, {"left kidney": self.RIGHT, "right kidney": self.RIGHT}],
        )
        assert index[["slice_index", "target", "pixels", "area_fraction"]].values.tolist() == [
            [0, "left kidney", 9, 0.09],
            [1, "left kidney", 9, 0.09],
            [1, "right kidney", 9, 0.09],
        ]
        assert set(index["volume_mm3"]) == {""}
        facts = CaseFile(tmp_path / "cache" / "cases" / "a_abdomen.safetensors").facts
        assert facts.window == (0.0, 255.0) and facts.spacing_mm is None
        assert read_manifest(tmp_path / "cache")["cases"][0]["spacing_mm"] is None

    def test_a_merged_target_is_used_wherever_it_was_published(self, tmp_path):
        kidneys = {
            "kidney": (slice(0, 3), slice(0, 9)),
            "left kidney": self.LEFT,
            "right kidney": self.RIGHT,
        }
        index = self.prepare(tmp_path, [kidneys, kidneys, {**kidneys, "liver": self.OVER_LEFT}])
        assert index[index["target"] == "kidney"]["used"].tolist() == [1, 1, 1]

    def test_a_picture_is_shown_once(self, tmp_path):
        index = self.prepare(tmp_path, [{"liver": self.LIVER}])
        assert len(index[index["target"] == "liver"]) == 1

    def test_a_renamed_mask_is_another_target(self, tmp_path):
        self.prepare(tmp_path, [{"left kidney": self.LEFT}])
        assert set(self.prepare(tmp_path, [{"right kidney": self.LEFT}])["target"]) == {
            "right kidney"
        }


def list_session(session: int) -> list[int]:
    """Processes of a session that live, from /proc."""
    alive = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            alive.append(int(stat.parent.name))
    return alive


SOON_S = 10.0
"""Within which nothing of a killed run may be alive any more."""


def wait_until(happened: Callable[[], Any], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            pytest.fail(f"not after {seconds} s")
        time.sleep(0.002)


def case_files(cache: Path) -> list[str]:
    return [path.name for path in (cache / "cases").glob("[!.]*.safetensors")]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
class TestInterruptions:
    COUNT = 60

    @pytest.fixture(scope="class")
    def large(self, tmp_path_factory: pytest.TempPathFactory) -> Toy:
        """Cases that take a while each, and an undisturbed cache of them in `fresh`."""
        toy = Toy(tmp_path_factory.mktemp("large"), [1])
        shape = (100, 90, 50)
        noise = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
        numbers = range(1, self.COUNT + 1)
        for number in numbers:
            for folder, voxels in (
                ("imagesTr", noise + number),
                ("labelsTr", make_case(number, shape)[1]),
            ):
                image = nibabel.Nifti1Image(voxels.astype(np.int16), AFFINE)
                file = toy.task / folder / f"toy_{number:03d}.nii.gz"
                file.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1))
        write_list(toy.task, numbers)
        toy.fresh()
        return toy

    @pytest.fixture
    def start(self, large: Toy) -> Iterator[Callable[[Path], subprocess.Popen]]:
        runs: list[subprocess.Popen] = []

        def start(cache: Path) -> subprocess.Popen:
            command = [
                sys.executable,
                "-m",
                "boltzmed.cli",
                "prepare",
                large.card,
                "--source",
                large.task,
            ]
            command += ["--cache", cache, "--workers", "2"]
            runs.append(
                subprocess.Popen(
                    command, cwd=REPOSITORY, stderr=subprocess.DEVNULL, start_new_session=True
                )
            )
            return runs[-1]

        yield start
        for run in runs:
            if run.poll() is None:
                run.kill()
                run.wait()

    def test_killed_three_times_it_ends_as_if_it_had_never_been(self, large, start, tmp_path):
        cache = tmp_path / "cache"
        run, done = start(cache), 0
        for more in (1, 5, 9):
            wanted, alive = done + more, run.poll
            wait_until(
                lambda wanted=wanted, alive=alive: (
                    len(case_files(cache)) >= wanted or alive() is not None
                ),
                60,
            )
            assert run.poll() is None and len(list_session(run.pid)) >= 3  # it and its workers
            run.send_signal(signal.SIGKILL)
            run.wait()
            killed = run
            if more < 9:  # at once, while the workers may still be writing
                run = start(cache)
                wait_until(lambda: not list_session(killed.pid), SOON_S)  # noqa: B023
            done = len(case_files(cache))
            assert 0 < done < self.COUNT and not (cache / "manifest.json").exists()
        again = prepare_cache(large.card, large.task, cache)
        wait_until(lambda: not list_session(killed.pid), SOON_S)
        assert len(again.kept) >= done and len(again.written) > 0 and not again.failed
        whole, found = snapshot(large.folder / "fresh"), snapshot(cache)
        assert sorted(found) == sorted(whole)
        assert [name for name in whole if found[name] != whole[name]] == []

    def test_a_killed_worker_is_told_and_several_write_what_one_does(self, large, tmp_path):
        cache = tmp_path / "cache"

        def kill_one() -> None:
            wait_until(lambda: len(case_files(cache)) >= 3, 60)
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_one)
        killer.start()
        with pytest.raises(
            InputError, match=r"one was killed .* run the same command again with fewer --workers"
        ):
            prepare_cache(large.card, large.task, cache, workers=2)
        killer.join()
        assert multiprocessing.active_children() == [] and not (cache / "manifest.json").exists()
        assert 3 <= len(case_files(cache)) < self.COUNT
        again = prepare_cache(large.card, large.task, cache, workers=2)
        assert len(again.kept) >= 3 and len(again.written) + len(again.kept) == self.COUNT
        assert snapshot(cache) == snapshot(large.folder / "fresh")

    @pytest.mark.parametrize(
        "leftover",
        [
            "cases/.0123456789ab.toy_001.safetensors",
            "cases/.0123456789ab.gone.safetensors",
            ".0123456789ab.index.csv",
            ".0123456789ab.manifest.json",
            ".0123456789ab.toy.yaml",
        ],
    )
    def test_half_written_files_are_cleared_away(self, toy, leftover):
        toy.prepare()
        before = snapshot(toy.cache)
        (toy.cache / leftover).write_bytes(b"half")
        toy.prepare()
        assert snapshot(toy.cache) == before

    def test_a_full_disk_ends_it_in_one_line_and_may_be_taken_up(self, toy, capsys, monkeypatch):
        write = prepare.write_case

        def write_three(path: Path, *given: Any, **named: Any) -> None:
            if len(case_files(toy.cache)) == 3:
                raise OutputError(
                    f"{path.name}: expected to write into folder cases, got No space left on device"
                )
            write(path, *given, **named)

        monkeypatch.setattr(prepare, "write_case", write_three)
        assert toy.run() == 2
        assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
        assert not (toy.cache / "manifest.json").exists() and len(case_files(toy.cache)) == 3
        monkeypatch.undo()
        assert len(toy.prepare().kept) == 3
        assert snapshot(toy.cache) == toy.fresh()

    def test_a_cache_is_unfinished_while_it_is_done_again(self, toy, monkeypatch):
        toy.prepare()
        write_card(toy.folder, labels={0: "background", 1: "good", 2: "lesion"})

        def fail(*_given: Any, **_named: Any) -> None:
            raise OutputError("case: got No space left on device")

        monkeypatch.setattr(prepare, "write_case", fail)
        with pytest.raises(OutputError):
            toy.prepare()
        with pytest.raises(
            ValueError, match=r"expected a finished slice cache, found no manifest.json"
        ):
            read_object_sizes(toy.cache)
        monkeypatch.undo()
        assert len(toy.prepare().written) == 8
        assert snapshot(toy.cache) == toy.fresh()


class TestRealData:
    def test_hippocampus(self, tmp_path):
        task = find_shared("Task04_Hippocampus")
        done = prepare_cache("msd_hippocampus", task, tmp_path)
        assert len(done.written) == 218 and not done.failed
        cases = read_manifest(tmp_path)["cases"]
        parts: dict[int, set[str]] = {}
        for case in cases:
            parts.setdefault((int(case["case"][-3:]) - 1) // 2, set()).add(case["split"])
        assert all(len(part) == 1 for part in parts.values()) and len(parts) < 218
        assert len(parts) == sum(patients for patients, _ in done.parts.values())
        test, train = done.parts["test"][0], done.parts["train"][0]
        assert test == round(0.2 * len(parts)) and done.parts["validation"][0] == round(
            0.2 * (len(parts) - test)
        )
        assert train > test

        index = read_index(tmp_path)
        assert set(index["used"]) == {1}
        for name in ("hippocampus_003", "hippocampus_125", "hippocampus_394"):
            label = nibabel.load(task / "labelsTr" / f"{name}.nii.gz")
            voxels = np.bincount(np.asarray(label.dataobj).astype(np.uint8).ravel(), minlength=3)
            rows = index[index["case"] == name]
            counted = rows.groupby("target")["pixels"].sum().to_dict()
            expected = {
                "anterior hippocampus": voxels[1],
                "posterior hippocampus": voxels[2],
                "hippocampus": voxels[1:].sum(),
            }
            assert counted == expected
            voxel_mm3 = abs(np.linalg.det(label.affine[:3, :3]))
            for target, volume in rows.groupby("target")["volume_mm3"].first().items():
                assert volume == pytest.approx(expected[target] * voxel_mm3, abs=1e-3)

    def test_nodules(self, tmp_path):
        root = find_shared("lidc_nodules")
        rows = [
            f"{path},{root / 'masks' / path.name}"
            for path in sorted((root / "images").glob("*.nii.gz"))
        ]
        (tmp_path / "nodules.csv").write_text("\n".join(["image,label", *rows]) + "\n")
        done = prepare_cache("lidc_idri", tmp_path / "nodules.csv", tmp_path / "cache")
        assert len(done.written) == 820 and not done.failed
        cases = read_manifest(tmp_path / "cache")["cases"]
        parts: dict[str, set[str]] = {}
        for case in cases:
            assert case["patient"] == case["case"][:14]
            parts.setdefault(case["patient"], set()).add(case["split"])
        assert len(parts) == 455 and all(len(part) == 1 for part in parts.values())
        train, validation = done.parts["train"][0], done.parts["validation"][0]
        assert sum(patients for patients, _ in done.parts.values()) == 455
        assert validation == round(0.2 * (train + validation)) > 0 and done.parts["test"][0] > 0
        index = read_index(tmp_path / "cache")
        assert set(index["window"]) == {"lung"} and set(index["target"]) == {"lung nodule"}
        assert index["case"].nunique() == 820 and 0 < index["used"].mean() < 1
