"""Molecules: SMILES from a table or a .smi file, featurised once and kept in a cache."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from contrastive.data import Batch
from contrastive.data.descriptors import DESCRIPTORS, read_descriptors, standardised
from contrastive.data.graph_features import refuse_other_features
from contrastive.data.graphs import GraphDataset
from contrastive.data.loading import PretrainingData, Split
from contrastive.data.processes import Failure, guarded_map, num_cores
from contrastive.data.rdkit_cache import CACHE_ADVICE, cache_file, import_rdkit, load_tensors, save_tensors
from contrastive.data.tables import SmilesTable, read_smiles
from contrastive.errors import ContrastiveError
from contrastive.report import track, write_whole
from encoders.graph_batch import GraphBatch
from encoders.molecules import ATOM_FEATURES, BOND_FEATURES, featurize

log = logging.getLogger("contrastive")

_FORMAT = 1  # of the cache; raise it when what is computed changes


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
    options = {"cache_dir": cache_dir, "num_workers": num_workers, "time_limit": time_limit}
    return featurise(table, **options)  # type: ignore[arg-type]


def featurise(
    table: SmilesTable,
    *,
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
    time_limit: float = 10.0,
) -> MoleculeDataset:
    """Featurise a table of SMILES; see `read_molecules`."""
    settings = [_FORMAT, ATOM_FEATURES, BOND_FEATURES, time_limit]
    file = cache_file(cache_dir, "molecules", table.smiles, settings)
    cached = _load(file, len(table.smiles))
    if cached is None:
        cached = _computed(table.smiles, num_workers or num_cores(), time_limit, table.source)
        _save(file, cached)
    _report_skipped(table, cached, file)
    if not len(cached.kept):
        reason = cached.reasons[0] if cached.reasons else "it is empty"
        raise ContrastiveError(
            f"{table.source} holds no molecule that RDKit can read; the first of {len(table.smiles)}: "
            f"{reason}"
        )
    kept = torch.from_numpy(cached.kept)
    labels = None if table.targets is None else torch.from_numpy(table.targets)[kept]
    smiles = [table.smiles[i] for i in cached.kept]
    return MoleculeDataset(cached.graphs(), smiles, labels, table.target_names)


class _Features(NamedTuple):
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
        ptr = torch.zeros(len(self.sizes) + 1, dtype=torch.int64)
        ptr[1:] = torch.from_numpy(self.sizes[:, 0]).cumsum(0)
        first = ptr[:-1].repeat_interleave(torch.from_numpy(self.sizes[:, 1]).long())
        src, dst = (torch.from_numpy(self.ends[:, i]) + first for i in range(2))
        x, edge_attr = torch.from_numpy(self.x), torch.from_numpy(self.edge_attr)
        return GraphBatch(src=src, dst=dst, x=x, ptr=ptr, edge_attr=edge_attr)


def _computed(smiles: Sequence[str], num_workers: int, time_limit: float, source: str) -> _Features:
    import_rdkit()
    results: list[Any] = [None] * len(smiles)
    chunks = guarded_map(_molecule, smiles, num_workers=num_workers, time_limit=time_limit, chunk_size=256)
    for start, chunk in track(chunks, f"Featurising {Path(source).name}", -(-len(smiles) // 256)):
        results[start : start + len(chunk)] = chunk
    failed = [i for i, result in enumerate(results) if isinstance(result, str)]
    kept = [i for i, result in enumerate(results) if not isinstance(result, str)]
    good = [results[i] for i in kept]
    reasons = [
        f"RDKit {r} (limit {time_limit:g} s)" if isinstance(r, Failure) else r
        for r in (results[i] for i in failed)
    ]
    shapes = ((0, len(ATOM_FEATURES)), (0, len(BOND_FEATURES)), (0, 2))
    x, edge_attr, ends = (
        np.concatenate([np.empty(shape, dtype), *(g[k] for g in good)])
        for k, (shape, dtype) in enumerate(zip(shapes, (np.uint8, np.uint8, np.int32)))
    )
    sizes = np.array([(len(g[0]), len(g[2])) for g in good], np.int32).reshape(-1, 2)
    return _Features(x, edge_attr, ends, sizes, np.array(kept, np.int64), np.array(failed, np.int64), reasons)


def _molecule(smiles: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | str:
    """Atoms and bonds of one molecule as small integers, or why there are none; runs in a worker."""
    chem = import_rdkit()
    try:
        atoms, ends, bonds = featurize(chem, smiles)
    except ValueError:
        return _why(chem, smiles)
    except Exception as error:  # one molecule that RDKit trips over must not end the run
        return f"{type(error).__name__}: {error}"
    if not len(atoms):
        return "it has no atoms"
    order = ends[:, 1].argsort(kind="stable")
    return atoms.astype(np.uint8), bonds[order].astype(np.uint8), ends[order].astype(np.int32)


def _why(chem: Any, smiles: str) -> str:
    """What RDKit has against a SMILES."""
    molecule = chem.MolFromSmiles(smiles, sanitize=False)
    if molecule is None:
        return "not a SMILES"
    problems = chem.DetectChemistryProblems(molecule)
    return problems[0].Message() if problems else "RDKit cannot sanitise it"


def _load(file: Path, num_smiles: int) -> _Features | None:
    tensors = load_tensors(file, _Features._fields)
    if tensors is None:
        return None
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    try:
        features = _Features(**{**arrays, "reasons": json.loads(arrays["reasons"].tobytes())})
        features.check(num_smiles)
        return features
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        log.warning("%s cannot be read (%s); computing anew", file, error)
        return None


def _save(file: Path, features: _Features) -> None:
    arrays = features._asdict()
    arrays["reasons"] = np.frombuffer(json.dumps(arrays["reasons"]).encode(), np.uint8).copy()
    save_tensors(file, {name: torch.from_numpy(array) for name, array in arrays.items()})


def _report_skipped(table: SmilesTable, features: _Features, cache: Path) -> None:
    """List what was left out, with its line, in a file beside the cache."""
    if not len(features.failed):
        return
    stem = Path(table.source).name.split(".")[0]
    file = cache.with_name(f"{stem}-{cache.stem.removeprefix('molecules-')[:8]}.skipped.tsv")
    rows = [
        f"{table.lines[i]}\t{table.smiles[i]}\t{reason}"
        for i, reason in zip(features.failed, features.reasons)
    ]
    text = "\n".join(["line\tsmiles\treason", *rows]) + "\n"
    write_whole(file, lambda part: part.write_text(text), advice=CACHE_ADVICE)
    log.warning("skipped %d of %d molecules of %s; see %s", len(rows), len(table.smiles), table.source, file)


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
        seed: of the validation split and of the order; taken from ``seed_everything``.
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
