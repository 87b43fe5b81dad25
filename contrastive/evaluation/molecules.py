"""Properties of molecules from few labels: scaffold split, ROC-AUC, frozen and fine-tuned, with baselines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from contrastive.data.molecules import MoleculeDataset, read_molecules
from contrastive.data.rdkit_cache import import_rdkit
from contrastive.data.splits import Parts, SplitName, split_molecules
from contrastive.errors import ContrastiveError
from contrastive.evaluation.linear import REGULARISATIONS
from contrastive.evaluation.molecule_finetune import finetune
from contrastive.evaluation.roc_auc import bootstrap_interval, mean_roc_auc
from contrastive.evaluation.statistics import mean_interval
from contrastive.features import FrozenEncoder, encode, untrained_like
from contrastive.report import track, write_json

TITLES = {
    "morgan": "Morgan fingerprints + logistic regression",
    "untrained": "untrained encoder, frozen",
    "frozen": "pretrained encoder, frozen",
    "scratch": "no pretraining, fine-tuned",
    "finetuned": "pretrained, fine-tuned",
}


@dataclass(frozen=True)
class MoleculeProtocol:
    """How molecules were evaluated; written beside the numbers.

    Attributes:
        data: the labelled file.
        targets: its columns, each 0, 1 or blank.
        split: ``scaffold`` (80/10/10, the same for every seed), ``random`` or ``stratified``.
        num_seeds: of the untrained encoders and of fine-tuning.
        num_epochs: of fine-tuning.
        batch_size: of fine-tuning.
        lr: of fine-tuning with Adam, for encoder and classifier.
        dropout: of fine-tuning, after every layer and before the classifier.
        selection: what was chosen on what.
    """

    data: str
    targets: tuple[str, ...]
    split: SplitName = "scaffold"
    num_seeds: int = 3
    num_epochs: int = 30
    batch_size: int = 32
    lr: float = 1e-3
    dropout: float = 0.5
    selection: str = "C and the best epoch by the validation part's ROC-AUC; the test part chooses nothing"


def probe_molecules(
    encoder: FrozenEncoder,
    data: str,
    targets: Sequence[str],
    *,
    smiles_column: str | None = None,
    cache_dir: str | None = None,
    output: Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Evaluate an encoder on one labelled file, beside its baselines.

    A logistic regression on its frozen features and fine-tuning (Hu et al. 2020, arXiv 1905.12265), the same
    for untrained encoders of its architecture, and Morgan fingerprints (Rogers and Hahn 2010).

    Args:
        encoder: as ``load_encoder`` gives it.
        data: a ``.csv`` or ``.tsv`` of SMILES and targets.
        targets: the columns to predict, each 0, 1 or blank.
        smiles_column: see ``read_molecules``.
        cache_dir: see ``read_molecules``.
        output: a JSON file that every finished part is written to, and a later call continues from.
        progress: whether to show bars.
        settings: of the `MoleculeProtocol`.

    Returns:
        ``protocol``, ``parts`` (the number of molecules in each), ``cells`` (every fit: its ``kind``,
        ``seed``, and ROC-AUC in [0, 1] of validation and test) and ``rows``, see `summarise`.

    Raises:
        ContrastiveError: targets that are not 0 and 1, an encoder that does not say how it is built, or an
            ``output`` of another protocol or encoder.
    """
    protocol = MoleculeProtocol(data, tuple(targets), **settings)
    dataset = read_molecules(data, smiles_column=smiles_column, targets=targets, cache_dir=cache_dir)
    y = binary_targets(dataset, data)
    labels = y[:, 0] if y.shape[1] == 1 else y
    parts = split_molecules(protocol.split, dataset.smiles, labels)
    result: dict[str, Any] = {
        "protocol": json.loads(json.dumps(asdict(protocol))),
        "encoder": _fingerprint_of(encoder),
        "parts": {name: len(part) for name, part in zip(Parts._fields, parts)},
        "cells": _earlier(output, protocol, encoder),
    }
    seeds = range(protocol.num_seeds)
    todo = [("morgan", 0), ("frozen", 0)]
    todo += [(kind, seed) for kind in ("untrained", "scratch", "finetuned") for seed in seeds]
    done = {(cell["kind"], cell["seed"]) for cell in result["cells"]}
    label = f"Evaluating on {Path(data).name}" if progress else None
    for kind, seed in track([cell for cell in todo if cell not in done], label):
        numbers = _evaluate(kind, seed, encoder, dataset, y, parts, protocol)
        result["cells"].append({"kind": kind, "seed": seed, **numbers})
        result["rows"] = summarise(result["cells"])
        if output:
            write_json(output, result)
    result["rows"] = summarise(result["cells"])
    return result


def _evaluate(
    kind: str,
    seed: int,
    encoder: FrozenEncoder,
    dataset: MoleculeDataset,
    y: np.ndarray,
    parts: Parts,
    protocol: MoleculeProtocol,
) -> dict[str, Any]:
    if kind == "morgan":
        return frozen_probe(morgan_fingerprints(dataset.smiles), y, parts)
    start = untrained_like(encoder, seed) if kind in ("untrained", "scratch") else encoder
    if kind in ("untrained", "frozen"):
        return frozen_probe(standardised(encode(start, dataset).numpy(), parts), y, parts)
    settings = {key: getattr(protocol, key) for key in ("num_epochs", "batch_size", "lr", "dropout")}
    return finetune(start.encoder, dataset, y, parts, seed=seed, **settings)


