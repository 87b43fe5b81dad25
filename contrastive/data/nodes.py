"""Graphs whose nodes are the samples: citation, co-purchase and social networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from augmentations.random import hash64
from contrastive.data import Batch
from contrastive.data.loading import as_is
from contrastive.errors import ContrastiveError
from encoders.graph_batch import GraphBatch
from encoders.message_passing import Adjacency
from encoders.sparse_features import SparseFeatures


@dataclass(frozen=True)
class NodeDataset:
    """One graph with labelled nodes.

    Attributes:
        graph: a ``GraphBatch`` of one graph.
        labels: ``(N,)`` int64, or None.
        split: the nodes of the published training, validation and test split, or None.
    """

    graph: GraphBatch
    labels: Tensor | None = None
    split: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None


def read_nodes(source: str, *, normalize_features: bool = True) -> NodeDataset:
    """Read a graph whose nodes are the samples, made undirected and without self-loops.

    Args:
        source: ``FOLDER/NAME`` for Planetoid's files ``FOLDER/ind.NAME.*`` (``planetoid/cora``); a ``.npz``
            of the gnn-benchmark form (Amazon, Coauthor), or with arrays ``edges`` ``(E, 2)``, ``x``
            ``(N, F)`` and ``y`` ``(N,)`` of your own; or ``dgl:NAME``, a node-classification class of
            ``dgl.data``.
        normalize_features: divide every row of x by the sum of its magnitudes.

    Raises:
        ContrastiveError: nothing there, or a file that is damaged, holds code, or does not fit the others.
    """
    from contrastive.data import node_files

    path = Path(source).expanduser()
    if source.startswith("dgl:"):
        dataset = node_files.read_dgl(source)
    elif path.suffix == ".npz":
        dataset = node_files.read_npz(path)
    elif (path.parent / f"ind.{path.name}.graph").exists():
        dataset = node_files.read_planetoid(path.parent, path.name)
    else:
        raise ContrastiveError(
            f"there is no graph {source}: give FOLDER/NAME of files FOLDER/ind.NAME.*, a .npz, or dgl:NAME"
        )
    if normalize_features:
        graph = dataset.graph
        dataset = replace(dataset, graph=graph.with_features(x=rows_normalized(graph.x)))
    return dataset


def rows_normalized(x: Tensor | SparseFeatures) -> Tensor | SparseFeatures:
    """Rows divided by the sums of their magnitudes; rows of zeros stay."""
    if isinstance(x, Tensor):
        return F.normalize(x, p=1, dim=1)
    sums = x.value.new_zeros(len(x)).index_add_(0, x.row, x.value.abs())
    return x * (1 / sums.masked_fill(sums == 0, 1)).unsqueeze(1)


def undirected_graph(src: np.ndarray, dst: np.ndarray, x: Any) -> GraphBatch:
    """A graph with every edge in both directions, each once, and no self-loops.

    Args:
        src: ``(E,)`` integers, where each edge starts.
        dst: ``(E,)`` integers, where each edge ends.
        x: ``(N, F)`` features, a NumPy array or SciPy matrix; kept sparse where under a tenth is not zero.

    Raises:
        ContrastiveError: an edge names a node that is not there, or a feature is not finite.
    """
    num_nodes = x.shape[0]
    ends = np.stack([np.concatenate([src, dst]), np.concatenate([dst, src])]).astype(np.int64)
    ends = ends[:, ends[0] != ends[1]]
    if ends.size and (ends.min() < 0 or ends.max() >= num_nodes):
        raise ContrastiveError(f"an edge joins node {ends.max()}, but there are {num_nodes} nodes")
    keys = np.unique(ends[0] * num_nodes + ends[1])
    edges = np.stack([keys // num_nodes, keys % num_nodes], axis=1)
    return GraphBatch.from_edges(edges, num_nodes=num_nodes).with_features(x=_features(x))


def _features(x: Any) -> Tensor | SparseFeatures:
    rows = sparse.csr_matrix(x, dtype=np.float32)
    rows.eliminate_zeros()
    rows.sort_indices()
    if not np.isfinite(rows.data).all():
        raise ContrastiveError(
            f"{(~np.isfinite(rows.data)).sum()} features are not finite; mend or drop them"
        )
    if rows.nnz > 0.1 * x.shape[0] * x.shape[1]:
        return torch.from_numpy(rows.toarray())
    indptr, column = (torch.from_numpy(part.astype(np.int64)) for part in (rows.indptr, rows.indices))
    return SparseFeatures(indptr, column, torch.from_numpy(rows.data), x.shape[1])


def sample_neighbourhood(
    adjacency: Adjacency, nodes: Tensor, fanouts: Sequence[int], seed: int
) -> tuple[Tensor, Tensor]:
    """Sample up to so many neighbours of each node, hop by hop (GraphSAGE, Hamilton et al. 2017).

    arXiv 1706.02216. Each edge into the frontier gets a hash of (seed, hop, edge), and the smallest of a
    node's are taken: without replacement, and the same wherever it is drawn.

    Args:
        adjacency: of the whole graph.
        nodes: ``(T,)`` int64 distinct nodes to start from.
        fanouts: neighbours a node, a number a hop; −1 takes all.
        seed: of the draw.

    Returns:
        ``(M,)`` int64 nodes, those given first, and the ``(K,)`` int64 ascending edges between them that were
        sampled, by their number in ``adjacency``.
    """
    seen = torch.zeros(adjacency.num_dst, dtype=torch.bool)
    seen[nodes] = True
    reached, frontier, chosen = [nodes], nodes, []
    for hop, fanout in enumerate(fanouts):
        edges, owner = _edges_into(adjacency, frontier)
        if fanout >= 0:
            key = hash64(torch.tensor(seed) ^ hash64(torch.tensor(hop))) ^ edges
            order = hash64(key).argsort()
            order = order[owner[order].argsort(stable=True)]  # by owner, at random within
            first = torch.searchsorted(owner, owner)  # owner ascends, so this is where its edges start
            edges = edges[order[torch.arange(len(edges)) - first < fanout]]
        chosen.append(edges)
        frontier = adjacency.src[edges].unique()
        frontier = frontier[~seen[frontier]]
        seen[frontier] = True
        reached.append(frontier)
    return torch.cat(reached), torch.cat([nodes[:0], *chosen]).unique()


def _edges_into(adjacency: Adjacency, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """The edges into ``nodes``, and for each the place of its node among them, ascending."""
    counts = adjacency.degree[nodes]
    total = int(counts.sum())
    owner = torch.arange(len(nodes)).repeat_interleave(counts, output_size=total)
    first = adjacency.indptr[nodes] - (counts.cumsum(0) - counts)
    return first[owner] + torch.arange(total), owner


class NodePasses(Dataset):
    """Pass p over a graph: the whole of it, or the sampled neighbourhoods of some of its nodes.

    Args:
        graph: a ``GraphBatch`` of one graph.
        num_targets: nodes a pass that are contrasted; None for all.
        fanouts: neighbours to sample, a number a layer; None encodes the whole graph.
        seed: of the targets and the neighbours.
        rank: this process.
        world_size: processes that share the targets of a pass; each encodes its own.
    """

    def __init__(
        self,
        graph: GraphBatch,
        *,
        num_targets: int | None,
        fanouts: Sequence[int] | None,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.graph, self.num_targets, self.fanouts, self.seed = graph, num_targets, fanouts, seed
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return 2**62  # the sampler says which passes make an epoch

    def __getitems__(self, passes: list[int]) -> Batch:
        (number,) = passes
        index = torch.tensor([number])
        if self.num_targets is None and self.world_size == 1 and self.fanouts is None:
            return Batch(self.graph, None, index)
        targets = self.targets(number)
        if self.fanouts is None:
            chosen = torch.zeros(self.graph.num_nodes, dtype=torch.bool)
            chosen[targets] = True
            return Batch(self.graph.with_features(target=chosen), None, index)
        seed = int(hash64(torch.tensor(self.seed)) ^ number)
        nodes, edges = sample_neighbourhood(self.graph.adjacency, targets, self.fanouts, seed)
        return Batch(_subgraph(self.graph, nodes, edges, len(targets)), None, index)

    def targets(self, number: int) -> Tensor:
        """The nodes that this process contrasts in a pass; those of the processes do not overlap."""
        generator = torch.Generator().manual_seed(int(hash64(torch.tensor(self.seed + 1)) ^ number))
        order = torch.randperm(self.graph.num_nodes, generator=generator)
        count = len(order) // self.world_size if self.num_targets is None else self.num_targets
        return order[self.rank * count : (self.rank + 1) * count]


def _subgraph(graph: GraphBatch, nodes: Tensor, edges: Tensor, num_targets: int) -> GraphBatch:
    """The given nodes, renumbered in their order, with the given edges; the first ones are its targets."""
    place = torch.empty(graph.num_nodes, dtype=torch.int64)
    place[nodes] = torch.arange(len(nodes))
    features = {k: None if v is None else v[edges] for k, v in graph.edge_features().items()}
    empty = edges.new_empty(0)
    bare = GraphBatch(
        src=empty,
        dst=empty,
        x=graph.x[nodes],
        ptr=torch.tensor([0, len(nodes)]),
        node_type=None if graph.node_type is None else graph.node_type[nodes],
        target=torch.arange(len(nodes)) < num_targets,
    )
    return bare.with_edges(place[graph.src[edges]], place[graph.dst[edges]], **features)


class Passes(Sampler[int]):
    """The numbers of an epoch's passes; Lightning tells it the epoch, also after a resume."""

    def __init__(self, passes_per_epoch: int) -> None:
        self.passes_per_epoch, self.epoch = passes_per_epoch, 0

    def set_epoch(self, epoch: int) -> None:
        """Called at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.passes_per_epoch

    def __iter__(self) -> Iterator[int]:
        start = self.epoch * self.passes_per_epoch
        return iter(range(start, start + self.passes_per_epoch))


class NodeData(LightningDataModule):
    """Passes over one graph whose nodes are contrasted; encode it with ``encoders.graph.NodeEncoder``.

    Args:
        source: the graph (see ``read_nodes``).
        normalize_features: divide every row of x by the sum of its magnitudes.
        batch_size: nodes a process contrasts a step, drawn at random; None contrasts all of them.
        fanouts: neighbours to sample, a number a layer, for graphs that do not fit; −1 takes all of a hop.
            None encodes the whole graph. Needs ``batch_size``.
        steps_per_epoch: passes that count as an epoch.
        num_workers: processes that sample neighbourhoods.
        seed: of targets and neighbours; taken from ``seed_everything``.
    """

    val = None  # nothing is set aside: the labels are not seen

    def __init__(
        self,
        source: str,
        *,
        normalize_features: bool = True,
        batch_size: int | None = None,
        fanouts: list[int] | None = None,
        steps_per_epoch: int = 20,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if fanouts is not None and batch_size is None:
            raise ValueError("fanouts sample the neighbourhoods of a batch of nodes: give batch_size too")
        self.source, self.normalize_features = source, normalize_features
        self.batch_size, self.fanouts, self.seed = batch_size, fanouts, seed
        self.steps_per_epoch, self.num_workers = steps_per_epoch, num_workers
        self.nodes: NodeDataset | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the graph.

        Raises:
            ContrastiveError: a batch of more nodes than there are.
        """
        if self.nodes is not None:
            return
        self.nodes = read_nodes(self.source, normalize_features=self.normalize_features)
        world_size = self.trainer.world_size if self.trainer else 1
        if (self.batch_size or 0) * world_size > self.nodes.graph.num_nodes:
            raise ContrastiveError(
                f"{self.source} has {self.nodes.graph.num_nodes} nodes, fewer than a batch of "
                f"{self.batch_size} on {world_size} process(es); lower data.init_args.batch_size"
            )

    def train_dataloader(self) -> DataLoader:
        """One pass a step."""
        assert self.nodes is not None and self.trainer is not None
        passes = NodePasses(
            self.nodes.graph,
            num_targets=self.batch_size,
            fanouts=self.fanouts,
            seed=self.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return DataLoader(
            passes,
            batch_size=1,
            sampler=Passes(self.steps_per_epoch),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=as_is,
        )
