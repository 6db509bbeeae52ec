"""Where slices come from: NIfTI files and caches say the same of the same data, and nothing that is
not known.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from torch.utils.data import DataLoader, default_collate

from boltzmed.cards import load_card
from boltzmed.data.batches import KeyedBatches
from boltzmed.data.prepare import prepare_cache
from boltzmed.data.slice_sources import (
    CachedSlices,
    NiftiSlices,
    SliceEntry,
    open_sources,
    read_datalist,
)
from boltzmed.data.slices import PromptSliceDataset
from boltzmed.errors import InputError
from boltzmed.transforms.window import measure_percentiles

CARD = load_card("phantom")
LABEL = {
    name: target.labels[0] for name, target in CARD.targets.items()
}  # a label value of each target
ABDOMEN, LUNG = (-150.0, 250.0), (-1000.0, 1000.0)
SHAPE = (40, 32, 5)  # axial slices of 32 rows and 40 columns, hence a square of 40
LPS, RAS, LPI = (-1, -1, 1), (1, 1, 1), (-1, -1, -1)


def write_pair(
    folder: Path,
    labels: np.ndarray,
    *,
    name: str = "a",
    signs: Sequence[int] = LPS,
    image: Any = None,
) -> dict[str, str]:
    """A NIfTI pair; the image's voxels are all different unless it is given."""
    affine = np.diag(
        [*(sign * size for sign, size in zip(signs, (0.8, 0.8, 3.0), strict=True)), 1.0]
    )
    image = (
        (np.arange(labels.size).reshape(labels.shape) % 3000 - 1000).astype(np.int16)
        if image is None
        else image
    )
    case = {
        "image": str(folder / f"{name}.nii"),
        "label": str(folder / f"{name}_label.nii"),
        "case": name,
    }
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(image, affine), case["image"])
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint8), affine), case["label"])
    return case


def write_table(folder: Path, cases: Sequence[Mapping[str, str]], split: str = "train") -> Path:
    rows = [
        f"{case['image']},{case['label']},{case['case']},{case.get('split', split)}"
        for case in cases
    ]
    (folder / "pairs.csv").write_text("\n".join(["image,label,case,split", *rows]) + "\n")
    return folder / "pairs.csv"


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


def write_card(
    folder: Path,
    name: str = "toy",
    targets: Mapping[str, Mapping[str, Any]] | None = None,
    **changes: Any,
) -> Path:
    """A CT card of two targets, `zone` before `blob`, so that names are in another order than the
    card's.
    """
    targets = {"zone": {"labels": [1]}, "blob": {"labels": [2]}} if targets is None else targets
    card = {
        "name": name,
        "title": "Toy",
        **dict.fromkeys(("licence", "citation", "source"), "none"),
        "modality": "CT",
        "exhaustive": True,
        "labels": {0: "background", 1: "one", 2: "two", 3: "three"},
        "windows": {"abdomen": [-150, 250], "lung": [-1000, 1000]},
        "default_window": "abdomen",
        "targets": {
            target: {
                "site": "abdomen",
                "window": "abdomen",
                "prompts": [f"{target} in CT", f"a {target}"],
                **facts,
            }
            for target, facts in targets.items()
        },
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(card, sort_keys=False))
    return path


def write_mr_card(folder: Path, window: Any = "percentiles") -> Path:
    targets = {"zone": {"labels": [1], "window": window}, "blob": {"labels": [2], "window": window}}
    windows = {"percentiles": None}
    return write_card(
        folder, "mr", targets, modality="MR", windows=windows, default_window="percentiles"
    )


def boxes(*slices: tuple[int, int], shape: tuple[int, ...] = (20, 16, 4)) -> np.ndarray:
    """Labels: on slice k so many pixels of label 1 and of label 2, from two corners."""
    labels = np.zeros((shape[2], shape[0] * shape[1]), np.uint8)
    for flat, (ones, twos) in zip(labels, slices, strict=False):
        flat[:ones], flat[flat.size - twos :] = 1, 2
    return np.moveaxis(labels.reshape(shape[2], *shape[:2]), 0, 2)


