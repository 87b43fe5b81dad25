"""The edges between nodes, with what the kernels of message passing need of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

T = TypeVar("T")

# Whether torch.export is tracing; torch 2.6 tells that under the other name.
exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


@cache
def load_dgl() -> Any | None:
    """The module ``dgl``, or None where it is absent, broken, or switched off by ``CONTRASTIVE_DGL=0``."""
    if os.environ.get("CONTRASTIVE_DGL") == "0":
        return None
    try:
        import dgl
        import dgl.ops
    except (ImportError, OSError):
        return None
    return dgl


def kept(make: Callable[[Any], T]) -> cached_property[T]:
    """A ``cached_property`` for training too, which saves no tensor that inference mode made."""
    return cached_property(torch.inference_mode(False)(make))


class BySource(NamedTuple):
    """The edges ordered by source, those of a source by destination.

    Attributes:
        indptr: ``(num_src + 1,)`` int64, where the edges out of each source start.
        order: ``(E,)`` int64, their numbers.
        dst: ``(E,)`` int64, their destinations.
    """

    indptr: Tensor
    order: Tensor
    dst: Tensor


class Relation(NamedTuple):
    """The edges of one type.

    Attributes:
        nodes: ``(num_dst,)`` int64, the destinations that they reach, ascending.
        edges: ``(E,)`` int64, their numbers.
        adjacency: from the sources to these destinations, numbered 0, 1, …; without features.
    """

    nodes: Tensor
    edges: Tensor
    adjacency: Adjacency


class Adjacency:
    """Edges u → v sorted by v, with what the kernels need of them built once, when first asked for.

    Sources and destinations may be two sets of nodes (a sampled block, a batch of graphs and their nodes).

    Args:
        src: ``(E,)`` int64 in [0, num_src).
        dst: ``(E,)`` int64 in [0, num_dst), ascending.
        num_src: sources.
        num_dst: destinations.
        weight: ``(E,)`` float factor on each message, or None.
        attr: ``(E, F)`` float or int64 edge features, or None.
        type: ``(E,)`` int64 relation of each edge, or None.
    """

    def __init__(
        self,
        src: Tensor,
        dst: Tensor,
        num_src: int,
        num_dst: int,
        *,
        weight: Tensor | None = None,
        attr: Tensor | None = None,
        type: Tensor | None = None,
    ) -> None:
        self.src, self.dst = src, dst
        self.num_src, self.num_dst = num_src, num_dst
        self.weight, self.attr, self.type = weight, attr, type

    @property
    def num_edges(self) -> int:
        """Directed edges."""
        return self.src.shape[0]

    @kept
    def indptr(self) -> Tensor:
        """``(num_dst + 1,)`` int64: the edges into v are ``indptr[v] … indptr[v+1]-1``."""
        return _offsets(self.dst, self.num_dst)

    @kept
    def degree(self) -> Tensor:
        """``(num_dst,)`` int64, edges into each destination."""
        return self.indptr.diff()

    @kept
    def out_degree(self) -> Tensor:
        """``(num_src,)`` int64, edges out of each source."""
        return _offsets(self.src, self.num_src).diff()

    @kept
    def by_src(self) -> BySource:
        """The edges ordered by source, which is the transpose that gradients are summed over."""
        if self.src.device.type == "cpu" and not exporting():  # counting is faster than sorting
            edges = np.arange(self.num_edges)
            matrix = csr_matrix(
                (edges, self.src.numpy(), self.indptr.numpy()), shape=(self.num_dst, self.num_src)
            ).tocsc()
            columns = matrix.indptr, matrix.data, matrix.indices
            return BySource(*(torch.from_numpy(column).long() for column in columns))
        order = self.src.argsort(stable=True)
        return BySource(_offsets(self.src, self.num_src), order, self.dst[order])

    @kept
    def transposed(self) -> Adjacency:
        """The edges v → u in the order of `by_src`, without features."""
        indptr, order, dst = self.by_src
        turned = Adjacency(dst, self.src[order], self.num_dst, self.num_src)
        turned.indptr = indptr
        return turned

    @kept
    def with_loops(self) -> tuple[Adjacency, Tensor]:
        """The edges and one from each node to itself, without features, and where each stood before.

        That is, in the list of the E edges and then the N loops. Of a square adjacency.
        """
        nodes = torch.arange(self.num_dst, device=self.src.device)
        src, dst = torch.cat([self.src, nodes]), torch.cat([self.dst, nodes])
        order = dst.argsort(stable=True)
        return Adjacency(src[order], dst[order], self.num_src, self.num_dst), order

    @kept
    def edge_ids(self) -> Tensor:
        """``0 … E-1``."""
        return torch.arange(self.num_edges, device=self.src.device)

    @cached_property
    def dgl_graph(self) -> Any:
        """The edges as DGL's kernels take them; they are sorted, so DGL need not sort them."""
        dgl: Any = load_dgl()
        columns = (self.indptr, self.src, self.edge_ids)
        if self.num_src == self.num_dst:
            return dgl.graph(("csc", columns), num_nodes=self.num_dst)
        return dgl.create_block(("csc", columns), num_src_nodes=self.num_src, num_dst_nodes=self.num_dst)

    @kept
    def relations(self) -> dict[int, Relation]:
        """The edges of each type, over the destinations that they reach."""
        if self.type is None:
            raise ValueError("the edges have no type")
        parts = {}
        types, order = self.type.sort(stable=True)
        found, counts = types.unique_consecutive(return_counts=True)
        for relation, edges in zip(found.tolist(), order.split(counts.tolist())):
            nodes, dst = self.dst[edges].unique_consecutive(return_inverse=True)
            part = Adjacency(self.src[edges], dst, self.num_src, len(nodes))
            parts[relation] = Relation(nodes, edges, part)
        return parts

    @kept
    def edges_of_same_type(self) -> Tensor:
        """``(E,)`` int64: for edge u →_r v, how many edges of type r go into v."""
        if self.type is None:
            raise ValueError("the edges have no type")
        key = self.dst * (self.type.max() + 1 if self.num_edges else 1) + self.type
        _, place, counts = key.unique(return_inverse=True, return_counts=True)
        return counts[place]


def _offsets(index: Tensor, size: int) -> Tensor:
    counts = (
        scatter_sum(torch.ones_like(index), index, size) if exporting() else index.bincount(minlength=size)
    )
    return torch.cat([index.new_zeros(1), counts.cumsum(0)])


def range_of_each(ptr: Tensor, size: int) -> Tensor:
    """``(size,)`` int64, ascending: i where ``ptr[i] ≤ place < ptr[i+1]``, for every place."""
    if exporting():  # how often a value is repeated is nothing that a program's shapes may depend on
        starts = scatter_sum(torch.ones_like(ptr[1:]), ptr[1:], size + 1)
        return starts.cumsum(0)[:size]
    ranges = torch.arange(ptr.shape[0] - 1, device=ptr.device)
    return ranges.repeat_interleave(ptr.diff(), output_size=size)


def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """out_i = Σ values_j over the places j where ``index[j]`` is i, ``(size, …)``; 0 where there is none."""
    return values.new_zeros(size, *values.shape[1:]).index_add(0, index, values)
