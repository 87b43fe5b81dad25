"""Operations against torchvision's with the same parameters, and what they refuse."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tvf
from pictures import FLOATS, IMAGES, N, assert_each, pictures, uniform

from augmentations import adjust, colour, geometry, image, resampling
from augmentations.random import SampleRandom
from contrastive.data.image_crops import Crop

BILINEAR = tvf.InterpolationMode.BILINEAR


@pytest.mark.parametrize("size", [16, 32, 40, 64])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_crop_equals_resized_crop(size, channels):
    images = pictures(channels=channels).float() / 255
    random = SampleRandom(torch.arange(N))
    boxes, flip = geometry.draw_crop_boxes(random, 40, 52), random.bernoulli(0.5)
    ours = resampling.resample(images, *resampling.crop_taps(boxes, flip, image_size=(40, 52), size=size))

    def reference(k):
        cropped = tvf.resized_crop(
            images[k], *boxes[k].int().tolist(), [size, size], BILINEAR, antialias=True
        )
        return tvf.hflip(cropped) if flip[k] else cropped

    assert_each(ours, reference, atol=1e-5)


def test_crop_of_uint8_equals_crop_of_float():
    ours = (
        geometry.RandomResizedCrop(size=24)(batch, SampleRandom(torch.arange(N)))
        for batch in (IMAGES, FLOATS)
    )
    torch.testing.assert_close(*ours, atol=1e-6, rtol=0)


def test_affine_equals_affine():
    angle, scale = uniform(-60, 60), uniform(0.5, 1.5, seed=2)
    translate, shear = uniform(-6, 6, 2).round(), uniform(-20, 20, 2, seed=3)
    ours = resampling.warp(FLOATS, resampling.affine_matrices(angle, translate, scale, shear), size=(40, 52))
    assert_each(
        ours,
        lambda k: tvf.affine(
            FLOATS[k], angle[k].item(), translate[k].tolist(), scale[k].item(), shear[k].tolist(), BILINEAR
        ),
        atol=5e-5,
    )


def test_crop_with_rotation_is_one_map():
    """On a linear ramp bilinear reading is exact, so torchvision's crop, then rotation, reads the same."""
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(60.0), indexing="ij")
    ramps = (torch.stack((x, y))[None] / 60).repeat(N, 1, 1, 1)
    boxes = torch.tensor([12.0, 9.0, 30.0, 40.0]).repeat(N, 1)
    angle, flip = uniform(-40, 40), torch.arange(N) % 2 == 0
    matrices = resampling.crop_matrices(boxes, flip, angle, image_size=(60, 60), size=64)
    ours = resampling.warp(ramps, matrices, size=(64, 64))
    middle = slice(24, 40)

    def reference(k):
        cropped = tvf.resized_crop(ramps[k], 12, 9, 30, 40, [64, 64], BILINEAR, antialias=True)
        cropped = tvf.hflip(cropped) if flip[k] else cropped
        return tvf.rotate(cropped, -angle[k].item(), BILINEAR)[:, middle, middle]

    assert_each(ours[:, :, middle, middle], reference, atol=1e-5)


@pytest.mark.parametrize("kernel_size", [3, 9, 23])
def test_blur_equals_gaussian_blur(kernel_size):
    sigma = uniform(0.1, 2.0)
    ours = resampling.gaussian_blur(FLOATS, sigma, kernel_size=kernel_size)
    assert_each(
        ours, lambda k: tvf.gaussian_blur(FLOATS[k], [kernel_size] * 2, [sigma[k].item()] * 2), atol=2e-6
    )


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("channels", [1, 3])
def test_adjustments_equal_torchvision(name, channels):
    images = pictures(channels=channels).float() / 255
    factor = uniform(-0.5, 0.5) if name == "hue" else uniform(0, 2)
    ours = getattr(adjust, f"adjust_{name}")(images, factor)
    reference = getattr(tvf, f"adjust_{name}")
    # Where two channels tie for the largest, rounding decides the sector of the hue: 1e-5 allows for it.
    assert_each(ours, lambda k: reference(images[k], factor[k].item()), atol=1e-5)


def test_grayscale_and_solarize_equal_torchvision():
    assert_each(colour.RandomGrayscale(p=1)(IMAGES), lambda k: tvf.rgb_to_grayscale(FLOATS[k], 3), atol=1e-6)
    solarized = colour.RandomSolarize(threshold=0.4, p=1)(IMAGES)
    assert_each(solarized, lambda k: tvf.solarize(FLOATS[k], 0.4), atol=1e-6)


def test_normalize_equals_torchvision():
    norm = colour.Normalize()
    expected = tvf.normalize(FLOATS, colour.IMAGENET_MEAN, colour.IMAGENET_STD)
    torch.testing.assert_close(norm(IMAGES), expected, atol=2e-6, rtol=0)


def test_cutout_paints_one_square():
    cut = geometry.Cutout(size=8, p=1)(torch.ones(200, 2, 20, 24)) == 0
    rows, columns = cut[:, 0].any(2).sum(1), cut[:, 0].any(1).sum(1)
    assert torch.equal(cut[:, 0], cut[:, 1])
    assert torch.equal(cut[:, 0].sum((1, 2)), rows * columns)
    assert rows.max() == columns.max() == 8 and rows.min() >= 4, "a centre lies inside the image"


