"""The features of molecules, and the cache that keeps them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from contrastive.errors import ContrastiveError
from contrastive.report import cache_home
from encoders.graph_batch import GraphBatch
from encoders.molecules import ATOM_FEATURES, BOND_FEATURES

log = logging.getLogger("contrastive")

_FORMAT = 1  # of the cache; raise it when what is computed changes


class MoleculeFeatures(NamedTuple):
    """The features of the molecules that gave any, and why the others did not; what the cache holds."""

    x: np.ndarray  # (N, 9) uint8
    edge_attr: np.ndarray  # (E, 4) uint8
    ends: np.ndarray  # (E, 2) int32, numbered in the molecule, ascending by destination
    sizes: np.ndarray  # (G, 2) int32, atoms and directed edges
    kept: np.ndarray  # (G,) int64, the places in the source
    failed: np.ndarray  # (F,) int64
    reasons: list[str]

    def check(self, num_smiles: int) -> None:
        """See that the parts belong together, as those of a damaged file do not.

        Raises:
            ValueError: they do not.
        """
        atoms, edges = self.sizes.sum(0, dtype=np.int64)
        lengths = (len(self.x), len(self.edge_attr), len(self.ends), len(self.kept), len(self.reasons))
        places = np.sort(np.concatenate([self.kept, self.failed]))
        if (
            lengths != (atoms, edges, edges, len(self.sizes), len(self.failed))
            or (self.sizes < 0).any()
            or (self.ends < 0).any()
            or (self.ends >= self.sizes[:, :1].repeat(self.sizes[:, 1], axis=0)).any()
            or (self.x >= list(ATOM_FEATURES.values())).any()
            or (self.edge_attr >= list(BOND_FEATURES.values())).any()
            or not np.array_equal(places, np.arange(num_smiles))
        ):
            raise ValueError("its parts do not fit together")

    def graphs(self) -> GraphBatch:
        """The molecules as one batch, with uint8 categories."""
        ptr = torch.zeros(len(self.sizes) + 1, dtype=torch.int64)
        ptr[1:] = torch.from_numpy(self.sizes[:, 0]).cumsum(0)
        first = ptr[:-1].repeat_interleave(torch.from_numpy(self.sizes[:, 1]).long())
        src, dst = (torch.from_numpy(self.ends[:, i]) + first for i in range(2))
        x, edge_attr = torch.from_numpy(self.x), torch.from_numpy(self.edge_attr)
        return GraphBatch(src=src, dst=dst, x=x, ptr=ptr, edge_attr=edge_attr)


def key(smiles: Sequence[str], time_limit: float, rdkit: str) -> str:
    """What the features follow from: the SMILES, the features asked for, the RDKit that computes them."""
    settings = [_FORMAT, rdkit, ATOM_FEATURES, BOND_FEATURES, time_limit]
    content = hashlib.sha256(json.dumps(settings).encode())
    content.update("\n".join(smiles).encode())
    return content.hexdigest()[:20]


def cache_folder(given: str | Path | None) -> Path:
    """The folder of the cache, made where it is not there.

    Raises:
        ContrastiveError: it cannot be made.
    """
    folder = Path(given).expanduser() if given else cache_home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def unwritable(path: Path, error: OSError) -> ContrastiveError:
    """What is raised where the cache cannot be written."""
    return ContrastiveError(f"cannot write {path}: {error.strerror}; give another folder with cache_dir")


def load(file: Path, num_smiles: int) -> MoleculeFeatures | None:
    """What the cache holds; None where there is nothing, or a damaged file, which is written anew."""
    if not file.exists():
        return None
    try:
        arrays = {name: tensor.numpy() for name, tensor in load_file(file).items()}
        reasons = json.loads(arrays.pop("reasons").tobytes())
        features = MoleculeFeatures(**arrays, reasons=reasons)
        features.check(num_smiles)
        return features
    except (SafetensorError, LookupError, TypeError, ValueError, AttributeError, OSError) as error:
        log.warning("%s cannot be read (%s); featurising anew", file, error)
        return None


def save(file: Path, features: MoleculeFeatures) -> None:
    """Write the cache, whole or not at all.

    Raises:
        ContrastiveError: it cannot be written.
    """
    arrays = features._asdict()
    arrays["reasons"] = np.frombuffer(json.dumps(arrays.pop("reasons")).encode(), np.uint8).copy()
    part = file.with_name(f"{file.name}.{os.getpid()}.part")  # two runs may fill the same cache
    try:
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, part)
        part.replace(file)
    except OSError as error:
        raise unwritable(file, error) from error
    except SafetensorError as error:
        raise ContrastiveError(f"cannot write {file}: {error}; give another folder with cache_dir") from error
    finally:
        part.unlink(missing_ok=True)
