"""Where a scored case's files are found, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from boltzmed.cards import load_card
from boltzmed.data.pictures import CachedImages
from boltzmed.data.prepare import prepare_cache
from boltzmed.errors import InputError
from boltzmed.masks.label_names import name_labels
from boltzmed.reports.pictures import PictureFolders, ScoredObject
from boltzmed.volumes import write_image

AFFINE = np.diag(
    [-1.0, -1.0, 3.0, 1.0]
)  # columns right to left, rows front to back, slices upwards
LIVER = ScoredObject("phantom", "one", "liver", prompt="liver in abdomen CT")


@pytest.fixture
def folders(tmp_path):
    generator = np.random.default_rng(0)
    image = generator.integers(-1000, 1000, (20, 24, 5)).astype(np.int16)
    labels = generator.integers(0, 8, (20, 24, 5)).astype(np.uint8)
    write_image(image, AFFINE, tmp_path / "images" / "one.nii.gz")
    write_image(labels, AFFINE, tmp_path / "references" / "one.nii.gz")
    write_image(
        (labels == 1).astype(np.uint8),
        AFFINE,
        tmp_path / "ours" / "one" / "liver-in-abdomen-ct.nii.gz",
    )
    write_image(labels[::-1], AFFINE @ flip(20), tmp_path / "theirs" / "one.nii")
    cards = {"phantom": load_card("phantom")}
    predictions = {name: tmp_path / name for name in ("ours", "theirs")}
    made = PictureFolders(
        tmp_path / "images", None, tmp_path / "references", predictions, cards=cards
    )
    return made, image, labels


def flip(size):
    """The affine of the first axis reversed."""
    matrix = np.diag([-1.0, 1, 1, 1])
    matrix[0, 3] = size - 1
    return matrix


def test_masks_are_found_under_their_usual_names_and_cut_alike(folders):
    pictures, image, labels = folders
    picture = pictures.read(LIVER, ["ours", "theirs", "no folder"])
    liver = np.isin(labels, pictures.cards["phantom"].target("liver").labels).transpose(2, 1, 0)
    assert np.array_equal(picture.image, image.transpose(2, 1, 0))
    assert np.array_equal(picture.reference, liver)
    assert list(picture.predictions) == ["ours", "theirs"]
    assert np.array_equal(picture.predictions["ours"], (labels == 1).transpose(2, 1, 0))
    assert np.array_equal(
        picture.predictions["theirs"], liver
    )  # a label map in another voxel order
    assert picture.spacing_mm == (3.0, 1.0, 1.0)
    assert picture.window == pictures.cards["phantom"].target("liver").window


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        (
            ScoredObject("phantom", "../one", "liver"),
            "expected a case's name to look for, received a path",
        ),
        (
            ScoredObject("phantom", "two", "liver"),
            "two: expected an image of that name among the images, found none",
        ),
        (
            ScoredObject("other", "one", "liver"),
            "a mask of one label value, received 1, 2, 3, 4, 5, 6, 7; name",
        ),
    ],
)
def test_what_is_not_there_is_told_in_one_line(folders, shown, message):
    with pytest.raises(InputError, match=message) as caught:
        folders[0].read(shown, ["ours"])
    assert "\n" not in str(caught.value)


def test_a_mask_of_another_size_is_refused(folders, tmp_path):
    write_image(
        np.ones((20, 24, 4), np.uint8),
        AFFINE,
        tmp_path / "ours" / "one" / "liver-in-abdomen-ct.nii.gz",
    )
    with pytest.raises(
        InputError, match=r"on one grid, received \(5, 24, 20\) voxels .* and \(4, 24, 20\) voxels"
    ):
        folders[0].read(LIVER, ["ours"])


def test_a_mask_elsewhere_is_refused(folders, tmp_path):
    """A shifted mask of the image's size would be drawn where it does not lie."""
    path = tmp_path / "ours" / "one" / "liver-in-abdomen-ct.nii.gz"
    for matrix in (
        AFFINE + np.array([[0, 0, 0, 5.0], *np.zeros((3, 4))]),
        AFFINE @ np.diag([1, 1, 2, 1]),
    ):
        write_image(np.ones((20, 24, 5), np.uint8), matrix, path)
        with pytest.raises(
            InputError,
            match=r"ours: .*: expected image and mask on one grid, received .* 1 x 1 mm",
        ):
            folders[0].read(LIVER, ["ours"])
    rounded = AFFINE.copy()
    rounded[0, 3] += 1e-3
    write_image(np.ones((20, 24, 5), np.uint8), rounded, path)
    assert folders[0].read(LIVER, ["ours"]).predictions["ours"].all()


