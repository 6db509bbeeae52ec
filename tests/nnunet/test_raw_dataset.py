"""A cache as nnU-Net's raw data sets: voxels keep their places, the split stays, a stopped run goes
on.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from boltzmed.cards import load_card
from boltzmed.cli import main
from boltzmed.data.layouts.nnunet import list_cases, read_case
from boltzmed.data.prepare import prepare_cache
from boltzmed.nnunet.raw_dataset import export_dataset, name_case
from boltzmed.volumes import map_nifti
from tests.nnunet.conftest import PARTS, make_case, write_toy

FOLDERS = {"train": "Tr", "validation": "Tr", "test": "Ts"}


def look_up(
    affine_ras: np.ndarray, into_ras: np.ndarray, voxels: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Values of another grid's voxels at the places of this one's, which must be voxel centres of
    it.
    """
    places = (
        np.linalg.inv(into_ras)
        @ affine_ras
        @ np.vstack([np.indices(shape).reshape(3, -1), np.ones(np.prod(shape))])
    )
    nearest = np.round(places[:3]).astype(int)
    assert np.abs(places[:3] - nearest).max() < 1e-3 and (nearest >= 0).all()
    return voxels[tuple(nearest)].reshape(shape)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in files
    }


@pytest.mark.parametrize("case", PARTS)
def test_every_voxel_keeps_its_place_and_value(toy_raw: Path, case: str) -> None:
    hu, labels, affine_ras = make_case(case)
    suffix = FOLDERS[PARTS[case]]
    image, image_affine = map_nifti(toy_raw / f"images{suffix}" / f"{name_case(case)}_0000.nii.gz")
    label, label_affine = map_nifti(toy_raw / f"labels{suffix}" / f"{name_case(case)}.nii.gz")
    assert image.dtype == np.int16 and label.dtype == np.uint8 and image.size == hu.size
    assert np.array_equal(image_affine, label_affine)
    assert np.array_equal(image, look_up(image_affine, affine_ras, hu, image.shape))
    assert np.array_equal(label, look_up(image_affine, affine_ras, labels, image.shape))


