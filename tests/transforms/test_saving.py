"""A study's folder of outputs: whole or not there, and a record of how it was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from monai.transforms import Compose, Identityd

import boltzmed
from boltzmed.errors import InputError, OutputError, unwrapped_input_errors
from boltzmed.studies import Study, empty_grid
from boltzmed.transforms import saving
from boltzmed.transforms.components import MeasureMasksd
from boltzmed.transforms.saving import (
    SaveMasksd,
    SaveRund,
    SaveSegmentationd,
    StudyFolders,
)
from boltzmed.volumes import read_volume, write_ct_series
from tests.transforms.drawn_masks import (
    make_image,
    make_prompt,
    make_study,
    pack_masks,
    place_affine,
)

SHAPE = (12, 10, 4)
AFFINE = place_affine((-1, -1, 1), (0.8, 0.8, 2.5))
PROMPTS = ["liver in abdomen CT", "something else"]
FILES = ["liver-in-abdomen-ct.nii.gz", "something-else.nii.gz"]
SETTINGS = {"size": "tiny", "threshold": 0.5, "max_components": None}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle's folder with what is hashed of it, and a checkpoint."""
    configs = tmp_path / "bundle" / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text('{"version": "1.2.3"}')
    (configs / "inference.yaml").write_text("seed: 0\n")
    (configs / "notes.txt").write_text("not hashed")
    (tmp_path / "bundle" / "model.pt").write_bytes(b"weights")
    return tmp_path / "bundle"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def make_item(study: Study | None = None, **changes: Any) -> dict[Hashable, Any]:
    """A segmented study, as it comes to the transforms that save."""
    image = make_image(SHAPE, AFFINE)
    masks = np.zeros((2, *SHAPE), bool)
    masks[0, 2:6, 3:7, 1:3] = True
    presence = np.array([[0.12345, 1, 1, 0], [0, 0, 0, 0]], np.float32)
    packed = pack_masks(masks, masks * np.uint8(204), AFFINE, presence_PK=presence)
    return {
        "image": image,
        "study": make_study(image) if study is None else study,
        "prompts": [make_prompt(PROMPTS[0], "liver"), make_prompt(PROMPTS[1])],
        "pred": packed,
        "device": "cpu",
        "infer_seconds": 1.234,
        "inferred_at": 0.0,
    } | changes


def make_pipeline(output: Path, bundle: Path, **options: Any) -> Compose:
    folders = StudyFolders(output)
    return Compose(
        [
            MeasureMasksd(),
            SaveMasksd(folders=folders),
            SaveSegmentationd(folders=folders),
            SaveRund(
                folders=folders,
                bundle=bundle,
                checkpoint=bundle / "model.pt",
                seed=7,
                settings=SETTINGS,
                **options,
            ),
        ],
        log_stats=False,
    )


