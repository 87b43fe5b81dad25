"""Intervals: a number without one is an anecdote."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95  # of all intervals
UNIT = (0.0, 1.0)  # where accuracies and areas under curves lie, and so their means


def mean_interval(
    values: Sequence[float], *, within: tuple[float, float] | None = None
) -> tuple[float, tuple[float, float]]:
    """Mean over draws and Student's 95 % t interval of that mean.

    The draws are taken as independent. They share their test samples, so the interval speaks of the choice of
    labelled samples, not of the choice of test samples. One draw has no interval: both ends are NaN.

    Args:
        values: one number a draw.
        within: where the values, and so their mean, can lie; the interval is cut there, which leaves its
            coverage as it is. Of two draws Student's t is so wide that it would leave 0 to 100 %.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, (math.nan, math.nan)
    half = float(stats.sem(values) * stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    low, high = within or (-math.inf, math.inf)
    return mean, (max(mean - half, low), min(mean + half, high))


def proportion_interval(num_correct: int, num_items: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion over test samples (Wilson 1927): holds near 0 and 1 too."""
    interval = stats.binomtest(num_correct, num_items).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def resamplings(num_items: int) -> np.ndarray:
    """``(1000, num_items)`` int64: how often each resampling with replacement draws each item."""
    return np.random.default_rng(0).multinomial(num_items, np.full(num_items, 1 / num_items), size=1000)


def mean_of_known(table: np.ndarray) -> np.ndarray:
    """Means over the rows of ``(T, B)``, NaN left out; NaN where a column has nothing else."""
    known = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        return np.where(known, table, 0).sum(axis=0) / known.sum(axis=0)


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of bootstrapped values (Efron 1979), those that are not defined left out."""
    known = values[~np.isnan(values)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


def bootstrap_p(differences: np.ndarray) -> float:
    """Two-sided p-value of no difference from bootstrapped paired differences.

    Twice the share of resamplings beyond zero, both counts raised by one (Davison and Hinkley 1997).
    """
    known = differences[~np.isnan(differences)]
    beyond = min((known <= 0).sum(), (known >= 0).sum())
    return float(min(1.0, 2 * (beyond + 1) / (len(known) + 1)))


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Exact two-sided p-value that two classifiers are right equally often on the same items (McNemar 1947).

    Args:
        correct_a: ``(N,)`` bool.
        correct_b: ``(N,)`` bool.
    """
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)
