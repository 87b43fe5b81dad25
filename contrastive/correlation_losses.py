"""Losses without negatives: two views agree in every dimension, and the dimensions do not correlate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contrastive.distributed import num_processes, sum_over_ranks
from contrastive.projections import require_projections


def cca_ssg(z0: Tensor, z1: Tensor, *, decorrelation: float = 1e-3) -> Tensor:
    """CCA-SSG's loss: ‖Z̃₀ − Z̃₁‖² + λ (‖Z̃₀ᵀZ̃₀ − I‖² + ‖Z̃₁ᵀZ̃₁ − I‖²), Frobenius norms.

    Z̃ has the columns of Z with mean 0 and length 1 over the rows, so that Z̃ᵀZ̃ is their correlation: a soft
    form of canonical correlation analysis (Zhang et al. 2021, arXiv:2106.12484). No row is a negative: what
    keeps rows apart is that the columns vary and do not correlate. A column that does not vary is 0 in Z̃.

    The authors' code has −tr Z̃₀ᵀZ̃₁ for the first term, half of it but for a constant: its λ is half of the
    one here. With torch.distributed initialised the columns are standardised over the rows of all processes,
    which need not be equally many; each process returns the loss of the whole batch, and gradients averaged
    over processes are its gradients.

    Args:
        z0: ``(B, D)`` projections of the first view, any floating dtype, B ≥ 2; computed in float32 at least.
        z1: ``(B, D)`` projections of the second view.
        decorrelation: λ ≥ 0.

    Returns:
        ``()``, a sum over dimensions, not a mean: there is no loss of a row.

    Raises:
        ValueError: shapes, dtypes or λ that do not fit.
    """
    require_projections(z0, z1)
    if not decorrelation >= 0:
        raise ValueError(f"decorrelation must be at least 0, but is {decorrelation}; 0.001 is usual")
    z = torch.stack([z0, z1])
    with torch.autocast(z.device.type, enabled=False):  # it would round the products
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        num_rows = len(z0) if num_processes() == 1 else sum_over_ranks(z.new_tensor(float(len(z0))))
        mean = sum_over_ranks(z.sum(1, keepdim=True)) / num_rows
        z = z - mean
        within = sum_over_ranks(z.mT @ z) / num_rows  # (2, D, D) covariances
        across = sum_over_ranks((z[0] * z[1]).sum(0)) / num_rows
        variance = within.diagonal(dim1=1, dim2=2)
        constant = variance <= (4 * torch.finfo(z.dtype).eps * mean.squeeze(1)).square()
        scale = variance.masked_fill(constant, torch.inf).rsqrt()
        correlation = within * scale.unsqueeze(1) * scale.unsqueeze(2)
        invariance = (~constant).sum() - 2 * (across * scale.prod(0)).sum()  # columns that vary have length 1
        identity = torch.eye(z.shape[2], dtype=z.dtype, device=z.device)
        return invariance + decorrelation * (correlation - identity).square().sum()


class CCASSG(nn.Module):
    """`cca_ssg` as a module.

    Args:
        decorrelation: λ ≥ 0.
    """

    def __init__(self, *, decorrelation: float = 1e-3) -> None:
        super().__init__()
        self.decorrelation = decorrelation

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """The loss ``()`` of two views, ``(B, D)`` each."""
        return cca_ssg(z0, z1, decorrelation=self.decorrelation)
