"""Batches: data sets by fraction, images of one size together, the same whoever draws them; input
sizes and prompts out of the images' region.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from boltzmed.cards import load_card
from boltzmed.data.batches import Key, KeyedBatches
from boltzmed.data.slice_sources import SliceEntry
from boltzmed.data.slices import PromptSliceDataset

SIDE = 8


class MadeSlices:
    """Slices that need no file: all label 1, HU 0; the first eight show a small second target."""

    def __init__(self, card: str, count: int, targets: tuple[str, ...]) -> None:
        self.card = load_card(card)
        window = self.card.targets[targets[0]].window
        rare = [
            {targets[0]: 0.2, **({targets[1]: 0.0005} if k < 8 and len(targets) > 1 else {})}
            for k in range(count)
        ]
        self.entries = [SliceEntry("case", k, window, areas) for k, areas in enumerate(rare)]

    def read(self, entry: SliceEntry, indices: Any) -> Any:
        images, labels = (
            np.zeros((len(indices), SIDE, SIDE), np.int16),
            np.ones((SIDE, SIDE), np.uint8),
        )
        return images, labels, entry.window or (0.0, 1.0)

    def count(self, case: str) -> int:
        return len(self.entries)

    def label_values(self, case: str, target: str) -> tuple[int, ...]:
        return (1,)


def two_cards(**options: Any) -> PromptSliceDataset:
    """Forty slices of the phantom and sixty hippocampi, which meet the network at two sizes."""
    sources = [
        MadeSlices("phantom", 40, ("liver", "spleen")),
        MadeSlices("msd_hippocampus", 60, ("anterior hippocampus",)),
    ]
    sizes = {"msd_hippocampus": [{"image_size": 32}, {"image_size": 32, "min_side": 32}]}
    return PromptSliceDataset(
        sources, image_size=64, prompts_per_image=2, input_sizes=sizes, **options
    )


def draw(dataset: PromptSliceDataset, epoch: int = 0, **options: Any) -> list[list[Key]]:
    sampler = KeyedBatches(dataset, **{"samples_per_epoch": 40, "batch_size": 4, **options})
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return batches


def test_every_epoch_has_the_requested_fractions_of_cards_and_input_sizes():
    dataset = two_cards()
    for epoch in range(3):
        batches = draw(dataset, epoch, card_fractions={"phantom": 1, "msd_hippocampus": 3})
        counts = Counter((dataset.card_of(k), turn) for batch in batches for _, k, turn in batch)
        assert counts == {
            ("phantom", 0): 10,
            ("msd_hippocampus", 0): 15,
            ("msd_hippocampus", 1): 15,
        }
        assert {e for batch in batches for e, _, _ in batch} == {epoch}
    by_size = Counter(
        dataset.card_of(k) for batch in draw(dataset, samples_per_epoch=50) for _, k, _ in batch
    )
    assert by_size == {"phantom": 20, "msd_hippocampus": 30}


def test_a_batch_is_of_one_card_and_input_size_and_small_images_come_in_larger_batches():
    dataset = two_cards()
    batches = draw(dataset, samples_per_epoch=100)
    for batch in batches:
        assert len({(dataset.card_of(k), turn) for _, k, turn in batch}) == 1
    sizes = {
        name: max(len(b) for b in batches if dataset.card_of(b[0][1]) == name)
        for name in dataset.input_sizes
    }
    assert sizes == {"phantom": 4, "msd_hippocampus": 16}


def test_entries_come_once_an_input_size_and_batches_are_shuffled():
    dataset = two_cards()
    batches = draw(dataset, samples_per_epoch=1000)
    phantom = [k for batch in batches for _, k, _ in batch if dataset.card_of(k) == "phantom"]
    assert sorted(phantom) == list(range(40))
    cards = [dataset.card_of(batch[0][1]) for batch in batches]
    assert cards not in (sorted(cards), sorted(cards, reverse=True))


def test_a_card_of_few_entries_gives_all_of_them_at_each_input_size(caplog, monkeypatch):
    sources = [
        MadeSlices("phantom", 40, ("liver",)),
        MadeSlices("msd_hippocampus", 10, ("hippocampus",)),
    ]
    sizes = {"msd_hippocampus": [{"image_size": 32}, {"image_size": 32, "min_side": 32}]}
    dataset = PromptSliceDataset(sources, image_size=64, input_sizes=sizes)
    fractions = {"phantom": 0.5, "msd_hippocampus": 0.5}
    for asked, each in ((10, 2), (26, 6), (40, 10), (60, 10)):
        drawn = [
            (k, turn)
            for batch in draw(dataset, samples_per_epoch=asked, card_fractions=fractions)
            for _, k, turn in batch
        ]
        for size in range(2):
            entries = [k for k, turn in drawn if k >= 40 and turn == size]
            assert len(entries) == len(set(entries)) == each
    with caplog.at_level("INFO", "boltzmed"):
        draw(dataset, samples_per_epoch=60, card_fractions=fractions)
    assert caplog.messages == [
        "msd_hippocampus: 20 of the 30 samples asked for: it has no more slices"
    ]
    caplog.clear()
    for name, value in (("is_initialized", True), ("get_world_size", 3), ("get_rank", 0)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    with caplog.at_level("INFO", "boltzmed"):
        batches = draw(dataset, samples_per_epoch=60, card_fractions=fractions, batch_size=3)
    assert sum(k >= 40 for batch in batches for _, k, _ in batch) == 18 // 3
    assert caplog.messages == [
        "msd_hippocampus: 18 of the 30 samples asked for: it has no more slices"
    ]


def test_seed_and_epoch_decide_alone():
    dataset = two_cards()
    first = draw(dataset, epoch=1, seed=5)
    np.random.seed(9)  # noqa: NPY002  (global state must not matter)
    torch.manual_seed(9)
    assert draw(dataset, epoch=1, seed=5) == first
    assert draw(dataset, epoch=2, seed=5) != first and draw(dataset, epoch=1, seed=6) != first
    fixed = [draw(dataset, epoch, fixed=True) for epoch in range(3)]
    assert fixed[0] == fixed[1] == fixed[2]


def test_weight_raises_the_share_of_small_objects():
    dataset = PromptSliceDataset([MadeSlices("phantom", 40, ("liver", "spleen"))], image_size=64)

    def share(weight: float) -> float:
        drawn = [
            draw(dataset, epoch, samples_per_epoch=4, small_weight=weight) for epoch in range(200)
        ]
        return float(
            np.mean([k < 8 for batches in drawn for batch in batches for _, k, _ in batch])
        )

    assert share(1.0) == pytest.approx(0.2, abs=0.05)
    assert share(40.0) > 0.8
    for weight in (0, -1.0, float("nan")):
        with pytest.raises(
            ValueError, match=f"small_weight: expected a number above 0, received {weight}"
        ):
            share(weight)


def test_all_is_every_entry_once_at_each_input_size():
    dataset = two_cards()
    for epoch in range(2):
        batches = draw(dataset, epoch, samples_per_epoch="all", small_weight=100.0)
        drawn = [(k, turn) for batch in batches for _, k, turn in batch]
        assert sorted(drawn) == sorted(
            [(k, 0) for k in range(100)] + [(k, 1) for k in range(40, 100)]
        )
    # Weights have nothing to say: what is small does not come first.
    firsts = [draw(dataset, e, samples_per_epoch="all", small_weight=100.0) for e in range(20)]
    small = [np.mean([k for _, k, _ in b]) for batches in firsts for b in batches if b[0][1] < 40]
    assert np.std(small) < 8


def test_a_fraction_beyond_a_cards_slices_is_told(caplog):
    dataset = two_cards()
    with caplog.at_level("INFO", "boltzmed"):
        draw(dataset, card_fractions={"phantom": 9, "msd_hippocampus": 1}, samples_per_epoch=100)
    assert caplog.messages == ["phantom: 40 of the 90 samples asked for: it has no more slices"]
    caplog.clear()
    draw(dataset, samples_per_epoch="all")
    assert not caplog.messages


@pytest.mark.parametrize(("ranks", "enough", "too_few"), [(1, 20, 10), (8, 160, 150)])
def test_a_fraction_that_leaves_an_input_size_without_samples_is_refused(
    monkeypatch, ranks, enough, too_few
):
    for name, value in (("is_initialized", True), ("get_world_size", ranks), ("get_rank", 0)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    dataset = two_cards()
    fractions = {"phantom": 0.9, "msd_hippocampus": 0.1}  # of two input sizes
    with pytest.raises(
        ValueError,
        match=f"at least {2 * ranks} of msd_hippocampus, .* it has 60 slices and a fraction of 0.1",
    ):
        draw(dataset, samples_per_epoch=too_few, batch_size=8, card_fractions=fractions)
    turns = {
        turn
        for batch in draw(dataset, samples_per_epoch=enough, batch_size=8, card_fractions=fractions)
        for _, _, turn in batch
    }
    assert turns == {0, 1}
    without = draw(
        dataset,
        samples_per_epoch=too_few,
        batch_size=8,
        card_fractions={"phantom": 1, "msd_hippocampus": 0},
    )
    assert {dataset.card_of(k) for batch in without for _, k, _ in batch} == {"phantom"}


@pytest.mark.parametrize("samples", [40, 41])
def test_ranks_do_together_what_one_process_does_alone(monkeypatch, samples):
    dataset = two_cards()
    alone = draw(dataset, epoch=3, samples_per_epoch=40)
    parts = []
    for rank in range(2):
        for name, value in (("is_initialized", True), ("get_world_size", 2), ("get_rank", rank)):
            monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
        parts.append(draw(dataset, epoch=3, samples_per_epoch=samples))
    joined = [sorted(one + other) for one, other in zip(*parts, strict=True)]
    assert [len(part) for part in parts[0]] == [len(part) for part in parts[1]]
    assert joined == [sorted(batch) for batch in alone]
    with pytest.raises(
        ValueError, match="batch_size: expected a multiple of the 2 processes, received 3"
    ):
        draw(dataset, batch_size=3)


def test_a_loader_collates_batches_of_each_size():
    dataset = two_cards(augment_probability=1.0)
    sampler = KeyedBatches(dataset, samples_per_epoch=40, batch_size=4)
    shapes = set()
    for batch in DataLoader(
        dataset, sampler=sampler, batch_size=None, collate_fn=default_collate, num_workers=0
    ):
        count, _, side, _ = batch["image"].shape
        assert batch["label"].shape == (count, 2, side, side) and batch["prompt_valid"].shape == (
            count,
            2,
        )
        shapes.add(side)
    assert shapes == {32, 64}


def test_wrong_settings_are_told():
    dataset = two_cards()
    with pytest.raises(
        ValueError,
        match="card_fractions: expected some of phantom, msd_hippocampus, received liver",
    ):
        draw(dataset, card_fractions={"liver": 1})
    for samples in (0, -1, "most", None):
        with pytest.raises(
            ValueError, match=f"samples: expected a number from 1, or 'all', received {samples!r}"
        ):
            draw(dataset, samples_per_epoch=samples)
    for fractions in (
        0.5,
        "phantom",
        {"phantom": -1.0},
        {"phantom": "1"},
        {"phantom": float("nan")},
        {"phantom": 0},
    ):
        with pytest.raises(
            ValueError,
            match="card_fractions: expected a number from 0 for each card, one of them above 0",
        ):
            draw(dataset, card_fractions=fractions)
    with pytest.raises(
        ValueError,
        match="samples_per_epoch: expected a number beside card_fractions, received 'all'",
    ):
        draw(dataset, samples_per_epoch="all", card_fractions={"phantom": 1})
    with pytest.raises(ValueError, match="prompts_per_image: expected 1 or more, received 0"):
        PromptSliceDataset(
            [MadeSlices("phantom", 4, ("liver",))], image_size=64, prompts_per_image=0
        )


class TestInputSizes:
    def test_a_crop_is_magnified_or_keeps_its_scale(self):
        dataset = two_cards(augment_probability=0.0, negative_probability=0.0)
        first = next(k for k in range(len(dataset)) if dataset.card_of(k) == "msd_hippocampus")
        magnified, true_scale = dataset[0, first, 0], dataset[0, first, 1]
        assert magnified["label"][0].sum() == 32 * 32
        expected = torch.zeros(32, 32)
        expected[12:20, 12:20] = 1
        assert torch.equal(true_scale["label"][0], expected)

    def test_cards_without_an_input_size_fill_the_image(self):
        assert two_cards()[0]["image"].shape == (3, 64, 64)


class TestOutOfRegionPrompts:
    def test_they_are_of_body_regions_that_the_card_does_not_have(self):
        dataset = two_cards(out_of_region_probability=1.0)
        asked: dict[str, set[str]] = {"phantom": set(), "msd_hippocampus": set()}
        for epoch in range(40):
            for k in (0, 40):
                item = dataset[epoch, k]
                assert not item["label"].any() and item["prompt_valid"].any()
                asked[dataset.card_of(k)] |= {name for name in item["target"] if name}
        assert asked["phantom"] == set(load_card("msd_hippocampus").targets)
        assert asked["msd_hippocampus"] == set(load_card("phantom").targets)

    def test_their_fraction_is_as_requested_and_a_single_card_has_none(self):
        dataset = two_cards(out_of_region_probability=0.25)
        elsewhere = ["hippocampus" in dataset[epoch, 0]["target"][0] for epoch in range(400)]
        assert 0.18 < np.mean(elsewhere) < 0.32
        alone = PromptSliceDataset(
            [MadeSlices("phantom", 4, ("liver",))], image_size=64, out_of_region_probability=1.0
        )
        assert alone[0]["target"][0] == "liver"


def test_without_quarter_turns_up_stays_up():
    class Upper(MadeSlices):
        def read(self, entry: SliceEntry, indices: Any) -> Any:
            images, labels, window = super().read(entry, indices)
            labels = labels.copy()
            labels[SIDE // 2 :] = 0
            return images, labels, window

    source = Upper("phantom", 1, ("liver",))
    for turns, expected in ((False, True), (True, False), (["phantom"], False), ([], True)):
        dataset = PromptSliceDataset(
            [source], image_size=64, augment_probability=1.0, quarter_turns=turns
        )
        rows = [dataset[epoch, 0]["label"][0].nonzero()[:, 0].float().mean() for epoch in range(30)]
        assert all(row < 32 for row in rows) == expected
