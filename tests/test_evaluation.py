import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.sparse import csr_matrix
from scipy.special import softmax
from sklearn.datasets import load_digits, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize
from torch.nn import functional as F

from contrastive.errors import ContrastiveError
from contrastive.evaluation.classifiers import Prediction, predict_linear
from contrastive.evaluation.draws import Draw, labelled_draws
from contrastive.evaluation.evaluate import Evaluation
from contrastive.evaluation.knn import knn_accuracy, neighbour_vote
from contrastive.evaluation.linear import (
    REGULARISATIONS,
    Features,
    fit_path,
    linear_probe,
    select_classifier,
)
from contrastive.evaluation.logistic import LogisticPath
from contrastive.evaluation.protocol import Protocol
from contrastive.evaluation.quality import dimension_std, effective_rank
from contrastive.evaluation.runs import results_folder
from contrastive.evaluation.statistics import mean_interval, proportion_interval


@pytest.fixture(scope="module")
def digits() -> Features:
    data = load_digits()
    return Features(data.data.astype(np.float32) / 16, data.target.astype(np.int64))


@pytest.mark.parametrize("k", [1, 20])
def test_knn_is_scikit_learns_weighted_vote(digits, k):
    unit = digits.h / np.linalg.norm(digits.h, axis=1, keepdims=True)
    theirs = KNeighborsClassifier(
        k, algorithm="brute", metric="sqeuclidean", weights=lambda d: np.exp((1 - d / 2) / 0.07)
    )
    expected = theirs.fit(unit[:1000], digits.y[:1000]).score(unit[1000:], digits.y[1000:])
    h, y = torch.from_numpy(digits.h), torch.from_numpy(digits.y)
    ours = knn_accuracy(h[:1000], y[:1000], h[1000:], y[1000:], k=k)
    assert abs(ours - expected) < 0.003  # a tie in distance may fall either way


def test_neighbours_of_one_class_are_certain_of_it_and_tie():
    """Rounding would rank them, and ROC-AUC and average precision with them."""
    h = F.normalize(torch.randn(300, 4, generator=torch.Generator().manual_seed(0)))
    y = torch.arange(100) % 3
    votes = neighbour_vote(h[:100], y, h[100:], k=5)
    near = y[(h[100:] @ h[:100].T).topk(5).indices]
    agreed = (near == near[:, :1]).all(1)
    assert agreed.sum() > 2
    assert votes[agreed].equal(F.one_hot(near[agreed, 0], 3).float())
    torch.testing.assert_close(votes.sum(1), torch.ones(200))


@pytest.mark.parametrize("large", [0, 10**9], ids=["float32", "float64"])
@pytest.mark.parametrize("num_samples, num_features", [(600, 30), (60, 200)])
def test_softmax_regression_reaches_scikit_learns_optimum(monkeypatch, large, num_samples, num_features):
    monkeypatch.setattr("contrastive.evaluation.logistic._LARGE", large)
    h, y = make_classification(num_samples, num_features, n_informative=12, n_classes=4, random_state=0)
    path, n = LogisticPath(h.astype(np.float32), y), len(y)

    def objective(weight, bias, c):
        z = h @ weight.T + bias
        return np.mean(np.logaddexp.reduce(z, 1) - z[np.arange(n), y]) + np.square(weight).sum() / (2 * c * n)

    for c in (1e-4, 0.01, 1.0, 100.0):
        theirs = LogisticRegression(C=c, tol=1e-10, max_iter=50_000).fit(h, y)
        weight, bias = path.fit(c)
        best = objective(theirs.coef_, theirs.intercept_, c)
        assert objective(weight, bias, c) <= best + 1e-5
        assert ((h @ weight.T + bias).argmax(1) == theirs.predict(h)).mean() >= 0.99
    for c in (0.01, 1.0):  # where the penalty is strong the minimum is sharp
        weight, bias = LogisticPath(h.astype(np.float32), y).fit(c)
        theirs = LogisticRegression(C=c, tol=1e-10, max_iter=50_000).fit(h, y)
        np.testing.assert_allclose(weight, theirs.coef_, atol=2e-3)
        np.testing.assert_allclose(softmax(h @ weight.T + bias, 1), theirs.predict_proba(h), atol=2e-3)


def test_columns_with_blanks_are_each_fitted_on_what_is_known_of_them():
    rng = np.random.default_rng(0)
    h = rng.normal(size=(300, 10))
    y = (h[:, :3] + rng.normal(size=(300, 3)) > 0).astype(float)
    y[rng.random(y.shape) < 0.3] = np.nan
    path = LogisticPath(h, y)
    for c in (0.01, 1.0, 100.0):
        weight, bias = path.fit(c)
        for t in range(3):
            known = ~np.isnan(y[:, t])
            theirs = LogisticRegression(C=c, tol=1e-10, max_iter=5000).fit(h[known], y[known, t])
            np.testing.assert_allclose(weight[t], theirs.coef_[0], atol=3e-3)
            np.testing.assert_allclose(bias[t], theirs.intercept_[0], atol=3e-3)


