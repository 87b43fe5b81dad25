"""The features of a file's molecules, computed once and kept in a cache, and the list of what gave none."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from contrastive.data.processes import Failure, guarded_map, num_cores
from contrastive.data.rdkit_cache import CACHE_ADVICE, cache_file, import_rdkit, load_tensors, save_tensors
from contrastive.data.tables import SmilesTable
from contrastive.report import track, write_whole
from encoders.graph_batch import GraphBatch
from encoders.molecules import ATOM_FEATURES, BOND_FEATURES, featurize

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
        """All molecules as one batch, with uint8 categories."""
        ptr = torch.zeros(len(self.sizes) + 1, dtype=torch.int64)
        ptr[1:] = torch.from_numpy(self.sizes[:, 0]).cumsum(0)
        first = ptr[:-1].repeat_interleave(torch.from_numpy(self.sizes[:, 1]).long())
        src, dst = (torch.from_numpy(self.ends[:, i]) + first for i in range(2))
        x, edge_attr = torch.from_numpy(self.x), torch.from_numpy(self.edge_attr)
        return GraphBatch(src=src, dst=dst, x=x, ptr=ptr, edge_attr=edge_attr)


def read_features(
    table: SmilesTable, *, cache_dir: str | Path | None, num_workers: int | None, time_limit: float
) -> MoleculeFeatures:
    """The features of a table's molecules, from the cache or computed and put there.

    What gave none is counted in a warning; the arguments are those of
    `contrastive.data.molecules.read_molecules`.
    """
    settings = [_FORMAT, ATOM_FEATURES, BOND_FEATURES, time_limit]
    file = cache_file(cache_dir, "molecules", table.smiles, settings)
    features = _load(file, len(table.smiles))
    if features is None:
        features = _computed(table.smiles, num_workers or num_cores(), time_limit, table.source)
        _save(file, features)
    _report_skipped(table, features, file)
    return features


def _computed(smiles: Sequence[str], num_workers: int, time_limit: float, source: str) -> MoleculeFeatures:
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
    return MoleculeFeatures(
        x, edge_attr, ends, sizes, np.array(kept, np.int64), np.array(failed, np.int64), reasons
    )


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


def _load(file: Path, num_smiles: int) -> MoleculeFeatures | None:
    tensors = load_tensors(file, MoleculeFeatures._fields)
    if tensors is None:
        return None
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    try:
        features = MoleculeFeatures(**{**arrays, "reasons": json.loads(arrays["reasons"].tobytes())})
        features.check(num_smiles)
        return features
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        log.warning("%s cannot be read (%s); computing anew", file, error)
        return None


def _save(file: Path, features: MoleculeFeatures) -> None:
    arrays = features._asdict()
    arrays["reasons"] = np.frombuffer(json.dumps(arrays["reasons"]).encode(), np.uint8).copy()
    save_tensors(file, {name: torch.from_numpy(array) for name, array in arrays.items()})


def _report_skipped(table: SmilesTable, features: MoleculeFeatures, cache: Path) -> None:
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
