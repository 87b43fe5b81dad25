"""Where the pixels of a result come from: crops, blur and affine maps as pure functions.

A crop that is flipped and resized, and a blur, are separable: every row of the result is a weighted sum of a
few rows of the image, and so is every column. ``weighted_rows`` does one such pass for a batch, each image
with its own rows and weights. A rotation is not separable and goes through ``grid_sample``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, grid_sample

_CUT_OFF = 5.26  # standard deviations at which a Gaussian is 1e-6 of its peak


def weighted_rows(images: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Make every row of the result a weighted sum of a few rows of the same image and channel.

    Args:
        images: ``(N, C, H, W)`` float32.
        index: ``(N, rows, taps)`` int64, which rows of the image are summed.
        weight: ``(N, rows, taps)`` float32.

    Returns:
        ``(N, C, rows, W)``.
    """
    n, channels, height, width = images.shape
    rows, taps = index.shape[1:]
    plane = torch.arange(n * channels, device=images.device).view(n, channels, 1, 1) * height
    # An embedding table is a list of rows, and a bag a weighted sum of some: the same arithmetic, fused.
    out = embedding_bag(
        (plane + index[:, None]).view(-1, taps),
        images.reshape(-1, width),
        per_sample_weights=weight[:, None].expand(n, channels, rows, taps).reshape(-1, taps),
        mode="sum",
    )
    return out.view(n, channels, rows, width)


def resize_taps(start: Tensor, length: Tensor, size_in: int, size_out: int) -> tuple[Tensor, Tensor]:
    """Say which pixels, and how much of each, make an antialiased linear interpolation along one axis.

    Args:
        start: ``(N,)`` first pixel of the piece that is kept.
        length: ``(N,)`` number of its pixels; a negative one reads the piece backwards, a flip.
        size_in: pixels along the axis before.
        size_out: pixels along the axis after.

    Returns:
        Index int64 and weight float32, both ``(N, size_out, taps)``. The weights are a triangle as wide as
        the output's pixel or the input's, whichever is larger, and sum to one.
    """
    device = start.device
    taps = math.ceil(2 * max(1.0, size_in / size_out))
    step = (length / size_out)[:, None]
    first = torch.where(length > 0, start, start - length)[:, None]
    places = torch.arange(size_out, dtype=torch.float32, device=device) + 0.5
    centre = first + step * places - 0.5
    reach = step.abs().clamp(min=1)
    index = (torch.floor(centre - reach) + 1)[:, :, None] + torch.arange(taps, device=device)
    weight = (1 - (index - centre[:, :, None]).abs() / reach[:, :, None]).clamp_(min=0)
    low, high = start[:, None, None], (start + length.abs() - 1)[:, None, None]
    weight = torch.where((index >= low) & (index <= high), weight, 0.0)
    return index.clamp(low, high).to(torch.int64), weight / weight.sum(2, keepdim=True)


def crop_taps(boxes: Tensor, flip: Tensor, *, image_size: tuple[int, int], size: int) -> tuple[Tensor, ...]:
    """Say how a box is cut out of every image, flipped where asked and resized: the input of ``resample``.

    Args:
        boxes: ``(N, 4)`` float, whole pixels: top, left, height, width.
        flip: ``(N,)`` bool, whether left and right are exchanged.
        image_size: height and width of the images.
        size: pixels along each side of the result.

    Returns:
        Index and weight of the rows, index and weight of the columns, as ``resize_taps`` gives them.
    """
    top, left, height, width = boxes.unbind(1)
    rows = resize_taps(top, height, image_size[0], size)
    columns = resize_taps(left, torch.where(flip, -width, width), image_size[1], size)
    return *rows, *columns


def resample(
    images: Tensor, row: Tensor, row_weight: Tensor, column: Tensor, column_weight: Tensor
) -> Tensor:
    """Make rows and columns of ``(N, C, H, W)`` weighted sums of the old ones, the columns first.

    The images are uint8 or float; uint8 is divided by 255 in the weights, which are fewer than the pixels.
    """
    if images.dtype == torch.uint8:
        column_weight = column_weight / 255
    columns_first = images.transpose(2, 3).to(torch.float32, memory_format=torch.contiguous_format)
    images = weighted_rows(columns_first, column, column_weight)
    return weighted_rows(images.transpose(2, 3), row, row_weight)


