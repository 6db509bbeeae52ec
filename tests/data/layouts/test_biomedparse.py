"""Pictures become volumes again: slices in order, overlapping masks kept, wrong files refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boltzmed.data.layouts import biomedparse
from boltzmed.data.layouts.biomedparse import list_cases, read_case
from boltzmed.errors import InputError
from boltzmed.transforms.slices import SlicePlan

SHAPE = (6, 8)  # rows, columns
TARGETS = {"kidney": (), "left kidney": (), "right kidney": (), "liver": ()}


@pytest.fixture
def card(make_card):
    return make_card({"reader": "biomedparse"}, TARGETS, values=())


def pixels(number: int) -> np.ndarray:
    """A picture with another value at each row and column, and in each slice."""
    return (np.arange(48).reshape(SHAPE) * 3 + number % 100).astype(np.uint8)


def box(*place: slice) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[place] = 255
    return mask


LEFT, RIGHT = box(slice(0, 2), slice(5, 8)), box(slice(0, 2), slice(0, 3))
LIVER = box(slice(1, 4), slice(1, 4))


class Part:
    """One part of a data set in the making."""

    def __init__(self, root: Path, name: str = "train") -> None:
        self.root, self.name = root, name
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        for folder in (name, f"{name}_mask"):
            (root / folder).mkdir(parents=True)

    def add(self, picture: str, array: np.ndarray, masks: dict[str, np.ndarray]) -> None:
        stem = f"{picture}.png"
        Image.fromarray(np.dstack([array] * 3)).save(self.root / self.name / stem)
        number = len(self.images) + 100
        self.images.append({"id": number, "file_name": stem, "height": SHAPE[0]})
        for target, mask in masks.items():
            file = f"{picture}_{target.replace(' ', '+')}.png"
            opaque = np.dstack([mask, mask, mask, np.full_like(mask, 255)])
            Image.fromarray(opaque).save(self.root / f"{self.name}_mask" / file)
            annotation = {
                "image_id": number,
                "mask_file": file,
                "sentences": [{"raw": target, "sent": target}],
            }
            self.annotations += [annotation, annotation]  # one per phrasing, as published

    def write(self) -> Path:
        content = {"images": self.images, "annotations": self.annotations}
        (self.root / f"{self.name}.json").write_text(json.dumps(content))
        return self.root


@pytest.fixture
def train(tmp_path: Path) -> Part:
    """Slices 9, 10 and 100 of one CT volume, out of order, and a second one without kidneys."""
    part = Part(tmp_path / "data")
    both = {"kidney": LEFT | RIGHT, "left kidney": LEFT, "right kidney": RIGHT}
    part.add("amos_0233_100_CT_abdomen", pixels(100), {"liver": LIVER})
    part.add("amos_0233_9_CT_abdomen", pixels(9), {**both, "liver": LIVER})
    part.add("amos_0233_10_CT_abdomen", pixels(10), both)
    part.add("amos_0007_4_CT_abdomen", pixels(4), {"liver": LIVER})
    return part


def test_slices_become_volumes_in_order(train: Part, card):
    train.add("amos_0233_9_CT_liver", pixels(5), {"liver": LIVER})
    train.add("amos_0600_9_MRI_abdomen", pixels(5), {"spleen": LIVER})
    train.add("chest_1_X-Ray_chest", pixels(5), {"lung": LIVER})
    train.add("LIDC-IDRI-0005_16_77_CT_lung", pixels(5), {})
    train.add("single_CT_lung", pixels(6), {})
    cases = list_cases(train.write(), card)
    assert [(found.case, len(found.image), found.subset, found.patient) for found in cases] == [
        ("LIDC-IDRI-0005_16_lung", 1, "training", "LIDC-IDRI-0005_16"),
        ("amos_0007_abdomen", 1, "training", "amos_0007"),
        ("amos_0233_abdomen", 3, "training", "amos_0233"),
        ("amos_0233_liver", 1, "training", "amos_0233"),
        ("single_lung", 1, "training", "single"),
    ]
    assert not any(found.problem for found in cases)
    assert [path.name for path in cases[2].image] == [
        f"amos_0233_{k}_CT_abdomen.png" for k in (9, 10, 100)
    ]
    assert len(cases[2].label) == 8  # each mask once, though annotated twice
    assert read_case(cases[0], card).findings == [{"slice": 77}]
    assert read_case(cases[4], card).findings == [{"slice": None}]


def test_axial_slices_are_the_pictures(train: Part, card):
    volume = read_case(list_cases(train.write(), card)[1], card)
    assert volume.image.shape == (1, 8, 6, 3) and volume.labels.shape == (8, 6, 3)
    assert volume.image[0, 5, 2, 0] == pixels(9)[2, 5]  # I is the column, J the row
    plan = SlicePlan.from_affine(volume.image.affine, volume.image.shape, "axial")
    cut = plan.cut(np.asarray(volume.image[0]))
    assert np.array_equal(cut, np.stack([pixels(number) for number in (9, 10, 100)]))
    assert plan.flips == (False, False, False) and plan.axes == (2, 1, 0)
    assert (volume.window, volume.has_spacing) == ((0.0, 255.0), False)
    assert volume.findings == [{"slice": 9}, {"slice": 10}, {"slice": 100}]
    assert volume.image.meta["modality"] == "CT"


def test_overlapping_targets_keep_all_their_voxels(train: Part, card):
    volume = read_case(list_cases(train.write(), card)[1], card)
    expected = {
        "kidney": [LEFT | RIGHT, LEFT | RIGHT, np.zeros(SHAPE)],
        "left kidney": [LEFT, LEFT, np.zeros(SHAPE)],
        "right kidney": [RIGHT, RIGHT, np.zeros(SHAPE)],
        "liver": [LIVER, np.zeros(SHAPE), LIVER],
    }
    assert list(volume.values) == sorted(expected)
    labels_KHW = volume.labels.transpose(2, 1, 0)
    for name, masks in expected.items():
        assert np.array_equal(np.isin(labels_KHW, volume.values[name]), np.stack(masks) > 0), name
    # left + kidney, right + kidney, liver, and the liver's overlap with the right kidney
    assert set(np.unique(volume.labels)) == {0, 1, 2, 3, 4}
    again = read_case(list_cases(train.root, card)[1], card)
    assert np.array_equal(again.labels, volume.labels) and again.values == volume.values


def test_a_target_absent_from_a_volume_has_no_values(train: Part, card):
    train.add("other_1_CT_lung", pixels(1), {})
    lung, one, _ = sorted(
        list_cases(train.write(), card), key=lambda found: found.case != "other_lung"
    )
    assert one.case == "amos_0007_abdomen"
    assert read_case(one, card).values == {
        "kidney": (),
        "left kidney": (),
        "liver": (1,),
        "right kidney": (),
    }
    assert read_case(lung, card).values == {}  # nothing is ever annotated at this site


def test_masks_may_be_named_by_a_phrasing(train: Part, card):
    train.add("b_1_CT_abdomen", pixels(1), {"Liver in  CT": LIVER})
    found = list_cases(train.write(), card)[-1]
    assert found.problem is None and np.array_equal(
        read_case(found, card).labels[..., 0].T > 0, LIVER > 0
    )


def test_parts_are_subsets(train: Part, card, make_card):
    test = Part(train.root, "test")
    test.add("amos_0300_1_CT_abdomen", pixels(1), {"liver": LIVER})
    test.add("amos_0601_1_MRI_abdomen", pixels(1), {"liver": LIVER})
    train.write()
    cases = list_cases(test.write(), card)
    assert [(found.case, found.subset) for found in cases] == [
        ("amos_0007_abdomen", "training"),
        ("amos_0233_abdomen", "training"),
        ("amos_0300_abdomen", "test"),
    ]
    assert read_case(cases[2], card).values["liver"] == (1,)
    mr = make_card({"reader": "biomedparse"}, TARGETS, modality="MR", values=())
    (found,) = list_cases(train.root, mr)
    assert found.case == "amos_0601_abdomen" and read_case(found, mr).image.meta["modality"] == "MR"
    for name in ("train.json", "train/*", "train_mask/*"):
        for path in train.root.glob(name):
            path.unlink()
    (train.root / "train").rmdir()
    (train.root / "train_mask").rmdir()
    assert [found.case for found in list_cases(train.root, card)] == ["amos_0300_abdomen"]


def test_other_folders_are_refused(train: Part, card, tmp_path: Path):
    for source in (tmp_path, tmp_path / "none"):
        with pytest.raises(
            ValueError,
            match=r"expected a folder with train, train_mask and train.json, or the same",
        ):
            list_cases(source, card)
    with pytest.raises(
        ValueError, match=r"data: expected train.json beside the others, found none"
    ):
        list_cases(train.root, card)
    train.write()
    (train.root / "test_mask").mkdir()
    with pytest.raises(ValueError, match=r"data: expected test and test.json beside the others"):
        list_cases(train.root, card)


def problem_of(part: Part, card, case: str = "amos_0233_abdomen") -> str:
    (found,) = (found for found in list_cases(part.write(), card) if found.case == case)
    assert found.problem is not None and found.problem.startswith(f"case {case}: ")
    with pytest.raises(InputError) as raised:
        read_case(found, card)
    assert str(raised.value) == found.problem
    others = [other.problem for other in list_cases(part.root, card) if other.case != case]
    assert not any(others)
    return found.problem


def test_missing_files_and_annotations_are_problems(train: Part, card):
    mask = train.root / "train_mask" / "amos_0233_10_CT_abdomen_left+kidney.png"
    mask.unlink()
    assert f"expected mask {mask.name}, found nothing there" in problem_of(train, card)
    (train.root / "train" / "amos_0233_9_CT_abdomen.png").unlink()
    assert "expected picture amos_0233_9_CT_abdomen.png, found nothing there" in problem_of(
        train, card
    )


@pytest.mark.parametrize("value", [None, ""])
def test_an_annotation_without_mask_is_a_problem(train: Part, card, value):
    train.annotations[0]["mask_file"] = value
    assert (
        "expected a mask_file in every annotation, found none in one of amos_0233_100"
        in problem_of(train, card)
    )
    del train.annotations[0]["mask_file"]
    assert "expected a mask_file in every annotation" in problem_of(train, card)


def test_masks_of_other_pictures_and_targets_are_problems(train: Part, card):
    train.annotations.append(
        {"image_id": 100, "mask_file": "amos_0233_9_CT_abdomen_liver.png", "sentences": []}
    )
    assert "expected a mask named after amos_0233_100_CT_abdomen.png and its target" in problem_of(
        train, card
    )
    train.annotations.pop()
    train.add("amos_0233_11_CT_abdomen", pixels(11), {"prostate or uterus": LIVER})
    assert (
        "expected a target of card toy (kidney, left kidney, right kidney, liver), received"
        " 'prostate or" in (problem_of(train, card))
    )


def test_a_slice_given_twice_is_a_problem(train: Part, card):
    train.add("amos_0233_010_CT_abdomen", pixels(10), {})
    assert "received several of slice 10" in problem_of(train, card)


def test_a_picture_of_another_name_is_a_problem(train: Part, card):
    train.add("liver", pixels(1), {})
    assert "expected a picture named IMAGE_MODALITY_SITE.png, received liver.png" in problem_of(
        train, card, "liver"
    )


@pytest.mark.parametrize(
    "content, words",
    [
        ("{", "train.json: expected JSON"),
        (
            "{}",
            "train.json: expected images and annotations that belong together, 'images' is missing",
        ),
        ('{"images": [], "annotations": [{"image_id": 5}]}', "train.json: .* 5 is missing"),
        (
            '{"images": [1], "annotations": []}',
            "train.json: expected images and annotations as BiomedParse has",
        ),
        (
            '{"images": [{"id": 1, "file_name": "../a.png"}], "annotations": []}',
            "train.json: .*received '../a.png'",
        ),
        (
            (
                '{"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}],'
                ' "annotations": []}'
            ),
            "train.json: .*two images are 1 or b.png",
        ),
    ],
)
def test_another_form_of_json_is_refused(train: Part, card, content: str, words: str):
    (train.root / "train.json").write_text(content)
    with pytest.raises(ValueError, match=f"^{words}"):
        list_cases(train.root, card)


def expect_line(part: Part, card, words: str) -> None:
    found = next(
        found for found in list_cases(part.write(), card) if found.case == "amos_0233_abdomen"
    )
    with pytest.raises(InputError) as raised:
        read_case(found, card)
    line = str(raised.value)
    assert line.startswith("case amos_0233_abdomen: ") and words in line and "\n" not in line
    assert str(part.root) not in line


def test_sizes_have_to_agree(train: Part, card):
    train.add("amos_0233_101_CT_abdomen", pixels(1)[1:], {})
    expect_line(
        train,
        card,
        "expected pictures and masks of (6, 8) pixels, received (5, 8) in amos_0233_101",
    )


def test_masks_have_the_size_of_their_picture(train: Part, card):
    train.add("amos_0233_101_CT_abdomen", pixels(1), {"liver": LIVER.T})
    expect_line(
        train,
        card,
        "expected pictures and masks of (6, 8) pixels, received (8, 6) in amos_0233_101",
    )


@pytest.mark.parametrize("value", [1, 127, 128, 254])
def test_masks_are_black_and_white(train: Part, card, value: int):
    train.add(
        "amos_0233_101_CT_abdomen",
        pixels(1),
        {"liver": np.where(LIVER > 0, value, RIGHT).astype(np.uint8)},
    )
    expect_line(
        train,
        card,
        f"expected a mask of 0 and 255, received {value} in amos_0233_101_CT_abdomen_liver.png",
    )


def test_broken_pictures_are_told_by_case(train: Part, card):
    (train.root / "train" / "amos_0233_10_CT_abdomen.png").write_bytes(b"text")
    expect_line(train, card, "amos_0233_10_CT_abdomen.png: expected a whole picture")


def test_black_pictures_show_nothing(train: Part, card):
    train.add("dark_1_CT_abdomen", np.zeros(SHAPE, np.uint8), {"liver": LIVER})
    with pytest.raises(
        InputError,
        match=r"^case dark_abdomen: expected an image, received 0 in every voxel of dark_1",
    ):
        read_case(list_cases(train.write(), card)[-1], card)


def test_more_combinations_than_labels_are_refused(tmp_path: Path, make_card):
    names = [f"thing {number}" for number in range(9)]
    card = make_card({"reader": "biomedparse"}, dict.fromkeys(names, ()), values=())
    part = Part(tmp_path / "data")
    for number, codes in enumerate((np.arange(256), np.arange(256, 512))):
        codes_HW = codes.reshape(16, 16)
        masks = {
            name: np.where(codes_HW >> bit & 1, 255, 0).astype(np.uint8)
            for bit, name in enumerate(names)
        }
        part.add(f"a_{number}_CT_x", (codes_HW % 256).astype(np.uint8), masks)
    (found,) = list_cases(part.write(), card)
    with pytest.raises(
        InputError,
        match=r"^case a_x: expected 255 combinations .* received more up to a_1_CT_x.png",
    ):
        read_case(found, card)
    part.images.pop()
    part.annotations = [record for record in part.annotations if record["image_id"] == 100]
    (found,) = list_cases(part.write(), card)
    volume = read_case(found, card)
    assert volume.labels.max() == 255
    for bit, name in enumerate(names):
        assert np.array_equal(
            np.isin(volume.labels[..., 0].T, volume.values[name]),
            np.arange(256).reshape(16, 16) >> bit & 1 > 0,
        )


def test_the_list_is_read_once_for_all_cases(train: Part, card, monkeypatch: pytest.MonkeyPatch):
    cases = list_cases(train.write(), card)
    reads = []
    read_json = biomedparse.read_json
    monkeypatch.setattr(
        biomedparse, "read_json", lambda path: reads.append(path) or read_json(path)
    )
    for found in cases:
        read_case(found, card)
    assert len(reads) == 1
