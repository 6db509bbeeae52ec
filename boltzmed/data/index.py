"""Which targets show on which slices of a prepared data set, by one of two protocols.

``volume``: every slice of every case counts. ``biomedparse``: as the published benchmark was made.
Per volume and target a slice with fewer pixels than a tenth of the target's largest slice is
dropped; a merged target (``all_labels``) is asked for only where each of its labels passes that
rule by itself; a target with ``extra_windows`` shows its slices once more in each of them. What a
protocol drops stays in the table with ``used`` 0: it is no positive, and as it is there, no
negative either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boltzmed.cards import PROTOCOLS, DatasetCard, Target
from boltzmed.data.case_file import CaseFacts
from boltzmed.data.splits import Membership
from boltzmed.strata import area_fraction

_SMALLEST_OF_LARGEST = 10
"""A slice with less than the largest slice's pixels over this is dropped by ``biomedparse``."""

COLUMNS = (
    *("dataset", "case", "patient", "split", "slice_index", "target", "window"),
    *("pixels", "area_fraction", "volume_mm3", "used"),
)


@dataclass(frozen=True)
class MeasuredCase:
    """A case file's facts with the pixels (K,V) of each label value on each slice."""

    facts: CaseFacts
    pixels: NDArray[np.int32]


def build_index(
    cases: Iterable[MeasuredCase],
    members: Mapping[str, Membership],
    card: DatasetCard,
    protocol: str,
) -> pd.DataFrame:
    """Return a row for every (case, slice, target, window) with at least one pixel.

    The columns are ``COLUMNS``: ``area_fraction`` is the target's pixels over the area of the
    padded square at native size, ``volume_mm3`` the target's volume in the whole case (empty for
    pictures, which have no spacing), ``window`` the card's name of the window, or its two numbers.

    Args:
        cases: measured case files; their order is that of the rows.
        members: case -> its patient and its part.
        card: the data set's card.
        protocol: one of ``PROTOCOLS``.

    Raises:
        ValueError: an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol: expected one of {', '.join(PROTOCOLS)}, received {protocol!r}")
    tables = []
    for case in cases:
        member = members[case.facts.case]
        for name, values in case.facts.targets.items():
            rows = _index_target(case, card.target(name), values, protocol)
            rows.insert(0, "dataset", card.name)
            rows.insert(1, "case", case.facts.case)
            rows.insert(2, "patient", member.patient)
            rows.insert(3, "split", member.part)
            tables.append(rows)
    if not tables:
        return pd.DataFrame(columns=list(COLUMNS))
    index = pd.concat(tables, ignore_index=True)[list(COLUMNS)]
    return index.sort_values(["case", "slice_index"], kind="stable", ignore_index=True)


def absent_pairs(
    index: pd.DataFrame, slice_counts: Mapping[str, int], targets: Sequence[str]
) -> pd.DataFrame:
    """Return the (case, slice_index, target) without a pixel in an exhaustively annotated data set.

    Args:
        index: as ``build_index`` returns it, unused rows included.
        slice_counts: case -> K.
        targets: the names to look for.
    """
    pairs: list[tuple[str, int, str]] = []
    for case, count in slice_counts.items():
        pairs.extend(product([case], range(count), targets))
    columns = ["case", "slice_index", "target"]
    possible = pd.MultiIndex.from_tuples(pairs, names=columns)
    present = pd.MultiIndex.from_frame(index[columns].drop_duplicates())
    return possible.difference(present, sort=False).to_frame(index=False)


def _index_target(
    case: MeasuredCase, target: Target, values: Sequence[int], protocol: str
) -> pd.DataFrame:
    facts = case.facts
    columns = [facts.label_values.index(value) for value in values]
    pixels_by_label = case.pixels[:, columns].astype(np.int64)
    pixels = pixels_by_label.sum(axis=1)
    shown = np.flatnonzero(pixels)
    used = np.ones(len(pixels), dtype=bool)
    windows = [target.window_key]
    # The benchmark's own pictures have a window already, and went through all this.
    if protocol == "biomedparse" and facts.window is None:
        used = _is_large_enough(pixels)
        if target.all_labels:
            for label_pixels in pixels_by_label.T:
                used &= _is_large_enough(label_pixels)
        windows += target.extra_windows
    volume_mm3 = np.nan
    if facts.spacing_mm is not None:
        voxel_mm3 = abs(float(np.linalg.det(np.array(facts.affine_ras)[:3, :3])))
        volume_mm3 = round(float(pixels.sum()) * voxel_mm3, 3)
    table = pd.DataFrame(
        {
            "slice_index": shown,
            "target": target.name,
            "pixels": pixels[shown],
            "area_fraction": area_fraction(pixels[shown], *facts.shape[1:]),
            "volume_mm3": volume_mm3,
            "used": used[shown].astype(int),
        }
    )
    return pd.concat([table.assign(window=window) for window in windows], ignore_index=True)


def _is_large_enough(pixels: NDArray[np.int64]) -> NDArray[np.bool_]:
    # In whole numbers: a tenth of the largest is no exact floating-point number.
    large_enough: NDArray[np.bool_] = pixels * _SMALLEST_OF_LARGEST >= pixels.max(initial=0)
    return (pixels > 0) & large_enough
