"""Intervals, tests and effect sizes for scores that come in clusters: slices of one patient are no
replicates.

Everything works on sums per patient. Shapes: P patients, C cells (a target, a size stratum …), R
resamples.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata, wilcoxon

EXACT_PATIENTS = 13
"""Up to so many patients all 2^P sign flips are tried; 2^13 is about what is drawn for more."""

BLOCK = 1 << 22
"""How many draws (resamples times patients) are held at a time: 32 MiB."""

ROUNDING = 1e-12
"""Differences below this share of the largest score are none: thousands of rows add up to errors
below it.
"""


def make_generator(seed: int, *purpose: str) -> np.random.Generator:
    """Return a generator of its own for each purpose, so that no result depends on what else is
    computed, or when.
    """
    return np.random.default_rng([seed, *(zlib.crc32(word.encode()) for word in purpose)])


def sum_by_patient(
    values: NDArray[np.float64],
    patients: NDArray[np.integer],
    count: int,
    cells: Sequence[NDArray[np.bool_]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums and numbers of rows (P,C) of each patient in each cell.

    Args:
        values: One a row.
        patients: 0 … P-1, one a row.
        count: P; some may have no row here.
        cells: Which rows belong to each cell; cells may overlap.
    """
    sums = [np.bincount(patients[cell], weights=values[cell], minlength=count) for cell in cells]
    numbers = [np.bincount(patients[cell], minlength=count) for cell in cells]
    return np.stack(sums, axis=1), np.stack(numbers, axis=1).astype(np.float64)


