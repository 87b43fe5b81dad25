"""Graph speed beside the peers, as ratios measured in one run.

    python scripts/benchmarks/graphs.py [--threads 1] [--only augmentation gin grace kernels]

Both sides are measured in turns, A B A B, and the medians compared, for other work on the machine slows both;
in processor seconds where there is one thread.
Needs ``pip install contrastive-pretraining[benchmark,molecules]`` and DGL. Molecules come from a folder of
SMILES files (``--smiles``, gzip or text, the first column), or are random trees where none is given.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measure import clock
from torch import Tensor, nn

from augmentations.graph import Compose, EdgeDrop, FeatureMask, NodeDrop
from augmentations.molecule import AtomMask, BondDrop
from encoders.adjacency import Adjacency
from encoders.graph import GraphEncoder
from encoders.graph_batch import GraphBatch
from encoders.message_passing import aggregate
from encoders.molecules import ATOM_FEATURES


def compare(
    name: str, candidates: dict[str, Callable[[], Any]], repeats: int, *, settle: bool = False
) -> None:
    """Time the candidates in turns; print medians and the ratios to the last one.

    ``settle`` calls each once more before its turn. DGL's many small graphs, once freed, cost whoever first
    asks for a large block 5 ms in which malloc joins the pieces; that is ten times what a batch takes.
    """
    times: dict[str, list[float]] = {label: [] for label in candidates}
    for turn in range(repeats + 1):
        for label, function in candidates.items():
            if settle:
                function()
            start = clock()
            function()
            if turn:  # the first warms up
                times[label].append(clock() - start)
    medians = {label: statistics.median(t) for label, t in times.items()}
    reference = list(medians.values())[-1]
    print(f"\n{name}")
    for label, median in medians.items():
        print(f"  {label:44s} {median * 1e3:10.2f} ms   {reference / median:7.2f}×")


def molecules(source: Path | None, count: int) -> GraphBatch:
    """Molecules of a SMILES file or the first one of a folder, or random trees as large as molecules."""
    if source is not None:
        files = [source] if source.is_file() else sorted(source.iterdir())
        file = next(file for file in files if file.name.endswith((".smi", ".gz", ".txt", ".csv")))
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
            names = [line.split(",")[0].strip().strip('"') for line in lines]
        step = max(len(names) // (count + 1), 1)
        return GraphBatch.from_smiles(names[1::step][:count])
    generator = torch.Generator().manual_seed(0)
    edges, first = [], 0
    for _ in range(count):
        edges += [
            (first + v, first + max(0, v - 1 - int(torch.randint(3, (), generator=generator))))
            for v in range(1, 23)
        ]
        first += 23
    x = torch.stack([torch.randint(1, 3, (first,), generator=generator) for _ in ATOM_FEATURES], dim=1)
    bond = torch.ones(len(edges), 4, dtype=torch.int64)
    return GraphBatch.from_edges(edges, x, ptr=range(0, first + 1, 23), edge_attr=bond, undirected=True)


def augmentation(batch: GraphBatch) -> None:
    """EdgeDrop and NodeDrop of four batches of 512 molecules against dgl.transforms, one graph at a time."""
    import dgl
    from dgl.transforms import DropEdge, DropNode

    batches = [batch[torch.randperm(len(batch))] for _ in range(4)]
    graphs = dgl.unbatch(batch.to_dgl())
    for ours, theirs in ((EdgeDrop(p=0.2), DropEdge(0.2)), (NodeDrop(p=0.2), DropNode(0.2))):
        name = f"{type(ours).__name__} of {len(batches)} batches of {len(batch)} molecules"
        compare(
            name,
            {
                # replaced, a batch has no caches: as one that a data set has just made
                "whole batch": lambda ours=ours: [ours(replace(b)) for b in batches],
                "dgl.transforms, graph by graph": lambda theirs=theirs: [
                    theirs(g) for _ in batches for g in graphs
                ],
            },
            7,
            settle=True,
        )


class PlainGIN(nn.Module):
    """GIN as a PyG user writes it."""

    def __init__(self, width: int = 300, num_layers: int = 5) -> None:
        from torch_geometric.nn import GINConv

        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(n, width) for n in ATOM_FEATURES.values())
        self.convs = nn.ModuleList(GINConv(self._mlp(width), train_eps=True) for _ in range(num_layers))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(num_layers))

    @staticmethod
    def _mlp(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, data: Any) -> Tensor:
        """Sum of the atoms' features."""
        from torch_geometric.nn import global_add_pool

        h = sum(e(column) for e, column in zip(self.embeddings, data.x.unbind(1)))
        for conv, norm in zip(self.convs, self.norms):
            h = torch.relu(norm(conv(h, data.edge_index)))
        return global_add_pool(h, data.batch, size=data.num_graphs)


