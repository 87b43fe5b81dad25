"""Pictures that the tests of augmentations share."""

import torch
from torch.nn.functional import interpolate

N = 12


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
