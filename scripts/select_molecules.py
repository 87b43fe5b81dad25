"""Choose between pretrained encoders of molecules without a test label: cross-validated frozen ROC-AUC.

    python scripts/select_molecules.py '[RUN, RUN]' --data FOLDER_OF_MOLECULENET

Takes the training and validation parts of each set's scaffold split, deals their scaffolds to five folds,
and predicts each fold by a ridge regression on the others' frozen features. The test part is dropped before
anything is encoded. Ridge regression stands in for the probe's logistic regression: all its strengths cost
one decomposition.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluate_molecules import TARGETS, columns, names_in
from jsonargparse import auto_cli
from sklearn.model_selection import GroupKFold
from torch import Tensor

from contrastive.data.molecules import MoleculeDataset, read_molecules
from contrastive.data.splits import scaffold, scaffold_split
from contrastive.errors import ContrastiveError
from contrastive.evaluation.roc_auc import mean_roc_auc
from contrastive.evaluation.runs import run_names
from contrastive.features import load_encoder, untrained_like
from contrastive.items import encode_items

STRENGTHS = tuple(10.0**k for k in range(6))  # ridge penalties of standardised features


def select(
    runs: list[str],
    *,
    data: str,
    untrained_seeds: int = 2,
    num_threads: int | None = None,
    cache_dir: str | None = None,
) -> None:
    """Print the cross-validated ROC-AUC of runs and of their untrained encoders.

    Args:
        runs: run folders, checkpoints or exports.
        data: the folder of MoleculeNet's CSV files.
        untrained_seeds: of the untrained encoders of each run's architecture.
        num_threads: of torch.
        cache_dir: where features of molecules are kept (default: ~/.cache/contrastive).
    """
    logging.basicConfig(format="%(message)s")
    if num_threads:
        torch.set_num_threads(num_threads)
    sets = labelled_sets(data, cache_dir)
    print(f"| ROC-AUC, % | {' | '.join(sets)} | mean |\n{'|---' * (len(sets) + 2)}|")
    for name, run in zip(run_names(runs), runs):
        encoder = load_encoder(run)
        encoders = {
            f"{name}, untrained, seed {i}": untrained_like(encoder, i) for i in range(untrained_seeds)
        }
        for title, one in {name: encoder, **encoders}.items():
            scores = {
                key: cross_validated(torch.from_numpy(encode_items(one, part)), y, fold)
                for key, (part, y, fold) in sets.items()
            }
            print(row(title, scores), flush=True)


def row(title: str, scores: dict[str, float]) -> str:
    """A line of the table."""
    cells = [*scores.values(), float(np.mean(list(scores.values())))]
    return f"| {title} | {' | '.join(f'{100 * cell:.1f}' for cell in cells)} |"


def labelled_sets(
    data: str, cache_dir: str | None
) -> dict[str, tuple[MoleculeDataset, np.ndarray, np.ndarray]]:
    """Training and validation molecules of each set, their targets, and the fold of each.

    Raises:
        ContrastiveError: the folder holds none of the sets.
    """
    sets = {}
    for name in names_in(data):
        file = Path(data) / f"{name}.csv"
        dataset = read_molecules(file, targets=TARGETS[name] or columns(file), cache_dir=cache_dir)
        parts = scaffold_split(dataset.smiles)
        seen = dataset.subset(np.sort(np.concatenate([parts.train, parts.val])))
        _, groups = np.unique([scaffold(smiles) for smiles in seen.smiles], return_inverse=True)
        fold = np.zeros(len(seen), dtype=np.int64)
        for i, (_, held_out) in enumerate(GroupKFold(5).split(groups, groups=groups)):
            fold[held_out] = i
        assert seen.labels is not None
        sets[name] = seen, seen.labels.numpy(), fold
    return sets


def cross_validated(h: Tensor, y: np.ndarray, fold: np.ndarray) -> float:
    """Mean ROC-AUC over the folds, of the penalty with the best mean.

    Args:
        h: ``(N, D)`` features.
        y: ``(N, T)`` of 0, 1 and NaN.
        fold: ``(N,)`` int64.
    """
    values = []
    for i in range(int(fold.max()) + 1):
        held_out = fold == i
        mean, std = h[~held_out].mean(0), h[~held_out].std(0)
        inputs = (h - mean) / torch.where(std > 1e-6, std, torch.inf)
        score = ridge_scores(inputs[~held_out], torch.from_numpy(y[~held_out]), inputs[held_out])
        values.append([mean_roc_auc(y[held_out], one) for one in score.numpy()])
    return float(np.nanmean(values, axis=0).max())


def ridge_scores(h: Tensor, y: Tensor, held_out: Tensor) -> Tensor:
    """``(len(STRENGTHS), N, T)`` predictions of ridge regressions of ±1, one a task, of its known labels."""
    score = torch.zeros(len(STRENGTHS), len(held_out), y.shape[1], dtype=h.dtype)
    decomposed: dict[bytes, Any] = {}  # tasks with the same known molecules share it
    for task, column in enumerate(y.T):
        known = ~column.isnan()
        x, target = h[known], 2 * column[known].to(h.dtype) - 1
        key = known.numpy().tobytes()
        if key not in decomposed:
            decomposed[key] = torch.linalg.eigh(x.T @ x)
        values, vectors = decomposed[key]
        inner = vectors.T @ (x.T @ (target - target.mean()))
        for i, strength in enumerate(STRENGTHS):
            score[i, :, task] = held_out @ (vectors @ (inner / (values.clamp(min=0) + strength)))
    return score


if __name__ == "__main__":
    try:
        auto_cli(select)
    except ContrastiveError as error:
        sys.exit(f"error: {error}")
