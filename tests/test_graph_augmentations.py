import copy
import pickle

import networkx as nx
import pytest
import torch

from augmentations.adaptive import AdaptiveEdgeDrop, AdaptiveFeatureMask, centrality
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
from augmentations.molecule import AtomMask, BondDrop, functional_group_atoms
from augmentations.random import SampleRandom
from augmentations.subgraph import EgoNet, RandomWalkSubgraph
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


def assert_same(a, b):
    for field in ("src", "dst", "x", "ptr", "edge_attr", "edge_weight"):
        u, v = getattr(a, field), getattr(b, field)
        assert (u is None) == (v is None), field
        if u is not None:
            torch.testing.assert_close(u, v, msg=field)


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


# Statistics. 4.5 standard deviations: one false alarm in 150,000.


def assert_fraction(hits, trials, p):
    deviation = (p * (1 - p) / trials) ** 0.5
    assert abs(hits / trials - p) < 4.5 * deviation, (hits / trials, p)


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


@pytest.mark.parametrize("restart", [0.0, 0.3])
def test_random_walk_subgraph_is_connected_and_of_the_size_asked(restart):
    batch = make((30, 25, 7, 1), p=0.4, seed=2)  # connected, wherever a walk starts
    out = RandomWalkSubgraph(ratio=0.5, restart=restart, num_steps=400)(batch)
    assert out.nodes_per_graph.tolist() == [15, 13, 4, 1]
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


def test_top_k_keeps_the_largest_into_each_node():
    batch = make((15, 20), p=0.3)
    out = PPRDiffusion(top_k=4, threshold=1e-5)(batch)
    everything = PPRDiffusion(threshold=1e-5)(batch)
    for v in range(batch.num_nodes):
        expected = everything.edge_weight[everything.dst == v].sort(descending=True).values[:4]
        found = out.edge_weight[out.dst == v].sort(descending=True).values
        torch.testing.assert_close(found, expected)


# Molecules.


def test_functional_groups():
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    expected = {
        "CC(=O)Oc1ccccc1C(=O)O": {1, 2, 3, 10, 11, 12},  # ester and acid, not the ring
        "CCCCCO": {5},
        "CC#N": {1, 2},
        "CC=CC": {1, 2},
        "COCOC": {1, 2, 3},  # the acetal's carbon
        "c1ccncc1": set(),  # an aromatic ring is the scaffold
        "CCCC": set(),
    }
    for smiles, atoms in expected.items():
        found = functional_group_atoms(GraphBatch.from_smiles(smiles)).nonzero().flatten().tolist()
        assert set(found) == atoms, smiles


def test_bond_drop_spares_groups_and_rings():
    batch = molecules(100)
    group = functional_group_atoms(batch)
    spared = group[batch.src] & group[batch.dst]
    ring = batch.edge_attr[:, 3] == 2
    tagged = batch.with_features(edge_weight=torch.arange(batch.num_edges).float())
    kept = torch.zeros(batch.num_edges).bool()
    kept[BondDrop(p=0.5)(tagged).edge_weight.long()] = True
    assert kept[spared].all()
    assert_fraction(int((~kept[~spared]).sum()) / 2, int((~spared).sum()) / 2, 0.5)
    reverse = {(u, v): k for u, v, k in zip(batch.src.tolist(), batch.dst.tolist(), kept.tolist())}
    assert all(reverse[v, u] == k for (u, v), k in reverse.items())
    kept = torch.zeros(batch.num_edges).bool()
    kept[BondDrop(p=1.0, keep_rings=True, keep_functional_groups=False)(tagged).edge_weight.long()] = True
    assert torch.equal(kept, ring)


def test_atom_mask_spares_groups():
    batch = molecules(100)
    out = AtomMask(p=0.5)(batch)
    group = functional_group_atoms(batch)
    masked = (out.x == 0).all(1)
    assert not masked[group].any()
    assert_fraction(int(masked[~group].sum()), int((~group).sum()), 0.5)
    touched = masked[batch.src] | masked[batch.dst]
    assert torch.equal((out.edge_attr == 0).all(1), touched)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"p is 1.2, expected a probability in \[0, 1\]"):
        EdgeDrop(p=1.2)
    categories = GraphBatch.from_edges([], x=torch.zeros(3, 2, dtype=torch.int64))
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


def test_one_of_augmentations_that_give_edges_weights():
    batch = GraphBatch.from_edges([(0, 1), (1, 2)], x=[[1.0], [0.5], [2.0]], undirected=True)
    diffusion = PPRDiffusion()
    torch.testing.assert_close(
        OneOf(augmentations=[diffusion, diffusion])(batch).edge_weight, diffusion(batch).edge_weight
    )
