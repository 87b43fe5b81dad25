"""Encoders of other libraries, from scratch or from published weights: torchvision's and timm's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import torchvision.models
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from encoders.weights import load_strictly


class TorchvisionEncoder(nn.Module):
    """A classifier of ``torchvision.models`` without its last linear layer: ConvNeXt, EfficientNet, ViT, ….

    Args:
        name: as torchvision's functions are named: ``resnet50``, ``convnext_tiny``, ``efficientnet_b0``,
            ``vit_b_16``, ``swin_t``, ….
        weights: where training starts: None is at random; torchvision's name of weights that it downloads,
            ``DEFAULT`` or as ``IMAGENET1K_V1``, trained on images normalised by ImageNet's mean and std, but
            for ``efficientnet_v2_l``, by 0.5 and 0.5; or a file with a state dict of this network, with or
            without its last layer, ``.safetensors`` or ``.pth`` (opened as weights alone, never as code).
        in_channels: channels of the images. Weights for 3 are averaged over channels and repeated.
        image_size: side of the images in pixels, for a ViT; the position embeddings of weights for another
            size are interpolated. None takes the 224 pixels of the paper. The other networks take any size.

    Raises:
        ValueError: no such network or weights, or keys that do not fit; the message lists them.
    """

    def __init__(
        self,
        *,
        name: str,
        weights: str | None = None,
        in_channels: int = 3,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        self.model = _build(name, image_size)
        classifier, self.num_features = _remove_classifier(self.model, name)
        _set_in_channels(self.model, in_channels)
        if weights is not None:
            state = _fitted(_read(name, weights), self.model, classifier, in_channels)
            load_strictly(self.model, state, weights, name)

    def forward(self, x: Tensor) -> Tensor:
        """Encode ``(N, in_channels, H, W)`` as ``(N, num_features)``."""
        return _encoded(self.model, x)


class TimmEncoder(nn.Module):
    """A network of timm without its classifier (``pip install timm``; its names: ``timm.list_models()``).

    Args:
        name: of the network, with the tag of its weights where there are several:
            ``convnext_tiny.in12k_ft_in1k``.
        pretrained: whether to start from its published weights, which timm downloads.
        in_channels: channels of the images; timm fits the weights to them.
        image_size: side of the images in pixels, for networks that are built for one (ViT).
        drop_path: probability with which a residual branch is left out (arXiv 1603.09382).

    Attributes:
        trained_on: mean and std that the images were normalised by which its published weights were trained
            on, of many a ViT 0.5 and 0.5; None without these weights or for other channels.

    Raises:
        ValueError: timm is missing or knows no such network.
    """

    def __init__(
        self,
        *,
        name: str,
        pretrained: bool = False,
        in_channels: int = 3,
        image_size: int | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise ValueError("TimmEncoder needs timm: pip install timm") from error
        if not timm.is_model(name.split(".")[0]):
            close = ", ".join(timm.list_models(f"{name[:6]}*")[:8])
            raise ValueError(
                f"timm {timm.__version__} has no {name!r}" + (f"; it has {close}" if close else "")
            )
        options: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
        if drop_path:
            options["drop_path_rate"] = drop_path
        model: Any = timm.create_model(
            name, pretrained=pretrained, in_chans=in_channels, num_classes=0, **options
        )
        self.model = model
        known = model.pretrained_cfg if pretrained and in_channels == 3 else {}
        self.trained_on = (list(known["mean"]), list(known["std"])) if known else None
        # some networks have one more layer between the pooled features and the classifier
        self.num_features = int(getattr(model, "head_hidden_size", None) or model.num_features)

    def forward(self, x: Tensor) -> Tensor:
        """Encode ``(N, in_channels, H, W)`` as ``(N, num_features)``."""
        return _encoded(self.model, x)


def _encoded(model: nn.Module, x: Tensor) -> Tensor:
    """What a network gives of images; some, as a ViT, assert that these have the size it was built for."""
    try:
        return model(x)
    except AssertionError as error:
        height, width = x.shape[-2:]
        raise ValueError(
            f"{type(model).__name__} was not built for images of {height} × {width} pixels "
            f"({str(error).rstrip('!.')}): give it the size of the images and of the views' crops as "
            "image_size, or them its size (model.encoder.init_args.image_size, data.init_args.image_size)"
        ) from error


def _build(name: str, image_size: int | None) -> nn.Module:
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        close = [other for other in names if other.startswith(name[:4])] or names
        raise ValueError(f"torchvision.models has no {name!r}; choose one of {', '.join(close)}")
    options: dict[str, Any] = {}
    if name.startswith("vit_") and image_size is not None:
        options["image_size"] = image_size
    if name in ("googlenet", "inception_v3"):  # they hang classifiers in the middle, for training alone
        options |= {"aux_logits": False, "init_weights": True}
    try:
        return torchvision.models.get_model(name, weights=None, **options)
    except AssertionError as error:  # a ViT's patches do not divide the image
        raise ValueError(
            f"{name} cannot be built for an image_size of {image_size} ({error}); its patches must divide it"
        ) from error


def _remove_classifier(model: nn.Module, name: str) -> tuple[str, int]:
    """Take the last linear layer away, and a dropout before it; return its name and its inputs."""
    linear = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ValueError(f"{name} does not end in a linear layer; choose another network")
    path, last = linear[-1]
    parent = model.get_submodule(path.rpartition(".")[0])
    setattr(parent, path.rpartition(".")[2], nn.Identity())
    for key, layer in parent.named_children():
        if isinstance(layer, nn.Dropout):
            setattr(parent, key, nn.Identity())
    return path, last.in_features


def _first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    return next((path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d))


def _set_in_channels(model: nn.Module, in_channels: int) -> None:
    path, old = _first_convolution(model)
    if in_channels == old.in_channels:
        return
    names = ("out_channels", "kernel_size", "stride", "padding", "dilation", "padding_mode")
    options: dict[str, Any] = {key: getattr(old, key) for key in names}
    new = nn.Conv2d(in_channels, bias=old.bias is not None, **options)
    parent, _, key = path.rpartition(".")
    setattr(model.get_submodule(parent), key, new)


def _read(name: str, weights: str) -> dict[str, Tensor]:
    """A state dict by torchvision's name of it, or from a file."""
    path = Path(weights).expanduser()
    if path.suffix in (".safetensors", ".pth", ".pt"):
        if not path.is_file():
            raise ValueError(f"there is no file of weights {path}")
        return _read_file(path)
    known = torchvision.models.get_model_weights(name)
    names = ["DEFAULT", *known.__members__]
    if weights not in names:
        raise ValueError(
            f"{name} has no weights {weights!r}; choose {', '.join(dict.fromkeys(names))}, or a .safetensors "
            "or .pth file"
        )
    return dict(known[weights].get_state_dict(progress=False, check_hash=True))


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(f"{path} is no file of weights: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is not a plain state dict; save model.state_dict()")
    return state


def _fitted(
    state: dict[str, Tensor], model: nn.Module, classifier: str, in_channels: int
) -> dict[str, Tensor]:
    """Leave the classifier out, and fit the first convolution and the position embeddings to the images."""
    # published DenseNets have norm.1 for norm1, from when torch allowed dots in the names of modules
    state = {re.sub(r"(denselayer\d+\.(norm|conv))\.(\d)", r"\1\3", key): state[key] for key in state}
    state = {key: value for key, value in state.items() if not key.startswith(classifier + ".")}
    first = _first_convolution(model)[0] + ".weight"
    if first in state and state[first].ndim == 4 and state[first].shape[1] != in_channels:
        mean = state[first].mean(dim=1, keepdim=True)
        # so that an image whose channels are equal gives what its RGB copy gave
        state[first] = mean.repeat(1, in_channels, 1, 1) * (state[first].shape[1] / in_channels)
    if isinstance(model, VisionTransformer) and "encoder.pos_embedding" in state:
        state = dict(interpolate_embeddings(model.image_size, model.patch_size, state))  # type: ignore[arg-type]
    return state
