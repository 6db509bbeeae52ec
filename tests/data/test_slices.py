"""Training items: the right anatomy at the right place, and the same item whoever asks for it, in whatever order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from boltzmed.cards import load_card
from boltzmed.data.slices import KeyedSampler, PromptSliceDataset, keyed_generator, read_datalist
from boltzmed.transforms.tokenize import tokenize_prompts

CARD = load_card("phantom")
LABEL = {name: target.labels[0] for name, target in CARD.targets.items()}  # a label value of each target
ABDOMEN, LUNG = (-150.0, 250.0), (-1000.0, 1000.0)
SHAPE = (40, 32, 5)  # axial slices of 32 rows and 40 columns, hence a square of 40 with 4 rows of padding above
LPS = (-1, -1, 1)  # array axes to the patient's left, back and head: columns, rows and slices as the network has them


def write_case(folder: Path, labels: np.ndarray, *, signs: Sequence[int] = LPS, image: Any = None) -> dict[str, str]:
    """A NIfTI pair; the image is -150 HU, and 250 HU wherever there is a label, unless given."""
    affine = np.diag([*(sign * size for sign, size in zip(signs, (0.8, 0.8, 3.0), strict=True)), 1.0])
    image = np.where(labels > 0, 250, -150) if image is None else image
    nibabel.save(nibabel.Nifti1Image(image.astype(np.int16), affine), folder / "image.nii")
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint8), affine), folder / "label.nii")
    return {"image": str(folder / "image.nii"), "label": str(folder / "label.nii"), "case": "hand-made"}


def abdomen_and_lung() -> np.ndarray:
    """Slice 1: liver, spleen, aorta; slice 2: liver, lung with a nodule; slice 3: three voxels of heart; else empty."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:14, 5:15, 1:3] = LABEL["liver"]
    labels[30:34, 20:24, 1] = LABEL["spleen"]
    labels[20:22, 25:28, 1] = LABEL["aorta"]
    labels[22:32, 4:14, 2] = LABEL["right lung"]
    labels[25:27, 6:8, 2] = 4  # a nodule of the right lung
    labels[10:13, 10, 3] = LABEL["heart"]
    return labels


def make_dataset(folder: Path, labels: np.ndarray | None = None, **options: Any) -> PromptSliceDataset:
    case = write_case(folder, abdomen_and_lung() if labels is None else labels)
    return PromptSliceDataset([case], CARD, **{"image_size": 40, "augment_probability": 0.0, **options})


def draw_names(dataset: PromptSliceDataset, index: int, epochs: int) -> list[list[str]]:
    """Names of the asked targets in each of several epochs, without the padding."""
    return [[name for name in dataset[epoch, index]["target"] if name] for epoch in range(epochs)]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) if isinstance(one[key], torch.Tensor) else one[key] == other[key]
        for key in one
    )


class TestReadDatalist:
    def write(self, folder: Path, content: Any) -> Path:
        for name in ("a.nii", "a_label.nii"):
            (folder / name).touch()
        path = folder / "datalist.json"
        path.write_text(json.dumps(content))
        return path

    def test_paths_are_relative_to_the_lists_own_folder(self, tmp_path, monkeypatch):
        record = {"image": "a.nii", "label": "a_label.nii", "case": "a", "patient": "p"}
        path = self.write(tmp_path, {"training": [record], "test": [record, record]})
        monkeypatch.chdir("/")
        expected = {**record, "image": str(tmp_path / "a.nii"), "label": str(tmp_path / "a_label.nii")}
        assert read_datalist(path) == [expected]
        assert read_datalist(path, "test") == [expected, expected]

    def test_a_missing_file_is_told(self, tmp_path):
        with pytest.raises(ValueError, match=r"nowhere\.json: expected a datalist JSON file"):
            read_datalist(tmp_path / "nowhere.json")

    @pytest.mark.parametrize("content", [{"validation": [1]}, {"validation": [1], "training": []}])
    def test_a_missing_or_empty_list_is_told_with_those_there(self, tmp_path, content):
        with pytest.raises(ValueError, match=r"expected a list named 'training', received \[.*'validation'"):
            read_datalist(self.write(tmp_path, content))

    @pytest.mark.parametrize("field", ["image", "label"])
    def test_a_missing_image_is_told_with_its_case(self, tmp_path, field):
        record = {"image": "a.nii", "label": "a_label.nii", "case": "c7", field: "gone.nii"}
        with pytest.raises(ValueError, match=rf"case c7: {field} gone\.nii does not exist"):
            read_datalist(self.write(tmp_path, {"training": [record]}))


