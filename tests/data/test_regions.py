"""Label maps that do not belong to their image, hold no labels, or have a card that does not know
them.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from boltzmed.cards import load_card
from boltzmed.data.regions import as_labels, check_grid, foreign_targets, labelled_targets
from boltzmed.errors import InputError

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])


def test_another_voxel_order_is_another_grid():
    check_grid("one", (4, 5, 6), AFFINE, (4, 5, 6), AFFINE + 1e-4)
    mirrored = AFFINE @ np.diag([-1.0, 1.0, 1.0, 1.0])
    mirrored[0, 3] = 3 * 2.0
    for shape, affine in (((4, 5, 6), mirrored), ((4, 5, 7), AFFINE), ((4, 5, 6), AFFINE + 0.01)):
        with pytest.raises(InputError, match="case one: expected image and label on one grid"):
            check_grid("one", (4, 5, 6), AFFINE, shape, affine)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_whole_numbers_are_labels_in_any_type(dtype):
    values = np.array([[0, 3], [255, 1]], dtype)
    labels = as_labels("one", values)
    assert labels.dtype == np.uint8 and np.array_equal(labels, values)


@pytest.mark.parametrize("value", [-1.0, 0.5, 256.0, np.nan, np.inf])
def test_other_values_are_named(value):
    with pytest.raises(
        InputError, match=f"case one: expected label values that are whole .*, received {value:g};"
    ):
        as_labels("one", np.array([0.0, value, 1.0]))


def test_a_card_without_labels_scores_nothing():
    assert [
        target.name for target in labelled_targets(load_card("phantom"), ["spleen", "liver"])
    ] == [
        "spleen",
        "liver",
    ]
    assert len(labelled_targets(load_card("phantom"))) == 10
    with pytest.raises(
        ValueError, match="card generic_ct: expected a card that maps label values to targets"
    ):
        labelled_targets(load_card("generic_ct"))
    with pytest.raises(ValueError, match="no target 'gills'"):
        labelled_targets(load_card("phantom"), ["gills"])


class TestForeignTargets:
    @staticmethod
    def ask(name: str, *others: str) -> dict[str, object]:
        found = foreign_targets(load_card(name), [load_card(other) for other in others])
        return {target.name: window for target, window in found}

    def test_a_lung_lies_in_the_chest(self):
        """A crop of a lung shows lung and nodule, whatever region another card files them under; no
        liver, though.
        """
        lung, phantom = dataclasses.replace(load_card("lidc_idri"), shows=()), load_card("phantom")
        crops = {target.name for target, _ in foreign_targets(lung, [phantom])}
        assert crops == {"liver", "spleen", "right kidney", "left kidney"}
        assert self.ask("phantom", "lidc_idri", "phantom") == {}

    def test_what_images_show_besides_is_not_absent(self):
        """A chest CT shows the dome of the liver; an abdominal one the lungs' bases, and often the
        bladder.
        """
        assert self.ask("lidc_idri", "phantom", "amos22_ct") == {}
        assert self.ask("amos22_ct", "generic_ct") == {}
        assert set(self.ask("amos22_mr", "msd_hippocampus")) == set(
            load_card("msd_hippocampus").targets
        )

    def test_a_target_of_the_same_name_is_not_absent(self):
        card = dataclasses.replace(load_card("amos22_ct"), shows=())
        asked = {target.name for target, _ in foreign_targets(card, [load_card("generic_ct")])}
        assert asked and asked.isdisjoint(card.targets)

    def test_each_is_asked_under_the_window_that_inference_would_take(self):
        hippocampus = {"hippocampus", "anterior hippocampus", "posterior hippocampus"}
        assert self.ask("lidc_idri", "msd_hippocampus") == dict.fromkeys(
            hippocampus, (-150.0, 250.0)
        )
        asked = self.ask("msd_hippocampus", "phantom", "lidc_idri")
        assert set(asked) == set(load_card("phantom").targets) and set(asked.values()) == {None}
        card = dataclasses.replace(load_card("msd_pancreas"), shows=())
        windows = {
            target.name: window for target, window in foreign_targets(card, [load_card("phantom")])
        }
        assert windows["lung nodule"] == (-1000.0, 1000.0)

    def test_what_two_cards_ask_alike_is_asked_once(self):
        twice = foreign_targets(
            load_card("msd_hippocampus"), [load_card("phantom"), load_card("phantom")]
        )
        assert len(twice) == 10
