import copy
import pickle

import pytest
import torch
from augmented_graphs import assert_fraction, assert_same, make, molecules
from graph_cases import molecule_like

from augmentations.adaptive import AdaptiveEdgeDrop, AdaptiveFeatureMask
from augmentations.diffusion import HeatDiffusion, PPRDiffusion
from augmentations.graph import (
    AttributeMask,
    Compose,
    EdgeAdd,
    EdgeDrop,
    FeatureDropout,
    FeatureMask,
    Identity,
    NodeDrop,
    OneOf,
)
from augmentations.molecule import AtomMask, BondDrop
from augmentations.random import SampleRandom
from augmentations.subgraph import EgoNet, RandomWalkSubgraph
from encoders.graph_batch import GraphBatch

FLOAT = [
    Identity(),
    EdgeDrop(p=0.3),
    EdgeDrop(p=0.3, undirected=True),
    EdgeAdd(p=0.5),
    EdgeAdd(p=0.5, undirected=True),
    NodeDrop(p=0.3),
    NodeDrop(p=0.3, remove=False),
    FeatureMask(p=0.5),
    FeatureDropout(p=0.5),
    AttributeMask(p=0.5),
    RandomWalkSubgraph(ratio=0.6),
    RandomWalkSubgraph(ratio=0.6, restart=0.2, remove=False),
    EgoNet(num_hops=1),
    AdaptiveEdgeDrop(p=0.4, centrality="degree"),
    AdaptiveEdgeDrop(p=0.4, centrality="eigenvector", undirected=True),
    AdaptiveFeatureMask(p=0.4, centrality="pagerank"),
    Compose(augmentations=[NodeDrop(p=0.2), EdgeDrop(p=0.2), FeatureMask(p=0.3)]),
    OneOf(augmentations=[Identity(), EdgeDrop(p=0.5), NodeDrop(p=0.5)]),
    OneOf(augmentations=[EdgeAdd(), AttributeMask()], probabilities=[0.2, 0.8]),
]


DETERMINISTIC = [PPRDiffusion(), HeatDiffusion(t=2.0), PPRDiffusion(top_k=3)]


MOLECULAR = [BondDrop(p=0.4), BondDrop(p=0.4, keep_rings=True), AtomMask(p=0.4)]


def name(augmentation):
    return type(augmentation).__name__


def check_valid(batch):
    """What every GraphBatch promises."""
    assert torch.equal(batch.dst, batch.dst.sort().values)
    assert batch.ptr[0] == 0 and batch.ptr[-1] == batch.num_nodes and (batch.ptr.diff() >= 0).all()
    assert torch.equal(batch.graph_of_node[batch.src], batch.graph_of_node[batch.dst])
    assert batch.edge_attr is None or len(batch.edge_attr) == batch.num_edges


@pytest.mark.parametrize("augmentation", FLOAT + DETERMINISTIC + MOLECULAR, ids=name)
def test_a_graph_is_augmented_as_if_alone(augmentation):
    """Neither the other graphs in the batch nor their order changes a draw."""
    batch = molecules() if augmentation in MOLECULAR else make()
    index = torch.arange(batch.num_graphs) * 7 + 3
    together = augmentation(batch, SampleRandom(index, seed=5, epoch=2, view=1))
    check_valid(together)
    order = torch.randperm(batch.num_graphs)
    shuffled = augmentation(batch[order], SampleRandom(index[order], seed=5, epoch=2, view=1))
    assert_same(together[order], shuffled)
    for g in range(batch.num_graphs):
        alone = augmentation(batch[g], SampleRandom(index[[g]], seed=5, epoch=2, view=1))
        assert_same(together[g], alone)


@pytest.mark.parametrize("augmentation", FLOAT[1:] + MOLECULAR, ids=name)
def test_seed_epoch_and_view_change_the_draw(augmentation):
    batch = molecules(4) if augmentation in MOLECULAR else make((40, 40))
    index = torch.arange(batch.num_graphs)
    outputs = []
    for key in ({}, {"seed": 1}, {"epoch": 1}, {"view": 1}):
        # A mask of two dimensions may well be drawn twice; three in a row of two graphs hardly.
        random = SampleRandom(index, **key)
        results = [augmentation(batch, random) for _ in range(3)]
        outputs.append([(r.src.tolist(), r.dst.tolist(), r.x.tolist()) for r in results])
    assert all(a != b for i, a in enumerate(outputs) for b in outputs[:i])


