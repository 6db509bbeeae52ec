"""Dataset cards: what a data set's targets are called, prompted by, windowed and split."""

from __future__ import annotations

from boltzmed.cards.card import (
    PROTOCOLS,
    DatasetCard,
    PromptTarget,
    Target,
    card_path,
    list_cards,
    load_card,
    look_up_prompt,
    normalise_prompt,
    resolve_window,
)
from boltzmed.cards.fields import Window

__all__ = [
    "PROTOCOLS",
    "DatasetCard",
    "PromptTarget",
    "Target",
    "Window",
    "card_path",
    "list_cards",
    "load_card",
    "look_up_prompt",
    "normalise_prompt",
    "resolve_window",
]
