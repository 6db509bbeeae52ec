"""Scores of predicted lesions, from a run's record and from a table."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from boltzmed.evaluation.mask_scores import (
    LesionScores,
    read_lesion_scores,
    recorded_scores,
    spread_scores,
)

LPS = np.diag([-0.5, -0.5, 3.0, 1.0])  # voxels of 0.75 mm³; slices run as the array does


def test_each_voxel_gets_its_components():
    mask = np.zeros((6, 6, 4), bool)
    mask[0, 0, 0] = mask[5, 5, 3] = True  # equal ones: the lower slice comes first
    mask[2:4, 2, 1] = True
    found = recorded_scores(mask, LPS, [(1.5, 0.9), (0.75, 0.5), (0.75, 0.25)], "axial")
    assert found[2, 2, 1] == found[3, 2, 1] == np.float32(0.9)
    assert found[0, 0, 0] == 0.5 and found[5, 5, 3] == 0.25 and np.isneginf(found[~mask]).all()
    # Cut from left to right, the other of the equal ones comes first.
    assert (
        recorded_scores(mask, LPS, [(1.5, 0.9), (0.75, 0.5), (0.75, 0.25)], "sagittal")[0, 0, 0]
        == 0.25
    )
    assert np.isneginf(recorded_scores(np.zeros((2, 2, 2), bool), LPS, [], "axial")).all()


@pytest.mark.parametrize(
    "components", [[], [(0.75, 0.5)], [(3.0, 0.5), (0.75, 0.5)], [(1.5, 0.5)] * 3]
)
def test_masks_of_another_run_are_refused(components):
    mask = np.zeros((6, 6, 4), bool)
    mask[0, 0, 0] = mask[2, 2:4, 1] = True
    with pytest.raises(ValueError, match=r"components that run\.json records, found 2"):
        recorded_scores(mask, LPS, components, "axial")


def test_a_table(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(
        "score,case,target,lesion\n0.5,007,nodule,1\n0.25,007,nodule,3\n1,008,nodule,1\n"
    )
    scores = read_lesion_scores(path).scores
    assert scores == {("007", "nodule"): {1: 0.5, 3: 0.25}, ("008", "nodule"): {1: 1.0}}
    numbers = np.array([[0, 1, 2, 3]], np.int32)
    assert spread_scores(numbers, scores["007", "nodule"]).tolist() == [
        [-np.inf, 0.5, -np.inf, 0.25]
    ]
    assert np.isneginf(spread_scores(numbers, {9: 1.0})).all()


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "case,target,lesion\na,b,1\n",
        "case,target,lesion,score\na,b,one,1\n",
        "case,target,lesion,score\na,b,1,\n",
        "case,target,lesion,score\na,b,1.9,0.5\n",
        "case,target,lesion,score\na,b,0,0.5\n",
        "case,target,lesion,score\na,b,,0.5\n",
        "case,target,lesion,score\na,b,1,0.5\na,c,1,0.5\na,b,1,0.25\n",
    ],
)
def test_other_tables_are_refused(tmp_path, text):
    path = tmp_path / "scores.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(
        ValueError, match=r"scores\.csv: expected the columns case, target, lesion, score, received"
    ) as error:
        read_lesion_scores(path)
    assert "\n" not in str(error.value)


def test_half_a_zipped_table_is_told(tmp_path):
    whole = gzip.compress(b"case,target,lesion,score\n" + b"a,b,1,0.5\n" * 9)
    (tmp_path / "scores.csv.gz").write_bytes(whole[:-12])
    with pytest.raises(ValueError, match=r"scores\.csv\.gz: .*not a text or complete gzip file"):
        read_lesion_scores(tmp_path / "scores.csv.gz")


def test_scores_without_lesions_and_lesions_without_scores_are_listed():
    table = LesionScores({("c", "t"): {1: 0.5, 3: 0.25}, ("d", "t"): {2: 1.0}})
    assert table.spread("c", "t", np.array([[0, 1, 2]], np.int32)).tolist() == [
        [-np.inf, 0.5, -np.inf]
    ]
    table.spread("e", "t", np.zeros((1, 2), np.int32))
    assert [
        line.split(" of the table")[0] + line[line.index(": expected") :]
        for line in table.list_unmatched()
    ] == [
        (
            "case c: t, lesions 3: expected predicted lesions of these numbers, found none; their"
            " scores are left out"
        ),
        "case c: t, lesions 2: expected their scores, found none; FROC drops them first",
        (
            "case d: t, lesions 2: expected predicted lesions of these numbers, found none; their"
            " scores are left out"
        ),
    ]
