"""Projections to try losses on, and the losses from the whole matrix in float64."""

import math

import torch
from torch.nn import functional as F


def views(batch_size, width=6, dtype=torch.float64, seed=0, noise=None):
    generator = torch.Generator().manual_seed(seed)
    z0 = torch.randn(batch_size, width, generator=generator, dtype=torch.float64)
    z1 = torch.randn(batch_size, width, generator=generator, dtype=torch.float64)
    if noise is not None:  # positives that are near each other
        z1 = z0 + noise * z1
    return z0.to(dtype).requires_grad_(), z1.to(dtype).requires_grad_()


def dense(z0, z1, temperature, tau_plus=0.0, beta=0.0, negatives=None):
    """Rows of the hard-negative loss from the whole matrix, in float64."""
    z = F.normalize(torch.cat([z0, z1]).double(), dim=1)
    keys = z if negatives is None else torch.cat([z, F.normalize(negatives.double(), dim=1)])
    rows = torch.arange(len(z))
    partner = rows.roll(len(z0))
    x = z @ keys.T / temperature
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[rows, rows] = mask[rows, partner] = False
    positive, x = x[rows, partner], x[mask].view(len(z), -1)
    n = x.shape[1]
    log_r = x.logsumexp(1)
    if beta > 0:
        log_r = math.log(n) + ((1 + beta) * x).logsumexp(1) - (beta * x).logsumexp(1)
    if tau_plus == 0:
        log_ng = log_r
    else:
        peak = torch.maximum(log_r, positive).detach()
        ng = (torch.exp(log_r - peak) - tau_plus * n * torch.exp(positive - peak)) / (1 - tau_plus)
        log_ng = peak + torch.maximum(ng, n * torch.exp(-1 / temperature - peak)).log()
    return torch.log1p(torch.exp(log_ng - positive))


def cosines(z0, z1):
    return F.normalize(z0, dim=1) @ F.normalize(z1, dim=1).T


def assert_equal(ours, oracle, inputs, oracle_inputs, rtol):
    """Values row by row, and gradients as vectors, to a relative error."""
    torch.testing.assert_close(ours.double(), oracle, rtol=rtol, atol=rtol * 1e-3)
    weights = torch.linspace(0.5, 2.0, len(oracle), dtype=torch.float64)
    gradients = torch.autograd.grad((ours * weights.to(ours)).sum(), inputs)
    expected = torch.autograd.grad((oracle * weights).sum(), oracle_inputs)
    for gradient, truth in zip(gradients, expected):
        # the temperature's gradient is a sum of terms of either sign up to 1/t² in size, in the oracle too
        tolerance = 10 * rtol if truth.ndim == 0 else rtol
        assert (gradient.double() - truth).norm() <= tolerance * truth.norm() + rtol * 1e-3