def binary_targets(dataset: MoleculeDataset, source: str) -> np.ndarray:
    """``(N, T)`` float targets of 0, 1 or NaN.

    Raises:
        ContrastiveError: there are none, or other numbers.
    """
    if dataset.labels is None:
        raise ContrastiveError(f"{source}: name the columns to predict with targets")
    y = dataset.labels.numpy()
    for name, column in zip(dataset.classes, y.T):
        strange = column[~np.isnan(column) & (column != 0) & (column != 1)]
        if len(strange):
            raise ContrastiveError(f"{source}: {name} holds {strange[0]:g}; expected 0, 1 or a blank")
    return y


def morgan_fingerprints(smiles: Sequence[str], *, radius: int = 2, num_bits: int = 2048) -> Any:
    """Bits of the atoms' surroundings, as a sparse float matrix ``(N, num_bits)`` (ECFP4 at radius 2)."""
    from scipy.sparse import csr_matrix

    chem = import_rdkit()
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=num_bits)
    on = [list(generator.GetFingerprint(chem.MolFromSmiles(name)).GetOnBits()) for name in smiles]
    offsets = np.cumsum([0, *map(len, on)])
    columns = np.concatenate([np.array(bits, dtype=np.int64) for bits in on])
    return csr_matrix((np.ones(len(columns)), columns, offsets), shape=(len(on), num_bits))


def standardised(h: np.ndarray, parts: Parts) -> np.ndarray:
    """Features with the mean 0 and the deviation 1 over the training part."""
    return StandardScaler().fit(h[parts.train]).transform(h)


def frozen_probe(h: Any, y: np.ndarray, parts: Parts) -> dict[str, Any]:
    """A logistic regression a task; one C for all tasks, that of the best mean validation ROC-AUC.

    Args:
        h: ``(N, D)`` features, dense or sparse.
        y: ``(N, T)`` of 0, 1 and NaN.
        parts: of the molecules.

    Returns:
        ``val`` and ``test`` ROC-AUC, ``c``, and ``test_ci95`` over resamplings of the test molecules.
    """
    best: tuple[float, float, np.ndarray] = (-1.0, 0.0, np.empty(0))
    held_out = np.concatenate([parts.val, parts.test])
    for c in REGULARISATIONS:
        score = np.stack([_scores(h, column, parts.train, held_out, c) for column in y.T], axis=1)
        val = mean_roc_auc(y[parts.val], score[: len(parts.val)])
        if val > best[0]:
            best = (val, c, score[len(parts.val) :])
    val, c, score = best
    if not len(score):
        raise ContrastiveError("no target has both classes in the validation part; split at random instead")
    truth = y[parts.test]
    return {
        "val": val,
        "test": mean_roc_auc(truth, score),
        "test_ci95": bootstrap_interval(truth, score),
        "c": c,
    }


def _scores(h: Any, y: np.ndarray, train: np.ndarray, held_out: np.ndarray, c: float) -> np.ndarray:
    """What a classifier of one task says of ``held_out``; zeros where training has one class only."""
    known = train[~np.isnan(y[train])]
    if len(np.unique(y[known])) < 2:
        return np.zeros(len(held_out))
    model = LogisticRegression(C=c, max_iter=1000, tol=1e-3).fit(h[known], y[known])
    return model.decision_function(h[held_out])


def summarise(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a kind of fit: means over its seeds, with a 95 % interval.

    Returns:
        Rows of ``kind``, ``val``, ``test`` and ``test_last`` (fine-tuning alone) with ``…_ci95``, and
        ``num_seeds``. The interval is Student's over seeds; of a fit that has no seed, over test molecules.
    """
    rows = []
    for kind in (kind for kind in TITLES if any(cell["kind"] == kind for cell in cells)):
        own = [cell for cell in cells if cell["kind"] == kind]
        row: dict[str, Any] = {"kind": kind, "num_seeds": len(own)}
        for key in ("val", "test", "test_last"):
            if key in own[0]:
                mean, interval = mean_interval([cell[key] for cell in own])
                row |= {key: mean, f"{key}_ci95": list(interval)}
        if len(own) == 1 and "test_ci95" in own[0]:
            row["test_ci95"] = own[0]["test_ci95"]
        rows.append(row)
    return rows


def _fingerprint_of(encoder: nn.Module) -> str:
    """A hash of the weights: results of other weights must not be mixed with these."""
    content = hashlib.sha256()
    for name, value in encoder.state_dict().items():
        content.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]


def _earlier(output: Path | None, protocol: MoleculeProtocol, encoder: FrozenEncoder) -> list[dict[str, Any]]:
    """The cells that an earlier call has finished."""
    if output is None or not output.exists():
        return []
    try:
        earlier = json.loads(output.read_text())
        same = earlier["protocol"] == json.loads(json.dumps(asdict(protocol)))
        if same and earlier["encoder"] == _fingerprint_of(encoder):
            return earlier["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ContrastiveError(f"{output} cannot be continued ({error}); remove it") from error
    raise ContrastiveError(
        f"{output} holds results of another protocol or encoder; remove it or give another --output"
    )
