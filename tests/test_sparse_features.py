import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from augmentations.adaptive import AdaptiveFeatureMask
from augmentations.graph import Compose, EdgeDrop, FeatureDropout, FeatureMask, NodeDrop
from augmentations.random import SampleRandom
from encoders.graph import NodeEncoder
from encoders.graph_batch import GraphBatch
from encoders.sparse_features import SparseFeatures, linear


def sparse_matrix(num_rows, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(num_rows, width, generator=generator)
    return x * (torch.rand(num_rows, width, generator=generator) < 0.2)


def pair(num_nodes=30, width=12):
    """The same graph with dense and with sparse features."""
    generator = torch.Generator().manual_seed(1)
    edges = torch.randint(0, num_nodes, (80, 2), generator=generator)
    dense = GraphBatch.from_edges(edges, sparse_matrix(num_nodes, width), undirected=True)
    return dense, dense.with_features(x=SparseFeatures.from_dense(dense.x))


@given(st.integers(0, 20), st.integers(1, 9), st.integers(0, 99), st.data())
@settings(max_examples=60, deadline=None)
def test_behaves_as_the_dense_matrix(num_rows, width, seed, data):
    x = sparse_matrix(num_rows, width, seed)
    features = SparseFeatures.from_dense(x)
    assert features.shape == x.shape and len(features) == len(x) and torch.equal(features.dense(), x)
    row = st.integers(0, max(num_rows - 1, 0))
    rows = torch.tensor(data.draw(st.lists(row, max_size=6 * bool(num_rows)))).long()
    assert torch.equal(features[rows].dense(), x[rows])
    keep = torch.rand(num_rows) < 0.5
    assert torch.equal(features[keep].dense(), x[keep])
    for factor in (torch.rand(num_rows, 1), torch.rand(1, width), torch.rand(num_rows, width)):
        assert torch.allclose((features * factor).dense(), x * factor)
    assert torch.equal(SparseFeatures.cat([features, features * 2]).dense(), torch.cat([x, 2 * x]))


def test_linear_and_its_gradients_are_torchs(kernels):
    x = sparse_matrix(20, 7)
    ours, theirs = torch.nn.Linear(7, 5), torch.nn.Linear(7, 5)
    theirs.load_state_dict(ours.state_dict())
    out = linear(SparseFeatures.from_dense(x), ours.weight, ours.bias)
    torch.testing.assert_close(out, theirs(x))
    out.square().sum().backward()
    theirs(x).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


@pytest.mark.parametrize("width,num_out", [(3, 8), (1, 2), (5, 5), (9, 4)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_linear_of_few_dense_features_is_torchs(width, num_out, has_bias):
    torch.manual_seed(0)
    x, weight = torch.randn(20, width, requires_grad=True), torch.randn(num_out, width, requires_grad=True)
    inputs = [x, weight, torch.randn(num_out, requires_grad=True)][: 2 + has_bias]
    upstream = torch.randn(20, num_out)
    for ours, theirs in zip(
        torch.autograd.grad(linear(*inputs), inputs, upstream),
        torch.autograd.grad(torch.nn.functional.linear(*inputs), inputs, upstream),
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("num_rows", [0, 1, 64, 65, 700])
@pytest.mark.parametrize("num_out", [8, 40])
def test_linear_in_bfloat16_is_torchs_but_for_rounding(autocast, num_rows, num_out):
    torch.manual_seed(0)
    layer = nn.Linear(20, num_out).to(torch.float32 if autocast else torch.bfloat16)
    x = torch.randn(num_rows, 20, dtype=layer.weight.dtype, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        ours, theirs = linear(x, layer.weight, layer.bias), layer(x)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn_like(ours)
    leaves = (x, layer.weight, layer.bias)
    gradients = [torch.autograd.grad(out, leaves, upstream) for out in (ours, theirs)]
    for gradient, expected in zip(*gradients):
        torch.testing.assert_close(gradient, expected, rtol=0.02, atol=0.02 * num_rows**0.5)


class Sizes(TorchDispatchMode):
    """Notes the shapes of the factors of all products."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            self.seen.add(tuple(tuple(arg.shape) for arg in args if arg.ndim == 2))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("dtype", "num_sizes"), [(torch.bfloat16, 6), (torch.float32, 300)])
def test_linear_in_bfloat16_multiplies_matrices_of_few_sizes(dtype, num_sizes):
    """Three products a size, forward and backward."""
    layer, sizes = nn.Linear(4, 6), Sizes()
    with sizes:
        for num_rows in range(1000, 1300):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                out = linear(torch.ones(num_rows, 4, requires_grad=True), layer.weight, layer.bias)
            out.float().sum().backward()
    assert len(sizes.seen) == 3 * num_sizes


@pytest.mark.parametrize("arguments", [{"layer": "gcn"}, {"layer": "sage", "input_layer": True}], ids=str)
def test_an_encoder_sees_no_difference(arguments, kernels):
    dense, sparse = pair()
    encoder = NodeEncoder(node_features=12, num_hidden=8, num_layers=2, **arguments).eval()
    torch.testing.assert_close(encoder(sparse), encoder(dense))
    both = GraphBatch.concatenate([sparse, sparse.with_features(x=sparse.x * 2.0)])
    twice = GraphBatch.concatenate([dense, dense.with_features(x=dense.x * 2.0)])
    torch.testing.assert_close(encoder(both), encoder(twice))


def test_a_wider_layer_takes_sparse_features_too():
    dense, sparse = pair()
    encoder = NodeEncoder(node_features=12, num_hidden=40, num_layers=1, layer="gcn").eval()
    torch.testing.assert_close(encoder(sparse), encoder(dense))


@pytest.mark.parametrize(
    "augmentation",
    [FeatureMask(p=0.5), AdaptiveFeatureMask(p=0.4), NodeDrop(p=0.5, remove=False), NodeDrop()],
)
def test_augmentations_draw_the_same(augmentation):
    dense, sparse = pair()
    random = lambda: SampleRandom(torch.tensor([3]), seed=1)  # noqa: E731
    torch.testing.assert_close(augmentation(sparse, random()).x.dense(), augmentation(dense, random()).x)


def test_views_share_the_structure_that_kernels_need():
    _, sparse = pair()
    view = Compose(augmentations=[EdgeDrop(), FeatureMask()])
    views = [view(sparse), view(sparse)]
    assert views[0].x.structure is views[1].x.structure
    stacked = [GraphBatch.concatenate(views).x.structure for _ in range(2)]
    assert stacked[0] is stacked[1]


def test_dropout_of_entries_is_refused():
    with pytest.raises(ValueError, match="FeatureMask"):
        FeatureDropout()(pair()[1])


def test_pickles_without_its_kernels():
    _, sparse = pair()
    NodeEncoder(node_features=12, num_hidden=4, layer="gcn")(sparse)
    assert torch.equal(pickle.loads(pickle.dumps(sparse)).x.dense(), sparse.x.dense())
