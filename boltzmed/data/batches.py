"""Which slices make up an epoch, in which batches: drawn by weight, data sets by share, images of one size together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch.utils.data.distributed import DistributedSampler

from boltzmed.data.slices import PromptSliceDataset, keyed_generator

Key = tuple[int, int, int]
"""(epoch, entry, which of its card's frames)."""


class KeyedBatches(DistributedSampler):
    """Yields lists of keys, a batch each, for a ``DataLoader`` with ``batch_size=None``.

    Every epoch has the same number of samples of every card and frame, and so of batches; entries come without
    repetition, drawn by weight. It is a ``DistributedSampler`` so that the trainer tells it the epoch. With several
    processes each takes its part of every batch, so that N processes do together what one does alone.

    Args:
        dataset: Whose entries are drawn.
        samples_per_epoch: Of all processes together.
        batch_size: Samples of all processes together, of images of the dataset's ``image_size``. Smaller images come in
            larger batches, of the same number of pixels, up to ``largest_batch``.
        largest_batch: Four times ``batch_size`` by default.
        shares: Card → share of the samples; by default as many as it has entries.
        small_weight, balance: See ``PromptSliceDataset.weights``; they act within a card.
        seed: Of the draw.
        fixed: Every epoch is the first one: what validation compares has to be the same.

    Raises:
        ValueError: A share of a card that is not there, or settings that leave no sample.
    """

    def __init__(
        self,
        dataset: PromptSliceDataset,
        *,
        samples_per_epoch: int,
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
        super().__init__(dataset, num_replicas=ranks, rank=torch.distributed.get_rank() if distributed else 0)
        if batch_size < ranks or batch_size % ranks:
            raise ValueError(f"batch_size: expected a multiple of the {ranks} processes, received {batch_size}")
        self.seed, self.fixed = seed, fixed
        cards = np.array([dataset.card_of(index) for index in range(len(dataset))])
        weights = dataset.weights(small_weight, balance)
        names = list(dict.fromkeys(cards.tolist()))
        if unknown := set(shares or {}) - set(names):
            raise ValueError(f"shares: expected some of {', '.join(names)}, received {', '.join(sorted(unknown))}")
        parts = {name: (shares or {}).get(name, 0.0 if shares else float((cards == name).mean())) for name in names}
        total = sum(parts.values())
        self._groups: list[tuple[np.ndarray, np.ndarray, int, int, int]] = []
        for name, share in parts.items():
            members = np.flatnonzero(cards == name)
            count = min(round(samples_per_epoch * share / total), len(members)) if total else 0
            probabilities = weights[members] / weights[members].sum()
            frames = dataset.frames[name]
            for turn, frame in enumerate(frames):
                size = batch_size * max(1, (dataset.image_size // frame.image_size) ** 2)
                size = min(size, largest_batch or 4 * batch_size) // ranks * ranks
                number = count // len(frames) // ranks * ranks
                if number:
                    self._groups.append((members, probabilities, number, min(size, number), turn))
        if not self._groups:
            raise ValueError(
                f"samples: expected at least one for each process and frame, received {samples_per_epoch}; raise "
                "samples_per_epoch, or validation_slices"
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
            batches += [[(epoch, k, turn) for k in drawn[first : first + size]] for first in range(0, number, size)]
        order = range(len(batches)) if self.fixed else generator.permutation(len(batches))
        return iter([batches[k][self.rank :: self.num_replicas] for k in order])
