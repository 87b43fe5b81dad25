"""SMILES to GraphBatch: categorical features of atoms and bonds, computed with RDKit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from encoders.graph_batch import GraphBatch

# Categories of each column; 0 is "masked or anything else", which attribute masking writes.
_HYBRIDIZATIONS = ("S", "SP", "SP2", "SP3", "SP3D", "SP3D2")
_CHIRAL_TAGS = ("CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW", "CHI_OTHER")
_BOND_TYPES = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
_STEREO = ("STEREONONE", "STEREOANY", "STEREOZ", "STEREOE", "STEREOCIS", "STEREOTRANS")

ATOM_FEATURES: dict[str, int] = {
    "atomic_number": 119,  # the number itself; 0 is RDKit's dummy atom too
    "chirality": 1 + len(_CHIRAL_TAGS),
    "degree": 12,  # neighbours + 1
    "formal_charge": 12,  # -5 … 5, plus 6
    "num_hydrogens": 10,  # hydrogens + 1
    "num_radicals": 6,  # unpaired electrons + 1
    "hybridization": 1 + len(_HYBRIDIZATIONS),
    "aromatic": 3,  # no 1, yes 2
    "in_ring": 3,
}
BOND_FEATURES: dict[str, int] = {
    "bond_type": 1 + len(_BOND_TYPES),
    "stereo": 1 + len(_STEREO),
    "conjugated": 3,
    "in_ring": 3,
}


def categories(features: int | list[int] | Literal["atoms", "bonds"]) -> int | list[int]:
    """Categories of each column, of ``atoms`` and ``bonds`` those of `from_smiles`; a width stays one."""
    known = {"atoms": ATOM_FEATURES, "bonds": BOND_FEATURES}
    if not isinstance(features, str):
        return features
    if features not in known:
        raise ValueError(f"features are {features!r}; give atoms or bonds, a width, or a list of categories")
    return list(known[features].values())


def from_smiles(smiles: str | Sequence[str]) -> GraphBatch:
    """Build a batch of molecules: atoms are nodes, a bond is two directed edges, hydrogens are implicit.

    ``x`` is ``(N, 9)`` int64 with the columns of :data:`ATOM_FEATURES`, ``edge_attr`` ``(E, 4)`` int64 with
    those of :data:`BOND_FEATURES`, whose values count the categories. The properties are those of the
    Open Graph Benchmark (arXiv 2005.00687) with category 0 kept for masks, and with degrees that leave
    hydrogens out. The chirality is RDKit's tag, which depends on the order of the atoms in the SMILES.

    Args:
        smiles: one SMILES or a sequence of them.

    Raises:
        ImportError: RDKit is not installed.
        ValueError: a SMILES does not parse; the message names it and its place.
    """
    chem = _rdkit()
    names = [smiles] if isinstance(smiles, str) else list(smiles)
    molecules = [featurize(chem, name, place) for place, name in enumerate(names)]
    atoms, bonds, attributes = zip(*molecules) if molecules else ((), (), ())
    sizes = np.array([len(a) for a in atoms], dtype=np.int64)
    ptr = np.concatenate([[0], sizes.cumsum()]).astype(np.int64)
    ends = np.concatenate([np.empty((0, 2), np.int64), *(b + start for b, start in zip(bonds, ptr))])
    x = torch.from_numpy(np.concatenate([np.empty((0, len(ATOM_FEATURES)), np.int64), *atoms]))
    edge_attr = torch.from_numpy(np.concatenate([np.empty((0, len(BOND_FEATURES)), np.int64), *attributes]))
    src, dst = torch.from_numpy(ends).unbind(1)
    empty = GraphBatch(src=src[:0], dst=dst[:0], x=x, ptr=torch.from_numpy(ptr))
    return empty.with_edges(src, dst, edge_attr=edge_attr)


class KeepProperties(nn.Module):
    """Write category 0 over all properties of atoms and bonds but some, so that a network must infer them.

    Hu et al. 2020 (arXiv 1905.12265) and those who compare with them give a network the atoms' numbers and
    chirality and the bonds' types. Takes a batch of `from_smiles`; as preprocessing, and as a view, after
    those that read what it hides, as ``BondDrop`` and ``AtomMask`` do.

    Args:
        atoms: the names in `ATOM_FEATURES` that are kept.
        bonds: the names in `BOND_FEATURES` that are kept.

    Raises:
        ValueError: there is no such property.
    """

    def __init__(
        self, *, atoms: Sequence[str] = ("atomic_number", "chirality"), bonds: Sequence[str] = ("bond_type",)
    ) -> None:
        super().__init__()
        for name, kept, known in (("atoms", atoms, ATOM_FEATURES), ("bonds", bonds, BOND_FEATURES)):
            if unknown := set(kept) - set(known):
                raise ValueError(f"{name} has no {', '.join(sorted(unknown))}; it has {', '.join(known)}")
            hidden = torch.tensor([column not in kept for column in known])
            self.register_buffer(f"hidden_{name}", hidden, persistent=False)

    def forward(self, batch: GraphBatch, random: Any = None) -> GraphBatch:
        """Blank the other properties; nothing is drawn."""
        assert isinstance(self.hidden_atoms, torch.Tensor) and isinstance(self.hidden_bonds, torch.Tensor)
        x = batch.x.masked_fill(self.hidden_atoms, 0)
        if batch.edge_attr is None:
            return batch.with_features(x=x)
        return batch.with_features(x=x, edge_attr=batch.edge_attr.masked_fill(self.hidden_bonds, 0))


def _rdkit() -> Any:
    try:
        from rdkit import Chem, RDLogger
    except ImportError as error:
        raise ImportError("molecules need RDKit: pip install contrastive-pretraining[molecules]") from error
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]  # RDKit prints to the terminal what we raise
    return Chem


_ATOM_MAP = re.compile(r":\d+(?=\])")


def unmapped(smiles: str) -> str:
    """A SMILES without the numbers that reactions give its atoms, ``[CH3:1]`` as ``[CH3]``.

    They are no part of the molecule, but RDKit tells equal atoms apart by them, in E and Z too.
    """
    return _ATOM_MAP.sub("", smiles)


def read_molecule(chem: Any, smiles: str) -> Any:
    """RDKit's molecule of a SMILES, whose atoms have no numbers; None where it does not parse."""
    return chem.MolFromSmiles(unmapped(smiles))


