"""The linear probe on many samples and features, beside scikit-learn's L-BFGS and liblinear.

    python scripts/benchmarks/probe.py

50,000 samples of 2,048 non-negative, correlated features, as an encoder with ReLU gives them, of ten classes
with a tenth of the labels wrong; a tenth of the samples choose the strength. Ours is the whole probe: seven
strengths and the choice, of the softmax and of each class against the rest. L-BFGS minimises the first,
liblinear the second, at the chosen strength alone, as scikit-learn runs them. Accuracies are of 10,000
further samples. liblinear takes 3 GB of memory and minutes for all samples, ``--samples 12000`` less.
``--data FILE.npz`` takes the features that ``contrastive embed`` wrote, three tenths of them to test on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

sys.path.pop(0)  # this file's folder, in which names of packages could be files

from contrastive.evaluation.linear import Features, select_classifier
from contrastive.evaluation.protocol import Objective
from contrastive.evaluation.statistics import mcnemar

Predict = Callable[[np.ndarray], np.ndarray]  # features → classes


def synthetic(num_samples: int, num_features: int, *, num_classes: int = 10, rank: int = 256) -> Features:
    """Features of rank ``rank`` plus noise, whose directions have scales of 1 to 0.03; standardised."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, num_classes, num_samples)
    centres = 0.05 * rng.normal(size=(num_classes, rank))
    latent = rng.normal(size=(num_samples, rank)) * np.geomspace(1, 0.03, rank) + centres[y]
    h = latent.astype(np.float32) @ rng.normal(size=(rank, num_features)).astype(np.float32)
    h = np.maximum(h + 0.5 * rng.standard_normal(h.shape, dtype=np.float32), 0)
    wrong = rng.random(num_samples) < 0.1
    y = np.where(wrong, rng.integers(0, num_classes, num_samples), y)
    return Features((h - h.mean(0)) / h.std(0), y)


def embedded(file: str) -> Features:
    """The features and classes of a file, shuffled, standardised."""
    with np.load(file) as arrays:
        h, y = arrays["h"], arrays["y"]
    order = np.random.default_rng(0).permutation(len(y))
    return Features((h[order] - h.mean(0)) / np.maximum(h.std(0), 1e-6), y[order])


def timed(name: str, fit: Callable[[], Predict], test: Features) -> np.ndarray:
    """Fit, and print the seconds, by the clock and of the processor, and the accuracy."""
    start, processor = time.perf_counter(), time.process_time()
    predict = fit()
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    right = predict(test.h) == test.y
    print(f"| {name} | {seconds:.1f} | {processor:.1f} | {100 * right.mean():.2f} |", flush=True)
    return right


def compare(objective: Objective, name: str, peer: Any, fit: Features, val: Features, test: Features) -> None:
    """Time our whole probe and, if there is one, a peer at the strength that ours chose."""
    chosen: list[float] = []

    def ours() -> Predict:
        classify, c = select_classifier(fit, val, objective=objective)
        chosen.append(c)
        return lambda h: classify(h).argmax(1)

    right = timed(f"ours, {objective}, 7 strengths", ours, test)
    if peer is None:
        return
    peer.set_params(C=chosen[0])
    model = peer if objective == "softmax" else OneVsRestClassifier(peer)
    theirs = timed(f"{name}, C = {chosen[0]:g}", lambda: model.fit(fit.h, fit.y).predict, test)
    apart = f"right: only ours {(right & ~theirs).sum()}, only theirs {(theirs & ~right).sum()}"
    print(f"{apart}, p = {mcnemar(right, theirs):.2g} (McNemar)", flush=True)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--data", help="features of an .npz that contrastive embed wrote, instead")
    parser.add_argument("--threads", type=int, default=0, help="of torch, 0 for all")
    parser.add_argument("--no-peers", action="store_true", help="ours alone: the peers take minutes")
    parser.add_argument(
        "--intercept_scaling",
        type=float,
        default=1.0,
        help="of liblinear, which penalises intercepts: 100 frees them",
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.data:
        data = embedded(options.data)
        samples = len(data.y) * 7 // 10
    else:
        data, samples = synthetic(options.samples + 10_000, options.features), options.samples
    test = data.take(np.arange(samples, len(data.y)))
    val, fit = data.take(np.arange(samples // 10)), data.take(np.arange(samples // 10, samples))
    print(f"{samples} samples of {data.h.shape[1]} features, {torch.get_num_threads()} thread(s)")
    print("| probe | seconds | of the processor | test accuracy, % |\n|---|---|---|---|", flush=True)
    liblinear = LogisticRegression(solver="liblinear", intercept_scaling=options.intercept_scaling)
    pairs: list[tuple[Objective, str, Any]] = [
        ("softmax", "scikit-learn, L-BFGS", LogisticRegression(max_iter=1000)),
        ("one_vs_rest", "scikit-learn, liblinear", liblinear),
    ]
    for objective, name, model in pairs:
        compare(objective, name, None if options.no_peers else model, fit, val, test)


if __name__ == "__main__":
    main()
