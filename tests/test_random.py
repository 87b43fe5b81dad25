"""SampleRandom: a number belongs to (seed, epoch, view, index), and is as random as it says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from augmentations.random import SampleRandom

INDEX = torch.arange(4000)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 10_000),
    view=st.integers(0, 7),
    indices=st.lists(st.integers(0, 2**40), min_size=1, max_size=20, unique=True),
)
def test_a_sample_draws_the_same_in_any_batch(seed, epoch, view, indices):
    key = {"seed": seed, "epoch": epoch, "view": view}
    together = SampleRandom(torch.tensor(indices), **key).uniform(3)
    backwards = SampleRandom(torch.tensor(indices[::-1]), **key).uniform(3)
    alone = torch.cat([SampleRandom(torch.tensor([i]), **key).uniform(3) for i in indices])
    assert torch.equal(together, alone)
    assert torch.equal(together, backwards.flip(0))


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}, {"view": 1}])
def test_another_key_draws_independent_numbers(other):
    a, b = SampleRandom(INDEX).uniform(), SampleRandom(INDEX, **other).uniform()
    assert stats.pearsonr(a, b).pvalue > 1e-3
    assert not torch.isclose(a, b, atol=1e-6).any(), "two keys share a draw"


def test_swapping_seed_and_epoch_is_another_key():
    assert not torch.equal(
        SampleRandom(INDEX, seed=1, epoch=2).bits(), SampleRandom(INDEX, seed=2, epoch=1).bits()
    )


def test_successive_calls_and_columns_are_independent():
    random = SampleRandom(INDEX)
    draws = torch.cat((random.uniform(2), random.uniform(2)), 1)
    correlation = torch.corrcoef(draws.T) - torch.eye(4)
    assert correlation.abs().max() < 4 / len(INDEX) ** 0.5


def test_distributions():
    random = SampleRandom(INDEX, seed=5)
    assert stats.kstest(random.uniform(low=-2.0, high=3.0), stats.uniform(-2, 5).cdf).pvalue > 1e-3
    assert stats.kstest(random.normal(), stats.norm.cdf).pvalue > 1e-3
    assert stats.binomtest(int(random.bernoulli(0.2).sum()), len(INDEX), 0.2).pvalue > 1e-3
    orders = random.permutation(3)
    assert (orders.sort(1).values == torch.arange(3)).all()
    counts = (orders @ torch.tensor([9, 3, 1])).unique(return_counts=True)[1]
    assert len(counts) == 6 and stats.chisquare(counts).pvalue > 1e-3


def test_bernoulli_never_and_always():
    random = SampleRandom(INDEX)
    assert not random.bernoulli(0.0).any() and random.bernoulli(1.0).all()


def test_bits_are_even():
    bits = SampleRandom(INDEX).bits(4).flatten()
    share = torch.stack([(bits >> k) & 1 for k in range(64)]).float().mean(1)
    assert (share - 0.5).abs().max() < 5 * 0.5 / len(bits) ** 0.5


def test_fresh_follows_manual_seed():
    torch.manual_seed(3)
    first, second = (SampleRandom.fresh(5).uniform() for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(first, SampleRandom.fresh(5).uniform())
    assert not torch.equal(first, second)


def test_split_draws_the_same_in_pieces_of_any_size():
    whole, halves = SampleRandom(INDEX, seed=2), SampleRandom(INDEX, seed=2)
    (piece,) = whole.split(len(INDEX))
    pieces = torch.cat([part.uniform(2) for part in halves.split(1500)])
    assert torch.equal(piece.uniform(2), pieces)
    after = whole.uniform()
    assert torch.equal(after, halves.uniform()), "the batch draws on as if it had not been split"
    assert stats.pearsonr(after, pieces[:, 0]).pvalue > 1e-3


def test_lists_of_draws_side_by_side_draw_what_each_draws():
    parts = [SampleRandom(torch.arange(4), seed=1, view=view) for view in range(2)]
    together = SampleRandom.concatenate([SampleRandom(torch.arange(4), seed=1, view=v) for v in range(2)])
    for _ in range(2):
        assert torch.equal(together.uniform(3), torch.cat([part.uniform(3) for part in parts]))
    sample, place = torch.tensor([0, 3, 3]), torch.tensor([5, 0, 1])
    expected = parts[1].expand(sample, place).bits(2)
    parts[0].expand(sample, place)
    assert torch.equal(together.expand(sample + 4, place).bits(2), expected)


def test_a_first_draw_on_another_default_device_serves_the_next():
    with torch.device("meta"):
        SampleRandom(torch.arange(3, device="cpu"), seed=987654321)
    assert SampleRandom(torch.arange(3), seed=987654321).uniform().shape == (3,)
