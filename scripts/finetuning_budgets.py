"""What pretraining is worth after so many steps of fine-tuning, on the sets of evaluate_molecules.py.

    python scripts/finetuning_budgets.py RUN0 RUN1 RUN2 --data FOLDER --output budgets.json

Seed s of fine-tuning starts from run s, and is beside a network that is not pretrained, with seed s, as many
steps and sets. Of ``--encoder-lrs`` either side has, at every budget, the one with the better ROC-AUC
of the validation parts, averaged over sets and seeds. Budgets go to the nearest whole epoch of each set, one
at least. What is finished is kept in the output and not done again.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluate_molecules import TARGETS, columns, epochs_of, fitted, names_in

from contrastive.errors import ContrastiveError
from contrastive.evaluation.evaluate import defined
from contrastive.evaluation.protocol import Finetuning, Protocol
from contrastive.evaluation.statistics import mean_interval
from contrastive.evaluation.tasks import Task, read_task
from contrastive.feature_cache import fingerprint_of
from contrastive.features import FrozenEncoder, load_encoder
from contrastive.report import track, write_json

SIDES = ("scratch", "finetuned")
SCORES = ("val", "test", "test_last")
Cells = list[dict[str, Any]]


def fit_all(
    encoders: Sequence[FrozenEncoder], files: Sequence[Path], args: argparse.Namespace, cells: Cells
) -> None:
    """Add to ``cells`` what is not in it, and write it after every fit."""
    settings = {"batch_size": args.batch_size, "lr": args.lr, "precision": args.precision}
    for seed, encoder in enumerate(encoders):
        for file in files:
            finetuning = Finetuning(**settings, dropout=0.0, last_epoch=True, min_steps=1)
            targets = TARGETS[file.stem] or columns(file)
            protocol = Protocol(
                str(file), targets=targets, split="scaffold", finetuning=finetuning, seed=seed
            )
            task = read_task(encoder, protocol, cache_dir=args.cache_dir)
            todo = [cell for cell in wanted(task, seed, file.stem, args) if not find(cells, **cell)]
            for cell in track(todo, f"Fine-tuning on {file.name}, seed {seed}"):
                epochs = {"num_epochs": cell["epochs"], "patience": cell["epochs"]}
                own = replace(finetuning, encoder_lr=cell["encoder_lr"], **epochs)
                numbers = fitted(cell["side"], encoder, task, replace(protocol, finetuning=own))
                cells.append({**cell, **{score: numbers[score] for score in SCORES}})
                write_json(args.output, {"settings": described(encoders, args), "cells": cells})


def wanted(task: Task, seed: int, name: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The fits of a set with a seed; two budgets may be as many epochs."""
    size = len(task.draws[0].fit)
    for epochs in sorted({epochs_of(steps, size, args.batch_size) for steps in args.steps}):
        for side in SIDES:
            for encoder_lr in args.encoder_lrs:
                yield {
                    "set": name,
                    "size": size,
                    "seed": seed,
                    "side": side,
                    "epochs": epochs,
                    "encoder_lr": encoder_lr,
                }


def find(cells: Cells, **key: Any) -> Cells:
    """The cells that agree with ``key``."""
    return [cell for cell in cells if key.items() <= cell.items()]


def described(encoders: Sequence[FrozenEncoder], args: argparse.Namespace) -> dict[str, Any]:
    """What all cells of an output have in common; ``encoders`` are hashes of the weights."""
    shared = {key: getattr(args, key) for key in ("data", "batch_size", "lr", "precision")}
    return {**shared, "encoders": [fingerprint_of(encoder) for encoder in encoders]}


def scores(cells: Cells, side: str, encoder_lr: float, steps: int, batch_size: int) -> dict[str, Any]:
    """ROC-AUC in points, ``(seeds, sets)``, by score."""
    own = [
        cell
        for cell in find(cells, side=side, encoder_lr=encoder_lr)
        if cell["epochs"] == epochs_of(steps, cell["size"], batch_size)
    ]
    sets, seeds = list(dict.fromkeys(c["set"] for c in own)), sorted({c["seed"] for c in own})
    return {
        score: 100 * np.array([[find(own, set=name, seed=seed)[0][score] for name in sets] for seed in seeds])
        for score in SCORES
    }


def summarise(cells: Cells, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a budget: the rates chosen, mean ROC-AUC, and the gains with Student's intervals over seeds."""
    rows = []
    for steps in args.steps:
        row: dict[str, Any] = {"steps": steps}
        best = {}
        for side in SIDES:
            found = {lr: scores(cells, side, lr, steps, args.batch_size) for lr in args.encoder_lrs}
            rate = max(found, key=lambda lr: found[lr]["val"].mean())
            best[side] = found[rate]
            row |= {f"{side}_encoder_lr": rate}
            row |= {f"{side}_{score}": float(found[rate][score].mean()) for score in SCORES}
        for score in SCORES:
            mean, interval = mean_interval(
                (best["finetuned"][score] - best["scratch"][score]).mean(1).tolist()
            )
            row |= {f"gain_{score}": mean, f"gain_{score}_ci95": [defined(end) for end in interval]}
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of test ROC-AUC at the best validation epoch; at the last."""

    def gain(row: dict[str, Any], score: str) -> str:
        low, high = row[f"gain_{score}_ci95"]
        interval = "" if low is None else f" [{low:+.1f}, {high:+.1f}]"  # one run has none
        return f"{row[f'gain_{score}']:+.1f}{interval}"

    lines = [
        "| steps | no pretraining | pretrained | gain, paired by seed | on validation |",
        "|---" * 5 + "|",
    ]
    for row in rows:
        sides = [f"{row[f'{side}_test']:.1f}; {row[f'{side}_test_last']:.1f}" for side in SIDES]
        sides = [f"{cell} ({row[f'{side}_encoder_lr']:g})" for side, cell in zip(SIDES, sides)]
        gains = f"{gain(row, 'test')}; {gain(row, 'test_last')}"
        lines.append(f"| {row['steps']} | {' | '.join(sides)} | {gains} | {gain(row, 'val')} |")
    return "\n".join(lines)


def main() -> None:
    """Fit what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", help="run folders, checkpoints or exports of the same network")
    parser.add_argument("--data", required=True, help="folder of the CSV files")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 200, 500])
    parser.add_argument("--encoder-lrs", type=float, nargs="+", default=[1e-4, 3e-4])
    parser.add_argument("--lr", type=float, default=1e-3, help="of the last layer")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cache-dir", help="of features of molecules")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    torch.set_num_threads(args.threads)
    files = [Path(args.data) / f"{name}.csv" for name in names_in(args.data)]
    encoders = [load_encoder(run) for run in args.runs]
    settings = described(encoders, args)
    cells: Cells = []
    if args.output.exists():
        earlier = json.loads(args.output.read_text())
        if earlier["settings"] != settings:
            raise ContrastiveError(
                f"{args.output} holds fits of other runs or settings; give another --output"
            )
        cells = earlier["cells"]
    fit_all(encoders, files, args, cells)
    rows = summarise(cells, args)
    write_json(args.output, {"settings": settings, "cells": cells, "rows": rows})
    print(markdown(rows))


if __name__ == "__main__":
    try:
        main()
    except ContrastiveError as error:
        sys.exit(f"error: {error}")
