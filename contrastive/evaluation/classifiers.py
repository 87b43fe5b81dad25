"""Predictions from frozen features: a linear model, nearest neighbours, or a support vector machine."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.linalg import LinAlgWarning
from scipy.sparse import issparse
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.svm import SVC

from contrastive.errors import ContrastiveError
from contrastive.evaluation.knn import neighbour_vote
from contrastive.evaluation.linear import Features, select_classifier
from contrastive.evaluation.metrics import LOWER_IS_BETTER, PRIMARY, Kind, measure
from contrastive.evaluation.protocol import Draw, Objective

SVM_GRID = {"C": [0.1, 1.0, 10.0, 100.0, 1000.0]}


class Prediction(NamedTuple):
    """What a classifier says of the test items of a draw.

    Attributes:
        score: as ``contrastive.evaluation.metrics.measure`` takes it.
        val: the primary metric on validation, of what was chosen.
        chosen: what was chosen by validation, such as ``{"C": 0.1}``.
        last: the score by the last epoch's weights, where it was asked for.
    """

    score: np.ndarray
    val: float
    chosen: dict[str, float]
    last: np.ndarray | None = None


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
    unit = 1.0
    if unit_length:
        h, unit = _of_unit_length(h, draw)
    elif not issparse(h):
        h = _standardised(h, draw)
    strengths = {c * unit**2: c for c in regularisations}  # the same penalty in the units of h
    if kind == "classes":
        classify, c = select_classifier(
            Features(h[draw.fit], y[draw.fit]),
            Features(h[draw.val], y[draw.val]),
            list(strengths),
            objective=objective,
        )
        score = _widened(classify(h[draw.test]), int(y.max()) + 1)
        val = _widened(classify(h[draw.val]), int(y.max()) + 1)
        return Prediction(score, measure(kind, y[draw.val], val)["accuracy"], {"C": strengths[c]})
    fit_columns = _logistic_columns if kind == "labels" else _ridge_columns

    def candidate(c: float) -> tuple[dict[str, float], Callable[[np.ndarray], np.ndarray]]:
        return {"C": strengths[c]}, lambda part: fit_columns(h, y, draw.fit, part, c)

    return _select([candidate(c) for c in strengths], y, draw, kind)


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
    Unlike theirs, one kernel width serves all C. Features are compressed, sign(h) log(1 + |h|), because a sum
    over nodes has a long tail, by which a few large graphs would set the kernel's width, and standardised by
    the training part. The inner folds are shuffled as the outer ones are: files come in an order in which
    neighbours are alike, by which cross-validation of NCI1 gives 76 % where test folds have 80.

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
    candidates: Sequence[tuple[dict[str, float], Callable[[np.ndarray], np.ndarray]]],
    y: np.ndarray,
    draw: Draw,
    kind: Kind,
) -> Prediction:
    """The first candidate that is best on validation; a candidate predicts the items it is given."""
    metric = PRIMARY[kind]
    sign = -1 if metric in LOWER_IS_BETTER else 1
    held_out = np.concatenate([draw.val, draw.test])
    best: Prediction | None = None
    for chosen, predict in candidates:
        score = predict(held_out)
        val = measure(kind, y[draw.val], score[: len(draw.val)])[metric]
        if best is None or sign * val > sign * best.val:
            best = Prediction(score[len(draw.val) :], val, chosen)
    assert best is not None
    if np.isnan(best.val):
        raise ContrastiveError(
            "no target has two values in the validation part; split at random, or give more items"
        )
    return best


def _logistic_columns(h: Any, y: np.ndarray, fit: np.ndarray, part: np.ndarray, c: float) -> np.ndarray:
    """Log-odds of each label; zeros where the fitted items have one value only."""
    score = np.zeros((len(part), y.shape[1]))
    for column, truth in enumerate(y.T):
        known = fit[~np.isnan(truth[fit])]
        if len(np.unique(truth[known])) == 2:
            model = LogisticRegression(C=c, max_iter=1000, tol=1e-3).fit(h[known], truth[known])
            score[:, column] = model.decision_function(h[part])
    return score


def _ridge_columns(h: Any, y: np.ndarray, fit: np.ndarray, part: np.ndarray, c: float) -> np.ndarray:
    score = np.zeros((len(part), y.shape[1]))
    for column, truth in enumerate(y.T):
        known = fit[~np.isnan(truth[fit])]
        if len(known):
            with warnings.catch_warnings():  # a weak penalty of more columns than rows; validation judges it
                warnings.simplefilter("ignore", LinAlgWarning)
                score[:, column] = Ridge(alpha=1 / c).fit(h[known], truth[known]).predict(h[part])
    return score


def _of_unit_length(h: Any, draw: Draw) -> tuple[Any, float]:
    """Rows of length 1 less their mean, in units of what then varies, and that unit.

    Neither mean nor unit changes what the best classifier is, which has an intercept. But where rows have
    nearly one direction, as an encoder's often do, a solver takes their small differences for convergence: a
    network whose features are worth 93 % was once measured at 64.
    """
    rows = normalize(h)
    if issparse(rows):
        return rows, 1.0
    known = np.delete(rows, draw.test, axis=0)
    mean = known.mean(axis=0)
    unit = float(np.sqrt(np.square(known - mean).mean())) or 1.0
    return (rows - mean) / unit, unit


def _standardised(h: np.ndarray, draw: Draw) -> np.ndarray:
    seen = np.ones(len(h), dtype=bool)
    seen[draw.test] = False
    return StandardScaler().fit(h[seen]).transform(h)


def _widened(p: np.ndarray, num_classes: int) -> np.ndarray:
    """Probabilities of all classes, those that were not fitted with 0."""
    return np.pad(p, ((0, 0), (0, num_classes - p.shape[1])))
