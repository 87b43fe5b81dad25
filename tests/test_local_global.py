import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from contrastive.data import Batch
from contrastive.methods.local_global import DGI, InfoGraph, jensen_shannon
from encoders.graph import GraphEncoder, NodeEncoder
from encoders.graph_batch import GraphBatch


def graphs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 4, generator=generator)
    edges = [(0, 1), (1, 2), (4, 5), (6, 7), (7, 8), (8, 9), (10, 11)]
    return GraphBatch.from_edges(edges, x, ptr=[0, 4, 6, 10, 12], undirected=True)


def test_without_weights_it_is_binary_cross_entropy():
    positive, negative = torch.randn(7), torch.randn(3, 5)
    scores = torch.cat([positive, negative.flatten()])
    target = torch.cat([torch.ones(7), torch.zeros(15)])
    weight = torch.cat([torch.full((7,), 1 / 7), torch.full((15,), 1 / 15)])
    theirs = F.binary_cross_entropy_with_logits(scores, target, weight, reduction="sum")
    torch.testing.assert_close(jensen_shannon(positive, negative), theirs)


def test_near_negatives_weigh_more_not_less():
    negative = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    plain, hard = (jensen_shannon(torch.zeros(1), negative, beta=beta) for beta in (0.0, 1.0))
    assert hard > plain
    weight = torch.tensor([math.exp(-2), 1.0, math.exp(3)])
    expected = math.log(2) + (weight * F.softplus(negative)).sum() / weight.sum()
    torch.testing.assert_close(hard, expected)
    (gradient,) = torch.autograd.grad(hard, negative)
    assert gradient.argmax() == 2
    # in the limit only the nearest counts
    limit = jensen_shannon(torch.zeros(1), negative, beta=100.0) - math.log(2)
    torch.testing.assert_close(limit, F.softplus(torch.tensor(3.0)))


def test_debiasing_takes_the_false_negatives_out():
    """With negatives that are a mixture of true ones and positives, the corrected mean is the true ones'."""
    generator = torch.Generator().manual_seed(0)
    positive = torch.randn(200_000, generator=generator) + 1
    true = torch.randn(200_000, generator=generator) - 1
    is_false = torch.rand(200_000, generator=generator) < 0.2
    mixed = torch.where(is_false, torch.randn(200_000, generator=generator) + 1, true)
    unbiased = jensen_shannon(positive, true)
    assert (jensen_shannon(positive, mixed) - unbiased).abs() > 0.1
    assert (jensen_shannon(positive, mixed, tau_plus=0.2) - unbiased).abs() < 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_are_summed_in_float32(dtype):
    positive, negative = (3 * torch.randn(3000)).to(dtype), (3 * torch.randn(60000)).to(dtype)
    for options in ({}, {"tau_plus": 0.1}, {"beta": 1.0}):
        loss = jensen_shannon(positive, negative, **options)
        expected = jensen_shannon(positive.double(), negative.double(), **options)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)


def test_gradients_are_autograds():
    positive, negative = torch.randn(4, dtype=torch.double), torch.randn(9, dtype=torch.double)
    inputs = (positive.requires_grad_(), negative.requires_grad_())
    assert torch.autograd.gradcheck(lambda p, n: jensen_shannon(p, n, tau_plus=0.1, beta=1.5), inputs)


@pytest.mark.parametrize("arguments", [{"tau_plus": 1.0}, {"beta": -1.0}], ids=str)
def test_what_does_not_fit_is_refused(arguments):
    with pytest.raises(ValueError, match="expected 0 ≤ tau_plus < 1 and beta ≥ 0"):
        jensen_shannon(torch.zeros(1), torch.zeros(1), **arguments)
    with pytest.raises(ValueError, match="at least two graphs"):
        jensen_shannon(torch.zeros(1), torch.zeros(0))


