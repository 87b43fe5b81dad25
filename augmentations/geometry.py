"""Where the pixels come from: crops, flips, rotations and affine maps, one resampling each."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from augmentations.colour import to_float
from augmentations.random import SampleRandom

_CROP_ATTEMPTS = 10  # torchvision's: how often a box is drawn before the centre is taken


def draw_crop_boxes(
    random: SampleRandom,
    height: int,
    width: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Draw a box per image as torchvision's ``RandomResizedCrop.get_params`` does.

    The area is uniform in ``scale``, the aspect ratio log-uniform in ``ratio``, the place uniform. A box that
    does not fit is drawn again; after ten attempts it is the largest centred box within the ratio.

    Returns:
        ``(N, 4)`` float32 of whole pixels: top, left, height, width.
    """
    draws = random.uniform(2 * _CROP_ATTEMPTS + 2)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[:, :_CROP_ATTEMPTS])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * draws[:, _CROP_ATTEMPTS:-2])
    heights, widths = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    box = torch.stack((heights.gather(1, first), widths.gather(1, first)), 1).squeeze(2)
    room = torch.tensor((height, width), device=box.device) - box
    corner = torch.floor(draws[:, -2:] * (room + 1))
    centred = _central_box(height, width, ratio).to(box.device)
    return torch.where(fits.any(1, keepdim=True), torch.cat((corner, box), 1), centred)


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> Tensor:
    """Return the largest centred box with an aspect ratio within ``ratio``, ``(4,)``."""
    box_height = min(height, round(width / ratio[0]))
    box_width = min(width, round(height * ratio[1]))
    top, left = (height - box_height) // 2, (width - box_width) // 2
    return torch.tensor((top, left, box_height, box_width), dtype=torch.float32)


def resize_weights(start: Tensor, length: Tensor, size_in: int, size_out: int) -> Tensor:
    """Write antialiased linear interpolation along one axis as a matrix per sample.

    Args:
        start: ``(N,)`` first pixel of the piece that is kept.
        length: ``(N,)`` number of its pixels. A negative length reads the piece backwards, a flip.
        size_in: pixels along the axis before.
        size_out: pixels along the axis after.

    Returns:
        ``(N, size_out, size_in)``: each row is a triangle around the place it reads, as wide as the output's
        pixel when that is larger than the input's, and sums to one.
    """
    pixel = torch.arange(size_in, device=start.device)
    step = (length / size_out)[:, None]
    place = torch.arange(size_out, device=start.device) + 0.5
    centre = torch.where(length > 0, start, start - length)[:, None] + step * place - 0.5
    width = step.abs().clamp(min=1)[:, :, None]
    weights = (1 - (pixel - centre[:, :, None]).abs() / width).clamp_(min=0)
    inside = (pixel >= start[:, None]) & (pixel < (start + length.abs())[:, None])
    weights *= inside[:, None, :]
    return weights / weights.sum(2, keepdim=True)


def crop_resize(images: Tensor, boxes: Tensor, size: int, flip: Tensor) -> Tensor:
    """Cut a box out of every image, flip it where asked and resize it: bilinear with antialiasing.

    Args:
        images: ``(N, C, H, W)`` float.
        boxes: ``(N, 4)`` float, whole pixels: top, left, height, width.
        size: pixels along each side of the result.
        flip: ``(N,)`` bool, whether left and right are exchanged.

    Returns:
        ``(N, C, size, size)``, equal to torchvision's ``resized_crop(antialias=True)``.
    """
    n, channels, height, width = images.shape
    top, left, box_height, box_width = boxes.unbind(1)
    rows = resize_weights(top, box_height, height, size)
    columns = resize_weights(left, torch.where(flip, -box_width, box_width), width, size)
    out = torch.bmm(images.reshape(n, channels * height, width), columns.transpose(1, 2))
    return torch.matmul(rows[:, None], out.view(n, channels, height, size))


def affine_matrices(
    angle: Tensor, translate: Tensor, scale: Tensor, shear: Tensor, flip: Tensor | None = None
) -> Tensor:
    """Return the maps from an output pixel back to the input, in pixels from the centre, ``(N, 2, 3)``.

    The forward map is torchvision's: shear, then scale and rotate (counter-clockwise is negative), then
    translate. ``angle`` ``(N,)`` and ``shear`` ``(N, 2)`` are in degrees, ``translate`` ``(N, 2)`` in pixels
    (x, y).
    """
    angle, shear_x, shear_y = torch.deg2rad(angle), *torch.deg2rad(shear).unbind(1)
    cos, sin = (
        torch.cos(angle - shear_y) / torch.cos(shear_y),
        torch.sin(angle - shear_y) / torch.cos(shear_y),
    )
    a, b = cos, -cos * torch.tan(shear_x) - torch.sin(angle)
    c, d = sin, -sin * torch.tan(shear_x) + torch.cos(angle)
    inverse = torch.stack((d, -b, -c, a), 1).view(-1, 2, 2) / scale[:, None, None]
    shift = -inverse @ translate[:, :, None]
    matrix = torch.cat((inverse, shift), 2)
    if flip is not None:
        matrix[:, 0] = torch.where(flip[:, None], -matrix[:, 0], matrix[:, 0])
    return matrix


