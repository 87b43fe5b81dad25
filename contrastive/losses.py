"""Contrastive losses, exact at any batch size and on any number of processes.

Notation, as in the papers: t is the temperature, z_i one of the N = 2B projections of a batch divided by its
length, x_ij = z_i·z_j/t, p(i) the other view of i, 𝒩(i) all rows but i and p(i), and n = N − 2 their number.
With torch.distributed initialised, B counts the pairs of all processes: every process returns the losses of its
own rows, whose negatives come from everywhere.
"""

from __future__ import annotations

import math
import warnings
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contrastive.streaming import cross_logsumexp, self_logsumexp

Reduction = Literal["mean", "none"]


def info_nce(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    negatives: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """InfoNCE of two views (NT-Xent): L_i = −x_ip + log(e^{x_ip} + Σ_{j∈𝒩(i)} e^{x_ij}).

    Args:
        z0: ``(B, D)`` raw projections of the first view, any floating dtype; B ≥ 2.
        z1: ``(B, D)`` raw projections of the second view.
        temperature: t > 0; a tensor ``()`` receives a gradient.
        negatives: ``(K, D)`` further negatives of every row, such as a queue; constants.
        reduction: "mean", or "none" for the loss of each row, first view first.

    Returns:
        ``()``, or ``(2B,)`` with ``reduction="none"``; float32, or float64 where the inputs are.

    Raises:
        ValueError: the shapes, dtypes or hyper-parameters do not fit.

    SimCLR (Chen et al. 2020, arXiv:2002.05709). The same is GRACE's loss of nodes with intra-view negatives
    (Zhu et al. 2020, arXiv:2006.04131).
    """
    positive, log_negatives, _ = _similarities(z0, z1, temperature, negatives=negatives)
    return _reduce(-F.logsigmoid(positive - log_negatives[0]), reduction)


def debiased_info_nce(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    tau_plus: float = 0.1,
    negatives: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Debiased InfoNCE (Chuang et al. 2020, arXiv:2007.00224): some negatives share the class.

    L_i = −x_ip + log(e^{x_ip} + Ng), Ng = max((Σ_𝒩 e^{x_ij} − τ⁺ n e^{x_ip}) / (1 − τ⁺), n e^{−1/t}). See
    `hard_negative_info_nce`, of which this is β = 0, for the arguments and for when the floor n e^{−1/t} binds.
    """
    return hard_negative_info_nce(
        z0, z1, temperature=temperature, tau_plus=tau_plus, beta=0.0, negatives=negatives, reduction=reduction
    )


def hard_negative_info_nce(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    tau_plus: float = 0.1,
    beta: float = 1.0,
    negatives: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Hard-negative InfoNCE (Robinson et al. 2021, arXiv:2010.04592): debiased, near negatives weighing more.

    As `debiased_info_nce` with Σ_𝒩 e^{x_ij} replaced by n Σ_𝒩 e^{(1+β)x_ij} / Σ_𝒩 e^{βx_ij}. As in the authors'
    code gradients flow through the weights e^{βx_ij}.

    A row is *floored*, and has no gradient by its negatives, where the positive is so near that
    τ⁺ e^{x_ip} + (1 − τ⁺) e^{−1/t} exceeds the mean negative. At t ≤ 0.1 with τ⁺ = 0.1 that is every row of a
    trained encoder, since e^{1/t} outgrows any such mean. Raise the temperature or lower τ⁺ then.

    Args:
        z0: ``(B, D)`` raw projections of the first view, any floating dtype; B ≥ 2.
        z1: ``(B, D)`` raw projections of the second view.
        temperature: t > 0; a tensor ``()`` receives a gradient.
        tau_plus: 0 ≤ τ⁺ < 1, the probability that a negative shares the row's class.
        beta: β ≥ 0, how much near negatives weigh.
        negatives: ``(K, D)`` further negatives of every row; constants.
        reduction: "mean", or "none" for the loss of each row, first view first.

    Returns:
        ``()``, or ``(2B,)`` with ``reduction="none"``; float32, or float64 where the inputs are.

    Raises:
        ValueError: the shapes, dtypes or hyper-parameters do not fit.
    """
    rows, _ = _hard_negative_rows(z0, z1, temperature, tau_plus, beta, negatives)
    return _reduce(rows, reduction)


class InfoNCE(nn.Module):
    """`info_nce` as a module.

    Args:
        temperature: t > 0.
    """

    def __init__(self, *, temperature: float = 0.5) -> None:
        super().__init__()
        self.temperature = temperature
        self.metrics: dict[str, Tensor] = {}

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Mean loss, ``()``, of the views ``(B, D)`` and ``(B, D)``."""
        return info_nce(z0, z1, temperature=self.temperature)


class HardNegativeInfoNCE(nn.Module):
    """`hard_negative_info_nce` as a module; ``metrics["floored_fraction"]`` tells how many rows were floored.

    Args:
        temperature: t > 0.
        tau_plus: 0 ≤ τ⁺ < 1, the probability that a negative shares the row's class.
        beta: β ≥ 0, how much near negatives weigh.
    """

    def __init__(self, *, temperature: float = 0.5, tau_plus: float = 0.1, beta: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.tau_plus = tau_plus
        self.beta = beta
        self.metrics: dict[str, Tensor] = {}
        self._calls = 0

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Mean loss, ``()``, of the views ``(B, D)`` and ``(B, D)``."""
        rows, floored = _hard_negative_rows(z0, z1, self.temperature, self.tau_plus, self.beta, None)
        self.metrics["floored_fraction"] = floored.float().mean()
        self._warn_where_floored()
        return rows.mean()

    def _warn_where_floored(self) -> None:
        self._calls += 1
        if self._calls % 100 != 1:  # reading the fraction waits for the device, so not at every step
            return
        fraction = float(self.metrics["floored_fraction"])
        if fraction > 0.5:
            warnings.warn(
                f"{fraction:.0%} of the rows are floored: their positives are so near that the estimate of the "
                f"negatives falls below its minimum, and they learn nothing from negatives. Expected under half: "
                f"raise temperature (now {self.temperature}) or lower tau_plus (now {self.tau_plus}).",
                stacklevel=3,
            )


class DebiasedInfoNCE(HardNegativeInfoNCE):
    """`debiased_info_nce` as a module; ``metrics["floored_fraction"]`` tells how many rows were floored.

    Args:
        temperature: t > 0.
        tau_plus: 0 ≤ τ⁺ < 1, the probability that a negative shares the row's class.
    """

    def __init__(self, *, temperature: float = 0.5, tau_plus: float = 0.1) -> None:
        super().__init__(temperature=temperature, tau_plus=tau_plus, beta=0.0)


def _hard_negative_rows(
    z0: Tensor,
    z1: Tensor,
    temperature: float | Tensor,
    tau_plus: float,
    beta: float,
    negatives: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Loss of every row, ``(2B,)``, and whether it is floored, ``(2B,)`` bool."""
    if not 0 <= tau_plus < 1:
        raise ValueError(f"tau_plus is a probability below 1, but is {tau_plus}; 0 turns debiasing off")
    if beta < 0:
        raise ValueError(f"beta must be at least 0, but is {beta}; 0 weighs all negatives alike")
    positive, log_sums, n = _similarities(z0, z1, temperature, beta=beta, negatives=negatives)
    log_r = log_sums[0] if beta == 0 else math.log(n) + log_sums[0] - log_sums[1]
    log_ng, floored = _debias(positive, log_r, n, 1 / temperature, tau_plus)
    return -F.logsigmoid(positive - log_ng), floored


def _debias(
    positive: Tensor, log_r: Tensor, n: int, scale: float | Tensor, tau_plus: float
) -> tuple[Tensor, Tensor]:
    """log max((R − τ⁺ n e^{x_ip}) / (1 − τ⁺), n e^{−1/t}) from log R, and where the maximum is the floor."""
    if tau_plus == 0:  # R is at least n e^{−1/t} by itself
        return log_r, torch.zeros_like(log_r, dtype=torch.bool)
    floor = math.log(n) - scale
    log_share = math.log(tau_plus * n) + positive - log_r
    with torch.no_grad():
        # NaN, from a difference below zero, compares False
        floored = ~(log_r + torch.log1p(-log_share.exp()) - math.log1p(-tau_plus) > floor)
    # masked before log1p, not after: the gradient of a discarded infinity is NaN
    safe_share = log_share.masked_fill(floored, -1.0)
    debiased = log_r + torch.log1p(-safe_share.exp()) - math.log1p(-tau_plus)
    return torch.where(floored, floor, debiased), floored


def _similarities(
    z0: Tensor, z1: Tensor, temperature: float | Tensor, *, beta: float = 0.0, negatives: Tensor | None = None
) -> tuple[Tensor, Tensor, int]:
    """Positive similarities x_ip ``(2B,)``, log-sum-exps over negatives ``(E, 2B)``, and the number n of negatives."""
    _check(z0, z1, temperature)
    batch_size = len(z0)
    z = _unit(torch.cat([z0, z1]))
    scale = torch.as_tensor(1 / temperature).to(z)
    positive = ((z[:batch_size] * z[batch_size:]).sum(1) * scale).repeat(2)
    log_sums = self_logsumexp(z, scale, beta=beta, excluded=(0, batch_size))
    if negatives is not None:
        queue = _unit(negatives.detach().to(z))
        log_sums = torch.logaddexp(log_sums, cross_logsumexp(z, queue, scale, beta=beta))
    return positive, log_sums, 2 * batch_size - 2 + (0 if negatives is None else len(negatives))


def _unit(z: Tensor) -> Tensor:
    """Rows divided by their lengths, in float32 at least; a zero row stays zero and has no gradient."""
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    largest = z.detach().abs().amax(1, keepdim=True)
    z = z / torch.where(largest > 0, largest, 1)  # so that no square overflows or vanishes
    length = torch.linalg.vector_norm(torch.where(largest > 0, z, 1), dim=1, keepdim=True)
    return z * torch.where(largest > 0, 1 / length, 0)


def _check(z0: Tensor, z1: Tensor, temperature: float | Tensor) -> None:
    if z0.ndim != 2 or z0.shape != z1.shape or not z0.is_floating_point() or len(z0) < 2:
        raise ValueError(
            f"expected two views of at least 2 samples, (B, D) and (B, D) floating point, but was given "
            f"{tuple(z0.shape)} {z0.dtype} and {tuple(z1.shape)} {z1.dtype}"
        )
    if isinstance(temperature, (int, float)) and not temperature > 0:
        raise ValueError(f"temperature must be positive, but is {temperature}; 0.5 suits small batches")


def _reduce(rows: Tensor, reduction: Reduction) -> Tensor:
    if reduction not in ("mean", "none"):
        raise ValueError(f'reduction must be "mean" or "none", but is {reduction!r}')
    return rows.mean() if reduction == "mean" else rows
