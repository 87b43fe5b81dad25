"""Graphs whose nodes are the samples: citation, co-purchase and social networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from augmentations.random import hash64
from contrastive.data import Batch
from contrastive.data.epochs import EpochLoader, EpochOrder
from contrastive.data.graph_features import refuse_other_features
from contrastive.data.neighbourhoods import sample_neighbourhood
from contrastive.data.node_files import NodeDataset, read_nodes
from contrastive.errors import ContrastiveError
from encoders.graph import GraphEncoder, NodeEncoder
from encoders.graph_batch import GraphBatch


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


class Passes(EpochOrder):
    """The numbers of an epoch's passes, the same in every process: they share the nodes of each pass."""

    def __init__(self, passes_per_epoch: int) -> None:
        super().__init__(range(passes_per_epoch), num_replicas=1, rank=0)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * len(self)
        return iter(range(first + self.start, first + len(self)))


class NodeData(LightningDataModule):
    """Passes over one graph whose nodes are contrasted; encode it with ``encoders.graph.NodeEncoder``.

    Args:
        source: the graph (see ``contrastive.data.node_files.read_nodes``).
        normalize_features: divide every row of x by the sum of its magnitudes.
        batch_size: nodes a process contrasts a step, drawn at random; None contrasts all of them.
        fanouts: neighbours to sample, a number a layer, for graphs that do not fit; −1 takes all of a hop.
            None encodes the whole graph. Needs ``batch_size``.
        steps_per_epoch: passes that count as an epoch.
        num_workers: processes that sample neighbourhoods.
        seed: of targets and neighbours; ``pretrain`` takes it from ``seed_everything``.
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
            ContrastiveError: a batch of more nodes than there are, or an encoder of graphs or other features.
        """
        if self.nodes is not None:
            return
        self.nodes = read_nodes(self.source, normalize_features=self.normalize_features)
        if self.trainer:
            model = self.trainer.lightning_module
            refuse_other_features(model, self.nodes.graph.x, self.source)
            encoder = getattr(model, "encoder", None)
            if isinstance(encoder, GraphEncoder) and not isinstance(encoder, NodeEncoder):
                raise ContrastiveError(
                    f"{type(encoder).__name__} gives a row a graph, and the items of {self.source} are the "
                    "nodes of one: take encoders.graph.NodeEncoder"
                )
        world_size = self.trainer.world_size if self.trainer else 1
        if (self.batch_size or 0) * world_size > self.nodes.graph.num_nodes:
            raise ContrastiveError(
                f"{self.source} has {self.nodes.graph.num_nodes} nodes, fewer than a batch of "
                f"{self.batch_size} on {world_size} process(es); lower data.init_args.batch_size, or take "
                "all with null"
            )

    @property
    def num_samples(self) -> int:
        """Nodes of the graph, which a resume compares with those of its checkpoint."""
        assert self.nodes is not None
        return self.nodes.graph.num_nodes

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
        return EpochLoader(
            passes,
            self.trainer,
            batch_size=1,
            sampler=Passes(self.steps_per_epoch),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )
