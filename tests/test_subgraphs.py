"""Subgraphs by walks and balls."""

import networkx as nx
import pytest
import torch
from augmented_graphs import assert_same, make

from augmentations.random import SampleRandom
from augmentations.subgraph import EgoNet, RandomWalkSubgraph


@pytest.mark.parametrize("restart", [0.0, 0.3])
@pytest.mark.parametrize("ratio, sizes", [(0.5, [15, 13, 4, 1]), (0.6, [18, 15, 5, 1])])
def test_random_walk_subgraph_is_connected_and_of_the_size_asked(restart, ratio, sizes):
    batch = make((30, 25, 7, 1), p=0.4, seed=2)  # connected, wherever a walk starts
    out = RandomWalkSubgraph(ratio=ratio, restart=restart, num_steps=400)(batch)
    assert out.nodes_per_graph.tolist() == sizes
    for graph in out:
        g = nx.Graph(list(zip(graph.src.tolist(), graph.dst.tolist())))
        g.add_nodes_from(range(graph.num_nodes))
        assert nx.is_connected(g)


def test_random_walks_are_the_same_side_by_side_and_one_by_one():
    """So many walks that they start side by side, and a long one that is left over."""
    batch = make((9,) * 300 + (80,), p=0.2)
    random = {"seed": 3, "epoch": 1}
    index = torch.arange(len(batch))
    for augmentation in (RandomWalkSubgraph(), RandomWalkSubgraph(restart=0.3, num_steps=40, remove=False)):
        together = augmentation(batch, SampleRandom(index, **random))
        for g in (*range(0, 300, 23), 300):
            assert_same(together[g], augmentation(batch[g], SampleRandom(index[[g]], **random)))


def test_a_walk_in_a_large_graph_is_the_same_with_and_without_lists(monkeypatch):
    batch = make((400,), p=0.1)
    outs = []
    for dear in (0, 10**6):
        monkeypatch.setattr("augmentations.subgraph._DEAR", dear)
        outs.append(RandomWalkSubgraph(num_steps=40)(batch, SampleRandom(torch.arange(1), seed=3, epoch=1)))
    assert_same(*outs)


def test_ego_net_is_the_ball_of_its_centre():
    batch = make((30, 25, 7, 1), p=0.1)
    out = EgoNet(num_hops=2)(batch)
    for whole, part in zip(batch, out):
        g = nx.Graph(list(zip(whole.src.tolist(), whole.dst.tolist())))
        g.add_nodes_from(range(whole.num_nodes))
        kept = {int(n) - int(whole.x[0, 0]) for n in part.x[:, 0]}
        balls = [set(nx.ego_graph(g, centre, radius=2)) for centre in kept]
        assert kept in balls