def warp(images: Tensor, matrices: Tensor, *, size: tuple[int, int], fill: float = 0.0) -> Tensor:
    """Resample every image through its own affine map, bilinear, ``fill`` where the map leaves the image.

    Args:
        images: ``(N, C, H, W)`` float.
        matrices: ``(N, 2, 3)`` output pixel to input pixel, both counted from the centre, x before y.
        size: height and width of the result.
        fill: value outside the image.
    """
    height, width = images.shape[-2:]
    y = torch.arange(size[0], device=images.device) - (size[0] - 1) / 2
    x = torch.arange(size[1], device=images.device) - (size[1] - 1) / 2
    half = torch.tensor((width / 2, height / 2), device=images.device)
    along_x, along_y, shift = (matrices / half[:, None]).unbind(2)
    grid = along_y[:, None, None, :] * y[:, None, None] + shift[:, None, None, :]
    grid = torch.addcmul(grid, along_x[:, None, None, :], x[:, None])
    if fill == 0:
        return grid_sample(images, grid, align_corners=False)
    return grid_sample(images - fill, grid, align_corners=False) + fill


class RandomResizedCrop(nn.Module):
    """Crop a random box, flip it with probability ``flip`` and resize it to ``size``: one resampling.

    Boxes are drawn as torchvision draws them; the pixels are those of its antialiased bilinear
    ``resized_crop``. uint8 or float ``(N, C, H, W)`` in, float32 in [0, 1] ``(N, C, size, size)`` out.

    Args:
        size: pixels along each side of the result.
        scale: smallest and largest share of the area that is kept.
        ratio: smallest and largest width over height.
        flip: probability of a horizontal flip.
    """

    def __init__(
        self,
        *,
        size: int,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
    ) -> None:
        super().__init__()
        self.size, self.scale, self.ratio, self.flip = size, scale, ratio, flip

    def forward(self, images: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Return one cropped view of every image."""
        random = random or SampleRandom.fresh(len(images), images.device)
        boxes = draw_crop_boxes(random, *images.shape[-2:], scale=self.scale, ratio=self.ratio)
        return crop_resize(to_float(images), boxes, self.size, random.bernoulli(self.flip))


class RandomAffine(nn.Module):
    """Rotate, translate, scale, shear and flip about the centre: one resampling, black where nothing is.

    The parameters are drawn and the map composed as in torchvision's ``RandomAffine``, but the translation
    is not rounded to whole pixels. uint8 or float ``(N, C, H, W)`` in, float32 in [0, 1] of that shape out.

    Args:
        degrees: rotation is uniform in [-degrees, degrees].
        translate: largest horizontal and vertical shift, as a share of width and height.
        scale: smallest and largest magnification.
        shear: horizontal shear is uniform in [-shear, shear], in degrees.
        flip: probability of a horizontal flip.
    """

    def __init__(
        self,
        *,
        degrees: float = 0.0,
        translate: tuple[float, float] = (0.0, 0.0),
        scale: tuple[float, float] = (1.0, 1.0),
        shear: float = 0.0,
        flip: float = 0.0,
    ) -> None:
        super().__init__()
        self.degrees, self.translate, self.scale = degrees, translate, scale
        self.shear, self.flip = shear, flip

    def forward(self, images: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Return one moved view of every image."""
        random = random or SampleRandom.fresh(len(images), images.device)
        height, width = images.shape[-2:]
        angle = random.uniform(low=-self.degrees, high=self.degrees)
        reach = torch.tensor((self.translate[0] * width, self.translate[1] * height), device=images.device)
        translate = random.uniform(2, low=-1.0) * reach
        scale = random.uniform(low=self.scale[0], high=self.scale[1])
        shear = random.uniform(2, low=-self.shear, high=self.shear) * torch.tensor((1.0, 0.0)).to(
            images.device
        )
        matrices = affine_matrices(angle, translate, scale, shear, random.bernoulli(self.flip))
        return warp(to_float(images), matrices, size=(height, width))


class Cutout(nn.Module):
    """Paint a square of every image black, at a uniform place (DeVries and Taylor 2017, arXiv:1708.04552).

    The square's centre is uniform over the pixels, so that part of it may lie outside, as in the paper.
    uint8 or float ``(N, C, H, W)`` in, float32 in [0, 1] of that shape out.

    Args:
        size: pixels along each side of the square.
        p: probability that an image is cut.
    """

    def __init__(self, *, size: int, p: float = 0.5) -> None:
        super().__init__()
        self.size, self.p = size, p

    def forward(self, images: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Return the images, a square of some of them black."""
        random = random or SampleRandom.fresh(len(images), images.device)
        height, width = images.shape[-2:]
        top = torch.floor(random.uniform() * height) - self.size // 2
        left = torch.floor(random.uniform() * width) - self.size // 2
        y = torch.arange(height, device=images.device) - top[:, None]
        x = torch.arange(width, device=images.device) - left[:, None]
        rows, columns = (y >= 0) & (y < self.size), (x >= 0) & (x < self.size)
        cut = random.bernoulli(self.p)[:, None, None] & rows[:, :, None] & columns[:, None, :]
        return to_float(images).masked_fill(cut[:, None], 0.0)
