"""Whether a thing is there at all: a slice or volume that shows it, told from one that doesn't."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata


def sensitivity(present: ArrayLike, found: ArrayLike) -> float | None:
    """Return the share of what shows the target (``present``) in which something was found; None
    where nothing does.
    """
    shown, said = np.asarray(present, bool), np.asarray(found, bool)
    return float(said[shown].mean()) if shown.any() else None


def specificity(present: ArrayLike, found: ArrayLike) -> float | None:
    """Return the share of what does not show the target in which nothing was found; None where
    everything shows it.
    """
    return sensitivity(~np.asarray(present, bool), ~np.asarray(found, bool))


def auroc(present: ArrayLike, scores: ArrayLike) -> float | None:
    """Return the area under the ROC curve.

    It is the probability that what shows the target scores higher than what doesn't, ties counting
    half (the Mann-Whitney U statistic over the number of pairs; Hanley and McNeil 1982). None where
    all show it, or none does.
    """
    shown, values = np.asarray(present, bool), np.asarray(scores, float)
    positives, negatives = int(shown.sum()), int((~shown).sum())
    if not positives or not negatives:
        return None
    pairs_won = rankdata(values)[shown].sum() - positives * (positives + 1) / 2
    return float(pairs_won / (positives * negatives))
