"""The losses where numbers are extreme: rows without direction, 16 bits, squares beyond float32."""

import itertools

import pytest
import torch
from loss_cases import dense, views

from contrastive import losses
from contrastive.losses import (
    HardNegativeInfoNCE,
    hard_negative_info_nce,
    info_nce,
)

pytestmark = pytest.mark.usefixtures("small_tiles")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.5, 5.0])
@pytest.mark.parametrize("kind", ["identical", "opposite", "zero", "one zero"])
def test_degenerate_rows(kind, temperature, dtype):
    z0, z1 = (z.detach().to(dtype) for z in views(9))
    if kind == "identical":
        z0 = z1 = z0[:1].expand(9, -1)
    elif kind == "opposite":
        z1 = -z0
    elif kind == "zero":
        z0, z1 = torch.zeros_like(z0), torch.zeros_like(z1)
    else:
        z0[3] = 0
    z0, z1 = z0.clone().requires_grad_(), z1.clone().requires_grad_()
    for tau_plus, beta in itertools.product([0.0, 0.1, 0.3], [0.0, 1.0, 10.0]):
        rows = hard_negative_info_nce(
            z0, z1, temperature=temperature, tau_plus=tau_plus, beta=beta, reduction="none"
        )
        oracle = dense(z0, z1, torch.tensor(temperature, dtype=torch.float64), tau_plus, beta)
        tolerance = 1e-10 if dtype == torch.float64 else 1e-5 * max(1, (1 + beta) / temperature)
        torch.testing.assert_close(rows.double(), oracle, rtol=tolerance, atol=tolerance)
        gradients = torch.autograd.grad(rows.mean(), [z0, z1])
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert not gradients[0][(z0 == 0).all(1)].any()  # a zero row has no direction to move in


def test_half_precision_with_large_norms():
    z0, z1 = (1e4 * z.detach() for z in views(9, dtype=torch.float16))
    z0[0], z1[1] = 60000, 6e-8  # the largest and the smallest numbers there are
    rows = hard_negative_info_nce(z0, z1, temperature=0.05, reduction="none")
    assert rows.dtype == torch.float32
    oracle = dense(z0, z1, torch.tensor(0.05, dtype=torch.float64), 0.1, 1.0)
    torch.testing.assert_close(rows.double(), oracle, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1e-38, 1e-20, 1e20, 1e37])
def test_lengths_whose_squares_leave_float32(length):
    z0, z1 = views(9, dtype=torch.float32)
    expected = info_nce(z0, z1)
    torch.testing.assert_close(info_nce(z0 * length, z1 * length), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_float32(dtype):
    z0, z1 = views(9, dtype=dtype)
    expected = hard_negative_info_nce(z0.float(), z1.float())
    expected_gradient = torch.autograd.grad(expected, z0)[0]
    with torch.autocast("cpu", dtype=dtype):
        loss = hard_negative_info_nce(z0, z1)
        gradient = torch.autograd.grad(loss, z0)[0]
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected) and torch.equal(gradient, expected_gradient)


def test_surrounding_model_compiles():
    torch.manual_seed(0)
    model, loss = torch.nn.Linear(6, 4), HardNegativeInfoNCE()

    def step(x0, x1):
        return loss(model(x0), model(x1))

    x0, x1 = (x.detach() for x in views(9, dtype=torch.float32))
    expected = torch.autograd.grad(step(x0, x1), model.weight)[0]
    gradient = torch.autograd.grad(torch.compile(step, backend="aot_eager")(x0, x1), model.weight)[0]
    torch.testing.assert_close(gradient, expected)


def test_not_a_number_stays_visible():
    z0, z1 = views(5)
    assert losses.info_nce(z0 * torch.nan, z1).isnan()
    broken = views(3)[0].detach()
    broken[1, 2] = torch.nan
    for beta in (0.0, 1.0):  # the floor is no refuge from a negative that is no number
        rows = hard_negative_info_nce(z0, z1, beta=beta, negatives=broken, reduction="none")
        assert rows.isnan().all()
    with pytest.raises(ValueError, match="beta must be at least 0, but is nan"):
        hard_negative_info_nce(z0, z1, beta=float("nan"))
