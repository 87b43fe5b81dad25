"""``contrastive quickstart --graphs``: pretraining on molecules without labels against its baselines."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from contrastive.building import build_module
from contrastive.data.molecules import MoleculeDataset, featurise
from contrastive.data.rdkit_cache import import_rdkit
from contrastive.data.splits import scaffold_split
from contrastive.data.tables import SmilesTable, read_smiles
from contrastive.errors import ContrastiveError
from contrastive.evaluation.finetune import train_classifier
from contrastive.evaluation.linear import Features, linear_probe
from contrastive.evaluation.molecules import morgan_fingerprints
from contrastive.evaluation.protocol import Protocol, labelled_draws
from contrastive.evaluation.statistics import mean_interval
from contrastive.features import (
    LAST,
    build_encoder,
    load_encoder,
    model_args,
    run_config,
)
from contrastive.pretrain import make_folder, pretrain
from contrastive.quickstart import represent
from contrastive.report import (
    percent,
    plot_embedding,
    plot_label_efficiency,
    print_table,
    track,
    write_json,
)

RECIPE = "configs/molecule/fingerprint_nci.yaml"
LABELS_PER_CLASS = (20, 100, 500)
DESCRIPTIONS = {
    "raw": "Morgan fingerprints + probe",
    "untrained": "untrained encoder + probe",
    "scratch": "trained from scratch",
    "pretrained": "pretrained encoder + probe",
    "finetuned": "pretrained, trained further",
}
NUM_DRAWS, NUM_DRAWS_TRAINED = 20, 5
_EXTRA = "pip install 'contrastive-pretraining[molecules]'"


def quickstart_graphs(*, output: str | None = None, seed: int = 0) -> None:
    """Pretrain a graph network on 5,000 molecules without labels, then predict what crosses into the brain.

    The unlabelled molecules are the National Cancer Institute's that come with RDKit; the labelled ones, of
    which some pass the blood-brain barrier, are B3DB's (Meng et al. 2021, doi 10.1038/s41597-021-01069-5).
    The test molecules have scaffolds that no labelled molecule has, and half of them are of either class.

    Args:
        output: the run folder (default: runs/quickstart_graphs/<time>).
        seed: of the pretraining and of the draws of labelled molecules.
    """
    start = time.perf_counter()
    torch.set_num_threads(1)  # as in the quickstart of images: one thread sums in one order
    threadpool_limits(1)
    train, _, test = b3db_parts()
    folder = Path(output) if output else Path("runs/quickstart_graphs") / time.strftime("%Y-%m-%d_%H-%M-%S")
    if (folder / LAST).exists():
        raise ContrastiveError(f"{folder} already holds a run; give another --output")
    make_folder(folder / "plots")
    print("1/3  pretraining without labels")
    pretrain(
        [
            f"--config={RECIPE}",
            f"--data.init_args.source={nci_file()}",
            f"--run_dir={folder}",
            f"--seed_everything={seed}",
            "--wandb=off",
        ]
    )
    print("2/3  probing fingerprints, the untrained and the pretrained encoder")
    raw = (_fingerprints(train), _fingerprints(test))
    features = represent(folder, raw, train, test, seed)
    rows = [row for name, parts in features.items() for row in probe_rows(name, *parts, seed)]
    print("3/3  training the network on those labels, from scratch and from the pretrained weights")
    rows += trained_rows(folder, train, test, seed)
    report(folder, rows, features, seed)
    print(f"{time.perf_counter() - start:.0f} s in all. Next:\n{next_commands(folder)}")


def nci_file() -> Path:
    """The 5,000 molecules that RDKit ships.

    Raises:
        ContrastiveError: RDKit is missing, or came without them.
    """
    import_rdkit()
    from rdkit import RDConfig

    file = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"
    if not file.exists():
        raise ContrastiveError(f"this RDKit came without {file}; install its wheel: {_EXTRA}")
    return file


def b3db_file() -> Path:
    """B3DB's classification table, found without importing its package, which would read all its tables.

    Raises:
        ContrastiveError: the package is missing.
    """
    for name in ("B3DB", "b3db"):
        spec = find_spec(name)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (file := Path(folder) / "B3DB_classification.tsv").exists():
                return file
    raise ContrastiveError(f"the quickstart of graphs needs the data set B3DB: {_EXTRA}")


def b3db_parts() -> tuple[MoleculeDataset, MoleculeDataset, MoleculeDataset]:
    """B3DB in training, validation and test by scaffold; validation and test have equal classes.

    The label is 1 where the molecule passes the barrier. Molecules of the larger class are left out of
    validation and test at random, the same whatever the seed of the run, so that guessing gives 50 %.
    """
    import csv

    file = b3db_file()
    with file.open(newline="", encoding="utf-8") as stream:
        passes = [[float(row["BBB+/BBB-"] == "BBB+")] for row in csv.DictReader(stream, delimiter="\t")]
    table: SmilesTable = replace(
        read_smiles(file), targets=np.array(passes, np.float32), target_names=("BBB+",)
    )
    dataset = featurise(table)
    assert dataset.labels is not None
    dataset.labels, dataset.classes = dataset.labels[:, 0].long(), ["BBB-", "BBB+"]
    y = dataset.labels.numpy()
    parts = scaffold_split(dataset.smiles)
    return dataset.subset(parts.train), *(dataset.subset(_balanced(part, y)) for part in parts[1:])  # type: ignore[return-value]


def _balanced(part: np.ndarray, y: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    each = min(np.bincount(y[part]))
    return np.sort(np.concatenate([rng.permutation(part[y[part] == c])[:each] for c in (0, 1)]))


def _fingerprints(dataset: MoleculeDataset) -> Features:
    assert dataset.labels is not None
    return Features(morgan_fingerprints(dataset.smiles).toarray(), dataset.labels.numpy())


def probe_rows(name: str, train: Features, test: Features, seed: int) -> list[dict[str, Any]]:
    """Linear probes with 20, 100 and 500 labels a class."""
    return [
        {"representation": name, "labels_per_class": k}
        | linear_probe(train, test, _protocol(k, NUM_DRAWS, seed), progress=f"{name}, {k} labels a class")
        for k in LABELS_PER_CLASS
    ]


def trained_rows(
    folder: Path, train: MoleculeDataset, test: MoleculeDataset, seed: int
) -> list[dict[str, Any]]:
    """The network trained on the first draws of the labels that the probes are trained on."""
    assert train.labels is not None
    draws = [
        (k, fit)
        for k in LABELS_PER_CLASS
        for fit, _ in labelled_draws(train.labels.numpy(), _protocol(k, NUM_DRAWS_TRAINED, seed))
    ]
    config = run_config(folder)
    accuracies: dict[tuple[str, int], list[float]] = {}
    for i, (k, fit) in enumerate(track(draws, "training")):
        torch.manual_seed(seed + i)
        starts = {"scratch": build_encoder(config)[0], "finetuned": load_encoder(folder).encoder}
        for name, encoder in starts.items():
            accuracy = trained_accuracy(encoder, config, train.subset(fit), test, seed + i)
            accuracies.setdefault((name, k), []).append(accuracy)
    rows = []
    for (name, k), values in accuracies.items():
        mean, interval = mean_interval(values)
        rows.append(
            {"representation": name, "labels_per_class": k, "accuracy_mean": mean}
            | {"accuracy_ci95": list(interval), "num_draws": NUM_DRAWS_TRAINED}
        )
    return rows


def trained_accuracy(
    encoder: nn.Module, config: dict[str, Any], labelled: MoleculeDataset, test: MoleculeDataset, seed: int
) -> float:
    """Test accuracy of a copy of an encoder that was trained with a linear layer; no setting is selected."""
    batch = labelled.__getitems__(list(range(len(labelled))))
    assert batch.label is not None
    view = build_module(model_args(config)["views"][0])
    # Chosen on validation, from scratch: with the images' 60 steps at 3e-3 more labels gave less.
    model = train_classifier(
        encoder, view, batch.input, batch.label, num_classes=2, num_steps=120, lr=1e-3, seed=seed
    )
    with torch.inference_mode():
        predicted = model(test.__getitems__(list(range(len(test)))).input).argmax(1)
    return float((predicted == test.labels).float().mean())


def _protocol(labels_per_class: int, repeats: int, seed: int) -> Protocol:
    return Protocol("B3DB", labels_per_class=labels_per_class, repeats=repeats, seed=seed)


def report(
    folder: Path, rows: list[dict[str, Any]], features: dict[str, tuple[Features, Features]], seed: int
) -> None:
    """Print the table; write results/quickstart.json, its protocol, and the two pictures."""
    order = list(DESCRIPTIONS)
    rows.sort(key=lambda row: (order.index(row["representation"]), row["labels_per_class"]))
    test_y = features["raw"][1].y
    print_table(
        f"Does it pass the blood-brain barrier? Test accuracy on {len(test_y)} molecules with new scaffolds, "
        "half of either class, % [95 % interval of the mean over draws]",
        ("representation", *(f"{k} labels a class" for k in LABELS_PER_CLASS)),
        [
            (DESCRIPTIONS[name], *(percent(row) for row in rows if row["representation"] == name))
            for name in order
        ],
        caption=f"{NUM_DRAWS} draws of the labelled molecules; {NUM_DRAWS_TRAINED} where it is trained",
    )
    write_json(folder / "results" / "quickstart.json", rows)
    protocol = asdict(Protocol("B3DB", repeats=NUM_DRAWS, seed=seed))
    split = {"split": "scaffold 80/10/10, equal classes in test", "num_test": len(test_y)}
    write_json(
        folder / "results" / "protocol.json", protocol | split | {"labels_per_class": LABELS_PER_CLASS}
    )
    panels = {DESCRIPTIONS[name].removesuffix(" + probe"): part.h for name, (_, part) in features.items()}
    plot_embedding(panels, test_y, ["BBB-", "BBB+"], folder / "plots" / "embedding.png")
    plot_label_efficiency(rows, 0.5, folder / "plots" / "label_efficiency.png")
    for file in ("results/quickstart.json", "plots/embedding.png", "plots/label_efficiency.png"):
        print(f"  {folder / file}")


def next_commands(folder: Path) -> str:
    """Two commands to try next."""
    return f"""\
  contrastive pretrain --config configs/molecule/fingerprint_zinc.yaml --data.init_args.source YOUR.smi
  contrastive export {folder} --output encoder"""
