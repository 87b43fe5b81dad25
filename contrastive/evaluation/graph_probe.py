"""``contrastive probe`` of a run on graphs: the published protocols for graph sets and for nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from contrastive.data.graphs import GraphData, GraphDataset
from contrastive.data.node_files import NodeDataset, read_nodes
from contrastive.data.nodes import NodeData
from contrastive.errors import ContrastiveError
from contrastive.evaluation.graphs import svm_cross_validation
from contrastive.evaluation.nodes import node_probe, random_splits
from contrastive.evaluation.statistics import mean_interval, proportion_interval
from contrastive.features import FrozenEncoder, accelerator, build_encoder, encode
from contrastive.report import percent, print_table, track, write_json

NODE_PROTOCOL = "logistic regression on rows of unit length; C with the best validation accuracy"
GRAPH_PROTOCOL = "RBF support vector machine in stratified 10-fold cross-validation; C chosen inside"


def probe_graphs(
    encoder: FrozenEncoder,
    run: str,
    *,
    data: str | None,
    untrained: bool,
    repeats: int | None,
    seed: int,
    file: Path,
) -> None:
    """Evaluate frozen features of graphs or nodes beside the untrained encoder and the raw features.

    Args:
        encoder: of a run with ``GraphData`` or ``NodeData``.
        run: where it came from.
        data: another source of the same kind (default: what the run trained on).
        untrained: also evaluate the same encoder before training.
        repeats: how often graphs are dealt into folds (default: 1); random splits of nodes (default: 20).
        seed: of folds and splits.
        file: result file.
    """
    nodes = class_of_data(encoder) is NodeData
    dataset = _labelled(encoder, data, nodes)
    encoders = {"pretrained": encoder}
    if untrained and encoder.config:
        torch.manual_seed(seed)
        encoders["untrained"] = FrozenEncoder(*build_encoder(encoder.config))
    features = {name: _features(model, dataset, name) for name, model in encoders.items()}
    features["raw"] = _raw(dataset)
    if isinstance(dataset, NodeDataset):
        protocol, rows = _probe_nodes(dataset, features, repeats or 20, seed)
    else:
        protocol, rows = _probe_graphs(dataset, features, repeats or 1, seed)
    source = data or encoder.data["source"]
    print_table(
        f"{source}: {protocol}",
        ("representation", "test accuracy, % [95 %]", "width"),
        [(row["representation"], percent(row), str(row["num_features"])) for row in rows],
    )
    write_json(file, {"run": run, "data": source, "protocol": protocol, "seed": seed, "rows": rows})
    print(f"result: {file}")


def class_of_data(encoder: FrozenEncoder) -> type | None:
    """The class of the data module that an encoder was trained on: GraphData, NodeData, or None of them."""
    path = ((encoder.config or {}).get("data") or {}).get("class_path", "")
    return {f"{cls.__module__}.{cls.__name__}": cls for cls in (GraphData, NodeData)}.get(path)


def _labelled(encoder: FrozenEncoder, data: str | None, nodes: bool) -> GraphDataset | NodeDataset:
    source = data or encoder.data["source"]
    arguments = encoder.data | {"source": source}
    dataset: Any
    if nodes:
        dataset = read_nodes(source, normalize_features=arguments.get("normalize_features", True))
    else:
        dataset = GraphData(**arguments).read("train")
    if dataset.labels is None:
        raise ContrastiveError(f"{source} has no labels; a probe needs a class for each graph or node")
    return dataset


def _features(encoder: FrozenEncoder, dataset: GraphDataset | NodeDataset, name: str) -> np.ndarray:
    if isinstance(dataset, GraphDataset):
        return encode(encoder, dataset, progress=f"Encoding ({name})").numpy()
    device = accelerator()
    with torch.inference_mode():
        return encoder.to(device)(dataset.graph.to(device)).float().cpu().numpy()


def _raw(dataset: GraphDataset | NodeDataset) -> np.ndarray:
    """The features of the nodes themselves, summed where graphs are classified."""
    if isinstance(dataset, NodeDataset):
        x = dataset.graph.x
        return (x if isinstance(x, torch.Tensor) else x.dense()).numpy()
    graphs = dataset.graphs
    return (
        graphs.x.new_zeros(len(graphs), graphs.x.shape[1])
        .index_add_(0, graphs.graph_of_node, graphs.x)
        .numpy()
    )


def _probe_nodes(
    dataset: NodeDataset, features: dict[str, np.ndarray], repeats: int, seed: int
) -> tuple[str, list[dict[str, Any]]]:
    assert dataset.labels is not None
    y = dataset.labels.numpy()
    public = dataset.split is not None
    splits = [dataset.split] if public else list(random_splits(len(y), num_splits=repeats, seed=seed))
    where = "the public split" if public else f"{repeats} random splits of 10/10/80 %"
    rows = []
    for name, h in features.items():
        results = [node_probe(h, y, split) for split in track(splits, f"Probing ({name})")]  # type: ignore[arg-type]
        accuracies = [result["accuracy"] for result in results]
        val_accuracy = float(np.mean([result["val_accuracy"] for result in results]))
        mean, interval = mean_interval(accuracies)
        if dataset.split is not None:
            num_test = len(dataset.split[2])
            interval = proportion_interval(round(mean * num_test), num_test)
        rows.append(_row(name, mean, interval, h, val_accuracy=val_accuracy, accuracies=accuracies))
    return f"{NODE_PROTOCOL}; {where}", rows


def _probe_graphs(
    dataset: GraphDataset, features: dict[str, np.ndarray], repeats: int, seed: int
) -> tuple[str, list[dict[str, Any]]]:
    assert dataset.labels is not None
    if dataset.labels.is_floating_point():
        raise ContrastiveError(
            "these graphs have several targets each; this protocol takes one class a graph"
        )
    y = dataset.labels.numpy()
    rows = []
    for name, h in features.items():
        results = [
            svm_cross_validation(h, y, seed=seed + i, progress=f"Probing ({name})") for i in range(repeats)
        ]
        folds = [accuracy for result in results for accuracy in result["folds"]]
        mean, interval = mean_interval(folds)
        val_accuracy = float(np.mean([result["val_accuracy"] for result in results]))
        rows.append(_row(name, mean, interval, h, val_accuracy=val_accuracy, folds=folds))
    return f"{GRAPH_PROTOCOL}; folds dealt {repeats} time(s)", rows


def _row(name: str, mean: float, interval: Any, h: np.ndarray, **more: Any) -> dict[str, Any]:
    return {
        "representation": name,
        "accuracy_mean": mean,
        "accuracy_ci95": list(interval),
        "num_features": h.shape[1],
        **more,
    }
