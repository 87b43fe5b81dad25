"""Metrics of links against scikit-learn and slow loops."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

from contrastive.evaluation.links import (
    by_relation,
    filtered_ranks,
    ranking,
    recommendation,
    summary,
)


@pytest.mark.parametrize("ties", [False, True])
def test_each_relation_is_scored_as_scikit_learn_does(ties):
    rng = np.random.default_rng(0)
    relation = rng.integers(0, 7, 2000)
    truth = rng.random(2000) < 0.4
    score = truth + rng.normal(size=2000) * 2
    score = score.round() if ties else score
    found = by_relation(relation, truth, score, num_relations=8)
    for r in range(7):
        own = relation == r
        assert found["auroc"][r] == pytest.approx(roc_auc_score(truth[own], score[own]), abs=1e-12)
        assert found["auprc"][r] == pytest.approx(average_precision_score(truth[own], score[own]), abs=1e-12)
    assert np.isnan([found[name][7] for name in found]).all()
    assert summary(found)["median_auroc"] == pytest.approx(np.median(found["auroc"][:7]))


def test_precision_at_k_is_the_loop_of_the_papers_code():
    """Of k places those without a link count as well: one link before 19 others is no success."""
    rng = np.random.default_rng(1)
    relation = rng.integers(0, 5, 1500)
    truth, score = rng.random(1500) < np.array([0.5, 0.5, 0.5, 0.1, 0.02])[relation], rng.random(1500)
    found = by_relation(relation, truth, score, num_relations=5, k=20)["ap_at_k"]
    for r in range(5):
        own = np.flatnonzero(relation == r)
        best = own[np.argsort(-score[own])][:20]
        hits, total = 0, 0.0
        for i, item in enumerate(best, start=1):
            if truth[item]:
                hits += 1
                total += hits / i
        assert found[r] == pytest.approx(total / min(truth[own].sum(), 20))


def test_precision_at_k_of_a_constant_is_that_of_guessing():
    """Links come first in what is evaluated: their place is no help among equal scores."""
    relation = np.repeat(np.arange(200), 100)
    truth = np.tile(np.arange(100) < 50, 200)
    found = by_relation(relation, truth, np.zeros(20000), num_relations=200, k=20)["ap_at_k"]
    random = by_relation(relation, truth, np.random.default_rng(0).random(20000), num_relations=200, k=20)
    assert found.mean() == pytest.approx(random["ap_at_k"].mean(), abs=0.05) and found.mean() < 0.4


def test_a_relation_without_negatives_has_no_number():
    found = by_relation(np.zeros(3), np.ones(3, bool), np.arange(3.0), num_relations=1)
    assert np.isnan(found["auroc"][0])


def test_ranks_leave_known_links_out_and_average_ties():
    scores = torch.tensor([[3.0, 2.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    known = torch.tensor([[True, False, False, False], [False] * 4])
    ranks = filtered_ranks(scores, torch.tensor([2, 1]), known)
    assert ranks.tolist() == [3.0, 2.5]
    assert ranking(ranks)["mrr"] == pytest.approx((1 / 3 + 1 / 2.5) / 2)
    assert ranking(ranks)["hits@3"] == 1


def test_scores_that_are_no_numbers_are_no_success():
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    scores = torch.tensor([[torch.nan] * 4, [1.0, torch.nan, 0.0, 2.0]])
    assert filtered_ranks(scores, torch.tensor([2, 0]), nothing).tolist() == [4.0, 3.0]
    found = by_relation(np.zeros(100), np.arange(100) < 50, np.full(100, np.nan), num_relations=1)
    assert found["auroc"] == found["auprc"] == 0.5


def test_recommendation_is_scikit_learns_ndcg_and_a_loop():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(30, 50, generator=generator, dtype=torch.float64)
    relevant = torch.rand(30, 50, generator=generator) < 0.1
    relevant[:, 0] |= ~relevant.any(1)
    found = recommendation(scores, relevant, torch.zeros_like(relevant))
    ours = found["ndcg@10"].mean().item()
    assert ours == pytest.approx(ndcg_score(relevant.numpy(), scores.numpy(), k=10))
    for u in range(30):
        order = scores[u].argsort(descending=True)
        first = next(i for i, item in enumerate(order.tolist(), start=1) if relevant[u, item])
        assert found["mrr"][u] == pytest.approx(1 / first)
        assert found["hits@10"][u] == float(first <= 10)


def test_what_training_knows_is_not_recommended():
    scores = torch.tensor([[5.0, 4.0, 3.0]])
    relevant, known = torch.tensor([[False, False, True]]), torch.tensor([[True, True, False]])
    assert recommendation(scores, relevant, known)["mrr"].item() == 1


def test_equal_scores_recommend_no_item_before_another():
    """Items are numbered as they come in the file, those of many links early: that order is no success."""
    relevant = torch.zeros(2000, 100, dtype=torch.bool)
    relevant[:, 0] = True
    found = recommendation(torch.zeros(2000, 100), relevant, torch.zeros_like(relevant))
    assert found["hits@10"].mean() == pytest.approx(0.1, abs=0.03)
    assert found["recall@20"].mean() == pytest.approx(0.2, abs=0.03)
