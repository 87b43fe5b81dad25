"""The losses against dense float64 autograd, written here from the papers' formulas."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import assert_equal, dense, views
from torch.nn import functional as F

from contrastive.losses import (
    CrossModalInfoNCE,
    DebiasedInfoNCE,
    DecoupledInfoNCE,
    HardNegativeInfoNCE,
    InfoNCE,
    cross_modal_info_nce,
    debiased_info_nce,
    decoupled_info_nce,
    hard_negative_info_nce,
    info_nce,
    queue_info_nce,
    supervised_info_nce,
)

pytestmark = pytest.mark.usefixtures("small_tiles")


CASES = list(itertools.product([0.01, 0.05, 0.1, 0.5, 5.0], [0.0, 0.1, 0.3]))


@pytest.mark.parametrize(("temperature", "tau_plus"), CASES)
def test_float64_equals_dense_autograd(temperature, tau_plus):
    for beta, batch_size, noise in itertools.product([0.0, 0.5, 1.0, 10.0], [2, 3, 17], [None, 0.3]):
        inputs = (
            *views(batch_size, noise=noise),
            torch.tensor(temperature, dtype=torch.float64, requires_grad=True),
        )
        ours = hard_negative_info_nce(
            *inputs[:2], temperature=inputs[2], tau_plus=tau_plus, beta=beta, reduction="none"
        )
        assert_equal(ours, dense(*inputs, tau_plus, beta), inputs, inputs, 1e-10)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 5.0])
@pytest.mark.parametrize(("tau_plus", "beta"), [(0.0, 0.0), (0.1, 0.0), (0.0, 1.0), (0.1, 1.0), (0.3, 2.5)])
def test_float32_equals_dense_autograd(temperature, tau_plus, beta):
    inputs = views(33, dtype=torch.float32)
    ours = hard_negative_info_nce(
        *inputs, temperature=temperature, tau_plus=tau_plus, beta=beta, reduction="none"
    )
    doubles = [z.detach().double().requires_grad_() for z in inputs]
    oracle = dense(*doubles, torch.tensor(temperature, dtype=torch.float64), tau_plus, beta)
    assert_equal(ours, oracle, inputs, doubles, 1e-5)


@pytest.mark.parametrize("beta", [0.0, 1.0, 10.0])
def test_float32_at_the_smallest_temperature(beta):
    """x_ij = 100 cos carries 100 roundings of float32: the loss keeps 1e-5, the gradient what that leaves."""
    inputs = views(33, dtype=torch.float32)
    ours = hard_negative_info_nce(*inputs, temperature=0.01, tau_plus=0.0, beta=beta, reduction="none")
    doubles = [z.detach().double().requires_grad_() for z in inputs]
    oracle = dense(*doubles, torch.tensor(0.01, dtype=torch.float64), 0.0, beta)
    torch.testing.assert_close(ours.double(), oracle, rtol=1e-5, atol=1e-4)
    for gradient, truth in zip(
        torch.autograd.grad(ours.sum(), inputs), torch.autograd.grad(oracle.sum(), doubles)
    ):
        assert (gradient - truth).norm() <= 1e-5 * (1 + beta) * 10 * truth.norm()


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_special_cases_are_equal(temperature):
    z0, z1 = views(17)
    options = {"temperature": temperature, "reduction": "none"}
    torch.testing.assert_close(
        hard_negative_info_nce(z0, z1, tau_plus=0.1, beta=0.0, **options),
        debiased_info_nce(z0, z1, tau_plus=0.1, **options),
        rtol=1e-14,
        atol=0,
    )
    torch.testing.assert_close(
        hard_negative_info_nce(z0, z1, tau_plus=0.0, beta=0.0, **options),
        info_nce(z0, z1, **options),
        rtol=1e-14,
        atol=0,
    )


LOSSES = {
    "info_nce": info_nce,
    "debiased": debiased_info_nce,
    "hard_negative": hard_negative_info_nce,
    "decoupled": decoupled_info_nce,
    "cross_modal": cross_modal_info_nce,
    "supervised": lambda z0, z1, **options: supervised_info_nce(
        z0, z1, torch.arange(len(z0)) // 2, **options
    ),
    "supervised_across": lambda z0, z1, **options: supervised_info_nce(
        z0, z1, torch.arange(len(z0)) // 2, positives="across", **options
    ),
    "queue": lambda z0, z1, **options: queue_info_nce(z0, z1, torch.eye(6)[:5], **options),
    "extra_negatives": lambda z0, z1, **options: hard_negative_info_nce(
        z0, z1, negatives=torch.eye(6)[:5], **options
    ),
}


@pytest.mark.parametrize("temperature", [0.01, 0.5])
@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name, temperature):
    t = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z0, z1, t: LOSSES[name](z0, z1, temperature=t, reduction="none"),
        (*views(5, noise=2.0), t),
        eps=1e-7,
    )


@pytest.mark.parametrize("name", LOSSES)
def test_a_second_derivative_is_refused(name):
    z0, z1 = views(9)
    with pytest.raises(NotImplementedError, match="contrastive losses have no second derivative"):
        torch.autograd.grad(LOSSES[name](z0, z1), z0, create_graph=True)
    t = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    rows = LOSSES[name](z0.detach(), z1.detach(), temperature=t)
    with pytest.raises(NotImplementedError, match="contrastive losses have no second derivative"):
        torch.autograd.grad(rows, t, create_graph=True)


@pytest.mark.parametrize("name", LOSSES)
def test_mean_of_rows(name):
    z0, z1 = views(5)
    rows = LOSSES[name](z0, z1, reduction="none")
    assert rows.shape == ((5,) if name == "queue" else (10,))
    torch.testing.assert_close(LOSSES[name](z0, z1), rows.mean())


@settings(max_examples=20, deadline=None)
@given(batch_size=st.integers(2, 30), seed=st.integers(0, 2**31), temperature=st.floats(0.01, 5))
def test_order_length_and_side_do_not_matter(batch_size, seed, temperature):
    z0, z1 = views(batch_size, seed=seed)
    order = torch.randperm(batch_size, generator=torch.Generator().manual_seed(seed))
    loss = hard_negative_info_nce(z0, z1, temperature=temperature)
    moved = hard_negative_info_nce(3 * z1[order], z0[order], temperature=temperature)
    torch.testing.assert_close(moved, loss, rtol=1e-9, atol=1e-12)


# the floor


def test_floored_rows_are_counted_and_warned_about_once():
    z0, z1 = views(40, width=64, noise=0.01)
    loss = HardNegativeInfoNCE(temperature=0.1, tau_plus=0.1)
    with pytest.warns(UserWarning, match="lower tau_plus"):
        loss(z0, z1)
    assert (
        loss.metrics["floored_fraction"] == 1
    )  # the trap: at t = 0.1 and τ⁺ = 0.1 every aligned row is floored
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(101):
            loss(z0, z1)


def test_counting_steps_does_not_compile_anew():
    loss = torch.compile(HardNegativeInfoNCE(), backend="eager")
    loss(*views(8))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            loss(*views(8))


def test_floored_fraction_is_that_of_the_formula():
    z0, z1 = views(40, noise=0.5)
    t, tau_plus = 0.25, 0.1
    z = F.normalize(torch.cat([z0, z1]), dim=1)
    exponentials = torch.exp(z @ z.T / t)
    positive = exponentials.diagonal(40).repeat(2)
    negatives = exponentials.sum(1) - exponentials.diagonal() - positive
    estimate = (negatives - tau_plus * 78 * positive) / (1 - tau_plus)
    expected = (estimate <= 78 * math.exp(-1 / t)).double().mean()
    assert 0 < expected < 1
    loss = DebiasedInfoNCE(temperature=t, tau_plus=tau_plus)
    loss(z0, z1)
    assert loss.metrics["floored_fraction"] == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (InfoNCE(temperature=0.3), lambda *z: info_nce(*z, temperature=0.3)),
        (DebiasedInfoNCE(tau_plus=0.05), lambda *z: debiased_info_nce(*z, tau_plus=0.05)),
        (HardNegativeInfoNCE(beta=2.0), lambda *z: hard_negative_info_nce(*z, beta=2.0)),
        (DecoupledInfoNCE(), decoupled_info_nce),
        (CrossModalInfoNCE(), cross_modal_info_nce),
    ],
)
def test_modules_are_their_functions(module, function):
    torch.testing.assert_close(module(*views(7)), function(*views(7)), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: info_nce(z[:1], z[:1]), "batch of 1 is compared.* 2 or more"),
        (lambda z: info_nce(z, z[:2]), r"\(3, 6\) .* and \(2, 6\)"),
        (lambda z: info_nce(z.long(), z.long()), "int64"),
        (lambda z: info_nce(z, z, temperature=0.0), "temperature must be positive"),
        (lambda z: info_nce(z, z, temperature=np.float32(-0.5)), "temperature must be positive, but is -0.5"),
        (lambda z: info_nce(z, z, reduction="sum"), "'sum'"),
        (lambda z: info_nce(z, z, negatives=z[:, :2]), r"expected negatives \(K, 6\)"),
        (lambda z: debiased_info_nce(z, z, tau_plus=1.0), "below 1, but is 1.0"),
        (lambda z: hard_negative_info_nce(z, z, beta=-1.0), "at least 0, but is -1.0"),
        (lambda z: supervised_info_nce(z, z, torch.zeros(2).long()), r"\(3,\), not \(2,\)"),
        (lambda z: supervised_info_nce(z, z, torch.zeros(3).long(), positives="some"), "'some'"),
    ],
)
def test_errors_say_what_was_given(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(3, 6))
