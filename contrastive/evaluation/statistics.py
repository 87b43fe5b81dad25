"""Intervals: a number without one is an anecdote."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, tuple[float, float]]:
    """Mean over draws and Student's t interval of that mean.

    The draws are taken as independent. They share their test samples, so the interval speaks of the choice of
    labelled samples, not of the choice of test samples. One draw has no interval: both ends are NaN.

    Args:
        values: one number a draw.
        confidence: coverage of the interval.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, (math.nan, math.nan)
    half = float(stats.sem(values) * stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    return mean, (mean - half, mean + half)


def proportion_interval(num_correct: int, num_items: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion over test samples (Wilson 1927): holds near 0 and 1 too."""
    interval = stats.binomtest(num_correct, num_items).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
