"""Representations evaluated on a task, and the rows that the commands print and write."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from augmentations.geometry import RandomResizedCrop
from augmentations.image import Compose, Views
from contrastive.errors import ContrastiveError
from contrastive.evaluation.classifiers import Prediction, predict_knn, predict_linear, predict_svm
from contrastive.evaluation.finetune import finetune
from contrastive.evaluation.metrics import LOWER_IS_BETTER, PRIMARY, TITLES, bootstrap, measure
from contrastive.evaluation.protocol import TRAINED, Protocol
from contrastive.evaluation.raw import raw_features
from contrastive.evaluation.runs import OTHER_ROWS
from contrastive.evaluation.statistics import UNIT, mean_interval, percentile_interval
from contrastive.evaluation.tasks import Task
from contrastive.feature_cache import cached_features
from contrastive.features import FrozenEncoder, build_plain, model_args, untrained_like
from contrastive.items import with_image_size
from contrastive.predictor import Predictor
from contrastive.report import print_table, track

log = logging.getLogger("contrastive")


@dataclass(frozen=True)
class Evaluation:
    """What one representation reaches on a task.

    Attributes:
        name: of the representation.
        num_features: its width.
        predictions: one a draw.
        metrics: name to the values of the draws; the primary metric first.
        resampled: the primary metric of resamplings of the test items, averaged over draws.
    """

    name: str
    num_features: int
    predictions: list[Prediction]
    metrics: dict[str, list[float]]
    resampled: np.ndarray

    def row(self) -> dict[str, Any]:
        """Plain data: means over draws, with both intervals of the primary metric; None where not defined."""
        primary = next(iter(self.metrics))
        within = None if primary in LOWER_IS_BETTER else UNIT
        by_draw = mean_interval(self.metrics[primary], within=within)[1]
        means = {f"{name}_mean": defined(np.mean(values)) for name, values in self.metrics.items()}
        return {
            "representation": self.name,
            "num_features": self.num_features,
            "num_draws": len(self.predictions),
            **means,
            f"{primary}_ci95": [defined(end) for end in percentile_interval(self.resampled)],
            f"{primary}_draws_ci95": [defined(end) for end in by_draw],
            f"val_{primary}": defined(np.mean([p.val for p in self.predictions])),
            "draws": self.metrics[primary],
            "chosen": [p.chosen for p in self.predictions],
        }


def defined(value: Any) -> float | None:
    """A number for a file: None for NaN, which JSON does not have."""
    return None if np.isnan(value) else float(value)


def evaluate_all(
    encoders: dict[str, FrozenEncoder],
    names: Sequence[str],
    task: Task,
    protocol: Protocol,
    *,
    batch_size: int = 512,
    cache: bool = True,
) -> list[Evaluation]:
    """Evaluate the representations asked for: encoders by name, ``untrained`` and ``raw``.

    Raises:
        ContrastiveError: an encoder is asked for that is not known or, for the untrained one, does not say
            how it is built; or a method that does not go with the targets.
    """
    if protocol.method == "scratch":
        names = ["scratch"]
    results = []
    for name in names:
        if name == "raw":
            if protocol.method in TRAINED:
                continue
            results.append(_frozen(name, raw_features(task.dataset), task, protocol))
            continue
        if name in encoders:
            encoder = encoders[name]
        elif name not in OTHER_ROWS:
            raise ContrastiveError(f"no run is called {name}, as one was; these are {', '.join(encoders)}")
        else:
            source = next(iter(encoders.values()))
            if source.config is None and name == "untrained":
                log.warning("no untrained row: the encoder does not say how it is built")
                continue
            encoder = untrained_like(source, protocol.seed)
        if protocol.method in TRAINED:
            results.append(_trained(name if name in encoders else "scratch", encoder, task, protocol))
        else:
            label = f"Encoding ({name})"
            h = cached_features(encoder, task.dataset, progress=label, batch_size=batch_size, enabled=cache)
            results.append(_frozen(name, h, task, protocol))
    return results


def _frozen(name: str, h: Any, task: Task, protocol: Protocol) -> Evaluation:
    """Classifiers on frozen features, one a draw."""
    predictions = []
    for draw in track(task.draws, f"Probing ({name})"):
        if protocol.method == "knn":
            predictions.append(predict_knn(h, task.y, draw, task.kind, k=protocol.k))
        elif protocol.method == "svm":
            predictions.append(predict_svm(h, task.y, draw, task.kind))
        else:
            options: dict[str, Any] = {
                "regularisations": task.regularisations,
                "unit_length": task.unit_length,
                "objective": protocol.objective,
            }
            predictions.append(predict_linear(h, task.y, draw, task.kind, **options))
    return judged(name, h.shape[1], predictions, task, probabilities=protocol.method != "svm")


def _trained(name: str, encoder: FrozenEncoder, task: Task, protocol: Protocol) -> Evaluation:
    """A network trained on each draw, from scratch from other random weights for each."""
    view = next(iter(pretraining_views(encoder)), None) if task.unit == "images" else None
    predictions = []
    for i, draw in enumerate(track(task.draws, f"Training ({name})")):
        start = untrained_like(encoder, protocol.seed + i) if name == "scratch" else encoder
        fitted = finetune(start, task, draw, protocol.finetuning, view=view, seed=protocol.seed + i)
        predictions.append(fitted if i == 0 else fitted._replace(encoder=None))  # one network is kept
    return judged(name, encoder.num_features, predictions, task)


def pretraining_views(encoder: FrozenEncoder) -> list[nn.Module]:
    """The augmentations that an encoder was pretrained with, of many crops each one's; none if not known.

    Where the data cut the crops these cut them, of images at the size that a probe reads.
    """
    specs = (model_args(encoder.config).get("views") if encoder.config else None) or []
    built = [build_plain(spec) for spec in specs]
    views = [part for view in built for part in (view.views if isinstance(view, Views) else [view])]
    if crop := encoder.data.get("crop"):
        views = [Compose([RandomResizedCrop(**crop, flip=0.0), view]) for view in views]
    return views


def judged(
    name: str, width: int, predictions: list[Prediction], task: Task, *, probabilities: bool = True
) -> Evaluation:
    """Measure predictions of the test items of every draw."""
    metrics: dict[str, list[float]] = {}
    for draw, prediction in zip(task.draws, predictions):
        measured = measure(task.kind, task.y[draw.test], prediction.score, probabilities=probabilities)
        if prediction.last is not None:
            primary = PRIMARY[task.kind]
            last = measure(task.kind, task.y[draw.test], prediction.last)
            measured[f"{primary}_last"] = last[primary]
        for metric, value in measured.items():
            metrics.setdefault(metric, []).append(value)
    tests, scores = [draw.test for draw in task.draws], [p.score for p in predictions]
    return Evaluation(name, width, predictions, metrics, bootstrap(task.kind, tests, task.y, scores))


def describe(task: Task) -> dict[str, Any]:
    """What a task is, beside its protocol."""
    sizes = [{"fit": len(d.fit), "val": len(d.val), "test": len(d.test)} for d in task.draws[:1]]
    return {
        "unit": task.unit,
        "num_items": len(task.y),
        "kind": task.kind,
        "names": task.names,
        "splits": task.rule,
        "num_draws": len(task.draws),
        "first_draw": sizes[0],
    }


def predictor_of(
    evaluation: Evaluation, encoders: dict[str, FrozenEncoder], task: Task, protocol: Protocol
) -> Predictor:
    """What an evaluation by linear, finetune or scratch fitted on its first draw, for other items."""
    fitted = evaluation.predictions[0]
    assert fitted.head is not None
    encoder = encoders.get(evaluation.name) or next(iter(encoders.values()))
    if fitted.encoder is not None:
        config = _without_pretraining(encoder) if evaluation.name == "scratch" else encoder.config
        config = config and {**config, "labels": protocol.data}  # which it has now seen
        encoder = FrozenEncoder(fitted.encoder, encoder.preprocess, config)
    judged = {"protocol": protocol.to_json(), "task": describe(task), "row": evaluation.row()}
    names = task.names[: len(fitted.head.weight)]  # a source may name classes that it has no item of
    return Predictor(encoder, fitted.head, task.kind, names, judged)


def _without_pretraining(encoder: FrozenEncoder) -> dict[str, Any] | None:
    """What of a run's configuration holds of its network untrained: how it is built and what it reads."""
    config = with_image_size(encoder)
    if config is None:
        return None
    model, data = model_args(config), config.get("data") or {}
    kept = {key: model[key] for key in ("encoder", "preprocess") if key in model}
    options = {key: value for key, value in (data.get("init_args") or {}).items() if key != "source"}
    return {"model": kept, "data": {**data, "init_args": options}}


def print_rows(rows: Sequence[dict[str, Any]], task: Task, protocol: Protocol) -> None:
    """Print the table of an evaluation."""
    primary = PRIMARY[task.kind]
    scale = 1 if primary == "rmse" else 100
    unit, digits = ("", 3) if primary == "rmse" else (", %", 1)

    def cell(row: dict[str, Any], key: str) -> str:
        low, high = row[key]
        return "" if low is None else f"[{scale * low:.{digits}f}, {scale * high:.{digits}f}]"

    title = f"{protocol.data}: {protocol.method}, {task.rule}, {len(task.draws[0].test)} test {task.unit}"
    print_table(
        title,
        (
            "representation",
            f"{TITLES[primary]}{unit}",
            "95 % over test items",
            "95 % over draws",
            "draws",
        ),
        [
            (
                row["representation"],
                f"{scale * row[f'{primary}_mean']:.{digits}f}",
                cell(row, f"{primary}_ci95"),
                cell(row, f"{primary}_draws_ci95"),
                str(row["num_draws"]),
            )
            for row in rows
        ],
        caption="lower is better" if primary in LOWER_IS_BETTER else "",
    )
