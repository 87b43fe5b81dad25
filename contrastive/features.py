"""Frozen encoders: open one from a run, a checkpoint or an export, and compute features with it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from augmentations.colour import Normalize
from contrastive.errors import ContrastiveError
from contrastive.report import track

CONFIG, LAST = "config.yaml", Path("checkpoints") / "last.ckpt"  # in a run folder
EXPORT_WEIGHTS, EXPORT_CONFIG = "encoder.safetensors", "config.json"


class FrozenEncoder(nn.Module):
    """An encoder with the preprocessing it was trained behind, in eval mode and without gradients.

    Args:
        encoder: has ``num_features`` and maps preprocessed inputs to ``(N, num_features)``.
        preprocess: maps raw inputs to what the encoder takes.
        config: the run's configuration, ``{"model": {"encoder": …}, "data": …}``; None if it is not known.
    """

    def __init__(
        self, encoder: nn.Module, preprocess: nn.Module, config: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.preprocess, self.config = encoder, preprocess, config
        self.num_features: int = encoder.num_features  # type: ignore[assignment]
        self.eval().requires_grad_(False)

    @property
    def data(self) -> dict[str, Any]:
        """The arguments of the data module it was trained on, such as ``source``; empty if not known."""
        return ((self.config or {}).get("data") or {}).get("init_args", {})

    def forward(self, x: Any) -> Tensor:
        """Encode raw inputs, images ``(N, C, H, W)`` of uint8 or of [0, 1], as ``(N, num_features)``."""
        return self.encoder(self.preprocess(x))


def load_encoder(path: str | Path, *, encoder: nn.Module | None = None) -> FrozenEncoder:
    """Open a pretrained encoder.

    Files are read as weights alone: a pickle that carries code is refused.

    Args:
        path: a run folder (its last checkpoint), a ``.ckpt`` file, or an export folder.
        encoder: the network to fill, for a checkpoint whose run did not record one (a module trained from
            Python, not by ``contrastive pretrain``).

    Raises:
        ContrastiveError: nothing there, not a checkpoint, or keys that do not fit; the message lists them.
    """
    path = Path(path).expanduser()
    config: dict[str, Any] | None
    if (path / EXPORT_WEIGHTS).exists():
        config, weights = _read_export(path)
    else:
        config, weights = _read_checkpoint(checkpoint_of(path))
    if encoder is None:
        if config is None:
            raise ContrastiveError(
                f"{path} does not say how its encoder is built; pass load_encoder(path, encoder=…)"
            )
        encoder = build_module(_without_weights(model_args(config)["encoder"]))
    _fill(encoder, weights, path)
    return FrozenEncoder(encoder, _preprocess(config, encoder), config)


def _without_weights(spec: dict[str, Any]) -> dict[str, Any]:
    """An encoder that starts at random: a checkpoint replaces every weight, so none needs to be fetched."""
    start = {"weights": None, "pretrained": False}
    arguments = spec.get("init_args") or {}
    return {**spec, "init_args": {key: start.get(key, value) for key, value in arguments.items()}}


def model_args(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the pretrained module in a run's configuration."""
    return config["model"].get("init_args", config["model"])


def build_encoder(config: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """Build the untrained encoder and its preprocessing from a run's configuration."""
    encoder = build_module(model_args(config)["encoder"])
    return encoder, _preprocess(config, encoder)


def _preprocess(config: dict[str, Any] | None, encoder: nn.Module) -> nn.Module:
    spec = model_args(config).get("preprocess") if config else None
    return build_module(spec) if spec else default_preprocess(encoder)


def default_preprocess(encoder: nn.Module) -> nn.Module:
    """What an encoder's raw inputs need: images are normalised, graphs are taken as they are."""
    return nn.Identity() if getattr(encoder, "takes_graphs", False) else Normalize()


def build_module(spec: dict[str, Any]) -> nn.Module:
    """Build a module from its ``class_path`` and ``init_args``."""
    # The type restricts what a stranger's file can name to modules that are installed here.
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--module", type=nn.Module)
    try:
        return parser.instantiate_classes(parser.parse_object({"module": spec})).module
    except Exception as error:
        raise ContrastiveError(f"cannot build {spec.get('class_path')}: {error}") from error


def checkpoint_of(path: Path) -> Path:
    """The checkpoint file that ``path`` stands for: itself, or the last one of a run folder."""
    if path.is_dir():
        last = path / LAST
        if not last.exists():
            raise ContrastiveError(f"{path} is no run folder (no {LAST}) and no export (no {EXPORT_WEIGHTS})")
        return last
    if not path.exists():
        raise ContrastiveError(f"there is no {path}; give a run folder, a .ckpt file or an export folder")
    return path


def _read_checkpoint(path: Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state = checkpoint["state_dict"]
    except pickle.UnpicklingError as error:
        raise ContrastiveError(
            f"{path} is no checkpoint, or holds code, and was not opened: {str(error).splitlines()[0]}"
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise ContrastiveError(
            f"{path} is not a checkpoint of a pretraining run ({type(error).__name__}: {error})"
        ) from error
    prefix = "encoder."
    weights = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    return checkpoint.get("config"), weights


def _read_export(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        config = json.loads((folder / EXPORT_CONFIG).read_text())
        return config, load_file(folder / EXPORT_WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ContrastiveError(f"{folder} is not a complete export: {error}") from error


def _fill(encoder: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load strictly: keys and shapes must be the encoder's own."""
    own = encoder.state_dict()
    problems = {
        "missing": sorted(own.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - own.keys()),
        "of another shape": [
            f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
            for key in sorted(own.keys() & weights.keys())
            if own[key].shape != weights[key].shape
        ],
    }
    if any(problems.values()):
        lines = [
            f"{len(keys)} {what}: {', '.join(keys[:6])}{', …' if len(keys) > 6 else ''}"
            for what, keys in problems.items()
            if keys
        ]
        raise ContrastiveError(f"{path} does not fit {type(encoder).__name__}; keys " + "; ".join(lines))
    encoder.load_state_dict(weights)


def run_config(path: Path) -> dict[str, Any]:
    """The configuration of the run in a folder."""
    try:
        return yaml.safe_load((path / CONFIG).read_text())
    except OSError as error:
        raise ContrastiveError(f"{path} is not a run folder: it has no {CONFIG}") from error


def accelerator() -> str:
    """The device that frozen features are computed and probed on: CUDA where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def encode(
    encoder: FrozenEncoder, dataset: Dataset, *, batch_size: int = 512, progress: str | None = None
) -> Tensor:
    """`extract_features` with a frozen encoder, on the accelerator where there is one."""
    device = accelerator()
    encoder.to(device)
    return extract_features(
        encoder.encoder, encoder.preprocess, dataset, batch_size=batch_size, device=device, progress=progress
    )


@torch.inference_mode()
def extract_features(
    encoder: nn.Module,
    preprocess: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int = 512,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    progress: str | None = None,
) -> Tensor:
    """Encode a data set, in its order, as float32 ``(N, num_features)`` on the CPU.

    Args:
        encoder: in eval mode and on ``device``.
        preprocess: applied to each batch first.
        dataset: yields a ``Batch`` for a list of indices.
        batch_size: samples at a time.
        device: where the encoder is.
        num_workers: processes that read.
        progress: what the progress bar says; None shows no bar.
    """
    loader = DataLoader(
        dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=lambda batch: batch
    )
    h = [encoder(preprocess(batch.input.to(device))) for batch in track(loader, progress)]
    return torch.cat(h).float().cpu()