def prepare(
    folder: Path, card: Path | str, cases: Sequence[Mapping[str, str]], **options: Any
) -> Path:
    done = prepare_cache(card, write_table(folder, cases), folder / "cache", **options)
    assert not done.failed
    return done.cache


def make_both(
    folder: Path, labels: np.ndarray, *, card: Path | None = None, **options: Any
) -> tuple[NiftiSlices, CachedSlices]:
    """The two sources of one case."""
    case = write_pair(folder, labels, **options)
    card = card or write_card(folder)
    return NiftiSlices([case], load_card(card)), CachedSlices(
        prepare(folder, card, [case]), part="train"
    )


def by_place(entries: Sequence[SliceEntry]) -> dict[tuple[Any, ...], dict[str, float]]:
    found = {
        (entry.case, entry.slice_index, entry.window): dict(entry.area_fractions)
        for entry in entries
    }
    assert len(found) == len(entries)
    return found


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        (
            torch.equal(one[key], other[key])
            if isinstance(one[key], torch.Tensor)
            else one[key] == other[key]
        )
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
        expected = {
            **record,
            "image": str(tmp_path / "a.nii"),
            "label": str(tmp_path / "a_label.nii"),
        }
        assert read_datalist(path) == [expected]
        assert read_datalist(path, "test") == [expected, expected]

    def test_a_missing_file_is_told(self, tmp_path):
        with pytest.raises(ValueError, match=r"nowhere\.json: expected a datalist JSON file"):
            read_datalist(tmp_path / "nowhere.json")

    @pytest.mark.parametrize("content", [{"validation": [1]}, {"validation": [1], "training": []}])
    def test_a_missing_or_empty_list_is_told_with_those_there(self, tmp_path, content):
        with pytest.raises(
            ValueError, match=r"expected a list named 'training', received \[.*'validation'"
        ):
            read_datalist(self.write(tmp_path, content))

    @pytest.mark.parametrize("field", ["image", "label"])
    def test_a_missing_image_is_told_with_its_case(self, tmp_path, field):
        record = {"image": "a.nii", "label": "a_label.nii", "case": "c7", field: "gone.nii"}
        with pytest.raises(ValueError, match=rf"case c7: {field} gone\.nii does not exist"):
            read_datalist(self.write(tmp_path, {"training": [record]}))


class TestNiftiSlices:
    def open(
        self,
        folder: Path,
        labels: np.ndarray | None = None,
        *,
        signs: Sequence[int] = LPS,
        **options: Any,
    ) -> NiftiSlices:
        return NiftiSlices(
            [write_pair(folder, abdomen_and_lung() if labels is None else labels, signs=signs)],
            CARD,
            **options,
        )

    def test_one_entry_for_each_slice_and_window_that_shows_a_target(self, tmp_path, monkeypatch):
        found = [(entry.slice_index, entry.window) for entry in self.open(tmp_path).entries]
        # Slice 3 holds three voxels of heart, fewer than count as an object.
        assert found == [(1, ABDOMEN), (2, LUNG), (2, ABDOMEN)]
        monkeypatch.setattr("boltzmed.data.slice_sources.MIN_PIXELS", 3)
        assert len(self.open(tmp_path).entries) == 4

    def test_area_fractions_are_shares_of_the_padded_square(self, tmp_path):
        first, lung, _ = self.open(tmp_path).entries
        side2 = 40 * 40  # of slices of 32 x 40 pixels
        shown = {name: area for name, area in first.area_fractions.items() if area}
        assert shown == {"liver": 120 / side2, "spleen": 16 / side2, "aorta": 6 / side2}
        # The lung includes its nodule.
        assert lung.area_fractions == {
            "right lung": 100 / side2,
            "left lung": 0.0,
            "lung nodule": 4 / side2,
        }

    def test_what_is_too_small_is_neither_there_nor_absent(self, tmp_path):
        labels = abdomen_and_lung()
        labels[10:13, 20, 1] = LABEL["heart"]
        first = self.open(tmp_path, labels).entries[0].area_fractions
        assert "heart" not in first and first["spine"] == 0.0

    def test_slices_are_counted_from_feet_to_head_whatever_the_file(self, tmp_path):
        assert [entry.slice_index for entry in self.open(tmp_path, signs=LPI).entries] == [2, 2, 3]

    def test_cases_without_any_target_are_refused(self, tmp_path):
        with pytest.raises(
            ValueError, match="card phantom: none of its targets is on any slice of 1 cases"
        ):
            self.open(tmp_path, np.zeros(SHAPE))

    def test_nothing_is_absent_where_not_all_is_annotated(self, tmp_path):
        card = load_card(write_card(tmp_path, exhaustive=False))
        source = NiftiSlices([write_pair(tmp_path, boxes((0, 0), (50, 0), (50, 9), (0, 0)))], card)
        assert [set(entry.area_fractions) for entry in source.entries] == [
            {"zone"},
            {"zone", "blob"},
        ]


