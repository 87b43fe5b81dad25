"""CCA-SSG's loss against its formula, written out in float64, and what it does to a linear encoder."""

import pytest
import torch
from torch.nn import functional as F

from contrastive.correlation_losses import CCASSG, cca_ssg


def views(batch_size=9, width=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    z0, noise = torch.randn(2, batch_size, width, generator=generator, dtype=torch.float64)
    return [(3 * z + 2).to(dtype).requires_grad_() for z in (z0, z0 + 0.5 * noise)]


def dense(z0, z1, decorrelation):
    """The paper's equation (4), of columns with mean 0 and length 1."""
    z0, z1 = (F.normalize(z.double() - z.double().mean(0), dim=0) for z in (z0, z1))
    identity = torch.eye(z0.shape[1], dtype=torch.float64)
    correlated = [torch.linalg.norm(z.T @ z - identity) ** 2 for z in (z0, z1)]
    return torch.linalg.norm(z0 - z1) ** 2 + decorrelation * sum(correlated)


@pytest.mark.parametrize("decorrelation", [0.0, 1e-3, 0.5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_it_is_the_papers_formula(decorrelation, dtype, tolerance):
    inputs = views(dtype=dtype)
    ours, oracle = cca_ssg(*inputs, decorrelation=decorrelation), dense(*inputs, decorrelation)
    torch.testing.assert_close(ours.double(), oracle, rtol=tolerance, atol=0)
    for gradient, truth in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(oracle, inputs)):
        assert (gradient.double() - truth).norm() <= 10 * tolerance * truth.norm()


@pytest.mark.parametrize("batch_size", [2, 9])
def test_gradcheck(batch_size):
    assert torch.autograd.gradcheck(lambda *z: cca_ssg(*z, decorrelation=0.5), views(batch_size, width=3))


def test_whitened_views_that_agree_have_no_loss():
    q, _ = torch.linalg.qr(views()[0].detach() - views()[0].detach().mean(0))
    torch.testing.assert_close(cca_ssg(q, 7 * q - 1, decorrelation=1.0), q.new_zeros(()), rtol=0, atol=1e-12)


def test_units_and_origin_do_not_matter():
    z0, z1 = views()
    moved = [z * torch.tensor([1e-3, 1.0, 5.0, 1e4]) + torch.arange(4) for z in (z0, z1)]
    torch.testing.assert_close(cca_ssg(*moved), cca_ssg(z0, z1), rtol=1e-10, atol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_a_column_that_does_not_vary_counts_as_zeros(value):
    z0, z1 = (z.detach().float() for z in views())
    z0[:, 1] = z1[:, 1] = z1[:, 2] = value
    z0.requires_grad_(), z1.requires_grad_()
    loss = cca_ssg(z0, z1, decorrelation=0.5)
    others = [0, 2, 3]
    zeroed = z1[:, others] * torch.tensor([1, 0, 1])
    torch.testing.assert_close(loss.double(), dense(z0[:, others], zeroed, 0.5) + 1.0, rtol=1e-5, atol=0)
    gradients = torch.autograd.grad(loss, [z0, z1])
    assert all(gradient.isfinite().all() for gradient in gradients) and not gradients[0][:, 1].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_float32(dtype):
    z0, z1 = views(dtype=dtype)
    expected = cca_ssg(z0.float(), z1.float())
    with torch.autocast("cpu", dtype=dtype):
        loss = cca_ssg(z0, z1)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)


def test_a_linear_encoder_finds_what_the_views_share():
    """Two views share two of five dimensions: the loss finds their plane, and does not collapse to a line."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(500, 2, generator=generator)
    x0, x1 = (torch.cat([shared, torch.randn(500, 3, generator=generator)], dim=1) for _ in range(2))
    weight = torch.randn(5, 2, generator=generator).requires_grad_()
    optimizer, loss = torch.optim.Adam([weight], lr=0.05), CCASSG(decorrelation=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss(x0 @ weight, x1 @ weight).backward()
        optimizer.step()
    directions = F.normalize(weight.detach(), dim=0)
    assert directions[2:].abs().max() < 0.15
    assert abs(directions[:, 0] @ directions[:, 1]) < 0.15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cca_ssg(torch.ones(3, 2), torch.ones(2, 2)), r"\(3, 2\).*\(2, 2\)"),
        (lambda: cca_ssg(torch.ones(1, 2), torch.ones(1, 2)), "batch of 1 .* 2 or more"),
        (lambda: cca_ssg(torch.ones(3, 2).long(), torch.ones(3, 2).long()), "int64"),
        (lambda: cca_ssg(*views(), decorrelation=-1.0), "-1.0"),
        (lambda: cca_ssg(*views(), decorrelation=float("nan")), "nan"),
    ],
)
def test_errors_say_what_was_given(call, message):
    with pytest.raises(ValueError, match=message):
        call()
