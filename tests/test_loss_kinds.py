"""The losses with other positives and negatives than two views have, as slow loops."""

import itertools

import pytest
import torch
from loss_cases import assert_equal, cosines, dense, views
from torch.nn import functional as F

from contrastive.losses import (
    CrossModalInfoNCE,
    cross_modal_info_nce,
    decoupled_info_nce,
    hard_negative_info_nce,
    info_nce,
    queue_info_nce,
    supervised_info_nce,
)

pytestmark = pytest.mark.usefixtures("small_tiles")


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


def test_learned_temperature_stops_at_clips_bound_and_comes_back_from_it():
    loss = CrossModalInfoNCE(temperature=0.005)
    z0, z1 = views(5, dtype=torch.float32)  # pairs that do not agree ask for a higher temperature
    loss(z0, z1).backward()
    assert loss.metrics["temperature"] == pytest.approx(0.01)
    assert loss.log_scale.grad > 0
    torch.optim.SGD(loss.parameters(), lr=0.01).step()
    loss(z0, z1)
    assert loss.metrics["temperature"] > 0.011
