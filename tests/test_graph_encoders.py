import pytest
import torch
from torch import nn

from contrastive.batch_norm import SyncedOnCPU
from encoders import message_passing as mp
from encoders.dmpnn import DMPNN, reverse_edges
from encoders.graph import GraphEncoder, NodeEncoder
from encoders.graph_batch import GraphBatch
from encoders.graph_convolutions import GAT, GCN, PNA, GATv2, Propagation
from encoders.graph_layers import GINE, FeatureEncoder, GraphLayer, GraphSAGE
from encoders.neural_fingerprint import NeuralFingerprint
from encoders.readout import AttentionReadout, Readout, Set2Set
from encoders.relational import RGCN
from encoders.sharing import colour


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make(seed=0, undirected=False, self_loops=False, **features):
    """Three graphs of 7, 1 and 9 nodes; nodes 7 and 8 are isolated unless they get loops."""
    generator = torch.Generator().manual_seed(seed)
    edges = []
    for first, last in ((0, 7), (9, 17)):
        edges += [
            (u, v)
            for u in range(first, last)
            for v in range(first, last)
            if u < v or (u > v and not undirected)
        ]
    keep = torch.rand(len(edges), generator=generator) < 0.4
    edges = [edge for edge, kept in zip(edges, keep) if kept]
    if undirected:
        edges += [(v, u) for u, v in edges]
    if self_loops:
        edges += [(v, v) for v in range(17)]
    edges = sorted(edges, key=lambda edge: edge[1])
    x = torch.randn(17, 6, generator=generator)
    drawn = {name: make(len(edges), generator) for name, make in features.items()}
    return GraphBatch.from_edges(edges, x, ptr=[0, 7, 8, 17], **drawn)


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def dense(batch, weight=None):
    """A[v, u], the sum of the weights of the edges u → v."""
    values = torch.ones(batch.num_edges) if weight is None else weight
    return torch.zeros(batch.num_nodes, batch.num_nodes).index_put(
        (batch.dst, batch.src), values, accumulate=True
    )


# Layers against DGL's with the same weights.


def test_gcn_is_dgl_graph_conv(kernels):
    conv = pytest.importorskip("dgl.nn").GraphConv(6, 5)
    batch, looped = make(), make(self_loops=True)
    layer = GCN(6, 5)
    layer.linear.weight.data, layer.bias.data = conv.weight.data.t(), conv.bias.data.uniform_()
    close(layer(batch.adjacency, batch.x), conv(looped.to_dgl(), batch.x))


def test_propagation_is_dgl_appnp(kernels):
    conv = pytest.importorskip("dgl.nn").APPNPConv(5, 0.3)
    batch, looped = make(undirected=True), make(undirected=True, self_loops=True)
    close(Propagation(5, teleport=0.3)(batch.adjacency, batch.x), conv(looped.to_dgl(), batch.x))


def test_propagation_nears_personalised_pagerank(kernels):
    batch = make(undirected=True)
    a = dense(batch) + torch.eye(17)
    d = a.sum(1).rsqrt()
    pagerank = 0.3 * torch.linalg.inv(torch.eye(17) - 0.7 * d[:, None] * a * d)
    close(Propagation(60, teleport=0.3)(batch.adjacency, batch.x), pagerank @ batch.x)
    assert Propagation(0, teleport=0.3)(batch.adjacency, batch.x) is batch.x


def test_a_node_encoder_propagates_what_its_layers_give():
    batch = make(undirected=True)
    batch = batch.with_features(target=torch.arange(17) % 3 == 0)
    torch.manual_seed(0)
    plain = NodeEncoder(node_features=6, num_hidden=4, layer="gcn").eval()
    encoder = NodeEncoder(node_features=6, num_hidden=4, layer="gcn", propagation=4, teleport=0.3).eval()
    encoder.load_state_dict(plain.state_dict())
    close(encoder.local(batch), plain(batch))
    expected = Propagation(4, teleport=0.3)(batch.adjacency, plain.nodes(batch))
    close(encoder(batch), expected[batch.target])


@pytest.mark.parametrize(("num_steps", "teleport"), [(-1, 0.2), (3, 0.0), (3, 1.5)])
def test_propagation_that_is_none_is_refused(num_steps, teleport):
    with pytest.raises(ValueError, match=f"{num_steps} and {teleport}"):
        NodeEncoder(node_features=6, propagation=num_steps, teleport=teleport)


