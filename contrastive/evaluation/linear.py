"""The linear probe: logistic regression (or ridge) on frozen features, its strength chosen on validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.preprocessing import StandardScaler

from contrastive.errors import ContrastiveError
from contrastive.evaluation.draws import labelled_draws
from contrastive.evaluation.logistic import LogisticPath
from contrastive.evaluation.metrics import standing
from contrastive.evaluation.protocol import Objective, Protocol
from contrastive.evaluation.statistics import UNIT, mean_interval, proportion_interval
from contrastive.features import FrozenEncoder
from contrastive.items import encode_items
from contrastive.report import track

REGULARISATIONS = tuple(10.0**k for k in range(-4, 3))


@dataclass(frozen=True)
class LinearClassifier:
    """Probabilities ``(N, K)`` of features ``(N, D)``: the softmax of W h + b, or sigmoids over their sum.

    Attributes:
        weight: ``(K, D)``.
        bias: ``(K,)``; −∞ for a class that was not fitted, which has the probability 0.
        one_vs_rest: whether each class was fitted against the rest.
    """

    weight: np.ndarray
    bias: np.ndarray
    one_vs_rest: bool

    def __call__(self, h: Any) -> np.ndarray:
        """Map features, dense or sparse, to probabilities."""
        logits = h @ self.weight.T.astype(h.dtype) + self.bias.astype(h.dtype)
        if self.one_vs_rest:
            logits = -np.logaddexp(0, -logits)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)

    def widened(self, num_classes: int) -> LinearClassifier:
        """The same with rows for the last classes, none of which was fitted."""
        more = num_classes - len(self.weight)
        weight = np.pad(self.weight, ((0, more), (0, 0)))
        return replace(self, weight=weight, bias=np.pad(self.bias, (0, more), constant_values=-np.inf))


@dataclass(frozen=True)
class Features:
    """Features ``(N, D)`` float32 with the classes of the samples, ``(N,)`` int64, as NumPy arrays."""

    h: np.ndarray
    y: np.ndarray

    def take(self, index: np.ndarray) -> Features:
        """The samples at ``index``."""
        return Features(self.h[index], self.y[index])


def features_of(encoder: FrozenEncoder, dataset: Any) -> Features:
    """Encode a labelled data set, of images or of graphs."""
    return Features(encode_items(encoder, dataset), dataset.labels.numpy())


def linear_probe(
    train: Features, test: Features, protocol: Protocol, *, progress: str | None = None
) -> dict[str, Any]:
    """Fit a logistic regression on each draw of the training labels and test it.

    Args:
        train: the training split's features, before validation is set aside.
        test: the test split's.
        protocol: what is drawn, and how often.
        progress: what the progress bar says; None shows no bar.

    Returns:
        ``accuracy_mean`` and ``accuracy_ci95`` (of the mean over draws; with one draw, Wilson's over test
        samples), ``num_draws``, and ``regularisations``: the C that each draw chose.
    """
    scaler = StandardScaler().fit(train.h)
    train, test = (replace(part, h=scaler.transform(part.h)) for part in (train, test))
    accuracies, chosen = [], []
    for fit, val in track(list(labelled_draws(train.y, protocol)), progress):
        classify, c = select_classifier(train.take(fit), train.take(val), objective=protocol.objective)
        accuracies.append(float((classify(test.h).argmax(1) == test.y).mean()))
        chosen.append(c)
    mean, interval = mean_interval(accuracies, within=UNIT)
    if len(accuracies) == 1:
        interval = proportion_interval(round(mean * len(test.y)), len(test.y))
    return {
        "accuracy_mean": mean,
        "accuracy_ci95": list(interval),
        "num_draws": len(accuracies),
        "regularisations": chosen,
    }


def select_classifier(
    fit: Features,
    val: Features,
    regularisations: Sequence[float] = REGULARISATIONS,
    *,
    objective: Objective = "softmax",
) -> tuple[LinearClassifier, float]:
    """Fit a classifier for each C; return the one with the best validation accuracy, and its C.

    Few validation items leave many ties: the smaller cross-entropy decides them. Taking the smallest C of
    equals cost two points with one label a class, measured on training digits that were neither fitted on
    nor chosen by.
    """
    best: tuple[tuple[float, float], LinearClassifier, float] | None = None
    num_classes = int(max(fit.y.max(), val.y.max(initial=0))) + 1  # a rare one may be in one part alone
    for c, classify in fit_path(fit, regularisations, objective):
        classify = classify.widened(num_classes)
        key = standing("classes", val.y, classify(val.h)) if len(val.y) else (0.0, 0.0)
        if best is None or key > best[0]:
            best = key, classify, c
    assert best is not None
    return best[1:]


def fit_path(
    fit: Features, regularisations: Sequence[float], objective: Objective = "softmax"
) -> Iterator[tuple[float, LinearClassifier]]:
    """Yield a fitted classifier for each C, the next one starting from the last.

    The objective is scikit-learn's: the sum of the cross-entropies times C, plus ½‖W‖²; of the softmax over
    the classes, or of each class against the rest.
    """
    classes = np.unique(fit.y)
    if classes.min(initial=0) < 0:
        raise ContrastiveError(f"a label is {classes.min()}, which is no class: leave out items without one")
    if len(classes) < 2:
        raise ContrastiveError(
            f"the {len(fit.y)} labelled items to fit on are of one class; give more labels a class"
        )
    rest = objective == "one_vs_rest" or len(classes) == 2  # scikit-learn's function of two classes
    y = np.searchsorted(classes, fit.y)
    if rest:  # of two classes one column is enough
        y = (y[:, None] == np.arange(len(classes))[-1 if len(classes) == 2 else 0 :]).astype(np.float32)
    path = LogisticPath(fit.h, y)
    for c in regularisations:
        yield c, _classifier(*path.fit(c), classes, rest)


def _classifier(
    weight: np.ndarray, bias: np.ndarray, classes: np.ndarray, one_vs_rest: bool
) -> LinearClassifier:
    """The classifier of the weights fitted for some classes."""
    if len(weight) == 1:  # scikit-learn's binary case: the weights of the second class against the first
        weight, bias = np.vstack([-weight, weight]), np.concatenate([-bias, bias])
    size = int(classes.max()) + 1
    whole = np.zeros((size, weight.shape[1]), weight.dtype), np.full(size, -np.inf, bias.dtype)
    for part, fitted in zip(whole, (weight, bias)):
        part[classes] = fitted
    return LinearClassifier(*whole, one_vs_rest)
