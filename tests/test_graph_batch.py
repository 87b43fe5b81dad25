import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, default_collate

from encoders.graph_batch import GraphBatch
from encoders.molecules import ATOM_FEATURES, BOND_FEATURES
from encoders.sparse_features import SparseFeatures

FIELDS = ("src", "dst", "x", "ptr", "edge_attr", "edge_weight", "edge_type", "node_type")


@st.composite
def graphs(draw):
    """Sizes and edges of a few graphs, some empty, some nodes isolated; every feature given or None."""
    sizes = draw(st.lists(st.integers(0, 6), min_size=1, max_size=5))
    starts = np.cumsum([0, *sizes])
    edges = []
    for start, size in zip(starts, sizes):
        if size:
            node = st.integers(int(start), int(start) + size - 1)
            edges += draw(st.lists(st.tuples(node, node), max_size=10))
    edges = draw(st.permutations(edges))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 100)))
    n, e = int(starts[-1]), len(edges)
    features = {
        "x": torch.randn(n, 3, generator=generator),
        "edge_attr": torch.randint(0, 9, (e, 2), generator=generator),
        "edge_weight": torch.rand(e, generator=generator),
        "edge_type": torch.randint(0, 3, (e,), generator=generator),
        "node_type": torch.randint(0, 3, (n,), generator=generator),
    }
    given_features = {k: v for k, v in features.items() if k == "x" or draw(st.booleans())}
    return GraphBatch.from_edges(edges, ptr=starts, **given_features), edges, given_features


def edge_rows(batch):
    """The edges with their features as a sorted list, for batches equal up to the order of parallel edges."""
    columns = [batch.src.unsqueeze(1), batch.dst.unsqueeze(1)]
    columns += [
        v if v.dim() == 2 else v.unsqueeze(1)
        for v in (batch.edge_attr, batch.edge_weight, batch.edge_type)
        if v is not None
    ]
    return sorted(map(tuple, torch.cat([c.double() for c in columns], dim=1).tolist()))


def assert_same(a, b):
    for name in ("x", "ptr", "node_type"):
        u, v = getattr(a, name), getattr(b, name)
        assert (u is None) == (v is None) and (u is None or torch.equal(u, v)), name
    assert edge_rows(a) == edge_rows(b)


@given(graphs())
@settings(max_examples=30, deadline=None)
def test_from_edges_sorts_by_dst_and_keeps_every_edge(case):
    batch, edges, _ = case
    assert torch.equal(batch.dst, batch.dst.sort().values)
    assert sorted(zip(batch.src.tolist(), batch.dst.tolist())) == sorted(edges)
    for g in range(batch.num_graphs):
        owned = batch.graph_of_node == g
        assert torch.equal(owned.nonzero().flatten(), torch.arange(batch.ptr[g], batch.ptr[g + 1]))
        assert int((batch.graph_of_edge == g).sum()) == int(batch.edge_ptr[g + 1] - batch.edge_ptr[g])


@given(graphs())
@settings(max_examples=20, deadline=None)
def test_unbatch_and_concatenate_round_trip(case):
    batch = case[0]
    parts = batch.unbatch()
    assert [p.num_graphs for p in parts] == [1] * batch.num_graphs
    assert sum(p.num_edges for p in parts) == batch.num_edges
    assert_same(GraphBatch.concatenate(parts), batch)
    assert_same(pickle.loads(pickle.dumps(batch)), batch)


@given(graphs())
@settings(max_examples=12, deadline=None)
def test_dgl_round_trip(case):
    pytest.importorskip("dgl")
    batch = case[0]
    graph = batch.to_dgl()
    assert graph.batch_num_nodes().tolist() == batch.nodes_per_graph.tolist()
    assert_same(GraphBatch.from_dgl(graph), batch)


