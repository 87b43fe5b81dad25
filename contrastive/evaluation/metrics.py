"""Metrics of predictions: of one class an item, of several labels with blanks, of values with blanks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from sklearn import metrics as sk
from torchmetrics.functional.classification import multiclass_calibration_error

from contrastive.evaluation.roc_auc import mean_roc_auc, weighted_mean_roc_auc
from contrastive.evaluation.statistics import mean_of_known, resamplings

Kind = Literal["classes", "labels", "values"]
PRIMARY: dict[Kind, str] = {"classes": "accuracy", "labels": "roc_auc", "values": "rmse"}
TITLES = {"accuracy": "accuracy", "roc_auc": "ROC-AUC", "rmse": "RMSE"}
LOWER_IS_BETTER = ("rmse", "calibration_error")


def kind_of(y: np.ndarray) -> Kind:
    """What targets are: ``(N,)`` integers are classes; ``(N, T)`` of 0, 1, NaN labels; others values."""
    if y.ndim == 1:
        return "classes"
    return "labels" if np.isin(y[~np.isnan(y)], (0, 1)).all() else "values"


def measure(kind: Kind, y: np.ndarray, score: np.ndarray, *, probabilities: bool = True) -> dict[str, float]:
    """Every metric of a kind of targets, the primary one first; NaN where it is not defined.

    Args:
        kind: of the targets.
        y: ``(N,)`` int64 classes, or ``(N, T)`` float with NaN where unknown, which is left out.
        score: ``(N, K)``, the greatest for the predicted class; or ``(N, T)``, higher for 1, or the value.
        probabilities: whether the scores of classes are such; else there is no calibration error.

    Returns:
        classes: ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``roc_auc``, ``average_precision`` (a
        class against the rest, averaged over the classes), and ``calibration_error`` (expected, 15 bins of
        the greatest probability; Guo et al. 2017, arXiv 1706.04599). labels: ``roc_auc`` and
        ``average_precision``, averaged over the labels that have both values. values: ``rmse`` and ``r2``,
        averaged over the targets of which two are known.
    """
    if kind == "classes":
        return _of_classes(y, score, probabilities)
    if kind == "labels":
        return {"roc_auc": mean_roc_auc(y, score), "average_precision": _average_precision(y, score)}
    columns = [(t[k], p[k]) for t, p in zip(y.T, score.T) for k in [~np.isnan(t)] if k.sum() > 1]
    if not columns:
        return {"rmse": float("nan"), "r2": float("nan")}
    return {
        "rmse": float(np.mean([sk.root_mean_squared_error(t, p) for t, p in columns])),
        "r2": float(np.mean([sk.r2_score(t, p) for t, p in columns])),
    }


def standing(kind: Kind, y: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """What candidates are chosen by: the primary metric, its negative where lower is better; then, of ties.

    Few items leave many ties between classifiers, which the mean log-probability of the true classes decides.
    """
    if kind == "classes":
        truth = score[np.arange(len(y)), y]
        return float((score.argmax(1) == y).mean()), float(np.log(truth + 1e-12).mean())
    value = measure(kind, y, score)[PRIMARY[kind]]
    return -value if PRIMARY[kind] in LOWER_IS_BETTER else value, 0.0


def _of_classes(y: np.ndarray, score: np.ndarray, probabilities: bool) -> dict[str, float]:
    predicted, present = score.argmax(1), np.unique(y)
    against_rest = (y[:, None] == present).astype(float)
    values = {
        "accuracy": float((predicted == y).mean()),
        "balanced_accuracy": float(sk.recall_score(y, predicted, labels=present, average="macro")),
        "macro_f1": float(sk.f1_score(y, predicted, labels=present, average="macro", zero_division=0)),
        "roc_auc": mean_roc_auc(against_rest, score[:, present]),
        "average_precision": _average_precision(against_rest, score[:, present]),
    }
    if probabilities:
        # of probabilities above 1, as sums of float32 round to, torchmetrics would take the softmax
        p, truth = torch.from_numpy(score).double().clamp(max=1), torch.from_numpy(y)
        error = multiclass_calibration_error(p, truth, num_classes=score.shape[1], n_bins=15, norm="l1")
        values["calibration_error"] = float(error)
    return values


def _average_precision(y: np.ndarray, score: np.ndarray) -> float:
    values = []
    for truth, predicted in zip(y.T, score.T):
        known = ~np.isnan(truth)
        if len(np.unique(truth[known])) == 2:
            values.append(sk.average_precision_score(truth[known], predicted[known]))
    return float(np.mean(values)) if values else float("nan")


def bootstrap(
    kind: Kind, tests: Sequence[np.ndarray], ys: np.ndarray, scores: Sequence[np.ndarray]
) -> np.ndarray:
    """The primary metric, averaged over draws, of 1,000 resamplings of the test items (Efron 1979).

    An item keeps its weight in all draws that test it, so the spread speaks of the choice of test items; two
    encoders resampled with the same items can be compared item by item.

    Args:
        kind: of the targets.
        tests: the test items of each draw, indices into ``ys``.
        ys: targets of all items.
        scores: of each draw's test items.

    Returns:
        ``(1000,)`` float64; NaN for a resampling in which the metric is not defined.
    """
    pool = np.unique(np.concatenate(tests))
    weights = resamplings(len(pool))
    weighted = _WEIGHTED[kind]
    draws = [
        weighted(ys[test], score, weights[:, np.searchsorted(pool, test)])
        for test, score in zip(tests, scores)
    ]
    return np.mean(draws, axis=0)


def _weighted_accuracy(y: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights @ (score.argmax(1) == y) / np.maximum(weights.sum(axis=1), 1)


def _weighted_rmse(y: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    values = []
    for truth, predicted in zip(y.T, score.T):
        known = ~np.isnan(truth)
        total = weights[:, known].sum(axis=1)
        square = weights[:, known] @ (truth[known] - predicted[known]) ** 2 / np.maximum(total, 1)
        values.append(np.where(total > 1, np.sqrt(square), np.nan))  # as `measure` leaves it out
    return mean_of_known(np.array(values))


_WEIGHTED: dict[Kind, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "classes": _weighted_accuracy,
    "labels": weighted_mean_roc_auc,
    "values": _weighted_rmse,
}
