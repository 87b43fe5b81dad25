"""What happens to the colours: jitter, grayscale, noise and normalisation.

Brightness, contrast, saturation and a rotation of the hue are affine maps of a pixel's colour. Those of one
image are composed into one small matrix before any pixel is touched, so that it is read and written once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from augmentations.random import SampleRandom

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601, the digits torchvision uses
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_float(images: Tensor) -> Tensor:
    """Return images as float in [0, 1]: uint8 is divided by 255, float passes unchanged.

    Args:
        images: ``(N, C, H, W)`` uint8, or float in [0, 1].

    Raises:
        ValueError: the tensor is no batch of images.
        TypeError: the dtype is neither uint8 nor floating.
    """
    if images.ndim != 4:
        raise ValueError(
            f"augmentations take a batch (N, C, H, W), not a tensor of shape {tuple(images.shape)}; "
            "one image becomes a batch by images[None]"
        )
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(255)
    if not images.is_floating_point():
        raise TypeError(f"augmentations take uint8 or float images, not {images.dtype}; convert them first")
    return images


def _luma(channels: int, device: torch.device) -> Tensor:
    """Return the weights of the channels in brightness, ``(C,)``: ITU-R 601 for RGB, else the mean."""
    weights = _LUMA if channels == 3 else (1 / channels,) * channels
    return torch.tensor(weights, device=device)


def hue_rotations(shift: Tensor) -> Tensor:
    """Rotate the chroma plane of YIQ: the linear stand-in for a shift of the hue, ``(N, 3, 3)``.

    Args:
        shift: ``(N,)`` turns of the colour circle, in [-0.5, 0.5].
    """
    rgb_to_yiq = torch.tensor(
        ((0.2989, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)), device=shift.device
    )
    angle = 2 * math.pi * shift
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rotation = torch.stack((one, zero, zero, zero, cos, sin, zero, -sin, cos), 1).view(-1, 3, 3)
    return torch.linalg.inv(rgb_to_yiq) @ rotation @ rgb_to_yiq


class ColorJitter(nn.Module):
    """Change brightness, contrast, saturation and hue, in this order, and drop the colour of some images.

    Factors are drawn as torchvision's ``ColorJitter`` draws them. The changes are one affine map a sample
    and the result is clamped to [0, 1] once, where torchvision clamps after every change; hue is a rotation in
    YIQ where torchvision shifts it in HSV. uint8 or float ``(N, C, H, W)`` in, float32 in [0, 1] out.

    Args:
        brightness: factor uniform in [1 - brightness, 1 + brightness], at least 0.
        contrast: the same for the distance to the image's mean brightness.
        saturation: the same for the distance to each pixel's brightness. Needs 3 channels.
        hue: turns of the colour circle, uniform in [-hue, hue], at most 0.5. Needs 3 channels.
        p: probability that an image is changed.
        grayscale: probability that an image loses its colour, after the changes.
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
    ) -> None:
        super().__init__()
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue
        self.p, self.grayscale = p, grayscale

    def forward(self, images: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Return the images in other colours."""
        random = random or SampleRandom.fresh(len(images), images.device)
        images = to_float(images)
        n, channels, height, width = images.shape
        if channels != 3 and (self.saturation or self.hue):
            raise ValueError(f"saturation and hue need 3 channels, the images have {channels}; set both to 0")
        luma = _luma(channels, images.device)
        gray = luma.expand(channels, channels)
        eye = torch.eye(channels, device=images.device)
        brightness, contrast, saturation = (
            random.uniform(low=max(0.0, 1 - reach), high=1 + reach)
            for reach in (self.brightness, self.contrast, self.saturation)
        )
        hue = random.uniform(low=-self.hue, high=self.hue)
        matrix = brightness[:, None, None] * eye
        mean = (images.mean((2, 3)) @ luma) * brightness
        matrix = contrast[:, None, None] * matrix
        offset = ((1 - contrast) * mean)[:, None, None].expand(n, channels, 1)
        colour = saturation[:, None, None] * eye + (1 - saturation)[:, None, None] * gray
        if self.hue:
            colour = hue_rotations(hue) @ colour
        matrix, offset = colour @ matrix, colour @ offset
        changed = random.bernoulli(self.p)[:, None, None]
        matrix, offset = torch.where(changed, matrix, eye), torch.where(changed, offset, 0.0)
        dropped = random.bernoulli(self.grayscale)[:, None, None]
        matrix = torch.where(dropped, gray @ matrix, matrix)
        offset = torch.where(dropped, gray @ offset, offset)
        out = torch.baddbmm(offset, matrix, images.reshape(n, channels, height * width))
        return out.view_as(images).clamp_(0, 1)


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

    uint8 or float ``(N, C, H, W)`` in, float32 of that shape out. It draws nothing.

    Args:
        mean: the mean of each channel over the data set, in [0, 1].
        std: the standard deviation of each channel.
    """

    def __init__(self, *, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Return the images with mean zero and standard deviation one, over the data set."""
        channels = len(self.mean)
        if images.shape[1] != channels:
            raise ValueError(
                f"mean and std are given for {channels} channels, the images have {images.shape[1]}; "
                "pass the mean and std of this data set"
            )
        mean, std = self.mean.to(images.device), self.std.to(images.device)
        return (to_float(images) - mean) / std
