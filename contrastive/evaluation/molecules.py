"""Molecules without an encoder: Morgan fingerprints, which pretraining has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from contrastive.data.rdkit_cache import import_rdkit


def morgan_fingerprints(smiles: Sequence[str]) -> Any:
    """Bits of the atoms' surroundings up to radius 2 (ECFP4), as a sparse float matrix ``(N, 2048)``."""
    chem = import_rdkit()
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    on = [list(generator.GetFingerprint(chem.MolFromSmiles(name)).GetOnBits()) for name in smiles]
    offsets = np.cumsum([0, *map(len, on)])
    columns = np.concatenate([np.array(bits, dtype=np.int64) for bits in on])
    return csr_matrix((np.ones(len(columns)), columns, offsets), shape=(len(on), 2048))
