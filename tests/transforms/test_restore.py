"""Masks of an image that preprocessing moved come back on the study's grid, where they belong."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    CropForegroundd,
    Flipd,
    GaussianSmoothd,
    MapTransform,
    Orientationd,
    Resized,
    ScaleIntensityd,
    Spacingd,
    SpatialCropd,
    SpatialPadd,
    ToNumpyd,
)

from boltzmed.metrics.overlap import dice
from boltzmed.transforms.packed_masks import PackedMasks
from boltzmed.transforms.restore import RestoreGridd, check_restorable, is_on_grid
from tests.transforms.drawn_masks import make_image, make_study, pack_masks, place_affine

SHAPE = (30, 26, 12)
AFFINE = place_affine((-1, -1, 1))
OBLIQUE = AFFINE.copy()
OBLIQUE[:3, :3] = (
    np.array([[0.98, 0.17, 0.05], [-0.17, 0.98, 0.02], [-0.046, -0.03, 1.0]]) @ AFFINE[:3, :3]
)
EXACT = {
    "orientation": [Orientationd(keys="image", axcodes="RAS", labels=None)],
    "permutation": [Orientationd(keys="image", axcodes="SPL", labels=None)],
    "padding": [SpatialPadd(keys="image", spatial_size=(40, 33, 20))],
    "crop": [CenterSpatialCropd(keys="image", roi_size=(26, 22, 8))],
    "foreground": [CropForegroundd(keys="image", source_key="image", margin=3)],
    "flip": [Flipd(keys="image", spatial_axis=0)],
    "flips": [Flipd(keys="image", spatial_axis=(1, 2))],
    "several": [
        Orientationd(keys="image", axcodes="PSR", labels=None),
        CenterSpatialCropd(keys="image", roi_size=(22, 9, 25)),
        GaussianSmoothd(keys="image", sigma=0.1),
        SpatialPadd(keys="image", spatial_size=(40, 40, 40)),
        Flipd(keys="image", spatial_axis=1),
    ],
}


class Crop(MapTransform):
    """A crop that keeps the affine true, but tells nobody how to undo it."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[key]
            affine = image.affine.clone()
            affine[:3, 3] += 2 * affine[:3, 0]
            voxels = image.as_tensor()[:, 2:].clone()
            moved = MetaTensor(voxels, affine=affine, meta=dict(image.meta))
            moved.applied_operations = image.applied_operations
            item[key] = moved
        return item


def draw_body(affine: np.ndarray = AFFINE) -> MetaTensor:
    """A bright body of no symmetry, as an image (1,I,J,K) with a background of 0."""
    image = make_image(SHAPE, affine)
    image[:] = 0
    image[0, 5:20, 6:18, 3:9] = 1000
    image[0, 20:24, 14:21, 5:8] = 1000
    return image


def segment(image: MetaTensor, plane: str = "axial", **curves: Any) -> PackedMasks:
    """Masks of what is bright, and of what is not, with the surer voxels at higher indices."""
    bright = np.asarray(image[0]) > 500
    steps = np.arange(bright.size).reshape(bright.shape) % 127 + 128
    stored = np.stack([steps, steps]).astype(np.uint8)
    masks = np.stack([bright, bright & (steps > 200)])
    return pack_masks(masks, stored, np.asarray(image.affine), plane, **curves)


def preprocess(transforms: list[Any], image: MetaTensor) -> tuple[Compose, dict[Hashable, Any]]:
    """A pipeline, and an item that went through it."""
    pipeline = Compose(transforms, log_stats=False)
    return pipeline, pipeline({"image": image, "study": make_study(image)})


