"""AGGREGATE over neighbours: the only file that picks a kernel.

Measured in one thread in float32, 10,000 nodes, 100,000 edges, 256 features, forward: a sum takes torch's
``embedding_bag`` 3.8 ms, DGL 3.8 ms, torch's CSR product 6.3 ms; one with a weight an edge 3.6, 45 and
6 ms; a maximum takes DGL ten times what torch's CSR product does. So on the CPU sums are bags: a node is the
bag of its neighbours. Bags are fast in float32 alone: sums in float64 go to DGL where it is installed,
everything else to torch's CSR products. None of these can be written into a program of ``torch.export`` or
ONNX, whose kernels are torch's ``index_add`` and ``scatter_reduce``.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from encoders.adjacency import Adjacency, exporting, load_dgl, scatter_sum

Reduce = Literal["sum", "mean", "max", "min"]

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


def aggregate(
    adjacency: Adjacency,
    x: Tensor,
    reduce: Reduce = "sum",
    weight: Tensor | None = None,
    own: Tensor | None = None,
) -> Tensor:
    """out_v = reduce over edges u → v of w_uv x_u; 0 where no edge arrives.

    Args:
        adjacency: the edges.
        x: ``(num_src, F)`` or, with heads, ``(num_src, H, F)`` float features of the sources.
        reduce: ``sum``, ``mean``, ``max`` or ``min``; where several edges tie for ``max`` or ``min``, one of
            them takes the gradient (on CUDA they share it).
        weight: ``(E,)`` or ``(E, H)`` float; it takes a gradient too. Summed and averaged messages alone.
        own: ``()`` float; adds own · x_v to the sum, where sources and destinations are the same nodes. To do
            it here spares passes over all nodes, most of them backward.

    Returns:
        ``(num_dst, F)`` or ``(num_dst, H, F)``, of x's dtype.

    Raises:
        ValueError: another name of ``reduce``, or a weight or own that does not go with it.
    """
    _require_known(reduce)
    if reduce in ("max", "min") and weight is not None:
        raise ValueError(f"aggregate: reduce={reduce!r} takes no weight; use sum or mean, or drop the weight")
    if own is not None and reduce != "sum":
        raise ValueError(f"aggregate: reduce={reduce!r} takes no own; use sum, or add it afterwards")
    if exporting():
        messages = x[adjacency.src]
        messages = messages if weight is None else messages * _align(weight.to(x.dtype), messages)
        out = aggregate_edges(adjacency, messages, reduce)
        return out if own is None else torch.addcmul(out, x, own)
    if reduce in ("max", "min"):
        return _extreme(adjacency, adjacency.src, x, reduce)
    out = _weighted_sum(adjacency, x, weight, own)
    return out if reduce == "sum" else out / _column(adjacency.degree.clamp(min=1), out)


def aggregate_edges(adjacency: Adjacency, messages: Tensor, reduce: Reduce = "sum") -> Tensor:
    """out_v = reduce over edges e into v of m_e, for messages ``(E, …)``; 0 where no edge arrives."""
    _require_known(reduce)
    if reduce in ("max", "min"):
        return _extreme(adjacency, adjacency.edge_ids, messages, reduce)
    out = (_scatter_edges if exporting() else _SumEdges.apply)(messages, adjacency)
    return out if reduce == "sum" else out / _column(adjacency.degree.clamp(min=1), out)


def _require_known(reduce: str) -> None:
    if reduce not in ("sum", "mean", "max", "min"):  # "add" is PyG's name of a sum
        raise ValueError(f"reduce is {reduce!r}, expected sum, mean, max or min")


def gather_src(adjacency: Adjacency, x: Tensor) -> Tensor:
    """x_u for every edge u → v, ``(E, …)``; the gradient is a CSR product, not an ``index_add``."""
    return x[adjacency.src] if exporting() else _GatherSrc.apply(x, adjacency)


def gather_dst(adjacency: Adjacency, x: Tensor) -> Tensor:
    """x_v for every edge u → v, ``(E, …)``."""
    return x[adjacency.dst] if exporting() else _GatherDst.apply(x, adjacency)


def pick(x: Tensor, rows: Tensor) -> Tensor:
    """``x[rows]``; the gradient is a CSR product, not an ``index_add``."""
    return gather_src(Adjacency(rows, torch.arange(len(rows), device=x.device), len(x), len(rows)), x)


def edge_softmax(adjacency: Adjacency, scores: Tensor) -> Tensor:
    """a_uv = exp(s_uv) / Σ_{u'→v} exp(s_u'v), for scores ``(E,)`` or ``(E, H)``."""
    highest = aggregate_edges(adjacency, scores.detach(), "max")
    numerator = (scores - highest[adjacency.dst]).exp()
    return numerator / gather_dst(adjacency, aggregate_edges(adjacency, numerator))


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


def _weighted_sum(
    adjacency: Adjacency, x: Tensor, weight: Tensor | None, own: Tensor | None = None
) -> Tensor:
    if not (x.device.type == "cpu" and x.dtype == torch.float64 and load_dgl() is not None):
        return _SumNeighbours.apply(x, weight, own, adjacency)
    dgl: Any = load_dgl()
    if weight is None:
        out = dgl.ops.copy_u_sum(adjacency.dgl_graph, x)
    else:
        out = dgl.ops.u_mul_e_sum(adjacency.dgl_graph, x, _align(weight.to(x.dtype), x))
    return out if own is None else torch.addcmul(out, x, own)


def _align(weight: Tensor, x: Tensor) -> Tensor:
    """Give ``(E,)`` or ``(E, H)`` weights trailing axes of size 1, as many as x has."""
    return weight.view(*weight.shape, *[1] * (x.dim() - weight.dim()))


def _csr_product(
    indptr: Tensor, columns: Tensor, values: Tensor | None, x: Tensor, reduce: str = "sum"
) -> Tensor:
    """Rows of a CSR matrix times ``(K, …)``; float32 at least inside.

    On CPU by bags, or through ATen's own kernel: ``@`` of CSR matrices needs MKL, which not all have.
    """
    flat = x.unsqueeze(1) if x.dim() == 1 else x.flatten(1)
    if flat.dtype in (torch.float16, torch.bfloat16):
        flat = flat.float()
    values = None if values is None else values.to(flat.dtype)
    cpu = x.device.type == "cpu"
    if cpu and reduce == "sum" and flat.dtype == torch.float32 and flat.numel():
        bags: Any = {"mode": "sum", "include_last_offset": True, "per_sample_weights": values}
        out = F.embedding_bag(columns, flat.contiguous(), indptr, **bags)
    else:
        values = flat.new_ones(len(columns)) if values is None else values
        size = (len(indptr) - 1, len(x))
        matrix = torch.sparse_csr_tensor(indptr, columns, values, size, check_invariants=False)
        out = torch.sparse.mm(matrix, flat.contiguous(), reduce) if cpu else matrix @ flat
    return out.to(x.dtype).view(len(out), *x.shape[1:])


def _csr_weighted(indptr: Tensor, columns: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
    """As :func:`_csr_product`, with ``(E, H)`` weights for ``(K, H, F)`` features: one product a head."""
    if weight is None or weight.dim() == 1:
        return _csr_product(indptr, columns, weight, x)
    heads = [_csr_product(indptr, columns, weight[:, h], x[:, h]) for h in range(weight.shape[1])]
    return torch.stack(heads, dim=1)


def _extreme(adjacency: Adjacency, columns: Tensor, x: Tensor, reduce: str) -> Tensor:
    if x.device.type == "cpu" and not exporting():
        return _csr_product(adjacency.indptr, columns, None, x, f"a{reduce}")
    messages = x[columns]
    index = adjacency.dst.view(-1, *[1] * (x.dim() - 1)).expand_as(messages)
    out = messages.new_zeros(adjacency.num_dst, *x.shape[1:])
    return out.scatter_reduce(0, index, messages, f"a{reduce}", include_self=False)


def _scatter_edges(messages: Tensor, adjacency: Adjacency) -> Tensor:
    return scatter_sum(messages, adjacency.dst, adjacency.num_dst)


class _SumNeighbours(torch.autograd.Function):
    """The weighted sum and its gradient as products with the CSR matrix and its transpose."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, own: Tensor | None, adjacency: Adjacency
    ) -> Tensor:
        ctx.adjacency = adjacency
        ctx.save_for_backward(x if any(ctx.needs_input_grad[1:3]) else None, weight, own)
        out = _csr_weighted(adjacency.indptr, adjacency.src, weight, x)
        return out if own is None else out.addcmul_(x, own)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, own = ctx.saved_tensors
        adjacency: Adjacency = ctx.adjacency
        grad_x = grad_weight = grad_own = None
        if ctx.needs_input_grad[0]:
            permuted = None if weight is None else weight[adjacency.by_src.order]
            grad_x = _SumNeighbours.apply(grad, permuted, own, adjacency.transposed)
        if weight is not None and ctx.needs_input_grad[1]:
            products = grad[adjacency.dst] * x[adjacency.src]
            grad_weight = products.flatten(weight.dim()).sum(-1).to(weight.dtype)
        if own is not None and ctx.needs_input_grad[2]:
            grad_own = grad.flatten().to(own.dtype) @ x.flatten().to(own.dtype)
        return grad_x, grad_weight, grad_own, None


class _SumEdges(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, messages: Tensor, adjacency: Adjacency) -> Tensor:
        ctx.adjacency = adjacency
        return _csr_product(adjacency.indptr, adjacency.edge_ids, None, messages)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        # contiguous: the gradient of one of several readouts side by side is a strided view of theirs all,
        # from which torch picks rows ten times slower
        return grad.contiguous().index_select(0, ctx.adjacency.dst), None


class _GatherSrc(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, adjacency: Adjacency) -> Tensor:
        ctx.adjacency = adjacency
        return x.index_select(0, adjacency.src)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        by_src = ctx.adjacency.by_src
        return _csr_product(by_src.indptr, by_src.order, None, grad), None


class _GatherDst(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, adjacency: Adjacency) -> Tensor:
        ctx.adjacency = adjacency
        return x.index_select(0, adjacency.dst)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _csr_product(ctx.adjacency.indptr, ctx.adjacency.edge_ids, None, grad), None