class TestBothAlike:
    """The same data as files and as a cache, by the protocol that drops nothing."""

    LABELS = boxes((0, 0), (100, 3), (60, 20), (3, 4))

    @pytest.mark.parametrize("signs", [LPS, RAS, LPI])
    def test_entries(self, tmp_path, signs):
        files, cache = make_both(tmp_path, self.LABELS, signs=signs)
        side2 = 20 * 20
        first = {
            1: {"zone": 100 / side2},
            2: {"zone": 60 / side2, "blob": 20 / side2},
            3: {"blob": 4 / side2},
        }
        expected = {
            ("a", 3 - k if signs == LPI else k, ABDOMEN): areas for k, areas in first.items()
        }
        assert by_place(files.entries) == by_place(cache.entries) == expected

    @pytest.mark.parametrize("channels", ["repeat", "neighbours"])
    @pytest.mark.parametrize("signs", [LPS, RAS, LPI])
    def test_items(self, tmp_path, signs, channels):
        # A target each slice, so that there is nothing to draw.
        labels = boxes((0, 0), (100, 0), (0, 20), (60, 0))
        files, cache = make_both(tmp_path, labels, signs=signs)
        options: dict[str, Any] = {
            "image_size": 24,
            "channels": channels,
            "negative_probability": 0.0,
            "seed": 4,
        }
        datasets = [
            PromptSliceDataset([source], augment_probability=0.5, **options)
            for source in (files, cache)
        ]
        assert len(datasets[0]) == len(datasets[1]) == 3
        for key in [(epoch, index) for epoch in range(4) for index in range(3)]:
            assert same(datasets[0][key], datasets[1][key])
        assert all(
            any(datasets[1][epoch, index]["label"].any() for epoch in range(4))
            for index in range(3)
        )

    @pytest.mark.parametrize("voxels", ["whole", "fractions", "scaled"])
    def test_percentiles(self, tmp_path, voxels):
        image = np.random.default_rng(0).gamma(2.0, 300.0, (20, 16, 4)).astype(np.float32)
        image[:3] = 0
        if voxels == "whole":
            image = image.astype(np.int16)
        files, cache = make_both(tmp_path, self.LABELS, card=write_mr_card(tmp_path), image=image)
        if voxels == "scaled":
            stored = nibabel.Nifti1Image(image.astype(np.int16), np.diag([-0.8, -0.8, 3, 1]))
            stored.header.set_slope_inter(0.37, -5)
            nibabel.save(stored, tmp_path / "a.nii")
            prepare_cache(tmp_path / "mr.yaml", tmp_path / "pairs.csv", tmp_path / "cache")
            cache = CachedSlices(tmp_path / "cache", part="train")
        assert by_place(files.entries) == by_place(cache.entries)
        for entry in cache.entries:
            assert entry.window is None
            (one, labels, window), (other, other_labels, other_window) = (
                s.read(entry, [entry.slice_index]) for s in (files, cache)
            )
            assert window == pytest.approx(other_window, rel=1e-6) and np.array_equal(
                labels, other_labels
            )
            np.testing.assert_allclose(one, other, rtol=1e-6)
        if voxels != "scaled":
            assert window == other_window == measure_percentiles(image)
            datasets = [PromptSliceDataset([source], image_size=24) for source in (files, cache)]
            assert all(
                torch.equal(datasets[0][k]["image"], datasets[1][k]["image"])
                for k in range(len(datasets[0]))
            )

    def test_neighbours_and_counts(self, tmp_path):
        files, cache = make_both(tmp_path, self.LABELS)
        entry = cache.entries[1]
        for indices in ([2], [1, 2, 3], [0, 0, 1]):
            (one, *_), (other, *_) = (source.read(entry, indices) for source in (files, cache))
            assert np.array_equal(one, other) and one.shape == (len(indices), 16, 20)
        assert files.count("a") == cache.count("a") == 4
        assert files.label_values("a", "blob") == cache.label_values("a", "blob") == (2,)

    def test_draws(self, tmp_path):
        card = write_card(
            tmp_path,
            targets={"zone": {"labels": [1]}, "blob": {"labels": [2]}, "all": {"labels": [1, 2]}},
        )
        files, cache = make_both(tmp_path, self.LABELS, card=card)
        datasets = [PromptSliceDataset([source], image_size=24) for source in (files, cache)]
        for key in [(epoch, index) for epoch in range(6) for index in range(3)]:
            assert same(datasets[0][key], datasets[1][key])

    def test_order_of_entries(self, tmp_path):
        card = write_card(
            tmp_path, targets={"zone": {"labels": [1], "window": "lung"}, "blob": {"labels": [2]}}
        )
        files, cache = make_both(tmp_path, self.LABELS, card=card)
        assert files.entries == cache.entries

    def test_phantoms(self, tmp_path):
        # Many targets, labels shared by several, two windows.
        case = write_pair(tmp_path, abdomen_and_lung())
        card = yaml.safe_load(
            (Path(__file__).resolve().parents[2] / "datasets" / "phantom.yaml").read_text()
        )
        (tmp_path / "phantom.yaml").write_text(
            yaml.safe_dump({**card, "split": None} | {"layout": {"reader": "pairs"}})
        )
        cache = CachedSlices(prepare(tmp_path, tmp_path / "phantom.yaml", [case]), part="train")
        files = NiftiSlices([case], CARD)
        assert by_place(cache.entries) == by_place(files.entries)
        options: dict[str, Any] = {
            "image_size": 40,
            "augment_probability": 0.0,
            "prompts_per_image": 10,
        }
        one, other = (
            PromptSliceDataset([source], negative_probability=1.0, **options)
            for source in (files, cache)
        )
        for index, entry in enumerate(one.entries):
            place = other.entries.index(entry)
            masks = [
                dict(zip(item["target"], item["label"], strict=True))
                for item in (one[index], other[place])
            ]
            for name in masks[0].keys() & masks[1].keys():
                assert torch.equal(masks[0][name], masks[1][name])
            assert torch.equal(one[index]["image"], other[place]["image"])


