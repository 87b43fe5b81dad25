"""``contrastive quickstart``: pretraining without labels against its baselines, on real data, in a minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from contrastive.data.image_dataset import ImageDataset
from contrastive.data.images import read_images
from contrastive.errors import ContrastiveError
from contrastive.evaluation.evaluate import pretraining_views
from contrastive.evaluation.finetune import finetune
from contrastive.evaluation.linear import Features, features_of, linear_probe
from contrastive.evaluation.protocol import Finetuning, Protocol
from contrastive.evaluation.statistics import UNIT, mean_interval
from contrastive.evaluation.tasks import Task, read_task
from contrastive.features import FrozenEncoder, load_encoder, untrained_like
from contrastive.pretrain import pretrain
from contrastive.report import (
    percent,
    plot_embedding,
    plot_label_efficiency,
    print_table,
    track,
    write_json,
)
from contrastive.run_folder import make_folder
from contrastive.saved import LAST

RECIPE = "configs/image/simclr_digits.yaml"
LABELS_PER_CLASS = (1, 5, 20)
DESCRIPTIONS = {
    "raw": "raw pixels + probe",
    "untrained": "untrained + probe",
    "scratch": "trained from scratch",
    "pretrained": "pretrained + probe",
}
NUM_DRAWS, NUM_DRAWS_TRAINED = 20, 5
TRAINING = Finetuning(num_epochs=1, min_steps=60, lr=3e-3)  # one epoch: nothing is selected


def quickstart(*, graphs: bool = False, output: str | None = None, seed: int = 0) -> None:
    """Pretrain a small CNN on 1,257 handwritten digits without labels, then compare with few labels.

    The table shows the accuracy on 540 digits that neither pretraining nor any selection has seen, with 1, 5
    and 20 labels a class, of a linear probe on raw pixels, on the untrained and the pretrained encoder and of
    the same network trained from scratch on those labels alone.

    With --graphs the same comparison runs on molecules, in a few minutes.

    Args:
        graphs: pretrain on 5,000 molecules instead, and predict which pass the blood-brain barrier.
        output: the run folder (default: runs/quickstart/<time>).
        seed: of the pretraining and of the draws of labelled digits.
    """
    if graphs:
        from contrastive.quickstart_graphs import quickstart_graphs

        return quickstart_graphs(output=output, seed=seed)
    start = time.perf_counter()
    folder = begin(output or f"runs/quickstart/{time.strftime('%Y-%m-%d_%H-%M-%S')}")
    pretrain(["--config", RECIPE, "--run_dir", str(folder), "--seed_everything", str(seed), "--wandb", "off"])
    print("2/3  probing raw pixels, the untrained and the pretrained encoder")
    train, test = read_images("digits", "train"), read_images("digits", "test")
    protocol = Protocol("digits", repeats=NUM_DRAWS, seed=seed)
    features = represent(folder, (_pixels(train), _pixels(test)), train, test, seed)
    rows = probe_rows(features, LABELS_PER_CLASS, protocol)
    print("3/3  training the same network from scratch on those labels")
    encoder = load_encoder(folder)
    starts = {"scratch": partial(untrained_like, encoder)}
    task = read_task(encoder, replace(protocol, repeats=None))  # trained_rows draws
    rows += trained_rows(starts, task, LABELS_PER_CLASS, replace(protocol, finetuning=TRAINING))
    title = "Test accuracy on 540 digits, % [95 % interval of the mean over draws]"
    report(folder, title, DESCRIPTIONS, rows, features, test.classes, protocol.to_json())
    print(f"{time.perf_counter() - start:.0f} s in all. Next:\n{next_commands(folder)}")


def begin(output: str) -> Path:
    """Make the run folder, and settle on one thread.

    A second thread gains such small networks little, and waiting for it on a busy machine costs minutes. One
    thread also sums in one order, so that the numbers do not depend on how many cores there are.

    Raises:
        ContrastiveError: the folder holds a run, or cannot be written to.
    """
    torch.set_num_threads(1)
    threadpool_limits(1)
    folder = Path(output)
    if (folder / LAST).exists():
        raise ContrastiveError(f"{folder} already holds a run; give another --output")
    make_folder(folder / "plots")
    print("1/3  pretraining without labels")
    return folder


def represent(
    folder: Path, raw: tuple[Features, Features], train: Any, test: Any, seed: int
) -> dict[str, tuple[Features, Features]]:
    """Features of both labelled splits: the raw ones, and the encoder's before and after pretraining."""
    pretrained = load_encoder(folder)
    features = {"raw": raw}
    for name, encoder in (("untrained", untrained_like(pretrained, seed)), ("pretrained", pretrained)):
        features[name] = (features_of(encoder, train), features_of(encoder, test))
    return features


