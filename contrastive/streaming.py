"""Log-sum-exps over a matrix of similarities that is never held: one tile of it at a time.

Every contrastive loss here needs, for each row i of a batch, log Σ_j e^{x_ij} over its negatives j, with
x_ij = scale · q_i·k_j. Hard negatives (arXiv:2010.04592) need log Σ_j e^{(1+β)x_ij} and log Σ_j e^{βx_ij}.
The forward pass keeps these numbers and, of small batches, tiles up to a constant, so memory grows as N; the
backward pass makes the other tiles again.

A tile serves twice: its rows' sums belong to q and its columns' sums to k. Where q and k are the same rows
the matrix is symmetric, and the tiles above the diagonal do for those below it.

Nothing here is touched by autocast, which leaves products with ``out=`` and in-place products alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

TILE = 512  # rows and columns of a tile: 1 MiB in float32, which stays in a core's cache
# of exponentials that the forward pass keeps at most; none where that is less than half of them
KEPT_BYTES = 60 * 10**6
LOG2_E = math.log2(math.e)  # e^x = 2^{x log₂ e}: torch's exp2 takes a third of the time of its exp on a CPU
# e^{±50}, summed over 10^9 entries and divided by as many, stays among float32's normal numbers: no maximum
# need be subtracted. q and k have unit length, so |x| ≤ scale tells beforehand whether a call stays below it.
LARGEST_EXPONENT = 50.0

Offsets = tuple[int, ...]  # the pairs (i, j) with j − i among these are left out


class RowStatistics(NamedTuple):
    """What the gradient needs of one side: ``(E, N)`` log-sum-exps and ``(E, N)`` gradients by them."""

    logsumexp: Tensor
    gradient: Tensor

    def at(self, rows: slice) -> RowStatistics:
        """The statistics of these rows alone."""
        return RowStatistics(self.logsumexp[:, rows], self.gradient[:, rows])

    def weights(self, beta: float) -> Tensor:
        """``(E, N)`` gradients by αx of each plain exponential e^{αx}: α · gradient · e^{−logsumexp}."""
        weights = self.gradient * (-self.logsumexp).exp()
        return weights if beta == 0 else weights.new_tensor(_exponents(beta))[:, None] * weights


def self_logsumexp(
    z: Tensor, scale: Tensor, *, beta: float = 0.0, excluded: tuple[int, ...] = (0,)
) -> Tensor:
    """Log-sum-exps of each row's similarities to the other rows of ``z``.

    Args:
        z: ``(N, D)`` float32 or float64, rows of length at most 1.
        scale: ``()``, the inverse temperature, positive; gradients reach it.
        beta: the concentration β ≥ 0 of hard negatives.
        excluded: row i leaves out the columns i + o and i − o for each offset o ≥ 0.

    Returns:
        ``(1, N)`` log Σ_j e^{x_ij} where β = 0, else ``(2, N)`` log Σ_j e^{(1+β)x_ij}, log Σ_j e^{βx_ij}.
    """
    both_ways = (*excluded, *(-offset for offset in excluded if offset))
    return _apply(z, None, scale, beta, both_ways, True)[0]


def cross_logsumexp(q: Tensor, k: Tensor, scale: Tensor, *, beta: float = 0.0) -> Tensor:
    """As `self_logsumexp`, of each row of ``q``, ``(M, D)``, over all rows of ``k``, ``(N, D)``."""
    return _apply(q, k, scale, beta, (), False)[0]


def paired_logsumexp(
    q: Tensor, k: Tensor, scale: Tensor, *, excluded: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    """Log-sum-exps of rows of ``q`` over ``k``, ``(1, M)``, and of rows of ``k`` over ``q``, ``(1, N)``.

    Pairs (i, j) with j − i in ``excluded`` are left out of both.
    """
    return _apply(q, k, scale, 0.0, excluded, True)


@torch.compiler.disable  # in a compiled model the tile loop runs eagerly, between two graphs
def _apply(*arguments: Any) -> Any:
    return _LogSumExp.apply(*arguments)


class _LogSumExp(torch.autograd.Function):
    """`tile_logsumexp` with `tile_gradient` as its derivative; no k stands for k = q."""

    @staticmethod
    def forward(ctx, q, k, scale, beta, excluded, both):  # type: ignore[no-untyped-def]
        rows, columns, powers = tile_logsumexp(
            q, q if k is None else k, float(scale), beta, excluded, both=both
        )
        ctx.save_for_backward(q, k, scale, rows, columns, *powers)
        ctx.beta, ctx.excluded, ctx.symmetric = beta, excluded, k is None
        return (rows, columns) if both and k is not None else (rows,)

    @staticmethod
    def backward(ctx, rows_gradient, columns_gradient=None):  # type: ignore[no-untyped-def]
        if torch.is_grad_enabled():  # by create_graph; once_differentiable misses it of the scale alone
            raise NotImplementedError("contrastive losses have no second derivative; drop create_graph")
        q, k, scale, rows, columns, *powers = ctx.saved_tensors
        row_statistics = RowStatistics(rows, rows_gradient)
        column_statistics = None if columns_gradient is None else RowStatistics(columns, columns_gradient)
        dq, dk = tile_gradient(
            q,
            q if ctx.symmetric else k,
            float(scale),
            ctx.beta,
            ctx.excluded,
            row_statistics,
            row_statistics if ctx.symmetric else column_statistics,
            need_dk=ctx.needs_input_grad[1],
            powers=powers,
        )
        # x is linear in the scale: Σ_ij G_ij x_ij / scale, where every pair counts twice if q is k
        dscale = (q * dq).sum() / (2 * scale if ctx.symmetric else scale) if ctx.needs_input_grad[2] else None
        return dq, dk, dscale, None, None, None


def tile_logsumexp(
    q: Tensor, k: Tensor, scale: float, beta: float, excluded: Offsets, *, both: bool
) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
    """Log-sum-exps of the rows of scale · q kᵀ and, with ``both``, of its columns; autograd sees none of it.

    ``k is q`` marks the symmetric case, whose rows are its columns. The third result are the exponentials of
    the first tiles, as many as KEPT_BYTES allows, for `tile_gradient`.
    """
    if (1 + beta) * scale <= LARGEST_EXPONENT:
        return _plain_logsumexp(q, k, scale, beta, excluded, both=both)
    rows = _running_logsumexp(q, k, scale, beta, excluded)
    if k is q or not both:
        return rows, rows if both else None, ()
    return rows, _running_logsumexp(k, q, scale, beta, tuple(-offset for offset in excluded)), ()


def tile_gradient(
    q: Tensor,
    k: Tensor,
    scale: float,
    beta: float,
    excluded: Offsets,
    rows: RowStatistics,
    columns: RowStatistics | None,
    *,
    need_dk: bool,
    powers: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor | None]:
    """Gradient by ``q`` and, with ``need_dk``, by ``k`` of the log-sum-exps of rows and columns.

    With ``k is q`` the first result is the whole gradient. ``powers`` are the exponentials that the forward
    pass kept: their tiles need no second product.
    """
    symmetric = k is q
    plain = (1 + beta) * scale <= LARGEST_EXPONENT
    row_weights = rows.weights(beta) if plain else None
    column_weights = row_weights if columns is rows else columns.weights(beta) if plain and columns else None
    dq = torch.zeros_like(q)
    dk = dq if symmetric else torch.zeros_like(k) if need_dk else None
    kept = zip(*[iter(powers)] * len(_exponents(beta)))
    buffers = q.new_empty(4, min(TILE, len(q)) * min(TILE, len(k)))
    for i, j in _tiles(len(q), len(k), triangle=symmetric):
        x, *spare = _shaped(buffers, i, j)
        if row_weights is not None:
            tile = next(kept, None)
            if tile is None:
                _similarities(q, k, scale, excluded, i, j, out=x)
                tile = _exponentials(x, spare[0], beta)
            across = None if column_weights is None else column_weights[:, None, j]
            g = _weigh(tile, row_weights[:, i, None], across, spare[1], spare[2])
        else:
            _similarities(q, k, scale, excluded, i, j, out=x)
            g = _weigh_shifted(x, spare[0], beta, rows.at(i), columns.at(j) if columns else None)
        dq[i].addmm_(g, k[j], alpha=scale)
        if dk is not None and not (symmetric and i == j):
            dk[j].addmm_(g.T, q[i], alpha=scale)
    return dq, None if symmetric else dk


def _tiles(num_rows: int, num_columns: int, *, triangle: bool) -> Iterator[tuple[slice, slice]]:
    """The rows and columns of each tile; with ``triangle`` of those on and above the diagonal."""
    for top in range(0, num_rows, TILE):
        for left in range(top if triangle else 0, num_columns, TILE):
            yield (
                slice(top, min(top + TILE, num_rows)),
                slice(left, min(left + TILE, num_columns)),
            )


def _shaped(buffers: Tensor, i: slice, j: slice) -> tuple[Tensor, ...]:
    """The buffers, ``(B, numbers of the largest tile)``, as tiles of this shape."""
    shape = (i.stop - i.start, j.stop - j.start)
    return buffers[:, : shape[0] * shape[1]].unflatten(1, shape).unbind()


def _similarities(
    q: Tensor, k: Tensor, scale: float, excluded: Offsets, i: slice, j: slice, *, out: Tensor
) -> None:
    """Write scale · q kᵀ · log₂ e of a tile, −∞ where excluded, to ``out``."""
    out.addmm_(q[i], k[j].T, beta=0, alpha=scale * LOG2_E)
    for offset in excluded:
        diagonal = offset + i.start - j.start
        if -out.shape[0] < diagonal < out.shape[1]:
            out.diagonal(diagonal).fill_(-torch.inf)


def _exponentials(x: Tensor, spare: Tensor, beta: float) -> tuple[Tensor, ...]:
    """Turn x log₂ e into e^x, or at β > 0 into e^{(1+β)x} and e^{βx}; overwrites both tiles."""
    if beta == 0:
        return (x.exp2_(),)
    if beta == 1:  # the usual choice needs one exponential, not two
        return torch.mul(x.exp2_(), x, out=spare), x
    torch.mul(x, beta, out=spare).exp2_()
    return x.exp2_().mul_(spare), spare


def _plain_logsumexp(
    q: Tensor, k: Tensor, scale: float, beta: float, excluded: Offsets, *, both: bool
) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
    """Logarithms of plain sums of exponentials, for exponents that cannot overflow."""
    symmetric = k is q
    row_sums = q.new_zeros(len(_exponents(beta)), len(q))
    column_sums = row_sums if symmetric else q.new_zeros(len(row_sums), len(k)) if both else None
    kept: list[Tensor] = []
    total = len(row_sums) * len(q) * len(k) * q.element_size() // (2 if symmetric else 1)
    room = KEPT_BYTES if total <= 2 * KEPT_BYTES else 0
    buffers = q.new_empty(2, min(TILE, len(q)) * min(TILE, len(k)))
    for i, j in _tiles(len(q), len(k), triangle=symmetric):
        x, spare = _shaped(buffers, i, j)
        room -= len(row_sums) * x.nbytes
        if room >= 0:
            x = torch.empty_like(x)
            spare = torch.empty_like(x) if beta else spare
        _similarities(q, k, scale, excluded, i, j, out=x)
        powers = _exponentials(x, spare, beta)
        kept += powers if room >= 0 else ()
        for e, power in enumerate(powers):
            row_sums[e, i] += power.sum(1)
            if column_sums is not None and not (symmetric and i == j):
                column_sums[e, j] += power.sum(0)
    rows = row_sums.log()
    return rows, rows if symmetric else None if column_sums is None else column_sums.log(), tuple(kept)


def _running_logsumexp(q: Tensor, k: Tensor, scale: float, beta: float, excluded: Offsets) -> Tensor:
    """Log-sum-exps of rows relative to each row's largest similarity so far, for exponents of any size."""
    exponents = _exponents(beta)
    sums = q.new_zeros(len(exponents), len(q))
    # no similarity is smaller than −scale; starting at −∞ would give NaN where a tile's row is all excluded
    largest = q.new_full((len(q),), -scale * LOG2_E)
    buffers = q.new_empty(2, min(TILE, len(q)) * min(TILE, len(k)))
    for i, j in _tiles(len(q), len(k), triangle=False):
        x, spare = _shaped(buffers, i, j)
        _similarities(q, k, scale, excluded, i, j, out=x)
        new = torch.maximum(largest[i], x.amax(1))
        x -= new[:, None]
        for e, exponent in enumerate(exponents):
            sums[e, i] *= (exponent * (largest[i] - new)).exp2()
            sums[e, i] += torch.mul(x, exponent, out=spare).exp2_().sum(1)
        largest[i] = new
    return sums.log() + q.new_tensor(exponents)[:, None] * largest / LOG2_E


