"""Labels of nodes as arrays hold them: classes by number or by name, or targets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from contrastive.data.loading import MAX_CLASSES
from contrastive.errors import ContrastiveError


def targets_of(y: np.ndarray, name: str = "y") -> Tensor:
    """Labels as they are used: ``(N,)`` whole numbers are int64 classes, all else float32 ``(N, T)`` targets.

    One column is as none. A number that is not finite is a blank, NaN.

    Raises:
        ContrastiveError: a class below 0, or so large that it stands for something else; ``name`` is named.
    """
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim == 1 and (y.dtype.kind in "iub" or bool((np.isfinite(y) & (y == np.round(y))).all())):
        wrong = ((y < 0) | (y >= MAX_CLASSES)).nonzero()[0]
        if len(wrong):
            raise ContrastiveError(
                f"{name} is {y[wrong[0]]} in row {wrong[0]} ({len(wrong)} such rows); number classes from 0"
            )
        return torch.from_numpy(y.astype(np.int64))
    y = y.reshape(len(y), -1).astype(np.float32)
    return torch.from_numpy(np.where(np.isfinite(y), y, np.nan).astype(np.float32))


def named_targets_of(y: np.ndarray, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """Classes by their names, numbered in the names' order, or `targets_of` without names."""
    if y.dtype.kind == "O":
        values = y.reshape(-1).tolist()
        named = [isinstance(value, str | bytes) for value in values]
        odd = next((i for i, v in enumerate(values) if v is None or (any(named) and not named[i])), None)
        if odd is not None:
            raise ContrastiveError(f"{name} in row {odd} is {values[odd]!r}; give every node its class")
        y = np.array(y.tolist())
    if y.dtype.kind not in "US":
        return targets_of(y, name), ()
    words = y.astype(str)
    if words.size != len(words):
        raise ContrastiveError(f"{name} has words of the shape {words.shape}; give one class a node, (N,)")
    if (words == "").any():
        raise ContrastiveError(f"{name} is empty in row {(words == '').argmax()}; give every node its class")
    classes, numbers = np.unique(words.reshape(-1), return_inverse=True)
    return torch.from_numpy(numbers), tuple(map(str, classes))
