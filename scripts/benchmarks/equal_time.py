"""kNN accuracy after the same time of SimCLR, this package beside lightly.

    python scripts/benchmarks/equal_time.py --source FOLDER --train-subset 20000 --seconds 240

Both train the same network (this package's ResNet-18, narrow and with the ImageNet stem, so that a CPU does
for it) from the same initial weights, with a two-layer head, NT-Xent at t = 0.5 and AdamW, whose rate warms
up over a twentieth of the time and falls along a cosine to its end. The views are SimCLR's for CIFAR-10
(strength 0.5, no blur). lightly runs as in its examples: its transform on PIL images in a ``DataLoader``, its
head and its loss, a pass for each view. Ours is what ``contrastive pretrain`` runs: uint8 images in memory,
batched views, both in one pass, channels last. The images are decoded before the clock starts, for both.

The time is the process's in one thread, so that other work on the machine does not count; with the loader in
the same process it is what a quiet core takes on the wall. Evaluated alike: kNN (k = 20) among the training
images, on the test images. Nothing is tuned here. A run whose result is in the folder is not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image

sys.path.pop(0)  # this file's folder, in which names of packages could be files

from augmentations.image import simclr
from contrastive.data.epochs import as_is
from contrastive.data.image_dataset import ImageDataset
from contrastive.data.images import ImageData
from contrastive.evaluation.knn import knn_accuracy
from contrastive.evaluation.statistics import mean_interval
from contrastive.features import FrozenEncoder, default_preprocess
from contrastive.items import encode_items
from contrastive.losses import InfoNCE
from contrastive.module import ContrastiveModule
from contrastive.optimizers import decay_groups
from contrastive.report import write_json
from encoders.heads import MLPHead
from encoders.image import ResNet

LR, WEIGHT_DECAY, TEMPERATURE = 1e-3, 1e-4, 0.5


class PILImages(Dataset):
    """Images already decoded, through one of lightly's transforms."""

    def __init__(self, images: Tensor, transform: Callable[..., Any]) -> None:
        self.images, self.transform = [to_pil_image(image) for image in images], transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> list[Tensor]:
        return self.transform(self.images[i])


def lightly_run(
    encoder: nn.Module, train: ImageDataset, batch_size: int
) -> tuple[nn.Module, Iterator[Callable]]:
    """lightly's training: the modules to train, and for each step a function that returns the loss."""
    transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
    dataset = PILImages(train.images, transform)
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=True, drop_last=True)
    width = encoder.num_features
    head, criterion = SimCLRProjectionHead(width, width, 128), NTXentLoss(temperature=TEMPERATURE)

    def steps() -> Iterator[Callable]:
        while True:
            for views in loader:
                yield lambda views=views: criterion(head(encoder(views[0])), head(encoder(views[1])))

    return nn.ModuleList([encoder, head]), steps()


def our_run(encoder: nn.Module, train: ImageDataset, batch_size: int) -> tuple[nn.Module, Iterator[Callable]]:
    """This package's training, with the same two things."""
    module = ContrastiveModule(
        encoder, [simclr(size=32, strength=0.5)], projector=MLPHead, loss=InfoNCE(temperature=TEMPERATURE)
    )

    loader = DataLoader(train, batch_size=batch_size, shuffle=True, drop_last=True, collate_fn=as_is)

    def steps() -> Iterator[Callable]:
        for epoch in itertools.count():
            for batch in loader:
                # a module without a trainer is always in epoch 0: other indices are other draws
                later = batch._replace(index=batch.index + epoch * len(train))
                yield lambda later=later: module.step(later)["loss"]

    return module, steps()


def train(modules: nn.Module, steps: Iterator[Callable], seconds: float) -> int:
    """Train for a time; return the number of steps."""
    optimizer = torch.optim.AdamW(decay_groups(modules), lr=LR, weight_decay=WEIGHT_DECAY)
    modules.train()
    number, start = 0, time.process_time()
    while (progress := (time.process_time() - start) / seconds) < 1:
        warm = min(1.0, progress / 0.05)
        for group in optimizer.param_groups:
            group["lr"] = LR * warm * 0.5 * (1 + math.cos(math.pi * progress))
        loss = next(steps)()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        number += 1
    return number


def run(who: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate one of both."""
    file = options.runs / f"{who}-seed{seed}.json"
    if file.exists():
        return json.loads(file.read_text())
    shape: dict[str, Any] = {"image_size": 32, "channels": 3, "train_subset": options.train_subset}
    data = ImageData(options.source, **shape, batch_size=options.batch_size, val_fraction=0, seed=seed)
    data.setup()
    data.train = data.train.cached()
    bank, test = data.train, data.read("test")
    torch.manual_seed(seed)
    encoder = ResNet(depth=18, width=options.width, stem="imagenet")
    start = our_run if who == "ours" else lightly_run
    number = train(*start(encoder, bank, options.batch_size), options.seconds)
    frozen = FrozenEncoder(encoder, default_preprocess(encoder))
    h, held_out = (torch.from_numpy(encode_items(frozen, part)) for part in (bank, test))
    accuracy = knn_accuracy(h, bank.labels, held_out, test.labels, k=20)
    row = {"who": who, "seed": seed, "steps": number, "knn_accuracy": accuracy}
    write_json(file, row)
    print(f"{who}, seed {seed}: {number} steps, kNN {100 * accuracy:.2f} %", flush=True)
    return row


def main() -> None:
    """Run what is missing, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", default="CIFAR10", help="as in data.init_args.source")
    parser.add_argument("--train-subset", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=240, help="of training, processor time")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--width", type=int, default=16, help="channels of the ResNet's first stage")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/equal_time"), help="the folder of the results"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [run(who, seed, options) for seed in options.seeds for who in ("lightly", "ours")]
    print(f"torch {torch.__version__}, one thread, {options.seconds:g} s each, width {options.width}")
    print("| | steps | kNN, % | seeds |\n|---|---|---|---|")
    for who in ("lightly", "ours"):
        own = [row for row in rows if row["who"] == who]
        mean, (low, high) = mean_interval([100 * row["knn_accuracy"] for row in own])
        steps = np.mean([row["steps"] for row in own])
        each = " ".join(f"{100 * row['knn_accuracy']:.1f}" for row in own)
        print(f"| {who} | {steps:.0f} | {mean:.1f} [{low:.1f}, {high:.1f}] | {each} |")


if __name__ == "__main__":
    main()