def test_infograph_scores_are_those_of_the_paper():
    torch.manual_seed(0)
    encoder = GraphEncoder(node_features=4, num_hidden=6, num_layers=2, jumping_knowledge="concat")
    module = InfoGraph(encoder, num_hidden=5).eval()
    batch = graphs()
    loss = module.step(Batch(batch, None, torch.arange(4)))["loss"]
    h, g = encoder.nodes_and_graphs(batch)
    own, others = [], []
    for v in range(12):
        for k in range(4):
            score = module.local_projector(h)[v] @ module.projector(g)[k]
            (own if batch.graph_of_node[v] == k else others).append(score)
    expected = F.softplus(-torch.stack(own)).mean() + F.softplus(torch.stack(others)).mean()
    torch.testing.assert_close(loss, expected)


def test_scores_are_not_rounded_to_16_bits():
    torch.manual_seed(0)
    encoder = GraphEncoder(node_features=4, num_hidden=6, num_layers=2)
    module = InfoGraph(encoder, num_hidden=5, beta=1.0).eval()
    batch = graphs()
    with torch.no_grad():
        for parameter in (*module.local_projector.parameters(), *module.projector.parameters()):
            parameter *= 6
    with torch.autocast("cpu", torch.bfloat16):
        loss = module.step(Batch(batch, None, torch.arange(4)))["loss"]
        h, g = encoder.nodes_and_graphs(batch)
        local, summaries = module.local_projector(h), module.projector(g)
    scores = local.double() @ summaries.double().T
    assert local.dtype == torch.bfloat16 and scores.abs().max() > 100
    own = F.one_hot(batch.graph_of_node, 4).bool()
    expected = jensen_shannon(scores[own], scores[~own], beta=1.0)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)


def test_dgi_tells_a_graph_from_a_shuffled_one():
    torch.manual_seed(0)
    encoder = NodeEncoder(node_features=4, num_hidden=16, num_layers=1, layer="gcn", norm=False)
    module = DGI(encoder)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    # a path whose features follow it: neighbours agree, shuffled ones do not
    line = torch.linspace(-2, 2, 60)
    x = torch.stack([line, line.square(), line.sin(), line.cos()], dim=1)
    path = GraphBatch.from_edges([(i, i + 1) for i in range(59)], x, undirected=True)
    losses = []
    for step in range(120):
        loss = module.step(Batch(path, None, torch.tensor([step])))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.9 * 2 * math.log(2) < losses[0] + 0.3


def test_dgi_corrupts_anew_at_every_step_and_the_same_after_a_resume():
    module = DGI(NodeEncoder(node_features=4, num_hidden=8, layer="gcn", norm=False)).eval()
    losses = [module.step(Batch(graphs()[0], None, torch.tensor([s])))["loss"] for s in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


def test_dgi_is_of_the_features_before_propagation():
    torch.manual_seed(0)
    plain = NodeEncoder(node_features=4, num_hidden=8, layer="gcn", norm=False)
    propagating = NodeEncoder(node_features=4, num_hidden=8, layer="gcn", norm=False, propagation=3)
    propagating.load_state_dict(plain.state_dict())
    batch = Batch(graphs()[0], None, torch.tensor([0]))
    modules = [DGI(encoder).eval() for encoder in (plain, propagating)]
    modules[1].load_state_dict(modules[0].state_dict())
    losses = [module.step(batch)["loss"] for module in modules]
    assert losses[0] == losses[1] and not torch.allclose(plain(batch.input), propagating(batch.input))


def test_dgi_of_several_graphs_is_refused():
    module = DGI(NodeEncoder(node_features=4, num_hidden=8))
    with pytest.raises(ValueError, match="the batch has 4 graphs, and DGI contrasts the nodes of one"):
        module.step(Batch(graphs(), None, torch.arange(4)))


def test_dgi_takes_a_node_encoder_of_the_users_own():
    class Own(nn.Module):
        num_features = 4

        def forward(self, batch):
            return batch.x

    loss = DGI(Own()).step(Batch(graphs()[0], None, torch.tensor([0])))["loss"]
    assert loss.isfinite()
