"""Which values of nnU-Net's masks a target is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from boltzmed.cards import load_card
from boltzmed.masks.dataset_json import read_label_names
from tests.nnunet.conftest import write_card

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "nnunet"


def write(folder: Path, labels: Any, **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(
        json.dumps({"name": "Dataset001_x", "labels": labels, **more})
    )
    return folder


@pytest.fixture
def card(tmp_path: Path):
    return load_card(write_card(tmp_path / "card"))


@pytest.mark.parametrize(
    ("labels", "targets"),
    [
        ({"background": 0, "Healthy": 1, "Lesion": 2}, {"organ": {1, 2}, "the lesion": {2}}),
        ({"background": 0, "organ": 1}, {"organ": {1}}),
        ({"background": 0, "organ": [1, 2], "lesion": 2}, {"organ": {1, 2}, "the lesion": {2}}),
        ({"background": 0, "lesion": 5, "other": 1}, {"the lesion": {5}}),
    ],
)
def test_another_ones_labels_go_by_their_names(card, tmp_path: Path, labels, targets) -> None:
    found = read_label_names(write(tmp_path / "x", labels), card)
    assert {name: set(values) for name, values in found.targets.items()} == targets
    assert found.known >= {0}.union(*targets.values())


def test_it_may_lie_two_folders_above(card, tmp_path: Path) -> None:
    inner = write(tmp_path / "x", {"background": 0, "organ": 1}) / "fold_0" / "validation"
    inner.mkdir(parents=True)
    assert read_label_names(inner, card).dataset == "Dataset001_x"
    (inner / "one" / "more").mkdir(parents=True)
    with pytest.raises(
        ValueError, match=r"expected dataset\.json in it or in the two folders above, found none"
    ):
        read_label_names(inner / "one", card)


@pytest.mark.parametrize(
    ("labels", "more", "line"),
    [
        (
            {"background": 0, "spleen": 1},
            {},
            r"labels called as those of card toy \(background, healthy, lesion\)",
        ),
        (None, {}, "with labels and their values, found none"),
        ({"organ": "1"}, {}, "with labels and their values, found none"),
        ({"organ": 1.5}, {}, "with labels and their values, found none"),
        (
            {"organ": 1},
            {"boltzmed": {"card": "other", "targets": {"a": [1]}}},
            "masks of card toy, received those of other",
        ),
        ({"organ": 1}, {"boltzmed": {"card": "toy"}}, "with labels and their values, found none"),
        (
            {"organ": 1},
            {"boltzmed": {"card": "toy", "targets": {"spleen": [1]}}},
            "no target 'spleen'",
        ),
    ],
)
def test_what_is_of_other_data_is_refused(card, tmp_path: Path, labels, more, line) -> None:
    with pytest.raises(ValueError, match=line):
        read_label_names(write(tmp_path / "x", labels, **more), card)


def test_plans_of_another_data_set_are_noticed(card, tmp_path: Path) -> None:
    folder = write(
        tmp_path / "x", {"organ": 1}, boltzmed={"card": "toy", "targets": {"organ": [1]}}
    )
    (folder / "plans.json").write_text(json.dumps({"dataset_name": "Dataset002_y"}))
    with pytest.raises(ValueError, match="of one data set, received Dataset001_x and Dataset002_y"):
        read_label_names(folder, card)


def test_the_real_files(tmp_path: Path) -> None:
    if not REFERENCE.exists():
        pytest.skip("needs ../shared/reference/nnunet")
    for name in ("dataset.json", "plans.json"):
        shutil.copyfile(REFERENCE / name, tmp_path / name)
    card = load_card(
        write_card(tmp_path / "card", labels={0: "background", 1: "organ", 2: "lesion"})
    )
    found = read_label_names(tmp_path, card)
    assert (
        found.dataset == "Toy"
        and found.targets == {"organ": {1}, "the lesion": {2}}
        and found.known == {0, 1, 2}
    )
