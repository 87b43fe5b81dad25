"""What each augmentation is worth: SimCLR's recipe without one after the other, all evaluated alike.

    python scripts/ablate_augmentations.py --source CIFAR10 --train-subset 20000

After figure 3 of BYOL (Grill et al. 2020, arXiv 2006.07733). The full recipe is a random crop, a flip, colour
jitter of strength 0.5, grayscale and a blur; the loss is InfoNCE. Without the crop the image is taken whole.
The figure shows the accuracy that remains, less that of the full recipe with the same seed. Nothing is chosen
by the test split. Runs are resumed and the folder is filled as by compare_losses.py; ablation.png is beside.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compare_losses import compare, parser

from contrastive.report import write_whole

WITHOUT: dict[str, set[str]] = {
    "full recipe": set(),
    "no flip": {"flip"},
    "no blur": {"blur"},
    "no grayscale": {"grayscale"},
    "no jitter": {"jitter"},
    "no colour": {"jitter", "grayscale"},
    "crop and blur only": {"flip", "jitter", "grayscale"},
    "crop only": {"flip", "jitter", "grayscale", "blur"},
    "no crop": {"crop"},
}


def views(without: set[str], size: int = 32, strength: float = 0.5) -> list[dict[str, Any]]:
    """Return SimCLR's recipe as a configuration has it, without some of its steps."""
    whole = {"scale": [1.0, 1.0], "ratio": [1.0, 1.0]}
    crop = {"size": size, "flip": 0.0 if "flip" in without else 0.5} | (whole if "crop" in without else {})
    kept = 0.0 if "jitter" in without else strength
    jitter = {
        "brightness": 0.8 * kept,
        "contrast": 0.8 * kept,
        "saturation": 0.8 * kept,
        "hue": 0.2 * kept,
        "grayscale": 0.0 if "grayscale" in without else 0.2,
    }
    steps = [_step("geometry.RandomResizedCrop", crop), _step("colour.ColorJitter", jitter)]
    if "blur" not in without:
        steps.append(_step("geometry.GaussianBlur", {"kernel_size": 3, "p": 0.5}))
    steps.append(_step("colour.Normalize", {}))
    return [_step("image.Compose", {"augmentations": steps})]


def _step(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": f"augmentations.{name}", "init_args": arguments}


def recipe(without: set[str]) -> list[str]:
    """Return the arguments of ``contrastive pretrain`` for the recipe without some of its steps."""
    config = "configs/image/simclr_cifar10.yaml"
    return ["--config", config, f"--model.init_args.views={json.dumps(views(without))}"]


def plot(summary: list[dict[str, Any]], file: Path) -> None:
    """Draw the accuracy that each recipe has more, or less, than the full one, with its interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [line for line in summary if "linear_accuracy_difference" in line]
    figure, axis = pyplot.subplots(figsize=(7, 4))
    for metric, shift in (("linear", -0.15), ("knn", 0.15)):
        key = f"{metric}_accuracy_difference"
        y = [i + shift for i in range(len(lines))]
        x = [100 * line[key] for line in lines]
        ends = [
            [100 * abs(end - line[key]) for line in lines for end in [line[f"{key}_ci95"][i]]] for i in (0, 1)
        ]
        axis.errorbar(x, y, xerr=ends, fmt="o", capsize=3, label="kNN" if metric == "knn" else metric)
    axis.axvline(0, color="grey", linewidth=1)
    axis.set(yticks=range(len(lines)), yticklabels=[line["name"] for line in lines])
    axis.set(xlabel="test accuracy less the full recipe's, percentage points")
    axis.invert_yaxis()
    axis.legend(frameon=False)
    figure.tight_layout()
    write_whole(file, lambda part: figure.savefig(part, dpi=150, format="png"))
    pyplot.close(figure)


def main() -> None:
    """Run what is missing, write the table and the figure."""
    options = parser(__doc__, "runs/ablate_augmentations")
    options.add_argument("--only", nargs="+", choices=WITHOUT, help="some recipes, beside the full one")
    given = options.parse_args()
    chosen = {"full recipe", *(given.only or WITHOUT)}
    recipes = {name: recipe(without) for name, without in WITHOUT.items() if name in chosen}
    summary = compare(recipes, given)
    plot(summary, given.runs / "ablation.png")
    print(given.runs / "ablation.png")


if __name__ == "__main__":
    main()