def test_a_cache_brings_images_and_references(folders, tmp_path):
    pictures, image, _ = folders
    labels = np.zeros_like(image, np.uint8)
    labels[4:12, 4:12, 1:3] = 1
    write_image(labels, AFFINE, tmp_path / "references" / "one.nii.gz")
    (tmp_path / "pairs.csv").write_text("image,label\nimages/one.nii.gz,references/one.nii.gz\n")
    prepare_cache("phantom", tmp_path / "pairs.csv", tmp_path / "cache")
    cache = CachedImages.open(tmp_path / "cache")
    cached = PictureFolders(cache=cache, predictions=pictures.predictions)
    target = next(name for name, target in cache.card.targets.items() if 1 in target.labels)
    picture = cached.read(
        ScoredObject("phantom", "one", target, prompt="liver in abdomen CT"), ["ours"]
    )
    assert np.array_equal(picture.image, image.transpose(2, 1, 0))
    assert np.array_equal(picture.reference, (labels == 1).transpose(2, 1, 0))
    assert picture.predictions["ours"].shape == picture.reference.shape


POSTERIOR = ScoredObject("msd_hippocampus", "one", "posterior hippocampus")


@pytest.fixture
def hippocampus(tmp_path):
    """A case whose references have both parts, and masks of label 1 alone."""
    labels = np.zeros((20, 24, 5), np.uint8)
    labels[4:8, 4:12, 1:3], labels[8:12, 4:12, 1:3] = 1, 2
    write_image(np.zeros((20, 24, 5), np.int16), AFFINE, tmp_path / "images" / "one.nii.gz")
    write_image(labels, AFFINE, tmp_path / "references" / "one.nii.gz")
    write_image((labels == 1).astype(np.uint8), AFFINE, tmp_path / "ours" / "one.nii.gz")
    cards = {"msd_hippocampus": load_card("msd_hippocampus")}
    return PictureFolders(
        tmp_path / "images", None, tmp_path / "references", {"ours": tmp_path / "ours"}, cards=cards
    )


def test_a_label_map_of_one_value_is_read_by_label(hippocampus, tmp_path):
    picture = hippocampus.read(POSTERIOR, ["ours"])
    assert picture.reference.any() and not picture.predictions["ours"].any()
    anterior = hippocampus.read(
        ScoredObject("msd_hippocampus", "one", "anterior hippocampus"), ["ours"]
    )
    assert np.array_equal(anterior.predictions["ours"], anterior.reference)
    write_image(np.full((20, 24, 5), 255, np.uint8), AFFINE, tmp_path / "ours" / "one.nii.gz")
    with pytest.raises(
        InputError,
        match=r"ours: one\.nii\.gz: expected the labels 0, 1, 2 of card .*, received 255",
    ):
        hippocampus.read(POSTERIOR, ["ours"])


def test_nnunets_masks_are_read_by_its_own_numbers(hippocampus, tmp_path):
    """A data set exported with the posterior part alone, which is its class 1; of both parts,
    turned round.
    """

    def say(content, folder=tmp_path / "ours"):
        (folder / "dataset.json").write_text(json.dumps(content))

    ours = {"card": "msd_hippocampus", "targets": {"posterior hippocampus": [1]}}
    say({"name": "D", "labels": {"background": 0, "posterior": 1}, "boltzmed": ours})
    drawn = hippocampus.read(POSTERIOR, ["ours"]).predictions["ours"]
    assert np.array_equal(
        drawn,
        hippocampus.read(
            ScoredObject("msd_hippocampus", "one", "anterior hippocampus"), []
        ).reference,
    )
    with pytest.raises(
        InputError,
        match="expected masks of hippocampus, received those of posterior hippocampus by",
    ):
        hippocampus.read(ScoredObject("msd_hippocampus", "one", "hippocampus"), ["ours"])
    say({"labels": {"background": 0, "posterior": 1, "anterior": 2}})
    assert np.array_equal(hippocampus.read(POSTERIOR, ["ours"]).predictions["ours"], drawn)
    say({"labels": {"background": 0, "spleen": 1}})
    with pytest.raises(
        InputError,
        match=r"expected dataset\.json with labels called as those of card msd_hippocampus",
    ):
        hippocampus.read(POSTERIOR, ["ours"])
    (tmp_path / "ours" / "dataset.json").unlink()
    say(
        {"labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}, tmp_path
    )  # the Decathlon's own
    assert not hippocampus.read(POSTERIOR, ["ours"]).predictions["ours"].any()


def test_labels_name_the_values_of_label_maps(folders):
    """A data set without a card, whose label maps a user names."""
    pictures, _, labels = folders
    names = name_labels({"liver": (3, 5)})
    pictures = replace(pictures, cards={}, labels=names, window=(-100.0, 100.0))
    picture = pictures.read(ScoredObject("other", "one", "liver"), ["theirs"])
    expected = np.isin(labels, (3, 5)).transpose(2, 1, 0)
    assert np.array_equal(picture.reference, expected)
    assert np.array_equal(picture.predictions["theirs"], expected)