@pytest.mark.parametrize("num_out", [4, 9])
def test_gcn_with_weights_is_its_formula(kernels, num_out):
    batch = make(undirected=True)
    batch = batch.with_features(edge_weight=(batch.src + batch.dst + 1).float())
    a = dense(batch, batch.edge_weight) + torch.eye(17)
    d = a.sum(1).rsqrt()
    layer = GCN(6, num_out)
    close(layer(batch.adjacency, batch.x), d[:, None] * a * d @ layer.linear(batch.x) + layer.bias)


@pytest.mark.parametrize("num_out", [4, 9])
def test_gcn_gradients(kernels, num_out):
    batch = make()
    layer = GCN(6, num_out).double()

    def convolve(x, weight):
        return layer(batch.with_features(edge_weight=weight).adjacency, x)

    weight = torch.rand(batch.num_edges, dtype=torch.float64, requires_grad=True)
    x = batch.x.double().requires_grad_()
    assert torch.autograd.gradcheck(convolve, (x, weight), fast_mode=True)


@pytest.mark.parametrize("aggregate", ["mean", "sum"])
def test_sage_is_dgl(kernels, aggregate):
    conv = pytest.importorskip("dgl.nn").SAGEConv(6, 5, "mean" if aggregate == "mean" else "gcn")
    batch = make()
    if aggregate == "mean":
        layer = GraphSAGE(6, 5)
        layer.neighbour_linear.weight.data = conv.fc_neigh.weight.data
        layer.self_linear.weight.data, layer.self_linear.bias.data = (
            conv.fc_self.weight.data,
            conv.fc_self.bias.data,
        )
        close(layer(batch.adjacency, batch.x), conv(batch.to_dgl(), batch.x))
    else:
        # DGL's "gcn" aggregator is W (h_v + Σ h_u) / (d + 1) + b.
        layer = GraphSAGE(6, 5, aggregate="sum")
        weight = conv.fc_neigh.weight.data
        layer.neighbour_linear.weight.data = layer.self_linear.weight.data = weight
        layer.self_linear.bias.data.zero_()
        degree = (batch.adjacency.degree + 1).unsqueeze(1)
        close(layer(batch.adjacency, batch.x) / degree + conv.bias, conv(batch.to_dgl(), batch.x))


@pytest.mark.parametrize("aggregate", ["sum", "mean", "max"])
def test_gin_is_dgl(kernels, aggregate):
    layer = GraphLayer(6, 5, aggregate=aggregate, combine="mlp")
    layer.eps.data.fill_(0.3)
    conv = pytest.importorskip("dgl.nn").GINConv(layer.mlp, aggregate, init_eps=0.3)
    batch = make()
    close(layer(batch.adjacency, batch.x), conv(batch.to_dgl(), batch.x))


def test_gine_is_dgl(kernels):
    batch = make(edge_attr=lambda e, g: torch.randn(e, 4, generator=g))
    layer = GINE(6, 5, edge_features=4)
    layer.eps.data.fill_(0.3)
    conv = pytest.importorskip("dgl.nn").GINEConv(layer.mlp, init_eps=0.3)
    edge = layer.aggregate.edge(batch.edge_attr)
    close(layer(batch.adjacency, batch.x), conv(batch.to_dgl(), batch.x, edge))


def test_gat_is_dgl(kernels):
    conv = pytest.importorskip("dgl.nn").GATConv(6, 4, 3, allow_zero_in_degree=True)
    layer, batch = GAT(6, 12, num_heads=3), make()
    layer.linear.weight.data, layer.bias.data = conv.fc.weight.data, conv.bias.data.uniform_()
    layer.source_score.data, layer.target_score.data = conv.attn_l.data[0], conv.attn_r.data[0]
    close(layer(batch.adjacency, batch.x), conv(batch.to_dgl(), batch.x).flatten(1))


def test_gatv2_is_dgl(kernels):
    conv = pytest.importorskip("dgl.nn").GATv2Conv(6, 4, 3, allow_zero_in_degree=True)
    layer, batch = GATv2(6, 12, num_heads=3), make()
    for ours, theirs in ((layer.source, conv.fc_src), (layer.target, conv.fc_dst)):
        ours.load_state_dict(theirs.state_dict())
    layer.score.data = conv.attn.data[0]
    close(layer(batch.adjacency, batch.x), conv(batch.to_dgl(), batch.x).flatten(1))


