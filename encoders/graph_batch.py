"""GraphBatch: the tensors of a batch of graphs, the input of every graph encoder and augmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from encoders.adjacency import Adjacency, kept, range_of_each
from encoders.message_passing import aggregate
from encoders.sparse_features import SparseFeatures

_PER_EDGE = ("edge_attr", "edge_weight", "edge_type")
_PER_NODE = ("x", "node_type", "target")
_OF_NODES = ("nodes_per_graph", "graph_of_node", "membership")  # caches that edges have no part in
_CACHES = (*_OF_NODES, "edge_ptr", "graph_of_edge", "adjacency")


@dataclass(eq=False, repr=False)
class GraphBatch:
    """Graphs laid end to end: graph g owns the nodes ``ptr[g] … ptr[g+1]-1``.

    The constructor trusts its tensors, for it runs in every augmentation; the ``from_…`` methods sort and
    check.

    Attributes:
        src: ``(E,)`` int64, where each edge starts.
        dst: ``(E,)`` int64, where each edge ends, ascending. An undirected edge is stored in both directions.
        x: ``(N, F)`` float features, dense or ``SparseFeatures``, or ``(N, C)`` int64 categories (column c is
            one categorical feature).
        ptr: ``(G + 1,)`` int64, offsets of the graphs' nodes; the first is 0, the last N.
        edge_attr: ``(E, F)`` float or ``(E, C)`` int64 edge features, or None.
        edge_weight: ``(E,)`` float, a factor on the message along each edge, or None.
        edge_type: ``(E,)`` int64 relation of each edge, or None.
        node_type: ``(N,)`` int64 type of each node, or None.
        target: ``(N,)`` bool, the nodes that the batch is about, as those whose neighbourhoods were sampled;
            None for all.
    """

    src: Tensor
    dst: Tensor
    x: Any  # Tensor | SparseFeatures; most of what reads it takes the one or the other alone
    ptr: Tensor
    edge_attr: Tensor | None = None
    edge_weight: Tensor | None = None
    edge_type: Tensor | None = None
    node_type: Tensor | None = None
    target: Tensor | None = None

    @property
    def num_graphs(self) -> int:
        """Graphs in the batch."""
        return self.ptr.shape[0] - 1

    @property
    def num_nodes(self) -> int:
        """Nodes in the batch."""
        return self.x.shape[0]

    @property
    def num_edges(self) -> int:
        """Directed edges in the batch."""
        return self.src.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.x.device

    @kept
    def nodes_per_graph(self) -> Tensor:
        """``(G,)`` int64."""
        return self.ptr.diff()

    @kept
    def graph_of_node(self) -> Tensor:
        """``(N,)`` int64, ascending."""
        return range_of_each(self.ptr, self.num_nodes)

    @kept
    def edge_ptr(self) -> Tensor:
        """``(G + 1,)`` int64 offsets of the graphs' edges: edges sorted by dst are sorted by graph."""
        return torch.searchsorted(self.dst, self.ptr)

    @kept
    def graph_of_edge(self) -> Tensor:
        """``(E,)`` int64, ascending."""
        return self.graph_of_node.index_select(0, self.dst)

    @cached_property
    def adjacency(self) -> Adjacency:
        """The edges as message passing uses them: built once, shared by every layer, forward and backward."""
        attributes = {"weight": self.edge_weight, "attr": self.edge_attr, "type": self.edge_type}
        return Adjacency(self.src, self.dst, self.num_nodes, self.num_nodes, **attributes)

    @kept
    def membership(self) -> Adjacency:
        """An edge from each node to its graph, over which readouts aggregate."""
        nodes = torch.arange(self.num_nodes, device=self.device)
        return Adjacency(nodes, self.graph_of_node, self.num_nodes, self.num_graphs)

    def sum_neighbours(self, x: Tensor) -> Tensor:
        """Σ_{u→v} w_uv x_u for ``(N, F)`` float x, with the fastest kernel there is."""
        return aggregate(self.adjacency, x, "sum", self.edge_weight)

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign a tensor; what was cached of those before is made anew."""
        for cache in _CACHES:
            self.__dict__.pop(cache, None)
        self.__dict__[name] = value

    def __getstate__(self) -> dict[str, Any]:
        """The tensors without the caches, which hold DGL handles and can be rebuilt."""
        return self._tensors()

    def _tensors(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _map(self, function: Any) -> GraphBatch:
        mapped: dict[str, Any] = {k: None if v is None else function(v) for k, v in self._tensors().items()}
        return GraphBatch(**mapped)

    def edge_features(self) -> dict[str, Tensor | None]:
        """``edge_attr``, ``edge_weight`` and ``edge_type``."""
        return {name: getattr(self, name) for name in _PER_EDGE}

    def _select(self, names: Sequence[str], index: Tensor) -> dict[str, Any]:
        return {name: None if (v := getattr(self, name)) is None else _take(v, index) for name in names}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> GraphBatch:
        """The batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> GraphBatch:
        """The batch in page-locked memory, as ``DataLoader(pin_memory=True)`` asks for it."""
        return self._map(lambda tensor: tensor.pin_memory())

    def with_features(self, **features: Any) -> GraphBatch:
        """The same edges, and what was cached of them, with another ``x`` or other feature."""
        changed = replace(self, **features)
        stale = {"adjacency"} if features.keys() & set(_PER_EDGE) else set()
        caches = self.__dict__.keys() - self._tensors().keys() - stale
        changed.__dict__.update({name: self.__dict__[name] for name in caches})
        return changed

    def edge_subgraph(self, keep: Tensor) -> GraphBatch:
        """All nodes and the edges where ``keep`` (``(E,)`` bool) is true."""
        kept = _places(keep)
        src, dst = self.src.index_select(0, kept), self.dst.index_select(0, kept)
        return self._with_edges(src=src, dst=dst, **self._select(_PER_EDGE, kept))

    def node_subgraph(self, keep: Tensor) -> GraphBatch:
        """The nodes where ``keep`` (``(N,)`` bool) is true, renumbered, and the edges between them."""
        kept = _places(keep)
        counts = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
        inside = _places(_take(keep, self.src) & _take(keep, self.dst))
        features = self._select(_PER_NODE, kept) | self._select(_PER_EDGE, inside)
        src, dst = (_take(counts, _take(end, inside)) for end in (self.src, self.dst))
        return GraphBatch(src=src, dst=dst, ptr=counts[self.ptr], **features)

    def with_edges(self, src: Tensor, dst: Tensor, **edge_features: Any) -> GraphBatch:
        """The same nodes with other edges, in any order; edge features that are not given are None."""
        order = dst.argsort(stable=True)
        given: dict[str, Any] = {name: edge_features.get(name) for name in _PER_EDGE}
        edges: dict[str, Any] = {name: None if v is None else v[order] for name, v in given.items()}
        return self._with_edges(src=src[order], dst=dst[order], **edges)

    def _with_edges(self, **edges: Any) -> GraphBatch:
        """Other edges, and what was cached of the nodes."""
        changed = replace(self, **edges)
        changed.__dict__.update({name: self.__dict__[name] for name in _OF_NODES if name in self.__dict__})
        return changed

    def __repr__(self) -> str:
        given = [f"{k}={tuple(v.shape)}" for k, v in self._tensors().items() if v is not None]
        return f"GraphBatch({self.num_graphs} graphs, {', '.join(given)})"

    def __len__(self) -> int:
        return self.num_graphs

    def __iter__(self) -> Iterator[GraphBatch]:
        return (self[g] for g in range(self.num_graphs))

    def __getitem__(self, graphs: int | slice | Sequence[int] | Tensor) -> GraphBatch:
        """Some of the graphs, in the order asked for, by index, slice, list, int64 or bool tensor."""
        index = self._graph_index(graphs)
        ptr, nodes = _ranges(self.ptr, index)
        edge_ptr, edges = _ranges(self.edge_ptr, index)
        moved = ptr[:-1] - self.ptr[index]  # how far each graph's node numbers shift
        shift = moved.repeat_interleave(edge_ptr.diff(), output_size=len(edges))
        features = self._select(_PER_NODE, nodes) | self._select(_PER_EDGE, edges)
        src, dst = (_take(end, edges).add_(shift) for end in (self.src, self.dst))
        return GraphBatch(src=src, dst=dst, ptr=ptr, **features)

    def _graph_index(self, graphs: int | slice | Sequence[int] | Tensor) -> Tensor:
        everything = torch.arange(self.num_graphs, device=self.device)
        if isinstance(graphs, int):
            if not -self.num_graphs <= graphs < self.num_graphs:
                raise IndexError(f"graph {graphs} of a batch of {self.num_graphs} graphs")
            return everything[graphs].view(1)
        if isinstance(graphs, slice):
            return everything[graphs]
        index = torch.as_tensor(graphs, device=self.device)
        return everything[index.long() if index.numel() == 0 else index].view(-1)  # of one number too

    def unbatch(self) -> list[GraphBatch]:
        """One GraphBatch a graph."""
        return list(self)

    @staticmethod
    def concatenate(batches: Sequence[GraphBatch]) -> GraphBatch:
        """The graphs of several batches as one batch; the ``collate_fn`` of data sets that yield GraphBatch.

        Raises:
            ValueError: some batches have a feature that others lack.
        """
        if not batches:
            raise ValueError("concatenate: given no batch, expected at least one")
        starts = torch.tensor([0] + [b.num_nodes for b in batches]).cumsum(0).tolist()
        tensors: dict[str, Any] = {}
        for name in _PER_NODE + _PER_EDGE:
            values = [getattr(batch, name) for batch in batches]
            absent = sum(value is None for value in values)
            if absent not in (0, len(values)):
                raise ValueError(f"{name} is None in {absent} of {len(values)} batches: give it to all")
            tensors[name] = None if absent else _cat(values)
        src = torch.cat([batch.src + start for batch, start in zip(batches, starts)])
        dst = torch.cat([batch.dst + start for batch, start in zip(batches, starts)])
        ptr = torch.cat([batches[0].ptr[:1], *(b.ptr[1:] + start for b, start in zip(batches, starts))])
        return GraphBatch(src=src, dst=dst, ptr=ptr, **tensors)

    @staticmethod
    def from_edges(edges: Any, x: Any = None, **features: Any) -> GraphBatch:
        """See :func:`encoders.graph_sources.from_edges`."""
        from encoders import graph_sources

        return graph_sources.from_edges(edges, x, **features)

    @staticmethod
    def from_dgl(graphs: Any, **keys: str | None) -> GraphBatch:
        """See :func:`encoders.graph_libraries.from_dgl`."""
        from encoders import graph_libraries

        return graph_libraries.from_dgl(graphs, **keys)

    @staticmethod
    def from_pyg(graphs: Any) -> GraphBatch:
        """See :func:`encoders.graph_libraries.from_pyg`."""
        from encoders import graph_libraries

        return graph_libraries.from_pyg(graphs)

    @staticmethod
    def from_smiles(smiles: str | Sequence[str]) -> GraphBatch:
        """See :func:`encoders.molecules.from_smiles`."""
        from encoders import molecules

        return molecules.from_smiles(smiles)

    def to_dgl(self) -> Any:
        """See :func:`encoders.graph_libraries.to_dgl`."""
        from encoders import graph_libraries

        return graph_libraries.to_dgl(self)

    def to_pyg(self) -> Any:
        """See :func:`encoders.graph_libraries.to_pyg`."""
        from encoders import graph_libraries

        return graph_libraries.to_pyg(self)


