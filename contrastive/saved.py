"""Runs, checkpoints and exports as they lie on disk: where their files are, and what these hold."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from contrastive.errors import ContrastiveError, reading

HUB = "hf://"
CONFIG, LAST = "config.yaml", Path("checkpoints") / "last.ckpt"  # in a run folder
EXPORT_WEIGHTS, EXPORT_CONFIG, EXPORT_SUMS = "model.safetensors", "config.json", "SHA256SUMS"
PREDICTOR = "predictor.safetensors"  # beside them, what a probe fitted


def fetched(path: str | Path) -> Path:
    """The path on this machine; an export of the Hub is downloaded."""
    if str(path).startswith(HUB):
        from contrastive.hub import download

        path = download(str(path))
    return Path(path).expanduser()


def read_saved(path: Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """The configuration, where one is known, and the encoder's weights."""
    if (path / EXPORT_CONFIG).exists():
        return _read_export(path)
    config, state = read_state(checkpoint_of(path))
    prefix = "encoder."
    return config, {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def checkpoint_of(path: Path) -> Path:
    """The checkpoint file that ``path`` stands for: itself, or the last one of a run folder."""
    if path.is_dir():
        last = path / LAST
        if not last.exists():
            raise ContrastiveError(f"{path} is no run folder (no {LAST}) and no export (no {EXPORT_CONFIG})")
        return last
    if not path.exists():
        raise ContrastiveError(
            f"there is no {path}; give a run folder, a .ckpt file, an export folder or {HUB}OWNER/NAME"
        )
    return path


def run_folder(path: Path) -> Path:
    """The run folder that a path is, or is a checkpoint of; of a loose checkpoint the folder it is in."""
    if not path.is_file():
        return path
    return path.parent.parent if path.parent.name == LAST.parent.name else path.parent


def read_state(path: Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """The configuration in a checkpoint, where there is one, and all weights of the module.

    Raises:
        ContrastiveError: it is no checkpoint, is damaged, or holds code, which is not run.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state = {key: value for key, value in checkpoint["state_dict"].items() if isinstance(value, Tensor)}
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))  # what the pickle would have called
        what = f"holds code ({named[1]})" if named else "is no checkpoint"
        raise ContrastiveError(f"{path} {what} and was not opened: only weights are read") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise ContrastiveError(
            f"{path} is not a checkpoint of a pretraining run ({type(error).__name__}: {error})"
        ) from error
    return checkpoint.get("config"), state


def _read_export(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    file = folder / EXPORT_WEIGHTS
    if not file.exists():
        found = ", ".join(sorted(path.name for path in folder.iterdir()))
        raise ContrastiveError(
            f"{folder} holds no {EXPORT_WEIGHTS} (it holds {found}); load_encoder opens what "
            "contrastive export writes with --format safetensors"
        )
    _check_sums(folder)
    try:
        return json.loads((folder / EXPORT_CONFIG).read_text()), load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise ContrastiveError(f"{folder} is not a complete export: {error}") from error


def _check_sums(folder: Path) -> None:
    """Compare what will be read with ``SHA256SUMS``, where there is one."""
    sums = folder / EXPORT_SUMS
    for line in sums.read_text(errors="replace").splitlines() if sums.exists() else []:
        digest, _, name = line.partition("  ")
        if name in (EXPORT_WEIGHTS, EXPORT_CONFIG, PREDICTOR) and sha256(folder / name) != digest:
            raise ContrastiveError(
                f"{folder / name} is not the file that was exported: its SHA-256 is not the one in "
                f"{EXPORT_SUMS}. It is cut off or was changed; copy or export it again"
            )


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def run_config(path: Path) -> dict[str, Any]:
    """The configuration of the run in a folder."""
    file = path / CONFIG
    if not file.is_file():
        raise ContrastiveError(f"{path} is not a run folder: it has no {CONFIG}")
    with reading(file):
        config = yaml.safe_load(file.read_text())
        if not isinstance(config, dict):
            raise ContrastiveError(f"{file} is no configuration")
        return config
