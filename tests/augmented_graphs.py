"""Graphs that the tests of augmentations share."""

import pytest
import torch

from encoders.graph_batch import GraphBatch


def make(sizes=(12, 1, 0, 9, 15), p=0.3, seed=0):
    """Undirected random graphs; x holds each node's number, edge_attr each undirected edge's."""
    generator = torch.Generator().manual_seed(seed)
    edges, first = [], 0
    for size in sizes:
        pairs = [(first + u, first + v) for u in range(size) for v in range(u)]
        edges += [e for e, u in zip(pairs, torch.rand(len(pairs), generator=generator)) if u < p]
        first += size
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    x = torch.stack([torch.arange(first) + 1.0, torch.rand(first, generator=generator)], dim=1)
    number = torch.arange(len(edges)).unsqueeze(1)
    return GraphBatch.from_edges(edges, x, ptr=ptr, edge_attr=number, undirected=True)


def molecules(copies=1):
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    return GraphBatch.from_smiles(
        ["CC(=O)Oc1ccccc1C(=O)O", "CCCCCCCC", "c1ccc2ccccc2c1", "CC(C)NCC(O)COc1cccc2ccccc12"] * copies
    )


def assert_same(a, b):
    for field in ("src", "dst", "x", "ptr", "edge_attr", "edge_weight"):
        u, v = getattr(a, field), getattr(b, field)
        assert (u is None) == (v is None), field
        if u is not None:
            torch.testing.assert_close(u, v, msg=field)


def assert_fraction(hits, trials, p):
    """Within 4.5 standard deviations: one false alarm in 150,000."""
    deviation = (p * (1 - p) / trials) ** 0.5
    assert abs(hits / trials - p) < 4.5 * deviation, (hits / trials, p)
