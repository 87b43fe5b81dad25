"""A training step of SimCLR on two views of a batch, this package beside lightly.

    python scripts/benchmarks/image_step.py --threads 1     # seconds a step, ResNet-18, 2×256
    python scripts/benchmarks/image_step.py --curves --width 16 --batch-size 128 --plot curves.png

In the step are, for both: the encoder (ResNet-18 with the 3×3 stem), the two-layer head, NT-Xent at t = 0.5,
the backward pass and a step of SGD with momentum, on views that are ready: two float32 tensors of 32×32
pixels. Drawing the views is not in it (image_augmentations.py measures that). lightly's step is what its
examples run: float32, each view in a pass of its own. Ours is built up option by option, each one line of a
configuration; the first row is ours with none of them, so that what the options gain is seen apart.
Rounds take turns (A B C A B C) and medians are compared. In one thread the clock is the processor's, which
other work on the machine does not stop; with more threads it is the one on the wall.

``--curves`` trains lightly's network and ours (no option: the same arithmetic) from the same weights, on the
same views in the same order, and prints how far the losses part. Training amplifies rounding, so beside them
runs a control, lightly's network with its weights off by one rounding; with ``--double`` all is float64.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from lightly.loss import NTXentLoss
from lightly.models import ResNetGenerator
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor, nn

sys.path.pop(0)  # this file's folder, in which names of packages could be files

from augmentations.image import simclr
from augmentations.random import SampleRandom
from contrastive.data.images import read_images
from contrastive.losses import InfoNCE
from contrastive.module import ContrastiveModule
from encoders.heads import MLPHead
from encoders.image import ResNet

TEMPERATURE, OUT_FEATURES = 0.5, 128


@dataclass(frozen=True)
class Options:
    """What of ours is on: both views in one pass, channels last, bfloat16 autocast, torch.compile."""

    one_pass: bool = False
    channels_last: bool = False
    bfloat16: bool = False
    compile: bool = False


VARIANTS = {
    "ours, no option": Options(),
    "ours, one pass": Options(one_pass=True),
    "ours, channels last": Options(one_pass=True, channels_last=True),
    "ours, bfloat16": Options(one_pass=True, bfloat16=True),
    "ours, channels last, bfloat16": Options(one_pass=True, channels_last=True, bfloat16=True),
    "ours, channels last, bfloat16, compiled": Options(True, True, True, True),
}


class Lightly(nn.Module):
    """lightly's ResNet-18 and head; the classifier's place is empty."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.backbone = ResNetGenerator("resnet-18", width=width / 64)
        self.backbone.linear = nn.Identity()
        # without batch norm the heads of the two packages are the same
        self.head = SimCLRProjectionHead(8 * width, 8 * width, OUT_FEATURES, batch_norm=False)
        self.loss = NTXentLoss(temperature=TEMPERATURE)

    def forward(self, views: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss of two views, each encoded in a pass of its own."""
        z0, z1 = (self.head(self.backbone(view)) for view in views)
        return self.loss(z0, z1)


class Ours(nn.Module):
    """The module that ``contrastive pretrain`` trains, with the weights of lightly's network."""

    def __init__(self, width: int, options: Options, start: Lightly) -> None:
        super().__init__()
        self.options = options
        self.module = ContrastiveModule(
            ResNet(depth=18, width=width),
            [nn.Identity()],
            projector=lambda width: MLPHead(width, out_features=OUT_FEATURES, batch_norm=False),
            loss=InfoNCE(temperature=TEMPERATURE),
            channels_last=options.channels_last,
            compile=options.compile,
        )
        copy_weights(start.backbone, self.module.encoder)
        copy_weights(start.head, self.module.projector)

    def forward(self, views: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss of two views."""
        module = self.module
        autocast = torch.autocast("cpu", torch.bfloat16) if self.options.bfloat16 else nullcontext()
        with autocast:
            if self.options.one_pass:
                z0, z1 = module.projector(module.encode(list(views))).chunk(2)
            else:
                z0, z1 = (module.projector(module.encoder(view)) for view in views)
        return module.loss(z0, z1)


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy the state in its order: the layers are the same, their names are not."""
    theirs, names = list(source.state_dict().values()), list(target.state_dict())
    assert len(theirs) == len(names), f"{len(theirs)} tensors for {len(names)}"
    target.load_state_dict(dict(zip(names, theirs)))


def training_step(model: nn.Module, lr: float) -> Callable[[tuple[Tensor, Tensor]], float]:
    """Return a function that trains on two views and returns the loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)

    def step(views: tuple[Tensor, Tensor]) -> float:
        optimizer.zero_grad()
        loss = model(views)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def build(width: int, names: list[str]) -> dict[str, nn.Module]:
    """Return lightly's network and ours by name, all from the same weights."""
    torch.manual_seed(0)
    lightly = Lightly(width)
    # copied before lightly is trained
    return {"lightly": lightly, **{name: Ours(width, VARIANTS[name], lightly) for name in names}}


def measure(width: int, batch_size: int, repeats: int, names: list[str]) -> dict[str, float]:
    """Return seconds a step by name: medians of rounds that take turns, after one to warm up."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    models = build(width, names)
    steps = {name: training_step(model.train(), lr=0.06) for name, model in models.items()}
    views = (torch.randn(batch_size, 3, 32, 32), torch.randn(batch_size, 3, 32, 32))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            start = clock()
            step(views)
            if turn:
                seconds[name].append(clock() - start)
            print(f"  round {turn}, {name}: {clock() - start:.2f} s", file=sys.stderr, flush=True)
    return {name: statistics.median(times) for name, times in seconds.items()}


def nudged(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy whose weights are off by one rounding."""
    copied = copy.deepcopy(model).to(dtype)
    with torch.no_grad():
        for weight in copied.parameters():
            weight.mul_(1 + torch.finfo(dtype).eps * torch.randint_like(weight, -1, 2))
    return copied


def batches(source: str, batch_size: int, num_steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield two views of batches drawn from a source of images."""
    images = read_images(source, "train", channels=3)
    view = simclr(size=32)
    generator = torch.Generator().manual_seed(0)
    for step in range(num_steps):
        index = torch.randperm(len(images), generator=generator)[:batch_size]
        batch = images.__getitems__(index.tolist())
        yield tuple(view(batch.input, SampleRandom(index, epoch=step, view=i)) for i in range(2))  # type: ignore[misc]


def curves(options: argparse.Namespace) -> dict[str, list[float]]:
    """Train lightly's network and ours on the same views; return their losses, a step each."""
    models = build(options.width, ["ours, no option"])
    dtype = torch.float64 if options.double else torch.float32
    models = {"lightly": models["lightly"], "lightly, nudged": nudged(models["lightly"], dtype), **models}
    losses: dict[str, list[float]] = {name: [] for name in models}
    steps = {name: training_step(model.train().to(dtype), options.lr) for name, model in models.items()}
    for views in batches(options.source, options.batch_size, options.steps):
        views = (views[0].to(dtype), views[1].to(dtype))
        for name, step in steps.items():
            losses[name].append(step(views))
    return losses


def report_curves(losses: dict[str, list[float]], path: str | None) -> None:
    """Print how far the curves part, and draw them where asked."""
    theirs = losses["lightly"]
    print(f"lightly: loss {theirs[0]:.4f} at the first step, {theirs[-1]:.4f} at step {len(theirs)}")
    for name, ours in losses.items():
        if name != "lightly":
            apart = [abs(a - b) for a, b in zip(ours, theirs)]
            print(f"{name}: {apart[0]:.1e} apart at the first step, {max(apart):.1e} at most")
    if path:
        import matplotlib.pyplot as plt

        figure, axis = plt.subplots(figsize=(6, 3.5))
        for (name, values), style in zip(losses.items(), ("-", "--", ":")):
            axis.plot(range(1, len(values) + 1), values, style, label=name, linewidth=2)
        axis.set(xlabel="step", ylabel="NT-Xent")
        axis.legend(frameon=False)
        figure.tight_layout()
        figure.savefig(path, dpi=150)


def main() -> None:
    """Measure or train, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=256, help="images; twice as many views")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that count")
    parser.add_argument("--threads", type=int, default=0, help="of torch, 0 for all")
    parser.add_argument(
        "--variants",
        nargs="+",
        default=list(VARIANTS)[:-1],
        choices=VARIANTS,
        help="of ours, all but compiled",
    )
    parser.add_argument("--curves", action="store_true", help="train both and compare the losses")
    parser.add_argument("--steps", type=int, default=100, help="of --curves")
    parser.add_argument("--lr", type=float, default=0.06, help="of --curves")
    parser.add_argument("--double", action="store_true", help="float64, of --curves")
    parser.add_argument("--source", default="digits", help="images of --curves, as in data.init_args.source")
    parser.add_argument("--plot", help="where the plot of --curves goes, a .png")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), ResNet-18 of width {options.width}"
        f", 2×{options.batch_size} images of 32×32"
    )
    if options.curves:
        report_curves(curves(options), options.plot)
        return
    seconds = measure(options.width, options.batch_size, options.repeats, options.variants)
    print("| step | seconds | times as fast as lightly |\n|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.2f} | {seconds['lightly'] / value:.2f} |")


if __name__ == "__main__":
    main()
