"""Labels of nodes as arrays hold them: classes by number or by name, or targets."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from contrastive.data.loading import MAX_CLASSES
from contrastive.errors import ContrastiveError


def targets_of(y: np.ndarray, name: str = "y") -> Tensor:
    """Labels as they are used: ``(N,)`` whole numbers are int64 classes, all else float32 ``(N, T)`` targets.

    One column is as none. A class that is not known is -1, or not finite; a target that is not finite is NaN.

    Raises:
        ContrastiveError: a class below -1, or so large that it stands for something else; ``name`` is named.
    """
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim == 1 and (y.dtype.kind in "iub" or bool((~np.isfinite(y) | (y == np.round(y))).all())):
        y = np.where(np.isfinite(y), y, -1.0) if y.dtype.kind == "f" else y
        wrong = ((y < -1) | (y >= MAX_CLASSES)).nonzero()[0]
        if len(wrong):
            raise ContrastiveError(
                f"{name} is {y[wrong[0]]} in row {wrong[0]} ({len(wrong)} such rows); number classes from 0"
            )
        return torch.from_numpy(y.astype(np.int64))
    y = y.reshape(len(y), -1).astype(np.float32)
    return torch.from_numpy(np.where(np.isfinite(y), y, np.nan).astype(np.float32))


def named_targets_of(y: np.ndarray, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """Classes by their names, numbered in the names' order, or `targets_of` without names.

    A class that is not known is -1: of a name that is empty, None or NaN.
    """
    if y.dtype.kind == "O":
        values = y.reshape(-1).tolist()
        blank = [value is None or (isinstance(value, float) and math.isnan(value)) for value in values]
        named = [isinstance(value, str | bytes) for value in values]
        odd = next((i for i in range(len(values)) if any(named) and not named[i] and not blank[i]), None)
        if odd is not None:
            raise ContrastiveError(
                f"{name} in row {odd} is {values[odd]!r}; give classes by name, or by number"
            )
        y = np.where(np.reshape(blank, y.shape), "" if any(named) else np.nan, y)
        y = np.array(y.tolist())
    if y.dtype.kind not in "US":
        return targets_of(y, name), ()
    words = y.astype(str)
    if words.size != len(words):
        raise ContrastiveError(f"{name} has words of the shape {words.shape}; give one class a node, (N,)")
    known = words.reshape(-1) != ""
    labels = np.full(len(words), -1)
    classes, labels[known] = np.unique(words.reshape(-1)[known], return_inverse=True)
    return torch.from_numpy(labels), tuple(map(str, classes))
