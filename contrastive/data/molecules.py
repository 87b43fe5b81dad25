"""Molecules: SMILES from a table or a .smi file, as graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contrastive.data import Batch
from contrastive.data.descriptors import DESCRIPTORS, read_descriptors, standardised
from contrastive.data.graph_features import refuse_other_features
from contrastive.data.graphs import GraphDataset
from contrastive.data.loading import PretrainingData, Split
from contrastive.data.molecule_features import read_features
from contrastive.data.tables import SmilesTable, read_smiles
from contrastive.errors import ContrastiveError
from encoders.graph_batch import GraphBatch


class MoleculeDataset(GraphDataset):
    """Molecules held as one batch, whose categories take a byte each until a batch is taken.

    Args:
        graphs: all of them; ``x`` and ``edge_attr`` may be uint8 and come out as int64.
        smiles: of each molecule, as it was written in its source.
        labels: ``(G, T)`` float targets with NaN where unknown, or None.
        classes: the names of the targets.
    """

    def __init__(
        self,
        graphs: GraphBatch,
        smiles: Sequence[str],
        labels: Tensor | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        super().__init__(graphs, labels, classes)
        if len(smiles) != len(graphs):
            raise ContrastiveError(f"there are {len(smiles)} SMILES for {len(graphs)} graphs; give one each")
        self.smiles = list(smiles)

    def __getitems__(self, indices: list[int]) -> Batch:
        """The molecules at ``indices``, with int64 categories."""
        batch = super().__getitems__(indices)
        return batch._replace(input=_widened(batch.input))

    def subset(self, indices: np.ndarray) -> MoleculeDataset:
        """The molecules at ``indices``, which are renumbered from 0."""
        part = super().subset(indices)
        return MoleculeDataset(part.graphs, [self.smiles[i] for i in indices], part.labels, part.classes)


def _widened(graphs: GraphBatch) -> GraphBatch:
    edge_attr = None if graphs.edge_attr is None else graphs.edge_attr.long()
    return replace(graphs, x=graphs.x.long(), edge_attr=edge_attr)


def read_molecules(
    source: str | Path,
    *,
    smiles_column: str | None = None,
    targets: Sequence[str] = (),
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
    time_limit: float = 10.0,
) -> MoleculeDataset:
    """Read and featurise the molecules of a file.

    A SMILES that gives no molecule never ends the run: it is left out, and counted in a warning that names
    the file beside the cache in which it is listed with its line and the reason.

    Args:
        source: a ``.csv`` or ``.tsv`` with a header, or a ``.smi`` or ``.txt`` with a SMILES at the start of
            each line; each may be gzipped.
        smiles_column: of a table; None takes the one named smiles, in any case.
        targets: the columns of a table to read as numeric targets; a blank is NaN.
        cache_dir: where features are kept, by a hash of the SMILES and of what is computed from them; None
            is ``$XDG_CACHE_HOME/contrastive`` or ``~/.cache/contrastive``.
        num_workers: processes; None takes the cores there are.
        time_limit: seconds of the processor that one molecule may take.

    Raises:
        ContrastiveError: the file, a column or a number cannot be read, nothing parses, RDKit is missing, or
            the cache cannot be written.
    """
    table = read_smiles(source, smiles_column=smiles_column, targets=targets)
    return featurise(table, cache_dir=cache_dir, num_workers=num_workers, time_limit=time_limit)


def featurise(
    table: SmilesTable,
    *,
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
    time_limit: float = 10.0,
) -> MoleculeDataset:
    """Featurise a table of SMILES; see `read_molecules`."""
    features = read_features(table, cache_dir=cache_dir, num_workers=num_workers, time_limit=time_limit)
    if not len(features.kept):
        reason = features.reasons[0] if features.reasons else "it is empty"
        raise ContrastiveError(
            f"{table.source} holds no molecule that RDKit can read; the first of {len(table.smiles)}: "
            f"{reason}"
        )
    kept = torch.from_numpy(features.kept)
    labels = None if table.targets is None else torch.from_numpy(table.targets)[kept]
    smiles = [table.smiles[i] for i in features.kept]
    return MoleculeDataset(features.graphs(), smiles, labels, table.target_names)


class MoleculeData(PretrainingData):
    """Batches of unlabelled molecules for pretraining.

    Args:
        source: a ``.csv``, ``.tsv``, ``.smi`` or ``.txt`` file, plain or gzipped (see ``read_molecules``).
        smiles_column: of a table; None takes the one named smiles, in any case.
        batch_size: molecules a process takes a step. Every other molecule in the batch is a negative.
        val_fraction: share kept from pretraining.
        num_workers: processes that assemble batches; 0 is fastest for molecules.
        cache_dir: where features are kept; None is ``~/.cache/contrastive``.
        time_limit: seconds one molecule may take to featurise; then it is left out.
        descriptors: give every molecule its standardised descriptors as its label, computed from the SMILES
            and known without a measurement (see ``contrastive.data.descriptors``).
        seed: of the validation split and of the order; ``pretrain`` takes it from ``seed_everything``.
    """

    def __init__(
        self,
        source: str,
        *,
        smiles_column: str | None = None,
        batch_size: int = 256,
        val_fraction: float = 0.0,
        num_workers: int = 0,
        cache_dir: str | None = None,
        time_limit: float = 10.0,
        descriptors: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            source, batch_size=batch_size, val_fraction=val_fraction, num_workers=num_workers, seed=seed
        )
        self._options: dict[str, Any] = dict(
            smiles_column=smiles_column, cache_dir=cache_dir, time_limit=time_limit
        )
        self.descriptors = descriptors

    def read(self, split: Split) -> MoleculeDataset:
        """Read all molecules: a file of them has no test split.

        Raises:
            ContrastiveError: the test split was asked for.
        """
        if split == "test":
            raise ContrastiveError(f"{self.source} has no test split; evaluate on a labelled file instead")
        molecules = read_molecules(self.source, **self._options)
        if self.trainer:
            refuse_other_features(self.trainer.lightning_module, molecules.graphs.x, self.source)
        if not self.descriptors:
            return molecules
        options = {name: self._options[name] for name in ("cache_dir", "time_limit")}
        labels = standardised(read_descriptors(molecules.smiles, **options))
        return MoleculeDataset(molecules.graphs, molecules.smiles, labels, DESCRIPTORS)
