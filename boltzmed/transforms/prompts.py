"""MONAI transform that finds what the prompts of a study mean, by dataset card."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from boltzmed.cards import DatasetCard, PromptTarget, load_card, look_up_prompt


class LookUpPromptsd(MapTransform):
    """Look up prompts: texts under a key become ``PromptTarget``s, with target and window each.

    The modality is the image's (``meta["modality"]``); unknown is enough while cards list every
    prompt, and is then known from them: the image's meta says so afterwards.

    Args:
        keys: of the lists of texts.
        cards: names or paths of cards, or cards; the first that lists a prompt wins.
        window: overrides every card's window, see ``boltzmed.cards.resolve_window``.
        image_key: of the MetaTensor.
        allow_missing_keys: a list may be absent.

    Raises:
        ValueError: there is no such card.
    """

    def __init__(
        self,
        keys: KeysCollection = "prompts",
        cards: str | Sequence[str | DatasetCard] = ("generic_ct", "generic_mr"),
        *,
        window: str | Sequence[float] | None = None,
        image_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        names = [cards] if isinstance(cards, str) else list(cards)
        self.cards = [card if isinstance(card, DatasetCard) else load_card(card) for card in names]
        self.window = window
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with what the prompts mean in place of their texts.

        Raises:
            ValueError: a prompt of unknown modality, or prompts of two modalities.
        """
        item = dict(data)
        meta = item[self.image_key].meta
        for key in self.key_iterator(item):
            targets = [
                look_up_prompt(text, self.cards, modality=meta["modality"], window=self.window)
                for text in item[key]
            ]
            _check_modality(targets, str(meta.get("case", self.image_key)))
            meta["modality"] = targets[0].modality
            item[key] = targets
        return item


def _check_modality(targets: Sequence[PromptTarget], case: str) -> None:
    first = targets[0]
    for target in targets:
        if target.modality != first.modality:
            raise ValueError(
                f"{case}: expected prompts of one modality, received {first.prompt!r} of"
                f" {first.modality} and {target.prompt!r} of {target.modality}; pass --modality CT"
                " or MR"
            )
