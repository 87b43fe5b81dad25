"""Recipes: the augmentations of the papers, by name.

A recipe is called on a batch, ``simclr(size=32)(images)``, and gives one view of every image; a second call
gives another. With a ``SampleRandom`` the view is fixed by the seed, the epoch and the sample's index.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from augmentations.colour import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ColorJitter,
    GaussianNoise,
    Normalize,
)
from augmentations.geometry import Cutout, RandomAffine, RandomResizedCrop
from augmentations.random import SampleRandom


class Compose(nn.Module):
    """Apply augmentations one after the other, all drawing from the same numbers.

    Args:
        augmentations: modules called as ``augmentation(images, random)``.
    """

    def __init__(self, augmentations: Sequence[nn.Module]) -> None:
        super().__init__()
        self.augmentations = nn.ModuleList(augmentations)

    def forward(self, images: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Return one view of every image."""
        random = random or SampleRandom.fresh(len(images), images.device)
        for augmentation in self.augmentations:
            images = augmentation(images, random)
        return images


def simclr(
    *,
    size: int,
    strength: float = 0.5,
    scale: tuple[float, float] = (0.08, 1.0),
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> nn.Module:
    """Crop, flip, jitter and gray as SimCLR does (Chen et al. 2020, arXiv:2002.05709, appendix A).

    Args:
        size: pixels along each side of a view.
        strength: of the colour jitter: 0.5 for CIFAR-10, 1.0 for ImageNet.
        scale: smallest and largest share of the area that a crop keeps.
        mean: of each channel, in [0, 1].
        std: of each channel.
    """
    jitter = ColorJitter(
        brightness=0.8 * strength,
        contrast=0.8 * strength,
        saturation=0.8 * strength,
        hue=0.2 * strength,
        p=0.8,
        grayscale=0.2,
    )
    return Compose([RandomResizedCrop(size=size, scale=scale), jitter, Normalize(mean=mean, std=std)])


def geometric(
    *,
    degrees: float = 15.0,
    translate: float = 0.1,
    scale: tuple[float, float] = (0.85, 1.15),
    shear: float = 10.0,
    noise: float = 0.0,
    cutout: int = 0,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.5,),
) -> nn.Module:
    """Move without mirroring, for images whose handedness is their meaning: digits, letters, signs.

    The view has the size of the image.

    Args:
        degrees: largest rotation.
        translate: largest shift, as a share of the side.
        scale: smallest and largest magnification.
        shear: largest horizontal shear, in degrees.
        noise: standard deviation of noise added to the pixels, 0 for none.
        cutout: side of a square painted black in half of the images, in pixels, 0 for none.
        mean: of each channel, in [0, 1].
        std: of each channel.
    """
    shift = (translate, translate)
    steps: list[nn.Module] = [RandomAffine(degrees=degrees, translate=shift, scale=scale, shear=shear)]
    if noise:
        steps.append(GaussianNoise(std=noise))
    if cutout:
        steps.append(Cutout(size=cutout))
    return Compose([*steps, Normalize(mean=mean, std=std)])
