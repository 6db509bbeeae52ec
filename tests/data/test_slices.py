"""Training items: the right anatomy at the right place, and the same item whoever asks for it, in
whatever order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from boltzmed.cards import load_card
from boltzmed.data.batches import KeyedBatches
from boltzmed.data.slice_sources import NiftiSlices, SliceEntry
from boltzmed.data.slices import SMALL_AREA_FRACTION, PromptSliceDataset, keyed_generator
from boltzmed.transforms.tokenize import tokenize_prompts

CARD = load_card("phantom")
WHOLE_BATCHES: dict[str, Any] = {"batch_size": None, "collate_fn": default_collate}
LABEL = {
    name: target.labels[0] for name, target in CARD.targets.items()
}  # a label value of each target
ABDOMEN, LUNG = (-150.0, 250.0), (-1000.0, 1000.0)
SHAPE = (
    40,
    32,
    5,
)  # axial slices of 32 rows and 40 columns, hence a square of 40 with 4 rows of padding above
LPS = (-1, -1, 1)
"""Array axes to the patient's left, back and head: the network's columns, rows and slices."""


def write_case(
    folder: Path, labels: np.ndarray, *, signs: Sequence[int] = LPS, image: Any = None
) -> dict[str, str]:
    """A NIfTI pair; the image is -150 HU, and 250 HU wherever there is a label, unless given."""
    affine = np.diag(
        [*(sign * size for sign, size in zip(signs, (0.8, 0.8, 3.0), strict=True)), 1.0]
    )
    image = np.where(labels > 0, 250, -150) if image is None else image
    nibabel.save(nibabel.Nifti1Image(image.astype(np.int16), affine), folder / "image.nii")
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint8), affine), folder / "label.nii")
    return {
        "image": str(folder / "image.nii"),
        "label": str(folder / "label.nii"),
        "case": "hand-made",
    }


def abdomen_and_lung() -> np.ndarray:
    """Slice 1: liver, spleen, aorta; slice 2: liver, lung with a nodule; slice 3: three voxels of
    heart; else empty.
    """
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:14, 5:15, 1:3] = LABEL["liver"]
    labels[30:34, 20:24, 1] = LABEL["spleen"]
    labels[20:22, 25:28, 1] = LABEL["aorta"]
    labels[22:32, 4:14, 2] = LABEL["right lung"]
    labels[25:27, 6:8, 2] = 4  # a nodule of the right lung
    labels[10:13, 10, 3] = LABEL["heart"]
    return labels


def open_case(case: dict[str, str], **options: Any) -> PromptSliceDataset:
    return PromptSliceDataset(
        [NiftiSlices([case], CARD)], **{"image_size": 40, "augment_probability": 0.0, **options}
    )


def make_dataset(
    folder: Path, labels: np.ndarray | None = None, **options: Any
) -> PromptSliceDataset:
    case = write_case(folder, abdomen_and_lung() if labels is None else labels)
    return open_case(case, **options)


def draw_names(dataset: PromptSliceDataset, index: int, epochs: int) -> list[list[str]]:
    """Names of the asked targets in each of several epochs, without the padding."""
    return [[name for name in dataset[epoch, index]["target"] if name] for epoch in range(epochs)]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        (
            torch.equal(one[key], other[key])
            if isinstance(one[key], torch.Tensor)
            else one[key] == other[key]
        )
        for key in one
    )


def test_equal_keys_give_equal_streams_and_every_part_of_the_key_counts():
    def stream(*key: Any) -> list[float]:
        return keyed_generator(*key).random(4).tolist()

    assert stream(1, 2, 3, "targets") == stream(1, 2, 3, "targets")
    others = [
        (0, 2, 3, "targets"),
        (1, 0, 3, "targets"),
        (1, 2, 0, "targets"),
        (2, 1, 3, "targets"),
    ]
    others += [(1, 2, 3, purpose) for purpose in ("order", "augmentation", "draws")]
    assert len({tuple(stream(*key)) for key in [(1, 2, 3, "targets"), *others]}) == len(others) + 1


class TestItem:
    @pytest.mark.parametrize("image_size", [32, 64])
    def test_shapes_types_and_ranges(self, tmp_path, image_size):
        dataset = make_dataset(
            tmp_path, image_size=image_size, prompts_per_image=4, augment_probability=1.0
        )
        for index in range(len(dataset)):
            item = dataset[5, index]
            assert (
                item["image"].shape == (3, image_size, image_size)
                and item["image"].dtype == torch.float32
            )
            # The augmentation's bilinear weights are rounded, and may leave the top a few ulp above
            # 255.
            assert 0 <= item["image"].min() < 1 and 150 < item["image"].max() < 255.001
            assert (
                item["label"].shape == (4, image_size, image_size)
                and item["label"].dtype == torch.float32
            )
            assert set(item["label"].unique().tolist()) == {0.0, 1.0}
            assert item["input_ids"].shape == (4, 77) and item["input_ids"].dtype == torch.int64
            assert item["prompt_valid"].shape == (4,) and item["prompt_valid"].dtype == torch.bool
            assert item["draw_key"].shape == () and item["draw_key"].dtype == torch.int64
            assert (item["case"], item["slice_index"]) == (
                "hand-made",
                dataset.entries[index].slice_index,
            )
            assert len(item["target"]) == 4

    @pytest.mark.parametrize("signs", [(-1, -1, 1), (1, 1, 1), (1, -1, -1)])
    def test_rows_run_front_to_back_and_columns_from_the_patients_right(self, tmp_path, signs):
        labels = np.zeros(SHAPE, np.uint8)
        # Two by two voxels, 6 from the patient's right end and 3 from the front, on the second
        # slice from the feet.
        place = [slice(6, 8), slice(3, 5), slice(1, 2)]
        for axis, sign in enumerate(signs):
            if sign != LPS[axis]:
                place[axis] = slice(SHAPE[axis] - place[axis].stop, SHAPE[axis] - place[axis].start)
        labels[tuple(place)] = LABEL["spleen"]
        case = write_case(tmp_path, labels, signs=signs)
        dataset = open_case(case, negative_probability=0.0)
        item = dataset[0]
        expected = torch.zeros(40, 40)
        expected[4 + 3 : 4 + 5, 6:8] = 1  # below the padding
        assert item["slice_index"] == 1
        assert torch.equal(item["label"][0], expected)
        assert torch.equal(item["image"], expected.expand(3, -1, -1) * 255)

    def test_masks_are_unions_of_the_cards_labels(self, tmp_path):
        item = make_dataset(tmp_path, negative_probability=0.0)[1]
        masks = dict(zip(item["target"], item["label"], strict=True))
        lung, nodule = masks["right lung"], masks["lung nodule"]
        assert (lung.sum(), nodule.sum()) == (100, 4)
        assert torch.equal(lung * nodule, nodule)

    def test_an_entrys_window_makes_its_image(self, tmp_path):
        image = np.full(SHAPE, 50.0)
        case = write_case(tmp_path, abdomen_and_lung(), image=image)
        dataset = open_case(case)
        for index, expected in ((0, 0.5), (1, 1050 / 2000)):
            inside = dataset[index]["image"][:, 4:36]
            torch.testing.assert_close(inside, torch.full_like(inside, 255 * expected))

    def test_neighbouring_slices_fill_the_channels(self, tmp_path):
        labels = np.zeros(SHAPE)
        labels[5:15, 5:15] = LABEL["liver"]
        image = np.broadcast_to(np.array([-150, -50, 50, 150, 250]), SHAPE)
        case = write_case(tmp_path, labels, image=image)
        dataset = open_case(case, channels="neighbours")
        seen = [dataset[index]["image"][:, 20, 20].tolist() for index in range(5)]
        levels = [0, 63.75, 127.5, 191.25, 255]
        rows = [(0, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 4)]
        assert seen == [pytest.approx([levels[k] for k in row], abs=1e-3) for row in rows]

    def test_augmentation_moves_image_and_masks_alike(self, tmp_path):
        dataset = make_dataset(tmp_path, augment_probability=1.0, negative_probability=0.0)
        still = make_dataset(tmp_path, negative_probability=0.0)
        items = [dataset[epoch, 0] for epoch in range(5)]
        for item in items:
            bright, shown = item["image"][0] > 127, item["label"].amax(0) > 0
            assert (bright & shown).sum() > 0.9 * (bright | shown).sum()
        assert not any(torch.equal(item["image"], still[0]["image"]) for item in items)


class TestPrompts:
    @pytest.mark.parametrize("prompts_per_image", [1, 2, 4])
    def test_the_smallest_object_is_always_asked_for(self, tmp_path, prompts_per_image):
        dataset = make_dataset(tmp_path, prompts_per_image=prompts_per_image)
        for index, smallest in enumerate(["aorta", "lung nodule", "liver"]):
            drawn = draw_names(dataset, index, 20)
            assert {names[0] for names in drawn} == {smallest}
            assert all(len(set(names)) == len(names) <= prompts_per_image for names in drawn)

    def test_the_others_are_drawn(self, tmp_path):
        drawn = draw_names(
            make_dataset(tmp_path, prompts_per_image=2, negative_probability=0.0), 0, 30
        )
        assert {names[1] for names in drawn} == {"liver", "spleen"}

    def test_negatives_are_targets_of_the_same_window_with_empty_masks(self, tmp_path):
        dataset = make_dataset(tmp_path, prompts_per_image=4, negative_probability=1.0)
        absent = {"heart", "right kidney", "left kidney", "spine"}
        asked = set()
        for epoch in range(20):
            item = dataset[epoch, 0]
            assert set(item["target"][1:]) <= absent
            assert item["prompt_valid"].all()
            assert item["label"][0].any() and not item["label"][1:].any()
            asked |= set(item["target"][1:])
        assert asked == absent

    def test_the_share_of_negatives_is_as_asked(self, tmp_path):
        drawn = draw_names(
            make_dataset(tmp_path, prompts_per_image=2, negative_probability=0.3), 0, 400
        )
        share = np.mean([names[1] not in ("liver", "spleen") for names in drawn])
        assert 0.22 < share < 0.38

    def test_an_object_too_small_to_count_is_never_asked_for(self, tmp_path):
        labels = abdomen_and_lung()
        labels[10:13, 20, 1] = LABEL[
            "heart"
        ]  # three voxels, fewer than count as an object, but no absence either
        dataset = make_dataset(tmp_path, labels, prompts_per_image=6, negative_probability=1.0)
        assert "heart" not in dataset.entries[0].area_fractions
        drawn = draw_names(dataset, 0, 20)
        assert all(len(names) == 6 and "heart" not in names for names in drawn)

    def test_slots_without_a_prompt_are_invalid(self, tmp_path):
        item = make_dataset(tmp_path, prompts_per_image=6, negative_probability=0.0)[0]
        assert set(item["target"][:3]) == {"aorta", "liver", "spleen"} and item["target"][3:] == [
            "",
            "",
            "",
        ]
        assert item["prompt_valid"].tolist() == [True] * 3 + [False] * 3
        assert item["label"][:3].flatten(1).any(1).all() and not item["label"][3:].any()
        # The network wants an end token in every prompt, used or not.
        assert torch.equal(item["input_ids"][3:], item["input_ids"][:1].expand(3, -1))

    def test_prompt_variants_are_the_cards_and_never_the_held_out_ones(self, tmp_path):
        first = make_dataset(tmp_path, prompt_variants="first")[0]
        names = [name for name in first["target"] if name]
        expected = tokenize_prompts([CARD.targets[name].prompts[0] for name in names])
        assert torch.equal(first["input_ids"][: len(names)], expected)

        dataset = make_dataset(tmp_path, prompts_per_image=1)
        allowed = {tuple(ids) for ids in tokenize_prompts(CARD.targets["aorta"].prompts).tolist()}
        drawn = {tuple(dataset[epoch, 0]["input_ids"][0].tolist()) for epoch in range(60)}
        assert drawn == allowed


class TestReproducibility:
    def test_the_same_batches_from_any_number_of_workers(self, tmp_path):
        dataset = make_dataset(tmp_path, augment_probability=1.0, seed=3)
        sampler = KeyedBatches(dataset, samples_per_epoch=3, batch_size=1, seed=3)
        sampler.set_epoch(2)
        batches = []
        for workers in (0, 2):
            torch.manual_seed(workers)
            np.random.seed(workers)  # noqa: NPY002  (global state must not matter)
            batches.append(
                list(DataLoader(dataset, sampler=sampler, num_workers=workers, **WHOLE_BATCHES))
            )
        assert len(batches[0]) == 3
        assert all(same(one, other) for one, other in zip(*batches, strict=True))

    def test_an_item_does_not_depend_on_those_before(self, tmp_path):
        keys = [(epoch, index) for epoch in range(3) for index in range(3)]
        one, other = (make_dataset(tmp_path, augment_probability=0.5) for _ in range(2))
        forwards = {key: one[key] for key in keys}
        backwards = {key: other[key] for key in reversed(keys)}
        assert all(same(forwards[key], backwards[key]) for key in keys)
        assert same(one[1], forwards[0, 1])  # without an epoch it is the first

    def test_seed_epoch_and_sample_count(self, tmp_path):
        one, other = (make_dataset(tmp_path, augment_probability=1.0, seed=seed) for seed in (0, 1))
        items = [one[0, 0], one[1, 0], one[0, 1], other[0, 0]]
        assert len({int(item["draw_key"]) for item in items}) == 4
        assert not any(torch.equal(items[0]["image"], item["image"]) for item in items[1:])

    def test_compressed_files_give_the_same_items(self, tmp_path):
        dataset = make_dataset(tmp_path)
        case = dict(dataset.sources[0].cases["hand-made"])
        for field in ("image", "label"):
            nibabel.save(nibabel.load(case[field]), case[field] + ".gz")
            case[field] += ".gz"
        compressed = open_case(case)
        assert all(same(dataset[index], compressed[index]) for index in range(3))


class TestWeights:
    """Data sets without images: entries are all that weights need."""

    def make(
        self, *sources: Sequence[dict[str, float]], cards: Sequence[str] = ("phantom", "msd_lung")
    ) -> Any:
        entries = [
            [SliceEntry("c", k, None, areas) for k, areas in enumerate(source)]
            for source in sources
        ]
        pairs = zip(cards, entries, strict=False)
        return PromptSliceDataset(
            [SimpleNamespace(card=load_card(c), entries=e) for c, e in pairs], image_size=8
        )

    def test_without_balance_all_count_alike(self):
        dataset = self.make([{"liver": 0.05}, {"liver": 0.05, "spleen": 0.005}, {"aorta": 0.0}])
        assert dataset.weights() == pytest.approx([1, 1, 1])

    def test_rare_targets_are_drawn_as_often_as_others(self):
        dataset = self.make(
            [{"liver": 0.05}, {"liver": 0.005}, {"liver": 0.2}, {"spleen": 0.05, "aorta": 0.0}]
        )
        weights = dataset.weights(balance=["target"])
        assert weights == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
        sampler = KeyedBatches(dataset, samples_per_epoch=1, batch_size=1, balance=["target"])
        drawn = []
        for epoch in range(600):
            sampler.set_epoch(epoch)
            drawn += [index for batch in sampler for _, index, _ in batch]
        assert np.mean([index == 3 for index in drawn]) == pytest.approx(0.5, abs=0.07)

    def test_several_objects_on_a_slice_count_as_their_mean(self):
        dataset = self.make(
            [{"liver": 0.05}, {"liver": 0.05, "spleen": 0.05}, {"liver": 0.05}, {"liver": 0.05}]
        )
        # Four livers and one spleen: 1/4, 5/8, 1/4, 1/4, whose mean is 11/32.
        assert dataset.weights(balance=["target"]) == pytest.approx(
            [8 / 11, 20 / 11, 8 / 11, 8 / 11]
        )

    def test_sizes_are_balanced_whatever_the_target_and_data_set(self):
        dataset = self.make(
            [{"liver": 0.05}, {"spleen": 0.05}, {"liver": 0.005}], [{"lung tumor": 0.05}]
        )
        assert dataset.weights(balance=["size"]) == pytest.approx([2 / 3, 2 / 3, 2, 2 / 3])

    def test_targets_of_two_data_sets_are_two_groups(self):
        dataset = self.make(
            [{"liver": 0.05}] * 3, [{"liver": 0.05}], cards=("phantom", "amos22_ct")
        )
        assert dataset.weights(balance=["target"]) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
        assert dataset.weights(balance=["size"]) == pytest.approx([1, 1, 1, 1])

    def test_both_together_are_groups_of_target_and_size(self):
        areas = [
            {"liver": 0.05},
            {"liver": 0.05},
            {"liver": 0.005},
            {"spleen": 0.05},
            {"spleen": 0.05},
        ]
        weights = self.make(areas).weights(balance=["target", "size"])
        # Three groups: large livers (2), a small one (1), large spleens (2).
        assert weights == pytest.approx([5 / 6, 5 / 6, 5 / 3, 5 / 6, 5 / 6])
        assert weights == pytest.approx(self.make(areas).weights(balance=("size", "target")))

    def test_slices_without_an_object_keep_the_mean_weight(self):
        dataset = self.make(
            [{"liver": 0.05}, {"liver": 0.05}, {"liver": 0.05}, {"spleen": 0.05}, {"aorta": 0.0}]
        )
        weights = dataset.weights(balance=["target"])
        assert weights == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2, 1])
        assert weights.mean() == pytest.approx(1)

    @pytest.mark.filterwarnings("error")
    def test_slices_without_any_object_count_alike(self):
        assert self.make([{"liver": 0.0}, {"aorta": 0.0}]).weights(
            balance=["target"]
        ) == pytest.approx([1, 1])

    def test_small_objects_count_more_on_top(self):
        dataset = self.make(
            [
                {"liver": 0.05},
                {"liver": 0.05},
                {"liver": SMALL_AREA_FRACTION / 2},
                {"spleen": 0.05, "aorta": 0.0},
            ]
        )
        weights = dataset.weights(3.0, ["target"])
        assert weights == pytest.approx([2 / 3, 2 / 3, 3 * 2 / 3, 2])
        # One that is known to be absent is not small.
        assert dataset.weights(3.0) == pytest.approx([1, 1, 3, 1])

    def test_other_groups_are_refused(self):
        with pytest.raises(
            ValueError, match=r"^balance: expected some of target, size, received modality$"
        ):
            self.make([{"liver": 0.05}]).weights(balance=["target", "modality"])


def test_labels_of_another_grid_or_type(tmp_path):
    case = write_case(tmp_path, abdomen_and_lung())
    expected = open_case(case)[0, 1]
    label = nibabel.Nifti1Image.from_filename(case["label"])
    voxels = np.array(label.dataobj)  # not a view of the file that is about to be replaced
    nibabel.save(
        nibabel.Nifti1Image(voxels.astype(np.float32)[..., None], label.affine), case["label"]
    )
    assert same(open_case(case)[0, 1], expected)
    mirrored = label.affine @ np.diag([-1.0, 1.0, 1.0, 1.0])
    mirrored[0, 3] += label.affine[0, 0] * (SHAPE[0] - 1)
    nibabel.save(nibabel.Nifti1Image(voxels[::-1], mirrored), case["label"])
    with pytest.raises(ValueError, match="case hand-made: expected image and label on one grid"):
        open_case(case)