@given(graphs())
@settings(max_examples=12, deadline=None)
def test_pyg_round_trip(case):
    pytest.importorskip("torch_geometric", reason="PyTorch Geometric is not installed")
    batch = case[0]
    assert_same(GraphBatch.from_pyg(batch.to_pyg()), batch)
    assert_same(GraphBatch.from_pyg(batch.to_pyg().to_data_list()), batch)


@given(graphs(), st.data())
@settings(max_examples=20, deadline=None)
def test_indexing_selects_graphs(case, data):
    batch = case[0]
    index = data.draw(st.lists(st.integers(0, batch.num_graphs - 1), max_size=6))
    picked = batch[index]
    assert picked.num_graphs == len(index)
    for place, graph in enumerate(index):
        assert_same(picked[place], batch[graph])
    mask = torch.tensor([g in index for g in range(batch.num_graphs)])
    assert_same(batch[mask], batch[sorted(set(index))])
    assert_same(batch[1:], batch[list(range(1, batch.num_graphs))])
    assert_same(batch[-1], batch[batch.num_graphs - 1])


@given(graphs(), st.data())
@settings(max_examples=20, deadline=None)
def test_node_subgraph_is_induced(case, data):
    batch = case[0]
    keep = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=batch.num_nodes, max_size=batch.num_nodes))
    ).bool()
    part = batch.node_subgraph(keep)
    new = {old: i for i, old in enumerate(keep.nonzero().flatten().tolist())}
    expected = [
        (new[u], new[v]) for u, v in zip(batch.src.tolist(), batch.dst.tolist()) if u in new and v in new
    ]
    assert list(zip(part.src.tolist(), part.dst.tolist())) == expected
    assert torch.equal(part.x, batch.x[keep])
    assert torch.equal(
        part.nodes_per_graph, torch.stack([keep[a:b].sum() for a, b in zip(batch.ptr, batch.ptr[1:])])
    )


def test_empty_and_isolated():
    batch = GraphBatch.from_edges([], num_nodes=3)
    assert (batch.num_nodes, batch.num_edges, batch.num_graphs) == (3, 0, 1)
    nothing = GraphBatch.from_edges([], num_nodes=0, ptr=[0, 0, 0])
    assert (nothing.num_nodes, nothing.num_graphs) == (0, 2)
    assert nothing[1].num_nodes == 0


def test_undirected_stores_both_directions():
    batch = GraphBatch.from_edges([(0, 1), (1, 2)], num_nodes=3, edge_attr=[[1], [2]], undirected=True)
    found = {
        (u, v): a for u, v, (a,) in zip(batch.src.tolist(), batch.dst.tolist(), batch.edge_attr.tolist())
    }
    assert found == {(0, 1): 1, (1, 0): 1, (1, 2): 2, (2, 1): 2}


def test_types_may_be_whole_numbers_of_any_dtype():
    edges = [(0, 1), (1, 0)]
    floats = GraphBatch.from_edges(edges, edge_type=[1.0, 2.0], node_type=np.array([[0.0], [3.0]]))
    assert_same(floats, GraphBatch.from_edges(edges, edge_type=[1, 2], node_type=[0, 3]))


