"""Operations against torchvision's with the same parameters, distributions against its ``get_params``."""

import math

import pytest
import torch
import torchvision.transforms as tv
import torchvision.transforms.functional as tvf
from scipy import stats
from torch.nn.functional import interpolate

from augmentations import adjust, colour, geometry, image, resampling
from augmentations.random import SampleRandom
from contrastive.data.image_crops import Crop

N = 12
BILINEAR = tvf.InterpolationMode.BILINEAR


def pictures(n=N, channels=3, height=40, width=52, seed=0):
    """Smooth colours with noise, as uint8: gradients for the resampling, saturated pixels for the clamps."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 5, 5, generator=generator) * 1.4 - 0.2
    noise = 0.1 * torch.randn(n, channels, height, width, generator=generator)
    smooth = interpolate(coarse, size=(height, width), mode="bicubic") + noise
    return smooth.clamp(0, 1).mul(255).to(torch.uint8)


IMAGES = pictures()
FLOATS = IMAGES.float() / 255


def uniform(low, high, *shape, seed=1):
    return low + (high - low) * torch.rand(N, *shape, generator=torch.Generator().manual_seed(seed))


def assert_each(ours, reference, atol):
    """``reference(k)`` is torchvision's result for image k."""
    for k, result in enumerate(ours):
        torch.testing.assert_close(result, reference(k), atol=atol, rtol=0)


# ---- operations


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


# ---- colours in sequence


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


# ---- distributions


def same_distribution(ours, theirs):
    return stats.ks_2samp(ours, theirs).pvalue > 1e-3


@pytest.mark.parametrize("height, width, scale", [(32, 32, (0.08, 1.0)), (40, 90, (0.5, 1.0))])
def test_crop_boxes_are_drawn_as_torchvision_draws_them(height, width, scale):
    torch.manual_seed(0)
    picture, ratio = torch.empty(1, height, width), (3 / 4, 4 / 3)
    theirs = torch.tensor(
        [tv.RandomResizedCrop.get_params(picture, scale, ratio) for _ in range(3000)]
    ).float()
    ours = geometry.draw_crop_boxes(SampleRandom(torch.arange(3000)), height, width, scale=scale)
    for column in range(4):
        assert same_distribution(ours[:, column], theirs[:, column])
    assert same_distribution(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3])


def test_a_crop_that_never_fits_is_torchvisions_central_box():
    picture, scale, ratio = torch.empty(1, 10, 200), (0.9, 1.0), (3 / 4, 4 / 3)
    ours = geometry.draw_crop_boxes(SampleRandom(torch.arange(5)), 10, 200, scale=scale, ratio=ratio)
    assert ours.tolist() == [list(tv.RandomResizedCrop.get_params(picture, scale, ratio))] * 5


def test_jitter_factors_and_order_are_drawn_as_torchvision_draws_them():
    torch.manual_seed(0)
    n, settings = 2000, {"brightness": 0.4, "contrast": 1.5, "saturation": 0.4, "hue": 0.1}
    peer = tv.ColorJitter(**settings)
    draws = [peer.get_params(peer.brightness, peer.contrast, peer.saturation, peer.hue) for _ in range(n)]
    module = colour.ColorJitter(**settings, p=1.0)
    factors, order, _ = module._draw(SampleRandom(torch.arange(n)), torch.device("cpu"))
    for kind in range(4):
        assert same_distribution(factors[:, kind], [draw[1 + kind] for draw in draws])
        assert stats.chisquare(order[:, kind].bincount()).pvalue > 1e-3
    unchanged = colour.ColorJitter(**settings, p=0.8)._draw(
        SampleRandom(torch.arange(n)), torch.device("cpu")
    )[0]
    share = (unchanged == torch.tensor([1.0, 1, 1, 0])).all(1).sum()
    assert stats.binomtest(int(share), n, 0.2).pvalue > 1e-3


def test_affine_parameters_are_drawn_as_torchvision_draws_them():
    """The drawn matrices, read back from where three corners of a ramp come from."""
    torch.manual_seed(0)
    n, scale = 2000, (0.8, 1.2)
    peer = [
        tv.RandomAffine.get_params([-20.0, 20.0], (0.1, 0.2), scale, [-10.0, 10.0], [32, 32])
        for _ in range(n)
    ]
    seen = []
    module = geometry.RandomAffine(degrees=20, translate=(0.1, 0.2), scale=scale, shear=10)
    original, geometry.affine_matrices = geometry.affine_matrices, lambda **p: seen.append(p) or original(**p)
    try:
        module(torch.rand(n, 1, 32, 32), SampleRandom(torch.arange(n)))
    finally:
        geometry.affine_matrices = original
    drawn = seen[0]
    assert same_distribution(drawn["angle"], [p[0] for p in peer])
    assert same_distribution(drawn["scale"], [p[2] for p in peer])
    assert same_distribution(drawn["shear"][:, 0], [p[3][0] for p in peer])
    reach = torch.tensor((3.2, 6.4))
    for axis in range(2):  # torchvision rounds the shift to pixels, we do not
        assert (
            stats.kstest(drawn["translate"][:, axis], stats.uniform(-reach[axis], 2 * reach[axis]).cdf).pvalue
            > 1e-3
        )