@pytest.mark.parametrize("edge_features", [None, 4])
def test_pna_is_dgl(kernels, edge_features):
    aggregators = ["mean", "max", "min", "std"]
    scalers = ["identity", "amplification", "attenuation"]
    module = pytest.importorskip("dgl.nn")
    conv = module.PNAConv(6, 5, aggregators, scalers, 1.3, edge_feat_size=edge_features or 0, residual=False)
    conv.mixing_layer, conv.towers[0].batchnorm = nn.Identity(), nn.Identity()
    conv = conv.double()  # a standard deviation near 0 is all rounding in float32
    batch = make(edge_attr=lambda e, g: torch.randn(e, 4, generator=g).double())
    batch = batch.with_features(x=batch.x.double())
    layer = PNA(6, 5, delta=1.3, edge_features=edge_features).double()
    weight = conv.towers[0].M.weight.data
    layer.source.weight.data, layer.target.weight.data = weight[:, :6], weight[:, 6:12]
    layer.target.bias.data = conv.towers[0].M.bias.data
    if edge_features:
        layer.edge.linear.weight.data = weight[:, 12:]
        layer.edge.linear.bias.data.zero_()
    layer.combine.load_state_dict(conv.towers[0].U.state_dict())
    scale = batch.nodes_per_graph.float().sqrt()[batch.graph_of_node].unsqueeze(1)  # DGL divides by √n
    expected = conv(batch.to_dgl(), batch.x, batch.edge_attr if edge_features else None) * scale
    close(layer(batch.adjacency, batch.x), expected)


@pytest.mark.parametrize("num_bases", [None, 2])
def test_rgcn_is_dgl(kernels, num_bases):
    regularizer = {} if num_bases is None else {"regularizer": "basis", "num_bases": num_bases}
    conv = pytest.importorskip("dgl.nn").RelGraphConv(6, 5, 4, **regularizer)
    batch = make(edge_type=lambda e, g: torch.randint(0, 4, (e,), generator=g))
    layer = RGCN(6, 5, num_relations=4, num_bases=num_bases, aggregate="sum")
    layer.weight.data = conv.linear_r.W.data
    if num_bases:
        layer.coefficients.data = conv.linear_r.coeff.data
    layer.self_linear.weight.data, layer.self_linear.bias.data = conv.loop_weight.data.t(), conv.h_bias.data
    close(layer(batch.adjacency, batch.x), conv(batch.to_dgl(), batch.x, batch.edge_type))


@pytest.mark.parametrize("num_bases", [None, 2])
def test_rgcn_mean_is_its_formula(kernels, num_bases):
    batch = make(edge_type=lambda e, g: torch.randint(0, 4, (e,), generator=g))
    layer = RGCN(6, 5, num_relations=4, num_bases=num_bases)
    matrices = layer.weight
    if num_bases:
        matrices = torch.einsum("rb,bio->rio", layer.coefficients, layer.weight)
    expected = layer.self_linear(batch.x)
    for relation in range(4):
        a = dense(batch, (batch.edge_type == relation).float())
        expected = expected + (a / a.sum(1, keepdim=True).clamp(min=1)) @ batch.x @ matrices[relation]
    close(layer(batch.adjacency, batch.x), expected)


def test_readouts_are_dgl(kernels):
    module = pytest.importorskip("dgl.nn")
    batch = make()
    attention = AttentionReadout(6)
    close(attention(batch, batch.x), module.GlobalAttentionPooling(attention.gate)(batch.to_dgl(), batch.x))
    ours, theirs = Set2Set(6, num_steps=3), module.Set2Set(6, 3, 1)
    for name, value in theirs.lstm.named_parameters():
        getattr(ours.lstm, name.removesuffix("_l0")).data = value.data
    close(ours(batch, batch.x), theirs(batch.to_dgl(), batch.x))
    for name, pooling in (
        ("sum", module.SumPooling()),
        ("mean", module.AvgPooling()),
        ("max", module.MaxPooling()),
    ):
        close(Readout(name)(batch, batch.x), pooling(batch.to_dgl(), batch.x))


# Layers against their formulas, node by node.


