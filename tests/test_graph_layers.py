"""Layers of message passing and readouts against DGL's, and against their formulas."""

import pytest
import torch
from graph_cases import LAYERS, close, dense, make, molecule_like
from torch import nn

from encoders.dmpnn import DMPNN, reverse_edges
from encoders.graph import GraphEncoder
from encoders.graph_batch import GraphBatch
from encoders.graph_convolutions import GAT, GCN, PNA, GATv2, Propagation
from encoders.graph_layers import GINE, Aggregate, GraphLayer, GraphSAGE
from encoders.neural_fingerprint import NeuralFingerprint
from encoders.readout import AttentionReadout, Readout, Set2Set
from encoders.relational import RGCN


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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


@pytest.mark.parametrize("num_bases", [None, 1])
def test_rgcn_learns_weights_of_edges_that_inference_has_seen(num_bases):
    edges, types = [(0, 1), (0, 1), (0, 1), (2, 1), (1, 0)], [0, 1, 2, 0, 1]
    weight = nn.Parameter(torch.rand(5))
    batch = GraphBatch.from_edges(edges, torch.randn(3, 6), edge_type=types).with_features(edge_weight=weight)
    layer = RGCN(6, 4, num_relations=3, num_bases=num_bases)
    with torch.inference_mode():
        layer(batch.adjacency, batch.x)
    for _ in range(2):
        weight.grad = None
        anew = batch.with_features(edge_weight=weight.detach().clone().requires_grad_())
        out, expected = (layer(b.adjacency, b.x) for b in (batch, anew))
        (out.square().sum() + expected.square().sum()).backward()
        close(out, expected)
        close(weight.grad, anew.edge_weight.grad)
        with torch.no_grad():
            weight += 0.5


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


@pytest.mark.parametrize("edge_features", [None, 4])
def test_a_weight_is_a_factor_on_the_message_whatever_aggregates_it(kernels, edge_features):
    batch = make(edge_attr=lambda e, g: torch.randn(e, 4, generator=g))
    batch = batch.with_features(edge_weight=torch.rand(batch.num_edges) + 0.5)
    names = ["sum", "mean", "std", "max", "attention", "mlp"]
    layer = Aggregate(6, names, edge_features=edge_features)
    attention, deep = layer.learned["attention"], layer.learned["mlp"]
    rows = []
    for v in range(17):
        into = batch.dst == v
        m = batch.x[batch.src[into]]
        m = m if layer.edge is None else (m + layer.edge(batch.edge_attr[into])).relu()
        m = m * batch.edge_weight[into, None]
        some = m if len(m) else torch.zeros(1, 6)
        keys = nn.functional.leaky_relu(attention.source(m) + attention.target(batch.x[v]), 0.2)
        read = (torch.softmax(attention.score(keys), 0) * m).sum(0)
        deviation = some.std(0, unbiased=False) * (some.var(0, unbiased=False) > 1e-5)
        rows.append(
            torch.cat(
                [m.sum(0), some.mean(0), deviation, some.amax(0), read, deep.outer(deep.inner(m).sum(0))]
            )
        )
    close(layer(batch.adjacency, batch.x), torch.stack(rows), 1e-4)


def test_gru_combine(kernels):
    batch = make()
    layer = GraphLayer(6, 6, aggregate=["sum", "std"], combine="gru")
    rows = []
    for v in range(17):
        h = batch.x[batch.src[batch.dst == v]]
        std = h.std(0, unbiased=False) if len(h) > 1 else torch.zeros(6)
        rows.append(torch.cat([h.sum(0), std]))
    close(layer(batch.adjacency, batch.x), layer.gru(torch.stack(rows), batch.x), 1e-4)


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


@pytest.mark.parametrize(
    ("layer", "layer_args", "edge_features"), [case for case in LAYERS if case[0] != "pna"]
)
def test_edge_weights_take_the_precision_of_messages(layer, layer_args, edge_features):
    batch = make(edge_type=lambda n, g: torch.randint(0, 3, (n,), generator=g))
    batch = batch.with_features(edge_attr=torch.stack([batch.src % 3, batch.dst % 4], 1))
    weight = torch.rand(batch.num_edges)
    encoder = GraphEncoder(
        node_features=6, edge_features=edge_features, layer=layer, layer_args=layer_args, num_hidden=8
    )
    out = [encoder(batch.with_features(edge_weight=w)) for w in (weight.double(), weight)]
    close(*out)
    short = batch.with_features(x=batch.x.bfloat16(), edge_weight=weight)
    assert encoder.bfloat16()(short).dtype == torch.bfloat16


@pytest.mark.parametrize("make_encoder", [DMPNN, NeuralFingerprint])
def test_encoders_of_molecules_take_mixed_precision(make_encoder):
    encoder = make_encoder(node_features=[5, 2], edge_features=[3, 4], num_hidden=8)
    expected = encoder(molecule_like())
    with torch.autocast("cpu", torch.bfloat16):
        close(encoder(molecule_like()).float(), expected, 0.05)


def test_errors_say_what_to_do():
    batch = make()
    with pytest.raises(ValueError, match="edge_type is None; give every edge a type"):
        RGCN(6, 5, num_relations=2)(batch.adjacency, batch.x)
    typed = batch.with_features(edge_type=torch.full((batch.num_edges,), 3))
    with pytest.raises(ValueError, match="edge_type reaches 3, expected less than num_relations = 2"):
        RGCN(6, 5, num_relations=2)(typed.adjacency, batch.x)
    with pytest.raises(ValueError, match="edge_attr is None"):
        GINE(6, 5, edge_features=2)(batch.adjacency, batch.x)
    with pytest.raises(ValueError, match="PNA takes no edge weights"):
        PNA(6, 5)(batch.with_features(edge_weight=torch.ones(batch.num_edges)).adjacency, batch.x)
    with pytest.raises(ValueError, match="num_out = 5 is not divisible by num_heads = 2"):
        GAT(6, 5, num_heads=2)
    with pytest.raises(ValueError, match="aggregator 'median'"):
        GraphLayer(6, 5, aggregate="median")
