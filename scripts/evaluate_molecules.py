"""Evaluate a run on MoleculeNet: frozen, fine-tuned, and the baselines, on five classification sets.

    python scripts/evaluate_molecules.py RUN --data FOLDER

FOLDER holds bbbp.csv, bace.csv, clintox.csv, sider.csv and tox21.csv; those not there are left out.
Every finished fit is kept in RUN/results/molecules/, and a run that was cut off continues with the next.
"""

from __future__ import annotations

import csv
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli

from contrastive.errors import ContrastiveError
from contrastive.evaluation.evaluate import results_folder
from contrastive.evaluation.molecules import TITLES, probe_molecules
from contrastive.evaluation.statistics import mean_interval
from contrastive.features import load_encoder
from contrastive.report import write_json

# None: every column but the ones named here.
TARGETS: dict[str, tuple[str, ...] | None] = {
    "bbbp": ("p_np",),
    "bace": ("Class",),
    "clintox": ("FDA_APPROVED", "CT_TOX"),
    "sider": None,
    "tox21": None,
}
_NO_TARGETS = ("smiles", "mol_id")


def evaluate(
    run: str,
    *,
    data: str,
    sets: list[str] | None = None,
    num_seeds: int = 3,
    num_epochs: int = 30,
    batch_size: int = 32,
    lr: float = 1e-3,
    dropout: float = 0.5,
    num_threads: int | None = None,
    cache_dir: str | None = None,
) -> None:
    """Evaluate a run on MoleculeNet by the scaffold split.

    Args:
        run: a run folder, a checkpoint or an export.
        data: the folder of the CSV files.
        sets: some of bbbp, bace, clintox, sider and tox21 (default: those in the folder).
        num_seeds: of fine-tuning and of the untrained encoders.
        num_epochs: of fine-tuning.
        batch_size: of fine-tuning.
        lr: of fine-tuning.
        dropout: of fine-tuning.
        num_threads: of torch.
        cache_dir: where features of molecules are kept (default: ~/.cache/contrastive).
    """
    logging.basicConfig(format="%(message)s")
    if num_threads:
        torch.set_num_threads(num_threads)
    encoder = load_encoder(run)
    folder = results_folder(Path(run)) / "molecules"
    names = sets or [name for name in TARGETS if (Path(data) / f"{name}.csv").exists()]
    if not names:
        raise ContrastiveError(f"{data} holds none of {', '.join(f'{name}.csv' for name in TARGETS)}")
    settings = dict(num_seeds=num_seeds, num_epochs=num_epochs, batch_size=batch_size, lr=lr, dropout=dropout)
    results = {}
    for name in names:
        file = Path(data) / f"{name}.csv"
        targets = TARGETS[name] or columns(file)
        results[name] = probe_molecules(
            encoder, str(file), targets, cache_dir=cache_dir, output=folder / f"{name}.json", **settings
        )
        print(f"{name}: done", flush=True)
    summary = {"run": run, "settings": settings, "sets": {n: r["rows"] for n, r in results.items()}}
    summary["difference"] = differences(results)
    write_json(folder / "summary.json", summary)
    text = markdown(results, settings)
    (folder / "summary.md").write_text(text)
    print(text)


def columns(file: Path) -> list[str]:
    """The target columns of SIDER and Tox21: all but the SMILES and the number."""
    with file.open(newline="") as stream:
        return [name for name in next(csv.reader(stream)) if name not in _NO_TARGETS]


def differences(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """By how many points fine-tuning gains from pretraining, averaged over the sets, paired by seed.

    Returns:
        For ``test`` (the best validation epoch) and ``test_last``: the mean and its 95 % interval over seeds.
    """
    found = {}
    for key in ("test", "test_last"):
        gains = [
            [
                100 * (_cell(result, "finetuned", seed)[key] - _cell(result, "scratch", seed)[key])
                for seed in range(result["protocol"]["num_seeds"])
            ]
            for result in results.values()
        ]
        mean, interval = mean_interval(np.mean(gains, axis=0).tolist())
        found[key] = {"mean": mean, "ci95": list(interval)}
    return found


def _cell(result: dict[str, Any], kind: str, seed: int) -> dict[str, Any]:
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
    for key, what in (("test", "best validation epoch"), ("test_last", "last epoch")):
        gain = differences(results)[key]
        low, high = gain["ci95"]
        lines.append(
            f"Pretraining gains {gain['mean']:+.1f} points [{low:+.1f}, {high:+.1f}] at the {what}, "
            "fine-tuned, mean over the sets, paired by seed."
        )
    lines.append(f"\nFine-tuning: {', '.join(f'{key} {value}' for key, value in settings.items())}.\n")
    return "\n".join(lines)


def _interval(interval: list[float]) -> str:
    return f"[{100 * interval[0]:.0f}, {100 * interval[1]:.0f}]"


if __name__ == "__main__":
    try:
        auto_cli(evaluate)
    except ContrastiveError as error:
        sys.exit(f"error: {error}")