@pytest.mark.parametrize("plane", ["axial", "coronal", "array"])
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE], ids=["straight", "oblique"])
def test_what_moves_whole_voxels_is_undone_exactly(name, plane, affine):
    image = draw_body(affine)
    pipeline, item = preprocess(EXACT[name], image)
    assert not is_on_grid(item["image"], item["study"].grid)
    masks = segment(item["image"], plane)
    restored = RestoreGridd(transform=pipeline)({**item, "pred": masks})["pred"]
    assert len(restored) == 2
    assert np.array_equal(restored.volume(0), np.asarray(image[0]) > 500)
    assert restored.volume(1).sum() == masks.volume(1).sum()
    assert restored.plan.shape == SHAPE and restored.plan.plane == plane
    for prompt in range(2):  # every voxel keeps its probability
        before, after = (
            np.sort(packed.probability_volume(prompt).ravel())[-int(masks.volume(prompt).sum()) :]
            for packed in (masks, restored)
        )
        assert np.array_equal(before, after)
    assert not (restored.volume(1) & ~restored.volume(0)).any()


@pytest.mark.parametrize("pixdim", [(0.8, 1.0, 1.25), (1.6, 2.0, 2.5), (1.5, 1.5, 1.5)])
@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE], ids=["straight", "oblique"])
def test_another_spacing_is_undone_to_the_voxel_nearby(pixdim, affine):
    image = draw_body(affine)
    transforms = [
        Spacingd(keys="image", pixdim=pixdim, mode="bilinear"),
        Orientationd(keys="image", axcodes="RAS", labels=None),
    ]
    pipeline, item = preprocess(transforms, image)
    masks = segment(item["image"])
    restored = RestoreGridd(transform=pipeline)({**item, "pred": masks})["pred"]
    assert restored.volume(0).shape == SHAPE and set(np.unique(restored.volume(0))) == {0, 1}
    assert dice(restored.volume(0), np.asarray(image[0]) > 500) > 0.85
    # Probabilities are among those that the network gave: nearest neighbour, not means of them.
    given = np.unique(np.concatenate(masks.mask_probabilities[0]))
    kept = np.concatenate(restored.mask_probabilities[0])
    assert np.isin(kept, given).all() and len(kept) == restored.volume(0).sum()


def test_another_size_is_undone():
    image = draw_body()
    pipeline, item = preprocess([Resized(keys="image", spatial_size=(45, 39, 18))], image)
    restored = RestoreGridd(transform=pipeline)({**item, "pred": segment(item["image"])})["pred"]
    body = np.asarray(image[0]) > 500
    assert dice(restored.volume(0), body) > 0.85
    for axis, centre in enumerate(np.argwhere(body).mean(0)):
        assert np.argwhere(restored.volume(0)).mean(0)[axis] == pytest.approx(centre, abs=0.5)


def test_what_lies_outside_a_crop_is_not_in_the_mask():
    image = draw_body()
    pipeline, item = preprocess([SpatialCropd(keys="image", roi_slices=[slice(10, 30)] * 2)], image)
    restored = RestoreGridd(transform=pipeline)({**item, "pred": segment(item["image"])})["pred"]
    expected = np.asarray(image[0]) > 500
    expected[:10], expected[:, :10] = False, False
    assert np.array_equal(restored.volume(0), expected)


@pytest.mark.parametrize(
    "transforms",
    [[], [GaussianSmoothd(keys="image", sigma=1.0)], [ScaleIntensityd(keys="image")]],
    ids=["none", "smooth", "scale"],
)
def test_masks_pass_as_they_are_where_the_grid_stayed(transforms):
    image = draw_body()
    pipeline, item = preprocess(transforms, image)
    masks = segment(image)
    assert RestoreGridd(transform=pipeline)({**item, "pred": masks})["pred"] is masks


def test_flips_that_cancel_leave_the_grid_and_the_masks():
    image = draw_body()
    pipeline, item = preprocess([Flipd(keys="image", spatial_axis=0)] * 2, image)
    masks = segment(item["image"])
    assert RestoreGridd(transform=pipeline)({**item, "pred": masks})["pred"] is masks