def test_attention_and_mlp_aggregators(kernels):
    batch = make()
    layer = GraphLayer(6, 6, aggregate=["attention", "mlp"], combine="linear")
    attention, deep = layer.aggregate.learned["attention"], layer.aggregate.learned["mlp"]
    rows = []
    for v in range(17):
        h = batch.x[batch.src[batch.dst == v]]
        keys = nn.functional.leaky_relu(attention.source(h) + attention.target(batch.x[v]), 0.2)
        weighted = (torch.softmax(attention.score(keys), 0) * h).sum(0)
        rows.append(torch.cat([weighted, deep.outer(deep.inner(h).sum(0))]))
    expected = layer.self_linear(batch.x) + layer.neighbour_linear(torch.stack(rows))
    close(layer(batch.adjacency, batch.x), expected)


def test_gru_combine(kernels):
    batch = make()
    layer = GraphLayer(6, 6, aggregate=["sum", "std"], combine="gru")
    rows = []
    for v in range(17):
        h = batch.x[batch.src[batch.dst == v]]
        std = h.std(0, unbiased=False) if len(h) > 1 else torch.zeros(6)
        rows.append(torch.cat([h.sum(0), std]))
    close(layer(batch.adjacency, batch.x), layer.gru(torch.stack(rows), batch.x), 1e-4)


def molecule_like(edge_columns=2):
    batch = make(undirected=True)
    code = torch.minimum(batch.src, batch.dst) * 31 + torch.maximum(batch.src, batch.dst)
    attr = torch.stack([code % 3, code % 4], dim=1)[:, :edge_columns]
    return batch.with_features(
        edge_attr=attr, x=torch.stack([torch.arange(17) % 5, torch.arange(17) % 2], dim=1)
    )


def test_dmpnn_is_its_recursion(kernels):
    batch = molecule_like()
    model = DMPNN(node_features=[5, 2], edge_features=[3, 4], num_hidden=8, num_layers=4)
    edges = list(zip(batch.src.tolist(), batch.dst.tolist()))
    initial = model.atom_input(batch.x)[batch.src] + model.bond_input(batch.edge_attr)
    start = {edge: row for edge, row in zip(edges, initial)}
    h = {edge: row.relu() for edge, row in start.items()}
    for _ in range(3):
        h = {
            (v, w): (
                start[v, w]
                + model.message(sum((h[k, u] for k, u in edges if u == v and k != w), torch.zeros(8)))
            ).relu()
            for v, w in edges
        }
    sums = torch.stack([sum((h[k, u] for k, u in edges if u == v), torch.zeros(8)) for v in range(17)])
    expected = (model.atom_output(batch.x) + model.output(sums)).relu()
    close(model.nodes(batch), expected)
    means = [expected[a:b].mean(0) for a, b in zip(batch.ptr, batch.ptr[1:])]
    close(model(batch), torch.stack(means))


def test_reverse_edges_skip_what_has_no_reverse():
    batch = GraphBatch.from_edges([(0, 1), (1, 0), (1, 2)])
    reverse = reverse_edges(batch)
    pairs = [
        (batch.src[e].item(), batch.dst[e].item(), batch.src[r].item(), batch.dst[r].item())
        for r, e in zip(reverse.src, reverse.dst)
    ]
    assert sorted(pairs) == [(0, 1, 1, 0), (1, 0, 0, 1)]
    assert reverse_edges(GraphBatch.from_edges([], num_nodes=2)).num_edges == 0


def test_neural_fingerprint_is_its_recursion(kernels):
    batch = molecule_like()
    model = NeuralFingerprint(
        node_features=[5, 2], edge_features=[3, 4], num_hidden=8, num_layers=2, num_features=12, max_degree=3
    )
    h = model.embed(batch.x)
    fingerprint = torch.zeros(3, 12)
    for layer in range(3):
        for v in range(17):
            fingerprint[batch.graph_of_node[v]] += model.write[layer](h[v]).softmax(0)
        if layer == 2:
            break
        rows = []
        for v in range(17):
            into = batch.dst == v
            received = h[v] + h[batch.src[into]].sum(0) + model.edge(batch.edge_attr[into]).sum(0)
            rows.append(model.hidden[layer * 4 + min(int(into.sum()), 3)](received).relu())
        h = torch.stack(rows)
    close(model(batch), fingerprint)


