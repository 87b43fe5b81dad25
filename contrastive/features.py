"""Frozen encoders: open one from a run, a checkpoint or an export, and compute features with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from augmentations.colour import Normalize
from contrastive.building import build_module
from contrastive.errors import ContrastiveError, reading
from contrastive.saved import fetched, read_saved
from encoders.weights import load_strictly

log = logging.getLogger("contrastive")


class FrozenEncoder(nn.Module):
    """An encoder with the preprocessing it was trained behind, in eval mode and without gradients.

    It stays so as a part of a network that is put in train mode. After ``requires_grad_(True)`` it is trained
    too, and follows that network's mode.

    Args:
        encoder: has ``num_features`` and maps preprocessed inputs to ``(N, num_features)``. It is frozen
            itself: of one that is being trained give a copy.
        preprocess: maps raw inputs to what the encoder takes.
        config: the run's configuration, ``{"model": {"encoder": …}, "data": …}``; None if it is not known. Of
            an encoder that was fine-tuned ``labels`` is the source of its labels.
    """

    def __init__(
        self, encoder: nn.Module, preprocess: nn.Module, config: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.preprocess, self.config = encoder, preprocess, config
        self.num_features: int = encoder.num_features  # type: ignore[assignment]
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Train mode where parameters are trained; else batch norms would take a stranger's statistics."""
        return super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))

    @property
    def data(self) -> dict[str, Any]:
        """The arguments of the data module it was trained on, such as ``source``; empty if not known."""
        return ((self.config or {}).get("data") or {}).get("init_args", {})

    def forward(self, x: Any) -> Tensor:
        """Encode raw inputs, images ``(N, C, H, W)`` of uint8 or of [0, 1], as ``(N, num_features)``."""
        return self.encoder(self.preprocess(x))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """A block in which a network is in eval mode; after it each part is in the mode that it was in before."""
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def load_encoder(path: str | Path, *, encoder: nn.Module | None = None) -> FrozenEncoder:
    """Open a pretrained encoder.

    Files are read as weights alone: a pickle that carries code is refused, and so is an export whose files
    are not those that its ``SHA256SUMS`` lists.

    Args:
        path: a run folder (its last checkpoint), a ``.ckpt`` file, an export folder, or an export on the
            Hugging Face Hub, ``hf://OWNER/NAME`` or ``hf://OWNER/NAME@REVISION``.
        encoder: the network to fill, for a checkpoint whose run did not record one (a module trained from
            Python, not by ``contrastive pretrain``). Its preprocessing is that of the `ContrastiveModule`
            where this is a ``Normalize`` or ``Identity``; of another make ``FrozenEncoder(encoder, …)``.

    Raises:
        ContrastiveError: nothing there, not a checkpoint, or keys that do not fit; the message lists them.
    """
    path = fetched(path)
    with reading(path):
        config, weights = read_saved(path)
        if encoder is None:
            with torch.random.fork_rng(devices=[]):  # its numbers are replaced, and the caller's go on
                encoder = build_module(_without_weights(_encoder_spec(config, path)))
        fill(encoder, weights, str(path))
        if config is None and not takes_graphs(encoder):
            log.warning("%s does not say how images were normalised: by ImageNet's mean and std here", path)
        recorded = config if config and "encoder" in model_args(config) else None
        return FrozenEncoder(encoder, _preprocess(config, encoder), recorded)


def start_from(encoder: nn.Module, path: str | Path) -> None:
    """Give an encoder that is to be trained the weights of a pretrained one.

    Args:
        encoder: of the same architecture.
        path: as of `load_encoder`.

    Raises:
        ContrastiveError: as of `load_encoder`.
    """
    path = fetched(path)
    with reading(path):
        fill(encoder, read_saved(path)[1], str(path))


def _encoder_spec(config: Any, path: Path) -> dict[str, Any]:
    try:
        if str(config["model"].get("class_path")).endswith(".LinkPrediction"):
            raise ContrastiveError(
                f"{path} predicts links, with features of its own nodes alone: contrastive links {path} "
                f"and contrastive neighbours {path} read it"
            )
        spec = model_args(config)["encoder"]
        return {**spec, "class_path": spec["class_path"], "init_args": dict(spec.get("init_args") or {})}
    except (KeyError, TypeError, AttributeError, ValueError):  # a stranger's file says anything
        raise ContrastiveError(
            f"{path} does not say how its encoder is built; pass load_encoder(path, encoder=…)"
        ) from None


_NOT_FETCHED: dict[str, Any] = {"weights": None, "pretrained": False}


def _without_weights(spec: Any) -> Any:
    """The parts of an encoder, started at random: a checkpoint replaces all weights, so none is fetched."""
    if isinstance(spec, list):
        return [_without_weights(part) for part in spec]
    if not isinstance(spec, dict):
        return spec
    return {key: _NOT_FETCHED.get(key, _without_weights(value)) for key, value in spec.items()}


def model_args(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the pretrained module in a run's configuration."""
    return config["model"].get("init_args", config["model"])


def build_encoder(config: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """Build the untrained encoder and its preprocessing from a run's configuration."""
    encoder = build_module(model_args(config)["encoder"])
    return encoder, _preprocess(config, encoder)


def _preprocess(config: dict[str, Any] | None, encoder: nn.Module) -> nn.Module:
    spec = model_args(config).get("preprocess") if config else None
    return build_plain(spec) if spec else default_preprocess(encoder)


def build_plain(spec: dict[str, Any]) -> nn.Module:
    """Build preprocessing or a view of a run's configuration, which may be a stranger's.

    Raises:
        ContrastiveError: it would fetch weights; nothing was fetched.
    """
    if _without_weights(spec) != spec:
        raise ContrastiveError(
            f"{spec.get('class_path')} would fetch weights, which preprocessing and views have none of: they "
            "are kept in no run and no export. Nothing was fetched; build it without"
        )
    return build_module(spec)


def default_preprocess(encoder: nn.Module) -> nn.Module:
    """What an encoder's raw inputs need: images are normalised, graphs are taken as they are."""
    return nn.Identity() if takes_graphs(encoder) else Normalize()


def takes_graphs(encoder: nn.Module) -> bool:
    """Whether an encoder's inputs are ``GraphBatch``, not images."""
    return getattr(encoder, "takes_graphs", False)


def untrained_like(encoder: FrozenEncoder, seed: int) -> FrozenEncoder:
    """An encoder of the same architecture, before training.

    Raises:
        ContrastiveError: the encoder does not say how it is built.
    """
    if encoder.config is None:
        raise ContrastiveError("the encoder does not say how it is built; evaluate a run folder or an export")
    torch.manual_seed(seed)
    return FrozenEncoder(*build_encoder(encoder.config), encoder.config)


def in_channels(encoder: FrozenEncoder) -> int:
    """Channels of an encoder's images: by its first convolution, its data or its preprocessing."""
    means = [len(part.mean) for part in encoder.preprocess.modules() if isinstance(part, Normalize)]
    return first_channels(encoder.encoder) or encoder.data.get("channels") or next(iter(means), 3)


def first_channels(network: nn.Module) -> int | None:
    """Channels that a network's first convolution takes; None where it has none."""
    return next((layer.in_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)


def fill(encoder: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load weights strictly: keys and shapes must be the encoder's own.

    Raises:
        ContrastiveError: some are not; the message names ``source`` and lists them.
    """
    try:
        load_strictly(encoder, weights, source, type(encoder).__name__)
    except ValueError as error:
        raise ContrastiveError(str(error)) from error


def accelerator() -> str:
    """The device that frozen features are computed and probed on: CUDA where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
