"""Which slices make up an epoch, in which batches: drawn by weight, data sets by share, images of
one size together.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data.distributed import DistributedSampler

from boltzmed.data.slices import PromptSliceDataset, keyed_generator

logger = logging.getLogger(__name__)

Key = tuple[int, int, int]
"""(epoch, entry, number of its card's input size)."""


_LARGEST_BATCH = 4
"""Small images come in batches of at most so many times ``batch_size``."""


@dataclass(frozen=True)
class _Group:
    """Entries of one card, seen at one of its input sizes.

    Attributes:
        entries: their numbers in the data set.
        probabilities: of each to be drawn.
        samples: how many are drawn for an epoch.
        batch_size: samples of a batch.
        turn: the input size's number.
    """

    entries: np.ndarray
    probabilities: np.ndarray
    samples: int
    batch_size: int
    turn: int


class KeyedBatches(DistributedSampler[Any]):
    """Yield lists of keys, a batch each, for a ``DataLoader`` with ``batch_size=None``.

    Every epoch has the same number of samples of every card and input size, and so of batches;
    within an input size entries come without repetition, drawn by weight: a card of fewer entries
    than its fraction asks for gives all of them at each of its input sizes, and the log tells. It
    is a ``DistributedSampler`` so that the trainer tells it the epoch. With several processes each
    takes its part of every batch, so that N processes do together what one does alone, wherever the
    numbers of samples of each card and input size are multiples of N; what is beyond such a
    multiple is left out.

    Args:
        dataset: whose entries are drawn.
        samples_per_epoch: of all processes together; ``"all"`` is every entry once, at each of its
            card's input sizes.
        batch_size: samples of all processes together, of images of the data set's ``image_size``.
            Smaller images come in larger batches, of the same number of pixels, up to four times as
            large.
        card_fractions: card → fraction of the samples, 0 or more; by default as many as it has
            entries. Not with ``"all"``.
        small_weight: see ``PromptSliceDataset.weights``; they act within a card.
        balance: see ``PromptSliceDataset.weights``; they act within a card.
        seed: of the draw.
        fixed: every epoch is the first one: what validation compares has to be the same.

    Raises:
        ValueError: fractions that are none or of a card that is not there, or settings that leave a
            card with a fraction, one of its input sizes, or all without a sample.
    """

    def __init__(
        self,
        dataset: PromptSliceDataset,
        *,
        samples_per_epoch: int | str,
        batch_size: int,
        card_fractions: Mapping[str, float] | None = None,
        small_weight: float = 1.0,
        balance: Sequence[str] = (),
        seed: int = 0,
        fixed: bool = False,
    ) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        ranks = torch.distributed.get_world_size() if distributed else 1
        rank = torch.distributed.get_rank() if distributed else 0
        super().__init__(dataset, num_replicas=ranks, rank=rank)
        if not isinstance(batch_size, int):
            raise ValueError(f"batch_size: expected a whole number, received {batch_size!r}")
        if batch_size < ranks or batch_size % ranks:
            raise ValueError(
                f"batch_size: expected a multiple of the {ranks} processes, received {batch_size}"
            )
        self.seed = seed
        self.fixed = fixed
        self._batch_size = batch_size
        cards = np.array([dataset.card_of(index) for index in range(len(dataset))])
        weights = dataset.weights(small_weight, balance)
        names = list(dict.fromkeys(cards.tolist()))
        fractions = _read_fractions(card_fractions, names)
        _check_samples(samples_per_epoch, fractions)
        if not fractions:
            fractions = {name: float((cards == name).mean()) for name in names}
        total = sum(fractions.values())
        self._groups: list[_Group] = []
        for name, fraction in fractions.items():
            entries = np.flatnonzero(cards == name)
            sizes = dataset.input_sizes[name]
            if samples_per_epoch == "all":
                samples = len(entries)
                chances = np.ones(len(entries))  # who draws all of them has nothing to weigh
            else:
                requested = round(int(samples_per_epoch) * fraction / total)
                samples = self._limit_samples(name, len(entries), len(sizes), requested)
                chances = weights[entries]
            samples = samples // ranks * ranks
            if fraction and not samples:
                raise ValueError(
                    f"samples: expected at least {ranks * len(sizes)} of {name}, for each process"
                    f" and input size one, received fewer: it has {len(entries)} slices and a"
                    f" fraction of {fraction / total:.3g}; raise samples_per_epoch, or"
                    " validation_slices, or leave the card out (--card_fractions)"
                )
            for turn, size in enumerate(sizes if samples else ()):
                batch = self._size_batch(dataset.image_size // size.image_size)
                self._groups.append(
                    _Group(entries, chances / chances.sum(), samples, min(batch, samples), turn)
                )

    def _limit_samples(self, name: str, entries: int, sizes: int, requested: int) -> int:
        """Return how many samples each input size of a card gets; the log tells of fewer."""
        if entries * sizes < requested and self.rank == 0:
            ranks = self.num_replicas
            most = entries // ranks * ranks * sizes
            logger.info(
                "%s: %d of the %d samples asked for: it has no more slices", name, most, requested
            )
        return min(requested // sizes, entries)

    def _size_batch(self, times_smaller: int) -> int:
        """Return how many images of a batch, that are so many times smaller at each side."""
        size = self._batch_size * max(1, times_smaller**2)
        ranks = self.num_replicas
        return min(size, _LARGEST_BATCH * self._batch_size) // ranks * ranks

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return sum(-(-group.samples // group.batch_size) for group in self._groups)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = 0 if self.fixed else self.epoch
        generator = keyed_generator(self.seed, epoch, 0, "order")
        batches: list[list[Key]] = []
        for group in self._groups:
            drawn = generator.choice(
                group.entries, group.samples, replace=False, p=group.probabilities
            )
            keys = [(epoch, entry, group.turn) for entry in drawn.tolist()]
            for first in range(0, group.samples, group.batch_size):
                batches.append(keys[first : first + group.batch_size])
        order = range(len(batches)) if self.fixed else generator.permutation(len(batches))
        return iter([batches[k][self.rank :: self.num_replicas] for k in order])


def _check_samples(samples_per_epoch: Any, fractions: Mapping[str, float]) -> None:
    if samples_per_epoch == "all":
        if fractions:
            raise ValueError(
                "samples_per_epoch: expected a number beside card_fractions, received 'all'; leave"
                " one of them out"
            )
        return
    if not isinstance(samples_per_epoch, int) or samples_per_epoch < 1:
        raise ValueError(
            f"samples: expected a number from 1, or 'all', received {samples_per_epoch!r};"
            " raise samples_per_epoch, or validation_slices"
        )


def _read_fractions(fractions: Any, names: Sequence[str]) -> dict[str, float]:
    """Card → fraction, for those of the names that have one; empty for none given."""
    if fractions is None or fractions == {}:
        return {}
    numbers: list[Any] = list(fractions.values()) if isinstance(fractions, Mapping) else [None]
    good = all(
        isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n < math.inf
        for n in numbers
    )
    if not good or not sum(numbers):
        raise ValueError(
            "card_fractions: expected a number from 0 for each card, one of them above 0, such as"
            f" {{'{names[0]}': 0.5}}, received {fractions!r}"
        )
    if unknown := set(fractions) - set(names):
        raise ValueError(
            f"card_fractions: expected some of {', '.join(names)}, received"
            f" {', '.join(sorted(unknown))}"
        )
    return {name: fractions[name] for name in names if name in fractions}
