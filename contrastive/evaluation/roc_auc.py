"""ROC-AUC over several tasks with missing labels, also of many resamplings at once."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from contrastive.evaluation.statistics import mean_of_known


def mean_roc_auc(y: np.ndarray, score: np.ndarray) -> float:
    """ROC-AUC averaged over the tasks; NaN where no task has both classes.

    Args:
        y: ``(N, T)`` of 0, 1 and NaN; a NaN is left out, and so is a task that has one class only.
        score: ``(N, T)``, higher for 1.
    """
    values = []
    for truth, predicted in zip(y.T, score.T):
        known = ~np.isnan(truth)
        if len(np.unique(truth[known])) == 2:
            values.append(roc_auc_score(truth[known], predicted[known]))
    return float(np.mean(values)) if values else float("nan")


def weighted_mean_roc_auc(y: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`mean_roc_auc` under many weightings of the samples at once.

    Args:
        y: ``(N, T)`` of 0, 1 and NaN.
        score: ``(N, T)``, higher for 1.
        weights: ``(B, N)``, as how often a resampling drew each sample.

    Returns:
        ``(B,)``; a task of which a resampling drew one class alone is left out of its mean.
    """
    values = []
    for truth, predicted in zip(y.T, score.T):
        known = ~np.isnan(truth)
        if len(np.unique(truth[known])) == 2:
            values.append(weighted_roc_auc(truth[known], predicted[known], weights[:, known]))
    return mean_of_known(np.array(values).reshape(-1, len(weights)))


def weighted_roc_auc(truth: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """ROC-AUC under many weightings of the samples at once.

    Args:
        truth: ``(N,)`` of 0 and 1.
        score: ``(N,)``, higher for 1.
        weights: ``(B, N)``, as how often a resampling drew each sample.

    Returns:
        ``(B,)``; NaN where one class has no weight.
    """
    order = np.argsort(score, kind="stable")
    starts = np.unique(score[order], return_index=True)[1]  # of each run of equal scores
    ones, zeros = (
        np.add.reduceat(weights[:, order] * (truth[order] == value), starts, axis=1) for value in (1, 0)
    )
    below = zeros.cumsum(axis=1) - zeros / 2
    with np.errstate(invalid="ignore"):
        return (ones * below).sum(axis=1) / (ones.sum(axis=1) * zeros.sum(axis=1))
