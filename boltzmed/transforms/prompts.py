"""MONAI transforms that find what the prompts of a study mean, or how its targets are asked for, by
dataset card.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from boltzmed.cards import DatasetCard, PromptTarget, load_card, look_up_prompt


class LookUpPromptsd(MapTransform):
    """Looks up the prompts of a dictionary: `keys` hold texts, `output_keys` get one `PromptTarget`
    per text.

    The modality comes from the dictionary's `modality_key` or from the MetaTensor under `image_key`
    (`meta["modality"]`), in this order; unknown is enough while cards list every prompt.

    Args:
        keys: entries that hold lists of prompts.
        cards: names or paths of cards, or cards; the first that lists a prompt wins.
        output_keys: one per key.
        modality_key: optional entry "CT" or "MR".
        image_key: optional entry that may know its modality.
        window: overrides every card's window, see `boltzmed.cards.resolve_window`.
        allow_missing_keys: entries may be absent.
    """

    def __init__(
        self,
        keys: KeysCollection = "prompts",
        cards: Sequence[str | DatasetCard] = ("generic_ct", "generic_mr"),
        output_keys: str | Sequence[Hashable] = "prompt_targets",
        *,
        modality_key: str = "modality",
        image_key: str = "image",
        window: str | Sequence[float] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.cards = tuple(
            card if isinstance(card, DatasetCard) else load_card(card) for card in cards
        )
        self.output_keys = (output_keys,) if isinstance(output_keys, str) else tuple(output_keys)
        if len(self.output_keys) != len(self.keys):
            raise ValueError(
                f"output_keys: expected one for each of {self.keys}, got {self.output_keys}"
            )
        self.modality_key = modality_key
        self.image_key = image_key
        self.window = window

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        meta = getattr(result.get(self.image_key), "meta", {})
        modality = result.get(self.modality_key) or meta.get("modality")
        for key, output_key in self.key_iterator(result, self.output_keys):
            result[output_key] = tuple(self._look_up(prompt, modality) for prompt in result[key])
        return result

    def _look_up(self, prompt: str, modality: str | None) -> PromptTarget:
        return look_up_prompt(prompt, self.cards, modality=modality, window=self.window)


class LookUpTargetsd(MapTransform):
    """Looks up targets of one card by name: `keys` hold names, `output_keys` get one `PromptTarget`
    per name.

    Each is asked for by its usual phrasing. A target that the card does not have is refused with
    those it has.

    Args:
        keys: entries that hold lists of target names.
        card: name or path of the card, or the card.
        output_keys: one per key.
        allow_missing_keys: entries may be absent.
    """

    def __init__(
        self,
        keys: KeysCollection = "targets",
        card: str | DatasetCard = "generic_ct",
        output_keys: str | Sequence[Hashable] = "prompt_targets",
        *,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.card = card if isinstance(card, DatasetCard) else load_card(card)
        self.output_keys = (output_keys,) if isinstance(output_keys, str) else tuple(output_keys)
        if len(self.output_keys) != len(self.keys):
            raise ValueError(
                f"output_keys: expected one for each of {self.keys}, got {self.output_keys}"
            )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key, output_key in self.key_iterator(result, self.output_keys):
            targets = [self.card.target(name) for name in result[key]]
            result[output_key] = tuple(look_up_prompt(t.prompts[0], [self.card]) for t in targets)
        return result