def test_feature_encoder_is_a_sum_of_embeddings():
    encoder = FeatureEncoder([4, 3], 5)
    x = torch.tensor([[0, 2], [3, 0]])
    close(encoder(x), encoder.embedding.weight[[0, 3]] + encoder.embedding.weight[[4 + 2, 4 + 0]])
    with pytest.raises(ValueError, match=r"shape \(2, 2\) and dtype torch.float32, expected 2 int64 columns"):
        encoder(x.float())


# The encoder.

LAYERS = [
    ("gin", {}, None),
    ("gine", {}, [3, 4]),
    ("gcn", {}, None),
    ("sage", {}, None),
    ("gat", {"num_heads": 2}, None),
    ("gatv2", {"num_heads": 2}, [3, 4]),
    ("pna", {}, [3, 4]),
    ("rgcn", {"num_relations": 3, "num_bases": 2}, None),
    ("custom", {"aggregate": ["max", "mlp"], "combine": "gru"}, [3, 4]),
]


@pytest.mark.parametrize(("layer", "layer_args", "edge_features"), LAYERS)
def test_a_graph_is_encoded_as_if_alone(kernels, layer, layer_args, edge_features):
    batch = molecule_like()
    batch = batch.with_features(edge_type=batch.edge_attr[:, 0])
    encoder = GraphEncoder(
        node_features=[5, 2], edge_features=edge_features, num_hidden=8, layer=layer, layer_args=layer_args
    ).eval()
    together, nodes = encoder(batch), encoder.nodes(batch)
    assert together.shape == (3, encoder.num_features) and nodes.shape == (17, encoder.num_node_features)
    close(together, torch.cat([encoder(graph) for graph in batch]))
    close(nodes, torch.cat([encoder.nodes(graph) for graph in batch]))


