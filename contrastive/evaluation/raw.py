"""Items without an encoder, which pretraining has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from contrastive.data.graphs import GraphDataset
from contrastive.data.molecules import MoleculeDataset
from contrastive.data.node_files import NodeDataset
from contrastive.data.rdkit_cache import import_rdkit


def raw_features(dataset: Any) -> Any:
    """Pixels, features summed or categories counted over nodes, or fingerprints: ``(N, F)`` float.

    Args:
        dataset: an ``ImageDataset``, ``GraphDataset``, ``MoleculeDataset`` or ``NodeDataset``.
    """
    if isinstance(dataset, MoleculeDataset):
        return morgan_fingerprints(dataset.smiles)
    if isinstance(dataset, NodeDataset):
        x = dataset.graph.x
        if not x.is_floating_point():
            return _counts(x, torch.arange(len(x)), len(x))
        return (x if isinstance(x, Tensor) else x.dense()).numpy()
    if isinstance(dataset, GraphDataset):
        graphs = dataset.graphs
        if not graphs.x.is_floating_point():
            return _counts(graphs.x, graphs.graph_of_node, len(graphs))
        sums = graphs.x.new_zeros(len(graphs), graphs.x.shape[1])
        return sums.index_add_(0, graphs.graph_of_node, graphs.x).numpy()
    chunks = np.array_split(np.arange(len(dataset)), -(-len(dataset) // 4096))
    images = [dataset.__getitems__(part.tolist()).input for part in chunks]
    return torch.cat(images).flatten(1).float().div(255).numpy()


def _counts(x: Tensor, owner: Tensor, size: int) -> np.ndarray:
    """``(size, ΣK)`` float32: how often each category of each column of ``x`` is among an owner's nodes."""
    counts = []
    for column in x.unbind(1):
        number = int(column.max()) + 1
        counts.append((owner * number + column).bincount(minlength=size * number).view(size, number))
    return torch.cat(counts, dim=1).float().numpy()


def morgan_fingerprints(smiles: Sequence[str]) -> Any:
    """Bits of the atoms' surroundings up to radius 2 (ECFP4), as a sparse float matrix ``(N, 2048)``."""
    chem = import_rdkit()
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    on = [list(generator.GetFingerprint(chem.MolFromSmiles(name)).GetOnBits()) for name in smiles]
    offsets = np.cumsum([0, *map(len, on)])
    columns = np.concatenate([np.array(bits, dtype=np.int64) for bits in on])
    return csr_matrix((np.ones(len(columns)), columns, offsets), shape=(len(on), 2048))