class TestNegatives:
    def entries(
        self,
        folder: Path,
        labels: np.ndarray,
        *,
        empty_slices: bool = False,
        protocol: str = "volume",
        **card: Any,
    ) -> Any:
        case = write_pair(folder, labels)
        cache = prepare(folder, write_card(folder, **card), [case], protocol=protocol)
        return {
            key[1:]: areas
            for key, areas in by_place(
                CachedSlices(cache, part="train", empty_slices=empty_slices).entries
            ).items()
        }

    def test_of_exhaustive_cards_alone(self, tmp_path):
        labels = boxes((0, 0), (100, 0), (100, 20), (0, 0))
        found = {
            flag: self.entries(tmp_path / str(flag), labels, exhaustive=flag)
            for flag in (True, False)
        }
        assert found[True] == {
            (1, ABDOMEN): {"zone": 0.25, "blob": 0.0},
            (2, ABDOMEN): {"zone": 0.25, "blob": 0.05},
        }
        assert found[False] == {
            (1, ABDOMEN): {"zone": 0.25},
            (2, ABDOMEN): {"zone": 0.25, "blob": 0.05},
        }

    def test_never_of_what_a_protocol_drops(self, tmp_path):
        labels = boxes((100, 20), (9, 20), (10, 1), (0, 20))
        assert self.entries(tmp_path, labels, protocol="biomedparse") == {
            (0, ABDOMEN): {"zone": 0.25, "blob": 0.05},
            (1, ABDOMEN): {"blob": 0.05},  # 9 of 100 pixels are dropped
            (2, ABDOMEN): {"zone": 0.025},  # 1 of 20 is dropped
            (3, ABDOMEN): {"blob": 0.05, "zone": 0.0},
        }

    def test_never_of_what_is_too_small_to_ask_for(self, tmp_path):
        labels = boxes((5, 0), (5, 3), (5, 4), (3, 0))
        side2 = 400
        assert self.entries(tmp_path, labels, protocol="biomedparse") == {
            (0, ABDOMEN): {"zone": 5 / side2, "blob": 0.0},
            (1, ABDOMEN): {"zone": 5 / side2},
            (2, ABDOMEN): {"zone": 5 / side2, "blob": 4 / side2},
        }

    def test_never_of_half_a_merged_target(self, tmp_path):
        targets = {"one": {"labels": [1]}, "both": {"labels": [1, 2], "all_labels": True}}
        labels = boxes((40, 40), (40, 0), (0, 40), (0, 0))
        assert self.entries(tmp_path, labels, protocol="biomedparse", targets=targets) == {
            (0, ABDOMEN): {"one": 0.1, "both": 0.2},
            (1, ABDOMEN): {"one": 0.1},
        }

    def test_each_in_its_own_window(self, tmp_path):
        targets = {
            "zone": {"labels": [1], "extra_windows": ["lung"]},
            "blob": {"labels": [2], "window": "lung"},
        }
        labels = boxes((40, 0), (40, 40), (0, 40), (0, 0))
        assert self.entries(tmp_path, labels, protocol="biomedparse", targets=targets) == {
            (0, ABDOMEN): {"zone": 0.1},
            (0, LUNG): {"zone": 0.1, "blob": 0.0},
            (1, ABDOMEN): {"zone": 0.1},
            (1, LUNG): {"zone": 0.1, "blob": 0.1},
            (2, LUNG): {"blob": 0.1},
        }

    def test_slices_without_any_target_are_listed_where_asked(self, tmp_path):
        labels = boxes((40, 0), (0, 0), (3, 0), (0, 40))
        usual, all_slices = (
            self.entries(tmp_path / str(flag), labels, empty_slices=flag) for flag in (False, True)
        )
        assert set(usual) == {(0, ABDOMEN), (3, ABDOMEN)}
        assert all_slices == usual | {
            (1, ABDOMEN): {"zone": 0.0, "blob": 0.0},
            (2, ABDOMEN): {"blob": 0.0},
        }
        assert set(
            self.entries(tmp_path / "c", labels, empty_slices=True, exhaustive=False)
        ) == set(usual)

    def test_an_empty_slice_is_an_item_of_empty_masks(self, tmp_path):
        cache = prepare(
            tmp_path,
            write_card(tmp_path),
            [write_pair(tmp_path, boxes((40, 0), (0, 0), (0, 0), (0, 0)))],
        )
        dataset = PromptSliceDataset(
            [CachedSlices(cache, part="train", empty_slices=True)], image_size=24
        )
        assert len(dataset) == 4
        for index in (1, 2, 3):
            item = dataset[index]
            assert item["prompt_valid"].any() and not item["label"].any() and item["image"].any()


