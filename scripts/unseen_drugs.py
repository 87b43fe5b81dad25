"""Side effects of drugs that training has no link of: a pretrained encoder's features beside others.

    python scripts/unseen_drugs.py FOLDER_OF_DECAGON --encoder RUN --further RUN --output unseen.json

In each of five splits a tenth of the drugs is held out for validation and a tenth for test, with all their
links. A DistMult on an MLP of the frozen features of the drugs' molecules is trained for a fixed budget; the
second or the fourth epoch, whichever has the better median validation AUROC, is tested. Features:

- ``pretrained``, of the run's encoder
- ``further``, of the encoder of a run that went on from it (``--init_from``) on the drugs' own molecules, all
  of them, for these have no labels
- ``untrained``, of the same encoder before training, another one a split
- ``morgan``, fingerprints of 2,048 bits and radius 2
- ``network``, vectors pretrained on proteins and targets, zero for the drugs without known targets
- ``none``, noise that says nothing of a drug

What is finished is kept in the output and not done again.
"""

from __future__ import annotations

import argparse
import copy
import csv
import gzip
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer, seed_everything

from contrastive.data.link_features import read_features
from contrastive.data.link_files import read_links
from contrastive.data.links import LinkData
from contrastive.data.molecules import read_molecules
from contrastive.evaluation.links import summary
from contrastive.evaluation.raw import morgan_fingerprints
from contrastive.evaluation.statistics import UNIT, mean_interval
from contrastive.features import load_encoder, untrained_like
from contrastive.items import encode_items
from contrastive.methods.links import LinkPrediction, evaluate_held_out, open_links
from contrastive.report import print_table, write_json
from encoders.decoders import DistMult
from encoders.links import NodeTable

METRICS = ("median_auroc", "median_auprc", "median_ap_at_k")


def features_of(kind: str, seed: int, molecules: Any, args: argparse.Namespace) -> np.ndarray:
    """``(M, F)`` float32 of the molecules."""
    if kind == "morgan":
        return morgan_fingerprints(molecules.smiles).toarray().astype(np.float32)
    if kind == "none":
        return np.random.default_rng(seed).normal(size=(len(molecules.smiles), 16)).astype(np.float32)
    encoder = load_encoder(args.further if kind == "further" else args.encoder)
    return encode_items(untrained_like(encoder, seed) if kind == "untrained" else encoder, molecules)


def vectors_of(run: str) -> tuple[np.ndarray, list[str]]:
    """The drugs' vectors ``(M, F)``, and their names, of a run of configs/link/network.yaml."""
    module, data = open_links(run)
    assert data.split is not None and module.model is not None
    links = data.split.links
    drugs = (links.node_type == links.node_types.index("drug")).nonzero()[:, 0]
    with torch.inference_mode():
        h = module.model.nodes()[drugs]
    return h.numpy(), [links.nodes[i] for i in drugs.tolist()]


class KeepBest(LinkPrediction):
    """Remembers the weights of the epoch with the best median validation AUROC."""

    best: tuple[float, dict[str, torch.Tensor]] = (-1.0, {})

    def validate_links(self) -> dict[str, float]:
        """Validate, and keep the weights where they are the best so far."""
        values = super().validate_links()
        if values["median_auroc"] > self.best[0]:
            self.best = values["median_auroc"], copy.deepcopy(self.state_dict())
        return values


def train(data: LinkData, features: Path, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Medians over relations of one training's test part, and its validation AUROC."""
    seed_everything(seed, verbose=False)
    assert data.split is not None and data.graph is not None
    data.graph = replace(data.graph, features=read_features(features, data.split.links))
    module = KeepBest(
        lambda graph: NodeTable(graph, num_features=args.width, free=False, num_hidden=256),
        DistMult,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=args.lr, weight_decay=1e-2),
        dropout=args.dropout,
        validate_every_n_epochs=2,
        seed=seed,
    )
    quiet: dict[str, Any] = dict(enable_progress_bar=False, enable_model_summary=False, logger=False)
    Trainer(max_epochs=args.epochs, accelerator="cpu", enable_checkpointing=False, **quiet).fit(module, data)
    module.load_state_dict(module.best[1])
    test = summary(evaluate_held_out(module, data.split.test))
    return {name: test[name] for name in METRICS} | {"val_median_auroc": module.best[0]}


