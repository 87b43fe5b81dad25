"""Contrastive losses, exact at any batch size and on any number of processes.

Notation, as in the papers: t is the temperature, z_i one of the N = 2B projections of a batch divided by its
length, x_ij = z_i·z_j/t, p(i) the other view of i, 𝒩(i) all rows but i and p(i), n = N − 2 their number.
With torch.distributed initialised, B counts the pairs of all processes: each returns the losses of its own
rows, whose negatives come from everywhere, so that the mean over processes is the loss of the whole batch.

Every loss takes raw projections of any floating dtype, computes in float32 at least, and gives a scalar mean,
or with ``reduction="none"`` the loss of each row, ``(2B,)``, first view first. A temperature that is a tensor
``()`` receives a gradient. Shapes, dtypes and hyper-parameters that do not fit raise ValueError.
"""

from __future__ import annotations

import math
import warnings
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contrastive import distributed
from contrastive.projections import Temperature, require_positive, require_views, scale_of, unit
from contrastive.streaming import cross_logsumexp, paired_logsumexp, self_logsumexp

Reduction = Literal["mean", "none"]


def info_nce(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: Temperature = 0.5,
    negatives: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """InfoNCE of two views (NT-Xent): L_i = −x_ip + log(e^{x_ip} + Σ_{j∈𝒩(i)} e^{x_ij}).

    Args:
        z0: ``(B, D)`` projections of the first view, B ≥ 2.
        z1: ``(B, D)`` projections of the second view.
        temperature: t > 0.
        negatives: ``(K, D)`` further negatives of every row, the same on every process; constants.
        reduction: "mean" or "none".

    SimCLR (Chen et al. 2020, arXiv:2002.05709). It is GRACE's loss of nodes too, with negatives between and
    within the views (Zhu et al. 2020, arXiv:2006.04131); `cross_modal_info_nce` has those between only.
    """
    positive, log_sums, _ = _similarities(z0, z1, temperature, negatives=negatives)
    return _reduce(-F.logsigmoid(positive - log_sums[0]), reduction)


def debiased_info_nce(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: Temperature = 0.5,
    tau_plus: float = 0.1,
    negatives: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Debiased InfoNCE (Chuang et al. 2020, arXiv:2007.00224): some negatives share the class.

    L_i = −x_ip + log(e^{x_ip} + Ng), Ng = max((Σ_𝒩 e^{x_ij} − τ⁺ n e^{x_ip}) / (1 − τ⁺), n e^{−1/t}). It is
    `hard_negative_info_nce` at β = 0: see there for the arguments, and for when the floor n e^{−1/t} binds.
    """
    rows, _ = _hard_negative_rows(z0, z1, temperature, tau_plus, 0.0, negatives)
    return _reduce(rows, reduction)


def hard_negative_info_nce(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: Temperature = 0.5,
    tau_plus: float = 0.1,
    beta: float = 1.0,
    negatives: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Hard-negative InfoNCE (Robinson et al. 2021, arXiv:2010.04592): near negatives weigh more.

    `debiased_info_nce` with Σ_𝒩 e^{x_ij} replaced by n Σ_𝒩 e^{(1+β)x_ij} / Σ_𝒩 e^{βx_ij}. As in the authors'
    code gradients flow through the weights e^{βx_ij}.

    A row is *floored*, and has no gradient by its negatives, where its positive is so near that
    τ⁺ e^{x_ip} + (1 − τ⁺) e^{−1/t} exceeds the (weighted) mean of e^{x_ij} over its negatives. At t ≤ 0.1
    with τ⁺ = 0.1 that is every row whose positive is near, since e^{1/t} outgrows any such mean: raise the
    temperature or lower τ⁺. The modules log and warn about the fraction of floored rows.

    Args:
        z0: ``(B, D)`` projections of the first view, B ≥ 2.
        z1: ``(B, D)`` projections of the second view.
        temperature: t > 0.
        tau_plus: 0 ≤ τ⁺ < 1, the probability that a negative shares the row's class.
        beta: β ≥ 0, how much near negatives weigh.
        negatives: ``(K, D)`` further negatives of every row, the same on every process; constants.
        reduction: "mean" or "none".
    """
    rows, _ = _hard_negative_rows(z0, z1, temperature, tau_plus, beta, negatives)
    return _reduce(rows, reduction)


def decoupled_info_nce(
    z0: Tensor, z1: Tensor, *, temperature: Temperature = 0.1, reduction: Reduction = "mean"
) -> Tensor:
    """Decoupled contrastive loss (Yeh et al. 2021, arXiv:2110.06848): L_i = −x_ip + log Σ_{j∈𝒩(i)} e^{x_ij}.

    `info_nce` without the positive in the denominator, for small batches. It is not the *debiased* loss.
    """
    positive, log_sums, _ = _similarities(z0, z1, temperature)
    return _reduce(log_sums[0] - positive, reduction)


def supervised_info_nce(
    z0: Tensor,
    z1: Tensor,
    labels: Tensor,
    *,
    temperature: Temperature = 0.1,
    positives: Literal["all", "across"] = "all",
    reduction: Reduction = "mean",
) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, arXiv:2004.11362): all rows of a class are positives.

    L_i = −1/|P(i)| Σ_{p∈P(i)} x_ip + log Σ_{j≠i} e^{x_ij}, the paper's L_out without its factor t/t_base. The
    mean positive is a product with the class's sum, so many positives cost no more than one.

    Args:
        z0: ``(B, D)`` projections of the first view, B ≥ 2.
        z1: ``(B, D)`` projections of the second view.
        labels: ``(B,)`` integer classes; -1 is one as any other: leave out samples whose class is not known.
        temperature: t > 0.
        positives: "all" rows of the class but i itself, or only those "across", in the other view.
        reduction: "mean" or "none".
    """
    require_views(z0, z1, temperature)
    if labels.shape != z0.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"expected an integer label a sample, ({len(z0)},), not {tuple(labels.shape)} {labels.dtype}"
        )
    if positives not in ("all", "across"):
        raise ValueError(f'positives must be "all" or "across", but is {positives!r}')
    views = unit(torch.cat([z0, z1])).unflatten(0, (2, -1))
    classes = distributed.gather(labels).unique()
    label = torch.searchsorted(classes, labels)
    # the last column of ones counts the members of each class
    members = torch.cat([views, views.new_ones(2, len(z0), 1)], dim=2)
    sums = distributed.sum_over_ranks(
        views.new_zeros(2, len(classes), members.shape[2]).index_add(1, label, members)
    )
    targets = sums.flip(0)[:, label] if positives == "across" else sums.sum(0)[label] - members
    scale = scale_of(temperature, views)
    positive = (views * targets[..., :-1]).sum(2) / targets[..., -1] * scale
    return _reduce(_log_sums(views.flatten(0, 1), scale, 0.0, (0,), None)[0] - positive.flatten(), reduction)


def queue_info_nce(
    q: Tensor, k: Tensor, queue: Tensor, *, temperature: Temperature = 0.07, reduction: Reduction = "mean"
) -> Tensor:
    """MoCo's InfoNCE (He et al. 2020, arXiv:1911.05722): one positive key, all negatives from a queue.

    L_i = −x_i + log(e^{x_i} + Σ_j e^{q_i·queue_j/t}) with x_i = q_i·k_i/t. The queue is a constant and is not
    gathered: every process holds its own, or all the same.

    Args:
        q: ``(B, D)`` queries.
        k: ``(B, D)`` keys, the positives; usually without gradient.
        queue: ``(K, D)`` keys of earlier batches, K ≥ 1.
        temperature: t > 0.
        reduction: "mean", or "none" for ``(B,)``.
    """
    require_views(q, k, temperature, at_least=1)
    q, k = unit(q), unit(k)
    scale = scale_of(temperature, q)
    positive = (q * k).sum(1) * scale
    return _reduce(-F.logsigmoid(positive - _queue_log_sums(q, queue, scale, 0.0)[0]), reduction)


def cross_modal_info_nce(
    z0: Tensor, z1: Tensor, *, temperature: Temperature = 0.07, reduction: Reduction = "mean"
) -> Tensor:
    """CLIP's InfoNCE (Radford et al. 2021, arXiv:2103.00020): the negatives are the other side's rows.

    L_i = −x_ip + log Σ_j e^{x_ij} over the other side's rows j, both ways. For two views of one kind it is
    InfoNCE without negatives from within the view.

    Args:
        z0: ``(B, D)`` projections of the one modality, B ≥ 2.
        z1: ``(B, D)`` projections of the other.
        temperature: t > 0.
        reduction: "mean" or "none".
    """
    require_views(z0, z1, temperature)
    sides = torch.stack([unit(z0), unit(z1)])
    scale = scale_of(temperature, sides)
    positive = sides.prod(0).sum(1) * scale
    log_sums = torch.cat(paired_logsumexp(sides[0], sides[1], scale, excluded=(0,)))
    if distributed.num_processes() > 1:
        log_sums = torch.logaddexp(log_sums, distributed.other_ranks_logsumexp(sides, scale)[:, 0])
    return _reduce(-F.logsigmoid(positive - log_sums).flatten(), reduction)


def _hard_negative_rows(
    z0: Tensor, z1: Tensor, temperature: Temperature, tau_plus: float, beta: float, negatives: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Loss of every row, ``(2B,)``, and whether it is floored, ``(2B,)`` bool."""
    _require_weights(tau_plus, beta)
    positive, log_sums, n = _similarities(z0, z1, temperature, beta=beta, negatives=negatives)
    log_r = log_sums[0] if beta == 0 else math.log(n) + log_sums[0] - log_sums[1]
    log_ng, floored = _debias(positive, log_r, n, 1 / temperature, tau_plus)
    return -F.logsigmoid(positive - log_ng), floored


def _debias(
    positive: Tensor, log_r: Tensor, n: int, scale: Temperature, tau_plus: float
) -> tuple[Tensor, Tensor]:
    """log max((R − τ⁺ n e^{x_ip}) / (1 − τ⁺), n e^{−1/t}) from log R, and where the maximum is the floor."""
    if tau_plus == 0:  # R is at least n e^{−1/t} by itself
        return log_r, torch.zeros_like(log_r, dtype=torch.bool)
    log_floor = math.log(n) - scale
    log_share = math.log(tau_plus * n) + positive - log_r
    with torch.no_grad():
        # a difference that is not positive has no logarithm; a NaN of the similarities stays one
        log_ng = log_r + torch.log1p(-log_share.exp()) - math.log1p(-tau_plus)
        floored = (log_share >= 0) | (log_ng <= log_floor)
    # masked before log1p, not after: the gradient of an infinity that is thrown away is NaN
    log_debiased = log_r + torch.log1p(-log_share.masked_fill(floored, -1.0).exp()) - math.log1p(-tau_plus)
    return torch.where(floored, log_floor, log_debiased), floored


def _similarities(
    z0: Tensor, z1: Tensor, temperature: Temperature, *, beta: float = 0.0, negatives: Tensor | None = None
) -> tuple[Tensor, Tensor, int]:
    """Positive similarities ``(2B,)``, log-sum-exps over negatives ``(E, 2B)``, and their number n."""
    require_views(z0, z1, temperature)
    batch_size = len(z0)
    z = unit(torch.cat([z0, z1]))
    scale = scale_of(temperature, z)
    view0, view1 = z.chunk(2)
    positive = ((view0 * view1).sum(1) * scale).repeat(2)
    log_sums = _log_sums(z, scale, beta, (0, batch_size), negatives)
    n = len(z) * distributed.num_processes() - 2 + (0 if negatives is None else len(negatives))
    return positive, log_sums, n


def _log_sums(
    z: Tensor, scale: Tensor, beta: float, excluded: tuple[int, ...], negatives: Tensor | None
) -> Tensor:
    """Log-sum-exps ``(E, N)`` over this process's rows, the other processes' rows and further negatives."""
    log_sums = self_logsumexp(z, scale, beta=beta, excluded=excluded)
    if distributed.num_processes() > 1:
        log_sums = torch.logaddexp(log_sums, distributed.other_ranks_logsumexp(z[None], scale, beta=beta)[0])
    if negatives is not None:
        log_sums = torch.logaddexp(log_sums, _queue_log_sums(z, negatives, scale, beta))
    return log_sums


def _queue_log_sums(z: Tensor, queue: Tensor, scale: Tensor, beta: float) -> Tensor:
    if queue.ndim != 2 or queue.shape[1] != z.shape[1] or len(queue) == 0:
        raise ValueError(
            f"expected negatives (K, {z.shape[1]}) with K ≥ 1, but was given {tuple(queue.shape)}"
        )
    return cross_logsumexp(z, unit(queue.detach().to(z)), scale, beta=beta)


def _require_weights(tau_plus: float, beta: float) -> None:
    if not 0 <= tau_plus < 1:
        raise ValueError(f"tau_plus is a probability below 1, but is {tau_plus}; 0 turns debiasing off")
    if not beta >= 0:
        raise ValueError(f"beta must be at least 0, but is {beta}; 0 weighs all negatives alike")


def _reduce(rows: Tensor, reduction: Reduction) -> Tensor:
    if reduction not in ("mean", "none"):
        raise ValueError(f'reduction must be "mean" or "none", but is {reduction!r}')
    return rows.mean() if reduction == "mean" else rows


class InfoNCE(nn.Module):
    """`info_nce` as a module.

    Args:
        temperature: t > 0.
    """

    def __init__(self, *, temperature: float = 0.5) -> None:
        super().__init__()
        require_positive(temperature)
        self.temperature = temperature

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Mean loss ``()`` of two views, ``(B, D)`` each."""
        return info_nce(z0, z1, temperature=self.temperature)


class HardNegativeInfoNCE(nn.Module):
    """`hard_negative_info_nce` as a module; ``metrics["floored_fraction"]`` is the share of floored rows.

    Args:
        temperature: t > 0.
        tau_plus: 0 ≤ τ⁺ < 1, the probability that a negative shares the row's class.
        beta: β ≥ 0, how much near negatives weigh.
    """

    def __init__(self, *, temperature: float = 0.5, tau_plus: float = 0.1, beta: float = 1.0) -> None:
        super().__init__()
        require_positive(temperature)
        _require_weights(tau_plus, beta)
        self.temperature = temperature
        self.tau_plus = tau_plus
        self.beta = beta
        self.metrics: dict[str, Tensor] = {}
        self._num_calls = 0
        self._warned = False

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Mean loss ``()`` of two views, ``(B, D)`` each."""
        rows, floored = _hard_negative_rows(z0, z1, self.temperature, self.tau_plus, self.beta, None)
        self._watch(floored)
        return rows.mean()

    @torch.compiler.disable  # a count compiles anew whenever it has changed
    def _watch(self, floored: Tensor) -> None:
        self.metrics = {"floored_fraction": floored.float().mean()}
        # reading the fraction waits for the device, so not at every step
        if not self._warned and self._num_calls % 50 == 0:
            self._warn_if_floored(float(self.metrics["floored_fraction"]))
        self._num_calls += 1

    def _warn_if_floored(self, fraction: float) -> None:
        if fraction <= 0.5:
            return
        self._warned = True
        warnings.warn(
            f"{fraction:.0%} of the rows are floored: their positives are so near that the debiased sum of "
            f"the negatives falls below its minimum, and they learn nothing from negatives. Until under half "
            f"are, raise temperature (now {self.temperature}) or lower tau_plus (now {self.tau_plus}).",
            stacklevel=4,
        )


class DebiasedInfoNCE(HardNegativeInfoNCE):
    """`debiased_info_nce` as a module; ``metrics["floored_fraction"]`` is the share of floored rows.

    Args:
        temperature: t > 0.
        tau_plus: 0 ≤ τ⁺ < 1, the probability that a negative shares the row's class.
    """

    def __init__(self, *, temperature: float = 0.5, tau_plus: float = 0.1) -> None:
        super().__init__(temperature=temperature, tau_plus=tau_plus, beta=0.0)


class DecoupledInfoNCE(nn.Module):
    """`decoupled_info_nce` as a module.

    Args:
        temperature: t > 0.
    """

    def __init__(self, *, temperature: float = 0.1) -> None:
        super().__init__()
        require_positive(temperature)
        self.temperature = temperature

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Mean loss ``()`` of two views, ``(B, D)`` each."""
        return decoupled_info_nce(z0, z1, temperature=self.temperature)


class CrossModalInfoNCE(nn.Module):
    """`cross_modal_info_nce` with a learned temperature, never below 0.01; it stands in ``metrics``.

    Args:
        temperature: its initial value.
    """

    def __init__(self, *, temperature: float = 0.07) -> None:
        super().__init__()
        require_positive(temperature)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.metrics: dict[str, Tensor] = {}

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Mean loss ``()`` of two modalities, ``(B, D)`` each."""
        with torch.no_grad():  # a bound inside the graph would have no gradient, and hold it for good
            self.log_scale.clamp_(max=math.log(100))
        temperature = (-self.log_scale).exp()
        self.metrics = {"temperature": temperature.detach()}
        return cross_modal_info_nce(z0, z1, temperature=temperature)
