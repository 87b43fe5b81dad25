import copy
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.strategies import ModelParallelStrategy, SingleDeviceStrategy
from torch import nn

from contrastive.checkpoints import number_parameters
from contrastive.errors import ContrastiveError
from contrastive.optimizers import LARS, decay_groups, fuse, scheduled, warmup_cosine


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


class Linear(LightningModule):
    def __init__(self, schedule=None, warmup_epochs=2):
        super().__init__()
        self.layer, self.schedule, self.warmup_epochs = nn.Linear(2, 1), schedule, warmup_epochs

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        return scheduled(optimizer, self.trainer, self.warmup_epochs, self.schedule)


@pytest.mark.parametrize(
    "length, first_rates",
    [
        ({"max_epochs": 10}, [0.1, 0.2, 0.3]),
        ({"max_epochs": 10, "max_steps": 40}, [0.1, 0.2, 0.3]),  # not two tenths of the steps
        ({"max_epochs": -1, "max_steps": 40}, [0.1, 0.2, 0.3]),  # nor all that there may be
        ({"max_epochs": 10, "accumulate_grad_batches": 2}, [1 / 6, 2 / 6, 3 / 6]),
        ({"max_epochs": -1, "max_steps": 10}, [0.2, 0.4, 0.6]),  # half the run at most
    ],
)
def test_warm_up_is_counted_in_epochs_however_long_the_run(length, first_rates):
    rate = configured(5, length).lr_lambdas[0]
    assert [rate(step) for step in range(3)] == pytest.approx(first_rates)


def configured(batches, length, **options):
    """The schedule of a run of so many batches an epoch."""
    module, trainer = Linear(**options), Trainer(accelerator="cpu", barebones=True, **length)
    trainer.strategy.connect(module)
    trainer.fit_loop.setup_data = lambda: setattr(trainer.fit_loop, "max_batches", batches)  # inf until then
    module.trainer = trainer
    return module.configure_optimizers()["lr_scheduler"]["scheduler"]


@pytest.mark.parametrize(
    "batches, length, message",
    [
        (5, {"max_epochs": -1}, "the end of the run, which is not known: give --trainer.max_steps"),
        (
            math.inf,
            {"max_epochs": 10},
            "the end of the run, which is not known",
        ),  # whose rate was 0 throughout
        (
            math.inf,
            {"max_epochs": -1, "max_steps": 40},
            "how many batches an epoch has, by which warmup_epochs",
        ),
    ],
)
def test_a_schedule_over_what_has_no_known_end_is_refused_and_one_of_the_users_is_not(
    batches, length, message
):
    with pytest.raises(ContrastiveError, match=message):
        configured(batches, length)
    constant = partial(torch.optim.lr_scheduler.ConstantLR, factor=0.5)
    assert configured(batches, length, schedule=constant).get_last_lr() == [0.5]


def test_a_stream_of_unknown_length_is_warmed_up_by_its_share_of_the_steps_or_not_at_all():
    rate = configured(math.inf, {"max_epochs": 10, "max_steps": 50}).lr_lambdas[0]
    assert [rate(step) for step in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    assert configured(math.inf, {"max_steps": 50}, warmup_epochs=0).get_last_lr() == [1.0]


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW])
def test_fused_steps_are_those_of_torchs_loop(make):
    torch.manual_seed(0)
    fused, plain = (nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7)) for _ in range(2))
    plain.load_state_dict(fused.state_dict())
    ours, theirs = (make(decay_groups(m), lr=1e-2, weight_decay=1e-2) for m in (fused, plain))
    fuse(ours)
    assert all(group["fused"] for group in ours.param_groups)
    for step in range(40):
        if step == 20:  # each goes on from what the other saved
            states = ours.state_dict(), theirs.state_dict()
            theirs.load_state_dict(states[0])
            ours.load_state_dict(states[1])
        for p, q in zip(fused.parameters(), plain.parameters()):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    for p, q in zip(fused.parameters(), plain.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_what_the_user_set_stays_and_others_are_left_alone():
    p = nn.Parameter(torch.ones(3))
    for options in ({"foreach": True}, {"fused": False}):
        optimizer = torch.optim.Adam([p], **options)
        fuse(optimizer)
        assert not optimizer.param_groups[0]["fused"]
    fuse(torch.optim.SGD([p], lr=0.1))
    fuse(LARS([p]))


class OwnAdam(torch.optim.Adam):
    def load_state_dict(self, state_dict):
        """By number, as ZeroRedundancyOptimizer does."""


@pytest.mark.parametrize(
    "make, strategy, numbers",
    [
        (torch.optim.Adam, SingleDeviceStrategy, [2, 4, 3, 5]),
        (OwnAdam, SingleDeviceStrategy, [0, 1, 2, 3]),
        (torch.optim.Adam, ModelParallelStrategy, [0, 1, 2, 3]),
    ],
)
def test_states_are_numbered_by_the_module_where_that_is_read(make, strategy, numbers):
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3), nn.Linear(3, 4))
    module[0].requires_grad_(False)
    optimizer, other = (make(decay_groups(module)) for _ in range(2))
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    states = [copy.deepcopy(optimizer.state_dict()), {}][: 1 + (make is OwnAdam)]  # {} is another process's
    trainer = SimpleNamespace(strategy=strategy(), optimizers=[optimizer, optimizer])
    number_parameters({"optimizer_states": states}, trainer, module)
    assert list(states[0]["state"]) == numbers
    if make is torch.optim.Adam:
        other.load_state_dict(states[0])
        for parameter in (p for group in other.param_groups for p in group["params"]):
            assert torch.equal(*(o.state[parameter]["exp_avg"] for o in (optimizer, other)))
