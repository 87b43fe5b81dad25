"""Recommend items to users: popularity, matrix factorisation, and the evidence of the training links.

    python scripts/recommend.py FOLDER_OF_DECAGON/bio-decagon-targets.csv.gz --output recommend.json
    python scripts/recommend.py ratings.csv --columns head=userId,tail=movieId,value=rating --min-value 4

A tenth of the links is for validation and a tenth for test. For each user with a test link all items are
ranked but the user's links in training and validation. Validation NDCG@10 chooses each model's strength, of
dropout or of the ridge. Intervals are Student's over users.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor

from contrastive.data.link_evidence import Evidence
from contrastive.data.links import LinkData
from contrastive.evaluation.links import recommendation
from contrastive.evaluation.statistics import mean_interval
from contrastive.link_losses import LinkBCE, LinkInfoNCE
from contrastive.methods.links import LinkPrediction
from contrastive.report import print_table, write_json
from encoders.decoders import Dot
from encoders.links import NodeTable

METRICS = ("hits@10", "recall@10", "ndcg@10", "mrr")
Scores = Callable[[Tensor, Tensor], Tensor]  # users (U,) and items (N,) to (U, N)


def popularity(data: LinkData) -> Scores:
    """An item's training links, the same for all users."""
    assert data.split is not None
    counts = data.split.train[:, 2].bincount(minlength=data.split.links.num_nodes).float()
    return lambda users, items: counts[items].expand(len(users), -1)


def shallow_autoencoder(data: LinkData, ridge: float) -> Scores:
    """EASE in closed form, a row a user (arXiv 1905.03375)."""
    assert data.split is not None
    evidence = Evidence(data.split.links, data.split.train, kind="ends", ridge=ridge)

    def scores(users: Tensor, items: Tensor) -> Tensor:
        every, _ = evidence.forward.relation(0)
        known = (evidence.is_used[users].unsqueeze(1) & evidence.is_used[items]).float()
        return every[evidence.place[users]][:, evidence.place[items]] * known

    return scores


def factorisation(data: LinkData, loss: torch.nn.Module, dropout: float, seed: int) -> Scores:
    """A vector a user and an item, their dot product and biases; all items are a user's candidates."""
    seed_everything(seed, verbose=False)
    module = LinkPrediction(
        lambda graph: NodeTable(graph, num_features=64),
        Dot,
        loss=loss,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=1e-2),
        dropout=dropout,
        validate_every_n_epochs=1000,
        seed=seed,
    )
    quiet: dict[str, Any] = dict(enable_progress_bar=False, enable_model_summary=False, logger=False)
    Trainer(max_epochs=40, accelerator="cpu", enable_checkpointing=False, **quiet).fit(module, data)
    model = module.model
    assert model is not None
    model.eval()

    @torch.inference_mode()
    def scores(users: Tensor, items: Tensor) -> Tensor:
        return model.tails(model.nodes(), users, torch.zeros_like(users), items)

    return scores


def judge(data: LinkData, scores: Scores, part: str) -> dict[str, Tensor]:
    """Metrics of every user with a held-out link in the part."""
    assert data.split is not None
    split = data.split
    held_out = split.val.positive if part == "val" else split.test.positive
    users, items = held_out[:, 0].unique(), torch.cat(split.links.pools[1]).unique()
    grid = torch.zeros(2, split.links.num_nodes, split.links.num_nodes, dtype=torch.bool)
    known = split.train if part == "val" else torch.cat([split.train, split.val.positive])
    for plane, rows in zip(grid, (held_out, known)):
        plane[rows[:, 0], rows[:, 2]] = True
    relevant, seen = (plane[users][:, items] for plane in grid)
    return recommendation(scores(users, items), relevant, seen, ks=(10,))


def makers(data: LinkData, seed: int) -> dict[str, list[Callable[[], Scores]]]:
    """What makes the scores of each model, once for each of its strengths."""
    losses = {
        "BCE": LinkBCE,
        "InfoNCE": LinkInfoNCE,
        "hard negatives": lambda: LinkInfoNCE(beta=0.5),
    }
    return {
        "popularity": [lambda: popularity(data)],
        **{
            f"matrix factorisation, {name}": [
                partial(factorisation, data, loss(), dropout, seed) for dropout in (0.2, 0.5)
            ]
            for name, loss in losses.items()
        },
        "shallow autoencoder": [
            partial(shallow_autoencoder, data, ridge) for ridge in (0.1, 1.0, 10.0, 100.0)
        ],
    }


def chosen_and_tested(data: LinkData, strengths: list[Callable[[], Scores]]) -> dict[str, Any]:
    """The test part's metrics of the strength that is best on validation."""
    made = [make() for make in strengths]
    vals = [float(judge(data, scores, "val")["ndcg@10"].mean()) for scores in made]
    chosen = max(range(len(made)), key=vals.__getitem__)
    test = judge(data, made[chosen], "test")
    row: dict[str, Any] = {"val_ndcg@10": vals, "chosen": chosen, "users": len(test["mrr"])}
    for metric in METRICS:
        mean, interval = mean_interval(test[metric].tolist())
        row |= {metric: mean, f"{metric}_ci95": list(interval)}
    return row


def main() -> None:
    """Choose on validation, print and write the test part's table."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("source")
    parser.add_argument("--columns", help="head=userId,tail=movieId,value=rating")
    parser.add_argument("--min-value", type=float)
    parser.add_argument("--batch-size", type=int, default=64, help="users a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("recommend.json"))
    args = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    columns = dict(part.split("=") for part in args.columns.split(",")) if args.columns else None
    data = LinkData(
        args.source, columns=columns, types=["user", "item"] if columns else None, min_value=args.min_value,
        batch_size=args.batch_size, seed=args.seed,
    )  # fmt: skip
    data.setup()
    models = makers(data, args.seed)
    result = [{"model": name} | chosen_and_tested(data, models[name]) for name in models]
    print_table(
        f"{args.source}, {result[0]['users']} users with a test link",
        ("model", *METRICS),
        [(row["model"], *(_cell(row, metric) for metric in METRICS)) for row in result],
    )
    write_json(args.output, result)


def _cell(row: dict[str, Any], metric: str) -> str:
    low, high = row[f"{metric}_ci95"]
    return f"{row[metric]:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