def test_equal_keys_give_equal_streams_and_every_part_of_the_key_counts():
    def stream(*key: Any) -> list[float]:
        return keyed_generator(*key).random(4).tolist()

    assert stream(1, 2, 3, "targets") == stream(1, 2, 3, "targets")
    others = [(0, 2, 3, "targets"), (1, 0, 3, "targets"), (1, 2, 0, "targets"), (2, 1, 3, "targets")]
    others += [(1, 2, 3, purpose) for purpose in ("order", "augmentation", "draws")]
    assert len({tuple(stream(*key)) for key in [(1, 2, 3, "targets"), *others]}) == len(others) + 1


class TestEntries:
    def test_one_for_each_slice_and_window_that_shows_a_target(self, tmp_path):
        found = [(entry.slice_index, entry.window) for entry in make_dataset(tmp_path).entries]
        # Slice 3 holds three voxels of heart, fewer than count as an object.
        assert found == [(1, ABDOMEN), (2, LUNG), (2, ABDOMEN)]
        assert len(make_dataset(tmp_path, min_pixels=3)) == 4

    def test_area_fractions_are_shares_of_the_padded_square(self, tmp_path):
        first, lung, _ = make_dataset(tmp_path).entries
        side2 = 40 * 40  # of slices of 32 x 40 pixels
        shown = {name: area for name, area in first.area_fractions.items() if area}
        assert shown == {"liver": 120 / side2, "spleen": 16 / side2, "aorta": 6 / side2}
        # The lung includes its nodule.
        assert lung.area_fractions == {"right lung": 100 / side2, "left lung": 0.0, "lung nodule": 4 / side2}

    def test_slices_are_counted_from_feet_to_head_whatever_the_file(self, tmp_path):
        case = write_case(tmp_path, abdomen_and_lung(), signs=(-1, -1, -1))
        entries = PromptSliceDataset([case], CARD, image_size=40).entries
        assert [entry.slice_index for entry in entries] == [2, 2, 3]

    def test_cases_without_any_target_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="card phantom: none of its targets is on any slice of 1 cases"):
            make_dataset(tmp_path, np.zeros(SHAPE))


