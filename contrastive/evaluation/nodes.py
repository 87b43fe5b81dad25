"""Node classification on frozen features: logistic regression, on the public split or on random ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

REGULARISATIONS = tuple(10.0**k for k in range(-2, 6))
Split = tuple[np.ndarray, np.ndarray, np.ndarray]


def node_probe(h: np.ndarray, y: np.ndarray, split: Split) -> dict[str, float]:
    """Fit logistic regressions on the training nodes, choose C on validation, and test once.

    The protocol of DGI and GRACE (Veličković et al. 2019, arXiv 1809.10341; Zhu et al. 2020, 2006.04131):
    rows are divided by their lengths first.

    Args:
        h: ``(N, F)`` float features of all nodes.
        y: ``(N,)`` int64 classes.
        split: training, validation and test nodes.

    Returns:
        ``accuracy`` on the test nodes and ``val_accuracy``, of the smallest C that is best on validation,
        and that ``c``.
    """
    h = normalize(h)
    train, val, test = split
    model = LogisticRegression(max_iter=300, tol=1e-3, warm_start=True)
    best = {"accuracy": 0.0, "val_accuracy": -1.0, "c": 0.0}
    for c in REGULARISATIONS:
        model.set_params(C=c).fit(h[train], y[train])
        val_accuracy = float(model.score(h[val], y[val]))
        if val_accuracy > best["val_accuracy"]:
            best = {"accuracy": float(model.score(h[test], y[test])), "val_accuracy": val_accuracy, "c": c}
    return best


def random_splits(
    num_nodes: int, *, num_splits: int = 20, train: float = 0.1, val: float = 0.1, seed: int = 0
) -> Iterator[Split]:
    """Random splits of the nodes, by default 10 % for training, 10 % for validation and 80 % for testing.

    Args:
        num_nodes: N.
        num_splits: how many.
        train: share of the training nodes.
        val: share of the validation nodes.
        seed: of the draws.
    """
    num_train, num_val = round(train * num_nodes), round(val * num_nodes)
    for i in range(num_splits):
        order = np.random.default_rng((seed, i)).permutation(num_nodes)
        yield order[:num_train], order[num_train : num_train + num_val], order[num_train + num_val :]
