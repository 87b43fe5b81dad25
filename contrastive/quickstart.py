"""``contrastive quickstart``: pretraining without labels against its baselines, on real data, in a minute."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from contrastive.building import build_module
from contrastive.data.image_dataset import ImageDataset
from contrastive.data.images import read_images
from contrastive.errors import ContrastiveError
from contrastive.evaluation.finetune import train_classifier
from contrastive.evaluation.linear import Features, features_of, linear_probe
from contrastive.evaluation.protocol import Protocol, labelled_draws
from contrastive.evaluation.statistics import mean_interval
from contrastive.features import (
    LAST,
    build_encoder,
    load_encoder,
    model_args,
    run_config,
    untrained_like,
)
from contrastive.pretrain import make_folder, pretrain
from contrastive.report import (
    percent,
    plot_embedding,
    plot_label_efficiency,
    print_table,
    track,
    write_json,
)

RECIPE = "configs/image/simclr_digits.yaml"
LABELS_PER_CLASS = (1, 5, 20)
DESCRIPTIONS = {
    "raw": "raw pixels + probe",
    "untrained": "untrained encoder + probe",
    "scratch": "trained from scratch",
    "pretrained": "pretrained encoder + probe",
}
ORDER = list(DESCRIPTIONS)
NUM_DRAWS, NUM_DRAWS_SCRATCH = 20, 5


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
    # A second thread gains so small a network little, and waiting for it on a busy machine costs minutes. One
    # thread also sums in one order, so that the numbers do not depend on how many cores there are.
    torch.set_num_threads(1)
    threadpool_limits(1)
    folder = Path(output) if output else Path("runs") / "quickstart" / time.strftime("%Y-%m-%d_%H-%M-%S")
    if (folder / LAST).exists():
        raise ContrastiveError(f"{folder} already holds a run; give another --output")
    make_folder(folder / "plots")
    print("1/3  pretraining without labels")
    pretrain(["--config", RECIPE, "--run_dir", str(folder), "--seed_everything", str(seed), "--wandb", "off"])
    print("2/3  probing raw pixels, the untrained and the pretrained encoder")
    train, test = read_images("digits", "train"), read_images("digits", "test")
    features = represent(folder, (_pixels(train), _pixels(test)), train, test, seed)
    rows = [row for name, (h, held_out) in features.items() for row in probe_rows(name, h, held_out, seed)]
    print("3/3  training the same network from scratch on those labels")
    rows += scratch_rows(folder, train, test, seed)
    report(folder, rows, features, test, seed)
    print(f"{time.perf_counter() - start:.0f} s in all. Next:\n{next_commands(folder)}")


def represent(
    folder: Path, raw: tuple[Features, Features], train: Any, test: Any, seed: int
) -> dict[str, tuple[Features, Features]]:
    """Features of both labelled splits: the raw ones, and the encoder's before and after pretraining."""
    pretrained = load_encoder(folder)
    features = {"raw": raw}
    for name, encoder in (("untrained", untrained_like(pretrained, seed)), ("pretrained", pretrained)):
        h, held_out = (features_of(encoder, part, batch_size=512, progress=None) for part in (train, test))
        features[name] = (h, held_out)
    return features


def _pixels(dataset: ImageDataset) -> Features:
    assert isinstance(dataset.images, torch.Tensor) and dataset.labels is not None
    return Features(dataset.images.flatten(1).float().numpy() / 255, dataset.labels.numpy())


def probe_rows(name: str, train: Features, test: Features, seed: int) -> list[dict[str, Any]]:
    """Linear probes with 1, 5 and 20 labels a class."""
    rows = []
    for k in LABELS_PER_CLASS:
        result = linear_probe(
            train, test, _protocol(k, NUM_DRAWS, seed), progress=f"{name}, {k} labels a class"
        )
        rows.append(_row(name, k, result["accuracy_mean"], result["accuracy_ci95"], NUM_DRAWS))
    return rows


def scratch_rows(folder: Path, train: ImageDataset, test: ImageDataset, seed: int) -> list[dict[str, Any]]:
    """The network of the run, trained on the first draws of the labels that the probes are trained on."""
    config = run_config(folder)
    assert train.labels is not None
    view = build_module(model_args(config)["views"][0])
    accuracies: dict[int, list[float]] = {k: [] for k in LABELS_PER_CLASS}
    draws = [
        (k, fit)
        for k in LABELS_PER_CLASS
        for fit, _ in labelled_draws(train.labels.numpy(), _protocol(k, NUM_DRAWS_SCRATCH, seed))
    ]
    for i, (k, fit) in enumerate(track(draws, "from scratch")):
        torch.manual_seed(seed + i)
        encoder, preprocess = build_encoder(config)
        batch = train.__getitems__(fit.tolist())
        assert batch.label is not None
        model = train_classifier(encoder, view, batch.input, batch.label, num_classes=10, seed=seed + i)
        with torch.inference_mode():
            predicted = model(preprocess(test.images)).argmax(1)
        accuracies[k].append(float((predicted == test.labels).float().mean()))
    return [_row("scratch", k, *mean_interval(accuracies[k]), NUM_DRAWS_SCRATCH) for k in LABELS_PER_CLASS]


def _protocol(labels_per_class: int, repeats: int, seed: int) -> Protocol:
    return Protocol("digits", labels_per_class=labels_per_class, repeats=repeats, seed=seed)


def _row(
    name: str, labels_per_class: int, mean: float, interval: Sequence[float], num_draws: int
) -> dict[str, Any]:
    return {
        "representation": name,
        "labels_per_class": labels_per_class,
        "accuracy_mean": mean,
        "accuracy_ci95": list(interval),
        "num_draws": num_draws,
    }


def report(
    folder: Path,
    rows: list[dict[str, Any]],
    features: dict[str, tuple[Features, Features]],
    test: ImageDataset,
    seed: int,
) -> None:
    """Print the table; write results/quickstart.json, its protocol, and the two pictures."""
    rows.sort(key=lambda row: (ORDER.index(row["representation"]), row["labels_per_class"]))
    by_name = {name: [percent(row) for row in rows if row["representation"] == name] for name in ORDER}
    print_table(
        "Test accuracy on 540 digits, % [95 % interval of the mean over draws]",
        ("representation", *(f"{k} label{'s' if k > 1 else ''} a class" for k in LABELS_PER_CLASS)),
        [(DESCRIPTIONS[name], *cells) for name, cells in by_name.items()],
        caption=f"{NUM_DRAWS} draws of the labelled digits; {NUM_DRAWS_SCRATCH} for training from scratch",
    )
    write_json(folder / "results" / "quickstart.json", rows)
    write_json(
        folder / "results" / "protocol.json",
        Protocol("digits", repeats=NUM_DRAWS, seed=seed).to_json() | {"labels_per_class": LABELS_PER_CLASS},
    )
    panels = {
        DESCRIPTIONS[name].removesuffix(" + probe"): held_out.h for name, (_, held_out) in features.items()
    }
    plot_embedding(panels, features["raw"][1].y, test.classes, folder / "plots" / "embedding.png")
    plot_label_efficiency(rows, 1 / len(test.classes), folder / "plots" / "label_efficiency.png")
    for file in ("results/quickstart.json", "plots/embedding.png", "plots/label_efficiency.png"):
        print(f"  {folder / file}")


def next_commands(folder: Path) -> str:
    """Three commands to try next."""
    return f"""\
  contrastive probe {folder} --labels-per-class 2 --repeats 20
  contrastive embed {folder} --data digits --out digits.npz
  contrastive pretrain --config configs/image/simclr_cifar10.yaml --data.init_args.source YOUR/FOLDER"""
