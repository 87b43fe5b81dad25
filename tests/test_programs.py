"""Encoders as ONNX and torch.export programs, compared in onnxruntime and torch on batches of other sizes."""

import logging
import sys

import pytest
import torch

from contrastive import programs
from contrastive.building import build_module
from contrastive.errors import ContrastiveError
from contrastive.features import FrozenEncoder, default_preprocess
from encoders.graph_batch import GraphBatch
from encoders.molecules import ATOM_FEATURES, BOND_FEATURES
from encoders.sparse_features import SparseFeatures

onnxruntime = pytest.importorskip("onnxruntime")
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}
IMAGES = [
    ("encoders.image.SmallCNN", {"width": 4, "num_features": 16}, (1, 8, 8)),
    ("encoders.image.ResNet", {"width": 8, "stem": "imagenet"}, (3, 32, 32)),
    ("encoders.pretrained.TorchvisionEncoder", {"name": "resnet18", "in_channels": 1}, (1, 32, 32)),
]
GRAPHS = [
    {"layer": "gin", "readout": "sum", "node_features": 5},
    {"layer": "gcn", "readout": "mean", "node_features": 5},
    {"layer": "gat", "readout": "mean", "node_features": [3, 4], "jumping_knowledge": "concat"},
    {"layer": "gine", "readout": "max", "node_features": "atoms", "edge_features": "bonds"},
]


def frozen(class_path, arguments):
    """An encoder whose batch norms have seen something, as after training, with its configuration."""
    torch.manual_seed(0)
    spec = {"class_path": class_path, "init_args": arguments}
    encoder = build_module(spec)
    for norm in encoder.modules():
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            norm.running_mean.uniform_(-0.2, 0.2)
            norm.running_var.uniform_(0.5, 2)
    preprocess = default_preprocess(encoder)
    if arguments.get("width") == 4 or arguments.get("in_channels") == 1:
        preprocess = build_module(
            {"class_path": "augmentations.colour.Normalize", "init_args": {"mean": [0.5], "std": [0.5]}}
        )
    return FrozenEncoder(encoder, preprocess, {"model": {"encoder": spec}})


def graphs(arguments, num_nodes, num_edges, num_graphs):
    """Random graphs, some of them without nodes."""

    def features(width, count):
        if isinstance(width, int):
            return torch.randn(count, width)
        return torch.stack([torch.randint(0, categories, (count,)) for categories in width], dim=1)

    named = {"atoms": list(ATOM_FEATURES.values()), "bonds": list(BOND_FEATURES.values())}
    nodes, edges = (arguments.get(key) for key in ("node_features", "edge_features"))
    nodes, edges = (named[width] if isinstance(width, str) else width for width in (nodes, edges))
    bounds = torch.randint(0, num_nodes + 1, (num_graphs - 1,)).sort().values
    return GraphBatch(
        src=torch.randint(0, num_nodes, (num_edges,)),
        dst=torch.randint(0, num_nodes, (num_edges,)).sort().values,
        x=features(nodes, num_nodes),
        ptr=torch.cat([torch.tensor([0]), bounds, torch.tensor([num_nodes])]),
        edge_attr=None if edges is None else features(edges, num_edges),
    )


def in_onnxruntime(file, tensors):
    session = onnxruntime.InferenceSession(str(file))
    (features,) = session.run(None, {name: tensor.numpy() for name, tensor in tensors.items()})
    return torch.from_numpy(features)


@pytest.mark.parametrize("class_path,arguments,shape", IMAGES)
def test_a_program_of_images_takes_batches_of_any_size(class_path, arguments, shape, tmp_path):
    encoder = frozen(class_path, arguments)
    inputs = programs.example(encoder, shape[-1])
    programs.save_onnx(encoder, inputs, tmp_path / "e.onnx")
    for count in (1, 5):
        images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8)
        expected = encoder(images)
        torch.testing.assert_close(
            in_onnxruntime(tmp_path / "e.onnx", {"images": images}), expected, **TOLERANCE
        )


SIZES = ((30, 80, 6), (1, 0, 1), (4, 9, 1), (5, 3, 9))  # of nodes, edges and graphs


@pytest.mark.parametrize("arguments", GRAPHS)
def test_an_onnx_program_of_graphs_takes_batches_of_any_size(arguments, tmp_path):
    arguments = {"num_hidden": 8, "num_layers": 2, **arguments}
    encoder = frozen("encoders.graph.GraphEncoder", arguments)
    programs.save_onnx(encoder, programs.example(encoder), tmp_path / "e.onnx")
    for sizes in SIZES:
        batch = graphs(arguments, *sizes)
        features = in_onnxruntime(tmp_path / "e.onnx", programs.named(batch))
        torch.testing.assert_close(features, encoder(batch), **TOLERANCE)


@pytest.mark.parametrize("arguments", GRAPHS[:3])
def test_a_torch_program_of_graphs_is_saved_and_opened(arguments, tmp_path):
    arguments = {"num_hidden": 8, "num_layers": 2, **arguments}
    encoder = frozen("encoders.graph.GraphEncoder", arguments)
    programs.save_program(encoder, programs.example(encoder), tmp_path / "e.pt2")
    program = torch.export.load(tmp_path / "e.pt2").module()
    for sizes in SIZES:
        batch = graphs(arguments, *sizes)
        torch.testing.assert_close(program(**programs.named(batch)), encoder(batch), **TOLERANCE)


