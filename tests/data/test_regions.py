"""Targets that a card's images cannot show: they lie in other body regions."""

from __future__ import annotations

import dataclasses

from boltzmed.cards import load_card
from boltzmed.data.regions import foreign_targets


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
