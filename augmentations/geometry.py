"""Augmentations that move pixels or hide them: crops, flips, rotations, affine maps, blur and cutout."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from augmentations.batch import check_images, to_float
from augmentations.random import SampleRandom
from augmentations.resampling import (
    affine_matrices,
    crop_matrices,
    crop_taps,
    gaussian_blur,
    resample,
    warp,
)

_CROP_ATTEMPTS = 10  # torchvision's: how often a box is drawn before the centre is taken


def check_crop(size: int, scale: tuple[float, float] | None, ratio: tuple[float, float]) -> None:
    """Check the settings of random crops.

    Raises:
        ValueError: no pixels, shares of the area that are none, or a pair whose larger value comes first.
    """
    if size < 1:
        raise ValueError(f"size is {size}; a crop has 1 pixel or more along each side")
    if scale is not None and not 0 <= scale[0] <= scale[1] <= 1:
        raise ValueError(f"scale is {scale}; it is the smallest and the largest share of the area, up to 1")
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"ratio is {ratio}; it is the smallest and the largest width over height")


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
    boxes = torch.stack(((area / aspect).sqrt(), (area * aspect).sqrt()), 2).round()
    room = torch.tensor((height, width), device=boxes.device)
    fits = ((boxes >= 1) & (boxes <= room)).all(2)
    first = fits.to(torch.uint8).argmax(1)[:, None, None].expand(-1, 1, 2)
    box = boxes.gather(1, first).squeeze(1)
    corner = torch.floor(draws[:, -2:] * (room - box + 1))
    centred = boxes.new_tensor(_central_box(height, width, ratio))
    return torch.where(fits.any(1, keepdim=True), torch.cat((corner, box), 1), centred)


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[float, ...]:
    """Return the largest centred box with an aspect ratio within ``ratio``."""
    box_height = min(height, round(width / ratio[0]))
    box_width = min(width, round(height * ratio[1]))
    return (
        float((height - box_height) // 2),
        float((width - box_width) // 2),
        float(box_height),
        float(box_width),
    )


class RandomResizedCrop(nn.Module):
    """Crop a random box, flip it, resize it to ``size`` and rotate it: one resampling of the image.

    Boxes are drawn as torchvision draws them. Without rotation the pixels are those of its antialiased
    bilinear ``resized_crop``. With rotation there is no antialiasing, the corners show what lies around the
    box, and only what lies outside the image is black.
    uint8 or float ``(N, C, H, W)`` in, float32 in [0, 1] ``(N, C, size, size)`` out.

    Args:
        size: pixels along each side of the result.
        scale: smallest and largest share of the area that is kept; None for images that were cropped to
            ``size`` where they were read (``contrastive.data.image_crops``): they are flipped alone.
        ratio: smallest and largest width over height.
        flip: probability of a horizontal flip.
        degrees: rotation is uniform in [-degrees, degrees].
    """

    def __init__(
        self,
        *,
        size: int,
        scale: tuple[float, float] | None = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        degrees: float = 0.0,
    ) -> None:
        super().__init__()
        check_crop(size, scale, ratio)
        self.size, self.scale, self.ratio = size, scale, ratio
        self.flip, self.degrees = flip, degrees

    def forward(self, images: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Return one cropped view of every image."""
        random = random or SampleRandom.fresh(len(images), images.device)
        check_images(images)
        height, width = images.shape[-2:]
        boxes = self._boxes(images, random)
        flip = random.bernoulli(self.flip)
        if self.scale is None and self.degrees == 0:
            return to_float(torch.where(flip[:, None, None, None], images.flip(3), images))
        if self.degrees == 0:
            taps = crop_taps(boxes, flip, image_size=(height, width), size=self.size)
            return resample(images, *taps)
        angle = random.uniform(low=-self.degrees, high=self.degrees)
        matrices = crop_matrices(boxes, flip, angle, image_size=(height, width), size=self.size)
        return warp(to_float(images), matrices, size=(self.size, self.size))

    def _boxes(self, images: Tensor, random: SampleRandom) -> Tensor:
        height, width = images.shape[-2:]
        if self.scale is not None:
            return draw_crop_boxes(random, height, width, scale=self.scale, ratio=self.ratio)
        if (height, width) != (self.size, self.size):
            raise ValueError(
                f"the images are {height}×{width}, but with scale null they must come cropped to "
                f"{self.size}: give data.init_args.crop.size {self.size}, or the recipe of the views a scale"
            )
        whole = torch.tensor([0, 0, height, width], dtype=torch.float32, device=images.device)
        return whole.expand(len(images), -1)


