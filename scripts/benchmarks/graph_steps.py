"""Whole pretraining steps on graphs beside the same written plainly on PyG: time and memory.

    python scripts/benchmarks/graph_steps.py --threads 1 --proteins PROTEINS.zip --cora planetoid/cora

GraphCL: an epoch with GIN 3×32 and batches of 128, data loading and augmentation included. GRACE: a step on
the whole graph with GCN 256-256 and projections of 128; the plain version holds its features and its
similarities dense. A data set is left out where its file is not given. Times are medians of turns in one
process, in processor seconds where there is one thread. Memory is the peak of a fresh process that takes
three steps, above what it held after importing and reading the data (Linux). Needs the extra ``benchmark``.

Where PyGCL can be imported (``pip install --no-build-isolation PyGCL torch-scatter torch-sparse``, which
compiles for half an hour), an epoch as its example has it is taken beside ours with its views: the graphs as
they are, and one of node drop, feature mask and edge drop. A step of the example has a third pass, of the
graphs as they are, whose features it does not use.

``--keep-memory`` has malloc keep what is freed, as the command ``contrastive`` does, on both sides.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measure import clock, peak_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from augmentations.graph import AttributeMask, Compose, EdgeDrop, FeatureMask, Identity, NodeDrop, OneOf
from contrastive.data.graphs import read_graphs
from contrastive.data.node_files import read_nodes
from contrastive.data.nodes import NodePasses
from contrastive.losses import InfoNCE
from contrastive.module import ContrastiveModule
from contrastive.optimizers import decay_groups, fuse
from contrastive.runtime import keep_freed_memory
from encoders.graph import GraphEncoder, NodeEncoder

Step = Callable[[], Any]


def head(num_features: int) -> nn.Module:
    """The projector of both sides."""
    return nn.Sequential(nn.Linear(num_features, 128), nn.ReLU(), nn.Linear(128, 128))


def dense_info_nce(z0: Tensor, z1: Tensor, temperature: float = 0.5) -> Tensor:
    """NT-Xent from the whole matrix, as it is usually written."""
    z = F.normalize(torch.cat([z0, z1]))
    x = (z @ z.T / temperature).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    return F.cross_entropy(x, (torch.arange(len(z)) + len(z0)) % len(z))


def our_graphcl(source: str, like_pygcl: bool = False) -> Step:
    """An epoch of GraphCL."""
    dataset = read_graphs(source)
    encoder = GraphEncoder(
        node_features=dataset.graphs.x.shape[1], num_hidden=32, num_layers=3, jumping_knowledge="concat"
    )
    mask = FeatureMask(p=0.1) if like_pygcl else AttributeMask(p=0.1)
    view = OneOf(augmentations=[NodeDrop(p=0.1), EdgeDrop(p=0.1), mask])
    views = [Identity(), view] if like_pygcl else [view]
    module = ContrastiveModule(encoder, views, projector=head, loss=InfoNCE(), channels_last=False)
    return epoch(
        fused_adam(module),
        lambda: (dataset.__getitems__(i.tolist()) for i in torch.randperm(len(dataset)).split(128)),
        lambda batch: module.step(batch)["loss"],
    )


def plain_gin(width: int) -> nn.Module:
    """GIN 3×32 on PyG with the projector."""
    from torch_geometric.nn import GINConv, global_add_pool

    class GIN(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            widths = [width, 32, 32]
            self.convs = nn.ModuleList(
                GINConv(nn.Sequential(nn.Linear(w, 32), nn.ReLU(), nn.Linear(32, 32)), train_eps=True)
                for w in widths
            )
            self.norms = nn.ModuleList(nn.BatchNorm1d(32) for _ in widths)
            self.head = head(96)

        def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, size: int) -> Tensor:
            outputs = []
            for conv, norm in zip(self.convs, self.norms):
                x = torch.relu(norm(conv(x, edge_index)))
                outputs.append(global_add_pool(x, batch, size=size))
            return self.head(torch.cat(outputs, dim=1))

    return GIN(width)


def plain_graphcl(source: str) -> Step:
    """An epoch of GraphCL on PyG, its batches augmented as a whole like PyGCL's."""
    from torch_geometric.loader import DataLoader
    from torch_geometric.utils import dropout_edge, dropout_node

    def augment(data: Any) -> tuple[Tensor, Tensor]:
        choice = int(torch.randint(3, ()))
        if choice == 0:
            edge_index, _, keep = dropout_node(data.edge_index, p=0.1, num_nodes=data.num_nodes)
            return data.x * keep[:, None], edge_index
        if choice == 1:
            return data.x, dropout_edge(data.edge_index, p=0.1)[0]
        return data.x * (torch.rand(data.num_nodes, 1) >= 0.1), data.edge_index

    graphs = read_graphs(source).graphs
    loader = DataLoader(list(graphs.to_pyg().to_data_list()), batch_size=128, shuffle=True)
    model = plain_gin(graphs.x.shape[1])

    def loss(data: Any) -> Tensor:
        z = [model(*augment(data), data.batch, data.num_graphs) for _ in range(2)]
        return dense_info_nce(*z)

    return epoch(adam(model), lambda: loader, loss)