def gaussian_blur(images: Tensor, sigma: Tensor, *, kernel_size: int) -> Tensor:
    """Blur every image with its own Gaussian, mirrored at the borders, as torchvision's ``gaussian_blur``.

    A Gaussian is cut off where it has fallen to a millionth of its peak.

    Args:
        images: ``(N, C, H, W)`` float32.
        sigma: ``(N,)`` standard deviation of the Gaussian, in pixels.
        kernel_size: pixels along each side of the kernel; odd.

    Raises:
        ValueError: the images are too small to be mirrored that far.
    """
    height, width = images.shape[-2:]
    radius = kernel_size // 2
    if radius >= min(height, width):
        raise ValueError(
            f"a kernel of {kernel_size} pixels needs images of more than {radius} pixels on each side, "
            f"these have {height}×{width}; pass a smaller kernel_size"
        )
    if len(images) == 0:
        return images
    radius = min(radius, int(_CUT_OFF * sigma.max()))
    offset = torch.arange(-radius, radius + 1, device=images.device)
    weight = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    weight = weight * (offset.abs() <= _CUT_OFF * sigma[:, None])  # by its own sigma, not by the widest
    weight = (weight / weight.sum(1, keepdim=True))[:, None]
    taps = []
    for length in (height, width):
        place = (torch.arange(length, device=images.device)[:, None] + offset).abs()
        mirrored = (length - 1) - (length - 1 - place).abs()
        taps += [t.expand(len(images), length, len(offset)) for t in (mirrored, weight)]
    return resample(images, *taps)


def affine_matrices(angle: Tensor, translate: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """Return the maps from an output pixel back to the input, in pixels from the centre, ``(N, 2, 3)``.

    The forward map is that of torchvision's ``affine``: shear, scale and rotate, then translate.

    Args:
        angle: ``(N,)`` degrees, positive is clockwise.
        translate: ``(N, 2)`` pixels, x before y.
        scale: ``(N,)`` magnification.
        shear: ``(N, 2)`` degrees, x before y.
    """
    angle, shear_x, shear_y = torch.deg2rad(angle), *torch.deg2rad(shear).unbind(1)
    a, c = torch.cos(angle - shear_y) / torch.cos(shear_y), torch.sin(angle - shear_y) / torch.cos(shear_y)
    b = -a * torch.tan(shear_x) - torch.sin(angle)
    d = -c * torch.tan(shear_x) + torch.cos(angle)
    inverse = torch.stack((d, -b, -c, a), 1).view(-1, 2, 2) / scale[:, None, None]
    moved = (inverse * translate[:, None]).sum(2, keepdim=True)  # no product, which autocast would round
    return torch.cat((inverse, -moved), 2)


def crop_matrices(
    boxes: Tensor, flip: Tensor, angle: Tensor, *, image_size: tuple[int, int], size: int
) -> Tensor:
    """Return the maps that crop, flip, resize to ``size`` pixels and rotate by ``angle``, ``(N, 2, 3)``.

    ``angle`` ``(N,)`` is in degrees, positive is clockwise; the rest is as for ``crop_taps``.
    """
    turn = torch.deg2rad(angle)
    rotation = torch.stack((turn.cos(), turn.sin(), -turn.sin(), turn.cos()), 1).view(-1, 2, 2)
    step = boxes[:, [3, 2]] / size
    step[:, 0] = torch.where(flip, -step[:, 0], step[:, 0])
    middle = (boxes[:, :2] + boxes[:, 2:] / 2 - boxes.new_tensor(image_size) / 2).flip(1)
    return torch.cat((step[:, :, None] * rotation, middle[:, :, None]), 2)


def warp(images: Tensor, matrices: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Resample every image through its own affine map: bilinear, black where the map leaves the image.

    Args:
        images: ``(N, C, H, W)`` float.
        matrices: ``(N, 2, 3)`` output pixel to input pixel, both counted from the centre, x before y.
        size: height and width of the result.
    """
    height, width = images.shape[-2:]
    y, x = (torch.arange(n, dtype=torch.float32, device=images.device) - (n - 1) / 2 for n in size)
    half = matrices.new_tensor((width / 2, height / 2))
    along_x, along_y, shift = (matrices / half[:, None])[:, None, None].unbind(4)
    grid = along_x * x[:, None] + (along_y * y[:, None, None] + shift)
    return grid_sample(images, grid, align_corners=False)