def test_sparse_features_are_fitted_as_dense_ones():
    rng = np.random.default_rng(0)
    h = csr_matrix((rng.random((80, 200)) < 0.05).astype(np.float32))
    y = rng.integers(0, 3, 80)
    sparse, dense = (LogisticPath(x, y).fit(1.0) for x in (h, h.toarray()))
    np.testing.assert_allclose(sparse[0], dense[0])


@pytest.mark.parametrize("large", [0, 10**9], ids=["float32", "float64"])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_one_against_the_rest_is_what_liblinear_fits(monkeypatch, large, num_classes):
    monkeypatch.setattr("contrastive.evaluation.logistic._LARGE", large)
    h, y = make_classification(600, 30, n_informative=12, n_classes=num_classes, random_state=0)
    # liblinear penalises the intercept too, less the larger its scale
    solver = LogisticRegression(C=0.1, tol=1e-8, solver="liblinear", intercept_scaling=100, max_iter=5000)
    theirs = OneVsRestClassifier(solver).fit(h, y)
    fit, none = Features(h.astype(np.float32), y), Features(h[:0].astype(np.float32), y[:0])
    classify, _ = select_classifier(fit, none, [0.1], objective="one_vs_rest")
    np.testing.assert_allclose(classify(h), theirs.predict_proba(h), atol=3e-3)
    assert (classify(h).argmax(1) == theirs.predict(h)).mean() >= 0.995


@pytest.mark.parametrize("objective", ["softmax", "one_vs_rest"])
def test_large_and_small_sets_are_probed_alike(digits, monkeypatch, objective):
    train, test = digits.take(np.arange(1000)), digits.take(np.arange(1000, 1797))
    protocol = Protocol("digits", objective=objective)
    small = linear_probe(train, test, protocol)["accuracy_mean"]
    monkeypatch.setattr("contrastive.evaluation.logistic._LARGE", 0)
    large = linear_probe(train, test, protocol)["accuracy_mean"]
    assert abs(small - large) <= 0.005


def test_what_is_selected_is_the_classifier_of_the_chosen_c(digits):
    rng = np.random.default_rng(0)
    noisy = replace(digits, h=(digits.h + 0.8 * rng.normal(size=digits.h.shape)).astype(np.float32))
    fit, val, test = (noisy.take(part) for part in np.split(np.arange(1797), [300, 600]))
    classify, c = select_classifier(fit, val)
    assert c < max(REGULARISATIONS)  # else a path that only keeps its end would pass
    theirs = LogisticRegression(C=c, max_iter=2000).fit(fit.h, fit.y)
    np.testing.assert_allclose(classify(test.h), theirs.predict_proba(test.h), atol=0.02)
    fits = (LogisticRegression(C=c, max_iter=2000).fit(fit.h, fit.y) for c in REGULARISATIONS)
    assert theirs.score(val.h, val.y) >= max(f.score(val.h, val.y) for f in fits) - 0.004


@pytest.mark.parametrize(
    "how", [{"labels_per_class": 3}, {"fraction": 0.1}, {}, {"labels_per_class": 1, "val_fraction": 0.02}]
)
def test_a_draw_never_selects_on_what_it_fits(digits, how):
    draws = list(labelled_draws(digits.y, Protocol("digits", repeats=4, **how)))
    for fit, val in draws:
        assert not set(fit) & set(val) and len(val) <= len(fit)
        if "labels_per_class" in how:
            assert (np.bincount(digits.y[fit]) == how["labels_per_class"]).all()
        elif "fraction" in how:
            assert abs(len(fit) - 0.1 * 0.9 * len(digits.y)) < 2
    again = list(labelled_draws(digits.y, Protocol("digits", repeats=4, **how)))
    assert all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in zip(draws, again))
    if how:
        assert set(draws[0][0]) != set(draws[1][0])


def test_too_few_labels_of_a_class_is_an_error():
    with pytest.raises(ContrastiveError, match="class 1 has 5 training labels, fewer than the 10"):
        y = np.repeat([0, 1], [40, 6])
        list(labelled_draws(y, Protocol("", labels_per_class=10)))


def test_labels_that_say_nothing_are_probed_at_chance():
    """A probe that leaked the test labels would do better."""
    rng = np.random.default_rng(0)
    train, test = (
        Features(rng.normal(size=(n, 20)).astype(np.float32), rng.integers(0, 2, n)) for n in (300, 4000)
    )
    result = linear_probe(train, test, Protocol("noise"))
    assert abs(result["accuracy_mean"] - 0.5) < 4 * 0.5 / 4000**0.5


def test_a_class_that_no_fitted_item_has_is_never_predicted():
    """As of a rare class in one of several random splits."""
    rng = np.random.default_rng(0)
    fit, val = (Features(rng.normal(size=(n, 4)).astype(np.float32), rng.integers(0, k, n)) for n, k in SIZES)
    fit.h[:, 0] += 4 * fit.y
    val.h[:, 0] += 4 * val.y
    classify, _ = select_classifier(fit, val)
    assert classify(val.h).shape == (90, 3) and (val.y == 2).any() and not classify(val.h)[:, 2].any()
    known = val.y < 2
    assert (classify(val.h).argmax(1) == val.y)[known].mean() > 0.9


