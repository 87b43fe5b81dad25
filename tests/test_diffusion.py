"""Diffusion against its closed form."""

import pytest
import torch
from augmented_graphs import make

from augmentations.diffusion import HeatDiffusion, PPRDiffusion
from augmentations.graph import (
    OneOf,
)
from encoders.graph_batch import GraphBatch

# Diffusion.


def transition(graph):
    a = torch.eye(graph.num_nodes, dtype=torch.float64)
    a[graph.dst, graph.src] += 1
    d = a.sum(1).rsqrt()
    return d[:, None] * a * d


@pytest.mark.parametrize("kind", ["ppr", "heat"])
def test_diffusion_is_the_closed_form(kind, monkeypatch):
    monkeypatch.setattr("augmentations.diffusion._COLUMNS", 4)  # several blocks
    batch = make()
    out = (
        PPRDiffusion(alpha=0.2, threshold=0.02) if kind == "ppr" else HeatDiffusion(t=3.0, threshold=0.02)
    )(batch)
    for graph, diffused in zip(batch, out):
        t, identity = transition(graph), torch.eye(graph.num_nodes, dtype=torch.float64)
        exact = (
            0.2 * torch.linalg.inv(identity - 0.8 * t)
            if kind == "ppr"
            else torch.matrix_exp(3 * (t - identity))
        )
        found = torch.zeros_like(exact)
        found[diffused.dst, diffused.src] = diffused.edge_weight.double()
        assert (exact[found == 0] < 0.0203).all()
        torch.testing.assert_close(found[found > 0], exact[found > 0], atol=2e-4, rtol=0)
    assert torch.equal(out.x, batch.x) and out.edge_attr is None


@pytest.mark.parametrize("t", [0.0, 800.0])
def test_a_time_whose_coefficients_vanish_is_refused(t):
    with pytest.raises(ValueError, match="expected a positive time, up to 700"):
        HeatDiffusion(t=t)


def test_top_k_keeps_the_largest_into_each_node():
    batch = make((15, 20), p=0.3)
    out = PPRDiffusion(top_k=4, threshold=1e-5)(batch)
    everything = PPRDiffusion(threshold=1e-5)(batch)
    for v in range(batch.num_nodes):
        expected = everything.edge_weight[everything.dst == v].sort(descending=True).values[:4]
        found = out.edge_weight[out.dst == v].sort(descending=True).values
        torch.testing.assert_close(found, expected)


def test_one_of_augmentations_that_give_edges_weights():
    batch = GraphBatch.from_edges([(0, 1), (1, 2)], x=[[1.0], [0.5], [2.0]], undirected=True)
    diffusion = PPRDiffusion()
    torch.testing.assert_close(
        OneOf(augmentations=[diffusion, diffusion])(batch).edge_weight, diffusion(batch).edge_weight
    )


def test_a_batch_that_inference_diffused_is_trained_on():
    batch, view = GraphBatch.from_edges([(0, 1), (1, 2)], undirected=True), PPRDiffusion()
    with torch.inference_mode():
        view(batch)
    h = torch.ones(3, 2, requires_grad=True)
    diffused = view(batch)
    diffused.sum_neighbours(h).sum().backward()
    out = torch.zeros(3).index_add(0, diffused.src, diffused.edge_weight)
    torch.testing.assert_close(h.grad, out[:, None].expand(3, 2))


def test_a_tensor_that_is_assigned_is_diffused():
    batch, view = GraphBatch.from_edges([(0, 1), (1, 2)], x=torch.ones(3, 1), undirected=True), PPRDiffusion()
    before = view(batch)
    assert view(batch) is before, "what is seen again is diffused once"
    batch.x = torch.zeros(3, 1)
    assert view(batch).x is batch.x
    batch.edge_weight = torch.tensor([1.0, 1.0, 9.0, 9.0])
    assert not torch.equal(view(batch).edge_weight, before.edge_weight)
