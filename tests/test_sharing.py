"""Computing what equal nodes have in common once changes nothing."""

import pytest
import torch
from graph_cases import LAYERS, molecule_like
from torch import nn

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


class Centred(nn.Module):
    """A norm of a user's that reads the other nodes, in eval mode too."""

    def forward(self, h):
        return h - h.mean(0)


def norms(make):
    def replace(encoder):
        for i in range(len(encoder.norms)):
            encoder.norms[i] = make(8)

    return replace


def without_statistics(encoder):
    norms(lambda width: nn.BatchNorm1d(width, track_running_stats=False))(encoder)
    encoder.eval()


@pytest.mark.parametrize(
    "change",
    [
        norms(lambda width: nn.BatchNorm1d(width, affine=False)),
        norms(
            lambda width: nn.BatchNorm1d(width, momentum=None)
        ),  # as torch.optim.swa_utils.update_bn sets it
        norms(lambda width: nn.BatchNorm1d(width, track_running_stats=False)),
        without_statistics,
        lambda encoder: (norms(lambda width: Centred())(encoder), encoder.eval()),
        lambda encoder: (norms(nn.LayerNorm)(encoder), encoder.eval()),
        lambda encoder: [norm.eval() for norm in encoder.norms],
        lambda encoder: [norm.requires_grad_(False) for norm in encoder.norms],
        lambda encoder: (encoder.eval(), setattr(encoder.dropout, "p", 0.5), encoder.dropout.train()),
    ],
    ids=[
        "plain",
        "cumulative",
        "untracked",
        "untracked-eval",
        "centred",
        "layer-norm",
        "fixed",
        "frozen",
        "monte-carlo",
    ],
)
def test_sharing_changes_nothing_with_norms_and_modes_of_a_user(change):
    batch = GraphBatch.concatenate([molecule_like(), molecule_like()[[2, 0]]])
    batch = batch.with_features(x=batch.x[:, 1:])
    results = []
    for shared in (False, True):
        torch.manual_seed(0)
        encoder = GraphEncoder(node_features=[2], num_hidden=8, share_equal_nodes=shared)
        change(encoder)
        encoder.double()
        torch.manual_seed(1)
        out = [encoder(batch) for _ in range(2)][1]
        out.square().sum().backward()
        gradients = [torch.zeros(()) if p.grad is None else p.grad for p in encoder.parameters()]
        results.append([out, *gradients, *encoder.buffers()])
    for plain, shared in zip(*results):
        torch.testing.assert_close(shared, plain, atol=1e-8, rtol=1e-6)


def test_a_network_of_16_bits_gives_what_it_gives_without_sharing():
    batch = GraphBatch.from_edges([], x=torch.eye(70000, 1).long())  # more than float16 has
    found = []
    for shared in (False, True):
        torch.manual_seed(0)
        encoder = GraphEncoder(node_features=[2], num_hidden=8, num_layers=1, share_equal_nodes=shared)
        found.append(encoder.half().nodes(batch))
    assert found[1].dtype == torch.float16
    torch.testing.assert_close(*found)


def test_edge_features_that_no_layer_reads_do_not_matter():
    batch = molecule_like()
    batch = batch.with_features(x=batch.x[:, 1:], edge_attr=batch.edge_attr.float())
    found = []
    for shared in (False, True):
        torch.manual_seed(0)
        found.append(GraphEncoder(node_features=[2], num_hidden=8, share_equal_nodes=shared).double()(batch))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32], ids=str)
def test_categories_of_few_bits_are_read_as_others(dtype):
    batch = GraphBatch.concatenate([molecule_like()] * 30)  # more bonds than combinations, which are over 255
    encoder = GraphEncoder(
        node_features=[5, 2], edge_features=[30, 40], layer="gine", num_hidden=8, share_equal_nodes=True
    )
    batch = batch.with_features(edge_attr=batch.edge_attr * 9)
    short = batch.with_features(x=batch.x.to(dtype), edge_attr=batch.edge_attr.to(torch.uint8))
    for module in (encoder.eval(), encoder.train()):
        torch.testing.assert_close(module(short), module(batch))
    encoder.share_equal_nodes = False
    torch.testing.assert_close(encoder(short), encoder(batch))
