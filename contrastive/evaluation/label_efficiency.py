"""``contrastive label-efficiency``: how many labels each representation needs, as a table and a picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from contrastive.errors import ContrastiveError
from contrastive.evaluation.draws import has_strata, strata
from contrastive.evaluation.evaluate import describe, evaluate_all
from contrastive.evaluation.leaks import report_leaks
from contrastive.evaluation.metrics import PRIMARY, TITLES
from contrastive.evaluation.protocol import TRAINED, Finetuning, Method, Protocol, SplitRule, parse_targets
from contrastive.evaluation.runs import open_encoders, result_file, result_name, unusual
from contrastive.evaluation.tasks import Task, read_task
from contrastive.features import FrozenEncoder
from contrastive.items import source_of
from contrastive.report import plot_label_efficiency, print_table, require_writable, write_json, write_whole

log = logging.getLogger("contrastive")


def label_efficiency(
    runs: list[str] | None = None,
    *,
    data: str | None = None,
    targets: str | None = None,
    smiles_column: str | None = None,
    split: SplitRule = "auto",
    labels_per_class: str = "1,2,5,10,50,all",
    method: Literal["linear", "knn", "svm"] = "linear",
    repeats: int | None = None,
    train_repeats: int = 3,
    finetune: bool = False,
    finetuning: Finetuning | None = None,
    leaks: bool = True,
    seed: int = 0,
    download: bool = False,
    cache: bool = True,
    output: str | None = None,
) -> None:
    """Draw test accuracy over the number of labels, for pretrained, untrained, from-scratch and raw inputs.

    The same draws of labelled items serve all of them, and the same test items; what is trained has the first
    few draws, and so, of folds and random splits, the test items of these alone. Intervals are Student's 95 %
    over draws; where there is one draw, as of all labels of a published split, over test items.

    Args:
        runs: run folders, checkpoints or exports.
        data: a labelled source of the same kind (default: what the first run trained on).
        targets: one column of a table to predict, of 0 and 1.
        smiles_column: of a table of molecules (default: the one named smiles).
        split: of molecules: scaffold, random or stratified.
        labels_per_class: numbers of labels, and all; those that a class does not have are left out.
        method: linear, knn or svm, on frozen features.
        repeats: draws of the labelled set (default: 10), one of each fold or random split at least.
        train_repeats: the first of these draws, for what is trained; 0 leaves it out.
        finetune: also fine-tune the first run's encoder.
        finetuning: of what is trained.
        leaks: count test items that pretraining has seen.
        seed: of splits, draws and training.
        download: whether torchvision may download the data.
        cache: keep features in ~/.cache/contrastive and use those that are there.
        output: folder of label_efficiency.json and .png, with all that is not as usual in their names
            (default: results in the first run's folder).
    """
    encoders = open_encoders(runs)
    assert runs is not None
    first = next(iter(encoders.values()))
    base = Protocol(
        source_of(first, data), method, parse_targets(targets), smiles_column, split,
        repeats=repeats, seed=seed, finetuning=finetuning or Finetuning(),
    )  # fmt: skip
    asked = parse_numbers(labels_per_class)
    task = read_task(first, replace(base, repeats=None), download=download)
    if task.kind == "values":
        raise ContrastiveError(f"{base.data} has no classes to count labels by; give --targets of 0 and 1")
    further = {"labels_per_class": labels_per_class, "train_repeats": train_repeats, "finetune": finetune}
    further = unusual(label_efficiency, further)
    name = result_name("label_efficiency", runs, first, base, "linear", further)
    file = result_file(name, runs, base, Path(output) if output else None)
    require_writable(file)
    trained = TRAINED[: 1 + finetune] if train_repeats else ()
    rows: list[dict[str, Any]] = []
    for number in _there(asked, task):
        rows += _rows(encoders, task, base, number, trained, train_repeats, cache)
        print(f"{number or 'all'} labels a class: done", flush=True)
    names = list(dict.fromkeys(row["representation"] for row in rows))
    _print(rows, names, task)
    seen = report_leaks(dict(zip(runs, encoders.values())), task, base.data) if leaks else None
    content = {
        "runs": runs,
        "protocol": base.to_json(),
        "train_repeats": train_repeats,
        "task": describe(task),
        "versions": {"torch": torch.__version__},
        "rows": rows,
        "leaks": seen,
    }
    picture = file.with_suffix(".png")
    write_json(file, content)
    write_whole(picture, lambda part: _plot(rows, names, task, part))
    print(f"result: {file}\npicture: {picture}")


def parse_numbers(text: str) -> list[int | None]:
    """``1,5,all`` as ``[1, 5, None]``.

    Raises:
        ContrastiveError: anything but positive numbers and all.
    """
    try:
        numbers = [None if part.strip() == "all" else int(part) for part in text.split(",")]
    except ValueError as error:
        raise ContrastiveError(
            f"--labels-per-class is {text!r}; expected numbers and all: 1,5,20,all"
        ) from error
    if any(number is not None and number < 1 for number in numbers):
        raise ContrastiveError(f"--labels-per-class is {text!r}; a class needs one label at least")
    return list(dict.fromkeys(numbers))


def _there(numbers: Sequence[int | None], task: Task) -> list[int | None]:
    """The numbers of labels that each class has in every training part; the others are warned of.

    Raises:
        ContrastiveError: none is left, or the items have no classes to count by.
    """
    if not any(numbers):
        return list(numbers)
    if not has_strata(task.y):
        raise ContrastiveError("labels per class need one class an item, not several targets or blanks")
    y = strata(task.y)
    most = min(int(np.unique(y[split.fit], return_counts=True)[1].min()) for split in task.splits)
    more = [number for number in numbers if number is not None and number > most]
    if len(more) == len(numbers):
        raise ContrastiveError(f"a class has {most} training labels, fewer than the {min(more)} asked for")
    if more:
        log.warning("a class has %d training labels; left out: %s", most, ", ".join(map(str, more)))
    return [number for number in numbers if number not in more]


def _rows(
    encoders: dict[str, FrozenEncoder],
    task: Task,
    base: Protocol,
    number: int | None,
    trained: Sequence[Method],
    train_repeats: int,
    cache: bool,
) -> list[dict[str, Any]]:
    """One number of labels: the frozen representations on all draws, the trained ones on the first few."""
    protocol = replace(base, labels_per_class=number)
    drawn = task.with_draws(protocol)
    evaluations = evaluate_all(encoders, [*encoders, "untrained", "raw"], drawn, protocol, cache=cache)
    few = replace(drawn, draws=drawn.draws[:train_repeats])
    for method in trained:
        evaluations += evaluate_all(encoders, list(encoders)[:1], few, replace(protocol, method=method))
    rows = []
    for i, evaluation in enumerate(evaluations):
        is_trained = i >= len(evaluations) - len(trained)
        name = (
            f"{evaluation.name}, fine-tuned"
            if is_trained and evaluation.name != "scratch"
            else evaluation.name
        )
        rows.append(evaluation.row() | {"representation": name, "labels_per_class": number})
    return rows


def _interval(row: dict[str, Any], primary: str) -> tuple[float, float]:
    """Over draws where there are several, else over test items."""
    low, high = row[f"{primary}_draws_ci95"]
    return (low, high) if low is not None else tuple(row[f"{primary}_ci95"])  # type: ignore[return-value]


def _print(rows: Sequence[dict[str, Any]], names: Sequence[str], task: Task) -> None:
    primary = PRIMARY[task.kind]
    numbers = list(dict.fromkeys(row["labels_per_class"] for row in rows))

    def cell(row: dict[str, Any]) -> str:
        low, high = _interval(row, primary)
        return f"{100 * row[f'{primary}_mean']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"

    print_table(
        f"Test {TITLES[primary]}, % [95 %], by labels a class; {len(task.splits[0].test)} test {task.unit}",
        ("representation", *(str(number or "all") for number in numbers)),
        [(name, *(cell(row) for row in rows if row["representation"] == name)) for name in names],
    )


def _plot(rows: Sequence[dict[str, Any]], names: Sequence[str], task: Task, file: Path) -> None:
    """Draw a line a representation; ``all`` stands at the number of labels a class that there are."""
    fit = task.splits[0].fit
    primary, num_classes = PRIMARY[task.kind], len(np.unique(task.y[fit]))
    everything = len(fit) / num_classes
    lines: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in names}
    ticks = {}
    for row in rows:
        x = row["labels_per_class"] or everything
        ticks[x] = str(row["labels_per_class"] or "all")
        lines[row["representation"]].append((x, row[f"{primary}_mean"], *_interval(row, primary)))
    chance = 1 / num_classes if primary == "accuracy" else None
    plot_label_efficiency(lines, ticks, file, ylabel=f"test {TITLES[primary]}, %", chance=chance)