SIZES = ((40, 2), (90, 3))


def test_intervals_are_scipys():
    values = [0.7, 0.8, 0.75, 0.9]
    mean, (low, high) = mean_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert np.allclose((mean, low, high), (np.mean(values), expected.low, expected.high))
    assert all(np.isnan(mean_interval([0.5])[1]))
    # two draws: Student's t has one degree of freedom, 12.7 standard errors either way
    assert np.allclose(mean_interval([0.7, 0.9])[1], (0.8 - 0.1 * 12.7062047, 0.8 + 0.1 * 12.7062047))
    assert mean_interval([0.7, 0.9], within=(0, 1)) == (pytest.approx(0.8), (0, 1))
    assert mean_interval(values, within=(0, 1)) == mean_interval(values)
    assert all(np.isnan(mean_interval([0.5], within=(0, 1))[1]))
    # Wilson's interval of 8 in 10, by the formula of Newcombe 1998
    p, n, z = 0.8, 10, 1.959963984540054
    centre, half = (p + z * z / (2 * n)), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    wilson = ((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n))
    assert np.allclose(proportion_interval(8, 10), wilson)


def test_the_meters_tell_collapse_from_spread():
    torch.manual_seed(0)
    spread, point = torch.randn(4000, 64), torch.ones(4000, 64)
    assert abs(dimension_std(spread) - 1) < 0.02 and dimension_std(point) < 1e-6
    assert 60 < effective_rank(spread) <= 64 and abs(effective_rank(point) - 1) < 1e-3
    two = torch.zeros(10, 5)
    two[:5, 0], two[5:, 1] = 1, 1  # two equal singular values: rank two exactly
    torch.testing.assert_close(effective_rank(two), torch.tensor(2.0))


def test_probe_writes_protocol_and_untrained_row(command, digits_run):
    done = command("probe", digits_run, "--labels-per-class", 2, "--repeats=3", "--seed", 5)
    assert done.returncode == 0, done.stderr
    result = json.loads(
        (digits_run / "results" / "probe-labels_per_class=2-repeats=3-seed=5.json").read_text()
    )
    assert [row["representation"] for row in result["rows"]] == ["pretrained", "untrained"]
    assert all(row["num_draws"] == 3 for row in result["rows"])
    protocol = result["protocol"]
    assert (protocol["data"], protocol["labels_per_class"], protocol["seed"]) == ("digits", 2, 5)
    assert result["task"]["first_draw"] == {"fit": 20, "val": 20, "test": 540}


def test_a_loose_checkpoint_is_probed_beside_itself(tmp_path):
    inside, loose = tmp_path / "run" / "checkpoints" / "last.ckpt", tmp_path / "elsewhere" / "x.ckpt"
    for file in (inside, loose):
        file.parent.mkdir(parents=True)
        file.touch()
    assert results_folder(inside) == results_folder(tmp_path / "run") == tmp_path / "run" / "results"
    assert results_folder(loose) == tmp_path / "elsewhere" / "results"


@pytest.mark.parametrize("metric, ends", [("accuracy", [0, 1]), ("roc_auc", [0, 1]), ("rmse", None)])
def test_the_interval_over_draws_is_of_what_the_metric_can_be(metric, ends):
    predictions = [Prediction(np.zeros(1), 0.5, {})] * 2
    row = Evaluation("a", 8, predictions, {metric: [0.7, 0.9]}, np.array([0.8])).row()
    assert row[f"{metric}_draws_ci95"] == (ends or pytest.approx([0.8 - 1.27062, 0.8 + 1.27062], abs=1e-5))


def test_features_of_nearly_one_direction_are_fitted_as_well_as_those_without_it():
    """A large constant part leaves the best classifier of unit-length rows as it is; solvers stop at it."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 900)
    spread = np.eye(5)[y] @ rng.normal(size=(5, 16)) + 0.5 * rng.normal(size=(900, 16))
    h = np.hstack([np.full((900, 1), 3000.0), spread]).astype(np.float32)
    draw = Draw(np.arange(300), np.arange(300, 600), np.arange(600, 900))
    strengths = tuple(10.0**k for k in range(-2, 6))
    found = predict_linear(h, y, draw, "classes", regularisations=strengths, unit_length=True)
    rows = normalize(h.astype(np.float64))
    exact = max(
        LogisticRegression(C=c, solver="newton-cg", tol=1e-10, max_iter=5000)
        .fit(rows[:300], y[:300])
        .score(rows[300:600], y[300:600])
        for c in strengths
    )
    assert found.val == pytest.approx(exact, abs=0.01)


def test_a_label_that_is_no_class_is_refused():
    features = Features(np.random.default_rng(0).normal(size=(8, 3)), np.array([0, 1, -1, 0, 1, -1, 0, 1]))
    with pytest.raises(ContrastiveError, match="a label is -1, which is no class"):
        list(fit_path(features, [1.0]))
