"""Graphs and layers that the tests of encoders share."""

import torch

from encoders.graph_batch import GraphBatch

LAYERS = [
    ("gin", {}, None),
    ("gine", {}, [3, 4]),
    ("gcn", {}, None),
    ("sage", {}, None),
    ("gat", {"num_heads": 2}, None),
    ("gatv2", {"num_heads": 2}, [3, 4]),
    ("pna", {}, [3, 4]),
    ("rgcn", {"num_relations": 3, "num_bases": 2}, None),
    ("custom", {"aggregate": ["max", "mlp"], "combine": "gru"}, [3, 4]),
]


def make(seed=0, undirected=False, self_loops=False, **features):
    """Three graphs of 7, 1 and 9 nodes; nodes 7 and 8 are isolated unless they get loops."""
    generator = torch.Generator().manual_seed(seed)
    edges = []
    for first, last in ((0, 7), (9, 17)):
        edges += [
            (u, v)
            for u in range(first, last)
            for v in range(first, last)
            if u < v or (u > v and not undirected)
        ]
    keep = torch.rand(len(edges), generator=generator) < 0.4
    edges = [edge for edge, kept in zip(edges, keep) if kept]
    if undirected:
        edges += [(v, u) for u, v in edges]
    if self_loops:
        edges += [(v, v) for v in range(17)]
    edges = sorted(edges, key=lambda edge: edge[1])
    x = torch.randn(17, 6, generator=generator)
    drawn = {name: make(len(edges), generator) for name, make in features.items()}
    return GraphBatch.from_edges(edges, x, ptr=[0, 7, 8, 17], **drawn)


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def dense(batch, weight=None):
    """A[v, u], the sum of the weights of the edges u → v."""
    values = torch.ones(batch.num_edges) if weight is None else weight
    return torch.zeros(batch.num_nodes, batch.num_nodes).index_put(
        (batch.dst, batch.src), values, accumulate=True
    )


def molecule_like(edge_columns=2):
    batch = make(undirected=True)
    code = torch.minimum(batch.src, batch.dst) * 31 + torch.maximum(batch.src, batch.dst)
    attr = torch.stack([code % 3, code % 4], dim=1)[:, :edge_columns]
    return batch.with_features(
        edge_attr=attr, x=torch.stack([torch.arange(17) % 5, torch.arange(17) % 2], dim=1)
    )