def test_flip_and_blur_happen_as_often_as_asked():
    images = torch.arange(16.0).expand(1000, 1, 16, 16) / 16
    flipped = geometry.RandomResizedCrop(size=16)(images, SampleRandom(torch.arange(1000)))
    assert stats.binomtest(int((flipped[:, 0, 0, 0] > flipped[:, 0, 0, -1]).sum()), 1000, 0.5).pvalue > 1e-3
    noise = torch.rand(1000, 1, 16, 16)
    blurred = geometry.GaussianBlur(kernel_size=3, sigma=(1.0, 2.0))(noise, SampleRandom(torch.arange(1000)))
    changed = (blurred != noise).any(3).any(2).any(1).sum()
    assert stats.binomtest(int(changed), 1000, 0.5).pvalue > 1e-3


# ---- recipes

RECIPES = {
    "simclr": image.simclr(size=32, strength=1.0, blur=0.5),
    "simclr exact": image.simclr(size=32, blur=0.5, exact=True),
    "moco_v2": image.moco_v2(size=32),
    "byol 1": image.byol(view=1, size=32),
    "byol 2": image.byol(view=2, size=32),
    "dcl": image.dcl(),
    "weak": image.weak(size=32),
    "medical": image.medical(size=32),
    "geometric": image.geometric(noise=0.1, cutout=8),
}


def images_for(name, n=N):
    return pictures(n, channels=1 if name in ("medical", "geometric") else 3, height=32, width=32)


@pytest.mark.parametrize("name", RECIPES)
def test_a_sample_gets_the_same_view_in_any_batch(name):
    recipe, images, index = RECIPES[name], images_for(name), torch.arange(N)
    whole = recipe(images, SampleRandom(index, seed=7, view=1))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    shuffled = recipe(images[order], SampleRandom(index[order], seed=7, view=1))
    torch.testing.assert_close(shuffled, whole[order], atol=1e-6, rtol=1e-6)
    for k in (0, N - 1):
        alone = recipe(images[k : k + 1], SampleRandom(index[k : k + 1], seed=7, view=1))
        torch.testing.assert_close(alone[0], whole[k], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_a_large_batch_goes_through_in_parts_and_gives_the_same_views(name, monkeypatch):
    recipe, images, index = RECIPES[name], images_for(name), torch.arange(N)
    whole = recipe(images, SampleRandom(index))
    monkeypatch.setattr(image, "_PART", images[:5].numel() // torch.get_num_threads())
    torch.testing.assert_close(recipe(images, SampleRandom(index)), whole, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_views_do_not_depend_on_the_number_of_threads(name):
    recipe, images = RECIPES[name], images_for(name, 400)
    threads = torch.get_num_threads()
    try:
        views = []
        for count in (1, 2):
            torch.set_num_threads(count)
            views.append(recipe(images, SampleRandom(torch.arange(400))))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*views, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_views_are_those_of_float32_in_mixed_precision(name):
    recipe, images = RECIPES[name], images_for(name)
    expected = recipe(images, SampleRandom(torch.arange(N)))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(recipe(images, SampleRandom(torch.arange(N))), expected)


@pytest.mark.parametrize("name", RECIPES)
def test_a_second_call_gives_another_view_and_a_seed_the_same(name):
    recipe, images = RECIPES[name], images_for(name)
    before = images.clone()
    torch.manual_seed(0)
    first, second = recipe(images), recipe(images)
    torch.manual_seed(0)
    assert torch.equal(first, recipe(images)) and not torch.equal(first, second)
    assert first.dtype == torch.float32 and first.shape == images.shape and first.isfinite().all()
    assert torch.equal(images, before), "the batch that was given is left as it is"


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float_images_give_the_view_of_uint8_images(name, dtype):
    recipe, images = RECIPES[name], images_for(name)
    from_bytes, from_floats = (
        recipe(batch, SampleRandom(torch.arange(N))) for batch in (images, images.to(dtype) / 255)
    )
    different = (from_bytes - from_floats).abs() > 1e-4
    assert different.float().mean() < 1e-3, "only a pixel at the threshold of solarize may differ"


def test_normalised_views_have_the_statistics_of_the_images():
    images = pictures(500)
    mean, std = (images / 255).mean((0, 2, 3)), (images / 255).std((0, 2, 3))
    view = image.weak(size=32, mean=mean.tolist(), std=std.tolist())(images, SampleRandom(torch.arange(500)))
    assert view.mean().abs() < 0.1 and 0.8 < view.std() < 1.1


def test_multi_crop_gives_views_of_two_sizes():
    views = image.multi_crop(size=32, small_size=16)(IMAGES)
    assert [view.shape[-1] for view in views] == [32] * 2 + [16] * 6
    assert not torch.equal(views[0], views[1])


def test_small_gray_images():
    view = image.geometric()(torch.rand(5, 1, 8, 8))
    assert view.shape == (5, 1, 8, 8) and view.isfinite().all()


def test_simclr_on_one_channel():
    view = image.simclr(size=16, mean=[0.5], std=[0.5])(IMAGES[:, :1])
    assert view.shape == (N, 1, 16, 16)


def test_recipes_are_built_from_a_configuration():
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--views", type=list[torch.nn.Module])
    pair = [{"class_path": "augmentations.image.byol", "init_args": {"view": k, "size": 16}} for k in (1, 2)]
    own = {
        "class_path": "augmentations.image.Compose",
        "init_args": {
            "augmentations": [{"class_path": "augmentations.geometry.Cutout", "init_args": {"size": 4}}]
        },
    }
    views = parser.instantiate_classes(parser.parse_object({"views": [*pair, own]})).views
    assert [view(IMAGES).shape[-1] for view in views] == [16, 16, 52]


# ---- errors


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