def jitter(**changes):
    settings = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 1.0}
    return colour.ColorJitter(**(settings | changes))


def sequence(images, factors, order):
    """torchvision's functions in each image's own order."""
    steps = (tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation, tvf.adjust_hue)
    out = []
    for k, picture in enumerate(images):
        for kind in order[k].tolist():
            picture = steps[kind](picture, factors[k, kind].item())
        out.append(picture)
    return torch.stack(out)


@pytest.mark.parametrize("random_order", [False, True])
def test_exact_jitter_is_torchvisions_sequence(random_order):
    module = jitter(random_order=random_order, exact=True)
    factors, order, _ = module._draw(SampleRandom(torch.arange(N)), torch.device("cpu"))
    expected = sequence(FLOATS, factors, order)
    torch.testing.assert_close(module(IMAGES, SampleRandom(torch.arange(N))), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_composed_jitter_equals_the_sequence_where_nothing_is_clamped(channels):
    images = 0.4 + 0.2 * pictures(channels=channels).float() / 255
    module = jitter(hue=0.0, brightness=0.2, contrast=0.3, saturation=0.3)
    factors, order, _ = module._draw(SampleRandom(torch.arange(N)), torch.device("cpu"))
    expected = sequence(images, factors, order)
    torch.testing.assert_close(module(images, SampleRandom(torch.arange(N))), expected, atol=2e-6, rtol=0)


def test_composed_jitter_stays_near_the_exact_one():
    """The price of one affine map, on colours far more saturated than a photograph's."""
    images, index = pictures(100), torch.arange(100)
    for strength in (0.5, 1.0):
        reach = dict.fromkeys(("brightness", "contrast", "saturation"), 0.8 * strength)
        near, exact = (
            jitter(**reach, hue=0.2 * strength, exact=exact)(images, SampleRandom(index))
            for exact in (False, True)
        )
        error, change = (near - exact).abs().mean(), (exact - images / 255).abs().mean()
        assert error < 0.35 * change


def test_hue_rotation_is_exact_at_thirds_of_a_turn():
    shift = torch.tensor([-1 / 3, 0, 1 / 3])
    rotated = torch.einsum("nij,njhw->nihw", adjust.hue_rotations(shift), FLOATS[:3])
    torch.testing.assert_close(rotated, adjust.adjust_hue(FLOATS[:3], shift), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "module, images, message",
    [
        (jitter(), torch.rand(2, 2, 8, 8), "1 or 3 channels, these have 2"),
        (colour.RandomGrayscale(), torch.rand(2, 4, 8, 8), "1 or 3 channels, these have 4"),
        (colour.Normalize(), torch.rand(2, 1, 8, 8), "for 3 channels, the images have 1"),
        (geometry.GaussianBlur(kernel_size=23, p=1), torch.rand(2, 3, 8, 8), "smaller kernel_size"),
        (image.weak(size=8), torch.rand(3, 8, 8), r"images\[None\]"),
    ],
)
def test_what_cannot_be_done_is_said(module, images, message):
    with pytest.raises(ValueError, match=message):
        module(images)


def test_what_is_no_batch_of_images_is_named():
    with pytest.raises(TypeError, match="not a ndarray"):
        colour.Normalize()(np.zeros((2, 3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="one image becomes a batch"):
        colour.Normalize()(torch.zeros(3, 8, 8))


def test_integers_other_than_bytes_are_refused():
    with pytest.raises(TypeError, match="uint8 or float"):
        image.weak(size=8)(torch.zeros(2, 3, 8, 8, dtype=torch.int64))


def test_brightness_takes_any_number_of_channels():
    out = colour.ColorJitter(brightness=0.4, p=1)(torch.full((2, 5, 4, 4), 0.5))
    assert out.shape == (2, 5, 4, 4)


@pytest.mark.parametrize(
    "build",
    [
        lambda: jitter(hue=0.6),
        lambda: geometry.GaussianBlur(kernel_size=4),
        lambda: image.byol(view=3),
        lambda: image.simclr(size=0),
        lambda: image.simclr(size=8, scale=(1.0, 0.2)),
        lambda: image.simclr(size=8, scale=(8, 100)),
        lambda: geometry.RandomResizedCrop(size=8, ratio=(2, 1)),
        lambda: Crop(size=0),
    ],
)
def test_settings_out_of_range_are_refused(build):
    with pytest.raises(ValueError):
        build()


def test_an_empty_batch_gives_an_empty_view():
    assert image.simclr(size=16, blur=0.5)(torch.empty(0, 3, 32, 32)).shape == (0, 3, 16, 16)


def test_noise_has_the_standard_deviation_asked_for():
    noisy = colour.GaussianNoise(std=0.05)(torch.full((20, 3, 32, 32), 0.5), SampleRandom(torch.arange(20)))
    assert math.isclose(noisy.std().item(), 0.05, rel_tol=0.02)
