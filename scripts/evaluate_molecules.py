"""Evaluate a run on MoleculeNet: frozen, fine-tuned, and the baselines, on five classification sets.

    python scripts/evaluate_molecules.py RUN --data FOLDER

FOLDER holds bbbp.csv, bace.csv, clintox.csv, sider.csv and tox21.csv; those not there are left out. Each set
is split by scaffold. Every fit is one of `contrastive probe`. A network that is not pretrained has the same
fine-tuning, with the same number of steps; nothing ends early, and the last epoch's number is given too, as
Hu et al. 2020 (arXiv 1905.12265) do.
Every finished fit is kept in RUN/results/molecules/, and a run that was cut off continues with the next.
"""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse import auto_cli

from contrastive.errors import ContrastiveError
from contrastive.evaluation.evaluate import defined, evaluate_all
from contrastive.evaluation.protocol import Finetuning, Method, Protocol
from contrastive.evaluation.runs import results_folder
from contrastive.evaluation.statistics import UNIT, mean_interval
from contrastive.evaluation.tasks import Task, read_task
from contrastive.feature_cache import fingerprint_of
from contrastive.features import FrozenEncoder, load_encoder
from contrastive.report import track, write_json, write_whole

# None: every column but the ones named here.
TARGETS: dict[str, tuple[str, ...] | None] = {
    "bbbp": ("p_np",),
    "bace": ("Class",),
    "clintox": ("FDA_APPROVED", "CT_TOX"),
    "sider": None,
    "tox21": None,
}
_NO_TARGETS = ("smiles", "mol_id")

TITLES = {
    "morgan": "Morgan fingerprints + logistic regression",
    "untrained": "untrained encoder, frozen",
    "frozen": "pretrained encoder, frozen",
    "scratch": "no pretraining, fine-tuned",
    "finetuned": "pretrained, fine-tuned",
}
# the representation and the method that contrastive probe knows each by
FITS: dict[str, tuple[str, Method]] = {
    "morgan": ("raw", "linear"),
    "untrained": ("untrained", "linear"),
    "frozen": ("pretrained", "linear"),
    "scratch": ("scratch", "scratch"),
    "finetuned": ("pretrained", "finetune"),
}


def evaluate(
    run: str,
    *,
    data: str,
    sets: list[str] | None = None,
    num_seeds: int = 3,
    num_steps: int = 1000,
    batch_size: int = 32,
    lr: float = 1e-3,
    encoder_lr: float = 3e-4,
    dropout: float = 0.0,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    num_threads: int | None = None,
    cache_dir: str | None = None,
) -> None:
    """Evaluate a run on MoleculeNet by the scaffold split.

    Args:
        run: a run folder, a checkpoint or an export.
        data: the folder of the CSV files.
        sets: some of bbbp, bace, clintox, sider and tox21 (default: those in the folder).
        num_seeds: of fine-tuning and of the untrained encoders.
        num_steps: of fine-tuning, of every set; to the nearest whole epoch.
        batch_size: of fine-tuning.
        lr: of fine-tuning, of the last layer.
        encoder_lr: of fine-tuning, of the encoder, pretrained or not.
        dropout: of fine-tuning.
        precision: of fine-tuning's steps, pretrained or not.
        num_threads: of torch.
        cache_dir: where features of molecules are kept (default: ~/.cache/contrastive).
    """
    logging.basicConfig(format="%(message)s")
    if num_threads:
        torch.set_num_threads(num_threads)
    encoder = load_encoder(run)
    folder = results_folder(Path(run)) / "molecules"
    names = sets or names_in(data)
    settings: dict[str, Any] = dict(
        batch_size=batch_size, lr=lr, encoder_lr=encoder_lr, dropout=dropout, precision=precision
    )
    finetuning = Finetuning(**settings, last_epoch=True, min_steps=1)
    settings |= dict(num_steps=num_steps, num_seeds=num_seeds)
    results = {}
    for name in names:
        file = Path(data) / f"{name}.csv"
        targets = TARGETS[name] or columns(file)
        protocol = Protocol(str(file), targets=targets, split="scaffold", finetuning=finetuning)
        output = folder / f"{name}.json"
        results[name] = evaluate_set(encoder, protocol, num_steps, num_seeds, output, cache_dir)
        print(f"{name}: done", flush=True)
    summary = {"run": run, "settings": settings, "sets": {n: r["rows"] for n, r in results.items()}}
    summary["difference"] = differences(results)
    write_json(folder / "summary.json", summary)
    text = markdown(results, settings)
    write_whole(folder / "summary.md", lambda part: part.write_text(text))
    print(text)


