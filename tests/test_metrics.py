"""Metrics, intervals and paired tests, against scikit-learn, SciPy and plain loops."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk
from sklearn.neighbors import KNeighborsRegressor
from torch.nn import functional as F

from contrastive.evaluation.classifiers import predict_knn, predict_linear
from contrastive.evaluation.draws import Draw
from contrastive.evaluation.knn import neighbour_vote
from contrastive.evaluation.metrics import bootstrap, kind_of, measure, standing
from contrastive.evaluation.quality import alignment, rankme, uniformity
from contrastive.evaluation.statistics import bootstrap_p, mcnemar, percentile_interval, resamplings


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_the_kind_of_targets():
    assert kind_of(np.array([0, 2, 1])) == "classes"
    assert kind_of(np.array([[0.0, np.nan], [1.0, 1.0]])) == "labels"
    assert kind_of(np.array([[0.5], [1.0]])) == "values"


def test_metrics_of_classes_are_scikit_learns(rng):
    y = rng.integers(0, 4, 300)
    p = rng.dirichlet(np.ones(4), 300) + 0.5 * np.eye(4)[y]
    p /= p.sum(1, keepdims=True)
    ours, predicted = measure("classes", y, p), p.argmax(1)
    assert next(iter(ours)) == "accuracy"
    assert ours["accuracy"] == sk.accuracy_score(y, predicted)
    assert ours["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, predicted))
    assert ours["macro_f1"] == pytest.approx(sk.f1_score(y, predicted, average="macro"))
    assert ours["roc_auc"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"))
    assert ours["average_precision"] == pytest.approx(sk.average_precision_score(np.eye(4)[y], p))
    edges = np.linspace(0, 1, 16)
    bins = np.clip(np.digitize(p.max(1), edges[1:-1], right=True), 0, 14)
    error = sum(
        (bins == b).mean() * abs((predicted == y)[bins == b].mean() - p.max(1)[bins == b].mean())
        for b in np.unique(bins)
    )
    assert ours["calibration_error"] == pytest.approx(error, abs=1e-6)
    assert "calibration_error" not in measure("classes", y, p, probabilities=False)


def test_lower_errors_stand_higher_and_likelihood_breaks_the_ties_of_classes():
    y = np.array([[0.0], [1.0], [3.0]])
    assert standing("values", y, y + 0.1) > standing("values", y, y + 0.2)
    assert standing("labels", y[:2], y[:2]) == (1.0, 0.0)
    truth, sure, unsure = np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]), np.full((2, 2), 0.5)
    unsure += [[0.01, -0.01], [-0.01, 0.01]]
    assert standing("classes", truth, sure) > standing("classes", truth, unsure)
    assert standing("classes", truth, sure)[1] == pytest.approx(np.log([0.9, 0.8]).mean())
    assert standing("classes", truth, unsure) > standing("classes", 1 - truth, sure)


def test_a_class_that_no_test_item_has_is_left_out_of_averages():
    p = np.array([[0.8, 0.2, 0.0], [0.3, 0.7, 0.0], [0.4, 0.6, 0.0]])
    ours = measure("classes", np.array([0, 1, 0]), p)
    assert ours["balanced_accuracy"] == pytest.approx(0.75) and np.isfinite(ours["roc_auc"])


def test_metrics_with_blanks_are_those_of_the_known(rng):
    y = rng.normal(size=(100, 2))
    score = y + rng.normal(size=y.shape)
    known = rng.random(y.shape) < 0.7
    blank = np.where(known, y, np.nan)
    ours = measure("values", blank, score)
    errors = [sk.root_mean_squared_error(y[k, t], score[k, t]) for t, k in enumerate(known.T)]
    assert ours["rmse"] == pytest.approx(np.mean(errors))
    assert ours["r2"] == pytest.approx(
        np.mean([sk.r2_score(y[k, t], score[k, t]) for t, k in enumerate(known.T)])
    )
    labels = np.where(known, (y > 0).astype(float), np.nan)
    precisions = [sk.average_precision_score(y[k, t] > 0, score[k, t]) for t, k in enumerate(known.T)]
    assert measure("labels", labels, score)["average_precision"] == pytest.approx(np.mean(precisions))


def test_rounding_above_one_does_not_change_the_calibration(rng):
    """Shares of a vote, summed in float32, exceed 1 by a digit; torchmetrics takes these for logits."""
    y, p = rng.integers(0, 3, 200), np.eye(3)[rng.integers(0, 3, 200)]
    above = (p * np.nextafter(np.float32(1), np.float32(2))).astype(np.float32)
    wrong = (p.argmax(1) != y).mean()
    assert measure("classes", y, above)["calibration_error"] == pytest.approx(wrong)


def test_targets_without_known_test_items_are_left_out_of_the_interval(rng):
    y, score = rng.normal(size=(2, 60, 3))
    y[:, 1], y[4:, 2] = np.nan, np.nan
    ours = bootstrap("values", [np.arange(60)], y, [score])
    for weights, value in list(zip(resamplings(60), ours))[:20]:
        drawn = np.repeat(np.arange(60), weights)
        assert value == pytest.approx(measure("values", y[drawn], score[drawn])["rmse"])


@pytest.mark.parametrize("kind", ["classes", "labels", "values"])
def test_the_bootstrap_resamples_test_items_as_a_loop_would(rng, kind):
    n = 60
    y = rng.integers(0, 3, n) if kind == "classes" else (rng.random((n, 2)) < 0.5).astype(float)
    y = y + rng.normal(size=y.shape) if kind == "values" else y
    test = np.arange(20, 60)
    score = rng.normal(size=(40, 3 if kind == "classes" else 2))
    ours = bootstrap(kind, [test], y, [score])
    for weights, value in list(zip(resamplings(40), ours))[:5]:
        drawn = np.repeat(np.arange(40), weights)
        metric = next(iter(measure(kind, y[test][drawn], score[drawn], probabilities=False).values()))
        assert value == pytest.approx(metric)
    # two draws that test the same items are averaged under the same resamplings
    np.testing.assert_allclose(bootstrap(kind, [test, test], y, [score, score]), ours)


def test_the_paired_bootstrap_finds_what_is_there_and_not_what_is_not(rng):
    y, test = rng.integers(0, 2, 400), np.arange(400)
    good, same = (np.eye(2)[np.where(rng.random(400) < share, y, 1 - y)] for share in (0.9, 0.6))
    other = np.eye(2)[np.where(rng.random(400) < 0.6, y, 1 - y)]
    a, b, c = (bootstrap("classes", [test], y, [score]) for score in (good, same, other))
    assert bootstrap_p(a - b) < 0.01 and percentile_interval(a - b)[0] > 0
    low, high = percentile_interval(b - c)
    assert low < 0 < high and bootstrap_p(b - c) > 0.05
    assert bootstrap_p(b - b) == 1.0


def test_mcnemar_is_the_exact_binomial_test(rng):
    a, b = rng.random(200) < 0.8, rng.random(200) < 0.7
    only_a, only_b = (a & ~b).sum(), (b & ~a).sum()
    k = min(only_a, only_b)
    expected = min(1.0, 2 * stats.binom.cdf(k, only_a + only_b, 0.5))
    assert mcnemar(a, b) == pytest.approx(expected)
    assert mcnemar(a, a) == 1.0


def test_linear_values_and_knn_values_leave_blanks_out(rng):
    h = rng.normal(size=(300, 5))
    y = np.stack([h @ rng.normal(size=5), h[:, 0]], axis=1) + 0.01 * rng.normal(size=(300, 2))
    y[rng.random(300) < 0.3, 1] = np.nan
    draw = Draw(np.arange(150), np.arange(150, 200), np.arange(200, 300))
    linear = predict_linear(h, y, draw, "values", regularisations=[0.01, 1.0, 100.0])
    assert measure("values", y[draw.test], linear.score)["r2"] > 0.99 and linear.chosen["C"] == 100
    near = predict_knn(h, y[:, :1], draw, "values", k=7)
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    theirs = KNeighborsRegressor(
        7, algorithm="brute", metric="sqeuclidean", weights=lambda d: np.exp(-d / 2 / 0.07)
    )
    expected = theirs.fit(unit[draw.fit], y[draw.fit, 0]).predict(unit[draw.test])
    np.testing.assert_allclose(near.score[:, 0], expected, rtol=2e-3, atol=1e-3)


def test_a_target_that_no_neighbour_knows_is_its_mean():
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    targets = torch.tensor([[5.0, 1.0], [torch.nan, 0.0], [torch.nan, torch.nan], [torch.nan, torch.nan]])
    vote = neighbour_vote(bank, targets, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), k=2)
    weight = ((F.cosine_similarity(bank[:1], bank[:2]) - 1) / 0.07).exp()
    torch.testing.assert_close(vote, torch.tensor([[5.0, weight[0] / weight.sum()], [5.0, 0.5]]))


def test_sphere_measures_are_those_of_wang_and_isola():
    torch.manual_seed(0)
    h0, h1 = torch.randn(300, 32).double(), torch.randn(300, 32).double()
    x, y = (h / h.norm(dim=1, keepdim=True) for h in (h0, h1))
    # the two one-liners of their paper
    torch.testing.assert_close(
        alignment(h0, h1).double(), (x - y).norm(dim=1).pow(2).mean(), rtol=1e-5, atol=0
    )
    expected = torch.pdist(x).pow(2).mul(-2).exp().mean().log()
    torch.testing.assert_close(uniformity(h0).double(), expected, rtol=1e-4, atol=0)
    assert alignment(h0, 3 * h0) < 1e-6 and abs(uniformity(torch.ones(50, 8))) < 1e-5
    dead = torch.cat([torch.zeros(40, 8), torch.eye(8)])  # rows without direction lie in the middle
    expected = torch.pdist(dead.double()).pow(2).mul(-2).exp().mean().log()
    torch.testing.assert_close(uniformity(dead).double(), expected, rtol=1e-5, atol=0)
    assert uniformity(torch.zeros(1000, 8)) == 0  # a network that died is no even spread
    assert 25 < rankme(h0) <= 32.1 and rankme(torch.ones(100, 8)) < 1.01
