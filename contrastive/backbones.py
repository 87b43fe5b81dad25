"""Encoders as state dicts of torchvision and timm, and back."""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal

from torch import Tensor, nn

from contrastive.errors import ContrastiveError
from contrastive.features import FrozenEncoder, fill
from encoders.image import RESNET_BLOCKS, ResNet
from encoders.pretrained import TimmEncoder, TorchvisionEncoder


def to_torchvision(encoder: nn.Module) -> dict[str, Tensor]:
    """The weights of an image encoder under torchvision's names, without the classifier.

    They load into the network that ``torchvision.models`` builds, once its ``fc`` (or ``heads``,
    ``classifier``) is taken away, or with ``strict=False``.

    Args:
        encoder: what ``load_encoder`` gives, a `ResNet` of width 64 with the ImageNet stem, or a
            `TorchvisionEncoder`.

    Raises:
        ContrastiveError: torchvision has no such network.
    """
    return _state_dict(encoder, TorchvisionEncoder, "torchvision")


def to_timm(encoder: nn.Module) -> dict[str, Tensor]:
    """The weights of an image encoder under timm's names, without the classifier.

    They load into ``timm.create_model(name, num_classes=0)``.

    Args:
        encoder: what ``load_encoder`` gives, a `ResNet` of width 64 with the ImageNet stem, or a
            `TimmEncoder`.

    Raises:
        ContrastiveError: timm has no such network.
    """
    return _state_dict(encoder, TimmEncoder, "timm")


def resnet_name(encoder: nn.Module) -> str | None:
    """What torchvision and timm call an encoder if it is one of their ResNets, ``resnet18``; else None."""
    encoder = _inner(encoder)
    if not isinstance(encoder, ResNet) or encoder.conv1.kernel_size != (7, 7):
        return None
    return f"resnet{encoder.depth}" if encoder.conv1.out_channels == 64 else None


def from_torchvision(state_dict: dict[str, Tensor]) -> ResNet:
    """Build our `ResNet` from the state dict of a ResNet of torchvision or timm, whose names are the same.

    Depth, width, stem and channels follow from the weights; a classifier ``fc`` is left out. Other networks
    open as ``TorchvisionEncoder(name=…, weights=FILE)`` or ``TimmEncoder(name=…)``.

    Raises:
        ContrastiveError: the weights are not those of a plain ResNet; the message lists the keys.
    """
    weights = {key: value for key, value in state_dict.items() if not key.startswith("fc.")}
    first = weights.get("conv1.weight")
    blocks = Counter(
        key.split(".")[0] for key in weights if re.fullmatch(r"layer\d\.\d+\.conv1\.weight", key)
    )
    shape = ("layer1.0.conv3.weight" in weights, tuple(blocks[f"layer{i}"] for i in range(1, 5)))
    depths = [
        depth for depth, (block, counts) in RESNET_BLOCKS.items() if (block.expansion == 4, counts) == shape
    ]
    if first is None or first.ndim != 4 or not depths:
        raise ContrastiveError(
            "the state dict is no ResNet of 18 to 152 layers; it begins with "
            f"{', '.join([*state_dict][:4])}. Other networks open as TorchvisionEncoder or TimmEncoder"
        )
    width, in_channels, side, _ = first.shape
    stem: Literal["small", "imagenet"] = "small" if side == 3 else "imagenet"
    encoder = ResNet(depth=depths[0], width=width, stem=stem, in_channels=in_channels)
    fill(encoder, weights, "the state dict")
    return encoder


def _inner(encoder: nn.Module) -> nn.Module:
    return encoder.encoder if isinstance(encoder, FrozenEncoder) else encoder


def _state_dict(encoder: nn.Module, wrapper: type[nn.Module], library: str) -> dict[str, Tensor]:
    encoder = _inner(encoder)
    if isinstance(encoder, wrapper):
        return encoder.model.state_dict()  # type: ignore[union-attr, operator]
    if resnet_name(encoder):
        return encoder.state_dict()
    raise ContrastiveError(
        f"{library} has no {_described(encoder)}; it has ResNets of width 64 with the imagenet stem, and "
        f"what {wrapper.__name__} builds"
    )


def _described(encoder: nn.Module) -> str:
    if not isinstance(encoder, ResNet):
        return type(encoder).__name__
    stem = "imagenet" if encoder.conv1.kernel_size == (7, 7) else "small"
    return f"ResNet of width {encoder.conv1.out_channels} with the {stem} stem"
