"""What every image augmentation does first with its batch: check it and make it float."""

from __future__ import annotations

import torch
from torch import Tensor


def check_images(images: Tensor) -> None:
    """Raise an error that says what to do if ``images`` are no ``(N, C, H, W)`` of uint8 or float."""
    if not isinstance(images, Tensor):
        raise TypeError(
            f"augmentations take a tensor (N, C, H, W), not a {type(images).__name__}; convert it"
        )
    if images.ndim != 4:
        raise ValueError(
            f"augmentations take a batch (N, C, H, W), not a tensor of shape {tuple(images.shape)}; "
            "one image becomes a batch by images[None]"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"augmentations take uint8 or float images, not {images.dtype}; convert them first")


def to_float(images: Tensor) -> Tensor:
    """Return uint8 or float ``(N, C, H, W)`` as float32 in [0, 1]: uint8 is divided by 255."""
    check_images(images)
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(255)
    return images.to(torch.float32)