def featurize(chem: Any, smiles: str, place: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of one molecule.

    Args:
        chem: the module ``rdkit.Chem``.
        smiles: the molecule.
        place: its place among the user's, for the error.

    Returns:
        ``(n, 9)`` int64 atoms, ``(2b, 2)`` int64 (source, destination), ``(2b, 4)`` int64 bonds.

    Raises:
        ValueError: the SMILES does not parse.
    """
    molecule = read_molecule(chem, smiles) if isinstance(smiles, str) else None
    if molecule is None:
        raise ValueError(f"SMILES {place} does not parse: {smiles!r}; remove or mend it")
    atoms = np.array([_atom(a) for a in molecule.GetAtoms()], dtype=np.int64).reshape(-1, len(ATOM_FEATURES))
    ends = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in molecule.GetBonds()]
    bonds = np.array([_bond(b) for b in molecule.GetBonds()], dtype=np.int64).reshape(-1, len(BOND_FEATURES))
    pairs = np.array(ends, dtype=np.int64).reshape(-1, 2)
    return atoms, np.concatenate([pairs, pairs[:, ::-1]]), np.concatenate([bonds, bonds])


def _atom(atom: Any) -> tuple[int, ...]:
    return (
        min(atom.GetAtomicNum(), 118),
        _category(str(atom.GetChiralTag()), _CHIRAL_TAGS),
        min(atom.GetDegree(), 10) + 1,
        max(-5, min(atom.GetFormalCharge(), 5)) + 6,
        min(atom.GetTotalNumHs(), 8) + 1,
        min(atom.GetNumRadicalElectrons(), 4) + 1,
        _category(str(atom.GetHybridization()), _HYBRIDIZATIONS),
        1 + atom.GetIsAromatic(),
        1 + atom.IsInRing(),
    )


def _bond(bond: Any) -> tuple[int, ...]:
    return (
        _category(str(bond.GetBondType()), _BOND_TYPES),
        _category(str(bond.GetStereo()), _STEREO),
        1 + bond.GetIsConjugated(),
        1 + bond.IsInRing(),
    )


def _category(name: str, names: tuple[str, ...]) -> int:
    return names.index(name) + 1 if name in names else 0
