"""Which classes of nnU-Net's raw data set the targets become."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from boltzmed.cards import DatasetCard
from boltzmed.masks.label_names import labelled_targets

MODES = ("multiclass", "experts")


@dataclass(frozen=True)
class RawPlan:
    """A raw data set to be written.

    Attributes:
        number: of `DatasetNNN_NAME`.
        name: of `DatasetNNN_NAME`.
        classes: name -> the card's label values that become this class; numbered from 1 in this
            order.
        targets: target -> the numbers of the classes that make it up.
    """

    number: int
    name: str
    classes: Mapping[str, tuple[int, ...]]
    targets: Mapping[str, list[int]]

    @property
    def folder(self) -> str:
        """`DatasetNNN_NAME`."""
        return f"Dataset{self.number:03d}_{self.name}"


def plan_datasets(
    card: DatasetCard, first: int, name: str, targets: Sequence[str] | None, mode: str
) -> list[RawPlan]:
    """One raw data set ("multiclass"), or one for each target ("experts") with consecutive numbers.

    Raises:
        ValueError: An unknown mode or target, a name that is no plain file name, or a number
            outside 1 to 999.
    """
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(MODES)}, received {mode!r}")
    if not re.fullmatch("[A-Za-z0-9_-]+", name):
        raise ValueError(
            f"name: expected ASCII letters, digits, - and _, received {name!r}; pass another --name"
        )
    chosen = labelled_targets(card, targets)
    last = first + (len(chosen) if mode == "experts" else 1) - 1
    if not 1 <= first <= last <= 999:
        raise ValueError(f"id: expected numbers from 1 to 999, received {first} to {last}")
    if mode == "multiclass":
        values = sorted({value for target in chosen for value in target.labels})
        makes_up = {
            t.name: [n for n, value in enumerate(values, start=1) if value in t.labels]
            for t in chosen
        }
        return [RawPlan(first, name, {card.labels[value]: (value,) for value in values}, makes_up)]
    return [
        RawPlan(
            number,
            f"{name}_{re.sub('[^A-Za-z0-9]+', '-', t.name)}",
            {t.name: t.labels},
            {t.name: [1]},
        )
        for number, t in enumerate(chosen, start=first)
    ]
