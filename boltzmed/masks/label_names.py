"""Names of label values: from a text, a dataset card, or the ``dataset.json`` beside the masks."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from boltzmed.cards import DatasetCard, Target
from boltzmed.slugs import slug_prompts


@dataclass(frozen=True)
class LabelNames:
    """What the values of a folder's label maps stand for.

    Attributes:
        targets: target → the values whose union it is.
        known: all values that a map may hold; None where values without a name are passed over.
        source: what says so, for messages.
        dataset: name of the data set, where ``dataset.json`` or a card gives it.
    """

    targets: Mapping[str, frozenset[int]]
    known: frozenset[int] | None = None
    source: str = "--labels"
    dataset: str = ""

    def find(self, target: str) -> frozenset[int] | None:
        """Return a target's values, None without any; case and punctuation do not count."""
        for name, values in self.targets.items():
            if slug_name(name) == slug_name(target):
                return values
        return None


def parse_labels(text: str) -> dict[str, tuple[int, ...]]:
    """Read "1=anterior,2=posterior,1+2=hippocampus".

    Args:
        text: as a user writes it.

    Returns:
        Name → label values.

    Raises:
        ValueError: the text says something else, or a name twice.
    """
    labels: dict[str, tuple[int, ...]] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+(?:\+\d+)*)\s*=\s*(\S.*?)\s*", part)
        if match is None or match[2] in labels or "0" in match[1].split("+"):
            raise ValueError(
                f"labels: expected such as 1=anterior,2=posterior,1+2=whole, received {part!r} in"
                f" {text!r}"
            )
        labels[match[2]] = tuple(map(int, match[1].split("+")))
    return labels


def name_labels(labels: Mapping[str, Collection[int]]) -> LabelNames:
    """Return the names that `parse_labels` read.

    Raises:
        ValueError: two names that file names cannot tell apart.
    """
    names = {name: frozenset(values) for name, values in labels.items()}
    check_names(names)
    return LabelNames(names)


def check_names(names: Collection[str]) -> None:
    """Raise ValueError for two names that file names cannot tell apart."""
    owner: dict[str, str] = {}
    for name in names:
        other = owner.setdefault(slug_name(name), name)
        if other != name:
            raise ValueError(
                "labels: expected names that differ by more than case and punctuation, received"
                f" {other!r} and {name!r}; rename one"
            )


def slug_name(name: str) -> str:
    """Return a name as file names write it, by which two masks are known to be of one thing."""
    return slug_prompts([name])[0]


def labelled_targets(card: DatasetCard, names: Sequence[str] | None = None) -> list[Target]:
    """Return a card's targets, each with label values.

    Args:
        card: whose targets.
        names: which ones; all by default.

    Raises:
        ValueError: the card has no such target, or does not say which labels one is.
    """
    targets = [card.target(name) for name in (card.targets if names is None else names)]
    for target in targets:
        if not target.labels:
            raise ValueError(
                f"card {card.name}: expected a card that maps label values to targets,"
                f" {target.name!r} has none; write one as datasets/phantom.yaml is, and name it by"
                " --card"
            )
    return targets


def name_by_card(card: DatasetCard) -> LabelNames:
    """Return what a card says of its own label maps."""
    targets = {}
    for target in card.targets.values():
        if target.labels:
            targets[target.name] = frozenset(target.labels)
    return LabelNames(targets, frozenset(card.labels), f"card {card.name}", card.name)
