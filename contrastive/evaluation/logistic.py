"""Logistic regression to its minimum, for one strength after another: L-BFGS in well-scaled variables."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from contrastive.features import accelerator

_LARGE = 20_000_000  # samples × features from which on the work is in float32, on the accelerator if any
_CURVED = 10_000  # samples at most that the curvature is taken from


class LogisticPath:
    """The minimum over W and b of the sum of cross-entropies times C, plus ½‖W‖², at one C after another.

    It is scikit-learn's objective: of the softmax over the classes, or of one sigmoid a column, all columns
    solved together. Two changes of variables leave the minimum where it is and save most of the steps. Dense
    features are turned into their principal axes, of which there are no more than samples. And weights are
    counted in units of one over the root of the curvature, Σ p (1−p) h² + 1/C, where the C before ended: so a
    gradient of 1e-5 of the mean over samples, at which the steps end, is some 1e-8 above the minimum.

    Args:
        h: ``(N, D)`` features, dense or sparse, best of about unit variance.
        y: ``(N,)`` int64 classes ``0 … K−1``, each of which occurs, for the softmax; or ``(N, K)`` float
            columns of 0, 1 and NaN where unknown, each of which has both.
    """

    def __init__(self, h: Any, y: np.ndarray) -> None:
        large = h.shape[0] * h.shape[1] > _LARGE
        device, dtype = (accelerator(), torch.float32) if large else ("cpu", torch.float64)
        rows = torch.from_numpy(h if isinstance(h, np.ndarray) else h.toarray()).to(device, dtype)
        self.axes = principal_axes(rows)
        self.h = rows @ self.axes
        self.y = torch.from_numpy(y).to(device)
        num_outputs = int(y.max()) + 1 if y.ndim == 1 else y.shape[1]
        self.weight = torch.zeros(num_outputs, self.h.shape[1], device=device, dtype=dtype)
        self.bias = torch.zeros(num_outputs, device=device, dtype=dtype)

    def fit(self, c: float) -> tuple[np.ndarray, np.ndarray]:
        """The weights ``(K, D)`` and biases ``(K,)`` at ``c``, float64; starts where the C before ended."""
        n, unit = len(self.y), self._units(c)

        def weights(flat: np.ndarray) -> tuple[Tensor, Tensor]:
            both = torch.from_numpy(flat).to(unit).view_as(unit) * unit
            return both[:, :-1].contiguous(), both[:, -1]

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            """Of the means over samples: the value and its gradient."""
            weight, bias = weights(flat)
            loss, slope = _cross_entropy(F.linear(self.h, weight, bias), self.y)
            loss = loss + weight.double().square().sum() / (2 * c)
            gradient = torch.column_stack([slope.T @ self.h + weight / c, slope.sum(0)])
            return float(loss) / n, (gradient * unit / n).double().cpu().numpy().ravel()

        start: Any = (torch.column_stack([self.weight, self.bias]) / unit).double().cpu().numpy().ravel()
        exact = unit.dtype == torch.float64
        options: Any = {"maxcor": 10, "maxiter": 2000, "gtol": 1e-5 if exact else 1e-4}
        options["ftol"] = 1e-13 if exact else 1e-9
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        self.weight, self.bias = weights(found.x)
        return (self.weight @ self.axes.T).double().cpu().numpy(), self.bias.double().cpu().numpy()

    def _units(self, c: float) -> Tensor:
        """One over the root of the curvature of each weight, and in the last column of each bias."""
        n = len(self.y)
        some = slice(None, None, 1 + n // _CURVED)
        h, y = self.h[some], self.y[some]
        z = F.linear(h, self.weight, self.bias)
        p = z.softmax(1) if y.ndim == 1 else z.sigmoid()
        bend = p * (1 - p) / len(y)
        if y.ndim == 2:
            bend = bend * ~y.isnan()
        of_bias = bend.sum(0)
        of_bias = of_bias.clamp_min(1e-3 * float(of_bias.max()) + 1e-12)
        return torch.column_stack([bend.T @ h.square() + 1 / (c * n), of_bias]).rsqrt()


def principal_axes(h: Tensor) -> Tensor:
    """The axes ``(D, R)``, R ≤ min(N, D), that ``h`` ``(N, D)`` spans, up to rounding."""
    n, d = h.shape
    if n >= d:
        return torch.linalg.eigh(h.T @ h)[1]
    squares, vectors = torch.linalg.eigh(h @ h.T)
    kept = squares > n * torch.finfo(h.dtype).eps * squares.max()
    return h.T @ (vectors[:, kept] / squares[kept].sqrt())


def _cross_entropy(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the cross-entropies ``()`` float64 of logits ``(N, K)``, and its gradient by them."""
    if y.ndim == 1:
        log_p, place = z.log_softmax(1), y[:, None]
        slope = log_p.exp()
        slope.scatter_add_(1, place, slope.new_full((1, 1), -1).expand(len(y), 1))
        return -log_p.gather(1, place).double().sum(), slope
    known, truth = ~y.isnan(), y.nan_to_num().to(z)
    loss = ((F.softplus(z) - z * truth) * known).sum(1).double().sum()
    return loss, (z.sigmoid() - truth) * known