@pytest.mark.parametrize(
    "class_path,arguments",
    [
        ("encoders.graph.NodeEncoder", {"layer": "gatv2", "node_features": 5, "activation": "prelu"}),
        ("encoders.graph.GraphEncoder", {"layer": "pna", "node_features": 5, "readout": "attention"}),
        (
            "encoders.graph.GraphEncoder",
            {"layer": "gine", "node_features": [3, 4], "edge_features": [2], "share_equal_nodes": True},
        ),
        (
            "encoders.graph.GraphEncoder",
            {
                "layer": "custom",
                "layer_args": {"aggregate": ["mean", "min", "std", "attention"]},
                "node_features": 5,
                "input_layer": True,
                "readout": "virtual_node",
            },
        ),
    ],
)
def test_other_graph_encoders_are_recorded_too(class_path, arguments):
    arguments = {"num_hidden": 8, "num_layers": 2, **arguments}
    encoder = frozen(class_path, arguments)
    program = programs.trace(encoder, programs.example(encoder)).module()
    for sizes in ((30, 80, 6), (1, 0, 1)):
        batch = graphs(arguments, *sizes)
        torch.testing.assert_close(program(**programs.named(batch)), encoder(batch), **TOLERANCE)


def test_edge_weights_are_recorded_where_the_example_has_them():
    encoder = frozen("encoders.graph.GraphEncoder", {"layer": "gcn", "node_features": 5, "num_hidden": 8})
    inputs = graphs({"node_features": 5}, 9, 20, 3).with_features(edge_weight=torch.rand(20))
    program = programs.trace(encoder, inputs).module()
    batch = graphs({"node_features": 5}, 12, 40, 2).with_features(edge_weight=torch.rand(40))
    torch.testing.assert_close(program(**programs.named(batch)), encoder(batch), **TOLERANCE)


@pytest.mark.parametrize(
    "arguments",
    [
        {"readout": "set2set"},
        {"layer": "rgcn", "layer_args": {"num_relations": 3}},
        {"layer": "custom", "layer_args": {"combine": "gru"}},
    ],
)
def test_what_cannot_be_recorded_is_one_message(arguments, tmp_path):
    encoder = frozen("encoders.graph.GraphEncoder", {"node_features": 5, "num_hidden": 8, **arguments})
    with pytest.raises(
        ContrastiveError, match="GraphEncoder cannot be written as .*--format safetensors"
    ) as error:
        programs.save_onnx(encoder, programs.example(encoder), tmp_path / "e.onnx")
    assert "\n" not in str(error.value)


def test_what_onnx_has_no_operator_for_is_one_message(tmp_path):
    arguments = {"node_features": 5, "edge_features": 3, "num_hidden": 8}
    encoder = frozen("encoders.dmpnn.DMPNN", arguments)
    with pytest.raises(ContrastiveError, match="DMPNN cannot be written as"):
        programs.save_onnx(encoder, programs.example(encoder), tmp_path / "e.onnx")


def test_sparse_features_are_refused():
    encoder = frozen("encoders.graph.NodeEncoder", {"layer": "gcn", "node_features": 5, "num_hidden": 8})
    batch = graphs({"node_features": 5}, 9, 20, 1)
    sparse = batch.with_features(x=SparseFeatures.from_dense(batch.x))
    with pytest.raises(ContrastiveError, match="no SparseFeatures"):
        programs.trace(encoder, sparse)


def test_a_program_that_is_not_the_encoder_is_not_passed():
    encoder = frozen(*IMAGES[0][:2])
    with pytest.raises(ContrastiveError, match="differ by"):
        programs.check(encoder, programs.example(encoder, 8), lambda images: encoder(images) + 2e-4)
    assert programs.check(encoder, programs.example(encoder, 8), lambda images: encoder(images) + 5e-5) > 4e-5


def test_a_missing_onnx_is_named_with_its_command(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    encoder = frozen(*IMAGES[0][:2])
    with pytest.raises(ContrastiveError, match=r"pip install 'contrastive-pretraining\[onnx\]'"):
        programs.save_onnx(encoder, programs.example(encoder, 8), tmp_path / "e.onnx")


def test_a_size_that_is_not_known_is_asked_for():
    with pytest.raises(ContrastiveError, match="give --image-size"):
        programs.example(frozen(*IMAGES[0][:2]))


def test_what_the_caller_does_not_log_stays_so(tmp_path):
    class_path, init_args, shape = IMAGES[0]
    encoder = build_module({"class_path": class_path, "init_args": init_args})
    frozen = FrozenEncoder(encoder, torch.nn.Identity())
    logging.disable(logging.WARNING)
    try:
        programs.save_program(frozen, torch.rand(2, *shape), tmp_path / "encoder.pt2")
        assert logging.root.manager.disable == logging.WARNING
    finally:
        logging.disable(logging.NOTSET)