def _ranges(ptr: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets and members of the ranges ``ptr[i] … ptr[i+1]-1`` for i in ``index``, laid end to end."""
    counts = ptr.diff()[index]
    offsets = torch.cat([ptr.new_zeros(1), counts.cumsum(0)])
    total = int(offsets[-1])
    first = (ptr[index] - offsets[:-1]).repeat_interleave(counts, output_size=total)
    return offsets, first + torch.arange(total, device=ptr.device)


def _places(chosen: Tensor) -> Tensor:
    """Where a bool vector is true, ascending."""
    if chosen.is_cpu:  # NumPy finds them four times as fast
        return torch.from_numpy(np.flatnonzero(chosen.numpy()))
    return chosen.nonzero().squeeze(1)


def _take(values: Any, index: Tensor) -> Any:
    # index_select is several times as fast as indexing on a CPU
    return values.index_select(0, index) if isinstance(values, Tensor) else values[index]


def _cat(values: Sequence[Any]) -> Any:
    return SparseFeatures.cat(values) if isinstance(values[0], SparseFeatures) else torch.cat(list(values))


# torch's documented way to teach DataLoader a type: (GraphBatch, label, index) samples need no collate_fn.
default_collate_fn_map[GraphBatch] = lambda batch, *, collate_fn_map=None: GraphBatch.concatenate(batch)
