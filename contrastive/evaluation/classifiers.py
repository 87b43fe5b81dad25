"""Predictions from frozen features: a linear model, nearest neighbours, or a support vector machine."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.linalg import LinAlgWarning
from scipy.sparse import issparse
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.svm import SVC
from torch import nn

from contrastive.errors import ContrastiveError
from contrastive.evaluation.draws import Draw
from contrastive.evaluation.knn import neighbour_vote
from contrastive.evaluation.linear import Features, select_classifier
from contrastive.evaluation.logistic import LogisticPath
from contrastive.evaluation.metrics import Kind, standing
from contrastive.evaluation.protocol import Objective
from contrastive.predictor import Head

NO_VALIDATION = "no target has two values in the validation part; split at random, or give more items"
SVM_GRID = {"C": [0.1, 1.0, 10.0, 100.0, 1000.0]}


class Prediction(NamedTuple):
    """What a classifier says of the test items of a draw.

    Attributes:
        score: as ``contrastive.evaluation.metrics.measure`` takes it.
        val: the primary metric on validation, of what was chosen.
        chosen: what was chosen by validation, such as ``{"C": 0.1}``.
        last: the score by the last epoch's weights, where it was asked for.
        head: the linear function of the features that gives the score; None where it is no such function.
        encoder: the network that gives the features, where it was trained for them.
    """

    score: np.ndarray
    val: float
    chosen: dict[str, float]
    last: np.ndarray | None = None
    head: Head | None = None
    encoder: nn.Module | None = None


def predict_linear(
    h: Any,
    y: np.ndarray,
    draw: Draw,
    kind: Kind,
    *,
    regularisations: Sequence[float],
    unit_length: bool = False,
    objective: Objective = "softmax",
) -> Prediction:
    """Logistic regression, one a label where there are several; ridge regression of values.

    Args:
        h: ``(N, D)`` float features, dense or sparse, of all items.
        y: targets of all items.
        draw: what is fitted on, chosen by and predicted.
        kind: of the targets.
        regularisations: values of C, or of 1/α in ridge regression, from small to large.
        unit_length: divide rows by their lengths; else features are standardised by all items that are not
            tested on, without their labels. Sparse features, fingerprints, stay as they are.
        objective: where items have one class each.
    """
    h, mean, scale = _of_unit_length(h, draw) if unit_length else _standardised(h, draw)
    unit = float(scale[0]) if unit_length else 1.0
    strengths = {c * unit**2: c for c in regularisations}  # the same penalty in the units of h
    if kind == "classes":
        fit, val = (Features(h[part], y[part]) for part in (draw.fit, draw.val))
        classify, c = select_classifier(fit, val, list(strengths), objective=objective)
        classify = classify.widened(int(y.max()) + 1)
        head = Head(classify.weight, classify.bias, mean, scale, unit_length, classify.one_vs_rest)
        judged, _ = standing(kind, val.y, classify(val.h))
        return Prediction(classify(h[draw.test]), judged, {"C": strengths[c]}, head=head)
    fit_columns = _logistic_columns if kind == "labels" else _ridge_columns
    score, judged, c, weight, bias = _select(fit_columns(h, y, draw.fit, strengths), h, y, draw, kind)
    return Prediction(score, judged, {"C": strengths[c]}, head=Head(weight, bias, mean, scale, unit_length))


def predict_knn(h: Any, y: np.ndarray, draw: Draw, kind: Kind, *, k: int) -> Prediction:
    """The weighted vote of the k nearest fitted items (arXiv 1805.01978); blanks have no vote."""
    dense: Any = h.toarray() if issparse(h) else h  # type: ignore[attr-defined]
    bank, queries = (torch.from_numpy(dense[part]) for part in (draw.fit, draw.test))
    score = neighbour_vote(bank, torch.from_numpy(y[draw.fit]), queries, k=k).numpy()
    if kind == "classes":
        score = _widened(score, int(y.max()) + 1)
    return Prediction(score, float("nan"), {"k": k})


def predict_svm(h: Any, y: np.ndarray, draw: Draw, kind: Kind) -> Prediction:
    """An RBF support vector machine whose C is chosen by 5-fold cross-validation of all but the test items.

    The protocol of InfoGraph and GraphCL (Sun et al. 2020, arXiv 1908.01000; You et al. 2020, 2010.13902).
    Unlike theirs, one kernel width serves all C, of which there are none below 0.1, and where several classes
    tie in votes the margins decide, not the order of the classes. Features are compressed,
    sign(h) log(1 + |h|), because a sum over nodes has a long tail, by which a few large graphs would set the
    kernel's width, and standardised by the training part. The inner folds are shuffled as the outer ones are:
    files come in an order in which neighbours are alike, by which cross-validation of NCI1 gives 76 % where
    test folds have 80.

    Raises:
        ContrastiveError: targets other than classes, or fewer than five items of one.
    """
    if kind != "classes":
        raise ContrastiveError("the svm takes one class an item; use --method linear")
    train = np.sort(np.concatenate([draw.fit, draw.val]))
    if np.unique(y[train], return_counts=True)[1].min() < 5:
        raise ContrastiveError(
            "the svm chooses C in 5 folds: it needs 5 labels of each class; use --method linear"
        )
    compressed = np.sign(h) * np.log1p(np.abs(h))
    scaled = StandardScaler().fit(compressed[train]).transform(compressed)
    width = 1 / (scaled.shape[1] * scaled[train].var())  # scikit-learn's gamma="scale"
    # computed once: the 26 fits would otherwise spend their time on it
    kernel = rbf_kernel(scaled[train], scaled[train], gamma=width)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = GridSearchCV(SVC(kernel="precomputed"), SVM_GRID, cv=folds).fit(kernel, y[train])
    margins = model.decision_function(rbf_kernel(scaled[draw.test], scaled[train], gamma=width))
    margins = np.stack([-margins, margins], axis=1) if margins.ndim == 1 else margins
    score = np.full((len(margins), int(y.max()) + 1), margins.min() - 1)
    score[:, model.classes_] = margins
    return Prediction(score, float(model.best_score_), model.best_params_)


def _select(
    candidates: Iterable[tuple[float, np.ndarray, np.ndarray]], h: Any, y: np.ndarray, draw: Draw, kind: Kind
) -> tuple[np.ndarray, float, float, np.ndarray, np.ndarray]:
    """Test score, validation metric, C, weight and bias of the first candidate that is best on validation."""
    best: tuple[tuple[float, float], float, np.ndarray, np.ndarray] | None = None
    for c, weight, bias in candidates:
        val = standing(kind, y[draw.val], h[draw.val] @ weight.T + bias)
        if best is None or val > best[0]:
            best = val, c, weight, bias
    assert best is not None
    (metric, _), c, weight, bias = best
    if np.isnan(metric):
        raise ContrastiveError(NO_VALIDATION)
    return h[draw.test] @ weight.T + bias, abs(metric), c, weight, bias


def _logistic_columns(
    h: Any, y: np.ndarray, fit: np.ndarray, strengths: Iterable[float]
) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Each C with weights ``(T, D)`` and biases of log-odds; zeros where the fitted items have one value."""
    both = np.flatnonzero([len(np.unique(column[~np.isnan(column)])) == 2 for column in y[fit].T])
    path = LogisticPath(h[fit], y[fit][:, both]) if len(both) else None
    for c in strengths:
        weight, bias = np.zeros((y.shape[1], h.shape[1])), np.zeros(y.shape[1])
        if path:
            weight[both], bias[both] = path.fit(c)
        yield c, weight, bias