class TestCachedSlices:
    @pytest.fixture(scope="class")
    def cache(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("cached")
        cases = [
            {
                **write_pair(folder, boxes((100, 20), (60, 0), (0, 30), (0, 0)), name=name),
                "split": split,
            }
            for name, split in (("007", "train"), ("NA", "train"), ("1e5", "validation"))
        ]
        return prepare(folder, write_card(folder), cases)

    def test_a_part_is_its_cases_alone(self, cache):
        for part, names in (("train", {"007", "NA"}), ("validation", {"1e5"})):
            source = CachedSlices(cache, part=part)
            assert {entry.case for entry in source.entries} == names == set(source.absent()["case"])
            assert all(source.read(entry, [0])[0].shape == (1, 16, 20) for entry in source.entries)

    def test_a_part_without_slices_is_refused(self, cache):
        for part in ("test", "training"):
            with pytest.raises(
                ValueError,
                match=f"cache: expected cases in part '{part}', found none; it has train",
            ):
                CachedSlices(cache, part=part)

    def test_another_plane_is_refused(self, cache):
        with pytest.raises(
            ValueError,
            match="expected slices of plane coronal, found axial; prepare another cache with",
        ):
            CachedSlices(cache, part="train", plane="coronal")

    def test_an_unfinished_cache_is_refused(self, tmp_path, cache):
        for folder in (tmp_path / "gone", tmp_path, cache / "cases"):
            with pytest.raises(
                ValueError,
                match=r"expected a finished cache, found no manifest\.json; run `boltzmed prepare`",
            ):
                CachedSlices(folder, part="train")

    def test_a_lost_or_damaged_case_is_told_when_it_is_read(self, tmp_path):
        cache = prepare(tmp_path, write_card(tmp_path), [write_pair(tmp_path, boxes((40, 0)))])
        source = CachedSlices(cache, part="train")
        file = cache / "cases" / "a.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
        for _ in range(2):
            with pytest.raises(InputError, match=r"^a.safetensors: expected a whole case file"):
                source.read(source.entries[0], [0])
            file.unlink(missing_ok=True)

    def test_more_cases_than_files_kept_open(self, tmp_path, monkeypatch):
        monkeypatch.setattr("boltzmed.data.slice_sources._OPEN_FILES", 2)
        cases = [
            write_pair(
                tmp_path,
                boxes((40, 0)),
                name=f"c{n}",
                image=np.full((20, 16, 4), n, np.int16) + np.eye(20, 16, dtype=np.int16)[..., None],
            )
            for n in range(5)
        ]
        source = CachedSlices(prepare(tmp_path, write_card(tmp_path), cases), part="train")
        for n in (0, 1, 2, 3, 4, 0, 4, 2):
            assert source.read(source.entries[n], [0])[0].min() == n

    @pytest.mark.parametrize(
        ("name", "window"),
        [
            ("organ", "abdomen"),
            ("null", "abdomen"),
            ("NA", "null"),
            ("1", "abdomen"),
            ("True", "abdomen"),
            ("organ", "5"),
            ("organ", "1e5"),
        ],
    )
    def test_names_that_look_like_something_else(self, tmp_path, name, window):
        card = write_card(
            tmp_path,
            targets={name: {"labels": [1], "window": window}},
            windows={window: [-150, 250]},
            default_window=window,
        )
        cache = prepare(tmp_path, card, [write_pair(tmp_path, boxes((100, 0)))])
        source = CachedSlices(cache, part="train", empty_slices=True)
        assert source.entries[0] == SliceEntry("a", 0, ABDOMEN, {name: 0.25})
        assert by_place(source.entries)["a", 1, ABDOMEN] == {name: 0.0}
        assert (
            PromptSliceDataset([source], image_size=24, augment_probability=0.0)[0]["target"][0]
            == name
        )

    @pytest.mark.parametrize(
        "window",
        [
            *((-150.0, 250.0), (-0.5, 17.25)),
            (0.0, 1234567.25),
        ],
    )
    def test_windows_of_numbers(self, tmp_path, window):
        card = write_card(tmp_path, targets={"zone": {"labels": [1], "window": list(window)}})
        for source in make_both(tmp_path, boxes((100, 0)), card=card):
            assert {entry.window for entry in source.entries} == {window}

    def test_percentiles_without_a_name(self, tmp_path):
        card = write_mr_card(tmp_path, window=None)
        for source in make_both(tmp_path, boxes((100, 0)), card=card):
            assert {entry.window for entry in source.entries} == {None}

    @pytest.mark.parametrize("workers", [0, 2])
    def test_workers_of_a_new_process_read_the_same(self, cache, workers):
        source = CachedSlices(cache, part="train")
        assert source.read(source.entries[0], [0])[0].any()  # a file is open when it is sent away
        dataset = PromptSliceDataset([source], image_size=24)
        options: dict[str, Any] = {"multiprocessing_context": "spawn"} if workers else {}
        sampler = KeyedBatches(dataset, samples_per_epoch=6, batch_size=2)
        options |= {"batch_size": None, "collate_fn": default_collate}
        batches = list(DataLoader(dataset, sampler=sampler, num_workers=workers, **options))
        expected = [dataset[key] for batch in sampler for key in batch]
        assert len(batches) == 3
        for k, item in enumerate(expected):
            batch = batches[k // 2]
            assert torch.equal(batch["image"][k % 2], item["image"]) and torch.equal(
                batch["label"][k % 2], item["label"]
            )

    def test_a_pickled_source_reads_on(self, cache):
        source = CachedSlices(cache, part="train")
        source.read(source.entries[0], [0])
        again = pickle.loads(pickle.dumps(source))
        assert again.entries == source.entries
        assert np.array_equal(
            again.read(again.entries[1], [0, 1])[0], source.read(source.entries[1], [0, 1])[0]
        )


class TestSeveralSources:
    def test_each_has_its_own_card(self, tmp_path):
        # `zone` is label 1 on one card and label 2 on the other.
        one = write_card(tmp_path / "one", "one", targets={"zone": {"labels": [1]}})
        other = write_card(
            tmp_path / "other",
            "other",
            targets={"zone": {"labels": [2], "window": "lung", "prompts": ["the other"]}},
        )
        labels = boxes((100, 50))
        folders = [
            prepare(folder.parent, folder, [write_pair(folder.parent, labels)])
            for folder in (one, other)
        ]
        sources = open_sources(caches=folders, card="phantom")
        assert [source.card.name for source in sources] == ["one", "other"]
        dataset = PromptSliceDataset(sources, image_size=20, augment_probability=0.0)
        items = [dataset[0], dataset[1]]
        assert [entry.window for entry in dataset.entries] == [ABDOMEN, LUNG]
        assert [item["label"].sum() for item in items] == [100, 50]
        assert not torch.equal(items[0]["image"], items[1]["image"])
        assert not torch.equal(items[0]["input_ids"], items[1]["input_ids"])

    def test_files_and_caches_may_be_mixed(self, tmp_path):
        files, cache = make_both(tmp_path, boxes((100, 0), (0, 50)))
        dataset = PromptSliceDataset([files, cache], image_size=20, augment_probability=0.0)
        assert len(dataset) == 4
        assert [dataset[k]["slice_index"] for k in range(4)] == [0, 1, 0, 1]
        assert torch.equal(dataset[0]["image"], dataset[2]["image"])


class TestOpenSources:
    def test_either_a_datalist_or_caches(self, tmp_path):
        for given, words in (
            ({}, "received neither"),
            ({"datalist": "a.json", "caches": ["b"]}, "received both"),
            ({"caches": []}, "received neither"),
        ):
            with pytest.raises(
                ValueError, match=f"^expected --datalist FILE.json .* or --caches DIR .*, {words}$"
            ):
                open_sources(card="phantom", **given)
        with pytest.raises(
            ValueError, match=r"^expected --validation_datalist FILE.json .*, received neither$"
        ):
            open_sources(card="phantom", part="validation")

    def test_a_datalist_with_its_card(self, tmp_path):
        case = write_pair(tmp_path, abdomen_and_lung())
        (tmp_path / "list.json").write_text(json.dumps({"training": [case]}))
        (source,) = open_sources(datalist=tmp_path / "list.json", card="phantom")
        assert isinstance(source, NiftiSlices) and len(source.entries) == 3

    def test_one_folder_or_several(self, tmp_path):
        case = {**write_pair(tmp_path, boxes((40, 0), (0, 0))), "split": "validation"}
        cache = prepare(tmp_path, write_card(tmp_path), [case])
        for caches in (cache, str(cache), [cache]):
            (source,) = open_sources(
                caches=caches, part="validation", card="phantom", empty_slices=True
            )
            assert source.card.name == "toy" and len(source.entries) == 4
        with pytest.raises(ValueError, match="expected slices of plane sagittal"):
            open_sources(caches=cache, part="validation", card="phantom", plane="sagittal")
