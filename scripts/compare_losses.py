"""InfoNCE, its debiased form and hard negatives on equal terms: accuracy over seeds, beside no training.

    python scripts/compare_losses.py --source CIFAR10 --train-subset 20000

Every loss is a recipe of configs/image/, with the settings of its paper; nothing is tuned here and nothing is
chosen by the test split. The encoder is a ResNet-18 of 16 channels, a small one, so that a CPU does for it.
A run that is finished is not repeated, one that was cut off goes on: call the command again.
The folder gets comparison.json (every run, and the summary) and comparison.md (the table).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from contrastive.data.images import ImageData
from contrastive.evaluation.comparison import markdown, pretrained_row, summarise, untrained_row
from contrastive.report import write_json, write_whole

RECIPES = {
    "InfoNCE": ["--config", "configs/image/simclr_cifar10.yaml"],
    "debiased": ["--config", "configs/image/debiased_cifar10.yaml"],
    "hard negatives": ["--config", "configs/image/hard_negatives_cifar10.yaml"],
}


def parser(description: str | None, runs: str) -> argparse.ArgumentParser:
    """Return the options of a comparison."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--source", default="CIFAR10", help="as in data.init_args.source")
    made.add_argument("--train-subset", type=int, help="pretraining and labelled images; all by default")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--epochs", type=int, default=15)
    made.add_argument("--batch-size", type=int, default=256)
    made.add_argument("--width", type=int, default=16, help="channels of the ResNet's first stage")
    made.add_argument("--stem", default="imagenet", choices=["small", "imagenet"], help="small costs more")
    made.add_argument("--precision", default="32-true", help="of the trainer; bf16-mixed where it is fast")
    made.add_argument("--threads", type=int, default=0, help="of torch, 0 for all")
    made.add_argument("--runs", type=Path, default=Path(runs), help="the folder of all runs")
    return made


def settings(options: argparse.Namespace) -> list[str]:
    """Return what every run is given besides its configuration."""
    given = {
        "data.init_args.source": options.source,
        "data.init_args.channels": 3,
        "data.init_args.train_subset": options.train_subset or "null",
        "data.init_args.batch_size": options.batch_size,
        "data.init_args.val_fraction": 0,  # nothing is chosen, so nothing needs to be set aside
        "model.init_args.encoder.init_args.width": options.width,
        "model.init_args.encoder.init_args.stem": options.stem,
        "model.init_args.warmup_epochs": options.epochs / 20,
        "trainer.max_epochs": options.epochs,
        "trainer.precision": options.precision,
        "trainer.enable_progress_bar": "false",
        "wandb": "off",
    }
    return [f"--{key}={value}" for key, value in given.items()]


def compare(recipes: dict[str, list[str]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Pretrain and evaluate every recipe with every seed; return the summary, the first recipe its reference.

    A seed of every recipe comes before the next seed, so that there is a table early.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    summary: list[dict[str, Any]] = []
    for seed in options.seeds:
        shape: dict[str, Any] = {"image_size": 32, "channels": 3}
        data = ImageData(options.source, **shape, train_subset=options.train_subset, seed=seed)
        train, test = data.read("train"), data.read("test")
        for name, recipe in recipes.items():
            folder = options.runs / f"{name.replace(' ', '_')}-seed{seed}"
            args = [*recipe, *settings(options)]
            rows.append(pretrained_row(name, seed, folder, args, train, test))
        file = options.runs / f"untrained-seed{seed}.json"
        rows.append(untrained_row(seed, folder, file, train, test))
        summary = summarise(rows, next(iter(recipes)))
        report(rows, summary, options)
    return summary


def report(rows: list[dict[str, Any]], summary: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Write and print what there is."""
    table = markdown(summary, rows[0]["name"])
    protocol = {key: str(value) for key, value in vars(options).items()} | {"torch": torch.__version__}
    content = {"protocol": protocol, "rows": rows, "summary": summary}
    write_json(options.runs / "comparison.json", content)
    write_whole(options.runs / "comparison.md", lambda part: part.write_text(table + "\n"))
    print(f"{table}\n{options.runs / 'comparison.md'}", flush=True)


if __name__ == "__main__":
    compare(RECIPES, parser(__doc__, "runs/compare_losses").parse_args())
