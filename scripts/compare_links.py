"""Link models on the polypharmacy split: baselines with the same small search each, and evidence taken apart.

    python scripts/compare_links.py FOLDER_OF_DECAGON --output compare.json
    python scripts/compare_links.py FOLDER_OF_DECAGON --output compare.json --models SimplE,DistMult

A baseline is trained for ``--search-epochs`` with each of its settings; the one with the best median AUROC of
the validation part is trained for ``--epochs``, and tested once, after the last epoch. The ablation's three
models have the settings of configs/link/decagon.yaml and its four epochs, without a search: the decoder, the
evidence, and both. What is finished is kept in the output and not done again.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor, nn

from contrastive.data.links import LinkData
from contrastive.evaluation.link_report import intervals, rank_links
from contrastive.methods.links import LinkPrediction, evaluate_held_out
from contrastive.report import print_table, write_json
from encoders.decoders import DEDICOM, Decoder, DistMult, SimplE
from encoders.links import NodeTable, RelationalNodes

METRICS = ("median_auroc", "median_auprc", "median_ap_at_k")


class Nothing(Decoder):
    """A score of 0 whatever the nodes are: evidence and biases are left."""

    def __init__(self, num_features: int, num_relations: int) -> None:
        super().__init__()

    def query(self, head: Tensor, relation: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros_like(head)


@dataclass(frozen=True)
class Setting:
    """What the search chooses: width of the nodes' features, learning rate, dropout, queries a step."""

    num_features: int
    lr: float
    dropout: float
    batch_size: int


@dataclass(frozen=True)
class Model:
    """How a model is built and trained.

    Attributes:
        settings: to choose from.
        decoder: of links.
        encoder: of nodes.
        data: arguments of `LinkData`.
        epochs: of the training that is tested; None for ``--epochs``.
    """

    settings: list[Setting]
    decoder: Callable[[int, int], nn.Module]
    encoder: Callable[..., nn.Module] = NodeTable
    data: dict[str, Any] | None = None
    epochs: int | None = None


TABLES = [
    Setting(256, 1e-2, 0.3, 512),
    Setting(256, 1e-2, 0.3, 128),
    Setting(512, 1e-2, 0.3, 128),
    Setting(512, 5e-3, 0.1, 128),
]
GRAPHS = [Setting(64, 2e-2, 0.1, 4096), Setting(64, 1e-2, 0.3, 4096), Setting(32, 2e-2, 0.1, 4096)]
SPARSE = {"queries": "triples", "num_negatives": 2, "corruption": "both", "epoch_fraction": 1.0}
DECAGON = [Setting(128, 3e-3, 0.2, 8192)]
symmetric_simple, symmetric_dedicom = partial(SimplE, symmetric=True), partial(DEDICOM, symmetric=True)
MODELS = {
    "SimplE": Model(TABLES, symmetric_simple),
    "DistMult": Model(TABLES, DistMult),
    "DEDICOM": Model(TABLES, symmetric_dedicom),
    "R-GCN": Model(GRAPHS, symmetric_dedicom, partial(RelationalNodes, num_bases=2)),
    "decoder alone": Model(DECAGON, symmetric_simple, data=SPARSE, epochs=4),
    "evidence alone": Model(DECAGON, Nothing, data=SPARSE | {"evidence": "all"}, epochs=4),
    "decoder and evidence": Model(DECAGON, symmetric_simple, data=SPARSE | {"evidence": "all"}, epochs=4),
}