def main() -> None:
    """Train what is missing and print the table."""
    args = _arguments()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    done: list[dict[str, Any]] = json.loads(args.output.read_text()) if args.output.exists() else []
    molecules = read_molecules(args.folder / "drug-smiles.csv.gz", num_workers=1)
    names = _names(args.folder / "drug-smiles.csv.gz")
    files = read_links(args.folder / "bio-decagon-combo.csv.gz")
    for seed in range(args.splits):
        finished = {cell["features"] for cell in done if cell["split"] == seed}
        missing = [kind for kind in args.features.split(",") if kind not in finished]
        if not missing:
            continue
        data = LinkData(
            str(args.folder),
            min_links=args.min_links,
            split="nodes",
            batch_size=args.batch_size,
            epoch_fraction=args.epoch_fraction,
            seed=seed,
        )
        data.files = files
        data.setup()
        for kind in missing:
            file = args.output.with_name(f"features-{kind}-{seed}.npz")
            if kind == "network":
                h, drugs = vectors_of(args.network)
            else:
                h, drugs = features_of(kind, seed, molecules, args), [names[s] for s in molecules.smiles]
            np.savez(file, names=np.array(drugs), h=h)
            done.append({"features": kind, "split": seed, **train(data, file, seed, args)})
            write_json(args.output, done)
    report(done)


def _arguments() -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--encoder", help="run folder of a molecule encoder, for pretrained and untrained")
    parser.add_argument("--further", help="run folder of that encoder pretrained further, for further")
    parser.add_argument("--network", help="run folder of configs/link/network.yaml, for network")
    parser.add_argument("--features", default="pretrained,further,untrained,morgan,none")
    parser.add_argument("--min-links", type=int, default=500)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--epoch-fraction", type=float, default=0.2)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--output", type=Path, default=Path("unseen_drugs.json"))
    return parser.parse_args()


def _names(file: Path) -> dict[str, str]:
    """The drug of each SMILES."""
    with gzip.open(file, "rt", newline="") as stream:
        return {row["smiles"].strip(): row["STITCH"] for row in csv.DictReader(stream)}


def report(cells: list[dict[str, Any]]) -> None:
    """Means over splits, and the differences between pretrained features and others, split by split."""
    by_kind: dict[str, dict[int, dict[str, Any]]] = {}
    for cell in cells:
        by_kind.setdefault(cell["features"], {})[cell["split"]] = cell
    rows = []
    for kind, own in by_kind.items():
        cells_ = []
        for name in METRICS:
            mean, (low, high) = mean_interval([cell[name] for cell in own.values()], within=UNIT)
            cells_.append(f"{mean:.3f} [{low:.3f}, {high:.3f}]")
        rows.append((kind, *cells_))
    pairs = [(a, b) for a in ("pretrained", "further") for b in ("untrained", "morgan")]
    for kind, other in [*pairs, ("further", "pretrained")]:
        common = sorted(by_kind.get(kind, {}).keys() & by_kind.get(other, {}).keys())
        if not common:
            continue
        cells_ = []
        for name in METRICS:
            differences = [by_kind[kind][s][name] - by_kind[other][s][name] for s in common]
            mean, (low, high) = mean_interval(differences)
            cells_.append(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]")
        rows.append((f"{kind} − {other}", *cells_))
    print_table("Unseen drugs, medians over side effects", ("features", "AUROC", "AUPRC", "AP@50"), rows)


if __name__ == "__main__":
    main()