@pytest.mark.parametrize("augmentation", FLOAT + DETERMINISTIC + MOLECULAR, ids=name)
def test_the_input_is_left_alone_and_modules_pickle(augmentation):
    batch = molecules() if augmentation in MOLECULAR else make()
    before = copy.deepcopy(batch)
    torch.manual_seed(0)
    first = augmentation(batch)
    assert_same(batch, before)
    torch.manual_seed(0)
    assert_same(pickle.loads(pickle.dumps(augmentation))(before), first)


@pytest.mark.parametrize("augmentation", FLOAT + DETERMINISTIC, ids=name)
def test_batches_without_edges_nodes_or_graphs(augmentation):
    for ptr in ([0, 0], [0, 2], [0, 0, 3, 3], [0]):
        batch = GraphBatch.from_edges([], x=torch.rand(ptr[-1], 2), ptr=ptr)
        out = augmentation(batch)
        check_valid(out)
        assert out.num_graphs == batch.num_graphs


@pytest.mark.parametrize("p", [0.0, 0.2, 0.7, 1.0])
def test_edge_drop_keeps_the_fraction(p):
    batch = make((60,) * 10)
    out = EdgeDrop(p=p)(batch)
    if p in (0.0, 1.0):
        assert out.num_edges == (1 - p) * batch.num_edges
    else:
        assert_fraction(batch.num_edges - out.num_edges, batch.num_edges, p)