class RandomAffine(nn.Module):
    """Rotate, translate, scale, shear and flip about the centre: one resampling, black where nothing is.

    The parameters are drawn and the map composed as in torchvision's ``RandomAffine``, but the translation
    is not rounded to whole pixels. uint8 or float ``(N, C, H, W)`` in, float32 in [0, 1] of that shape out.

    Args:
        degrees: rotation is uniform in [-degrees, degrees].
        translate: largest horizontal and vertical shift, as a share of width and height.
        scale: smallest and largest magnification.
        shear: horizontal shear is uniform in [-shear, shear], in degrees.
        flip: probability of a horizontal flip, before the rest.
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
        check_images(images)
        height, width = images.shape[-2:]
        angle = random.uniform(low=-self.degrees, high=self.degrees)
        reach = angle.new_tensor((self.translate[0] * width, self.translate[1] * height))
        matrices = affine_matrices(
            angle=angle,
            translate=random.uniform(2, low=-1.0) * reach,
            scale=random.uniform(low=self.scale[0], high=self.scale[1]),
            shear=random.uniform(2, low=-1.0) * angle.new_tensor((self.shear, 0.0)),
        )
        mirror = 1 - 2 * random.bernoulli(self.flip).float()
        matrices[:, 0] *= mirror[:, None]
        return warp(to_float(images), matrices, size=(height, width))


class GaussianBlur(nn.Module):
    """Blur an image with probability ``p``: torchvision's ``GaussianBlur``, one standard deviation an image.

    uint8 or float ``(N, C, H, W)`` in, float32 in [0, 1] of that shape out.

    Args:
        kernel_size: pixels along each side of the kernel, odd; SimCLR takes a tenth of the image's side.
        sigma: smallest and largest standard deviation, in pixels; uniform between them.
        p: probability that an image is blurred.
    """

    def __init__(self, *, kernel_size: int, sigma: tuple[float, float] = (0.1, 2.0), p: float = 0.5) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; it must be odd and positive to have a centre")
        if not 0 < sigma[0] <= sigma[1]:
            raise ValueError(f"sigma is {sigma}; it must be (smallest, largest) and above 0")
        self.kernel_size, self.sigma, self.p = kernel_size, sigma, p

    def forward(self, images: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Return the images, some of them blurred."""
        random = random or SampleRandom.fresh(len(images), images.device)
        images = to_float(images)
        low, high = self.sigma
        draws = random.uniform(2)
        chosen = (draws[:, 1] < self.p).nonzero().squeeze(1)
        sigma = low + (high - low) * draws[chosen, 0]
        return images.index_copy(
            0, chosen, gaussian_blur(images[chosen], sigma, kernel_size=self.kernel_size)
        )


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
        images = to_float(images)
        height, width = images.shape[-2:]
        top = torch.floor(random.uniform() * height) - self.size // 2
        left = torch.floor(random.uniform() * width) - self.size // 2
        y = torch.arange(height, device=images.device) - top[:, None]
        x = torch.arange(width, device=images.device) - left[:, None]
        rows, columns = (y >= 0) & (y < self.size), (x >= 0) & (x < self.size)
        cut = random.bernoulli(self.p)[:, None, None] & rows[:, :, None] & columns[:, None, :]
        return images.masked_fill(cut[:, None], 0.0)
