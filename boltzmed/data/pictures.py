"""A slice cache's cases as pictures of a report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from boltzmed.cards import DatasetCard
from boltzmed.data.cache import SliceCache
from boltzmed.errors import InputError
from boltzmed.studies import ReferencedImage


class CachedImages:
    """The images and references of a cache, see ``boltzmed.reports.pictures.PreparedImages``.

    Args:
        cache: opened.
    """

    def __init__(self, cache: SliceCache) -> None:
        self._cache = cache

    @classmethod
    def open(cls, folder: str | Path) -> CachedImages:
        """Open a cache; InputError if it is unfinished or damaged."""
        return cls(SliceCache.open(folder))

    @property
    def card(self) -> DatasetCard:
        """The cache's own copy of the card."""
        return self._cache.card

    @property
    def plane(self) -> str:
        """How slices were cut."""
        return self._cache.plane

    def read_image(self, case: str, target: str) -> ReferencedImage:
        """Read a case's image and one target's reference.

        Raises:
            InputError: the cache has no such case or target, or the case's file is damaged.
        """
        if case not in self._cache.cases:
            raise InputError(
                f"{case}: expected a case of the cache {self._cache.folder.name}, found none of"
                " that name; pass the cache that was scored"
            )
        file = self._cache.case_file(case)
        facts = file.facts
        if target not in facts.targets:
            raise InputError(
                f"{case}: expected a target of the cache's card, received {target}; pass the cache"
                " that was scored"
            )
        volume = file.volume()
        labels_KHW = np.moveaxis(volume.labels, -1, 0)
        # Pictures have no spacing, and went through their window already.
        affine_ras = np.array(facts.affine_ras) if facts.spacing_mm else None
        return ReferencedImage(
            image=np.moveaxis(volume.image[0].numpy(), -1, 0),
            reference=np.isin(labels_KHW, facts.targets[target]),
            affine_ras=affine_ras,
            window=facts.window,
        )
