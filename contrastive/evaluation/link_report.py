"""``contrastive links``: what a run of link prediction reaches on its test part, and what it predicts."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contrastive.data.link_splits import LinkSplit, contains
from contrastive.data.links import LinkData
from contrastive.evaluation.link_page import page
from contrastive.evaluation.links import filtered_ranks, ranking
from contrastive.evaluation.statistics import percentile_interval
from contrastive.methods.links import (
    LinkPrediction,
    evaluate_held_out,
    node_features,
    open_links,
    score_triples,
)
from contrastive.report import print_table, require_writable, track, write_json, write_whole

METRICS = ("auroc", "auprc", "ap_at_k")
TITLES = {"auroc": "AUROC", "auprc": "AUPRC", "ap_at_k": "AP@50"}


def links(
    run: str,
    *,
    source: str | None = None,
    num_ranked: int = 1000,
    num_predictions: int = 100,
    seed: int = 0,
    output: str | None = None,
) -> None:
    """Evaluate a run of link prediction on its test part.

    Writes, into the results of the run folder: links.json, with the protocol, means and medians over the
    relations with a 95 % interval over resamplings of them, the best and the worst ten relations, and
    filtered MRR and hits@k; relations.csv, a row a relation; and the best scored pairs that are no link of
    the data, as predictions.csv and predictions.html.

    Args:
        run: a run folder of ``contrastive pretrain --config configs/link/…``.
        source: the links, where they are no longer where the run read them.
        num_ranked: test links that are ranked among all tails, drawn at random; 0 ranks none.
        num_predictions: how many new links to write; 0 writes none.
        seed: of the test links that are ranked, and of the resamplings.
        output: folder of the results (default: results in the run folder).
    """
    module, data = open_links(run, source=source)
    assert data.split is not None
    folder = Path(output) if output else Path(run) / "results"
    require_writable(folder / "links.json")
    values = evaluate_held_out(module, data.split.test, data.evidence)
    result: dict[str, Any] = {"run": run, "protocol": _protocol(data), "summary": intervals(values, seed)}
    table = relation_table(data.split, values)
    result["best"], result["worst"] = table[:10], table[-10:][::-1]
    if num_ranked:
        number = min(num_ranked, len(data.split.test.positive))
        result["ranking"] = {"num_links": number, **rank_links(module, data, number, seed)}
    write_json(folder / "links.json", result)
    write_table(folder / "relations.csv", table)
    _print(result)
    if num_predictions:
        found = new_links(module, data, num_predictions)
        write_table(folder / "predictions.csv", found)
        write_whole(folder / "predictions.html", lambda part: part.write_text(page(found, run)))
    print(f"results: {folder}")


def _protocol(data: LinkData) -> dict[str, Any]:
    split = data.split
    assert split is not None
    return {
        "source": data.source,
        "split": data.split_kind,
        **data.fractions,
        "seed": data.seed,
        "num_relations": split.links.num_relations,
        "links": {
            "train": len(split.train),
            "val": len(split.val.positive),
            "test": len(split.test.positive),
        },
        "negatives": "one a held-out link, uniform among the relation's pairs that are no link, hidden from "
        "training like the held-out links",
        "selection": "the last epoch; nothing was chosen on the test part",
    }


def intervals(values: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    """Mean and median over relations, each with a 95 % interval over resamplings of the relations.

    One relation has no interval, None.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for name in METRICS:
        known = values[name][~np.isnan(values[name])]
        draws = known[rng.integers(0, len(known), (1000, len(known)))] if len(known) > 1 else None
        for which, of in (("median", np.median), ("mean", np.mean)):
            found[f"{which}_{name}"] = float(of(known)) if len(known) else None
            interval = None if draws is None else list(percentile_interval(of(draws, axis=1)))
            found[f"{which}_{name}_ci95"] = interval
    return found


