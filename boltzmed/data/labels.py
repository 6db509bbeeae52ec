"""Label maps: on their image's grid, whole numbers from 0 to 255, read by a card that says what
each stands for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from boltzmed.cards import DatasetCard, Target, Window, load_card
from boltzmed.errors import InputError
from boltzmed.geometry import describe_grid, is_same_grid

_REGIONS = {"lung": "chest", "colon": "abdomen", "liver": "abdomen", "pancreas": "abdomen"}
"""A card's word for a body region -> the region that it lies in. One that is not named here is a
region itself.
"""


def check_grid(
    case: str,
    image_shape: Sequence[int],
    image_affine: ArrayLike,
    label_shape: Sequence[int],
    label_affine: ArrayLike,
    *,
    what: str = "label",
) -> None:
    """Raise InputError if an image (I,J,K) and its label map or `what` are not on one grid, in one
    voxel order.
    """
    image = tuple(image_shape), np.asarray(image_affine, np.float64)
    label = tuple(label_shape), np.asarray(label_affine, np.float64)
    if not is_same_grid(*image, *label):
        raise InputError(
            f"case {case}: expected image and {what} on one grid, received {describe_grid(*image)}"
            f" and {describe_grid(*label)}; resample the {what} to the image"
        )


def as_labels(case: str, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Label values of any dtype as uint8; InputError if one is no whole number from 0 to 255."""
    if values.dtype == np.uint8:
        return values
    with np.errstate(invalid="ignore"):
        labels = values.astype(np.uint8)
    wrong = labels != values
    if wrong.any():
        raise InputError(
            f"case {case}: expected label values that are whole numbers from 0 to 255, received "
            f"{values[wrong].flat[0]:g}; number the labels as the card does"
        )
    return labels


def labelled_targets(card: DatasetCard, names: Sequence[str] | None = None) -> list[Target]:
    """Return a card's targets, or those named; ValueError for one without labels."""
    targets = [card.target(name) for name in (card.targets if names is None else names)]
    for target in targets:
        if not target.labels:
            raise ValueError(
                f"card {card.name}: expected a card that maps label values to targets,"
                f" {target.name!r} has none; write one as datasets/phantom.yaml is, and name it by"
                " --card"
            )
    return targets


def foreign_targets(
    card: DatasetCard, others: Iterable[DatasetCard]
) -> list[tuple[Target, Window | None]]:
    """Targets of other cards that a card's images cannot show: they lie in body regions that the
    images do not reach.

    Args:
        card: Whose images; they show the regions of its targets and those of `shows`.
        others: Whose targets.

    Returns:
        Each with the window that it is asked under, as inference does: a target of the card's
            modality has its own,
        anything else the modality's default. Of several that are asked for by the same first
        phrasing, the first.
    """
    shown = {region_of(target.site) for target in card.targets.values()} | set(card.shows)
    generic = load_card(f"generic_{card.modality.lower()}")
    found: dict[str, tuple[Target, Window | None]] = {}
    for other in others:
        for target in other.targets.values():
            if region_of(target.site) not in shown and target.name not in card.targets:
                own = other.modality == card.modality
                window = target.window if own else generic.windows[generic.default_window]
                found.setdefault(target.prompts[0], (target, window))
    return list(found.values())


def region_of(site: str) -> str:
    """Return the body region of a card's `site`: "lung" lies in the chest."""
    return _REGIONS.get(site, site)
