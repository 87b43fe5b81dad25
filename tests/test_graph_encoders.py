import pytest
import torch
from graph_cases import LAYERS, close, make, molecule_like
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from encoders import message_passing as mp
from encoders.graph import GraphEncoder, NodeEncoder
from encoders.graph_batch import GraphBatch
from encoders.graph_convolutions import Propagation


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def typed_and_encoder(layer, layer_args, edge_features):
    batch = molecule_like()
    encoder = GraphEncoder(
        node_features=[5, 2], edge_features=edge_features, num_hidden=8, layer=layer, layer_args=layer_args
    )
    return batch.with_features(edge_type=batch.edge_attr[:, 0]), encoder


@pytest.mark.parametrize(("layer", "layer_args", "edge_features"), LAYERS)
def test_a_graph_is_encoded_as_if_alone(kernels, layer, layer_args, edge_features):
    batch, encoder = typed_and_encoder(layer, layer_args, edge_features)
    encoder.eval()
    together, nodes = encoder(batch), encoder.nodes(batch)
    assert together.shape == (3, encoder.num_features) and nodes.shape == (17, encoder.num_node_features)
    close(together, torch.cat([encoder(graph) for graph in batch]))
    close(nodes, torch.cat([encoder.nodes(graph) for graph in batch]))


@pytest.mark.parametrize(
    ("layer", "layer_args", "edge_features"),
    [*LAYERS, ("rgcn", {"num_relations": 3}, None), ("pna", {}, None)],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_are_float32_but_for_rounding(kernels, layer, layer_args, edge_features, dtype):
    batch, encoder = typed_and_encoder(layer, layer_args, edge_features)
    with torch.autocast("cpu", dtype=dtype):
        h = encoder(batch)
    h.float().square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())
    expected = encoder(batch)
    assert (h - expected).norm() < 0.1 * expected.norm()


class NoFloat32(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        assert not any(getattr(t, "dtype", None) == torch.float32 for t in tree_leaves(made)), function
        return made


@pytest.mark.parametrize(("layer", "layer_args", "edge_features"), LAYERS)
def test_float64_is_rounded_to_float32_nowhere(kernels, layer, layer_args, edge_features):
    batch, encoder = typed_and_encoder(layer, layer_args, edge_features)
    encoder.double()
    with NoFloat32():
        encoder(batch).square().sum().backward()


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


@pytest.mark.parametrize("arguments", [{"num_layers": 0}, {"num_hidden": 0}])
def test_no_layers_and_no_width_are_refused(arguments):
    with pytest.raises(ValueError, match="both are 1 at least"):
        GraphEncoder(node_features=3, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "gim"}, "layer 'gim': expected gin, gine, gcn"),
        ({"layer": "gin", "edge_features": 4}, "layer gin takes no edge_features: set them to null"),
        ({"layer": "gine"}, "layer gine needs edge_features"),
        ({"layer": "rgcn"}, "layer rgcn needs layer_args {num_relations: R}"),
    ],
)
def test_a_layer_that_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        GraphEncoder(node_features=3, **arguments)


@pytest.mark.parametrize("x", [torch.ones(17, 5), torch.ones(17, 6).long()], ids=["width", "integers"])
def test_nodes_of_other_features_are_named(x):
    with pytest.raises(ValueError, match=r"features have shape \(17, .\) .* expected 6 columns of float"):
        GraphEncoder(node_features=6, layer="gcn")(make().with_features(x=x))


def test_graphs_of_other_libraries_are_told_how_to_come():
    for other in ([GraphBatch.from_edges([(0, 1)])], torch.ones(2, 1)):
        with pytest.raises(TypeError, match=f"takes a GraphBatch, not a {type(other).__name__}; .*from_pyg"):
            GraphEncoder(node_features=1, num_hidden=4)(other)


@pytest.mark.parametrize(
    "setting,known",
    [
        ({"jumping_knowledge": "cat"}, "last, concat, max or sum"),
        ({"activation": "gelu"}, "relu, prelu, elu"),
        ({"edge_features": "bond"}, "give atoms or bonds, a width"),
    ],
)
def test_a_name_that_is_not_known_is_no_other(setting, known):
    with pytest.raises(ValueError, match=f"{next(iter(setting.values()))}'[:;] .*{known}"):
        GraphEncoder(**{"node_features": 3, "layer": "gatv2", **setting})
