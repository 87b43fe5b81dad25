import pytest
import torch

from encoders import message_passing as mp
from encoders.adjacency import Adjacency
from encoders.message_passing import aggregate, aggregate_edges, edge_softmax, gather_dst, gather_src


def gradcheck(function, inputs):
    return torch.autograd.gradcheck(function, inputs, fast_mode=True)


def make(num_src=5, num_dst=6, num_edges=14, seed=0, **attributes):
    """Random edges; destination 2 is isolated; some edges are parallel."""
    generator = torch.Generator().manual_seed(seed)
    dst = torch.randint(max(num_dst, 1), (num_edges,), generator=generator)
    dst = torch.where(dst == 2, 0, dst).sort().values
    src = torch.randint(max(num_src, 1), (num_edges,), generator=generator)
    return Adjacency(src, dst, num_src, num_dst, **attributes)


def loop(adjacency, messages, reduce):
    """The definition: collect the messages of each destination, reduce them."""
    rows = []
    for v in range(adjacency.num_dst):
        received = messages[adjacency.dst == v]
        if not len(received):
            rows.append(torch.zeros_like(messages[0]))
        elif reduce in ("sum", "mean"):
            rows.append(getattr(received, reduce)(0))
        else:
            rows.append(getattr(received, f"a{reduce}")(0))
    return torch.stack(rows)


SHAPES = [(5, 6, 14), (6, 6, 14), (4, 3, 1)]


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("width", [(3,), (2, 3)])
def test_aggregate_is_its_definition(kernels, reduce, shape, width):
    adjacency = make(*shape)
    x = torch.randn(shape[0], *width, dtype=torch.float64, requires_grad=True)
    out = aggregate(adjacency, x, reduce)
    torch.testing.assert_close(out, loop(adjacency, x[adjacency.src], reduce))
    assert gradcheck(lambda x: aggregate(adjacency, x, reduce), x)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("heads", [None, 2])
def test_weighted(kernels, reduce, shape, heads):
    adjacency = make(*shape)
    width = (3,) if heads is None else (heads, 3)
    x = torch.randn(shape[0], *width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(shape[2], *width[:-1], dtype=torch.float64, requires_grad=True)
    out = aggregate(adjacency, x, reduce, weight)
    torch.testing.assert_close(out, loop(adjacency, x[adjacency.src] * weight.unsqueeze(-1), reduce))
    assert gradcheck(lambda x, w: aggregate(adjacency, x, reduce, w), (x, weight))


@pytest.mark.parametrize("heads", [None, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_sum_with_a_share_of_ones_own(kernels, weighted, heads):
    adjacency = make(6, 6)
    width = (3,) if heads is None else (heads, 3)
    x = torch.randn(6, *width, dtype=torch.float64, requires_grad=True)
    own = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(14, *width[:-1], dtype=torch.float64, requires_grad=True) if weighted else None
    messages = x[adjacency.src] * weight.unsqueeze(-1) if weighted else x[adjacency.src]
    expected = loop(adjacency, messages, "sum") + own * x
    torch.testing.assert_close(aggregate(adjacency, x, "sum", weight, own), expected)
    inputs = (x, own, weight) if weighted else (x, own)
    assert gradcheck(lambda x, o, w=None: aggregate(adjacency, x, "sum", w, o), inputs)
    constant = x.detach()  # as what a first layer is given
    gradient = torch.autograd.grad(aggregate(adjacency, constant, "sum", weight, own).sin().sum(), own)[0]
    torch.testing.assert_close(gradient, (expected.cos() * x).sum())
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.1)):
        short = [t.detach().to(dtype).requires_grad_() for t in (x, *inputs[2:])]
        share = own.detach().float().requires_grad_()
        out = aggregate(adjacency, short[0], "sum", *([None], short[1:])[weighted], own=share)
        assert out.dtype == dtype
        ours = [out, *torch.autograd.grad(out.sum(), [short[0], share])]
        truth = [expected, *torch.autograd.grad(expected.sum(), [x, own], retain_graph=True)]
        for a, b in zip(ours, truth):
            torch.testing.assert_close(a.double(), b, atol=tolerance, rtol=tolerance)
    with pytest.raises(ValueError, match="reduce='mean' takes no own"):
        aggregate(adjacency, x, "mean", own=own)


@pytest.mark.parametrize("heads", [None, 2])
def test_second_derivatives_of_sums(kernels, heads):
    torch.manual_seed(0)
    adjacency = make(6, 6)
    width = (3,) if heads is None else (heads, 3)
    x, weight = torch.randn(6, *width).double(), torch.randn(14, *width[:-1]).double()
    own = torch.tensor(1.7, dtype=torch.float64)

    def second(summed, *inputs):
        inputs = [t.requires_grad_() for t in inputs]
        first = torch.autograd.grad(summed(*inputs).pow(3).sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in first), inputs)

    def dense(x, own, weight):
        return torch.zeros_like(x).index_add(0, adjacency.dst, x[adjacency.src] * weight[..., None]) + own * x

    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        summed = [t.to(dtype) for t in (x, own, weight)]
        ours = second(lambda x, o, w: aggregate(adjacency, x, "sum", w, o), *summed)
        for a, b in zip(ours, second(dense, x, own, weight)):
            assert (a.double() - b).norm() <= tolerance * b.norm()
    inputs = [t.detach().requires_grad_() for t in (x, weight)]
    assert torch.autograd.gradgradcheck(lambda x, w: aggregate(adjacency, x, "mean", w), inputs)


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min"])
def test_edge_messages(kernels, reduce):
    adjacency = make()
    messages = torch.randn(14, 2, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(
        aggregate_edges(adjacency, messages, reduce), loop(adjacency, messages, reduce)
    )
    assert gradcheck(lambda m: aggregate_edges(adjacency, m, reduce), messages)


def test_gather(kernels):
    adjacency = make()
    x, y = (torch.randn(n, 2, dtype=torch.float64, requires_grad=True) for n in (5, 6))
    assert torch.equal(gather_src(adjacency, x), x[adjacency.src])
    assert torch.equal(gather_dst(adjacency, y), y[adjacency.dst])
    assert gradcheck(lambda x, y: gather_src(adjacency, x) * gather_dst(adjacency, y), (x, y))


@pytest.mark.parametrize("shape", [(14,), (14, 2)])
def test_edge_softmax(kernels, shape):
    adjacency = make()
    scores = (100 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    expected = torch.cat([scores[adjacency.dst == v].softmax(0) for v in range(6)])
    torch.testing.assert_close(edge_softmax(adjacency, scores), expected)
    scores = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s: edge_softmax(adjacency, s), scores)


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize("sizes", [(3, 3, 0), (0, 0, 0), (0, 2, 0)])
def test_no_edges_and_no_nodes(kernels, reduce, sizes):
    adjacency = make(*sizes)
    x = torch.randn(sizes[0], 4, requires_grad=True)
    out = aggregate(adjacency, x, reduce)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(sizes[1], 4)) and torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min"])
