"""What augmentations draw, in distribution against torchvision's ``get_params``."""

import pytest
import torch
import torchvision.transforms as tv
from scipy import stats

from augmentations import colour, geometry
from augmentations.random import SampleRandom


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
