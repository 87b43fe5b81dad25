"""Losses of links: every query has candidates, some of them links, some not, some that do not count."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contrastive.distributed import num_processes, sum_over_ranks


class LinkLoss(nn.Module):
    """Called as ``loss(scores, positive, negative)``, all ``(Q, K)``; the masks are bool and disjoint.

    With β > 0 near negatives weigh more, as Robinson et al. (2021, arXiv 2010.04592) have it for views:
    negative j of a query weighs n e^{βs_j} / Σ e^{βs} over its n negatives. The weights are not detached.

    With torch.distributed initialised the mean over processes is the loss of all queries, though queries
    have unequally many candidates that count.
    """


class LinkBCE(LinkLoss):
    """Binary cross-entropy of links and others, σ(score) their probability.

    L = (Σ₊ softplus(−s) + Σ₋ w softplus(s)) / (number of both); w = 1 at β = 0.

    Args:
        beta: β ≥ 0 of the negatives' weights.
    """

    def __init__(self, beta: float = 0.0) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss, a scalar."""
        scores = at_least_float32(scores)
        counted = positive | negative
        loss = F.binary_cross_entropy_with_logits(scores, positive.to(scores.dtype), reduction="none")
        if self.beta:
            loss = loss * (positive + near(scores, negative, self.beta))
        return _divided(loss.masked_fill(~counted, 0.0).sum(), counted.sum())


class LinkInfoNCE(LinkLoss):
    """InfoNCE of each link against its query's negatives: −s/t + log(e^{s/t} + Σ₋ w e^{s₋/t}).

    Corrupted heads and tails, or all other tails, are the negatives; a query's other links are not in the
    sum (van den Oord et al. 2018, arXiv 1807.03748).

    Args:
        temperature: t > 0.
        beta: β ≥ 0 of the negatives' weights, of s/t.
    """

    def __init__(self, temperature: float = 1.0, beta: float = 0.0) -> None:
        super().__init__()
        self.temperature, self.beta = temperature, beta

    def forward(self, scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The mean over links, a scalar."""
        counts = positive.any(dim=1) & negative.any(dim=1)
        positive, negative = positive[counts], negative[counts]
        x = at_least_float32(scores)[counts] / self.temperature
        own = x.masked_fill(~negative, -torch.inf)
        log_negatives = own.logsumexp(dim=1)
        if self.beta:
            weighed = ((1 + self.beta) * own).logsumexp(dim=1) - (self.beta * own).logsumexp(dim=1)
            log_negatives = negative.sum(dim=1).to(x.dtype).log() + weighed
        query, candidate = positive.nonzero(as_tuple=True)
        link = x[query, candidate]
        return _divided((torch.logaddexp(link, log_negatives[query]) - link).sum(), len(query))


class LinkMargin(LinkLoss):
    """Hinge: the mean over a link and its query's negatives of w max(0, margin − s₊ + s₋).

    Args:
        margin: > 0.
        beta: β ≥ 0 of the negatives' weights.
    """

    def __init__(self, margin: float = 1.0, beta: float = 0.0) -> None:
        super().__init__()
        self.margin, self.beta = margin, beta

    def forward(self, scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss, a scalar."""
        scores = at_least_float32(scores)
        weight: Tensor = negative.to(scores.dtype)
        if self.beta:
            weight = negative * near(scores, negative, self.beta)
        query, candidate = positive.nonzero(as_tuple=True)
        total, pairs = scores.new_zeros(()), negative.sum(dim=1)[query].sum()
        for rows, columns in zip(query.split(4096), candidate.split(4096)):  # a link has K differences
            hinge = (self.margin - scores[rows, columns].unsqueeze(1) + scores[rows]).relu()
            total = total + (hinge * weight[rows]).sum()
        return _divided(total, pairs)


def _divided(total: Tensor, count: Tensor | int) -> Tensor:
    """A sum ``()`` over the mean count of all processes, which is at least 1 in all."""
    own = torch.as_tensor(count, dtype=total.dtype, device=total.device)
    return total * num_processes() / sum_over_ranks(own).clamp(min=1)


def at_least_float32(scores: Tensor) -> Tensor:
    """Half precision as float32, for e^{βs} and sums over thousands; float64 as it is."""
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def near(scores: Tensor, negative: Tensor, beta: float) -> Tensor:
    """n e^{βs} / Σ e^{βs} over the n negatives of each row, 0 elsewhere; ``(Q, K)``."""
    own = (beta * scores).masked_fill(~negative, -torch.inf)
    share = (own - own.amax(dim=1, keepdim=True).clamp(min=torch.finfo(own.dtype).min)).exp()
    return share * negative.sum(dim=1, keepdim=True) / share.sum(dim=1, keepdim=True).clamp(min=1e-30)