def resample_sums(
    sums_PC: NDArray[np.float64],
    counts_PC: NDArray[np.float64],
    groups: Sequence[int],
    resamples: int,
    generator: np.random.Generator,
    *,
    block: int = BLOCK,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each cell's sum and number of rows in every bootstrap sample, (R,C) both.

    Whole patients are drawn (the cluster bootstrap: Davison & Hinkley 1997, section 3.8). Samples
    are drawn and added up in blocks, so that memory does not grow with R times P.

    Args:
        sums_PC: Sums of each patient's rows.
        counts_PC: Their numbers.
        groups: Numbers of patients, P together; of each group (a data set) as many are drawn, with
            replacement.
        resamples: R.
        generator: Of the draws.
        block: How many numbers a block holds; the samples are the same whatever it is.
    """

    def draw() -> NDArray[np.int64]:
        drawn = [
            np.bincount(generator.integers(count, size=count), minlength=count) for count in groups
        ]
        return np.concatenate(drawn)

    columns = np.concatenate([sums_PC, counts_PC], axis=1)
    totals = np.concatenate(list(_add_drawn(draw, columns, resamples, block)))
    return totals[:, : sums_PC.shape[1]], totals[:, sums_PC.shape[1] :]


def _add_drawn(
    draw: Callable[[], NDArray], columns_PC: NDArray[np.float64], resamples: int, block: int
) -> Iterator[NDArray[np.float64]]:
    """Sums of the columns over patients, (B,C) of some resamples at a time; `draw` gives the P
    weights of one.
    """
    drawn_BP = np.empty((max(1, min(resamples, block // len(columns_PC))), len(columns_PC)))
    for start in range(0, resamples, len(drawn_BP)):
        part = drawn_BP[: resamples - start]
        for weights in part:
            weights[:] = draw()
        yield part @ columns_PC


def percentile_interval(values_RC: NDArray[np.float64], level: float = 0.95) -> NDArray[np.float64]:
    """Return the percentile bootstrap interval (2,C): low, high (Efron & Tibshirani 1993, chapter
    13).

    Resamples without a value (NaN: none of the drawn patients is in the cell) are left out; without
    any it is NaN.
    """
    bounds = ((1 - level) / 2, (1 + level) / 2)
    columns = [column[~np.isnan(column)] for column in values_RC.T]
    return np.array(
        [np.quantile(column, bounds) if len(column) else (np.nan, np.nan) for column in columns]
    ).T


def bootstrap_interval(
    sums_RC: NDArray[np.float64],
    counts_RC: NDArray[np.float64],
    patients_C: NDArray[np.integer],
    level: float = 0.95,
) -> NDArray[np.float64]:
    """Return the interval (2,C) of each cell's mean over rows; NaN for a cell of fewer than two
    patients.

    Args:
        sums_RC: Of `resample_sums`. The mean is a ratio of two sums over patients, and both vary.
        counts_RC: Of the same.
        patients_C: How many patients have rows in each cell; of several data sets the most of any
            one.
        level: Of the interval.
    """
    with np.errstate(invalid="ignore"):
        bounds = percentile_interval(sums_RC / counts_RC, level)
    return np.where(patients_C > 1, bounds, np.nan)


def merge_rounding(values: ArrayLike, rounding: float) -> NDArray[np.float64]:
    """Return the values with those made equal in size, and to 0, that differ by no more than
    `rounding` in it.

    Differences of the same scores come out otherwise in the last digits when they are added in
    another order, and tests on ranks and signs would see differences and miss ties.

    Args:
        values: (n,).
        rounding: Such as `ROUNDING` of the largest score.
    """
    given = np.asarray(values, dtype=np.float64)
    order = np.argsort(np.abs(given), kind="stable")
    sizes = np.concatenate([[0.0], np.abs(given)[order]])
    first = np.diff(sizes, prepend=-np.inf) > rounding
    merged = np.empty_like(given)
    merged[order] = sizes[first][np.cumsum(first)[1:] - 1]
    return np.sign(given) * merged + 0.0  # + 0.0: no -0


def permutation_p(
    sums_PC: NDArray[np.float64],
    counts_PC: NDArray[np.float64],
    resamples: int,
    generator: np.random.Generator,
    *,
    rounding: float = 0.0,
    block: int = BLOCK,
) -> NDArray[np.float64]:
    """Return the two-sided p of no difference (C,): the signs of whole patients' differences are
    flipped.

    The statistic is the mean difference over rows. If the two methods were exchangeable, each
    patient's rows could as well have come with the methods swapped, all of them together (Good
    2005). Up to `EXACT_PATIENTS` patients p is exact, b / 2^P; for more it is (b + 1) / (R + 1) of
    R random flips (Phipson & Smyth 2010). b counts the flips at least as far from 0 as what was
    seen, itself included where all are tried.

    Args:
        sums_PC: Sums of the differences of each patient's rows.
        counts_PC: Their numbers; patients without a row in a cell take no part in it.
        resamples: R.
        generator: Of the flips.
        rounding: How far off a row's difference may be.
        block: How many numbers are held at a time; p is the same whatever it is.

    Returns:
        NaN for a cell of fewer than two patients.
    """

    def flip() -> NDArray[np.float64]:
        bits = np.frombuffer(generator.bytes(-(-len(sums_PC) // 8)), np.uint8)
        return np.where(np.unpackbits(bits, count=len(sums_PC)), 1.0, -1.0)

    # Flips that give the same difference in another order of summing are as far from 0.
    seen = (
        np.abs(sums_PC.sum(axis=0))
        - 1e-12 * np.abs(sums_PC).sum(axis=0)
        - rounding * counts_PC.sum(axis=0)
    )
    patients = (counts_PC > 0).sum(axis=0)
    p = np.full(len(patients), np.nan)
    many = patients > EXACT_PATIENTS
    if many.any():
        flipped = _add_drawn(flip, sums_PC[:, many], resamples, block)
        extreme = sum((np.abs(sums_BC) >= seen[many]).sum(axis=0) for sums_BC in flipped)
        p[many] = (extreme + 1) / (resamples + 1)
    for cell in np.flatnonzero((patients > 1) & ~many):
        sums = sums_PC[counts_PC[:, cell] > 0, cell]
        signs = np.array(list(product((-1.0, 1.0), repeat=len(sums))))
        p[cell] = (np.abs(signs @ sums) >= seen[cell]).mean()
    return p


def wilcoxon_p(differences: ArrayLike) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test (1945) on a difference a patient (see
    `merge_rounding`).

    Differences of 0 are dropped, as Wilcoxon did; 1 where all are, NaN for fewer than two patients.
    SciPy takes the exact distribution up to 50 patients without ties or 13 with, and the normal
    approximation else.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return np.nan
    values = values[values != 0]
    return float(wilcoxon(values).pvalue) if len(values) else 1.0


def adjust_holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values adjusted for their number (Holm 1979), in the given order.

    The i-th smallest of m becomes the largest of (m - j + 1) p_j for j ≤ i, at most 1. NaN is no
    test: it stays, and does not count.
    """
    given = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(given.shape, np.nan)
    tests = np.flatnonzero(~np.isnan(given))
    order = tests[np.argsort(given[tests], kind="stable")]
    raised = given[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1)
    return adjusted


def rank_biserial(differences: ArrayLike) -> float:
    """Return the matched-pairs rank-biserial correlation (W⁺ - W⁻) / (W⁺ + W⁻), -1 … 1 (Kerby
    2014).

    W⁺ and W⁻ are the sums of Wilcoxon's ranks of the positive and the negative differences; 0 where
    all are 0, NaN without any.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) == 0:
        return np.nan
    values = values[values != 0]
    if len(values) == 0:
        return 0.0
    ranks = rankdata(np.abs(values))
    return float((np.sign(values) * ranks).sum() / ranks.sum())


def cohens_dz(differences: ArrayLike) -> float:
    """Return mean over standard deviation (n - 1) of the differences (Cohen 1988, p. 48); NaN if
    that is 0.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2 or np.ptp(values) == 0:
        return np.nan
    return float(values.mean() / values.std(ddof=1))
