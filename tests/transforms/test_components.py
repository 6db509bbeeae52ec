"""Components of masks: measured in mm³, and filtered with their probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from boltzmed.transforms.components import FilterComponentsd, MeasureMasksd, find_components
from boltzmed.transforms.packed_masks import PackedMasks
from tests.transforms.drawn_masks import (
    SPACING_MM,
    make_image,
    make_study,
    pack_masks,
    place_affine,
)

SHAPE = (20, 16, 6)
VOXEL_MM3 = float(np.prod(SPACING_MM))  # 2
LARGE, MIDDLE, SMALL = 60, 24, 4


def draw_three() -> tuple[np.ndarray, np.ndarray]:
    """A mask of three boxes of 60, 24 and 4 voxels; the smaller a box, the surer."""
    mask = np.zeros(SHAPE, bool)
    stored = np.zeros(SHAPE, np.uint8)
    boxes = (
        (np.s_[1:6, 1:5, 0:3], 130),
        (np.s_[10:16, 2:4, 2:4], 204),
        (np.s_[17:19, 10:12, 5:6], 255),
    )
    for box, probability in boxes:
        mask[box] = True
        stored[box] = probability
    stored[1, 1, 0] = 153  # the large one's surest voxel, 0.6
    return mask, stored


def make_item(*volumes: tuple[np.ndarray, np.ndarray], plane: str = "axial") -> dict[str, Any]:
    affine = place_affine((-1, 1, 1))
    masks, stored = (np.stack(arrays) for arrays in zip(*volumes, strict=True))
    study = make_study(make_image(SHAPE, affine))
    return {"study": study, "pred": pack_masks(masks, stored, affine, plane)}


def count_voxels(masks: PackedMasks) -> list[int]:
    """Sizes of the first prompt's components, the largest first."""
    components = find_components(masks, 0)
    return components.voxels[components.largest_first()].tolist()


def assert_consistent(masks: PackedMasks, stored: np.ndarray) -> None:
    """Every voxel of the mask has the probability that it had at first."""
    inside = masks.volume(0) > 0
    expected = np.where(inside, stored / np.float32(255), 0)
    np.testing.assert_allclose(masks.probability_volume(0), expected, rtol=1e-6)


class TestFinding:
    @pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", "array"])
    def test_components_are_those_of_the_volume_whatever_the_slices(self, plane):
        components = find_components(make_item(draw_three(), plane=plane)["pred"], 0)
        order = components.largest_first()
        assert components.voxels[order].tolist() == [LARGE, MIDDLE, SMALL]
        np.testing.assert_allclose(components.max_probability[order], [0.6, 0.8, 1.0], rtol=1e-6)
        mean = (130 / 255 * (LARGE - 1) + 0.6) / LARGE
        np.testing.assert_allclose(components.mean_probability[order], [mean, 0.8, 1], rtol=1e-6)

    def test_what_touches_by_a_corner_is_one(self):
        mask = np.zeros(SHAPE, bool)
        mask[2, 2, 2] = mask[3, 3, 3] = True
        assert count_voxels(make_item((mask, mask * np.uint8(200)))["pred"]) == [2]
        mask[3, 3, 3], mask[4, 2, 2] = False, True
        assert count_voxels(make_item((mask, mask * np.uint8(200)))["pred"]) == [1, 1]

    def test_those_of_equal_size_stay_in_their_order(self):
        mask = np.zeros(SHAPE, bool)
        mask[1:3, 1, 1] = mask[8:10, 1, 1] = mask[15, 1, 1] = True
        components = find_components(make_item((mask, mask * np.uint8(200)))["pred"], 0)
        assert components.largest_first()[:2].tolist() == sorted(components.largest_first()[:2])

    def test_an_empty_mask_has_none(self):
        nothing = np.zeros(SHAPE, bool)
        components = find_components(make_item((nothing, nothing.astype(np.uint8)))["pred"], 0)
        assert len(components.voxels) == 0 and not components.numbers_KHW.any()


