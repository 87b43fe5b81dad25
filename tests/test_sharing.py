"""Computing what equal nodes have in common once changes nothing."""

import pytest
import torch
from graph_cases import LAYERS, molecule_like

from contrastive.batch_norm import SyncedOnCPU
from encoders.graph import GraphEncoder
from encoders.graph_batch import GraphBatch
from encoders.sharing import colour


@pytest.mark.parametrize(
    ("layer", "layer_args", "edge_features"), [case for case in LAYERS if case[0] not in ("gcn", "rgcn")]
)
@pytest.mark.parametrize(
    "options", [{}, {"jumping_knowledge": "concat", "residual": True}, {"dropout": 0.5}], ids=str
)
def test_sharing_equal_nodes_changes_nothing(kernels, layer, layer_args, edge_features, options):
    parts = [molecule_like(), molecule_like()[[2, 0]]]
    batch = GraphBatch.concatenate(
        [part.with_features(x=part.x[:, 1:], edge_attr=part.edge_attr[:, 1:]) for part in parts]
    )
    results = []
    for shared in (False, True):
        torch.manual_seed(0)
        encoder = GraphEncoder(
            node_features=[2],
            edge_features=edge_features and [4],
            num_hidden=8,
            layer=layer,
            layer_args=layer_args,
            share_equal_nodes=shared,
            **options,
        ).double()
        out = encoder.train()(batch)
        out.square().sum().backward()
        results.append(
            [out, encoder.eval().nodes(batch), *(p.grad for p in encoder.parameters()), *encoder.buffers()]
        )
    for plain, shared in zip(*results):
        torch.testing.assert_close(shared, plain, atol=1e-8, rtol=1e-6)


def test_norms_over_all_processes_count_every_node():
    batch = GraphBatch.concatenate([molecule_like(), molecule_like()[[2, 0]]])
    batch = batch.with_features(x=batch.x[:, 1:], edge_attr=None)
    found = []
    for shared in (False, True):
        torch.manual_seed(0)
        encoder = GraphEncoder(node_features=[2], num_hidden=8, share_equal_nodes=shared)
        found.append(SyncedOnCPU().apply(encoder).train()(batch))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("short", [torch.bfloat16, torch.float16], ids=str)
def test_sharing_loses_no_more_to_16_bits_than_going_without(short):
    batch = GraphBatch.concatenate([molecule_like() for _ in range(4)])
    batch = batch.with_features(x=batch.x[:, 1:], edge_attr=None)
    found = {}
    for shared, half in ((False, False), (False, True), (True, True)):
        torch.manual_seed(0)
        encoder = GraphEncoder(node_features=[2], num_hidden=32, share_equal_nodes=shared)
        with torch.autocast("cpu", short, enabled=half):
            out = encoder(batch).float()
        out.square().mean().backward()
        gradients = [p.grad for p in encoder.parameters()]
        found[shared, half] = [
            torch.cat([v.flatten() for v in values]).detach()
            for values in (out, gradients, encoder.buffers())
        ]
    for exact, without, lost in zip(found[False, False], found[False, True], found[True, True]):
        assert 0 < (lost - exact).norm() < 2 * (without - exact).norm()


def test_colours_are_weisfeiler_lehman_s():
    nx = pytest.importorskip("networkx")
    batch = molecule_like()
    levels = colour(batch, 3)
    graph = nx.DiGraph()
    for v in range(17):
        graph.add_node(v, label=str(batch.x[v].tolist()))
    for u, v, attr in zip(batch.dst.tolist(), batch.src.tolist(), batch.edge_attr.tolist()):
        graph.add_edge(u, v, label=str(attr))
    names = {v: graph.nodes[v]["label"] for v in graph}
    for level in levels:
        pairs = set(zip(level.of_node.tolist(), names.values()))
        assert len(pairs) == len(level.nodes) == len(set(names.values())) == len({c for c, _ in pairs})
        assert torch.equal(torch.bincount(level.of_node), level.counts)
        names = {
            v: str((names[v], sorted((graph[v][u]["label"], names[u]) for u in graph[v]))) for v in graph
        }


@pytest.mark.parametrize("num_nodes", [1, 3])
def test_norms_where_no_nodes_are_equal_are_torchs(num_nodes):
    batch = GraphBatch.from_edges([], x=torch.arange(num_nodes).unsqueeze(1))
    found = []
    for shared in (False, True):
        torch.manual_seed(0)
        encoder = GraphEncoder(node_features=[3], num_hidden=4, share_equal_nodes=shared)
        if num_nodes == 1:
            with pytest.raises(ValueError, match="more than 1 value"):
                encoder(batch)
        else:
            found.append([encoder(batch), *encoder.buffers()])
    for plain, shared in zip(*found) if found else ():
        torch.testing.assert_close(shared, plain)