def trainer(model: nn.Module, batch: Callable[[], Any], bfloat16: bool = False) -> Callable[[], None]:
    """One step: a batch, forward, backward, Adam; ``bfloat16`` as by ``--trainer.precision bf16-mixed``."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, foreach=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            features = model(batch())
        features.float().square().mean().backward()
        optimizer.step()

    return step


def gin(batch: GraphBatch) -> None:
    """A training step of GIN, five layers of 300."""
    arguments: dict[str, Any] = dict(
        node_features="atoms", num_hidden=300, num_layers=5, layer_args={"num_hidden": 600}
    )
    plain, shared = GraphEncoder(**arguments), GraphEncoder(**arguments, share_equal_nodes=True)
    views = Compose(augmentations=[BondDrop(p=0.2), AtomMask(p=0.2)])
    without_bonds = batch.with_features(edge_attr=None)
    for name, source in (
        ("as read", without_bonds),
        ("bonds dropped, atoms masked", views(batch).with_features(edge_attr=None)),
    ):
        data, steps = source.to_pyg(), {}
        for precision in ("bfloat16", "float32"):
            half = precision == "bfloat16"
            steps |= {
                f"GraphEncoder, share_equal_nodes, {precision}": trainer(shared, lambda s=source: s[:], half),
                f"GraphEncoder, {precision}": trainer(plain, lambda s=source: s[:], half),
                f"PyG GINConv, {precision}": trainer(PlainGIN(), lambda d=data: d, half),
            }
        compare(f"GIN 5×300, training step, {batch.num_graphs} molecules, {name}", steps, 5)


class PlainGCN(nn.Module):
    """Two GCN layers as PyG has them."""

    def __init__(self, num_in: int) -> None:
        from torch_geometric.nn import GCNConv

        super().__init__()
        self.convs = nn.ModuleList([GCNConv(num_in, 256), GCNConv(256, 256)])

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Features of the nodes."""
        for conv in self.convs:
            x = torch.relu(conv(x, edge_index))
        return x


def grace() -> None:
    """The encoder's part of a GRACE step on a graph of Cora's size: two views, forward and backward."""
    from torch_geometric.utils import dropout_edge

    generator = torch.Generator().manual_seed(0)
    edges = torch.randint(2708, (5278, 2), generator=generator)
    x = (torch.rand(2708, 1433, generator=generator) < 0.013).float()
    batch = GraphBatch.from_edges(edges, x, undirected=True)
    edge_index = torch.stack([batch.src, batch.dst])
    ours, theirs = (
        GraphEncoder(node_features=1433, num_hidden=256, num_layers=2, layer="gcn", norm=False),
        PlainGCN(1433),
    )
    augment = Compose(augmentations=[EdgeDrop(p=0.2), FeatureMask(p=0.3)])

    def our_step() -> None:
        sum(ours.nodes(augment(batch)).square().mean() for _ in range(2)).backward()  # type: ignore[union-attr]

    def their_step() -> None:
        loss: Any = 0
        for _ in range(2):
            mask = torch.rand(1433) >= 0.3
            loss = loss + theirs(x * mask, dropout_edge(edge_index, p=0.2)[0]).square().mean()
        loss.backward()

    compare(
        "GCN 256-256, two views of a graph of Cora's size",
        {"GraphEncoder": our_step, "PyG GCNConv": their_step},
        9,
    )


def kernels() -> None:
    """Sum over neighbours, forward and backward, 10,000 nodes, 100,000 edges, 256 features."""
    import dgl

    src, dst = torch.randint(10_000, (2, 100_000))
    dst = dst.sort().values
    x = torch.randn(10_000, 256, requires_grad=True)
    adjacency, graph = Adjacency(src, dst, 10_000, 10_000), dgl.graph((src, dst), num_nodes=10_000)
    w = torch.rand(100_000, 1)
    sums: dict[str, dict[str, Callable[[], Tensor]]] = {
        "sum over neighbours": {
            "aggregate": lambda: aggregate(adjacency, x),
            "dgl.ops": lambda: dgl.ops.copy_u_sum(graph, x),
            "gather, index_add": lambda: torch.zeros(10_000, 256).index_add(0, dst, x[src]),
        },
        "sum over neighbours, a weight an edge": {
            "aggregate": lambda: aggregate(adjacency, x, "sum", w.squeeze(1)),
            "dgl.ops": lambda: dgl.ops.u_mul_e_sum(graph, x, w),
            "gather, index_add": lambda: torch.zeros(10_000, 256).index_add(0, dst, x[src] * w),
        },
    }
    for name, candidates in sums.items():
        steps = {label: lambda f=f: f().sum().backward() for label, f in candidates.items()}
        compare(name, steps, 5)


def main() -> None:
    """Run the comparisons that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--smiles", type=Path, help="a SMILES file, or a folder with one")
    parser.add_argument("--molecules", type=int, default=512)
    parser.add_argument("--only", nargs="*", default=["augmentation", "gin", "grace", "kernels"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {args.threads} threads")
    batch = molecules(args.smiles, args.molecules)
    print(batch)
    tasks: dict[str, Callable[[], None]] = {
        "augmentation": lambda: augmentation(batch),
        "gin": lambda: gin(batch),
        "grace": grace,
        "kernels": kernels,
    }
    for name in args.only:
        tasks[name]()


if __name__ == "__main__":
    main()