class TestItem:
    @pytest.mark.parametrize("image_size", [32, 64])
    def test_shapes_types_and_ranges(self, tmp_path, image_size):
        dataset = make_dataset(tmp_path, image_size=image_size, prompts_per_image=4, augment_probability=1.0)
        for index in range(len(dataset)):
            item = dataset[5, index]
            assert item["image"].shape == (3, image_size, image_size) and item["image"].dtype == torch.float32
            # The augmentation's bilinear weights are rounded, and may leave the top a few ulp above 255.
            assert 0 <= item["image"].min() < 1 and 150 < item["image"].max() < 255.001
            assert item["label"].shape == (4, image_size, image_size) and item["label"].dtype == torch.float32
            assert set(item["label"].unique().tolist()) == {0.0, 1.0}
            assert item["input_ids"].shape == (4, 77) and item["input_ids"].dtype == torch.int64
            assert item["prompt_valid"].shape == (4,) and item["prompt_valid"].dtype == torch.bool
            assert item["draw_key"].shape == () and item["draw_key"].dtype == torch.int64
            assert (item["case"], item["slice_index"]) == ("hand-made", dataset.entries[index].slice_index)
            assert len(item["target"]) == 4

    @pytest.mark.parametrize("signs", [(-1, -1, 1), (1, 1, 1), (1, -1, -1)])
    def test_rows_run_front_to_back_and_columns_from_the_patients_right(self, tmp_path, signs):
        labels = np.zeros(SHAPE, np.uint8)
        # Two by two voxels, 6 from the patient's right end and 3 from the front, on the second slice from the feet.
        place = [slice(6, 8), slice(3, 5), slice(1, 2)]
        for axis, sign in enumerate(signs):
            if sign != LPS[axis]:
                place[axis] = slice(SHAPE[axis] - place[axis].stop, SHAPE[axis] - place[axis].start)
        labels[tuple(place)] = LABEL["spleen"]
        case = write_case(tmp_path, labels, signs=signs)
        dataset = PromptSliceDataset([case], CARD, image_size=40, augment_probability=0.0, negative_probability=0.0)
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
        dataset = PromptSliceDataset([case], CARD, image_size=40, augment_probability=0.0)
        for index, expected in ((0, 0.5), (1, 1050 / 2000)):
            inside = dataset[index]["image"][:, 4:36]
            torch.testing.assert_close(inside, torch.full_like(inside, 255 * expected))

    def test_neighbouring_slices_fill_the_channels(self, tmp_path):
        labels = np.zeros(SHAPE)
        labels[5:15, 5:15] = LABEL["liver"]
        image = np.broadcast_to(np.array([-150, -50, 50, 150, 250]), SHAPE)
        case = write_case(tmp_path, labels, image=image)
        dataset = PromptSliceDataset([case], CARD, image_size=40, channels="neighbours", augment_probability=0.0)
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
        drawn = draw_names(make_dataset(tmp_path, prompts_per_image=2, negative_probability=0.0), 0, 30)
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
        drawn = draw_names(make_dataset(tmp_path, prompts_per_image=2, negative_probability=0.3), 0, 400)
        share = np.mean([names[1] not in ("liver", "spleen") for names in drawn])
        assert 0.22 < share < 0.38

    def test_an_object_too_small_to_count_gives_no_mask(self, tmp_path):
        labels = abdomen_and_lung()
        labels[10:13, 20, 1] = LABEL["heart"]  # three voxels, fewer than count as an object
        dataset = make_dataset(tmp_path, labels, prompts_per_image=6, negative_probability=1.0)
        items = [dataset[epoch, 0] for epoch in range(10)]
        masks = [item["label"][item["target"].index("heart")] for item in items if "heart" in item["target"]]
        assert masks and not any(mask.any() for mask in masks)

    def test_slots_without_a_prompt_are_invalid(self, tmp_path):
        item = make_dataset(tmp_path, prompts_per_image=6, negative_probability=0.0)[0]
        assert set(item["target"][:3]) == {"aorta", "liver", "spleen"} and item["target"][3:] == ["", "", ""]
        assert item["prompt_valid"].tolist() == [True] * 3 + [False] * 3
        assert item["label"][:3].flatten(1).any(1).all() and not item["label"][3:].any()
        # The network wants an end token in every prompt, used or not.
        assert torch.equal(item["input_ids"][3:], item["input_ids"][:1].expand(3, -1))

    def test_phrasings_are_the_cards_and_never_the_held_out_ones(self, tmp_path):
        first = make_dataset(tmp_path, phrasings="first")[0]
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
        sampler = KeyedSampler(dataset, samples_per_epoch=3, seed=3)
        sampler.set_epoch(2)
        batches = []
        for workers in (0, 2):
            torch.manual_seed(workers)
            np.random.seed(workers)  # noqa: NPY002  (global state must not matter)
            batches.append(list(DataLoader(dataset, batch_size=1, sampler=sampler, num_workers=workers)))
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
        case = dict(dataset.cases[0])
        for field in ("image", "label"):
            nibabel.save(nibabel.load(case[field]), case[field] + ".gz")
            case[field] += ".gz"
        compressed = PromptSliceDataset([case], CARD, image_size=40, augment_probability=0.0)
        assert all(same(dataset[index], compressed[index]) for index in range(3))


class TestKeyedSampler:
    @pytest.fixture(scope="class")
    def dataset(self, tmp_path_factory: pytest.TempPathFactory) -> PromptSliceDataset:
        """Forty slices of liver, the first eight with a spleen of one pixel, a small object by its area."""
        labels = np.zeros((40, 32, 40), np.uint8)
        labels[5:15, 5:15] = LABEL["liver"]
        labels[30, 20, :8] = LABEL["spleen"]
        dataset = make_dataset(tmp_path_factory.mktemp("sampler"), labels, min_pixels=1)
        assert len(dataset) == 40
        return dataset

    def draw(self, dataset: PromptSliceDataset, epoch: int = 0, **options: Any) -> list[tuple[int, int]]:
        sampler = KeyedSampler(dataset, **{"samples_per_epoch": 20, **options})
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert len(sampler) == len(drawn)
        return drawn

    def test_entries_come_once_with_the_epoch(self, dataset):
        drawn = self.draw(dataset, epoch=4)
        assert len(set(drawn)) == 20 and {epoch for epoch, _ in drawn} == {4}
        assert {index for _, index in drawn} < set(range(40))
        assert sorted(index for _, index in self.draw(dataset, samples_per_epoch=1000)) == list(range(40))

    def test_seed_and_epoch_decide_alone(self, dataset):
        first = self.draw(dataset, epoch=1, seed=5)
        np.random.seed(9)  # noqa: NPY002  (global state must not matter)
        torch.manual_seed(9)
        assert self.draw(dataset, epoch=1, seed=5) == first
        indices = [index for _, index in first]
        assert [index for _, index in self.draw(dataset, epoch=2, seed=5)] != indices
        assert [index for _, index in self.draw(dataset, epoch=1, seed=6)] != indices

    def test_weight_raises_the_share_of_small_objects(self, dataset):
        assert dataset.weights(7.0).tolist() == [7.0] * 8 + [1.0] * 32

        def share(weight: float) -> float:
            drawn = [self.draw(dataset, epoch, samples_per_epoch=4, small_weight=weight) for epoch in range(200)]
            return float(np.mean([index < 8 for epoch in drawn for _, index in epoch]))

        assert share(1.0) == pytest.approx(0.2, abs=0.05)
        assert share(40.0) > 0.8

    @pytest.mark.parametrize("samples", [20, 21])
    def test_ranks_share_one_draw(self, dataset, monkeypatch, samples):
        alone = self.draw(dataset, epoch=3)
        shares = []
        for rank in range(2):
            for name, value in (("is_initialized", True), ("get_world_size", 2), ("get_rank", rank)):
                monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
            shares.append(self.draw(dataset, epoch=3, samples_per_epoch=samples))
        assert [len(share) for share in shares] == [10, 10]
        assert not set(shares[0]) & set(shares[1])
        assert set(shares[0]) | set(shares[1]) == set(alone)


def test_a_fixed_sampler_gives_every_epoch_the_same_samples(tmp_path):
    dataset = make_dataset(tmp_path)
    drawn = {}
    for fixed in (False, True):
        sampler = KeyedSampler(dataset, samples_per_epoch=3, seed=1, fixed=fixed)
        epochs = []
        for epoch in range(4):
            sampler.set_epoch(epoch)
            epochs.append(list(sampler))
        drawn[fixed] = epochs
    assert drawn[True][0] == drawn[False][0] and all(epoch == drawn[True][0] for epoch in drawn[True])
    assert len({tuple(epoch) for epoch in drawn[False]}) > 1


def test_labels_of_another_grid_or_type(tmp_path):
    case = write_case(tmp_path, abdomen_and_lung())
    options: dict[str, Any] = {"image_size": 40, "augment_probability": 0.0}
    expected = PromptSliceDataset([case], CARD, **options)[0, 1]
    label = nibabel.Nifti1Image.from_filename(case["label"])
    voxels = np.array(label.dataobj)  # not a view of the file that is about to be replaced
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32)[..., None], label.affine), case["label"])
    assert same(PromptSliceDataset([case], CARD, **options)[0, 1], expected)
    mirrored = label.affine @ np.diag([-1.0, 1.0, 1.0, 1.0])
    mirrored[0, 3] += label.affine[0, 0] * (SHAPE[0] - 1)
    nibabel.save(nibabel.Nifti1Image(voxels[::-1], mirrored), case["label"])
    with pytest.raises(ValueError, match="case hand-made: expected image and label on one grid"):
        PromptSliceDataset([case], CARD, **options)
