import math

import pytest
import torch
from torch import nn

from contrastive.optimizers import LARS, decay_groups, warmup_cosine


def test_lars_takes_the_papers_step():
    """Two steps of You et al. (arXiv 1708.03888), algorithm 1, written out by hand in float64."""
    torch.manual_seed(0)
    w = torch.randn(4, 3, dtype=torch.float64)
    expected, velocity = w.clone(), torch.zeros_like(w)
    p = nn.Parameter(w.clone())
    optimizer = LARS([p], lr=0.5, momentum=0.9, weight_decay=0.01, trust_coefficient=0.02)
    for _ in range(2):
        g = torch.randn_like(w)
        decayed = g + 0.01 * expected
        local_lr = 0.02 * expected.norm() / decayed.norm()
        velocity = 0.9 * velocity + local_lr * decayed
        expected = expected - 0.5 * velocity
        p.grad = g
        optimizer.step()
    torch.testing.assert_close(p.data, expected)


def test_lars_is_plain_sgd_for_biases():
    bias, reference = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    ours = LARS([bias], lr=0.1, momentum=0.9, weight_decay=0.0)
    sgd = torch.optim.SGD([reference], lr=0.1, momentum=0.9)
    for _ in range(3):
        bias.grad = reference.grad = torch.arange(5.0)
        ours.step()
        sgd.step()
    torch.testing.assert_close(bias, reference)


def test_lars_leaves_a_zero_gradient_finite():
    p = nn.Parameter(torch.zeros(2, 2))
    p.grad = torch.zeros(2, 2)
    LARS([p], weight_decay=0.0).step()
    assert torch.equal(p.data, torch.zeros(2, 2))


def test_biases_and_norms_do_not_decay():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    decayed, free = decay_groups(module)
    assert [p.shape for p in decayed["params"]] == [(4, 3)]
    assert len(free["params"]) == 3 and free["weight_decay"] == 0.0


@pytest.mark.parametrize("step,factor", [(0, 0.1), (9, 1.0), (10, 1.0), (55, 0.5), (100, 0.0)])
def test_schedule_rises_then_falls_along_a_cosine(step, factor):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_cosine(optimizer, warmup_steps=10, total_steps=100)
    assert math.isclose(schedule.lr_lambdas[0](step), factor, abs_tol=1e-12)
