"""RDKit, and the cache of what it computes: safetensors under a hash of the molecules and the settings."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from contrastive.errors import ContrastiveError
from contrastive.report import cache_home, write_whole
from encoders.molecules import unmapped

log = logging.getLogger("contrastive")

CACHE_ADVICE = "give another folder with cache_dir"


def import_rdkit() -> Any:
    """The module ``rdkit.Chem``, with RDKit's printing to the terminal switched off.

    Raises:
        ContrastiveError: RDKit is not installed.
    """
    try:
        from rdkit import Chem, RDLogger
    except ImportError as error:
        raise ContrastiveError(
            "molecules need RDKit: pip install 'contrastive-pretraining[molecules]'"
        ) from error
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    return Chem


def cache_file(folder: str | Path | None, kind: str, smiles: Sequence[str], settings: list[Any]) -> Path:
    """Where what is computed from molecules is kept, by a hash of them, the settings and RDKit's version.

    Args:
        folder: made where it is missing; None is ``$XDG_CACHE_HOME/contrastive`` or ``~/.cache/contrastive``.
        kind: what is kept, the start of the file's name.
        smiles: the molecules, which have no numbers of atoms here.
        settings: of what is computed.

    Raises:
        ContrastiveError: the folder cannot be made, or RDKit is missing.
    """
    version = import_rdkit().rdBase.rdkitVersion
    content = hashlib.sha256(json.dumps([version, *settings]).encode())
    content.update("\n".join(map(unmapped, smiles)).encode())
    path = Path(folder).expanduser() if folder else cache_home()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ContrastiveError(f"cannot write {path}: {error.strerror}; {CACHE_ADVICE}") from error
    return path / f"{kind}-{content.hexdigest()[:20]}.safetensors"


def load_tensors(file: Path, names: Sequence[str]) -> dict[str, Tensor] | None:
    """What the cache holds; None where there is nothing, or a damaged file, which is to be written anew."""
    if not file.exists():
        return None
    try:
        tensors = load_file(file)
        return {name: tensors[name] for name in names}
    except (SafetensorError, KeyError, OSError) as error:
        log.warning("%s cannot be read (%s); computing anew", file, error)
        return None


def save_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write a file of the cache whole or not at all.

    Raises:
        ContrastiveError: it cannot be written.
    """
    write_whole(file, lambda part: save_file(tensors, part), advice=CACHE_ADVICE)
