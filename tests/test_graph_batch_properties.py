"""What holds of every GraphBatch, against plain lists of edges: empty graphs and lone nodes among them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_graph_batch import assert_same, edge_rows, graphs

from encoders.graph_batch import GraphBatch
from encoders.sparse_features import SparseFeatures

SETTINGS = settings(max_examples=25, deadline=None)


def pairs(batch):
    return list(zip(batch.src.tolist(), batch.dst.tolist()))


def well_formed(batch):
    assert batch.ptr[0] == 0 and batch.ptr[-1] == batch.num_nodes and (batch.ptr.diff() >= 0).all()
    assert torch.equal(batch.dst, batch.dst.sort()[0])
    assert torch.equal(batch.graph_of_node[batch.src], batch.graph_of_node[batch.dst])
    assert batch.edge_ptr[0] == 0 and batch.edge_ptr[-1] == batch.num_edges
    for name, value in batch.edge_features().items():
        assert value is None or len(value) == batch.num_edges, name


@given(graphs(), st.randoms(use_true_random=False))
@SETTINGS
def test_the_order_of_the_edges_given_does_not_matter(case, random):
    batch, edges, features = case
    order = list(range(len(edges)))
    random.shuffle(order)
    shuffled = {k: v[order] if k.startswith("edge") and len(edges) else v for k, v in features.items()}
    again = GraphBatch.from_edges([edges[i] for i in order], ptr=batch.ptr, **shuffled)
    well_formed(again)
    assert_same(again, batch)


@given(graphs(), st.data())
@SETTINGS
def test_with_edges_takes_any_order_and_forgets_what_was_there(case, data):
    batch = case[0]
    start, size = batch.ptr[:-1].tolist(), batch.nodes_per_graph.tolist()
    nodes = [st.integers(a, a + n - 1) for a, n in zip(start, size) if n]
    edge = st.one_of([st.tuples(node, node) for node in nodes]) if nodes else st.nothing()
    edges = data.draw(st.lists(edge, max_size=12)) if nodes else []
    src, dst = (torch.tensor([e[i] for e in edges], dtype=torch.int64) for i in range(2))
    weight = torch.arange(len(edges)).double()
    changed = batch.with_edges(src, dst, edge_weight=weight)
    well_formed(changed)
    assert sorted(zip(pairs(changed), changed.edge_weight.tolist())) == sorted(zip(edges, weight.tolist()))
    assert changed.edge_attr is None and changed.edge_type is None
    assert torch.equal(changed.x, batch.x) and torch.equal(changed.ptr, batch.ptr)


@given(graphs(), st.data())
@SETTINGS
def test_an_edge_subgraph_keeps_all_nodes_and_the_edges_asked_for(case, data):
    batch = case[0]
    keep = data.draw(st.lists(st.booleans(), min_size=batch.num_edges, max_size=batch.num_edges))
    part = batch.edge_subgraph(torch.tensor(keep, dtype=torch.bool))
    well_formed(part)
    assert pairs(part) == [pair for pair, kept in zip(pairs(batch), keep) if kept]
    assert torch.equal(part.x, batch.x) and torch.equal(part.ptr, batch.ptr)
    rest = batch.edge_subgraph(~torch.tensor(keep, dtype=torch.bool))
    assert sorted(edge_rows(part) + edge_rows(rest)) == edge_rows(batch)


@given(graphs(), st.data())
@SETTINGS
def test_node_subgraphs_compose(case, data):
    batch = case[0]
    draw = st.lists(st.booleans(), min_size=batch.num_nodes, max_size=batch.num_nodes)
    first, second = (torch.tensor(data.draw(draw), dtype=torch.bool) for _ in range(2))
    both = batch.node_subgraph(first & second)
    well_formed(both)
    assert_same(batch.node_subgraph(first).node_subgraph(second[first]), both)
    assert both.num_graphs == batch.num_graphs  # a graph that loses all its nodes stays, empty


@given(st.lists(graphs(), min_size=1, max_size=3))
@SETTINGS
def test_concatenation_is_associative_and_indexing_undoes_it(cases):
    batches = [case[0].with_features(node_type=None) for case in cases]
    batches = [batch.with_edges(batch.src, batch.dst) for batch in batches]  # features that all have
    whole = GraphBatch.concatenate(batches)
    well_formed(whole)
    first = 0
    for batch in batches:
        assert_same(whole[first : first + len(batch)], batch)
        first += len(batch)
    assert_same(GraphBatch.concatenate([GraphBatch.concatenate(batches[:1]), *batches[1:]]), whole)


@given(graphs())
@SETTINGS
def test_sums_over_neighbours_and_graphs_are_those_of_a_loop(case):
    batch = case[0]
    expected = torch.zeros_like(batch.x)
    for i, (u, v) in enumerate(pairs(batch)):
        expected[v] += batch.x[u] * (1 if batch.edge_weight is None else batch.edge_weight[i])
    torch.testing.assert_close(batch.sum_neighbours(batch.x), expected, atol=1e-5, rtol=1e-5)


@given(graphs())
@SETTINGS
def test_sparse_features_are_indexed_as_dense_ones(case):
    batch = case[0]
    x = batch.x * (batch.x > 0)
    held = batch.with_features(x=SparseFeatures.from_dense(x))
    index = list(range(batch.num_graphs))[::-1]
    torch.testing.assert_close(held[index].x.dense(), batch.with_features(x=x)[index].x)


def test_self_loops_and_parallel_edges_come_back_from_dgl_and_pyg():
    batch = GraphBatch.from_edges([(0, 0), (0, 1), (0, 1)], x=np.eye(3, dtype=np.float32), ptr=[0, 2, 2, 3])
    pytest.importorskip("dgl")
    assert_same(GraphBatch.from_dgl(batch.to_dgl()), batch)
    pytest.importorskip("torch_geometric", reason="PyTorch Geometric is not installed")
    assert_same(GraphBatch.from_pyg(batch.to_pyg()), batch)