def list_files(folder: Path) -> list[str]:
    """All files below a folder, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def read_record(output: Path, case: str = "study") -> dict[str, Any]:
    return json.loads((output / case / "run.json").read_text(encoding="utf-8"))


class TestMasks:
    def test_a_file_for_each_prompt_lies_on_the_studys_grid(self, output, bundle):
        item = make_pipeline(output, bundle)(make_item())
        assert item["mask_files"] == FILES
        assert list_files(output / "study") == sorted([*FILES, "run.json"])
        for index, name in enumerate(FILES):
            mask = nibabel.load(output / "study" / name)
            voxels = np.asanyarray(mask.dataobj)
            assert voxels.dtype == np.uint8
            assert np.array_equal(voxels, item["pred"].volume(index))
            np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-5)

    def test_the_grid_is_the_studys_not_the_images(self, output, bundle):
        item = make_item()
        item["image"].affine[0, 3] += 99
        make_pipeline(output, bundle)(item)
        mask = nibabel.load(output / "study" / FILES[0])
        np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-5)


class TestSegmentation:
    def test_a_nifti_has_none(self, output, bundle):
        make_pipeline(output, bundle)(make_item())
        reason = {"file": None, "reason": "the input is not DICOM"}
        assert read_record(output)["segmentation"] == reason

    @pytest.fixture
    def series(self, tmp_path) -> Study:
        write_ct_series(np.zeros(SHAPE, np.int16), AFFINE, tmp_path / "series", seed=1)
        image = read_volume(tmp_path / "series")
        return Study("series", "series", empty_grid(image), 0.1)

    def test_a_series_has_one_with_a_segment_a_prompt(self, series, output, bundle):
        import pydicom

        make_pipeline(output, bundle)(make_item(series))
        record = read_record(output, "series")["segmentation"]
        assert record == {"file": "segmentation.dcm", "reason": None}
        written = pydicom.dcmread(output / "series" / "segmentation.dcm")
        assert [segment.SegmentLabel for segment in written.SegmentSequence] == PROMPTS

    def test_it_can_be_switched_off(self, series, output):
        item = SaveSegmentationd(folders=StudyFolders(output), enabled=False)(make_item(series))
        assert item["segmentation"] == {"file": None, "reason": "not asked for"}
        assert not output.exists()
        with pytest.raises(ValueError, match="segmentation: expected True or False, received 'no'"):
            SaveSegmentationd(folders=StudyFolders(output), enabled="no")  # type: ignore[arg-type]

    def test_a_series_that_allows_none_still_gets_its_masks(
        self, series, output, bundle, monkeypatch
    ):
        def refuse(*_: Any, **__: Any) -> None:
            raise InputError("series: expected UIDs, received none; write the masks as NIfTI")

        monkeypatch.setattr(saving, "write_segmentation", refuse)
        make_pipeline(output, bundle)(make_item(series))
        assert list_files(output / "series") == sorted([*FILES, "run.json"])
        assert "expected UIDs" in read_record(output, "series")["segmentation"]["reason"]


class TestRecord:
    def test_it_says_what_was_asked_and_found_by_what(self, output, bundle):
        preprocessing = Compose([Identityd("image"), MeasureMasksd()])
        make_pipeline(output, bundle, preprocessing=preprocessing)(make_item())
        record = read_record(output)
        assert {name: record[name] for name in ("case", "input", "modality", "seed")} == {
            "case": "study",
            "input": "study.nii.gz",
            "modality": "CT",
            "seed": 7,
        }
        assert record["settings"] == SETTINGS
        assert record["preprocessing"] == ["Identityd", "MeasureMasksd"]
        assert record["device"] == "cpu"
        assert record["versions"]["boltzmed"] == boltzmed.__version__
        assert set(record["versions"]) == {"boltzmed", "python", "torch", "monai"}
        assert record["seconds"]["read"] == 0.5 and record["seconds"]["infer"] == 1.23

    def test_it_describes_the_studys_grid(self, output, bundle):
        make_pipeline(output, bundle)(make_item())
        geometry = read_record(output)["geometry"]
        assert geometry["shape"] == list(SHAPE) and geometry["orientation"] == "LPS"
        assert geometry["spacing_mm"] == pytest.approx([0.8, 0.8, 2.5])
        np.testing.assert_allclose(geometry["affine_ras"], AFFINE)

    def test_it_describes_every_prompts_mask(self, output, bundle):
        make_pipeline(output, bundle)(make_item())
        liver, other = read_record(output)["prompts"]
        volume = 4 * 4 * 2 * 1.6
        component = {"volume_mm3": volume, "max_probability": 0.8, "mean_probability": 0.8}
        assert liver == {
            "prompt": PROMPTS[0],
            "target": "liver",
            "card": "phantom",
            "file": FILES[0],
            "window": {"name": "abdomen", "range": [-150.0, 250.0]},
            "input_size": {"image_size": 512, "min_side": 1},
            "presence": [0.1235, 1.0, 1.0, 0.0],
            "volume_mm3": volume,
            "components": [component],
        }
        assert (other["target"], other["volume_mm3"], other["components"]) == (None, 0.0, [])

    def test_smoothed_presence_stands_beside_the_raw_one(self, output, bundle):
        item = make_item()
        masks, curve = item["pred"], np.full((2, 4), 0.25, np.float32)
        item["pred"] = pack_masks(
            np.stack([masks.volume(k) for k in range(2)]),
            np.full((2, *SHAPE), 204, np.uint8),
            AFFINE,
            smoothed_PK=curve,
        )
        make_pipeline(output, bundle)(item)
        entry = read_record(output)["prompts"][0]
        assert entry["presence"] is None and entry["presence_smoothed"] == [0.25] * 4

    def test_bundle_and_checkpoint_are_told_by_their_hashes(self, output, bundle):
        make_pipeline(output, bundle)(make_item())
        record = read_record(output)
        digests = ""
        for name in ("inference.yaml", "metadata.json"):
            content = (bundle / "configs" / name).read_bytes()
            digests += f"{name} {hashlib.sha256(content).hexdigest()}\n"
        assert record["bundle"] == {
            "version": "1.2.3",
            "configs_sha256": hashlib.sha256(digests.encode()).hexdigest(),
        }
        digest = hashlib.sha256(b"weights").hexdigest()
        assert record["checkpoint"] == {"file": "model.pt", "sha256": digest}


class TestWholeOrNotThere:
    def test_an_unfinished_folder_is_discarded(self, output):
        folders = StudyFolders(output)
        SaveMasksd(folders=folders)(make_item())
        assert not (output / "study").exists()
        folders.discard()
        assert list_files(output) == []
        folders.discard()  # again: nothing is open

    @pytest.mark.parametrize("name", ["write_mask", "write_segmentation", "whole_file"])
    @pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("a bug")])
    def test_an_error_while_writing_leaves_nothing(
        self, tmp_path, output, bundle, monkeypatch, name, error
    ):
        write_ct_series(np.zeros(SHAPE, np.int16), AFFINE, tmp_path / "series", seed=1)
        image = read_volume(tmp_path / "series")
        study = Study("study", "series", empty_grid(image), 0.1)
        kept = getattr(saving, name)

        def fail(*given: Any, **named: Any) -> Any:
            if name == "write_mask" and FILES[0] in str(given):
                return kept(*given, **named)  # the second one fails
            raise error

        monkeypatch.setattr(saving, name, fail)
        with pytest.raises((OutputError, RuntimeError)):
            make_pipeline(output, bundle)(make_item(study))
        assert list_files(output) == []

    def test_a_full_disk_is_told_by_the_folders_own_name(self, output, bundle, monkeypatch):
        def fail(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(saving, "write_mask", fail)
        with pytest.raises(OutputError, match=r"study: expected to write into folder .*No space"):
            SaveMasksd(folders=StudyFolders(output))(make_item())

    def test_the_next_study_takes_the_place_of_one_that_was_not_finished(self, output):
        folders = StudyFolders(output)
        SaveMasksd(folders=folders)(make_item())
        image = make_image(SHAPE, AFFINE)
        second = Study("second", "second.nii", empty_grid(image), 0.1)
        SaveMasksd(folders=folders)(make_item(second))
        folders.finish("study")  # which is gone
        folders.finish("second")
        assert list_files(output) == sorted(["second", *(f"second/{name}" for name in FILES)])


class TestAnEarlierRun:
    def test_its_files_are_replaced_and_others_stay(self, output, bundle):
        make_pipeline(output, bundle)(make_item())
        (output / "study" / "notes.txt").write_text("mine")
        item = make_item()
        item["prompts"] = [make_prompt("spleen"), make_prompt(PROMPTS[1])]
        make_pipeline(output, bundle)(item)
        expected = ["notes.txt", "run.json", "something-else.nii.gz", "spleen.nii.gz"]
        assert list_files(output / "study") == expected
        assert [entry["prompt"] for entry in read_record(output)["prompts"]] == [
            "spleen",
            PROMPTS[1],
        ]

    def test_it_stays_as_it_was_where_the_new_one_fails(self, output, bundle, monkeypatch):
        make_pipeline(output, bundle)(make_item())
        before = {path.name: path.read_bytes() for path in (output / "study").iterdir()}

        def fail(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(saving, "whole_file", fail)
        with pytest.raises(OutputError), unwrapped_input_errors():
            make_pipeline(output, bundle)(make_item())
        assert {path.name: path.read_bytes() for path in (output / "study").iterdir()} == before
        assert list_files(output) == sorted(["study", *(f"study/{name}" for name in before)])

    @pytest.mark.parametrize(
        "content",
        [
            "{",
            "[]",
            '{"prompts": 3}',
            '{"prompts": [{"file": "../mine.nii.gz"}], "segmentation": {"file": "/etc/hosts"}}',
            '{"prompts": [{"file": 5}], "segmentation": {"file": null}}',
        ],
    )
    def test_a_record_that_is_not_ours_removes_nothing(self, output, bundle, content):
        (output / "study").mkdir(parents=True)
        (output / "study" / "run.json").write_text(content)
        (output / "mine.nii.gz").write_text("mine")
        make_pipeline(output, bundle)(make_item())
        assert (output / "mine.nii.gz").read_text() == "mine"
        assert read_record(output)["case"] == "study"


class TestCheckedBefore:
    def test_a_file_of_that_name_is_told(self, output, tmp_path):
        output.mkdir()
        (output / "study").write_text("mine")
        with pytest.raises(OutputError, match=r"expected a folder for the masks of study\.nii"):
            StudyFolders(output).check({"study": tmp_path / "study.nii"})

    def test_masks_are_not_written_among_a_studys_images(self, tmp_path):
        (tmp_path / "series").mkdir()
        with pytest.raises(OutputError, match="expected an output folder apart from the study"):
            StudyFolders(tmp_path).check({"series": tmp_path / "series"})

    def test_a_place_that_is_no_folder_is_told(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="expected a folder to write into"):
            StudyFolders(tmp_path / "file").check({})

    def test_nothing_stays_of_the_check(self, output, tmp_path):
        StudyFolders(output).check({"study": tmp_path / "study.nii"})
        assert not output.exists()
