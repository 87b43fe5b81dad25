"""Negatives from every process, with the exact gradient.

Each process returns the mean loss of its own rows, and DistributedDataParallel averages gradients over
processes: so what each must hand back for its own rows is the gradient of the *sum* of all their losses. A
row appears in the losses of the other processes too, as their negative. Those terms need no reduction: once
a process knows the few row statistics of the others, it makes the whole gradient of its own rows by itself.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from contrastive.streaming import RowStatistics, tile_gradient, tile_logsumexp


def num_processes() -> int:
    """Number of processes that share the batch; 1 where torch.distributed is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first_process() -> bool:
    """Whether this process is the one that writes and prints; known before torch.distributed is."""
    first_of_node = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    return first_of_node and int(os.environ.get("NODE_RANK") or 0) == 0  # of nodes started by hand


def other_ranks_logsumexp(z: Tensor, scale: Tensor, *, beta: float = 0.0) -> Tensor:
    """Log-sum-exps of each row's similarities to the rows that the other processes hold.

    One collective gathers ``z`` in the forward pass, one the row statistics in the backward pass; a third, of
    three integers, refuses uneven batches. Memory is O(N·D) for the N rows of all processes.

    Args:
        z: ``(S, M, D)`` float32 or float64, rows of length at most 1, equally many on every process. With
            S = 1 the rows face each other; with S = 2 the rows of either side face the other side's.
        scale: ``()``, the inverse temperature; gradients reach it, right once averaged over processes.
        beta: the concentration β ≥ 0 of hard negatives.

    Returns:
        ``(S, E, M)``, as `contrastive.streaming.self_logsumexp` for each side.

    Raises:
        ValueError: the processes hold batches of different sizes.
    """
    _require_equal_shapes(z)
    return _apply(z, scale, beta)


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum of ``x`` over all processes; the backward pass sums the gradients likewise."""
    return _SumOverRanks.apply(x) if num_processes() > 1 else x


def gather(x: Tensor) -> Tensor:
    """``x`` of every process in the order of ranks, ``(W, *x.shape)``; without gradient."""
    gathered = x.new_empty(num_processes(), *x.shape)
    if num_processes() > 1:
        dist.all_gather(list(gathered), x.detach().contiguous())
    else:
        gathered[0] = x.detach()
    return gathered


class _OtherRanksLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, scale, beta):  # type: ignore[no-untyped-def]
        others = _without_own(gather(z)).transpose(0, 1).flatten(1, 2)  # (S, (W−1)·M, D)
        ctx.beta, ctx.scale = beta, float(scale)
        sides = [
            tile_logsumexp(side, others[-1 - s], ctx.scale, beta, (), both=False)[0]
            for s, side in enumerate(z)
        ]
        ctx.save_for_backward(z, others, logsumexp := torch.stack(sides))
        return logsumexp

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        z, others, logsumexp = ctx.saved_tensors
        statistics = torch.stack([logsumexp, gradient])  # (2, S, E, M)
        other_statistics = _without_own(gather(statistics)).permute(1, 2, 3, 0, 4).flatten(3)
        dz = torch.empty_like(z)
        for s, side in enumerate(z):
            rows = RowStatistics(*statistics[:, s])
            columns = RowStatistics(*other_statistics[:, -1 - s])
            dz[s], _ = tile_gradient(
                side, others[-1 - s], ctx.scale, ctx.beta, (), rows, columns, need_dk=False
            )
        # Σ_i z_i·dz_i over all processes counts each pair of rows from both its ends
        dscale = (z * dz).sum() / (2 * ctx.scale) if ctx.needs_input_grad[1] else None
        return dz, dscale, None


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return sum_over_ranks(gradient)


@torch.compiler.disable  # in a compiled model the collectives and tiles run eagerly, between two graphs
def _apply(*arguments: Any) -> Any:
    return _OtherRanksLogSumExp.apply(*arguments)


def _without_own(gathered: Tensor) -> Tensor:
    """``(W, …)`` of all processes to ``(W − 1, …)`` of the others."""
    rank = dist.get_rank()
    return torch.cat([gathered[:rank], gathered[rank + 1 :]])


def _require_equal_shapes(z: Tensor) -> None:
    # unequal shapes would hang or corrupt the gather, and the mean over processes would not be the loss
    shapes = gather(torch.tensor(z.shape, device=z.device)).tolist()
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            f"every process must bring equally many rows of equal width, but they bring "
            f"{[tuple(shape[1:]) for shape in shapes]} in the order of ranks; drop the uneven last batch "
            f"with drop_last=True, or give every process the same batch size"
        )
