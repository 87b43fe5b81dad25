"""An R-GCN layer over a typed graph, forward and backward, against PyTorch Geometric's RGCNConv.

    python scripts/benchmarks/links.py FOLDER_OF_DECAGON --relations 100
    python scripts/benchmarks/links.py FOLDER_OF_DECAGON --relations 963 --no-peer

Both have the same weights, of which the first step checks the outputs. They take turns; times are processor
seconds of one thread and memory is the process's peak above what it held before.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from measure import clock, peak_bytes

from contrastive.data.link_files import read_links
from contrastive.data.link_splits import split_links
from contrastive.data.link_table import keep_relations, select_relations
from contrastive.data.links import typed_edges
from encoders.graph_batch import GraphBatch
from encoders.relational import RGCN, parallel

Run = tuple[Any, tuple]  # a layer and what it is called with


def main() -> None:
    """Print and, with --output, write the figures."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    graph, num_types = read_graph(args.folder, args.relations, args.min_links)
    x = torch.randn(graph.num_nodes, args.width, requires_grad=True)
    ours = RGCN(args.width, args.width, num_relations=num_types, num_bases=args.bases)
    _ = parallel(graph.adjacency, args.bases).rest.relations  # made once a graph
    runs: dict[str, Run] = {"ours": (ours, (graph.adjacency, x))}
    if not args.no_peer:
        runs["RGCNConv"] = (_peer(ours, num_types), (x, torch.stack([graph.src, graph.dst]), graph.edge_type))
    result: dict[str, Any] = {
        "nodes": graph.num_nodes,
        "directed_edges": graph.num_edges,
        "edge_types": num_types,
        "width": args.width,
        "bases": args.bases,
        **measured(runs, torch.randn(graph.num_nodes, args.width), args.repeats),
    }
    print(json.dumps(result, indent=2))
    if args.output:
        args.output.write_text(json.dumps(result, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--relations", type=int, default=100)
    parser.add_argument("--min-links", type=int, default=500, help="rarer side effects are left out first")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--bases", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-peer", action="store_true", help="where the plain formulation does not fit")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def read_graph(folder: Path, num_relations: int, min_links: int) -> tuple[GraphBatch, int]:
    """The drug pairs of the most frequent side effects with proteins and targets, in both directions."""
    files = [str(folder / f"bio-decagon-{name}.csv.gz") for name in ("combo", "ppi", "targets")]
    links, known = read_links(files[0], context=files[1:])
    links = keep_relations(links, min_links)
    counts = links.triples[:, 1].bincount(minlength=links.num_relations)
    keep = torch.zeros(links.num_relations, dtype=torch.bool)
    keep[counts.topk(min(num_relations, len(counts))).indices] = True
    return typed_edges(split_links(select_relations(links, keep)), known)


def measured(runs: dict[str, Run], grad: torch.Tensor, repeats: int) -> dict[str, Any]:
    """Median seconds and peak memory of each layer's step, and how much better ours are than the peer's.

    Raises:
        AssertionError: the outputs of the first steps differ.
    """
    memory, outputs = {}, {}
    for name, run in runs.items():
        memory[name] = peak_bytes(lambda: outputs.update({name: step(run, grad)})) / 2**20  # noqa: B023
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = clock()
            step(run, grad)
            times[name].append(clock() - start)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    result: dict[str, Any] = {"seconds": seconds, "peak_mb": memory}
    if "RGCNConv" in runs:
        torch.testing.assert_close(outputs["ours"], outputs["RGCNConv"], rtol=1e-3, atol=1e-3)
        result["times_faster"] = seconds["RGCNConv"] / seconds["ours"]
        if memory["RGCNConv"]:  # a small graph fits in what the process holds already
            result["share_of_memory"] = memory["ours"] / memory["RGCNConv"]
    return result


def step(run: Run, grad: torch.Tensor) -> torch.Tensor:
    """One forward and backward pass; returns the output."""
    layer, arguments = run
    layer.zero_grad()
    out = layer(*arguments)
    out.backward(grad)
    return out.detach()


def _peer(ours: RGCN, num_types: int) -> torch.nn.Module:
    """RGCNConv with the same weights."""
    from torch_geometric.nn import RGCNConv

    num_bases, width, num_out = ours.weight.shape
    layer = RGCNConv(width, num_out, num_types, num_bases=num_bases)
    assert ours.coefficients is not None
    with torch.no_grad():
        layer.weight.copy_(ours.weight)
        layer.comp.copy_(ours.coefficients)
        layer.root.copy_(ours.self_linear.weight.T)
        layer.bias.copy_(ours.self_linear.bias)
    return layer


if __name__ == "__main__":
    main()
