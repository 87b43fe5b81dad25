"""Graph classification on frozen features: a support vector machine in nested cross-validation."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from contrastive.errors import ContrastiveError
from contrastive.report import track

GRID = {"C": [0.1, 1.0, 10.0, 100.0, 1000.0]}


def svm_cross_validation(
    h: np.ndarray, y: np.ndarray, *, num_folds: int = 10, seed: int = 0, progress: str | None = None
) -> dict[str, Any]:
    """Test accuracies of an RBF support vector machine in stratified cross-validation, selection inside.

    The protocol of InfoGraph and GraphCL (Sun et al. 2020, arXiv 1908.01000; You et al. 2020, 2010.13902):
    in each fold C is chosen by 5-fold cross-validation of the training part alone.
    Unlike theirs, features are standardised, by the training part, and one kernel width serves all C.

    Args:
        h: ``(G, F)`` float features.
        y: ``(G,)`` int64 classes.
        num_folds: outer folds.
        seed: of the folds.
        progress: what the progress bar says; None shows no bar.

    Returns:
        ``accuracy``, the mean over folds, ``folds``, each one's, and ``val_accuracy``, the mean of what the
        cross-validations inside the folds gave: to compare settings by without looking at the test folds.

    Raises:
        ContrastiveError: a class has fewer graphs than there are folds.
    """
    if np.bincount(y).min() < num_folds:
        raise ContrastiveError(f"a class has fewer graphs than the {num_folds} folds")
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    accuracies, inner = [], []
    for train, test in track(list(folds.split(h, y)), progress):
        scaled = StandardScaler().fit(h[train]).transform(h)
        width = 1 / (scaled.shape[1] * scaled[train].var())  # scikit-learn's gamma="scale"
        # computed once a fold: the 26 fits of a fold would otherwise spend their time on it
        kernel = rbf_kernel(scaled, scaled[train], gamma=width)
        model = GridSearchCV(SVC(kernel="precomputed"), GRID, cv=5).fit(kernel[train], y[train])
        accuracies.append(float(model.score(kernel[test], y[test])))
        inner.append(model.best_score_)
    return {
        "accuracy": float(np.mean(accuracies)),
        "val_accuracy": float(np.mean(inner)),
        "folds": accuracies,
    }
