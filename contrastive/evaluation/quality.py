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
