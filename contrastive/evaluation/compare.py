"""``contrastive compare``: is one run better than another? Tested item by item, on the same test items."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from contrastive.errors import ContrastiveError
from contrastive.evaluation.evaluate import Evaluation, defined, describe, evaluate_all, print_rows
from contrastive.evaluation.leaks import report_leaks
from contrastive.evaluation.metrics import LOWER_IS_BETTER, TITLES
from contrastive.evaluation.protocol import Finetuning, Method, Protocol, SplitRule, parse_targets
from contrastive.evaluation.runs import open_encoders, result_file, result_name
from contrastive.evaluation.statistics import bootstrap_p, mcnemar, mean_interval, percentile_interval
from contrastive.evaluation.tasks import Task, read_task
from contrastive.items import source_of
from contrastive.report import require_writable, write_json


def compare(
    runs: list[str] | None = None,
    *,
    data: str | None = None,
    method: Method | None = None,
    targets: str | None = None,
    smiles_column: str | None = None,
    split: SplitRule = "auto",
    labels_per_class: int | None = None,
    fraction: float | None = None,
    repeats: int | None = None,
    k: int = 20,
    finetuning: Finetuning | None = None,
    leaks: bool = True,
    seed: int = 0,
    download: bool = False,
    cache: bool = True,
    output: str | None = None,
) -> None:
    """Judge two runs on the same draws and test items, and test whether they differ.

    The paired bootstrap resamples test items, the same for both runs, and gives the interval of the
    difference. Where classes are predicted in one draw McNemar's exact test stands beside it. Where there are
    several draws so does Student's interval over the differences draw by draw: it speaks of the choice of
    labelled items. Neither speaks of other seeds of pretraining: compare several runs for that.

    Args:
        runs: two run folders, checkpoints or exports.
        data: a labelled source of the same kind (default: what the first run trained on).
        method: linear, knn, svm (frozen features) or finetune (default: what is usual for the data).
        targets: see contrastive probe.
        smiles_column: of a table of molecules (default: the one named smiles).
        split: of molecules: scaffold, random or stratified.
        labels_per_class: train on so many labels a class, drawn at random.
        fraction: train on this share of the labels, drawn at random.
        repeats: see contrastive probe.
        k: neighbours, of knn.
        finetuning: of finetune.
        leaks: count test items that pretraining has seen.
        seed: of splits, draws and training.
        download: whether torchvision may download the data.
        cache: keep features in ~/.cache/contrastive and use those that are there.
        output: result file (default: in results of the first run's folder: compare-RUN.json by the second
            run's name, with all that is not as usual).
    """
    if len(runs or []) != 2:
        raise ContrastiveError(f"give two runs to compare, not {len(runs or [])}")
    assert runs is not None
    if method == "scratch":
        raise ContrastiveError("from scratch there is nothing of either run to compare")
    encoders = open_encoders(runs)
    first = next(iter(encoders.values()))
    protocol = Protocol(
        source_of(first, data), method or "linear", parse_targets(targets), smiles_column, split,
        labels_per_class, fraction, repeats, k=k, seed=seed, finetuning=finetuning or Finetuning(),
    )  # fmt: skip
    task = read_task(first, protocol, download=download)
    protocol = replace(protocol, method=method or task.default_method)
    name = result_name("compare", runs, first, protocol, task.default_method)
    file = Path(output) if output else result_file(name, runs, protocol)
    require_writable(file)
    a, b = evaluate_all(encoders, list(encoders), task, protocol, cache=cache)
    print_rows([a.row(), b.row()], task, protocol)
    tests = paired_tests(a, b, task)
    print(verdict(a.name, b.name, tests))
    seen = report_leaks(dict(zip(runs, encoders.values())), task, protocol.data) if leaks else None
    result = {"runs": runs, "protocol": protocol.to_json(), "task": describe(task)}
    write_json(file, result | {"rows": [a.row(), b.row()], "difference": tests, "leaks": seen})
    print(f"result: {file}")


def paired_tests(a: Evaluation, b: Evaluation, task: Task) -> dict[str, Any]:
    """The difference b − a of the primary metric, with its intervals and p-values.

    Returns:
        ``metric``, ``difference``, ``ci95`` and ``p_bootstrap`` over test items, ``draws_ci95`` over draws
        (NaN of one), and for classes in one draw ``p_mcnemar`` with ``only_a`` and ``only_b``, the test items
        that one alone has right.
    """
    metric = next(iter(a.metrics))
    resampled = b.resampled - a.resampled
    by_draw = [y - x for x, y in zip(a.metrics[metric], b.metrics[metric])]
    tests: dict[str, Any] = {
        "metric": metric,
        "difference": float(np.mean(by_draw)),
        "ci95": [defined(end) for end in percentile_interval(resampled)],
        "p_bootstrap": bootstrap_p(resampled),
        "draws_ci95": [defined(end) for end in mean_interval(by_draw)[1]],
    }
    if task.kind == "classes" and len(task.draws) == 1:
        y = task.y[task.draws[0].test]
        right_a, right_b = (e.predictions[0].score.argmax(1) == y for e in (a, b))
        tests |= {
            "p_mcnemar": mcnemar(right_a, right_b),
            "only_a": int((right_a & ~right_b).sum()),
            "only_b": int((right_b & ~right_a).sum()),
        }
    return tests


def verdict(a: str, b: str, tests: dict[str, Any]) -> str:
    """The tests in words."""
    metric, (low, high) = tests["metric"], tests["ci95"]
    scale, unit, digits = (1, "", 3) if metric == "rmse" else (100, " points", 1)
    better = (tests["difference"] > 0) != (metric in LOWER_IS_BETTER)
    difference = f"{scale * tests['difference']:+.{digits}f}{unit}"
    interval = f"[{scale * low:+.{digits}f}, {scale * high:+.{digits}f}] over test items"
    lines = [
        f"{TITLES[metric]} of {b} less that of {a}: {difference} {interval}, p = {tests['p_bootstrap']:.3g}"
    ]
    if tests["draws_ci95"][0] is not None:
        low_draws, high_draws = (scale * end for end in tests["draws_ci95"])
        lines.append(f"over draws of the labelled items: [{low_draws:+.{digits}f}, {high_draws:+.{digits}f}]")
    if "p_mcnemar" in tests:
        lines.append(
            f"McNemar: {tests['only_a']} test items only {a} has right, {tests['only_b']} only {b}, "
            f"p = {tests['p_mcnemar']:.3g}"
        )
    intervals = [tests["ci95"], tests["draws_ci95"]]
    shown = all(low is None or low > 0 or high < 0 for low, high in intervals)
    lines.append(f"{b if better else a} is better" if shown else "no difference is shown")
    return "\n".join(lines)