def pygcl_graphcl(source: str) -> Step:
    """An epoch of PyGCL's own example, less its random walks."""
    from GCL.augmentors import EdgeRemoving, FeatureMasking, NodeDropping, RandomChoice
    from GCL.losses import InfoNCE as TheirInfoNCE
    from GCL.models import DualBranchContrast
    from torch_geometric.loader import DataLoader

    graphs = read_graphs(source).graphs
    loader = DataLoader(list(graphs.to_pyg().to_data_list()), batch_size=128, shuffle=True)
    model = plain_gin(graphs.x.shape[1])
    augment = RandomChoice([NodeDropping(pn=0.1), FeatureMasking(pf=0.1), EdgeRemoving(pe=0.1)], 1)
    contrast = DualBranchContrast(loss=TheirInfoNCE(tau=0.5), mode="G2G")

    def loss(data: Any) -> Tensor:
        views = [(data.x, data.edge_index)] * 2 + [augment(data.x, data.edge_index)[:2]]
        _, z0, z1 = [model(*view, data.batch, data.num_graphs) for view in views]
        return contrast(g1=z0, g2=z1, batch=data.batch)

    return epoch(adam(model), lambda: loader, loss)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """Adam as it is usually written."""
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def fused_adam(module: nn.Module) -> torch.optim.Optimizer:
    """Adam as `ContrastiveModule.configure_optimizers` makes it."""
    optimizer = torch.optim.Adam(decay_groups(module), lr=1e-3)
    fuse(optimizer)
    return optimizer


def epoch(
    optimizer: torch.optim.Optimizer, batches: Callable[[], Any], loss: Callable[[Any], Tensor]
) -> Step:
    """One pass over the data."""

    def run() -> None:
        for batch in batches():
            optimizer.zero_grad()
            loss(batch).backward()
            optimizer.step()

    return run


def our_grace(source: str) -> Step:
    """A step of GRACE on the whole graph."""
    graph = read_nodes(source).graph
    encoder = NodeEncoder(
        node_features=graph.x.shape[1], layer="gcn", num_hidden=256, num_layers=2, norm=False
    )
    view = Compose(augmentations=[EdgeDrop(p=0.3), FeatureMask(p=0.3)])
    module = ContrastiveModule(encoder, [view], projector=head, loss=InfoNCE(), channels_last=False)
    passes = NodePasses(graph, num_targets=None, fanouts=None, seed=0)
    return epoch(
        fused_adam(module), lambda: [passes.__getitems__([0])], lambda batch: module.step(batch)["loss"]
    )


def plain_grace(source: str) -> Step:
    """The same on PyG: dense features, the whole matrix of similarities."""
    from torch_geometric.nn import GCNConv
    from torch_geometric.utils import dropout_edge

    graph = read_nodes(source).graph
    x = graph.x if isinstance(graph.x, Tensor) else graph.x.dense()
    edge_index = torch.stack([graph.src, graph.dst])
    model = nn.ModuleList([GCNConv(x.shape[1], 256), GCNConv(256, 256), head(256)])

    def view() -> Tensor:
        edges = dropout_edge(edge_index, p=0.3)[0]
        h = x * (torch.rand(x.shape[1]) >= 0.3)
        for convolution in model[:2]:
            h = torch.relu(convolution(h, edges))
        return model[2](h)

    return epoch(adam(model), lambda: [None], lambda _: dense_info_nce(view(), view()))


SIDES: dict[str, Callable[[str], Step]] = {
    "GraphCL, ours": our_graphcl,
    "GraphCL, plain PyG": plain_graphcl,
    "PyGCL's example, ours": partial(our_graphcl, like_pygcl=True),
    "PyGCL's example, PyGCL": pygcl_graphcl,
    "GRACE, ours": our_grace,
    "GRACE, plain PyG": plain_grace,
}


def in_turns(names: list[str], source: str, repeats: int) -> dict[str, float]:
    """Median seconds of each, taking turns."""
    steps = {name: SIDES[name](source) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            start = clock()
            step()
            if turn:  # the first warms up
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def one_run(name: str, source: str) -> float:
    """Peak megabytes of three steps above what the process held before them."""
    step = SIDES[name](source)
    return peak_bytes(lambda: [step() for _ in range(3)]) / 1e6


def memory(name: str, source: str, options: list[str]) -> float:
    """`one_run` in a process of its own."""
    command = [sys.executable, __file__, *options, "--one-run", name, source]
    return json.loads(subprocess.check_output(command).splitlines()[-1])


def main() -> None:
    """Measure what was given and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--proteins", help="TUDataset files of PROTEINS")
    parser.add_argument("--cora", help="Planetoid's Cora")
    parser.add_argument("--cs", help="Coauthor-CS; ours alone, and its memory alone")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--keep-memory", action="store_true")
    parser.add_argument("--one-run", nargs=2, help="take three steps and print their memory")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.keep_memory:
        keep_freed_memory()
    options = ["--threads", str(args.threads), *["--keep-memory"] * args.keep_memory]
    if args.one_run:
        print(json.dumps(one_run(*args.one_run)))
        return
    sources = {"GraphCL": args.proteins, "GRACE": args.cora}
    if importlib.util.find_spec("GCL"):
        sources["PyGCL's example"] = args.proteins
    for method, source in sources.items():
        if source:
            ours, plain = (name for name in SIDES if name.startswith(method))
            times = in_turns([ours, plain], source, args.repeats)
            peaks = {name: memory(name, source, options) for name in (ours, plain)}
            for name in (ours, plain):
                print(f"{name:22s} {times[name] * 1e3:9.1f} ms {peaks[name]:9.0f} MB")
            print(
                f"{'':22s} {times[plain] / times[ours]:8.2f}× faster, "
                f"{peaks[ours] / peaks[plain]:.2f} of the memory\n",
                flush=True,
            )
    if args.cs:
        print(f"GRACE, ours, Coauthor-CS: {memory('GRACE, ours', args.cs, options):.0f} MB")


if __name__ == "__main__":
    main()
