"""What every image augmentation does with its batch: check it, make it float, take a few images at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_PIECE = 2**19  # values a thread works on at once: 2 MB of float32, about what stays in a core's cache


def check_images(images: Tensor) -> None:
    """Raise an error that says what to do if ``images`` are no ``(N, C, H, W)`` of uint8 or float."""
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


def in_pieces(function: Callable[..., Tensor], images: Tensor, *parameters: Tensor) -> Tensor:
    """Return ``function(images, *parameters)``, made a few images at a time on a CPU.

    What the function writes on its way then stays in the cache. Each image must be worked on by itself.

    Args:
        function: is given some of the images and the rows of the parameters that belong to them.
        images: ``(N, C, H, W)`` uint8 or float.
        parameters: tensors of N rows.
    """
    check_images(images)
    pieces = zip(*(tensor.split(piece_size(images, _PIECE)) for tensor in (images, *parameters)))
    return concatenate([function(*piece) for piece in pieces])


def piece_size(images: Tensor, values: int) -> int:
    """Return how many images hold ``values`` values a thread, at least one; off the CPU, all of them."""
    if not images.is_cpu:
        return max(1, len(images))
    return max(1, values * torch.get_num_threads() // max(1, images[:1].numel()))


def concatenate(pieces: list[Tensor]) -> Tensor:
    """Put pieces of a batch together again, without a copy where there is but one."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