class TestPresence:
    """A value a slice: it stays where the slices stayed."""

    CURVE = np.linspace(0, 1, SHAPE[2], dtype=np.float32)[None].repeat(2, 0)

    def restore(self, transforms: list[Any], plane: str = "axial") -> PackedMasks:
        image = draw_body()
        pipeline, item = preprocess(transforms, image)
        count = segment(item["image"], plane).plan.count
        curve = np.linspace(0, 1, count, dtype=np.float32)[None].repeat(2, 0)
        masks = segment(item["image"], plane, presence_PK=curve, smoothed_PK=curve / 2)
        return RestoreGridd(transform=pipeline)({**item, "pred": masks})["pred"]

    @pytest.mark.parametrize(
        "transforms",
        [
            EXACT["orientation"],
            EXACT["permutation"],
            EXACT["flip"],
            EXACT["flips"],
            [CenterSpatialCropd(keys="image", roi_size=(26, 22, -1))],
            [Spacingd(keys="image", pixdim=(1.6, 1.5, -1.0))],
        ],
        ids=["orientation", "permutation", "flip", "flips", "crop", "spacing"],
    )
    def test_it_is_kept_where_slices_are_the_same(self, transforms):
        restored = self.restore(transforms)
        assert np.array_equal(restored.presence_PK, self.CURVE)
        assert np.array_equal(restored.smoothed_PK, self.CURVE / 2)

    @pytest.mark.parametrize(
        "transforms",
        [
            EXACT["padding"],
            EXACT["crop"],
            [Spacingd(keys="image", pixdim=(0.8, 1.0, 5.0))],
            # As many slices as before, but others.
            [
                SpatialCropd(keys="image", roi_slices=[slice(None), slice(None), slice(2, None)]),
                SpatialPadd(keys="image", spatial_size=SHAPE, method="end"),
            ],
        ],
        ids=["padding", "crop", "spacing", "shift"],
    )
    def test_it_is_left_out_where_slices_are_others(self, transforms):
        restored = self.restore(transforms)
        assert restored.presence_PK is None and restored.smoothed_PK is None
        assert restored.volume(0).any()

    def test_it_is_left_out_where_the_files_own_slices_run_the_other_way(self):
        assert self.restore(EXACT["flips"], "array").presence_PK is None


class TestRefusals:
    def test_a_change_that_nobody_can_undo_is_one_line(self):
        image = draw_body()
        _, item = preprocess([Crop(keys="image")], image)
        with pytest.raises(ValueError, match=r"^study: expected preprocessing that keeps") as told:
            check_restorable(item["image"], item["study"].grid, "study")
        assert "\n" not in str(told.value) and "invertible transform of MONAI" in str(told.value)
        assert "30" in str(told.value) and "28" in str(told.value)

    def test_so_is_one_before_a_transform_that_can_be_undone(self):
        transforms = [Crop(keys="image"), Orientationd(keys="image", axcodes="RAS", labels=None)]
        pipeline, item = preprocess(transforms, draw_body())
        check_restorable(item["image"], item["study"].grid, "study")  # it cannot know
        masks = segment(item["image"])
        with pytest.raises(
            ValueError, match=r"^study: expected preprocessing whose inverse"
        ) as told:
            RestoreGridd(transform=pipeline)({**item, "pred": masks})
        assert "\n" not in str(told.value)

    def test_an_image_that_lost_its_affine_is_told(self):
        image = draw_body()
        _, item = preprocess([ToNumpyd(keys="image")], image)
        with pytest.raises(
            ValueError, match=r"^study: expected .* a MetaTensor .*received a ndarray"
        ):
            check_restorable(item["image"], item["study"].grid, "study")

    def test_images_on_their_grid_and_invertible_changes_pass(self):
        image = draw_body()
        check_restorable(image, make_study(image).grid, "study")
        _, item = preprocess(EXACT["several"], image)
        check_restorable(item["image"], item["study"].grid, "study")


def test_grids_are_the_same_where_shape_and_affine_are():
    image = draw_body()
    assert is_on_grid(image, make_study(image).grid)
    moved = make_image(SHAPE, AFFINE + np.eye(4)[:, 3:] * 0)
    assert is_on_grid(image, moved)
    shifted = AFFINE.copy()
    shifted[0, 3] += 1
    assert not is_on_grid(image, make_image(SHAPE, shifted))
    assert not is_on_grid(image, make_image((30, 26, 11), AFFINE))
    assert torch.equal(image.affine, torch.from_numpy(AFFINE))
