"""``contrastive views``: what the augmentations of a configuration do to its images, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from pytorch_lightning.cli import LightningArgumentParser
from torch import Tensor, nn
from torch.nn.functional import interpolate

from augmentations.batch import to_float
from augmentations.colour import Normalize
from augmentations.random import SampleRandom
from contrastive.building import build_data, build_module
from contrastive.data.image_channels import refuse_other_channels
from contrastive.data.image_crops import CroppedViews
from contrastive.errors import ContrastiveError
from contrastive.features import model_args
from contrastive.pretrain import PretrainCLI, load_config, parse
from contrastive.report import write_whole

_CELL, _GAP, _HEAD = 96, 4, 16  # pixels: smallest side of a picture, space between two, a column's title


def views(args: list[str]) -> Path:
    """Draw a sheet of views as ``args`` (the command line after ``contrastive views``) say; return its file.

    A row an image: the original, then views drawn as pretraining draws them, two an epoch, with the
    configured ``Normalize`` undone. Only the images shown are decoded.
    """
    cli = parse(
        ViewsCLI, args, "views", "Save a sheet of a configuration's images and the views drawn of them."
    )
    output = Path(cli.config.output)
    sheet = draw_sheet(cli.images, cli.views, seed=cli.seed, num_views=cli.config.num_views, crops=cli.crops)
    write_whole(output, lambda part: sheet.save(part, format="png"))
    print(f"views: {output}")
    return output


class ViewsCLI(PretrainCLI):
    """Reads a pretraining configuration, and builds of it the augmentations and the data alone."""

    images: Tensor
    crops: CroppedViews | None
    views: list[nn.Module]
    seed: int

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the sheet's options to those of pretraining."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--num", type=int, default=8, help="Images, a row each.")
        parser.add_argument("--num_views", type=int, default=4, help="Views of each image, in pairs.")
        parser.add_argument("--output", type=str, default="views.png", help="The picture to write.")

    def before_instantiate_classes(self) -> None:
        """Refuse what gives an empty sheet."""
        if self.config.num < 1 or self.config.num_views < 1:
            raise ContrastiveError("--num and --num-views are at least 1")

    def instantiate_classes(self) -> None:
        """Build the views and read the images; the encoder, however large, is not built."""
        config = load_config(self)
        self.seed = config["seed_everything"]
        self.views = [build_module(spec, own=True) for spec in model_args(config)["views"]]
        self.images, self.crops = _examples(config, self.config.num)
        source = config["data"]["init_args"]["source"]
        refuse_other_channels([("views", view) for view in self.views], self.images.shape[1], source)


def _examples(config: dict[str, Any], num_images: int) -> tuple[Tensor, CroppedViews | None]:
    """A few training images of the configured data, uint8 ``(N, C, H, W)``; their crops where it cuts any."""
    data = build_data(config, own=True)
    if not hasattr(data, "examples"):
        raise ContrastiveError(
            f"contrastive views draws images, and {config['data']['class_path']} gives none; "
            "pass a configuration of configs/image/"
        )
    examples = data.examples(num_images)
    crops = None if data.crop is None else CroppedViews(examples, data.crop, config["seed_everything"])
    return examples.__getitems__(list(range(len(examples)))).input, crops


def draw_sheet(
    images: Tensor, views: list[nn.Module], *, seed: int, num_views: int, crops: CroppedViews | None = None
) -> Image.Image:
    """Draw originals and views, a row an image.

    Args:
        images: uint8 ``(N, C, H, W)``, grey or colour.
        views: one augmentation for both views of a pair, or two.
        seed: of the draws.
        num_views: views of each image; views 0 and 1 of epoch 0, then of epoch 1.
        crops: of the images, where the data cuts them; the views are drawn from these.
    """
    columns = {"original": to_float(images)}
    for i in range(num_views):
        epoch, view = divmod(i, 2)
        numbers = [epoch * len(images) + place for place in range(len(images))]
        input = images if crops is None else crops.__getitems__(numbers).input[view]
        augmentation = views[view % len(views)]
        random = SampleRandom(torch.arange(len(images)), seed=seed, epoch=epoch, view=view)
        drawn = augmentation(input, random)
        several = drawn if isinstance(drawn, list) else [drawn]  # of a recipe of many crops
        for crop, pictures in enumerate(several):
            name = f"epoch {epoch}, view {view}" + (f", {crop}" if len(several) > 1 else "")
            columns[name] = denormalised(pictures, augmentation)
    return _sheet(columns)


def denormalised(pictures: Tensor, augmentation: nn.Module) -> Tensor:
    """Undo the last ``Normalize`` of an augmentation; the rest cannot be undone and is what is to be seen."""
    normalizes = [module for module in augmentation.modules() if isinstance(module, Normalize)]
    if normalizes:
        mean, std = (values[:, None, None] for values in (normalizes[-1].mean, normalizes[-1].std))
        pictures = pictures * std + mean
    return to_float(pictures).clamp(0, 1)


def _sheet(columns: dict[str, Tensor]) -> Image.Image:
    """Lay out pictures ``(N, C, H, W)`` in [0, 1], a column each, under their names."""
    side = max(_CELL, *(pictures.shape[-1] for pictures in columns.values()))
    num_rows = len(next(iter(columns.values())))
    step = side + _GAP
    sheet = Image.new("RGB", (len(columns) * step + _GAP, _HEAD + num_rows * step), "white")
    draw = ImageDraw.Draw(sheet)
    for x, (name, pictures) in enumerate(columns.items()):
        draw.text((_GAP + x * step, 2), name, fill="black")
        pixels = interpolate(pictures, size=(side, side), mode="nearest-exact").expand(-1, 3, -1, -1)
        pixels = pixels.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
        for y, picture in enumerate(pixels.numpy()):
            sheet.paste(Image.fromarray(picture), (_GAP + x * step, _HEAD + y * step))
    return sheet
