"""Random crops cut where an image is decoded, from its full size; what follows is batched on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as TF

from augmentations.geometry import RandomResizedCrop, check_crop, draw_crop_boxes
from augmentations.random import SampleRandom
from contrastive.data import Batch
from contrastive.data.epochs import EpochOrder
from contrastive.data.image_dataset import ImageDataset
from contrastive.errors import ContrastiveError

_CROPS = 0x63726F70  # parts these draws from those that the device makes for the same image and view


@dataclass(frozen=True)
class Crop:
    """A random resized crop for each of two views, cut from the image in its own size by who decodes it.

    Boxes are torchvision's (`draw_crop_boxes`) and follow from (seed, epoch, index, view), whichever worker
    reads the image. Resampling is antialiased bilinear and rounds to uint8: within 1.5/255 of the batched
    ``augmentations.geometry.RandomResizedCrop`` for the same box. The recipe of the views must not crop
    again: give it ``scale: null``, with which it flips alone.

    Args:
        size: pixels along each side.
        scale: smallest and largest share of the area that is kept.
        ratio: smallest and largest width over height.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        check_crop(self.size, self.scale, self.ratio)

    def views(self, image: Tensor, index: int, *, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Cut two views.

        Args:
            image: uint8 ``(C, H, W)``.
            index: of the image, as in ``Batch``.
            seed: the run's seed.
            epoch: the epoch.

        Returns:
            Two of uint8 ``(C, size, size)``.
        """
        place = torch.tensor([index])
        first, second = (
            self._cut(image, SampleRandom(place, seed=seed ^ _CROPS, epoch=epoch, view=i)) for i in range(2)
        )
        return first, second

    def _cut(self, image: Tensor, random: SampleRandom) -> Tensor:
        (box,) = draw_crop_boxes(random, *image.shape[-2:], scale=self.scale, ratio=self.ratio)
        return TF.resized_crop(image, *box.int().tolist(), [self.size, self.size], antialias=True)


def refuse_second_crop(model: nn.Module) -> None:
    """Check that views do not crop what `Crop` has cut: they would cover 1 to 100 % of an image.

    Raises:
        ContrastiveError: one of the model's modules does.
    """
    for module in model.modules():
        if isinstance(module, RandomResizedCrop) and module.scale is not None:
            raise ContrastiveError(
                "images are cropped twice, by data.crop and by the views: give the recipe of the views "
                "scale: null, or leave data.crop out"
            )


class CroppedViews(Dataset):
    """The crops of an image's two views instead of the image, a whole ``Batch`` at a time.

    Item ``epoch · N + i`` is image i in that epoch (see `EpochSampler`); ``Batch.input`` is a tuple of two
    uint8 ``(B, C, size, size)``.

    Args:
        images: what is cropped; not decoded in advance, so that each is there in its own size.
        crop: how.
        seed: of the crops.
    """

    def __init__(self, images: ImageDataset, crop: Crop, seed: int) -> None:
        self.images, self.crop, self.seed = images, crop, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, numbers: list[int]) -> Batch:
        drawn = []
        for number in numbers:
            epoch, place = divmod(number, len(self.images))
            place, image = self.images.decode(place)
            drawn.append((place, *self.crop.views(image, place, seed=self.seed, epoch=epoch)))
        places, *views = zip(*drawn)
        index, labels = torch.tensor(places), self.images.labels
        crops = tuple(torch.stack(view) for view in views)
        return Batch(crops, None if labels is None else labels[index], index)


class EpochSampler(EpochOrder):
    """An epoch's order with the epoch in its numbers, ``epoch · N + i``, by which workers hear of it."""

    def __iter__(self) -> Iterator[int]:
        start = self.epoch * len(self.dataset)  # type: ignore[arg-type]
        return (start + i for i in super().__iter__())
