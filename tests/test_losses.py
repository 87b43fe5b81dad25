"""The losses against dense float64 autograd, written here from the papers' formulas."""

import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from contrastive import losses, streaming
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


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(streaming, "TILE", 8)  # so that small batches meet many tiles, and tiles cut short


def views(batch_size, width=6, dtype=torch.float64, seed=0, noise=None):
    generator = torch.Generator().manual_seed(seed)
    z0 = torch.randn(batch_size, width, generator=generator, dtype=torch.float64)
    z1 = torch.randn(batch_size, width, generator=generator, dtype=torch.float64)
    if noise is not None:  # positives that are near each other
        z1 = z0 + noise * z1
    return z0.to(dtype).requires_grad_(), z1.to(dtype).requires_grad_()


def dense(z0, z1, temperature, tau_plus=0.0, beta=0.0, negatives=None):
    """Rows of the hard-negative loss from the whole matrix, in float64."""
    z = F.normalize(torch.cat([z0, z1]).double(), dim=1)
    keys = z if negatives is None else torch.cat([z, F.normalize(negatives.double(), dim=1)])
    rows = torch.arange(len(z))
    partner = rows.roll(len(z0))
    x = z @ keys.T / temperature
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[rows, rows] = mask[rows, partner] = False
    positive, x = x[rows, partner], x[mask].view(len(z), -1)
    n = x.shape[1]
    log_r = x.logsumexp(1)
    if beta > 0:
        log_r = math.log(n) + ((1 + beta) * x).logsumexp(1) - (beta * x).logsumexp(1)
    if tau_plus == 0:
        log_ng = log_r
    else:
        peak = torch.maximum(log_r, positive).detach()
        ng = (torch.exp(log_r - peak) - tau_plus * n * torch.exp(positive - peak)) / (1 - tau_plus)
        log_ng = peak + torch.maximum(ng, n * torch.exp(-1 / temperature - peak)).log()
    return torch.log1p(torch.exp(log_ng - positive))


def assert_equal(ours, oracle, inputs, oracle_inputs, rtol):
    """Values row by row, and gradients as vectors, to a relative error."""
    torch.testing.assert_close(ours.double(), oracle, rtol=rtol, atol=rtol * 1e-3)
    weights = torch.linspace(0.5, 2.0, len(oracle), dtype=torch.float64)
    gradients = torch.autograd.grad((ours * weights.to(ours)).sum(), inputs)
    expected = torch.autograd.grad((oracle * weights).sum(), oracle_inputs)
    for gradient, truth in zip(gradients, expected):
        # the temperature's gradient is a sum of terms of either sign up to 1/t² in size, in the oracle too
        tolerance = 10 * rtol if truth.ndim == 0 else rtol
        assert (gradient.double() - truth).norm() <= tolerance * truth.norm() + rtol * 1e-3


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


# degenerate inputs


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


# the other losses, as slow loops


def cosines(z0, z1):
    return F.normalize(z0, dim=1) @ F.normalize(z1, dim=1).T


def test_nodes_with_negatives_within_the_view():
    """GRACE's equation (1), term by term."""
    (u, v), t = views(11), 0.5
    uv, uu, vv = (torch.exp(x / t) for x in (cosines(u, v), cosines(u, u), cosines(v, v)))
    total = 0.0
    for i, (between, within) in itertools.product(range(11), [(uv, uu), (uv.T, vv)]):
        others = [k for k in range(11) if k != i]
        total = total - torch.log(
            between[i, i] / (between[i, i] + between[i, others].sum() + within[i, others].sum())
        )
    torch.testing.assert_close(info_nce(u, v, temperature=t), total / 22, rtol=1e-12, atol=0)


def test_decoupled_leaves_the_positive_out():
    (z0, z1), t = views(11), 0.1
    x = cosines(torch.cat([z0, z1]), torch.cat([z0, z1])) / t
    rows = []
    for i in range(22):
        p = (i + 11) % 22
        rows.append(torch.logsumexp(x[i, [j for j in range(22) if j not in (i, p)]], 0) - x[i, p])
    torch.testing.assert_close(
        decoupled_info_nce(z0, z1, reduction="none"), torch.stack(rows), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("positives", ["all", "across"])
def test_supervised(positives):
    (z0, z1), t = views(11), 0.1
    labels = torch.tensor([5, 5, 2, 5, 2, 2, 2, 9, -1, 9, 2])
    z, y = torch.cat([z0, z1]), labels.repeat(2)
    x = cosines(z, z) / t
    rows = []
    for i in range(22):
        own_view = i // 11
        same = [
            j for j in range(22) if j != i and y[j] == y[i] and (positives == "all" or j // 11 != own_view)
        ]
        rows.append(torch.logsumexp(x[i, [j for j in range(22) if j != i]], 0) - x[i, same].mean())
    oracle = torch.stack(rows)
    ours = supervised_info_nce(z0, z1, labels, positives=positives, reduction="none")
    assert_equal(ours, oracle, (z0, z1), (z0, z1), 1e-11)


def test_supervised_without_two_of_a_class_is_info_nce():
    z0, z1 = views(11)
    torch.testing.assert_close(
        supervised_info_nce(z0, z1, torch.arange(11), temperature=0.3), info_nce(z0, z1, temperature=0.3)
    )


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_further_negatives(beta):
    z0, z1 = views(11)
    queue = views(19, seed=1)[0]
    ours = hard_negative_info_nce(z0, z1, beta=beta, negatives=queue, reduction="none")
    oracle = dense(z0, z1, torch.tensor(0.5, dtype=torch.float64), 0.1, beta, queue.detach())
    assert_equal(ours, oracle, (z0, z1), (z0, z1), 1e-11)


def test_queue_is_a_cross_entropy():
    (q, k), queue = views(11), views(19, seed=1)[0].detach()
    logits = torch.cat([cosines(q, k).diagonal()[:, None], cosines(q, queue)], dim=1) / 0.07
    oracle = F.cross_entropy(logits, torch.zeros(11, dtype=torch.long), reduction="none")
    assert_equal(queue_info_nce(q, k, queue, reduction="none"), oracle, (q, k), (q, k), 1e-10)


def test_cross_modal_is_clips_cross_entropy_with_a_learned_temperature():
    inputs = (*views(11), torch.tensor(0.07, dtype=torch.float64, requires_grad=True))
    logits = cosines(*inputs[:2]) / inputs[2]
    target = torch.arange(11)
    oracle = torch.cat([F.cross_entropy(x, target, reduction="none") for x in (logits, logits.T)])
    ours = cross_modal_info_nce(*inputs[:2], temperature=inputs[2], reduction="none")
    assert_equal(ours, oracle, inputs, inputs, 1e-10)


def test_learned_temperature_stops_at_clips_bound():
    loss = CrossModalInfoNCE(temperature=0.005)
    loss(*views(5, dtype=torch.float32)).backward()
    assert loss.metrics["temperature"] == pytest.approx(0.01)
    assert loss.log_scale.grad == 0


# modules and errors


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


def test_not_a_number_stays_visible():
    z0, z1 = views(5)
    assert losses.info_nce(z0 * torch.nan, z1).isnan()
