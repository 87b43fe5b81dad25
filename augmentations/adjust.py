"""Changes of colour as pure functions: one by one as torchvision makes them, or as one affine map."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601, the digits torchvision uses


def luma(channels: int, device: torch.device | str = "cpu") -> Tensor:
    """Return what each channel adds to a pixel's brightness, ``(C,)``: ITU-R 601 for RGB, 1 for one channel.

    Raises:
        ValueError: the images have neither 1 nor 3 channels, so that nothing says what their colours mean.
    """
    if channels not in (1, 3):
        raise ValueError(
            f"contrast, saturation, hue and grayscale need images of 1 or 3 channels, these have {channels}; "
            "leave them out of the recipe, brightness alone takes any number"
        )
    return torch.tensor(_LUMA if channels == 3 else (1.0,), dtype=torch.float32, device=device)


def rgb_to_grayscale(images: Tensor) -> Tensor:
    """Replace the colour of every pixel by its brightness, ``(N, C, H, W)`` in and out."""
    weights = luma(images.shape[1], images.device)
    return torch.einsum("c,nchw->nhw", weights, images)[:, None].expand_as(images)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply every image ``(N, C, H, W)`` in [0, 1] by its factor ``(N,)`` and clamp."""
    return (images * factor[:, None, None, None]).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Move every image ``(N, C, H, W)`` away from its mean brightness by its factor ``(N,)`` and clamp."""
    mean = rgb_to_grayscale(images)[:, :1].mean((2, 3), keepdim=True)
    return torch.lerp(mean, images, factor[:, None, None, None]).clamp_(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Move every pixel of ``(N, C, H, W)`` away from its own gray by its factor ``(N,)`` and clamp."""
    return torch.lerp(rgb_to_grayscale(images), images, factor[:, None, None, None]).clamp_(0, 1)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue of every image ``(N, 3, H, W)`` in [0, 1] by its ``shift`` ``(N,)`` in turns, in HSV.

    An image of one channel has no hue and passes unchanged.
    """
    if len(luma(images.shape[1])) == 1:
        return images
    red, green, blue = images.unbind(1)
    value, low = images.amax(1), images.amin(1)
    chroma = value - low
    divisor = torch.where(chroma == 0, 1.0, chroma)
    hue = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(value == red, (green - blue) / divisor, hue) / 6 + shift[:, None, None]
    hue = 6 * (hue - hue.floor())
    # Red, green and blue as functions of the hue: ramps of width 1 around 3, 2 and 4 sixths of the circle.
    ramps = torch.stack(((hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs()), 1)
    return low[:, None] + chroma[:, None] * ramps.clamp_(0, 1)


def hue_rotations(shift: Tensor) -> Tensor:
    """Return the rotations of colour space about its gray axis, ``(N, 3, 3)``, by ``shift`` ``(N,)`` turns.

    The linear map nearest in spirit to a shift of the hue, and equal to it at a third of a turn.
    """
    cos, sin = torch.cos(2 * math.pi * shift), torch.sin(2 * math.pi * shift) / math.sqrt(3)
    rest = (1 - cos) / 3
    first, second, third = cos + rest, rest - sin, rest + sin
    return torch.stack((first, second, third, third, first, second, second, third, first), 1).view(-1, 3, 3)


def colour_maps(factors: Tensor, order: Tensor, grayscale: Tensor, *, channels: int) -> tuple[Tensor, Tensor]:
    """Compose brightness, contrast, saturation and hue of every image into one affine map of its colours.

    Each change is linear in the pixel and in the image's mean colour, ``x -> A x + B mean``; so is any
    sequence of them, because the mean goes through the same changes: it becomes ``(A + B) mean``.

    Args:
        factors: ``(N, 4)`` of brightness, contrast and saturation, and the shift of the hue.
        order: ``(N, 4)`` int64, which of them comes first, second, third and last.
        grayscale: ``(N,)`` bool, whether the colour is dropped at the end.
        channels: 1 or 3.

    Returns:
        A and B, both ``(N, C, C)``.
    """
    eye = torch.eye(channels, dtype=torch.float32, device=factors.device)
    gray = luma(channels, factors.device).expand(channels, channels)
    brightness, contrast, saturation = factors[:, :3, None, None].unbind(1)
    hue = hue_rotations(factors[:, 3]) if channels == 3 else eye.expand_as(brightness)
    saturate = saturation * eye + (1 - saturation) * gray
    of_pixel = torch.stack((brightness * eye, contrast * eye, saturate, hue), 1)
    of_mean = torch.zeros_like(of_pixel)
    of_mean[:, 1] = (1 - contrast) * gray
    rows = torch.arange(len(factors), device=factors.device)[:, None]
    of_pixel, of_mean = of_pixel[rows, order], of_mean[rows, order]
    a, b = of_pixel[:, 0], of_mean[:, 0]
    for k in range(1, 4):
        a, b = of_pixel[:, k] @ a, of_pixel[:, k] @ b + of_mean[:, k] @ (a + b)
    drop = torch.where(grayscale[:, None, None], gray, eye)
    return drop @ a, drop @ b


def apply_colour_maps(images: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Map every pixel x of ``(N, C, H, W)`` to ``A x + B mean`` and clamp it; A and B are ``(N, C, C)``."""
    offset = b @ images.mean((2, 3))[:, :, None]
    return torch.baddbmm(offset, a, images.flatten(2)).view_as(images).clamp_(0, 1)