def test_edges_as_two_arrays():
    pairs = GraphBatch.from_edges(np.array([[0, 1], [2, 1]]))
    arrays = GraphBatch.from_edges((np.array([0, 2]), np.array([1, 1])))
    assert_same(pairs, arrays)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"edges": [(0, 3)], "num_nodes": 3}, "edge 0 has destination 3, expected a node in 0 … 2"),
        ({"edges": [(0, 1), (-1, 0)], "num_nodes": 3}, "edge 1 has source -1"),
        ({"edges": [(0, 1, 2)]}, r"edges has shape \(1, 3\), expected \(E, 2\)"),
        ({"edges": [(0.0, 1.0)]}, "expected integers"),
        ({"edges": ([0, 1], [1])}, "2 sources but 1 destinations"),
        ({"edges": [(0, 1)], "x": [[1.0], [float("nan")]]}, "x has in row 1 .* NaN"),
        ({"edges": [(0, 1)], "x": [[1.0]], "num_nodes": 2}, "x has 1 rows, expected num_nodes = 2"),
        ({"edges": [(0, 1)], "edge_attr": [[1], [2]]}, "edge_attr has 2 rows, expected 1"),
        ({"edges": [(0, 1)], "edge_type": [-1]}, "edge_type has in row 0 .* negative"),
        (
            {"edges": [(0, 1), (1, 0)], "edge_type": [1.0, 0.5]},
            r"edge_type is 0.5 at 1 \(1 such values\), expected whole",
        ),
        ({"edges": [(0, 1)], "edge_type": torch.tensor([float("nan")])}, "edge_type is nan at 0"),
        ({"edges": [(0, 1)], "node_type": [1.9, 2.0]}, "node_type is 1.9.* at 0 .*, expected whole numbers"),
        ({"edges": [(0, 1)], "ptr": [0, 1.5, 2]}, "ptr is 1.5 at 1 .*, expected whole numbers"),
        ({"edges": [(0, 1)], "x": np.array([1 + 2j, 3])}, "x has complex numbers"),
        ({"edges": [(0, 1)], "x": torch.eye(2).to_sparse()}, "x is a sparse tensor; give its to_dense"),
        ({"edges": [(0, 1)], "x": np.array([["C"], ["N"]])}, "x is no array of numbers"),
        ({"edges": [(0, 1)], "x": [[1.0], [1.0, 2.0]]}, "x is no array of numbers"),
        ({"edges": [("a", "b")]}, "edges is no array of numbers"),
        ({"edges": [(0, 2)], "num_nodes": 4, "ptr": [0, 2, 4]}, r"edge 0 = \(0, 2\) joins graphs 0 and 1"),
        ({"edges": [], "num_nodes": 4, "ptr": [0, 2]}, "ptr must rise from 0 to the number of nodes, 4"),
        (
            {"edges": [], "num_nodes": 2, "node_type": [0]},
            "node_type has 1 rows, expected 2, one for each node",
        ),
        ({"edges": [], "num_nodes": 1, "node_type": [-1]}, "node_type has in row 0 .* negative"),
        ({"edges": [(0, 1)], "edge_weight": [[1.0, 2.0]]}, r"edge_weight has shape \(1, 2\), expected one"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        GraphBatch.from_edges(**arguments)


def test_a_column_is_one_number_an_edge():
    given = {"edge_weight": np.ones((2, 1)), "edge_type": torch.tensor([[1], [0]]), "node_type": [[0], [1]]}
    batch = GraphBatch.from_edges([(0, 1), (1, 0)], x=torch.ones(2, 3), **given)
    assert all(getattr(batch, name).shape == (2,) for name in given)
    assert batch.sum_neighbours(batch.x).tolist() == batch.x.tolist()


@pytest.mark.parametrize("one", [np.int64(1), torch.tensor(1), np.array(1)], ids=["numpy", "torch", "array"])
def test_a_number_of_any_kind_is_a_graph(one):
    batch = GraphBatch.from_edges([(1, 2)], x=[[0.0], [1.0], [2.0]], ptr=[0, 1, 3])
    assert_same(batch[one], batch[1])


def test_sparse_features_are_written_out_for_other_libraries():
    pytest.importorskip("dgl")
    pytest.importorskip("torch_geometric")
    x = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    batch = GraphBatch.from_edges([(0, 1)]).with_features(x=SparseFeatures.from_dense(x))
    assert torch.equal(batch.to_dgl().ndata["x"], x) and torch.equal(batch.to_pyg().x, x)


def test_pygs_graphs_of_several_types_are_told_how_to_come():
    graph = pytest.importorskip("torch_geometric.data").HeteroData()
    graph["a"].x, graph["b"].x = torch.ones(1, 2), torch.zeros(2, 2)
    graph["a", "to", "b"].edge_index = torch.tensor([[0], [1]])
    for graphs in (graph, [graph]):
        with pytest.raises(ValueError, match=r"given HeteroData; give its to_homogeneous\(\)"):
            GraphBatch.from_pyg(graphs)
    batch = GraphBatch.from_pyg(graph.to_homogeneous())
    assert batch.node_type.tolist() == [0, 1, 1] and (batch.src.tolist(), batch.dst.tolist()) == ([0], [2])


def test_concatenate_names_the_missing_feature():
    a = GraphBatch.from_edges([(0, 1)])
    b = GraphBatch.from_edges([(0, 1)], edge_weight=[2.0])
    with pytest.raises(ValueError, match="edge_weight is None in 1 of 2 batches"):
        GraphBatch.concatenate([a, b])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_dataloader_collates(num_workers):
    samples = [(GraphBatch.from_edges([(0, 1)], x=[[float(i)], [0.0]]), i % 2, i) for i in range(6)]
    loader = DataLoader(samples, batch_size=4, num_workers=num_workers)
    batch, labels, index = next(iter(loader))
    assert batch.num_graphs == 4 and batch.ptr.tolist() == [0, 2, 4, 6, 8]
    assert (
        batch.src.tolist() == [0, 2, 4, 6]
        and labels.tolist() == [0, 1, 0, 1]
        and index.tolist() == [0, 1, 2, 3]
    )
    assert default_collate([s[0] for s in samples]).num_graphs == 6


def test_to_moves_every_tensor_and_leaves_none():
    batch = GraphBatch.from_edges([(0, 1)], edge_weight=[1.0]).to("meta")
    assert batch.device.type == "meta" and batch.edge_weight.device.type == "meta" and batch.edge_attr is None


def test_with_features_shares_what_depends_on_edges_alone():
    batch = GraphBatch.from_edges([(0, 1)], edge_weight=[1.0])
    adjacency = batch.adjacency
    assert batch.with_features(x=batch.x + 1).adjacency is adjacency
    assert batch.with_features(edge_weight=batch.edge_weight * 2).adjacency.weight.tolist() == [2.0]


def test_a_tensor_that_is_assigned_takes_effect():
    batch = GraphBatch.from_edges([(0, 1), (2, 1)], x=torch.ones(3, 1), edge_weight=[1.0, 1.0])
    before = batch.adjacency
    batch.edge_weight = torch.tensor([2.0, 3.0])
    assert batch.sum_neighbours(batch.x)[1] == 5 and batch.adjacency is not before
    assert torch.equal(batch.adjacency.weight, batch.edge_weight)
    assert batch.graph_of_node.tolist() == [0, 0, 0]
    batch.ptr = torch.tensor([0, 0, 3])
    assert batch.graph_of_node.tolist() == [1, 1, 1] and batch.nodes_per_graph.tolist() == [0, 3]


def test_what_inference_asked_for_first_serves_training():
    batch = GraphBatch.from_edges([(0, 1), (2, 1)], edge_type=[0, 1])
    of_batch = ("nodes_per_graph", "graph_of_node", "graph_of_edge", "edge_ptr")
    with torch.inference_mode():
        found = [getattr(batch, name) for name in of_batch]
        for edges in (batch.adjacency, batch.membership):
            found += [edges.indptr, edges.degree, edges.out_degree, edges.edge_ids, edges.src, edges.dst]
            found += [*edges.by_src, edges.transposed.dst]
        loops, order = batch.adjacency.with_loops
        found += [loops.src, order, batch.adjacency.edges_of_same_type]
    assert not any(tensor.is_inference() for tensor in found)
    h = torch.ones(3, 2, requires_grad=True)  # as a layer of one's own takes them
    mean = torch.zeros(1, 2).index_add(0, batch.graph_of_node, h) / batch.nodes_per_graph[:, None]
    mean.sum().backward()
    torch.testing.assert_close(h.grad, torch.full((3, 2), 1 / 3))


def test_heterograph_types():
    dgl = pytest.importorskip("dgl")
    graph = dgl.heterograph(
        {("drug", "binds", "protein"): ([0, 1], [0, 2]), ("drug", "with", "drug"): ([0], [1])}
    )
    batch = GraphBatch.from_dgl(graph)
    assert batch.node_type.tolist() == [0, 0, 1, 1, 1]
    assert sorted(zip(batch.src.tolist(), batch.dst.tolist(), batch.edge_type.tolist())) == [
        (0, 1, 1),
        (0, 2, 0),
        (1, 4, 0),
    ]


class Graphs:
    """A data set that has a length, and indices without an end."""

    def __init__(self, graph):
        self.graph = graph

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return self.graph


def test_from_dgl_takes_what_holds_graphs_and_names_what_does_not():
    dgl = pytest.importorskip("dgl")
    graph = dgl.graph(([0], [1]))
    assert len(GraphBatch.from_dgl(Graphs(graph))) == len(GraphBatch.from_dgl(g for g in [graph] * 2)) == 2
    with pytest.raises(ValueError, match="item 1 is a tuple, expected a DGLGraph"):
        GraphBatch.from_dgl([graph, (graph, 1)])
    with pytest.raises(ValueError, match="item 0 is a DGLGraph, expected a Data of PyG"):
        GraphBatch.from_pyg([graph])


def test_from_dgl_names_what_is_missing():
    dgl = pytest.importorskip("dgl")
    graph = dgl.graph(([0], [1]))
    with pytest.raises(ValueError, match="ndata has no 'colour'"):
        GraphBatch.from_dgl(graph, x="colour")


def test_from_smiles_against_rdkit():
    chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
    smiles = ["CC(=O)Oc1ccccc1C(=O)O", "[Na+]", "C/C=C\\C", "N[C@@H](C)C(=O)O", "[13CH3]C#N", "C[N+](C)(C)C"]
    batch = GraphBatch.from_smiles(smiles)
    assert batch.num_graphs == len(smiles)
    for graph, text in zip(batch, smiles):
        molecule = chem.MolFromSmiles(text)
        assert graph.x[:, 0].tolist() == [a.GetAtomicNum() for a in molecule.GetAtoms()]
        assert (graph.x[:, 3] - 6).tolist() == [a.GetFormalCharge() for a in molecule.GetAtoms()]
        assert (graph.x[:, 4] - 1).tolist() == [a.GetTotalNumHs() for a in molecule.GetAtoms()]
        assert graph.adjacency.degree.tolist() == [a.GetDegree() for a in molecule.GetAtoms()]
        aromatic = sum(b.GetIsAromatic() for b in molecule.GetBonds())
        assert int((graph.edge_attr[:, 0] == 4).sum()) == 2 * aromatic
    limits = torch.tensor(list(ATOM_FEATURES.values())), torch.tensor(list(BOND_FEATURES.values()))
    assert (batch.x < limits[0]).all() and (batch.edge_attr < limits[1]).all()
    assert (batch.x[:, 1:] > 0).all()  # category 0 is the mask's


def test_a_bad_smiles_is_named():
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    with pytest.raises(ValueError, match="SMILES 1 does not parse: 'C1CC'"):
        GraphBatch.from_smiles(["C", "C1CC"])


def test_without_rdkit_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=r"pip install contrastive-pretraining\[molecules\]"):
        GraphBatch.from_smiles("C")


def test_importing_encoders_loads_no_graph_library(tmp_path):
    code = (
        "import sys, encoders.graph, encoders.graph_batch, augmentations.graph\n"
        "assert not {'dgl', 'torch_geometric', 'rdkit'} & set(sys.modules)\n"
        "from contrastive.data.graphs import read_graphs\n"
        "try: read_graphs('graphs.bin')\n"
        "except Exception: pass"
    )
    environment = {k: v for k, v in os.environ.items() if k != "DGLBACKEND"} | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "backend" not in (done.stdout + done.stderr).lower() and not list(tmp_path.glob(".dgl/*"))
