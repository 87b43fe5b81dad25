"""Images a second through SimCLR's recipe: this package beside torchvision, kornia and lightly.

    python scripts/benchmarks/image_augmentations.py --threads 1 --plot docs/augmentations.png

Every library runs the same recipe (random resized crop, flip, colour jitter in random order, grayscale, blur
where the paper blurs, normalise) on the same uint8 images in memory, in the way its users run it: torchvision
v1 and lightly on PIL images one by one, torchvision v2 on tensors one by one, kornia on the float batch.
Rounds take turns (A B C A B C) and the medians are compared. lightly blurs with Pillow's box approximation of
a Gaussian. With ``--threads 0`` torch takes every core; PIL has no threads of its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import kornia.augmentation as kornia_aug
import torch
import torchvision.transforms as v1
import torchvision.transforms.v2 as v2
from lightly.transforms import SimCLRViewTransform
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

sys.path.pop(0)  # this file's folder, in which "augmentations" would be this file and not the package

from augmentations.image import IMAGENET_MEAN, IMAGENET_STD, simclr

# pixels of a view: pixels of the image, images in a batch, strength of the jitter, probability of the blur
SETTINGS = {32: (32, 512, 0.5, 0.0), 96: (96, 128, 1.0, 0.5), 224: (256, 64, 1.0, 0.5)}
BARS = {32: (10.0, 4.0), 96: (5.0, 3.5), 224: (5.0, 1.2)}  # against torchvision v1, against the best peer


def make_images(num_images: int, size: int) -> Tensor:
    """Return smooth random colours with a little noise, ``(N, 3, size, size)`` uint8."""
    torch.manual_seed(0)
    coarse = torch.rand(num_images, 3, size // 8, size // 8)
    smooth = interpolate(coarse, size=(size, size), mode="bicubic") + 0.05 * torch.randn(
        num_images, 3, size, size
    )
    return smooth.clamp(0, 1).mul(255).to(torch.uint8)


def torchvision_recipe(lib, size: int, strength: float, blur: float, to_tensor: list) -> Callable:
    """Write the recipe in torchvision's words; ``lib`` is its first or second version of the transforms."""
    s = strength
    return lib.Compose(
        [
            lib.RandomResizedCrop(size, antialias=True),
            lib.RandomHorizontalFlip(),
            lib.RandomApply([lib.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s)], p=0.8),
            lib.RandomGrayscale(p=0.2),
            lib.RandomApply([lib.GaussianBlur(size // 20 * 2 + 1, sigma=(0.1, 2.0))], p=blur),
            *to_tensor,
            lib.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def kornia_recipe(size: int, strength: float, blur: float) -> nn.Module:
    """Write the recipe in kornia's words."""
    s, kernel = strength, size // 20 * 2 + 1
    steps = [
        kornia_aug.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        kornia_aug.RandomHorizontalFlip(),
        kornia_aug.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s, p=0.8),
        kornia_aug.RandomGrayscale(p=0.2),
        kornia_aug.Normalize(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)),
    ]
    if blur:
        steps.insert(4, kornia_aug.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=blur))
    return nn.Sequential(*steps)


def contestants(size: int, images: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return, by name, what makes one view of every image."""
    _, _, strength, blur = SETTINGS[size]
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    tv1 = torchvision_recipe(v1, size, strength, blur, [v1.ToTensor()])
    tv2 = torchvision_recipe(v2, size, strength, blur, [v2.ToDtype(torch.float32, scale=True)])
    batched = kornia_recipe(size, strength, blur)
    light = SimCLRViewTransform(
        input_size=size,
        cj_strength=strength,
        gaussian_blur=blur,
        normalize={"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)},
    )
    ours = simclr(size=size, strength=strength, blur=blur)
    exact = simclr(size=size, strength=strength, blur=blur, exact=True)
    return {
        "this package": lambda: ours(images),
        "this package, exact colours": lambda: exact(images),
        "torchvision v1 (PIL)": lambda: torch.stack([tv1(Image.fromarray(a)) for a in arrays]),
        "torchvision v2": lambda: torch.stack([tv2(image) for image in images]),
        "kornia": lambda: batched(images.float() / 255),
        "lightly": lambda: torch.stack([light(Image.fromarray(a)) for a in arrays]),
    }


def measure(size: int, rounds: int) -> dict[str, float]:
    """Return images a second by name: medians of rounds that take turns, after one to warm up."""
    pixels, num_images = SETTINGS[size][:2]
    runs = contestants(size, make_images(num_images, pixels))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: num_images / statistics.median(times) for name, times in seconds.items()}


def judge(size: int, speed: dict[str, float]) -> str:
    """Compare with the bars: ratio to torchvision v1, and to the fastest of the other libraries."""
    ours, tv1 = speed["this package"], speed["torchvision v1 (PIL)"]
    peers = {
        name: value for name, value in speed.items() if name not in ("this package", "torchvision v1 (PIL)")
    }
    peers.pop("this package, exact colours")
    best = max(peers, key=lambda name: peers[name])
    bars = BARS[size]
    return (
        f"{size} px: {ours / tv1:.1f}× torchvision v1 (bar {bars[0]:g}×), "
        f"{ours / peers[best]:.1f}× the best peer, {best} (bar {bars[1]:g}×)"
    )


def plot(speeds: dict[int, dict[str, float]], path: str) -> None:
    """Draw the ratios as bars, one group a size."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(speeds), figsize=(4 * len(speeds), 2.6), sharey=True)
    for axis, (size, speed) in zip(axes, speeds.items()):
        bars = axis.barh(list(speed), list(speed.values()))
        axis.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
        axis.set(title=f"{size} pixels", xlabel="images a second")
        axis.margins(x=0.25)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print, and draw where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--threads", type=int, default=1, help="of torch, 0 for all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--plot", help="where the plot goes, a .png")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {options.rounds} rounds")
    speeds = {size: measure(size, options.rounds) for size in options.sizes}
    print("| images a second | " + " | ".join(f"{size} px" for size in speeds) + " |")
    print("|---|" + "---|" * len(speeds))
    for name in next(iter(speeds.values())):
        print(f"| {name} | " + " | ".join(f"{speed[name]:,.0f}" for speed in speeds.values()) + " |")
    print("\n".join(judge(size, speed) for size, speed in speeds.items()))
    if options.plot:
        plot(speeds, options.plot)


if __name__ == "__main__":
    main()
