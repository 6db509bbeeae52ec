"""Which slices make up an epoch, in which batches: drawn by weight, data sets by share, images of
one size together.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data.distributed import DistributedSampler

from boltzmed.data.slices import PromptSliceDataset, keyed_generator

logger = logging.getLogger(__name__)

Key = tuple[int, int, int]
"""(epoch, entry, which of its card's frames)."""


class KeyedBatches(DistributedSampler):
    """Yields lists of keys, a batch each, for a ``DataLoader`` with ``batch_size=None``.

    Every epoch has the same number of samples of every card and frame, and so of batches; within a
    frame entries come without repetition, drawn by weight: a card of fewer entries than its share
    asks for gives all of them in each of its frames, and the log tells. It is a
    ``DistributedSampler`` so that the trainer tells it the epoch. With several processes each takes
    its part of every batch, so that N processes do together what one does alone, wherever the
    numbers of samples of each card and frame are multiples of N; what is beyond such a multiple is
    left out.

    Args:
        dataset: Whose entries are drawn.
        samples_per_epoch: Of all processes together; ``"all"`` is every entry once, in each of its
            card's frames.
        batch_size: Samples of all processes together, of images of the dataset's ``image_size``.
            Smaller images come in larger batches, of the same number of pixels, up to
            ``largest_batch``.
        largest_batch: Four times ``batch_size`` by default.
        shares: Card → share of the samples, 0 or more; by default as many as it has entries. Not
            with ``"all"``.
        small_weight, balance: See ``PromptSliceDataset.weights``; they act within a card.
        seed: Of the draw.
        fixed: Every epoch is the first one: what validation compares has to be the same.

    Raises:
        ValueError: Shares that are none or of a card that is not there, or settings that leave a
            card with a share, one of its frames, or all without a sample.
    """

    def __init__(
        self,
        dataset: PromptSliceDataset,
        *,
        samples_per_epoch: int | str,
        batch_size: int,
        largest_batch: int | None = None,
        shares: Mapping[str, float] | None = None,
        small_weight: float = 1.0,
        balance: Sequence[str] = (),
        seed: int = 0,
        fixed: bool = False,
    ) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        ranks = torch.distributed.get_world_size() if distributed else 1
        super().__init__(
            dataset, num_replicas=ranks, rank=torch.distributed.get_rank() if distributed else 0
        )
        if not isinstance(batch_size, int):
            raise ValueError(f"batch_size: expected a whole number, received {batch_size!r}")
        if batch_size < ranks or batch_size % ranks:
            raise ValueError(
                f"batch_size: expected a multiple of the {ranks} processes, received {batch_size}"
            )
        self.seed, self.fixed = seed, fixed
        cards = np.array([dataset.card_of(index) for index in range(len(dataset))])
        weights = dataset.weights(small_weight, balance)
        names = list(dict.fromkeys(cards.tolist()))
        parts = _read_shares(shares, names) or {
            name: float((cards == name).mean()) for name in names
        }
        total = sum(parts.values())
        if (everything := samples_per_epoch == "all") and shares:
            raise ValueError(
                "samples_per_epoch: expected a number beside shares, received 'all'; leave one of"
                " them out"
            )
        if not everything and (not isinstance(samples_per_epoch, int) or samples_per_epoch < 1):
            raise ValueError(
                f"samples: expected a number from 1, or 'all', received {samples_per_epoch!r};"
                " raise samples_per_epoch, or validation_slices"
            )
        self._groups: list[tuple[np.ndarray, np.ndarray, int, int, int]] = []
        for name, share in parts.items():
            members, frames = np.flatnonzero(cards == name), dataset.frames[name]
            number, chances = (
                len(members),
                np.ones(len(members)),
            )  # who draws all of them has nothing to weigh
            if not everything:
                asked = round(int(samples_per_epoch) * share / total)
                if number * len(frames) < asked and self.rank == 0:
                    most = number // ranks * ranks * len(frames)
                    logger.info(
                        "%s: %d of the %d samples asked for: it has no more slices",
                        name,
                        most,
                        asked,
                    )
                number, chances = min(asked // len(frames), number), weights[members]
            number = number // ranks * ranks
            if share and not number:
                raise ValueError(
                    f"samples: expected at least {ranks * len(frames)} of {name}, for each process"
                    f" and frame one, received fewer: it has {len(members)} slices and a share of"
                    f" {share / total:.3g}; raise samples_per_epoch, or validation_slices, or leave"
                    " the card out (--shares)"
                )
            for turn, frame in enumerate(frames if number else ()):
                size = batch_size * max(1, (dataset.image_size // frame.image_size) ** 2)
                size = min(size, largest_batch or 4 * batch_size) // ranks * ranks
                self._groups.append(
                    (members, chances / chances.sum(), number, min(size, number), turn)
                )

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        return sum(-(-number // size) for _, _, number, size, _ in self._groups)

    def __iter__(self) -> Iterator[list[Key]]:  # type: ignore[override]
        epoch = 0 if self.fixed else self.epoch
        generator = keyed_generator(self.seed, epoch, 0, "order")
        batches: list[list[Key]] = []
        for members, probabilities, number, size, turn in self._groups:
            drawn = generator.choice(members, number, replace=False, p=probabilities).tolist()
            batches += [
                [(epoch, k, turn) for k in drawn[first : first + size]]
                for first in range(0, number, size)
            ]
        order = range(len(batches)) if self.fixed else generator.permutation(len(batches))
        return iter([batches[k][self.rank :: self.num_replicas] for k in order])


def _read_shares(shares: Any, names: Sequence[str]) -> dict[str, float]:
    """Card → share, for those of the names that have one; empty for none given."""
    if shares is None or shares == {}:
        return {}
    numbers: list[Any] = list(shares.values()) if isinstance(shares, Mapping) else [None]
    good = all(
        isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n < math.inf
        for n in numbers
    )
    if not good or not sum(numbers):
        raise ValueError(
            "shares: expected a number from 0 for each card, one of them above 0, such as"
            f" {{'{names[0]}': 0.5}}, received {shares!r}"
        )
    if unknown := set(shares) - set(names):
        raise ValueError(
            f"shares: expected some of {', '.join(names)}, received {', '.join(sorted(unknown))}"
        )
    return {name: shares[name] for name in names if name in shares}
