"""Recipes: the augmentations of the papers, by name.

A recipe is called on a batch, ``simclr(size=32)(images)``, and gives one view of every image; a second call
gives another. With a ``SampleRandom`` the view is fixed by the seed, the epoch and the sample's index.
In a YAML a recipe is a ``class_path`` with ``init_args``, as is every operation it is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from augmentations.batch import check_images
from augmentations.colour import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ColorJitter,
    GaussianNoise,
    Normalize,
    RandomSolarize,
)
from augmentations.geometry import Cutout, GaussianBlur, RandomAffine, RandomResizedCrop
from augmentations.random import SampleRandom

_PART = 2**23  # values that a thread takes through a recipe at once: 32 MB of float32


class Compose(nn.Module):
    """Apply augmentations one after the other, all drawing from the same numbers.

    On a CPU a large batch goes through in parts, so that the memory of one part serves the next: fresh memory
    for every step of the whole batch costs more time than the arithmetic. Autocast is off: it would round
    colours to the 8 bits of bfloat16 between the steps.

    Args:
        augmentations: modules called as ``augmentation(images, random)``.
    """

    def __init__(self, augmentations: list[nn.Module]) -> None:
        super().__init__()
        self.augmentations = nn.ModuleList(augmentations)

    def forward(self, images: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Return one view of every image."""
        check_images(images)
        random = random or SampleRandom.fresh(len(images), images.device)
        size = max(1, len(images))
        if images.is_cpu:
            size = max(1, _PART * torch.get_num_threads() // max(1, images[:1].numel()))
        with torch.autocast(images.device.type, enabled=False):
            views = [self._view(*part) for part in zip(images.split(size), random.split(size))]
        return views[0] if len(views) == 1 else torch.cat(views)

    def _view(self, images: Tensor, random: SampleRandom) -> Tensor:
        for augmentation in self.augmentations:
            images = augmentation(images, random)
        return images


class Views(nn.Module):
    """Give several views of every image at once, of one size or of several.

    Args:
        views: modules called as ``view(images, random)``, one for each view.
    """

    def __init__(self, views: list[nn.Module]) -> None:
        super().__init__()
        self.views = nn.ModuleList(views)

    def forward(self, images: Tensor, random: SampleRandom | None = None) -> list[Tensor]:
        """Return the views, each one tensor for the whole batch."""
        random = random or SampleRandom.fresh(len(images), images.device)
        return [view(images, random) for view in self.views]


def _blur(size: int, p: float) -> list[nn.Module]:
    """Return SimCLR's blur: a kernel of a tenth of the side, made odd, and sigma in [0.1, 2] pixels."""
    return [GaussianBlur(kernel_size=max(3, size // 20 * 2 + 1), p=p)] if p > 0 else []


def simclr(
    *,
    size: int,
    strength: float = 0.5,
    blur: float = 0.0,
    scale: tuple[float, float] | None = (0.08, 1.0),
    exact: bool = False,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> nn.Module:
    """Crop, flip, jitter, gray and blur as SimCLR does (Chen et al. 2020, arXiv:2002.05709, appendix A).

    The paper takes strength 0.5 without blur on CIFAR-10, strength 1.0 with ``blur=0.5`` on ImageNet.

    Args:
        size: pixels along each side of a view.
        strength: of the colour jitter.
        blur: probability of a blur.
        scale: smallest and largest share of the area that a crop keeps; None for images that come cropped.
        exact: make the changes of colour one by one, see ``ColorJitter``.
        mean: of each channel, in [0, 1].
        std: of each channel.
    """
    jitter = ColorJitter(
        brightness=0.8 * strength,
        contrast=0.8 * strength,
        saturation=0.8 * strength,
        hue=0.2 * strength,
        grayscale=0.2,
        exact=exact,
    )
    crop = RandomResizedCrop(size=size, scale=scale)
    return Compose([crop, jitter, *_blur(size, blur), Normalize(mean=mean, std=std)])


def moco_v2(
    *,
    size: int = 224,
    blur: float = 0.5,
    scale: tuple[float, float] | None = (0.2, 1.0),
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> nn.Module:
    """Crop, flip, jitter, gray and blur as MoCo v2 does (Chen et al. 2020, arXiv:2003.04297).

    Args:
        size: pixels along each side of a view.
        blur: probability of a blur.
        scale: smallest and largest share of the area that a crop keeps; None for images that come cropped.
        mean: of each channel, in [0, 1].
        std: of each channel.
    """
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grayscale=0.2)
    crop = RandomResizedCrop(size=size, scale=scale)
    return Compose([crop, jitter, *_blur(size, blur), Normalize(mean=mean, std=std)])


def byol(
    *,
    view: Literal[1, 2],
    size: int = 224,
    scale: tuple[float, float] | None = (0.08, 1.0),
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> nn.Module:
    """Augment as BYOL does, whose two views differ (Grill et al. 2020, arXiv:2006.07733, table 6).

    The first view is always blurred and never solarized, the second blurred and solarized now and then. An
    asymmetric pair is the list of both.

    Args:
        view: which of the two.
        size: pixels along each side of a view.
        scale: smallest and largest share of the area that a crop keeps; None for images that come cropped.
        mean: of each channel, in [0, 1].
        std: of each channel.
    """
    if view not in (1, 2):
        raise ValueError(f"view is {view!r}; BYOL has a view 1 and a view 2")
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, grayscale=0.2)
    crop, norm = RandomResizedCrop(size=size, scale=scale), Normalize(mean=mean, std=std)
    if view == 1:
        return Compose([crop, jitter, *_blur(size, 1.0), norm])
    return Compose([crop, jitter, *_blur(size, 0.1), RandomSolarize(p=0.2), norm])


def dcl(
    *,
    size: int = 32,
    mean: Sequence[float] = (0.4914, 0.4822, 0.4465),
    std: Sequence[float] = (0.2023, 0.1994, 0.2010),
) -> nn.Module:
    """Augment CIFAR and STL images as the authors of DCL and HCL do.

    Chuang et al. 2020, arXiv:2007.00224, and Robinson et al. 2021, arXiv:2010.04592, share one recipe:
    32-pixel crops, jitter of strength 0.5 and a blur of 3×3 pixels in half of the images.

    Args:
        size: pixels along each side of a view.
        mean: of each channel, in [0, 1]; CIFAR-10's.
        std: of each channel.
    """
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grayscale=0.2)
    crop = RandomResizedCrop(size=size)
    return Compose([crop, jitter, *_blur(size, 0.5), Normalize(mean=mean, std=std)])


def weak(
    *,
    size: int,
    scale: tuple[float, float] | None = (0.5, 1.0),
    flip: float = 0.5,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> nn.Module:
    """Crop gently and flip, nothing else: for fine-tuning, probes and weak views.

    Args:
        size: pixels along each side of a view.
        scale: smallest and largest share of the area that a crop keeps; None for images that come cropped.
        flip: probability of a horizontal flip.
        mean: of each channel, in [0, 1].
        std: of each channel.
    """
    return Compose([RandomResizedCrop(size=size, scale=scale, flip=flip), Normalize(mean=mean, std=std)])


def medical(
    *,
    size: int,
    scale: tuple[float, float] | None = (0.5, 1.0),
    degrees: float = 10.0,
    flip: float = 0.5,
    jitter: float = 0.4,
    noise: float = 0.02,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
) -> nn.Module:
    """Crop, flip and turn a little, change the exposure, add noise: for X-rays, CT, MR and microscopy.

    Flip and rotation are those of MoCo-CXR (Sowrirajan et al. 2021, arXiv:2010.05352). There is no change of
    hue and no strong crop or blur, because small findings are what such images are read for. Set ``flip=0``
    where left and right matter.

    Args:
        size: pixels along each side of a view.
        scale: smallest and largest share of the area that a crop keeps; None for images that come cropped.
        degrees: largest rotation.
        flip: probability of a horizontal flip.
        jitter: largest change of brightness and contrast.
        noise: standard deviation of the noise added to the pixels, in units of the full range.
        mean: of each channel, in [0, 1].
        std: of each channel.
    """
    return Compose(
        [
            RandomResizedCrop(size=size, scale=scale, flip=flip, degrees=degrees),
            ColorJitter(brightness=jitter, contrast=jitter),
            GaussianNoise(std=noise),
            Normalize(mean=mean, std=std),
        ]
    )


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


def multi_crop(
    *,
    size: int = 224,
    small_size: int = 96,
    num_large: int = 2,
    num_small: int = 6,
    split: float = 0.14,
    strength: float = 1.0,
    blur: float = 0.5,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> nn.Module:
    """Give a few large and several small views of every image (SwAV, Caron et al. 2020, arXiv:2006.09882).

    Args:
        size: pixels along each side of a large view.
        small_size: of a small one.
        num_large: number of large views.
        num_small: number of small views.
        split: share of the area that parts them: large crops keep more, small crops less, 0.05 at the least.
        strength: of the colour jitter.
        blur: probability of a blur.
        mean: of each channel, in [0, 1].
        std: of each channel.
    """
    large = simclr(size=size, scale=(split, 1.0), strength=strength, blur=blur, mean=mean, std=std)
    small = simclr(size=small_size, scale=(0.05, split), strength=strength, blur=blur, mean=mean, std=std)
    return Views([large] * num_large + [small] * num_small)