def _pixels(dataset: ImageDataset) -> Features:
    assert isinstance(dataset.images, torch.Tensor) and dataset.labels is not None
    return Features(dataset.images.flatten(1).float().numpy() / 255, dataset.labels.numpy())


def probe_rows(
    features: dict[str, tuple[Features, Features]], numbers: Sequence[int], protocol: Protocol
) -> list[dict[str, Any]]:
    """Linear probes of each representation, with each number of labels a class."""
    return [
        {"representation": name, "labels_per_class": k}
        | linear_probe(
            train, test, replace(protocol, labels_per_class=k), progress=f"{name}, {k} labels a class"
        )
        for name, (train, test) in features.items()
        for k in numbers
    ]


def trained_rows(
    starts: Mapping[str, Callable[[int], FrozenEncoder]],
    task: Task,
    numbers: Sequence[int],
    protocol: Protocol,
) -> list[dict[str, Any]]:
    """Networks trained on the first draws of the labels that the probes are trained on.

    Args:
        starts: by name, where training starts; called with a seed.
        task: the labelled items.
        numbers: of labels a class.
        protocol: says how they are trained, and the seed.
    """
    protocol = replace(protocol, repeats=NUM_DRAWS_TRAINED)
    draws = [
        (k, i, draw)
        for k in numbers
        for i, draw in enumerate(task.with_draws(replace(protocol, labels_per_class=k)).draws)
    ]
    accuracies: dict[tuple[str, int], list[float]] = {}
    for k, i, draw in track(draws, "training"):
        for name, start in starts.items():
            encoder, seed = start(protocol.seed + i), protocol.seed + i
            view = pretraining_views(encoder)[0]
            score = finetune(encoder, task, draw, protocol.finetuning, view=view, seed=seed).score
            accuracy = float((score.argmax(1) == task.y[draw.test]).mean())
            accuracies.setdefault((name, k), []).append(accuracy)
    rows = []
    for (name, k), values in accuracies.items():
        mean, interval = mean_interval(values, within=UNIT)
        row = {"accuracy_mean": mean, "accuracy_ci95": list(interval), "num_draws": len(values)}
        rows.append({"representation": name, "labels_per_class": k} | row)
    return rows


def report(
    folder: Path,
    title: str,
    descriptions: dict[str, str],
    rows: list[dict[str, Any]],
    features: dict[str, tuple[Features, Features]],
    classes: Sequence[str],
    protocol: dict[str, Any],
) -> None:
    """Print the table; write results/quickstart.json, its protocol, and the two pictures.

    Args:
        folder: of the run.
        title: of the table.
        descriptions: of the representations, by name, in the table's order.
        rows: of `probe_rows` and `trained_rows`.
        features: what was probed; the test items are drawn.
        classes: their names.
        protocol: what is written beside the rows.
    """
    order, numbers = list(descriptions), sorted({row["labels_per_class"] for row in rows})
    rows.sort(key=lambda row: (order.index(row["representation"]), row["labels_per_class"]))
    by_name = {descriptions[name]: [row for row in rows if row["representation"] == name] for name in order}
    print_table(
        title,
        ("representation", *(f"{k} label{'s' if k > 1 else ''} a class" for k in numbers)),
        [(name, *map(percent, own)) for name, own in by_name.items()],
        caption=f"{NUM_DRAWS} draws of the labelled items; {NUM_DRAWS_TRAINED} where the network is trained",
    )
    write_json(folder / "results" / "quickstart.json", rows)
    write_json(folder / "results" / "protocol.json", protocol | {"labels_per_class": numbers})
    panels = {descriptions[name].removesuffix(" + probe"): test.h for name, (_, test) in features.items()}
    plot_embedding(panels, features["raw"][1].y, classes, folder / "plots" / "embedding.png")
    lines = {
        name: [(row["labels_per_class"], row["accuracy_mean"], *row["accuracy_ci95"]) for row in own]
        for name, own in by_name.items()
    }
    ticks = {float(number): str(number) for number in numbers}
    plot_label_efficiency(lines, ticks, folder / "plots" / "label_efficiency.png", chance=1 / len(classes))
    for file in ("results/quickstart.json", "plots/embedding.png", "plots/label_efficiency.png"):
        print(f"  {folder / file}")


def next_commands(folder: Path) -> str:
    """Three commands to try next."""
    return f"""\
  contrastive probe {folder} --labels-per-class 2 --repeats 20
  contrastive embed {folder} --data digits --output digits.npz
  contrastive pretrain --config configs/image/simclr_cifar10.yaml --data.init_args.source YOUR/FOLDER"""
