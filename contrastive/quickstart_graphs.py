"""``contrastive quickstart --graphs``: pretraining on molecules without labels against its baselines."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from contrastive.data.molecules import MoleculeDataset, featurise
from contrastive.data.rdkit_cache import import_rdkit
from contrastive.data.splits import scaffold_split
from contrastive.data.tables import SmilesTable, read_smiles
from contrastive.errors import ContrastiveError
from contrastive.evaluation.draws import Draw, set_aside
from contrastive.evaluation.linear import Features
from contrastive.evaluation.protocol import Finetuning, Protocol
from contrastive.evaluation.raw import morgan_fingerprints
from contrastive.evaluation.tasks import Task
from contrastive.features import FrozenEncoder, load_encoder, untrained_like
from contrastive.pretrain import pretrain
from contrastive.quickstart import NUM_DRAWS, begin, probe_rows, report, represent, trained_rows

RECIPE = "configs/molecule/fingerprint_nci.yaml"
LABELS_PER_CLASS = (20, 100, 500)
DESCRIPTIONS = {
    "raw": "fingerprints + probe",
    "untrained": "untrained + probe",
    "scratch": "trained from scratch",
    "pretrained": "pretrained + probe",
    "finetuned": "fine-tuned",
}
# Chosen on validation, from scratch: with the images' 60 steps at 3e-3 more labels gave less.
TRAINING = Finetuning(num_epochs=1, min_steps=120, lr=1e-3)
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
    unlabelled, task = nci_file(), b3db_task(seed)
    folder = begin(output or f"runs/quickstart_graphs/{time.strftime('%Y-%m-%d_%H-%M-%S')}")
    options = {"config": RECIPE, "data.init_args.source": unlabelled, "run_dir": folder}
    options |= {"seed_everything": seed, "wandb": "off"}
    pretrain([f"--{key}={value}" for key, value in options.items()])
    print("2/3  probing fingerprints, the untrained and the pretrained encoder")
    (split,) = task.splits
    train = task.dataset.subset(np.sort(np.concatenate([split.fit, split.val])))
    test = task.dataset.subset(split.test)
    protocol = Protocol("B3DB", repeats=NUM_DRAWS, seed=seed)
    features = represent(folder, (_fingerprints(train), _fingerprints(test)), train, test, seed)
    rows = probe_rows(features, LABELS_PER_CLASS, protocol)
    print("3/3  training the network on those labels, from scratch and from the pretrained weights")
    encoder = load_encoder(folder)
    starts: dict[str, Callable[[int], FrozenEncoder]]
    starts = {"scratch": partial(untrained_like, encoder), "finetuned": lambda _: encoder}
    rows += trained_rows(starts, task, LABELS_PER_CLASS, replace(protocol, finetuning=TRAINING))
    title = (
        f"Does it pass the blood-brain barrier? Test accuracy on {len(test)} molecules with new scaffolds, "
        "half of either class, % [95 % interval of the mean over draws]"
    )
    written = protocol.to_json() | {"split": task.rule, "num_test": len(test)}
    report(folder, title, DESCRIPTIONS, rows, features, task.names, written)
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


def b3db_task(seed: int) -> Task:
    """B3DB, 1 where a molecule passes the barrier: trained on and tested on molecules of different scaffolds.

    The test molecules have equal classes, so that guessing gives 50 %: those of the larger class are left out
    at random, the same whatever the seed, which sets aside what is chosen by.
    """
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
    fit, val = set_aside(parts.train, y, Protocol("B3DB").val_fraction, seed)
    splits = [Draw(fit, val, _balanced(parts.test, y))]
    return Task("molecules", dataset, y, dataset.classes, splits, "scaffold 80/10/10, equal classes in test")


def _balanced(part: np.ndarray, y: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    each = min(np.bincount(y[part]))
    return np.sort(np.concatenate([rng.permutation(part[y[part] == c])[:each] for c in (0, 1)]))


def _fingerprints(dataset: MoleculeDataset) -> Features:
    assert dataset.labels is not None
    return Features(morgan_fingerprints(dataset.smiles).toarray(), dataset.labels.numpy())


def next_commands(folder: Path) -> str:
    """Two commands to try next."""
    return f"""\
  contrastive pretrain --config configs/molecule/fingerprint_zinc.yaml --data.init_args.source YOUR.smi
  contrastive export {folder} --output encoder"""