class Recorded(LinkPrediction):
    """Keeps the validation part's medians of every epoch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.history: list[dict[str, float]] = []

    def validate_links(self) -> dict[str, float]:
        """Validate, and keep what was found."""
        values = super().validate_links()
        self.history.append({name: round(values[name], 5) for name in METRICS})
        return values


def train(
    data: LinkData, model: Model, setting: Setting, epochs: int, seed: int
) -> tuple[LinkPrediction, dict[str, Any]]:
    """A trained model, and what its training was and cost; the data are read and split."""
    seed_everything(seed, verbose=False)
    start = time.process_time()
    encoder = partial(model.encoder, num_features=setting.num_features)
    module = Recorded(
        lambda graph: encoder(graph),
        model.decoder,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=setting.lr, weight_decay=1e-2),
        dropout=setting.dropout,
        seed=seed,
    )
    quiet: dict[str, Any] = dict(enable_progress_bar=False, enable_model_summary=False, logger=False)
    Trainer(max_epochs=epochs, accelerator="cpu", enable_checkpointing=False, **quiet).fit(module, data)
    seconds = round(time.process_time() - start)
    return module, {"epochs": epochs, "seed": seed, "cpu_seconds": seconds, "val": module.history}


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--search-epochs", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--epoch-fraction", type=float, default=0.5, help="share of the queries in an epoch")
    parser.add_argument("--min-links", type=int, default=500)
    parser.add_argument("--ranked", type=int, default=1000, help="test links that are ranked among all tails")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("compare_links.json"))
    args = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    done: list[dict[str, Any]] = json.loads(args.output.read_text()) if args.output.exists() else []
    source = Source(args)
    for name in args.models.split(","):
        for cell in rows(name, MODELS[name], source, done, args):
            done.append(cell)
            write_json(args.output, done)
    report([cell for cell in done if "test" in cell])


class Source:
    """Reads and splits the links once with their context and once without."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.read: dict[bool, LinkData] = {}

    def data(self, model: Model, setting: Setting) -> LinkData:
        """The links in queries for a model."""
        whole = model.encoder is not NodeTable  # a table has no use for proteins and targets
        options: dict[str, Any] = dict(context=None if whole else [], min_links=self.args.min_links)
        if whole not in self.read:
            self.read[whole] = LinkData(str(self.args.folder), **options, seed=self.args.seed)
            self.read[whole].setup()
        options |= {"epoch_fraction": self.args.epoch_fraction, **(model.data or {})}
        data = LinkData(str(self.args.folder), **options, batch_size=setting.batch_size, seed=self.args.seed)
        data.split, data.graph = self.read[whole].split, self.read[whole].graph
        return data


def rows(
    name: str, model: Model, source: Source, done: list[dict[str, Any]], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """What is not in ``done`` of a model's search, then its test."""
    own = [cell for cell in done if cell["model"] == name]
    search = [cell for cell in own if "test" not in cell]
    for setting in model.settings if len(model.settings) > 1 else []:
        if asdict(setting) not in [cell["setting"] for cell in search]:
            _, found = train(source.data(model, setting), model, setting, args.search_epochs, args.seed)
            search.append({"model": name, "setting": asdict(setting), **found})
            print(name, setting, found["val"][-1], f"{found['cpu_seconds']} s", flush=True)
            yield search[-1]
    if len(search) < len(own):
        return
    best = max(search, key=lambda cell: cell["val"][-1]["median_auroc"], default=None)
    setting = Setting(**best["setting"]) if best else model.settings[0]
    data = source.data(model, setting)
    module, found = train(data, model, setting, model.epochs or args.epochs, args.seed)
    assert data.split is not None
    test = intervals(evaluate_held_out(module, data.split.test, data.evidence), args.seed)
    test |= rank_links(module, data, args.ranked, args.seed)
    yield {"model": name, "setting": asdict(setting), **found, "test": test}


def report(cells: list[dict[str, Any]]) -> None:
    """Medians over relations of the test part, with intervals over resamplings of the relations."""
    table = []
    for cell in cells:
        test = cell["test"]
        medians = ["{:.3f} [{:.3f}, {:.3f}]".format(test[name], *test[f"{name}_ci95"]) for name in METRICS]
        ranks = [f"{test[name]:.3f}" for name in ("mrr", "hits@10")]
        cost = (str(cell["epochs"]), str(cell["cpu_seconds"]))
        table.append((cell["model"], *medians, *ranks, *cost))
    header = ("model", "AUROC", "AUPRC", "AP@50", "MRR", "hits@10", "epochs", "processor s")
    print_table("Test part, medians over relations", header, table)


if __name__ == "__main__":
    main()
