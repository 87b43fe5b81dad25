"""Splits of molecules in training, validation and test: by scaffold, at random, stratified."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch

from contrastive.data.loading import split_indices
from contrastive.data.rdkit_cache import import_rdkit
from contrastive.errors import ContrastiveError
from encoders.molecules import read_molecule

SplitName = Literal["scaffold", "random", "stratified"]


class Parts(NamedTuple):
    """Indices, int64, of the three parts, each ascending; together they are ``0 … N-1``."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def split_molecules(
    how: SplitName,
    smiles: Sequence[str],
    labels: np.ndarray,
    *,
    seed: int = 0,
) -> Parts:
    """Split in three, 80 %, 10 % and 10 %.

    Args:
        how: ``scaffold`` is `scaffold_split`; ``random``; ``stratified`` keeps the share of each class.
        smiles: of the molecules.
        labels: ``(N,)`` int64 classes, for ``stratified``; not read otherwise.
        seed: of the draw; the scaffold split has none.

    Raises:
        ContrastiveError: a part would be empty, or a stratified split of other labels than one class each.
    """
    if how == "scaffold":
        return scaffold_split(smiles)
    if how == "random":
        return _drawn(len(smiles), None, seed)
    if labels.ndim != 1 or np.isnan(labels).any():
        raise ContrastiveError("a stratified split needs one target without blanks; split at random instead")
    return _drawn(len(labels), labels.astype(np.int64), seed)


def _drawn(num: int, labels: np.ndarray | None, seed: int) -> Parts:
    y = None if labels is None else torch.from_numpy(labels)
    rest, held_out = split_indices(num, y, 0.1, seed)
    train, val_part = split_indices(len(rest), None if y is None else y[rest], 0.1 / 0.9, seed)
    return Parts(rest[train], rest[val_part], held_out)


def scaffold_split(smiles: Sequence[str], *, val_fraction: float = 0.1, test_fraction: float = 0.1) -> Parts:
    """Split so that no scaffold is in two parts, as Hu et al. 2020 (arXiv 1905.12265) do.

    Molecules with the same `scaffold` form a set. The sets, largest first and of equal sets that with the
    later first molecule first, go to training while they fit, else to validation, else to test. Nothing is
    drawn. Molecules without rings share the empty scaffold.

    Raises:
        ContrastiveError: a part would be empty, as where one scaffold has most of the molecules.
    """
    sets: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(smiles):
        sets[scaffold(name)].append(i)
    ordered = sorted(sets.values(), key=lambda members: (len(members), members[0]), reverse=True)
    train_size = (1 - val_fraction - test_fraction) * len(smiles)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for members in ordered:
        if len(parts[0]) + len(members) <= train_size:
            parts[0].extend(members)
        elif len(parts[0]) + len(parts[1]) + len(members) <= (1 - test_fraction) * len(smiles):
            parts[1].extend(members)
        else:
            parts[2].extend(members)
    if not all(parts):
        sizes = "/".join(str(len(part)) for part in parts)
        raise ContrastiveError(
            f"a scaffold split of {len(smiles)} molecules with {len(sets)} scaffolds gives parts of {sizes}; "
            "split at random, or give more molecules"
        )
    return Parts(*(np.sort(np.array(part, dtype=np.int64)) for part in parts))


def scaffold(smiles: str) -> str:
    """The Bemis–Murcko scaffold (1996, doi 10.1021/jm9602928), rings and what joins them, with chirality.

    Returns:
        Its canonical SMILES, empty for a molecule without rings.

    Raises:
        ContrastiveError: the SMILES does not parse.
    """
    chem = import_rdkit()
    from rdkit.Chem.Scaffolds import MurckoScaffold

    molecule = read_molecule(chem, smiles)
    if molecule is None:
        raise ContrastiveError(f"{smiles!r} does not parse; leave it out")
    return MurckoScaffold.MurckoScaffoldSmiles(mol=molecule, includeChirality=True)
