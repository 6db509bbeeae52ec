"""Targets of other cards that a card's images cannot show, by body region."""

from __future__ import annotations

from collections.abc import Iterable

from boltzmed.cards import DatasetCard, Target, Window, load_card

_REGIONS = {"lung": "chest", "colon": "abdomen", "liver": "abdomen", "pancreas": "abdomen"}
"""A card's word for a site → the region that it lies in; a word not listed is a region itself."""


def foreign_targets(
    card: DatasetCard, others: Iterable[DatasetCard]
) -> list[tuple[Target, Window | None]]:
    """Return targets of other cards that lie in body regions that a card's images do not reach.

    Args:
        card: whose images; they show the regions of its targets and those of ``shows``.
        others: whose targets.

    Returns:
        Each with the window that it is asked under, as inference does: a target of the card's
        modality has its own, anything else the modality's default. Of several whose first prompt is
        the same, the first.
    """
    shown_regions = {region_of(target.site) for target in card.targets.values()} | set(card.shows)
    generic = load_card(f"generic_{card.modality.lower()}")
    by_prompt: dict[str, tuple[Target, Window | None]] = {}
    for other in others:
        same_modality = other.modality == card.modality
        for target in other.targets.values():
            if region_of(target.site) in shown_regions or target.name in card.targets:
                continue
            window = generic.windows[generic.default_window]
            if same_modality:
                window = target.window
            by_prompt.setdefault(target.prompts[0], (target, window))
    return list(by_prompt.values())


def region_of(site: str) -> str:
    """Return the body region of a card's `site`: "lung" lies in the chest."""
    return _REGIONS.get(site, site)