def test_its_tables(toy_raw: Path) -> None:
    assert toy_raw.name == "Dataset007_toy"
    content = json.loads((toy_raw / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "CT"} and content["file_ending"] == ".nii.gz"
    assert (
        content["labels"] == {"background": 0, "healthy": 1, "lesion": 2}
        and content["numTraining"] == 4
    )
    assert json.loads((toy_raw / "splits_final.json").read_text()) == [
        {"train": ["a", name_case("b 1")], "val": ["c", "d"]}
    ]
    record = json.loads((toy_raw / "boltzmed.json").read_text())
    assert record["card"] == "toy" and record["targets"] == {"organ": [1, 2], "the lesion": [2]}
    assert {entry["case"]: entry["patient"] for entry in record["cases"].values()} == {
        case: f"patient {case[0]}" for case in PARTS
    }
    assert sorted(path.name for path in (toy_raw / "imagesTs").iterdir()) == [
        "e_0000.nii.gz",
        "f_0001_0000.nii.gz",
    ]


def test_our_own_reader_of_nnunets_layout_takes_it(toy, toy_raw: Path) -> None:
    card = load_card(toy.source / "toy.yaml")
    cases = {found.case: found for found in list_cases(toy_raw, card)}
    assert cases.keys() == {"a", name_case("b 1"), "c", "d"} and not any(
        found.problem for found in cases.values()
    )
    assert (
        np.bincount(read_case(cases["c"], card).labels.ravel()).tolist()
        == np.bincount(make_case("c")[1].ravel()).tolist()
    )


def test_names_of_files() -> None:
    assert [name_case(case) for case in ("LIDC-IDRI-0001_R_1", "x.y")] == [
        "LIDC-IDRI-0001_R_1",
        "x.y",
    ]
    odd = [name_case(case) for case in ("a b", "a  b", "é", ".a", "-a", "a/b")]
    assert len(set(odd)) == len(odd) and all(
        name.startswith("case_") and name.isascii() for name in odd
    )


def test_experts_are_data_sets_of_one_class(toy, tmp_path: Path) -> None:
    done = export_dataset(toy.cache, tmp_path, 41, name="x", mode="experts")
    assert [one.folder.name for one in done] == ["Dataset041_x_organ", "Dataset042_x_the-lesion"]
    for one, target, values in zip(done, ("organ", "the lesion"), ((1, 2), (2,)), strict=True):
        content = json.loads((one.folder / "dataset.json").read_text())
        assert content["labels"] == {"background": 0, target: 1}
        for case in ("c", "d"):
            label = map_nifti(one.folder / "labelsTr" / f"{case}.nii.gz")[0]
            assert (
                set(np.unique(label)) <= {0, 1}
                and label.sum() == np.isin(make_case(case)[1], values).sum()
            )


def test_a_choice_of_targets_numbers_its_classes_from_one(toy, tmp_path: Path) -> None:
    (done,) = export_dataset(toy.cache, tmp_path, 1, targets=["the lesion"])
    assert json.loads((done.folder / "dataset.json").read_text())["labels"] == {
        "background": 0,
        "lesion": 1,
    }
    assert (
        map_nifti(done.folder / "labelsTr" / "c.nii.gz")[0].sum() == (make_case("c")[1] == 2).sum()
    )


def test_numbers_that_are_not_whole_stay_as_they_are(tmp_path: Path) -> None:
    organ = {"labels": [1, 2], "prompts": ["organ in MRI"], "site": "abdomen"}
    toy = write_toy(
        tmp_path,
        ["a", "c"],
        modality="MR",
        windows={"percentiles": None},
        default_window="percentiles",
        targets={"organ": {**organ, "window": "percentiles"}},
    )
    hu, _, affine_ras = make_case("a")
    nibabel.save(
        nibabel.Nifti1Image(hu.astype(np.float32) + 0.25, affine_ras), toy.source / "a.nii"
    )
    prepare_cache(toy.source / "toy.yaml", toy.source / "pairs.csv", toy.cache)
    (done,) = export_dataset(toy.cache, tmp_path / "raw", 1)
    image, into = map_nifti(done.folder / "imagesTr" / "a_0000.nii.gz")
    assert np.array_equal(image, look_up(into, affine_ras, hu + np.float32(0.25), image.shape))
    assert json.loads((done.folder / "dataset.json").read_text())["channel_names"] == {"0": "MR"}


class TestAgain:
    def test_nothing_is_written_twice(self, toy, raw: Path) -> None:
        before = snapshot(raw)
        (done,) = export_dataset(toy.cache, raw.parent, 7)
        after = snapshot(raw)
        assert set(done.kept) == set(PARTS) and not done.written
        assert {k: v[1] for k, v in before.items()} == {k: v[1] for k, v in after.items()}
        assert all(before[name] == after[name] for name in before if name.endswith(".nii.gz"))

    def test_a_killed_run_is_completed(self, toy, raw: Path) -> None:
        before = snapshot(raw)
        (raw / "dataset.json").unlink()
        (raw / "labelsTr" / "c.nii.gz").unlink()
        (raw / "imagesTr" / ".0123456789ab.d_0000.nii.gz").write_bytes(b"half")
        (done,) = export_dataset(toy.cache, raw.parent, 7)
        assert done.written == ("c",)
        assert {name: content for name, (_, content) in snapshot(raw).items()} == {
            k: v[1] for k, v in before.items()
        }

    @pytest.mark.parametrize(
        "settings", [{"name": "other"}, {"targets": ["organ"]}, {"mode": "experts"}]
    )
    def test_another_export_of_its_id_is_refused(self, toy, raw: Path, settings) -> None:
        with pytest.raises(
            ValueError, match=r"Dataset007_toy: expected no data set of id 7, .* pass another --id"
        ):
            export_dataset(toy.cache, raw.parent, 7, **settings)

    def test_a_strangers_folder_is_refused(self, toy, tmp_path: Path) -> None:
        (tmp_path / "Dataset007_toy").mkdir()
        with pytest.raises(ValueError, match="expected no data set of id 7"):
            export_dataset(toy.cache, tmp_path, 7)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"dataset_id": 0}, "id: expected numbers from 1 to 999, received 0 to 0"),
        (
            {"dataset_id": 999, "mode": "experts"},
            "id: expected numbers from 1 to 999, received 999 to 1000",
        ),
        ({"name": "a b"}, "name: expected ASCII letters"),
        ({"name": "../x"}, "name: expected ASCII letters"),
        ({"mode": "both"}, "mode: expected one of multiclass, experts, received 'both'"),
        ({"targets": ["spleen"]}, "no target 'spleen'; it has organ, the lesion"),
    ],
)
def test_unusable_settings_write_nothing(toy, tmp_path: Path, settings, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        export_dataset(toy.cache, tmp_path / "raw", **{"dataset_id": 7, **settings})
    assert not (tmp_path / "raw").exists()


def test_a_cache_without_validation_cases_is_refused(tmp_path: Path) -> None:
    toy = write_toy(tmp_path, ["a", "e"])
    with pytest.raises(
        ValueError, match="expected cases in part 'validation', found none; it has test, train"
    ):
        export_dataset(toy.cache, tmp_path / "raw", 7)


def test_a_sheared_case_is_left_out_and_named(tmp_path: Path, capsys) -> None:
    toy = write_toy(tmp_path, ["a", "b 1", "c"])
    hu, labels, affine_ras = make_case("a")
    sheared = affine_ras + np.eye(4, k=1) * [[0, 0.1, 0, 0]]
    for name, voxels in (("a.nii", hu), ("a_label.nii", labels)):
        image = nibabel.Nifti1Image(voxels, None)
        image.set_sform(sheared, 1)
        nibabel.save(image, tmp_path / name)
    prepare_cache(tmp_path / "toy.yaml", tmp_path / "pairs.csv", toy.cache)
    assert (
        main(["nnunet", "export", str(toy.cache), "--raw", str(tmp_path / "raw"), "--id", "3"]) == 2
    )
    out, err = capsys.readouterr()
    folder = tmp_path / "raw" / "Dataset003_toy"
    assert out == f"2 cases written, 0 kept, 1 excluded: {folder}\n"
    assert "boltzmed: Dataset003_toy: case a: expected perpendicular axes, found a shear of" in err
    assert json.loads((folder / "splits_final.json").read_text()) == [
        {"train": [name_case("b 1")], "val": ["c"]}
    ]
    assert (
        not list(folder.glob("*/a*"))
        and json.loads((folder / "dataset.json").read_text())["numTraining"] == 2
    )


def test_the_real_hippocampus_voxel_by_voxel(tmp_path: Path) -> None:
    task = Path(__file__).resolve().parents[3] / "shared" / "data" / "Task04_Hippocampus"
    if not task.exists():
        pytest.skip("needs ../shared/data/Task04_Hippocampus")
    names = ["hippocampus_003", "hippocampus_006", "hippocampus_007"]
    rows = [f"{task}/imagesTr/{n}.nii.gz,{task}/labelsTr/{n}.nii.gz,{n},{part}" for n, part in
            zip(names, ("train", "validation", "test"), strict=True)]  # fmt: skip
    (tmp_path / "pairs.csv").write_text("\n".join(["image,label,case,split", *rows]) + "\n")
    cache = prepare_cache("msd_hippocampus", tmp_path / "pairs.csv", tmp_path / "cache").cache
    (done,) = export_dataset(cache, tmp_path / "raw", 4)
    for name, suffix in zip(names, ("Tr", "Tr", "Ts"), strict=True):
        for file, source in (
            (f"images{suffix}/{name}_0000.nii.gz", "imagesTr"),
            (f"labels{suffix}/{name}.nii.gz", "labelsTr"),
        ):
            voxels, affine_ras = map_nifti(done.folder / file)
            original, original_ras = map_nifti(task / source / f"{name}.nii.gz")
            assert voxels.size == original.size
            assert np.array_equal(
                voxels, look_up(affine_ras, original_ras, original, voxels.shape)
            ), file