def relation_table(split: LinkSplit, values: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row a relation, the best AUPRC first; those of which no number is defined are left out."""
    links = split.links
    counts = links.triples[:, 1].bincount(minlength=links.num_relations).tolist()
    tests = split.test.positive[:, 1].bincount(minlength=links.num_relations).tolist()
    rows = [
        {
            "relation": links.relations[r],
            "title": links.titles[r],
            "links": counts[r],
            "test_links": tests[r],
            **{name: round(float(values[name][r]), 4) for name in METRICS},
        }
        for r in range(links.num_relations)
        if not np.isnan(values["auprc"][r])
    ]
    return sorted(rows, key=lambda row: -row["auprc"])


def rank_links(module: LinkPrediction, data: LinkData, number: int, seed: int) -> dict[str, float]:
    """Filtered MRR and hits@k of some test links: the tail among all tails, the other links left out.

    An undirected link asks for one of its ends, drawn at random.
    """
    assert data.split is not None
    links = data.split.links
    generator = torch.Generator().manual_seed(seed)
    test = data.split.test.positive
    rows = test[torch.randperm(len(test), generator=generator)[:number]]
    turned = (torch.rand(len(rows), generator=generator) < 0.5) & links.undirected[rows[:, 1]]
    rows = torch.where(turned.unsqueeze(1), rows.flip(1), rows)
    keys = links.keys(links.triples)  # ascending, for so the triples are
    h, ranks = node_features(module), []
    for part in track(rows.split(64), "Ranking", len(rows) // 64 + 1):
        for relation in part[:, 1].unique().tolist():
            own = part[part[:, 1] == relation]
            tail = links.pools[1][relation]
            triples = own.unsqueeze(1).repeat(1, len(tail), 1)
            triples[:, :, 2] = tail
            scores = score_triples(module, triples.view(-1, 3), data.evidence, h).view(len(own), -1)
            known = contains(keys, links.keys(triples)) | (triples[..., 0] == triples[..., 2])
            known |= ~links.fits(triples)
            ranks.append(filtered_ranks(scores, torch.searchsorted(tail, own[:, 2].contiguous()), known))
    return ranking(torch.cat(ranks))


def new_links(module: LinkPrediction, data: LinkData, number: int) -> list[dict[str, Any]]:
    """The best scored pairs that are no link of the data, over all relations, with names and scores.

    With evidence of pairs, only pairs with another relation in training are scored: others rank far below.
    """
    assert data.split is not None
    links = data.split.links
    keys = links.keys(links.triples)  # ascending, for so the triples are
    h = node_features(module)
    best: list[tuple[Tensor, Tensor]] = []
    for relation in track(range(links.num_relations), "Predicting", links.num_relations):
        heads, tails = links.pools[0][relation], links.pools[1][relation]
        triples = torch.cartesian_prod(heads, torch.tensor([relation]), tails)
        different = (
            triples[:, 0] < triples[:, 2] if links.undirected[relation] else triples[:, 0] != triples[:, 2]
        )
        triples = triples[different]
        if data.evidence is not None and data.evidence.kind == "all" and links.num_relations > 1:
            triples = triples[contains(data.evidence.pairs, triples[:, 0] * links.num_nodes + triples[:, 2])]
        triples = triples[links.fits(triples) & ~contains(keys, links.keys(triples))]
        scores = score_triples(module, triples, data.evidence, h)
        top = scores.topk(min(number, len(scores))).indices
        best.append((triples[top], scores[top]))
    triples, scores = torch.cat([part for part, _ in best]), torch.cat([part for _, part in best])
    top = scores.topk(min(number, len(scores))).indices
    return [
        {
            "head": links.nodes[head],
            "relation": links.relations[relation],
            "title": links.titles[relation],
            "tail": links.nodes[tail],
            "score": round(score, 3),
            "probability": round(1 / (1 + float(np.exp(-score))), 5),
        }
        for (head, relation, tail), score in zip(triples[top].tolist(), scores[top].tolist())
    ]


def write_table(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of the same keys as CSV, whole or not at all."""

    def write(part: Path) -> None:
        with part.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]) if rows else ["relation"])
            writer.writeheader()
            writer.writerows(rows)

    write_whole(file, write)


def _print(result: dict[str, Any]) -> None:
    summary = result["summary"]
    rows = []
    for name in METRICS:
        cells = []
        for which in ("median", "mean"):
            interval = summary[f"{which}_{name}_ci95"]
            between = "" if interval is None else "  [{:.4f}, {:.4f}]".format(*interval)
            cells.append(f"{summary[f'{which}_{name}']:.4f}{between}")
        rows.append((TITLES[name], *cells))
    print_table(f"Test part of {result['run']}", ("over relations", "median", "mean"), rows)
    for which in ("best", "worst"):
        print_table(
            f"The ten {which} relations by AUPRC",
            ("relation", "links", *TITLES.values()),
            [
                (row["title"], str(row["links"]), *(f"{row[name]:.3f}" for name in METRICS))
                for row in result[which]
            ],
        )
    if "ranking" in result:
        number, *measures = result["ranking"].items()
        print(f"filtered ranking of {number[1]} links: " + ", ".join(f"{k} {v:.3f}" for k, v in measures))
