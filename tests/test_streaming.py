"""The tile kernel against the whole matrix in float64."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from contrastive import streaming
from contrastive.losses import hard_negative_info_nce
from contrastive.streaming import cross_logsumexp, paired_logsumexp, self_logsumexp

# N and M that the tiles divide, leave one row over, or exceed
SHAPES = [(16, 24), (17, 9), (5, 3)]


@pytest.fixture(autouse=True, params=["plain sums", "plain sums, few tiles kept", "running maximum"])
def both_ways_to_sum(request, monkeypatch):
    monkeypatch.setattr(streaming, "TILE", 8)
    monkeypatch.setattr(streaming, "LARGEST_EXPONENT", 0.0 if request.param == "running maximum" else 50.0)
    if "few" in request.param:
        monkeypatch.setattr(streaming, "KEPT_BYTES", 2000)  # 512 a tile and exponent


def unit_rows(num_rows, seed):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(num_rows, 6, generator=generator, dtype=torch.float64)
    return (z / z.norm(dim=1, keepdim=True)).requires_grad_()


def dense(q, k, scale, beta=0.0, excluded=()):
    """``(E, M)`` from the matrix with −∞ at the offsets j − i left out."""
    x = scale * q @ k.T
    offset = torch.arange(len(k)) - torch.arange(len(q))[:, None]
    x = x.masked_fill(torch.isin(offset, torch.tensor(excluded, dtype=torch.long)), -torch.inf)
    exponents = (1.0,) if beta == 0 else (1 + beta, beta)
    return torch.stack([(exponent * x).logsumexp(1) for exponent in exponents])


def assert_same(ours, expected, inputs):
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    weights = torch.sin(torch.arange(ours.numel(), dtype=torch.float64)).view(ours.shape)  # of either sign
    gradients = [torch.autograd.grad((out * weights).sum(), inputs) for out in (ours, expected)]
    for gradient, truth in zip(*gradients):
        torch.testing.assert_close(gradient, truth, rtol=1e-11, atol=1e-12)


def scale_of(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("num_rows", [2, 8, 9, 24, 27])
def test_self_logsumexp(num_rows, beta):
    z, scale = unit_rows(num_rows, 0), scale_of(4.0)
    for excluded in [(0,), (0, num_rows // 2), (0, 1, num_rows - 1)]:
        if num_rows == 2 and len(excluded) > 1:
            continue  # nothing would be left
        both_ways = [sign * offset for offset in excluded for sign in (1, -1)]
        ours = self_logsumexp(z, scale, beta=beta, excluded=excluded)
        assert_same(ours, dense(z, z, scale, beta, both_ways), (z, scale))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_cross_logsumexp(shape, beta):
    q, k, scale = unit_rows(shape[0], 0), unit_rows(shape[1], 1), scale_of(4.0)
    assert_same(cross_logsumexp(q, k, scale, beta=beta), dense(q, k, scale, beta), (q, k, scale))


@pytest.mark.parametrize(("shape", "excluded"), itertools.product(SHAPES, [(), (0,), (2, -1)]))
def test_paired_logsumexp(shape, excluded):
    q, k, scale = unit_rows(shape[0], 0), unit_rows(shape[1], 1), scale_of(4.0)
    ours = torch.cat(paired_logsumexp(q, k, scale, excluded=excluded), dim=1)
    mirrored = [-offset for offset in excluded]
    expected = torch.cat([dense(q, k, scale, 0.0, excluded), dense(k, q, scale, 0.0, mirrored)], dim=1)
    assert_same(ours, expected, (q, k, scale))


def test_one_direction_of_a_pair():
    q, k, scale = unit_rows(17, 0), unit_rows(9, 1), scale_of(4.0)
    for direction, expected in enumerate([dense(q, k, scale), dense(k, q, scale)]):
        assert_same(paired_logsumexp(q, k, scale)[direction], expected, (q, k, scale))


def test_constants_receive_no_gradient():
    q, k = unit_rows(17, 0), unit_rows(9, 1).detach()
    scale = torch.tensor(4.0, dtype=torch.float64)
    assert_same(cross_logsumexp(q, k, scale), dense(q, k, scale), (q,))


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_exponents_far_beyond_float32(scale):
    z = unit_rows(27, 0)
    beta = 10.0  # e^{1100} overflows even float64
    ours = self_logsumexp(z.float(), torch.tensor(scale), beta=beta)
    expected = dense(z, z, torch.tensor(scale), beta, (0,))
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-4)


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation's result had."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return result


def test_no_tensor_grows_as_the_square_of_the_batch():
    z0, z1 = (torch.randn(100, 4, requires_grad=True) for _ in range(2))
    with LargestTensor() as largest:
        hard_negative_info_nce(z0, z1, beta=0.5).backward()
    assert largest.elements <= 200 * 8  # a few numbers a row, of 200² in the matrix
