"""Projections as the losses take them: of matching shapes, divided by their lengths, over a temperature."""

from __future__ import annotations

import torch
from torch import Tensor

Temperature = float | Tensor


def unit(z: Tensor) -> Tensor:
    """Rows divided by their lengths, in float32 at least; a zero row stays zero and has no gradient."""
    return _Unit.apply(z.to(torch.promote_types(z.dtype, torch.float32)))


class _Unit(torch.autograd.Function):
    """Autograd's own would keep three copies of z, which is all the memory that a streamed loss takes."""

    @staticmethod
    def forward(ctx, z):  # type: ignore[no-untyped-def]
        largest = z.abs().amax(1, keepdim=True)  # divided by first, so that no square overflows or vanishes
        zero = largest == 0
        unit = z / largest.masked_fill(zero, 1)
        # at least 1 by the largest entry, but for a zero row
        length = torch.linalg.vector_norm(unit, dim=1, keepdim=True).clamp_min_(1)
        unit /= length
        ctx.save_for_backward(unit, torch.where(zero, 0, 1 / length / largest))
        return unit

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        unit, inverse_length = ctx.saved_tensors
        along = (gradient * unit).sum(1, keepdim=True)  # no product of matrices, which autocast would round
        return torch.addcmul(gradient, unit, along, value=-1).mul_(inverse_length)


def scale_of(temperature: Temperature, z: Tensor) -> Tensor:
    """1/t in z's dtype; that of a number stays on the CPU, where reading it waits for no device."""
    return (1 / torch.as_tensor(temperature, dtype=z.dtype)).reshape(())


def require_views(z0: Tensor, z1: Tensor, temperature: Temperature, *, at_least: int = 2) -> None:
    """Raise ValueError unless `require_projections` holds, and a temperature that is a number is positive."""
    require_projections(z0, z1, at_least=at_least)
    require_positive(temperature)


def require_positive(temperature: Temperature) -> None:
    """Raise ValueError for a temperature that is a number and not positive, or None."""
    if temperature is None or not (isinstance(temperature, Tensor) or temperature > 0):
        raise ValueError(f"temperature must be positive, but is {temperature}; 0.5 suits small batches")


def require_projections(z0: Tensor, z1: Tensor, *, at_least: int = 2) -> None:
    """Raise ValueError unless both are floating-point ``(B, D)`` with ``at_least`` rows."""
    if z0.ndim == 2 and z0.shape == z1.shape and len(z0) < at_least:
        raise ValueError(
            f"a batch of {len(z0)} is compared with its other samples, and has none: give a batch_size of "
            f"{at_least} or more, on every process"
        )
    if z0.ndim != 2 or z0.shape != z1.shape or not z0.is_floating_point():
        raise ValueError(
            f"expected the projections of two views, floating point (B, D) and (B, D) with B ≥ {at_least}, "
            f"but was given {tuple(z0.shape)} {z0.dtype} and {tuple(z1.shape)} {z1.dtype}"
        )