@pytest.mark.parametrize(
    ("layer", "layer_args", "edge_features"), [*LAYERS, ("rgcn", {"num_relations": 3}, None)]
)
def test_bfloat16_is_float32_but_for_rounding(kernels, layer, layer_args, edge_features):
    batch = molecule_like()
    batch = batch.with_features(edge_type=batch.edge_attr[:, 0])
    encoder = GraphEncoder(
        node_features=[5, 2], edge_features=edge_features, num_hidden=8, layer=layer, layer_args=layer_args
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = encoder(batch)
    h.float().square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())
    expected = encoder(batch)
    assert (h - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize(("layer", "layer_args", "edge_features"), LAYERS)
def test_renumbering_nodes_changes_nothing(layer, layer_args, edge_features):
    batch = molecule_like()
    batch = batch.with_features(edge_type=batch.edge_attr[:, 0])[0]
    order = torch.randperm(batch.num_nodes)
    place = order.argsort()
    renumbered = GraphBatch.from_edges(
        (place[batch.src], place[batch.dst]),
        batch.x[order],
        edge_attr=batch.edge_attr,
        edge_type=batch.edge_type,
    )
    encoder = GraphEncoder(
        node_features=[5, 2], edge_features=edge_features, num_hidden=8, layer=layer, layer_args=layer_args
    ).eval()
    close(encoder.nodes(renumbered), encoder.nodes(batch)[order])
    close(encoder(renumbered), encoder(batch))


@pytest.mark.parametrize(("layer", "layer_args", "edge_features"), LAYERS)
def test_dgl_and_torch_give_the_same_gradients(monkeypatch, layer, layer_args, edge_features):
    pytest.importorskip("dgl")
    gradients = []
    for absent in (False, True):
        torch.manual_seed(0)
        batch = molecule_like()
        batch = batch.with_features(edge_type=batch.edge_attr[:, 0])
        encoder = GraphEncoder(
            node_features=[5, 2],
            edge_features=edge_features,
            num_hidden=8,
            layer=layer,
            layer_args=layer_args,
        ).double()
        if absent:
            monkeypatch.setattr(mp, "load_dgl", lambda: None)
        encoder(batch).square().sum().backward()
        gradients.append({name: p.grad for name, p in encoder.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-8, rtol=1e-6, msg=name)


@pytest.mark.parametrize("readout", ["sum", "mean", "max", "attention", "set2set", "virtual_node"])
@pytest.mark.parametrize("jumping_knowledge", ["last", "concat", "max", "sum"])
def test_readouts_and_jumping_knowledge(readout, jumping_knowledge):
    batch = make()
    arguments = dict(
        node_features=6, input_layer=True, num_hidden=4, readout=readout, jumping_knowledge=jumping_knowledge
    )
    if (readout, jumping_knowledge) == ("virtual_node", "concat"):
        with pytest.raises(ValueError, match="jumping_knowledge to another than concat"):
            GraphEncoder(**arguments)
        return
    encoder = GraphEncoder(**arguments)
    graphs = encoder(batch)
    assert graphs.shape == (3, encoder.num_features)
    close(encoder.eval()(batch), encoder.nodes_and_graphs(batch)[1])
    graphs.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_jumping_knowledge_is_of_the_layers_outputs():
    batch = make()
    torch.manual_seed(1)
    encoder = GraphEncoder(node_features=6, num_hidden=4, num_layers=2, jumping_knowledge="concat").eval()
    both = encoder.nodes(batch)
    first, second = both[:, :4], both[:, 4:]
    for name, expected in (("last", second), ("max", torch.maximum(first, second)), ("sum", first + second)):
        encoder.jumping_knowledge = name
        close(encoder.nodes(batch), expected)


def test_virtual_node_reaches_every_node():
    batch = GraphBatch.from_edges([], x=torch.randn(4, 3), ptr=[0, 3, 4])
    encoder = GraphEncoder(node_features=3, input_layer=True, num_hidden=4, readout="virtual_node").eval()
    changed = batch.with_features(x=batch.x + torch.tensor([[0.0], [0.0], [1.0], [0.0]]))
    moved = (encoder.nodes(changed) - encoder.nodes(batch)).abs().sum(1) > 1e-6
    assert moved.tolist() == [True, True, True, False]  # no edges: only through the virtual node


@pytest.mark.parametrize(("layer", "layer_args", "edge_features"), LAYERS)
@pytest.mark.parametrize("num_nodes", [0, 2])
def test_graphs_without_edges_or_nodes(kernels, layer, layer_args, edge_features, num_nodes):
    batch = GraphBatch.from_edges(
        [],
        x=torch.zeros(num_nodes, 2, dtype=torch.int64),
        ptr=[0, 0, num_nodes],
        edge_attr=torch.zeros(0, 2, dtype=torch.int64),
        edge_type=torch.zeros(0, dtype=torch.int64),
    )
    encoder = GraphEncoder(
        node_features=[5, 2], edge_features=edge_features, num_hidden=8, layer=layer, layer_args=layer_args
    ).eval()
    graphs = encoder(batch)
    graphs.sum().backward()
    assert graphs.shape == (2, 8) and graphs.isfinite().all() and not graphs[0].any()


def test_errors_say_what_to_do():
    batch = make()
    with pytest.raises(ValueError, match="edge_type is None; give every edge a type"):
        RGCN(6, 5, num_relations=2)(batch.adjacency, batch.x)
    typed = batch.with_features(edge_type=torch.full((batch.num_edges,), 3))
    with pytest.raises(ValueError, match="edge_type reaches 3, expected less than num_relations = 2"):
        RGCN(6, 5, num_relations=2)(typed.adjacency, batch.x)
    with pytest.raises(ValueError, match="edge_attr is None"):
        GINE(6, 5, edge_features=2)(batch.adjacency, batch.x)
    with pytest.raises(ValueError, match="num_out = 5 is not divisible by num_heads = 2"):
        GAT(6, 5, num_heads=2)
    with pytest.raises(ValueError, match="aggregator 'median'"):
        GraphLayer(6, 5, aggregate="median")


# Sharing what equal nodes have in common.


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


def test_sharing_loses_no_more_to_bfloat16_than_going_without():
    batch = GraphBatch.concatenate([molecule_like() for _ in range(4)])
    batch = batch.with_features(x=batch.x[:, 1:], edge_attr=None)
    found = {}
    for shared, half in ((False, False), (False, True), (True, True)):
        torch.manual_seed(0)
        encoder = GraphEncoder(node_features=[2], num_hidden=32, share_equal_nodes=shared)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
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


@pytest.mark.parametrize("arguments", [{"num_layers": 0}, {"num_hidden": 0}])
def test_no_layers_and_no_width_are_refused(arguments):
    with pytest.raises(ValueError, match="both are 1 at least"):
        GraphEncoder(node_features=3, **arguments)