def _weigh(
    powers: Sequence[Tensor], rows: Tensor, columns: Tensor | None, out: Tensor, spare: Tensor
) -> Tensor:
    """G_ij = Σ_e e^{α_e x_ij} (r_ei + c_ej) with r ``(E, M, 1)`` and c ``(E, 1, N)``; in ``out``."""
    for e, power in enumerate(powers):
        weight = rows[e] if columns is None else torch.add(rows[e], columns[e], out=spare if e else out)
        if e == 0:
            torch.mul(power, weight, out=out)
        else:
            out.addcmul_(power, weight)
    return out


def _weigh_shifted(
    x: Tensor, spare: Tensor, beta: float, rows: RowStatistics, columns: RowStatistics | None
) -> Tensor:
    """The same G with each exponential taken relative to its log-sum-exp: none exceeds 1."""
    total = torch.zeros_like(x)
    for e, exponent in enumerate(_exponents(beta)):
        sides = [(rows.logsumexp[e][:, None], rows.gradient[e][:, None])]
        if columns is not None:
            sides.append((columns.logsumexp[e], columns.gradient[e]))
        for logsumexp, gradient in sides:
            share = torch.mul(x, exponent, out=spare).sub_(logsumexp * LOG2_E).exp2_()
            total += share.mul_(exponent * gradient)
    return total


def _exponents(beta: float) -> tuple[float, ...]:
    return (1.0,) if beta == 0 else (1 + beta, beta)
