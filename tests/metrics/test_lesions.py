"""Lesions: touching, found, split and merged ones, panoptic quality and FROC by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from boltzmed.metrics.lesions import (
    FROC_RATES,
    LesionMatch,
    detection_f1,
    find_sensitivities,
    match_lesions,
    number_lesions,
    read_rule,
)


def match(prediction, reference, rule: str = "overlap", connectivity: int = 26) -> LesionMatch:
    (numbers, voxels), (others, other_voxels) = (
        number_lesions(np.asarray(mask), connectivity) for mask in (prediction, reference)
    )
    return match_lesions(numbers, others, voxels, other_voxels, read_rule(rule))


def counts(found: LesionMatch) -> tuple[int, int, int]:
    return found.matched, found.missed, found.false


def line(text: str) -> np.ndarray:
    """A slice of one row: "##..#"."""
    return np.array([[character == "#" for character in text]])


@pytest.mark.parametrize(
    ("places", "by_connectivity"),
    [
        ([(0, 0, 0), (0, 0, 1)], {6: 1, 18: 1, 26: 1}),
        ([(0, 0, 0), (0, 1, 1)], {6: 2, 18: 1, 26: 1}),
        ([(0, 0, 0), (1, 1, 1)], {6: 2, 18: 2, 26: 1}),
        ([(0, 0, 0), (0, 0, 2)], {6: 2, 18: 2, 26: 2}),
    ],
    ids=["face", "edge", "corner", "apart"],
)
def test_what_touches_is_one(places, by_connectivity):
    mask = np.zeros((3, 3, 3), np.uint8)
    for place in places:
        mask[place] = 1
    for connectivity, count in by_connectivity.items():
        assert len(number_lesions(mask, connectivity)[1]) == count
    diagonal = np.eye(2)
    assert [len(number_lesions(diagonal, connectivity)[1]) for connectivity in (6, 18, 26)] == [
        2,
        1,
        1,
    ]


def test_the_largest_is_the_first():
    numbers, voxels = number_lesions(line("#.###.#.##"))
    assert numbers.tolist() == [[3, 0, 1, 1, 1, 0, 4, 0, 2, 2]] and voxels.tolist() == [3, 2, 1, 1]
    assert number_lesions(np.zeros((2, 3, 4)))[1].tolist() == []


@pytest.mark.parametrize(
    ("prediction", "reference", "overlap", "iou"),
    [
        ("##..##", "##..##", (2, 0, 0), (2, 0, 0)),
        ("######", "##..##", (2, 0, 0), (1, 1, 0)),  # merged: IoU 1/3 each, one partner
        ("##..##", "######", (1, 0, 0), (1, 0, 1)),  # split: the second piece is false one to one
        ("##....", "....##", (0, 1, 1), (0, 1, 1)),
        ("#.....", "######", (1, 0, 0), (0, 1, 1)),  # IoU 1/6
        ("#.#.#.", "......", (0, 0, 3), (0, 0, 3)),
        ("......", "#.#...", (0, 2, 0), (0, 2, 0)),
        ("......", "......", (0, 0, 0), (0, 0, 0)),
        ("#.####", "#.#...", (2, 0, 0), (2, 0, 0)),  # IoU 1 and exactly 1/4
    ],
    ids=["same", "merged", "split", "apart", "small", "false", "missed", "empty", "limit"],
)
def test_who_is_found(prediction, reference, overlap, iou):
    assert counts(match(line(prediction), line(reference))) == overlap
    assert counts(match(line(prediction), line(reference), "iou:0.25")) == iou
    matched, missed, false = overlap
    expected = 2 * matched / (2 * matched + missed + false) if any(overlap) else None
    assert match(line(prediction), line(reference)).f1 == expected == detection_f1(*overlap)


def test_lesions_that_touch_in_the_prediction_alone():
    # Two of the reference, one row apart; the prediction's bridge makes one of them.
    reference = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]])
    bridged = reference.copy()
    bridged[1, 1] = 1
    assert counts(match(bridged, reference)) == (2, 0, 0)
    assert counts(match(bridged, reference, connectivity=6)) == (2, 0, 0)
    assert match(bridged, reference).found_by == ((0,), (0,))
    # By faces alone the lower one stays apart and is found exactly.
    assert match(bridged, reference, connectivity=6).panoptic_quality == pytest.approx(
        (2 / 3 + 1) / 2
    )
    assert match(bridged, reference).panoptic_quality == 0


def test_panoptic_quality_by_hand():
    # IoU 1, 2/3 and 1/2, which is not above 1/2; one more false and one more missed.
    prediction, reference = line("##..##..#...#..."), line("##..###.##....##")
    found = match(prediction, reference)
    assert found.panoptic_quality == pytest.approx((1 + 2 / 3) / (2 + 4 / 2))
    assert found.reference_iou_R.tolist() == pytest.approx([2 / 3, 1, 1 / 2, 0])
    assert found.prediction_iou_P.tolist() == pytest.approx([1, 2 / 3, 1 / 2, 0])
    assert (
        match(line(".."), line("..")).panoptic_quality is None
        and match(line(".."), line("..")).f1 is None
    )
    assert match(line("#."), line("..")).panoptic_quality == 0


def test_one_to_one_takes_the_largest_sum():
    # A (4 pixels) and B (8) of the reference; P overlaps A by 4 and B by 4 of its 8 pixels: IoU 1/2
    # and 1/3. Q is the other half of B: 1/2. Greedily or not, A–P and B–Q win over B–P alone.
    reference = np.zeros((4, 12), int)
    reference[0, :4] = reference[2, :8] = 1
    prediction = np.zeros((4, 12), int)
    prediction[0, :4] = prediction[1, 0] = prediction[2, :3] = prediction[2, 4:8] = 1
    found = match(prediction, reference, "iou:0.1")
    assert found.found_by == ((1,), (0,)) and counts(found) == (2, 0, 0)
    assert found.reference_iou_R.tolist() == pytest.approx([4 / 8, 4 / 8])


def naive_counts(
    prediction: np.ndarray, reference: np.ndarray, least: float
) -> tuple[tuple[int, ...], float, float]:
    """By sets of voxels and all permutations."""

    def lesions(mask):
        left, parts = {tuple(place) for place in np.argwhere(mask)}, []
        while left:
            part, waiting = set(), [left.pop()]
            while waiting:
                place = waiting.pop()
                part.add(place)
                near = {
                    other
                    for other in left
                    if max(abs(a - b) for a, b in zip(place, other, strict=True)) == 1
                }
                left -= near
                waiting += near
            parts.append(part)
        return parts

    mine, theirs = lesions(prediction), lesions(reference)
    ious = np.array([[len(r & p) / len(r | p) for p in mine] for r in theirs]).reshape(
        len(theirs), len(mine)
    )
    found = int((ious > 0).any(1).sum()) if ious.size else 0
    false = int((~(ious > 0).any(0)).sum()) if ious.size else len(mine)
    gains = np.where(ious >= least, ious, 0)
    short, long = sorted(gains.shape)
    gains = gains if gains.shape[0] == short else gains.T
    best = max(
        (
            sum(gains[i, j] for i, j in enumerate(p))
            for p in itertools.permutations(range(long), short)
        ),
        default=0,
    )
    good = ious[ious > 0.5]
    quality = good.sum() / ((len(mine) + len(theirs)) / 2) if mine or theirs else -1
    return (found, len(theirs) - found, false), best, quality


def test_random_masks_agree_with_a_naive_count():
    generator = np.random.default_rng(0)
    several = 0
    for _ in range(60):
        shape = generator.integers(2, 6, 3)
        reference = generator.random(shape) < 0.12
        prediction = np.where(
            generator.random(shape) < 0.8, reference, generator.random(shape) < 0.15
        )
        expected, best, quality = naive_counts(prediction, reference, 0.1)
        found, one_to_one = match(prediction, reference), match(prediction, reference, "iou:0.1")
        assert counts(found) == expected
        assert (-1 if found.panoptic_quality is None else found.panoptic_quality) == pytest.approx(
            quality
        )
        assert one_to_one.reference_iou_R[one_to_one.reference_matched_R].sum() == pytest.approx(
            best
        )
        assert one_to_one.matched == int(one_to_one.prediction_matched_P.sum())
        several += sum(expected) > 3
    assert several > 10


@pytest.mark.parametrize(
    "text", ["iou", "iou:", "iou:0", "iou:1.5", "iou:nan", "dice:0.5", "overlap:0.5", ""]
)
def test_other_rules_are_refused(text):
    with pytest.raises(ValueError, match="match: expected overlap, or iou:T"):
        read_rule(text)
    assert read_rule("iou:0.5") == 0.5 and read_rule("overlap") is None


def test_other_connectivities_are_refused():
    with pytest.raises(ValueError, match="connectivity: expected one of 6, 18, 26, received 8"):
        number_lesions(np.ones((2, 2)), 8)


def test_froc_by_hand():
    # 4 lesions in 4 scans, three of them found; false ones at 0.8, 0.5 and 0.5.
    found = find_sensitivities([0.9, 0.7, 0.2], 1, [0.8, 0.5, 0.5], 4)
    # 0 false: 0.9 alone. 1/4 a scan: down to 0.7. 3/4: all. At 1/2 the two at 0.5, which come
    # together, don't fit.
    assert dict(zip(FROC_RATES, found, strict=True)) == {
        0.125: 0.25,
        0.25: 0.5,
        0.5: 0.5,
        1: 0.75,
        2: 0.75,
        4: 0.75,
        8: 0.75,
    }
    assert find_sensitivities([], 3, [0.5], 1) == (0,) * 7
    assert (
        find_sensitivities([0.5], 0, [0.5] * 9, 1) == (0,) * 7
    )  # never without more than 8 false ones
    assert find_sensitivities([0.5], 0, [], 1) == (1,) * 7
    assert find_sensitivities([], 0, [0.5], 1) is None
