"""How good a representation is, as far as that shows without labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def dimension_std(z: Tensor) -> Tensor:
    """Mean standard deviation of the dimensions of the normalised rows, times √D.

    1 for rows spread evenly over the sphere, 0 for a collapse to a point (Chen and He 2020,
    arXiv 2011.10566, section 4.1).

    Args:
        z: ``(N, D)`` float; N ≥ 2.
    """
    z = F.normalize(z.float(), dim=1)
    return z.std(dim=0).mean() * z.shape[1] ** 0.5


def effective_rank(h: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised singular values (Roy and Vetterli 2007; not centred).

    Between 1 (a collapse to a line) and min(N, D).

    Args:
        h: ``(N, D)`` float.
    """
    values = torch.linalg.svdvals(h.float())
    p = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return torch.exp(-torch.special.xlogy(p, p).sum())


def alignment(h0: Tensor, h1: Tensor, *, alpha: float = 2.0) -> Tensor:
    """Mean distance of positive pairs on the sphere, to the power α (Wang and Isola 2020, arXiv 2005.10242).

    0 where both views of an item have the same direction; 2 for α = 2 where they are unrelated.

    Args:
        h0: ``(N, D)`` float, features of one view.
        h1: ``(N, D)`` float, of the other.
        alpha: the power.
    """
    distance = F.normalize(h0.float(), dim=1) - F.normalize(h1.float(), dim=1)
    return distance.norm(dim=1).pow(alpha).mean()


def uniformity(h: Tensor) -> Tensor:
    """Log of the mean Gaussian potential e^{−2 d²} of all pairs on the sphere (arXiv 2005.10242).

    0 where all rows are one point; near −4 where they are spread evenly over many dimensions.

    Args:
        h: ``(N, D)`` float; N ≥ 2.
    """
    h = F.normalize(h.float(), dim=1)
    square = h.square().sum(1)  # 0 of a row that is zero
    parts = zip(h.split(1024), square.split(1024))
    negated = (4 * part @ h.T - 2 * (own[:, None] + square) for part, own in parts)  # −2 d²
    total = torch.stack([part.double().exp().sum() for part in negated]).sum()
    n = len(h)
    return ((total - n) / (n * (n - 1))).log().float()


def rankme(h: Tensor) -> Tensor:
    """`effective_rank` with 1e-7 added to every share (RankMe, Garrido et al. 2022, arXiv 2210.02885).

    Args:
        h: ``(N, D)`` float; N well above D, or the rank is that of N samples.
    """
    values = torch.linalg.svdvals(h.float())
    p = values / values.sum().clamp_min(1e-30) + 1e-7
    return torch.exp(-(p * p.log()).sum())
