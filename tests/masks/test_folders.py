"""Folders of masks as they come: label maps, a mask a case, a folder a case, a run's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from boltzmed.errors import InputError
from boltzmed.masks.folders import MaskFile, find_target, list_cases
from boltzmed.masks.label_names import name_labels
from boltzmed.masks.label_values import read_labels
from boltzmed.volumes import write_image

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def write(path: Path, *values: float, dtype: type = np.uint8) -> Path:
    """A file of those values, one voxel each, and a 0."""
    write_image(np.array([0, *values], dtype).reshape(-1, 1, 1), AFFINE, path)
    return path


def test_files_directly_inside(tmp_path):
    for name in ("b.nii.gz", "a.nii", "._a.nii", "notes.txt"):
        (tmp_path / name).write_text("never read")
    (tmp_path / "plans").mkdir()
    cases = list_cases(tmp_path)
    assert list(cases) == ["a", "b"]
    assert cases["a"].masks == (MaskFile(tmp_path / "a.nii"),) and cases["a"].problem is None
    named = list_cases(tmp_path)["b"].as_targets(name_labels({"head": (1,), "whole": (1, 2)})).masks
    assert [(mask.names, mask.values) for mask in named] == [
        (("head",), {1}),
        (("whole",), {1, 2}),
    ]
    (tmp_path / "a.nii.gz").write_text("")
    assert "case a: expected one file a, found .nii and .nii.gz" in str(
        list_cases(tmp_path)["a"].problem
    )


def test_a_folder_a_case(tmp_path):
    for case in ("p1", "p2"):
        (tmp_path / case).mkdir()
        (tmp_path / case / "lung-nodule.nii.gz").write_text("")
    (tmp_path / "empty").mkdir()
    cases = {
        case: masks.as_targets(name_labels({"ignored": (1,)}))
        for case, masks in list_cases(tmp_path).items()
    }
    assert list(cases) == ["p1", "p2"]
    (mask,) = cases["p1"].masks
    assert mask.names == ("lung-nodule",) and mask.slugs == {"lung-nodule"} and mask.values is None
    for record in (None, "{}"):  # whatever a run says of them
        (tmp_path / "p2" / "lung-nodule.nii").write_text("")
        if record:
            (tmp_path / "p2" / "run.json").write_text(record)
        problem = list_cases(tmp_path)["p2"].problem
        assert problem == "case p2: expected one file lung-nodule, found .nii and .nii.gz; keep one"
    (tmp_path / "p1.nii.gz").write_text("")
    with pytest.raises(
        InputError, match=r"all as CASE\.nii\.gz or all as CASE/TARGET\.nii\.gz, found both"
    ):
        list_cases(tmp_path)


def test_a_run_says_what_its_masks_are(tmp_path):
    entry = {
        "prompt": "Lung nodule in chest CT",
        "target": "lung nodule",
        "file": "x.nii.gz",
        "presence": [0.25, 1],
    }
    entry["components"] = [{"volume_mm3": 3.5, "max_probability": 0.875, "mean_probability": 0.5}]
    free = {
        "prompt": "bright spots",
        "target": None,
        "file": "y.nii.gz",
        "presence": None,
        "components": [],
    }
    (tmp_path / "c").mkdir()
    for name in "xyz":
        (tmp_path / "c" / f"{name}.nii.gz").write_text("")
    record = {"prompts": [entry, free], "seed": 7, "settings": {"plane": "coronal"}}
    (tmp_path / "c" / "run.json").write_text(json.dumps(record))
    case = list_cases(tmp_path)["c"]
    assert (case.seed, case.plane, case.problem) == (7, "coronal", None)
    first, second, third = case.masks
    assert (
        first.slugs == {"lung-nodule", "lung-nodule-in-chest-ct", "x"}
        and first.prompt == entry["prompt"]
    )
    assert first.presence == (0.25, 1.0) and first.components == ((3.5, 0.875),)
    assert (
        second.slugs == {"bright-spots", "y"}
        and second.presence is None
        and second.components == ()
    )
    assert third.names == ("z",) and third.components is None

    for broken in (
        "{",
        "[]",
        "{}",
        '{"prompts": 3}',
        json.dumps({**record, "settings": None}),
        '{"prompts": [{}]}',
    ):
        (tmp_path / "c" / "run.json").write_text(broken)
        case = list_cases(tmp_path)["c"]
        assert (
            case.masks == ()
            and "case c: expected run.json as boltzmed predict writes it" in str(case.problem)
        )
        assert "\n" not in str(case.problem)


def test_no_masks(tmp_path):
    with pytest.raises(InputError, match="expected a folder of masks, found none"):
        list_cases(tmp_path / "absent")
    with pytest.raises(InputError, match="found neither"):
        list_cases(tmp_path)


def test_targets_of_a_label_map(tmp_path):
    path = write(tmp_path / "a.nii.gz", 1, 2, 2, 7)
    read = read_labels(path)
    assert read.labels_IJK.ravel().tolist() == [0, 1, 2, 2, 7] and read.values == {0, 1, 2, 7}
    assert np.allclose(read.affine_ras, AFFINE)
    assert find_target(MaskFile(path, values=frozenset({2})), read).ravel().tolist() == [
        False,
        False,
        True,
        True,
        False,
    ]
    assert find_target(MaskFile(path, values=frozenset({1, 7})), read).ravel().tolist() == [
        False,
        True,
        False,
        False,
        True,
    ]
    with pytest.raises(
        InputError, match=r"a\.nii\.gz: expected a mask of one label value, received 1, 2, 7; name"
    ):
        find_target(MaskFile(path), read)
    with pytest.raises(
        InputError, match=r"expected the labels 0, 1, 2 of card toy, received 7; pass"
    ):
        find_target(
            MaskFile(path, values=frozenset({2}), known=frozenset({0, 1, 2}), source="card toy"),
            read,
        )


@pytest.mark.parametrize("value", [1, 255, 1000])
def test_a_mask_of_any_one_value(tmp_path, value):
    path = write(tmp_path / "a.nii.gz", value, value, dtype=np.int16)
    assert find_target(MaskFile(path), read_labels(path)).sum() == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.5, 1), "whole numbers from 0, received 0.5"),
        ((-1, 1), "received -1"),
        ((np.nan,), "finite voxels, received 1"),
    ],
)
def test_values_that_are_no_labels(tmp_path, values, message):
    path = write(tmp_path / "a.nii.gz", *values, dtype=np.float32)
    with pytest.raises(InputError, match=message):
        read_labels(path)