def test_directions_are_dropped_together_only_when_asked():
    batch = make((60,) * 4)
    paired = EdgeDrop(p=0.5, undirected=True)(batch)
    assert (torch.bincount(paired.edge_attr.flatten()) != 1).all()
    assert_fraction(paired.num_edges / 2, batch.num_edges / 2, 0.5)
    single = torch.bincount(EdgeDrop(p=0.5)(batch).edge_attr.flatten()) == 1
    assert_fraction(int(single.sum()), batch.num_edges // 2, 0.5)


def test_edge_drop_is_independent_between_edges_and_graphs():
    batch = make((20,) * 40, p=1.0)
    out = EdgeDrop(p=0.5)(batch)
    kept = out.edge_ptr.diff().float()
    # Were all graphs to share draws, the counts would have no variance; were edges to, far too much.
    assert 0.4 < kept.var().item() / (380 * 0.25) < 2.0


@pytest.mark.parametrize("undirected", [False, True])
def test_edge_add(undirected):
    batch = make((50,) * 20, p=0.1)
    out = EdgeAdd(p=0.5, undirected=undirected)(batch)
    old = set(zip(batch.src.tolist(), batch.dst.tolist()))
    new = list(zip(out.src.tolist(), out.dst.tolist()))
    assert old < set(new) and len(new) == len(set(new)) and all(u != v for u, v in new)
    added = set(new) - old
    # About 10 % of the tries meet an edge that is there.
    assert 0.4 < len(added) / len(old) < 0.5
    assert all((v, u) in added for u, v in added) == undirected
    ends = torch.bincount(torch.tensor([u % 50 for u, _ in added]), minlength=50).float()
    assert ends.min() > 0.4 * ends.mean() and ends.max() < 2 * ends.mean()


@pytest.mark.parametrize("remove", [True, False])
def test_node_drop(remove):
    batch = make((40,) * 20)
    out = NodeDrop(p=0.3, remove=remove)(batch)
    alive = out.x[:, 0] > 0
    assert_fraction(batch.num_nodes - int(alive.sum()), batch.num_nodes, 0.3)
    kept = set(out.x[alive, 0].long().tolist())
    number = batch.x[:, 0].long()
    expected = [
        (u, v) for u, v in zip(number[batch.src].tolist(), number[batch.dst].tolist()) if {u, v} <= kept
    ]
    found = out.x[:, 0].long()
    assert sorted(zip(found[out.src].tolist(), found[out.dst].tolist())) == sorted(expected)
    assert (out.num_nodes == batch.num_nodes) == (not remove)


def test_node_drop_leaves_a_node():
    out = NodeDrop(p=1.0)(make((12, 1, 0, 9)))
    assert out.nodes_per_graph.tolist() == [1, 1, 0, 1]


def test_feature_mask_is_one_for_all_nodes_of_a_graph():
    batch = GraphBatch.from_edges([], x=torch.ones(400, 50), ptr=list(range(0, 401, 2)))
    out = FeatureMask(p=0.3)(batch)
    pairs = out.x.view(200, 2, 50)
    assert torch.equal(pairs[:, 0], pairs[:, 1])
    assert_fraction(int((pairs[:, 0] == 0).sum()), 200 * 50, 0.3)


def test_feature_dropout_keeps_the_mean():
    batch = GraphBatch.from_edges([], x=torch.ones(400, 50))
    out = FeatureDropout(p=0.25)(batch)
    assert out.x.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert_fraction(int((out.x == 0).sum()), 400 * 50, 0.25)


def test_attribute_mask():
    x = torch.full((2000, 3), 5)
    batch = GraphBatch.from_edges([(0, 1), (2, 3)], x, edge_attr=[[7], [8]])
    out = AttributeMask(p=0.4)(batch)
    masked = (out.x == 0).all(1)
    assert torch.equal(out.x == 0, masked.unsqueeze(1).expand(-1, 3))
    assert_fraction(int(masked.sum()), 2000, 0.4)
    out = AttributeMask(p=0.5, mask_edges=True)(batch)
    masked = (out.x == 0).all(1)
    for u, v, attr, full in zip(out.src, out.dst, out.edge_attr, batch.edge_attr):
        assert attr.item() == (0 if masked[u] or masked[v] else full.item())


def test_one_of_draws_for_each_graph():
    batch = make((6,) * 600, p=1.0)
    out = OneOf(augmentations=[Identity(), EdgeDrop(p=1.0)], probabilities=[3, 1])(batch)
    edges = out.edge_ptr.diff()
    assert set(edges.tolist()) == {0, 30}
    assert_fraction(int((edges == 0).sum()), 600, 0.25)


IN_PLACE = [
    Identity(),
    EdgeDrop(p=0.4),
    EdgeDrop(p=0.4, undirected=True),
    NodeDrop(p=0.4),
    NodeDrop(p=0.4, remove=False),
    FeatureMask(p=0.5),
    AttributeMask(p=0.5),
]


@pytest.mark.parametrize("further", [[], [RandomWalkSubgraph(ratio=0.6), EdgeAdd(p=0.5)]], ids=["", "mixed"])
@pytest.mark.parametrize("molecular", [False, True])
def test_one_of_in_place_is_one_of_taken_apart(molecular, further):
    """A Compose of one takes no ``some``, so that its graphs are taken out and put back."""
    batch = molecules(20) if molecular else make((12, 1, 0, 9, 15) * 12)
    choices = [AttributeMask(p=0.5, mask_edges=True), *MOLECULAR] if molecular else IN_PLACE
    apart = [Compose(augmentations=[choice]) for choice in choices]
    in_place = OneOf(augmentations=[*further, *choices])
    assert in_place.in_place == [False] * len(further) + [True] * len(choices)
    key = {"seed": 5, "epoch": 2, "view": 1}
    index = torch.arange(batch.num_graphs) * 7 + 3
    expected = OneOf(augmentations=[*further, *apart])(batch, SampleRandom(index, **key))
    out = in_place(batch, SampleRandom(index, **key))
    check_valid(out)
    assert_same(out, expected)
    assert out.num_edges < batch.num_edges  # something was drawn


def test_other_edges_leave_what_is_known_of_the_nodes():
    batch = make()
    known = batch.membership, batch.graph_of_node, batch.nodes_per_graph, batch.adjacency, batch.graph_of_edge
    for out in (EdgeDrop(p=0.5)(batch), EdgeAdd(p=0.9)(batch)):
        assert (out.membership, out.graph_of_node, out.nodes_per_graph) == known[:3]
        assert out.adjacency is not known[3] and out.adjacency.num_edges == out.num_edges
        assert torch.equal(out.graph_of_edge, out.graph_of_node[out.dst])
        assert torch.equal(out.edge_ptr, torch.searchsorted(out.dst, out.ptr))


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"p is 1.2, expected a probability in \[0, 1\]"):
        EdgeDrop(p=1.2)
    categories = GraphBatch.from_edges([], x=torch.zeros(3, 2, dtype=torch.int64))
    for value in (0.5, -1.0):
        with pytest.raises(ValueError, match="expected the number of a category"):
            AttributeMask(p=1.0, value=value)(molecule_like())
    with pytest.raises(ValueError, match="AttributeMask masks categories"):
        FeatureMask()(categories)
    with pytest.raises(ValueError, match="from_smiles"):
        BondDrop()(make())
    with pytest.raises(ValueError, match="expected 2 numbers"):
        OneOf(augmentations=[Identity(), Identity()], probabilities=[1.0])


def test_built_from_yaml():
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--augmentation", type=torch.nn.Module)
    text = """{class_path: augmentations.graph.Compose, init_args: {augmentations: [
        {class_path: augmentations.graph.EdgeDrop, init_args: {p: 0.4, undirected: true}},
        {class_path: augmentations.adaptive.AdaptiveFeatureMask, init_args: {centrality: pagerank}}]}}"""
    built = parser.instantiate_classes(parser.parse_args([f"--augmentation={text}"])).augmentation
    assert built.augmentations[0].p == 0.4 and built.augmentations[1].centrality == "pagerank"
    check_valid(built(make()))
