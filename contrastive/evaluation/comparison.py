"""Several recipes on equal terms: pretrained alike over seeds, evaluated alike, with intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from contrastive.data.image_dataset import ImageDataset
from contrastive.evaluation.knn import knn_accuracy
from contrastive.evaluation.linear import features_of, linear_probe
from contrastive.evaluation.protocol import Protocol
from contrastive.evaluation.statistics import UNIT, mean_interval
from contrastive.features import FrozenEncoder, load_encoder, untrained_like
from contrastive.pretrain import pretrain
from contrastive.report import write_json
from contrastive.saved import LAST

METRICS = ("knn_accuracy", "linear_accuracy")
RESULT = Path("results") / "comparison.json"  # in a run folder
_NEIGHBOURS = 20


def pretrained_row(
    name: str, seed: int, folder: Path, args: Sequence[str], train: ImageDataset, test: ImageDataset
) -> dict[str, Any]:
    """Pretrain one recipe with one seed and evaluate it; a run that has its result is not repeated.

    A run that was cut off goes on from its last checkpoint.

    Args:
        name: what the recipe is called in the table.
        seed: of the run and of the probe's validation split.
        folder: the run's folder.
        args: of ``contrastive pretrain``, without the folder and the seed.
        train: labelled images that the classifiers are fitted on.
        test: images they are tested on; no choice is made by them.

    Returns:
        ``name``, ``seed``, ``knn_accuracy``, ``linear_accuracy`` and the probe's ``protocol``.
    """
    if (folder / RESULT).exists():
        return json.loads((folder / RESULT).read_text())
    pretrain_or_resume(args, folder, seed)
    row = {"name": name, "seed": seed, **accuracies(load_encoder(folder), train, test, seed)}
    write_json(folder / RESULT, row)
    return row


def pretrain_or_resume(args: Sequence[str], folder: Path, seed: int) -> None:
    """Pretrain into ``folder``; a run that was cut off there goes on from its last checkpoint.

    Args:
        args: of ``contrastive pretrain``, without the folder and the seed.
        folder: the run's folder.
        seed: of the run.
    """
    resume = ["--ckpt_path", "last"] if (folder / LAST).exists() else []
    pretrain([*args, "--run_dir", str(folder), "--seed_everything", str(seed), *resume])


def untrained_row(
    seed: int, folder: Path, file: Path, train: ImageDataset, test: ImageDataset
) -> dict[str, Any]:
    """Evaluate the encoder of the run in ``folder`` before any training; ``file`` keeps the result."""
    if file.exists():
        return json.loads(file.read_text())
    encoder = untrained_like(load_encoder(folder), seed)
    row = {"name": "untrained", "seed": seed, **accuracies(encoder, train, test, seed)}
    write_json(file, row)
    return row


def accuracies(encoder: FrozenEncoder, train: ImageDataset, test: ImageDataset, seed: int) -> dict[str, Any]:
    """kNN (k = 20) and linear accuracy of a frozen encoder on a test split, with the probe's protocol."""
    h, held_out = (features_of(encoder, split) for split in (train, test))
    tensors = [torch.from_numpy(array) for array in (h.h, h.y, held_out.h, held_out.y)]
    protocol = Protocol(f"{len(train)} training and {len(test)} test images", seed=seed)
    return {
        "knn_accuracy": knn_accuracy(*tensors, k=_NEIGHBOURS),
        "linear_accuracy": linear_probe(h, held_out, protocol)["accuracy_mean"],
        "protocol": protocol.to_json(),
    }


def summarise(rows: Sequence[dict[str, Any]], reference: str) -> list[dict[str, Any]]:
    """Mean over seeds and its 95 % interval for each recipe, and the paired difference from one of them.

    Seeds are the draws: Student's t over them, and over the differences seed by seed, which the choice of
    initial weights and batches moves less than it moves the accuracies.

    Args:
        rows: of ``pretrained_row`` and ``untrained_row``.
        reference: the name of the recipe that the others are compared with.
    """
    by_name: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["name"], {})[row["seed"]] = row
    summary = []
    for name, own in by_name.items():
        line: dict[str, Any] = {"name": name, "seeds": sorted(own)}
        for metric in METRICS:
            values = [row[metric] for row in own.values()]
            line[metric], line[f"{metric}_ci95"] = mean_interval(values, within=UNIT)
            shared = own.keys() & by_name[reference].keys()
            paired = [own[seed][metric] - by_name[reference][seed][metric] for seed in sorted(shared)]
            if paired and name != reference:
                line[f"{metric}_difference"], line[f"{metric}_difference_ci95"] = mean_interval(paired)
        summary.append(line)
    return summary


def markdown(summary: Sequence[dict[str, Any]], reference: str) -> str:
    """The summary as a table, accuracies in percent with their intervals."""
    lines = [
        f"| | kNN, % | linear, % | kNN less {reference} | linear less {reference} |",
        "|---|---|---|---|---|",
    ]
    for line in summary:
        cells = [_cell(line, metric) for metric in METRICS]
        cells += [_cell(line, f"{metric}_difference", sign="+") for metric in METRICS]
        lines.append(f"| {line['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(line: dict[str, Any], key: str, sign: str = "") -> str:
    if key not in line:
        return ""
    low, high = line[f"{key}_ci95"]
    if math.isnan(low):  # of one seed
        return f"{100 * line[key]:{sign}.1f}"
    return f"{100 * line[key]:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"