def _ridge_columns(
    h: Any, y: np.ndarray, fit: np.ndarray, strengths: Iterable[float]
) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Each 1/α with weights ``(T, D)`` and biases of values; zeros where nothing is known."""
    for c in strengths:
        weight, bias = np.zeros((y.shape[1], h.shape[1])), np.zeros(y.shape[1])
        for column, truth in enumerate(y.T):
            known = fit[~np.isnan(truth[fit])]
            if len(known):
                with warnings.catch_warnings():  # of a penalty too weak, which validation judges
                    warnings.simplefilter("ignore", LinAlgWarning)
                    model = Ridge(alpha=1 / c).fit(h[known], truth[known])
                weight[column], bias[column] = model.coef_, model.intercept_
        yield c, weight, bias


Scaled = tuple[Any, np.ndarray, np.ndarray]  # features, and the means and scales taken from them


def _of_unit_length(h: Any, draw: Draw) -> Scaled:
    """Rows of length 1 less their mean, in units of what then varies.

    Neither mean nor unit changes what the best classifier is, which has an intercept. But where rows have
    nearly one direction, as an encoder's often do, a solver takes their small differences for convergence: a
    network whose features are worth 93 % was once measured at 64.
    """
    rows = normalize(h)
    if issparse(rows):
        return _unscaled(rows)
    known = np.delete(rows, draw.test, axis=0)
    mean = known.mean(axis=0)
    unit = float(np.sqrt(np.square(known - mean).mean())) or 1.0
    return (rows - mean) / unit, mean, np.full(len(mean), unit)


def _standardised(h: Any, draw: Draw) -> Scaled:
    if issparse(h):
        return _unscaled(h)
    seen = np.ones(len(h), dtype=bool)
    seen[draw.test] = False
    scaler = StandardScaler().fit(h[seen])
    return scaler.transform(h), scaler.mean_, scaler.scale_


def _unscaled(h: Any) -> Scaled:
    return h, np.zeros(h.shape[1]), np.ones(h.shape[1])


def _widened(p: np.ndarray, num_classes: int) -> np.ndarray:
    """Probabilities of all classes, those that were not fitted with 0."""
    return np.pad(p, ((0, 0), (0, num_classes - p.shape[1])))
