"""``contrastive probe``: encoders judged on labelled items, selected on validation, reported on test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch

from contrastive.errors import ContrastiveError, reading
from contrastive.evaluation.evaluate import describe, evaluate_all, predictor_of, print_rows
from contrastive.evaluation.leaks import report_leaks
from contrastive.evaluation.protocol import (
    Finetuning,
    Method,
    Objective,
    Protocol,
    SplitRule,
    parse_targets,
)
from contrastive.evaluation.runs import open_encoders, result_file, result_name, unusual
from contrastive.evaluation.tasks import Task, read_task
from contrastive.export import save_predictor
from contrastive.items import source_of
from contrastive.report import require_new_folder, require_writable, write_json

# what changes nothing that a result records
_BESIDE_FROM = ("runs", "from_", "leaks", "batch_size", "download", "skip_corrupt", "cache", "output", "save")


def probe(
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
    objective: Objective = "softmax",
    finetuning: Finetuning | None = None,
    untrained: bool = True,
    raw: bool | None = None,
    leaks: bool = True,
    seed: int = 0,
    batch_size: int = 512,
    download: bool = False,
    skip_corrupt: bool | None = None,
    cache: bool = True,
    output: str | None = None,
    save: str | None = None,
    from_: str | None = None,
) -> None:
    """Judge runs on labelled data: a classifier on their frozen features, or fine-tuning.

    Whatever is chosen is chosen on validation, and the test items are read once. What is usual where nothing
    else is asked for: images, a linear probe on the source's test split; graphs, a support vector machine in
    10-fold cross-validation; nodes, a linear probe on the public split or 20 random ones; molecules, a linear
    probe on the scaffold split, with the columns to predict named by --targets.

    Args:
        runs: run folders, checkpoints or exports, judged alike in one table.
        data: a labelled source of the same kind (default: what the first run trained on).
        method: linear, knn, svm (frozen features), finetune, or scratch (the same network, not pretrained).
        targets: columns of a table to predict, of 0, 1 and blanks or of numbers: A,B or ["A", "B"].
        smiles_column: of a table of molecules (default: the one named smiles).
        split: of molecules: scaffold, random or stratified.
        labels_per_class: train on so many labels a class, drawn at random.
        fraction: train on this share of the labels, drawn at random.
        repeats: draws of the labelled set (default: 10 where labels are drawn, else 1), random splits of
            nodes (default: 20), or deals of the graphs into folds (default: 1).
        k: neighbours, of knn.
        objective: of linear, for one class an item: softmax, or one_vs_rest as liblinear does.
        finetuning: of finetune and scratch.
        untrained: also evaluate the same encoder before training.
        raw: also evaluate what needs no encoder (pixels, Morgan fingerprints; default: of graphs and nodes).
        leaks: count test items that pretraining has seen.
        seed: of splits, draws and training.
        batch_size: items encoded at a time.
        download: whether torchvision may download the data.
        skip_corrupt: leave out files that do not decode, and count them, instead of stopping (default: of the
            run's own data as the run does, of others no).
        cache: keep features in ~/.cache/contrastive and use those that are there.
        output: result file (default: in results of the first run's folder: probe.json, with all that is not
            as usual in its name).
        save: a folder to make, for `contrastive predict`: the first run's encoder and what was fitted on the
            first draw, by linear, finetune or scratch.
        from_: a result file: repeat its evaluation, and say whether the numbers are the same.
    """
    asked = [name for name in unusual(probe, locals()) if name not in _BESIDE_FROM]
    if save:
        require_new_folder(Path(save))
    recorded = _read_result(Path(from_)) if from_ else None
    if recorded and asked:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in asked)
        raise ContrastiveError(f"--from repeats what {from_} records; leave out {names}")
    runs = runs or (recorded["runs"] if recorded else [])
    encoders = open_encoders(runs)
    first = next(iter(encoders.values()))
    protocol = recorded["protocol"] if recorded else Protocol(
        source_of(first, data), method or "linear", parse_targets(targets), smiles_column, split,
        labels_per_class, fraction, repeats, k=k, objective=objective, seed=seed,
        finetuning=finetuning or Finetuning(),
    )  # fmt: skip
    task = read_task(first, protocol, download=download, skip_corrupt=skip_corrupt)
    file = Path(output) if output else None
    if recorded:
        wanted = recorded["representations"]
    else:
        protocol = replace(protocol, method=method or task.default_method)
        wanted = [*encoders, *_beside(task, untrained, raw)]
        rows_asked = unusual(probe, {"untrained": untrained, "raw": raw})
        name = result_name("probe", runs, first, protocol, task.default_method, rows_asked)
        file = file or result_file(name, runs, protocol)
    if file:
        require_writable(file)
    if save and protocol.method in ("knn", "svm"):
        raise ContrastiveError(f"--save keeps no {protocol.method}; give --method linear or finetune")
    evaluations = evaluate_all(encoders, wanted, task, protocol, batch_size=batch_size, cache=cache)
    rows = [evaluation.row() for evaluation in evaluations]
    print_rows(rows, task, protocol)
    seen = report_leaks(dict(zip(runs, encoders.values())), task, protocol.data) if leaks else None
    if recorded:
        _compare_with_record(rows, recorded["rows"], from_)
    if file:
        write_json(file, _result(runs, rows, task, protocol, seen))
        print(f"result: {file}")
    if save:
        save_predictor(predictor_of(evaluations[0], encoders, task, protocol), Path(save), Path(runs[0]))
        print(f"predictor: {save}")


def _beside(task: Task, untrained: bool, raw: bool | None) -> list[str]:
    """What is judged beside the runs."""
    asked = {"untrained": untrained, "raw": task.unit in ("graphs", "nodes") if raw is None else raw}
    return [name for name in asked if asked[name]]


def _result(
    runs: list[str], rows: list[dict[str, Any]], task: Task, protocol: Protocol, leaks: dict[str, Any] | None
) -> dict[str, Any]:
    """What `_read_result` reads again, and what a reader wants to know of it."""
    return {
        "runs": runs,
        "representations": [row["representation"] for row in rows],
        "protocol": protocol.to_json(),
        "task": describe(task),
        "rows": rows,
        "leaks": leaks,
        "versions": {"torch": torch.__version__, "scikit-learn": sklearn.__version__},
    }


def _read_result(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ContrastiveError(f"there is no {file}; give the result file of a probe")
    with reading(file):
        try:
            content = json.loads(file.read_text())
            recorded = {key: content[key] for key in ("runs", "representations", "rows")}
            return recorded | {"protocol": Protocol.from_json(content["protocol"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ContrastiveError(f"{file} is not the result of a probe ({error!r})") from error


def _compare_with_record(rows: Sequence[dict], recorded: Sequence[dict], file: str | None) -> None:
    """Say whether the numbers of a result file came out again."""
    pairs = [
        (
            f"{now['representation']}: {key}",
            *(np.nan if row.get(key) is None else row[key] for row in (then, now)),
        )
        for now, then in zip(rows, recorded)
        for key in now
        if key.endswith("_mean")
    ]
    apart = [
        f"{name} {then:.6f} recorded, {now:.6f} now"
        for name, then, now in pairs
        if not np.isclose(then, now, rtol=0, atol=1e-9, equal_nan=True)
    ]
    if apart:
        raise ContrastiveError(f"not the numbers of {file}:\n  " + "\n  ".join(apart))
    print(f"the same numbers as in {file}")