class TestMeasuring:
    def test_volumes_are_voxels_times_their_size(self):
        (measures,) = MeasureMasksd()(make_item(draw_three()))["measures"]
        assert measures["volume_mm3"] == (LARGE + MIDDLE + SMALL) * VOXEL_MM3
        volumes = [component["volume_mm3"] for component in measures["components"]]
        assert volumes == [LARGE * VOXEL_MM3, MIDDLE * VOXEL_MM3, SMALL * VOXEL_MM3]
        assert measures["components"][0]["max_probability"] == 0.6
        assert measures["components"][1] == {
            "volume_mm3": MIDDLE * VOXEL_MM3,
            "max_probability": 0.8,
            "mean_probability": 0.8,
        }

    def test_every_prompt_has_its_own(self):
        nothing = np.zeros(SHAPE, np.uint8)
        item = make_item((nothing, nothing), draw_three())
        measures = MeasureMasksd(output_key="sizes")(item)["sizes"]
        assert measures[0] == {"volume_mm3": 0.0, "components": []}
        assert len(measures[1]["components"]) == 3
        assert "sizes" not in item


class TestFiltering:
    def test_without_arguments_masks_pass_as_they_are(self):
        item = make_item(draw_three())
        assert FilterComponentsd()(item)["pred"] is item["pred"]

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"min_volume_mm3": SMALL * VOXEL_MM3}, [LARGE, MIDDLE, SMALL]),
            ({"min_volume_mm3": SMALL * VOXEL_MM3 + 0.01}, [LARGE, MIDDLE]),
            ({"min_volume_mm3": 1e6}, []),
            ({"min_score": 0.59}, [LARGE, MIDDLE, SMALL]),
            ({"min_score": 0.7}, [MIDDLE, SMALL]),
            ({"min_score": 1.0}, [SMALL]),
            ({"max_components": 3}, [LARGE, MIDDLE, SMALL]),
            ({"max_components": 1}, [LARGE]),
            ({"min_score": 0.7, "max_components": 1}, [MIDDLE]),
            ({"min_volume_mm3": 10.0, "min_score": 0.9}, []),
        ],
    )
    @pytest.mark.parametrize("plane", ["axial", "sagittal"])
    def test_size_score_and_number_decide(self, options, expected, plane):
        item = make_item(draw_three(), plane=plane)
        before = item["pred"].volume(0)
        filtered = FilterComponentsd(**options)(item)["pred"]
        assert count_voxels(filtered) == expected
        assert not (filtered.volume(0) & ~before).any()
        assert_consistent(filtered, draw_three()[1])

    def test_kept_components_keep_their_voxels(self):
        item = make_item(draw_three())
        filtered = FilterComponentsd(min_score=0.7)(item)["pred"]
        expected = draw_three()[0]
        expected[1:6, 1:5, 0:3] = False
        assert np.array_equal(filtered.volume(0), expected)

    def test_two_in_the_same_row_are_told_apart(self):
        """Their probabilities are stored one after the other."""
        mask = np.zeros(SHAPE, bool)
        mask[2:8, 5, 3] = mask[10:12, 5, 3] = mask[14:19, 5, 3] = True
        stored = np.arange(np.prod(SHAPE), dtype=np.uint64).reshape(SHAPE) % 100 + 150
        stored = stored.astype(np.uint8)
        filtered = FilterComponentsd(min_volume_mm3=3 * VOXEL_MM3)(make_item((mask, stored)))
        assert count_voxels(filtered["pred"]) == [6, 5]
        assert_consistent(filtered["pred"], stored)

    def test_the_masks_that_were_given_stay(self):
        item = make_item(draw_three())
        FilterComponentsd(max_components=1)(item)
        assert count_voxels(item["pred"]) == [LARGE, MIDDLE, SMALL]
        assert_consistent(item["pred"], draw_three()[1])

    def test_each_prompt_is_filtered_for_itself(self):
        mask, stored = draw_three()
        other = mask.copy()
        other[1:6, 1:5, 0:3] = False
        item = make_item((mask, stored), (other, stored))
        filtered = FilterComponentsd(max_components=1)(item)["pred"]
        sizes = [find_components(filtered, prompt).voxels.tolist() for prompt in range(2)]
        assert sizes == [[LARGE], [MIDDLE]]

    def test_presence_and_windows_stay(self):
        item = make_item(draw_three())
        filtered = FilterComponentsd(max_components=1)(item)["pred"]
        assert filtered.windows == item["pred"].windows and filtered.plan == item["pred"].plan

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"min_volume_mm3": -1.0}, "min_volume_mm3: expected 0 or more mm³, received -1"),
            ({"min_volume_mm3": float("nan")}, "min_volume_mm3: expected 0 or more mm³"),
            ({"min_score": 1.5}, "min_score: expected a probability, received 1.5"),
            ({"max_components": 0}, "max_components: expected 1 or more, received 0"),
        ],
    )
    def test_impossible_settings_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            FilterComponentsd(**options)