def test_the_numbers_are_dgls(kernels, reduce, dtype):
    dgl = pytest.importorskip("dgl")
    adjacency = make(50, 50, 400)
    graph = dgl.graph((adjacency.src, adjacency.dst), num_nodes=50)
    x = torch.randn(50, 16, dtype=dtype, requires_grad=True)
    ours = aggregate(adjacency, x, reduce)
    theirs = getattr(dgl.ops, f"copy_u_{reduce}")(graph, x)
    theirs = theirs.masked_fill(theirs.isinf(), 0)
    upstream = torch.randn(50, 16, dtype=dtype)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(out, x, upstream)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", [None, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_float32_has_a_kernel_of_its_own(weighted, heads):
    adjacency = make(50, 40, 400)
    x, weight = (
        torch.randn(50, *([heads] if heads else []), 16),
        torch.randn(400, *([heads] if heads else [])),
    )
    results = []
    for dtype in (torch.float32, torch.float64):
        inputs = [x.to(dtype).requires_grad_()]
        if weighted:
            inputs.append(weight.to(dtype).requires_grad_())
        out = aggregate(adjacency, inputs[0], "sum", *inputs[1:])
        gradients = torch.autograd.grad(out.sin().sum(), inputs)
        results.append([tensor.double() for tensor in (out, *gradients)])
    for ours, truth in zip(*results):
        torch.testing.assert_close(ours, truth, atol=1e-5, rtol=1e-5)


def test_edges_by_source():
    adjacency = make(50, 40, 400)
    indptr, order, dst = adjacency.by_src
    assert torch.equal(order, adjacency.src.argsort(stable=True))
    assert torch.equal(dst, adjacency.dst[order])
    assert torch.equal(indptr.diff(), adjacency.src.bincount(minlength=50))


def test_a_tie_has_one_winner(kernels):
    adjacency = Adjacency(torch.tensor([0, 1]), torch.tensor([0, 0]), 2, 1)
    x = torch.ones(2, 1, requires_grad=True)
    aggregate(adjacency, x, "max").sum().backward()
    assert x.grad.flatten().tolist() == [1.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(kernels, dtype):
    adjacency = Adjacency(torch.zeros(300, dtype=torch.int64), torch.zeros(300, dtype=torch.int64), 1, 1)
    x = torch.ones(1, 1, dtype=dtype, requires_grad=True)
    out = aggregate(adjacency, x)
    out.sum().backward()
    # 256 + 1 = 256 in bfloat16: a running sum in it would stop there.
    assert out.dtype == dtype and out.item() == 300 and x.grad.item() == 300


def test_a_weighted_maximum_is_refused():
    adjacency = make()
    with pytest.raises(ValueError, match="reduce='max' takes no weight"):
        aggregate(adjacency, torch.ones(5, 1), "max", torch.ones(14))


def test_relations_hold_every_edge_once():
    types = torch.tensor([2, 0, 2, 5, 0, 0, 2, 5, 5, 2, 0, 2, 2, 0])
    adjacency = make(type=types)
    found = []
    for relation, (nodes, edges, part) in adjacency.relations.items():
        assert types[edges].eq(relation).all() and torch.equal(adjacency.src[edges], part.src)
        found += [(relation, u, int(nodes[v])) for u, v in zip(part.src.tolist(), part.dst.tolist())]
    expected = zip(types.tolist(), adjacency.src.tolist(), adjacency.dst.tolist())
    assert sorted(found) == sorted(expected)
    same = [((types == t) & (adjacency.dst == v)).sum().item() for t, v in zip(types, adjacency.dst)]
    assert adjacency.edges_of_same_type.tolist() == same


def test_dgl_is_switched_off_by_the_environment(monkeypatch):
    monkeypatch.setenv("CONTRASTIVE_DGL", "0")
    assert mp.load_dgl.__wrapped__() is None


@pytest.mark.parametrize("reduce", ["add", "amax", None])
def test_another_name_is_no_mean(reduce):
    adjacency = make()
    with pytest.raises(ValueError, match="expected sum, mean, max or min"):
        aggregate(adjacency, torch.rand(adjacency.num_src, 2), reduce)
    with pytest.raises(ValueError, match="expected sum, mean, max or min"):
        aggregate_edges(adjacency, torch.rand(adjacency.num_edges, 2), reduce)
