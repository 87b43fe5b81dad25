"""What centralities and the augmentations that follow them are: their formulas."""

import networkx as nx
import pytest
import torch
from augmented_graphs import make

from augmentations.adaptive import AdaptiveEdgeDrop, AdaptiveFeatureMask, centrality
from encoders.graph_batch import GraphBatch

# GCA.


@pytest.mark.parametrize("kind", ["degree", "eigenvector", "pagerank"])
def test_centrality_is_networkx(kind):
    batch = make((25, 18), p=0.4)
    for whole, phi in zip(batch, centrality(batch, kind).split([25, 18])):
        g = nx.Graph(list(zip(whole.src.tolist(), whole.dst.tolist())))
        g.add_nodes_from(range(whole.num_nodes))
        if kind == "degree":
            expected = dict(g.degree())
        else:
            expected = nx.pagerank(g) if kind == "pagerank" else nx.eigenvector_centrality_numpy(g)
        torch.testing.assert_close(
            phi, torch.tensor([float(abs(expected[v])) for v in range(len(phi))]), atol=1e-4, rtol=1e-3
        )


def test_pagerank_follows_the_weights():
    whole = make((25,), p=0.4)[0]
    whole = whole.with_features(edge_weight=torch.rand(whole.num_edges) * (whole.src != 3))
    g = nx.DiGraph()
    g.add_nodes_from(range(25))
    ends = (whole.src, whole.dst, whole.edge_weight)
    g.add_weighted_edges_from((u, v, w) for u, v, w in zip(*(end.tolist() for end in ends)) if w)
    expected = torch.tensor(list(nx.pagerank(g).values()))  # node 3 has no weight to leave by
    torch.testing.assert_close(centrality(whole, "pagerank"), expected, atol=1e-4, rtol=1e-3)


def test_adaptive_probabilities_are_the_formula_and_met():
    batch = make((40, 40), p=0.2)
    augmentation = AdaptiveEdgeDrop(p=0.3, threshold=0.6)
    probabilities = augmentation.probabilities(batch)
    for g in range(2):
        of_graph = batch.graph_of_edge == g
        s = batch.adjacency.degree[batch.dst[of_graph]].float().log()
        expected = ((s.max() - s) / (s.max() - s.mean()) * 0.3).clamp(max=0.6)
        torch.testing.assert_close(probabilities[of_graph], expected)
    kept = torch.zeros(batch.num_edges)
    known = {edge: i for i, edge in enumerate(zip(batch.src.tolist(), batch.dst.tolist()))}
    for _ in range(300):
        out = augmentation(batch)
        kept[[known[edge] for edge in zip(out.src.tolist(), out.dst.tolist())]] += 1
    deviation = (probabilities * (1 - probabilities) / 300).sqrt()
    assert ((1 - kept / 300 - probabilities).abs() <= 5 * deviation + 1e-6).all()


def test_equal_centralities_drop_at_the_mean():
    ring = [(v, (v + 1) % 20) for v in range(20)]
    batch = GraphBatch.from_edges(ring, num_nodes=20, undirected=True)
    assert (AdaptiveEdgeDrop(p=0.3).probabilities(batch) == 0.3).all()


def test_adaptive_feature_mask_is_the_formula():
    batch = GraphBatch.from_edges([(0, 1), (0, 2), (0, 3)], torch.eye(4)[:, :3] + 0.1, undirected=True)
    batch = batch.with_features(x=torch.cat([batch.x, torch.zeros(4, 1)], dim=1))
    probabilities = AdaptiveFeatureMask(p=0.2).probabilities(batch)[0]
    s = (batch.x[:, :3] * torch.tensor([[3.0], [1.0], [1.0], [1.0]])).sum(0).log()
    expected = ((s.max() - s) / (s.max() - s.mean()) * 0.2).clamp(max=0.7)
    torch.testing.assert_close(probabilities[:3], expected)
    assert probabilities[3] == 0
