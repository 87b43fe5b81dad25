"""Augmentations that change the values of pixels: jitter, grayscale, solarize, noise and normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from augmentations.adjust import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    apply_colour_maps,
    colour_maps,
    rgb_to_grayscale,
)
from augmentations.batch import check_images, to_float
from augmentations.random import SampleRandom

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_ADJUST = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
_NEUTRAL = (1.0, 1.0, 1.0, 0.0)  # the factors that change nothing


class ColorJitter(nn.Module):
    """Change brightness, contrast, saturation and hue, and drop the colour of some images.

    Factors and order are drawn as torchvision's ``ColorJitter`` draws them. The changes of an image are
    composed into one affine map of its colours and the result is clamped to [0, 1] once. torchvision clamps
    after every change and shifts the hue in HSV, where we rotate it about the gray axis; with ``exact`` we do
    as it does. Images of one channel have no colour: saturation, hue and grayscale leave them as they are.
    uint8 or float ``(N, C, H, W)`` in, float32 in [0, 1] of that shape out.

    Args:
        brightness: factor uniform in [1 - brightness, 1 + brightness], at least 0.
        contrast: the same for the distance to the image's mean brightness.
        saturation: the same for the distance of each pixel to its own gray.
        hue: turns of the colour circle, uniform in [-hue, hue], at most 0.5.
        p: probability that an image is changed.
        grayscale: probability that an image loses its colour, after the changes.
        random_order: draw the order of the four for every image, else the order is the one above.
        exact: make the changes one by one as torchvision does, which takes longer.
    """

    def __init__(
        self,
        *,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        p: float = 0.8,
        grayscale: float = 0.0,
        random_order: bool = True,
        exact: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= hue <= 0.5:
            raise ValueError(f"hue is {hue}; it is a share of the colour circle in [0, 0.5]")
        self.ranges = [(max(0.0, 1 - reach), 1 + reach) for reach in (brightness, contrast, saturation)]
        self.ranges.append((-hue, hue))
        self.p, self.grayscale, self.random_order, self.exact = p, grayscale, random_order, exact

    def forward(self, images: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Return the images in other colours."""
        random = random or SampleRandom.fresh(len(images), images.device)
        check_images(images)
        factors, order, gray = self._draw(random, images.device)
        with torch.autocast(images.device.type, enabled=False):  # it would round colours
            if self.exact or images.shape[1] not in (1, 3):
                return self._one_by_one(to_float(images), factors, order, gray)
            maps = colour_maps(factors, order, gray, channels=images.shape[1])
            return apply_colour_maps(to_float(images), *maps)

    def _draw(self, random: SampleRandom, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Draw factors and their order, both ``(N, 4)``, neutral in unchanged images, and who turns gray."""
        draws = random.uniform(10)
        low, high = draws.new_tensor(self.ranges).unbind(1)
        factors = low + (high - low) * draws[:, :4]
        factors = torch.where(draws[:, 4:5] < self.p, factors, draws.new_tensor(_NEUTRAL))
        order = (
            draws[:, 6:].argsort(1)
            if self.random_order
            else torch.arange(4, device=device).expand_as(factors)
        )
        return factors, order, draws[:, 5] < self.grayscale

    def _one_by_one(self, images: Tensor, factors: Tensor, order: Tensor, gray: Tensor) -> Tensor:
        """Make the first change of every image, then the second, and so on."""
        images = images.clone()
        for place in range(4):
            for kind, adjust in enumerate(_ADJUST):
                if self.ranges[kind] == (_NEUTRAL[kind], _NEUTRAL[kind]):
                    continue
                due = (order[:, place] == kind) & (factors[:, kind] != _NEUTRAL[kind])
                images[due] = adjust(images[due], factors[due, kind])
        if self.grayscale > 0:
            images[gray] = rgb_to_grayscale(images[gray])
        return images


class RandomGrayscale(nn.Module):
    """Replace the colour of an image by its brightness, in all its channels, with probability ``p``.

    uint8 or float ``(N, C, H, W)`` of 1 or 3 channels in, float32 in [0, 1] of that shape out.

    Args:
        p: probability that an image loses its colour.
    """

    def __init__(self, *, p: float = 0.2) -> None:
        super().__init__()
        self.p = p

    def forward(self, images: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Return the images, some of them gray."""
        random = random or SampleRandom.fresh(len(images), images.device)
        images = to_float(images)
        with torch.autocast(images.device.type, enabled=False):  # it would round colours
            gray = rgb_to_grayscale(images)
        return torch.where(random.bernoulli(self.p)[:, None, None, None], gray, images)


class RandomSolarize(nn.Module):
    """Invert the values at or above a threshold, with probability ``p``.

    uint8 or float ``(N, C, H, W)`` in, float32 in [0, 1] of that shape out.

    Args:
        threshold: from which value on, in [0, 1].
        p: probability that an image is solarized.
    """

    def __init__(self, *, threshold: float = 0.5, p: float = 0.2) -> None:
        super().__init__()
        self.threshold, self.p = threshold, p

    def forward(self, images: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Return the images, some of them solarized."""
        random = random or SampleRandom.fresh(len(images), images.device)
        images = to_float(images)
        inverted = random.bernoulli(self.p)[:, None, None, None] & (images >= self.threshold)
        return torch.where(inverted, 1 - images, images)


class GaussianNoise(nn.Module):
    """Add normal noise to every pixel and clamp to [0, 1].

    uint8 or float ``(N, C, H, W)`` in, float32 in [0, 1] of that shape out.

    Args:
        std: standard deviation of the noise, in units of the full range of intensities.
    """

    def __init__(self, *, std: float = 0.1) -> None:
        super().__init__()
        self.std = std

    def forward(self, images: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Return the images with noise."""
        random = random or SampleRandom.fresh(len(images), images.device)
        return (to_float(images) + self.std * random.normal(*images.shape[1:])).clamp_(0, 1)


class Normalize(nn.Module):
    """Subtract the mean of each channel and divide by its standard deviation.

    uint8 or float ``(N, C, H, W)`` in, float32 of that shape out, or what ``.half()``, ``.double()`` and the
    like made of the module, as of the encoder behind it. It draws nothing.

    Args:
        mean: the mean of each channel over the data set, in [0, 1].
        std: the standard deviation of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, images: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Return the images with mean zero and standard deviation one, over the data set."""
        check_images(images)
        channels = len(self.mean)
        if images.shape[1] != channels:
            raise ValueError(
                f"mean and std are given for {channels} channels, the images have {images.shape[1]}; "
                "pass the mean and std of this data set"
            )
        mean, std = (values.to(images.device, torch.float32) for values in (self.mean, self.std))
        # one pass, where (x - mean) / std takes two
        return batch_norm(to_float(images), mean, std**2, eps=0.0).to(self.mean.dtype)
