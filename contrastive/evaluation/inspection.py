"""``contrastive inspect``: how good a run's representation is, as far as that shows without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from augmentations.random import SampleRandom
from contrastive.data.node_files import NodeDataset
from contrastive.errors import ContrastiveError
from contrastive.evaluation.evaluate import pretraining_views
from contrastive.evaluation.leaks import pretraining_items
from contrastive.evaluation.quality import alignment, dimension_std, effective_rank, rankme, uniformity
from contrastive.evaluation.runs import file_name, results_folder, unusual
from contrastive.features import (
    FrozenEncoder,
    accelerator,
    load_encoder,
    model_args,
    untrained_like,
)
from contrastive.items import num_items
from contrastive.report import print_table, require_writable, write_json

MEANING = {
    "alignment": "mean squared distance of a positive pair on the sphere; lower is closer",
    "uniformity": "log of the mean Gaussian potential of pairs; lower is more even, -4 at best",
    "rankme": "effective number of dimensions, by singular values",
    "effective_rank": "the same of the features less their mean",
    "std": "spread of a dimension on the sphere times √D; 1 is even, 0 a collapse",
    "dead": "dimensions that do not change, of all",
}


def inspect(
    run: str, *, num_items: int = 4096, untrained: bool = True, seed: int = 0, output: str | None = None
) -> None:
    """Measure alignment, uniformity and rank of a run's features on items that it was pretrained on.

    Two views of each item are encoded, drawn as in pretraining. No label is read.

    Args:
        run: a run folder, a checkpoint or an export.
        num_items: how many items, the first of a random order.
        untrained: also measure the same encoder before training.
        seed: of the items and the views.
        output: result file (default: results/inspect.json in the run folder, with all that is not as usual in
            its name).
    """
    encoder = load_encoder(run)
    if not encoder.config or not model_args(encoder.config).get("views"):
        raise ContrastiveError(f"{run} does not record the augmentations that two views are drawn by")
    name = file_name("inspect", run, [], unusual(inspect, {"num_items": num_items, "seed": seed}))
    file = Path(output) if output else results_folder(Path(run)) / f"{name}.json"
    require_writable(file)
    items = pretraining_items(encoder)
    index = torch.randperm(_number_of(items), generator=torch.Generator().manual_seed(seed))[
        :num_items
    ].sort()[0]
    encoders = {"pretrained": encoder}
    if untrained:
        encoders["untrained"] = untrained_like(encoder, seed)
    rows = {name: measures(*two_views(e, items, index, seed)) for name, e in encoders.items()}
    print_table(
        f"{len(index)} items of {encoder.data.get('source')}, without labels",
        ("measure", *rows, "what it is"),
        [(key, *(f"{row[key]:.3f}" for row in rows.values()), MEANING[key]) for key in MEANING],
    )
    write_json(file, {"run": run, "num_items": len(index), "seed": seed, "rows": rows})
    print(f"result: {file}")


def _number_of(items: Any) -> int:
    try:
        return num_items(items)
    except TypeError:
        raise ContrastiveError("a stream has no items to draw; inspect a run on a set of files") from None


@torch.inference_mode()
def two_views(encoder: FrozenEncoder, items: Any, index: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Features of two views of each item, ``(N, num_features)`` on the CPU."""
    device = accelerator()
    encoder.to(device)
    views = pretraining_views(encoder)
    if isinstance(items, NodeDataset):
        return _node_views(encoder, items, index, views, seed)
    h: list[list[Tensor]] = [[], []]
    for part in index.split(512):
        batch = items.__getitems__(part.tolist())
        for i, features in enumerate(h):
            random = SampleRandom(batch.index.to(device), seed=seed, view=i)
            view = views[i % len(views)](batch.input.to(device), random)
            features.append(encoder.encoder(view).float().cpu())
    return torch.cat(h[0]), torch.cat(h[1])


def _node_views(
    encoder: FrozenEncoder, nodes: NodeDataset, index: Tensor, views: Sequence[Any], seed: int
) -> tuple[Tensor, Tensor]:
    """The same of nodes: both views are of the whole graph."""
    graph, h = nodes.graph.to(accelerator()), []
    for i in range(2):
        random = SampleRandom(torch.zeros(1, dtype=torch.int64, device=graph.device), seed=seed, view=i)
        view = views[i % len(views)](graph, random)
        if view.num_nodes != graph.num_nodes:
            raise ContrastiveError("the views leave nodes out, so that no node is known to be its own pair")
        h.append(encoder.encoder(view).float().cpu()[index])
    return h[0], h[1]


def measures(h0: Tensor, h1: Tensor) -> dict[str, float]:
    """The measures of two views' features, by name."""
    values = {
        "alignment": alignment(h0, h1),
        "uniformity": uniformity(h0),
        "rankme": rankme(h0),
        "effective_rank": effective_rank(h0 - h0.mean(dim=0)),
        "std": dimension_std(h0),
        "dead": (h0.std(dim=0) < 1e-6 * h0.std().clamp_min(1e-30)).float().mean(),
    }
    return {name: float(value) for name, value in values.items()}