def names_in(data: str) -> list[str]:
    """The sets that a folder holds; ContrastiveError where there are none."""
    names = [name for name in TARGETS if (Path(data) / f"{name}.csv").exists()]
    if not names:
        raise ContrastiveError(f"{data} holds none of {', '.join(f'{name}.csv' for name in TARGETS)}")
    return names


def epochs_of(steps: int, size: int, batch_size: int) -> int:
    """Whole epochs nearest to a number of steps; an epoch leaves a last, smaller batch out."""
    return max(1, round(steps / max(1, size // batch_size)))


def columns(file: Path) -> tuple[str, ...]:
    """The target columns of SIDER and Tox21: all but the SMILES and the number."""
    with file.open(newline="") as stream:
        return tuple(name for name in next(csv.reader(stream)) if name not in _NO_TARGETS)


def evaluate_set(
    encoder: FrozenEncoder,
    protocol: Protocol,
    num_steps: int,
    num_seeds: int,
    output: Path,
    cache_dir: str | None,
) -> dict[str, Any]:
    """Every kind of fit on one set, those with a seed several times; written to ``output`` one by one.

    Returns:
        ``protocol``, ``encoder`` (a hash of its weights), ``parts`` (the number of molecules in each),
        ``cells`` (every fit: its ``kind``, ``seed``, and ROC-AUC in [0, 1] of validation and test) and
        ``rows``, see `summarise`.

    Raises:
        ContrastiveError: the file cannot be evaluated, or ``output`` is of another protocol or encoder.
    """
    task = read_task(encoder, protocol, cache_dir=cache_dir)
    if task.kind != "labels":
        raise ContrastiveError(f"{protocol.data}: {', '.join(task.names)} hold other numbers than 0 and 1")
    parts = dict(zip(("train", "val", "test"), map(len, task.draws[0])))
    num_epochs = epochs_of(num_steps, parts["train"], protocol.finetuning.batch_size)
    finetuning = replace(protocol.finetuning, num_epochs=num_epochs, patience=num_epochs)
    protocol = replace(protocol, finetuning=finetuning)
    result = {"protocol": protocol.to_json(), "encoder": fingerprint_of(encoder), "parts": parts}
    cells = _earlier(output, result)
    todo = [("morgan", 0), ("frozen", 0)]
    todo += [(kind, seed) for kind in ("untrained", "scratch", "finetuned") for seed in range(num_seeds)]
    done = {(cell["kind"], cell["seed"]) for cell in cells}
    label = f"Evaluating on {Path(protocol.data).name}"
    for kind, seed in track([fit for fit in todo if fit not in done], label):
        cells.append(
            {"kind": kind, "seed": seed, **fitted(kind, encoder, task, replace(protocol, seed=seed))}
        )
        write_json(output, {**result, "cells": cells, "rows": summarise(cells)})
    return {**result, "num_seeds": num_seeds, "cells": cells, "rows": summarise(cells)}


def fitted(kind: str, encoder: FrozenEncoder, task: Task, protocol: Protocol) -> dict[str, Any]:
    """The numbers of one fit: ``val``, ``test``, its ``test_ci95`` over molecules, and ``test_last``."""
    name, method = FITS[kind]
    protocol = replace(protocol, method=method)
    (evaluation,) = evaluate_all({"pretrained": encoder}, [name], task, protocol, cache=False)
    row = evaluation.row()
    numbers = {"val": row["val_roc_auc"], "test": row["roc_auc_mean"], "test_ci95": row["roc_auc_ci95"]}
    last = {"test_last": row["roc_auc_last_mean"]} if "roc_auc_last_mean" in row else {}
    return numbers | last | row["chosen"][0]


def _earlier(output: Path, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells that an earlier call has finished."""
    if not output.exists():
        return []
    try:
        earlier = json.loads(output.read_text())
        if all(earlier[key] == value for key, value in result.items()):
            return earlier["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ContrastiveError(f"{output} cannot be continued ({error!r}); remove it") from error
    raise ContrastiveError(f"{output} holds results of another protocol or encoder; remove it")


def summarise(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a kind of fit: means over its seeds, with a 95 % interval.

    Returns:
        Rows of ``kind``, ``val``, ``test`` and ``test_last`` (fine-tuning alone) with ``…_ci95``, and
        ``num_seeds``. The interval is Student's over seeds; of a fit that has no seed, over test molecules.
    """
    rows = []
    for kind in (kind for kind in TITLES if any(cell["kind"] == kind for cell in cells)):
        own = [cell for cell in cells if cell["kind"] == kind]
        row: dict[str, Any] = {"kind": kind, "num_seeds": len(own)}
        for key in ("val", "test", "test_last"):
            if key in own[0]:
                mean, interval = mean_interval([cell[key] for cell in own], within=UNIT)
                row |= {key: mean, f"{key}_ci95": [defined(end) for end in interval]}
        if len(own) == 1:
            row["test_ci95"] = own[0]["test_ci95"]
        rows.append(row)
    return rows


# title: what is compared with what, by which number
COMPARISONS = {
    "frozen": ("frozen", "untrained", "test"),
    "fine-tuned, best validation epoch": ("finetuned", "scratch", "test"),
    "fine-tuned, last epoch": ("finetuned", "scratch", "test_last"),
}


def differences(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """By how many points pretraining is ahead, averaged over the sets, paired by seed.

    The frozen pretrained encoder has no seed and is compared with the untrained encoder of each.

    Returns:
        For each of the `COMPARISONS` the mean and its 95 % interval over seeds.
    """
    found = {}
    for title, (with_it, without, key) in COMPARISONS.items():
        gains = [
            [
                100 * (_cell(result, with_it, seed)[key] - _cell(result, without, seed)[key])
                for seed in range(result["num_seeds"])
            ]
            for result in results.values()
        ]
        mean, interval = mean_interval(np.mean(gains, axis=0).tolist())
        found[title] = {"mean": mean, "ci95": [defined(end) for end in interval]}
    return found


def _cell(result: dict[str, Any], kind: str, seed: int) -> dict[str, Any]:
    seed = 0 if kind == "frozen" else seed
    return next(cell for cell in result["cells"] if (cell["kind"], cell["seed"]) == (kind, seed))


def markdown(results: dict[str, dict[str, Any]], settings: dict[str, Any]) -> str:
    """The table of test ROC-AUC, in points, with the half width of the 95 % interval or the interval."""
    lines = [f"| test ROC-AUC, % | {' | '.join(results)} | mean |", "|---" * (len(results) + 2) + "|"]
    columns = [(kind, "test") for kind in TITLES] + [("scratch", "test_last"), ("finetuned", "test_last")]
    for kind, key in columns:
        rows = [next(row for row in result["rows"] if row["kind"] == kind) for result in results.values()]
        title = TITLES[kind]
        if kind in ("scratch", "finetuned"):
            title += ", last epoch" if key == "test_last" else ", best validation epoch"
        cells = [f"{100 * row[key]:.1f} {_interval(row[f'{key}_ci95'])}" for row in rows]
        lines.append(f"| {title} | {' | '.join(cells)} | {100 * np.mean([row[key] for row in rows]):.1f} |")
    lines.append("")
    for title, gain in differences(results).items():
        low, high = gain["ci95"]
        interval = "" if low is None else f" [{low:+.1f}, {high:+.1f}]"  # one seed has none
        lines.append(
            f"Pretraining gains {gain['mean']:+.1f} points{interval}, {title}, mean over the sets, paired by "
            "seed."
        )
    lines.append(f"\nFine-tuning: {', '.join(f'{key} {value}' for key, value in settings.items())}.\n")
    return "\n".join(lines)


def _interval(interval: list[float | None]) -> str:
    low, high = interval
    return "" if low is None or high is None else f"[{100 * low:.0f}, {100 * high:.0f}]"


if __name__ == "__main__":
    try:
        auto_cli(evaluate)
    except ContrastiveError as error:
        sys.exit(f"error: {error}")
