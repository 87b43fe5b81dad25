"""The model card of an export: what it was trained on, how, how well it did, and how to open it."""

from __future__ import annotations

import csv
import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contrastive.card_usage import usage
from contrastive.features import FrozenEncoder, model_args, takes_graphs
from contrastive.predictor import Predictor
from contrastive.saved import CONFIG, run_folder

PACKAGE = "contrastive-pretraining"


def model_card(
    encoder: FrozenEncoder, run: Path | None, file: str, inputs: dict[str, Tensor] | None = None
) -> str:
    """The README of an export, with the front matter that the Hugging Face Hub reads.

    Args:
        encoder: what is exported.
        run: a run folder, or a checkpoint in one, whose metrics and results are told; others are not known.
        file: the name of the file with the encoder.
        inputs: the tensors that a program was recorded with, by name; None for weights.
    """
    folder = _run_folder(run)
    name, source = type(encoder.encoder).__name__, encoder.data.get("source")
    lines = [
        *_front_matter(encoder),
        f"# {name}, pretrained on {source or 'data that is not recorded'}",
        "",
        f"An encoder of {_kind(encoder)}, {_trained(encoder)}. It gives "
        f"{encoder.num_features} features a sample; it has no classifier.",
        *_section("How to use it", usage(encoder, file, inputs)),
        *_section("Data", _data(encoder)),
        *_section("Recipe", _recipe(encoder, folder)),
        *_section("Metrics", _metrics(folder)),
        *_section("Intended use", _intended_use(encoder)),
        *_section("Versions and licence", _versions()),
    ]
    return "\n".join(lines) + "\n"


def predictor_card(
    predictor: Predictor, run: Path | None, file: str, inputs: dict[str, Tensor] | None = None
) -> str:
    """The README of a saved probe, and of its program: what it predicts, and how well it did.

    Args:
        predictor: what is saved.
        run: whence its encoder came.
        file: the name of the file with the encoder or the program.
        inputs: see `model_card`.
    """
    row, task, protocol = (predictor.judged.get(key, {}) for key in ("row", "task", "protocol"))
    method, data, cells = protocol.get("method"), protocol.get("data"), _cells(row)
    draws, shown = row.get("draws") or [], predictor.names[:20]
    more = f" and {len(predictor.names) - len(shown)} more" if len(predictor.names) > len(shown) else ""
    pretraining = _section("Data of the encoder", _data(predictor))
    pretraining += _section("Recipe of the encoder", _recipe(predictor, _run_folder(run)))
    if method not in ("finetune", "scratch"):
        protocol = {key: value for key, value in protocol.items() if key != "finetuning"}
    lines = [
        *_front_matter(predictor),
        f"# {', '.join(predictor.names[:5])}{', …' if len(predictor.names) > 5 else ''} of {data}",
        "",
        f"Predicts {PREDICTED[predictor.kind]} from {_kind(predictor)}: {', '.join(shown)}{more}.",
        f"An encoder, {_trained(predictor)}, and a linear function of its features (`{method}`).",
        *_section("How to use it", usage(predictor, file, inputs)),
        *_section("How well it did", _table(list(cells), [list(cells.values())])),
        "",
        f"The means over {len(draws)} draw(s), each with its own classifier; the one that is kept here, the",
        f"first, has {_number(draws[0]) if draws else 'no number'} in the first metric.",
        "",
        *_items({"task": task, "protocol": protocol}),
        *(pretraining if method != "scratch" else []),
        *_section("Versions and licence", _versions()),
    ]
    return "\n".join(lines) + "\n"


PREDICTED = {"classes": "one of the classes", "labels": "for each label whether it holds", "values": "values"}


def _trained(encoder: FrozenEncoder) -> str:
    """What it was trained with; fine-tuning has left its source of labels in the configuration."""
    labels, own = (encoder.config or {}).get("labels"), "pretrained without labels by contrastive learning"
    if not labels:
        return own
    fitted = f"trained on the labels of {labels}"
    return f"{own}, then {fitted}" if encoder.data.get("source") else f"{fitted} alone"


def _run_folder(run: Path | None) -> Path | None:
    """The run folder that a path is, or is a checkpoint of; None where there is none."""
    if run is None:
        return None
    folder = run_folder(run)
    return folder.resolve() if (folder / CONFIG).is_file() else None


def _kind(encoder: FrozenEncoder) -> str:
    return "graphs" if takes_graphs(encoder.encoder) else "images"


def _front_matter(encoder: FrozenEncoder) -> list[str]:
    graphs = takes_graphs(encoder.encoder)
    classifies = isinstance(encoder, Predictor) and encoder.kind != "values"
    pipeline = "graph-ml" if graphs else f"image-{'classification' if classifies else 'feature-extraction'}"
    tags = ["self-supervised-learning", "contrastive-learning", "feature-extraction", "model_hub_mixin"]
    tags = [*tags, "pytorch_model_hub_mixin"]
    head = ["---", f"library_name: {PACKAGE}", f"pipeline_tag: {pipeline}", "tags:"]
    return [*head, *(f"- {tag}" for tag in tags), "---", ""]


def _section(title: str, lines: Iterable[str]) -> list[str]:
    return ["", f"## {title}", "", *lines]


def _data(encoder: FrozenEncoder) -> list[str]:
    data = encoder.data
    if not data:
        return ["Not recorded."]
    rows = [(key, value) for key, value in data.items() if value is not None and key not in _NOT_OF_THE_DATA]
    lines = _table(("setting", "value"), [(f"`{key}`", f"`{value}`") for key, value in rows])
    start = {"weights", "pretrained"} & {key for key, value in _arguments(encoder).items() if value}
    also = (
        " The encoder started from published weights, which may have been trained with labels."
        if start
        else ""
    )
    return [*lines, "", f"Pretraining reads no label. The number of samples is not recorded.{also}"]


_NOT_OF_THE_DATA = ("batch_size", "num_workers", "download", "skip_corrupt", "cache_dir")


def _arguments(encoder: FrozenEncoder) -> dict[str, Any]:
    spec = model_args(encoder.config)["encoder"] if encoder.config else {}
    return spec.get("init_args") or {}


def _recipe(encoder: FrozenEncoder, folder: Path | None) -> list[str]:
    config = encoder.config or {}
    trainer, model = config.get("trainer") or {}, model_args(config) if "model" in config else {}
    rows = {
        "configuration": folder.parent.name if folder and folder.parent.parent.name == "runs" else None,
        "method": ((config.get("model") or {}).get("class_path") or "").rpartition(".")[2] or None,
        **{key: _called(model.get(key)) for key in _RECIPE},
        "epochs": trainer.get("max_epochs") if trainer.get("max_steps", -1) < 0 else None,
        "steps": _steps(folder),
        "batch size": encoder.data.get("batch_size"),
        "devices": trainer.get("devices"),
        "precision": trainer.get("precision") or ("32-true" if trainer else None),
        "seed": config.get("seed_everything"),
    }
    known = [(what, f"`{value}`") for what, value in rows.items() if value is not None]
    return [*_table(("", ""), known), "", "`config.json` has every setting."]


_RECIPE = (
    "encoder",
    "projector",
    "loss",
    "views",
    "preprocess",
    "optimizer",
    "warmup_epochs",
    "schedule",
    "accumulate_negatives",
)


def _called(spec: Any) -> str | None:
    """A part of a configuration as a call, ``SmallCNN(width=16)``, or a list; without what is None."""
    if isinstance(spec, list):
        return f"[{', '.join(str(_called(item)) for item in spec)}]"
    if not isinstance(spec, dict):
        return None if spec is None else str(spec)
    name = spec.get("class_path")
    settings = (spec.get("init_args") or {}) if name else spec
    texts = {key: _called(value) for key, value in settings.items() if value is not None}
    if not name:
        return "; ".join(f"{key}: {text}" for key, text in texts.items())
    return f"{name.rpartition('.')[2]}({', '.join(f'{key}={text}' for key, text in texts.items())})"


def _steps(folder: Path | None) -> str | None:
    steps = [int(row["step"]) for row in _rows(folder) if row.get("step")]
    return str(max(steps) + 1) if steps else None  # they are counted from 0


def _rows(folder: Path | None) -> list[dict[str, str]]:
    file = folder / "metrics.csv" if folder else None
    if file is None or not file.is_file():
        return []
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _metrics(folder: Path | None) -> list[str]:
    if folder is None:
        return ["Not known: this was written from a checkpoint or an export, not from a run folder."]
    logged, rows = _rows(folder), []
    for name in dict.fromkeys(key for row in logged for key in row):
        values = [(row["step"], row[name]) for row in logged if row.get(name)]
        if values and name not in ("epoch", "step") and not name.startswith("lr-"):
            rows.append((f"`{name}`", _number(values[0][1]), _number(values[-1][1]), values[-1][0]))
    lines = ["During pretraining, on samples of the pretraining split:", ""]
    lines += _table(("metric", "first", "last", "at step"), rows) if rows else ["Nothing was logged."]
    for file in sorted((folder / "results").glob("**/*.json")):
        lines += ["", f"### {file.relative_to(folder)}", "", *_result(file)]
    return lines


def _result(file: Path) -> list[str]:
    """The rows of a result as a table, and what stands beside them."""
    try:
        content = json.loads(file.read_text())
    except ValueError:
        return ["Not readable."]
    about = content if isinstance(content, dict) else {"rows": content}
    rows = [_cells(row) for row in about.get("rows") or [] if isinstance(row, dict)]
    header = list(dict.fromkeys(key for row in rows for key in row))
    lines = _table(header, [[row.get(key, "") for key in header] for row in rows]) if rows else []
    beside = {key: value for key, value in about.items() if key not in ("rows", "cells", "run")}
    return [*lines, *([""] if lines and beside else []), *_items(beside)]


def _items(values: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}- {key}:", *_items(value, indent + "  ")]
        elif value is not None:
            lines.append(f"{indent}- {key}: {_called(value)}")
    return lines


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """The numbers and names of a result's row; a mean and its interval in one cell, longer lists left out."""
    cells = {}
    for key, value in row.items():
        stem = key.removesuffix("_mean")
        interval = row.get(f"{stem}_ci95")
        if stem != key and isinstance(interval, list):
            cells[f"{stem} [95 %]"] = f"{_number(value)} [{', '.join(map(_number, interval))}]"
        elif isinstance(value, (str, int, float)):
            cells[key] = _number(value)
    return cells


def _number(value: Any) -> str:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return str(value) if number.is_integer() else f"{number:.4g}"


def _intended_use(encoder: FrozenEncoder) -> list[str]:
    source = encoder.data.get("source")
    like = f"like those of `{source}`" if source else "like those that it was trained on"
    return [
        f"Frozen features, or a start for fine-tuning, for tasks with few labels on {_kind(encoder)} {like}.",
        "Measure it on labelled samples of your own task, beside a baseline, before you rely on it: what was",
        "learned from other data may not carry over, and what is unbalanced in the data is so in the",
        "features. It is not meant to decide over people.",
    ]


def _versions() -> list[str]:
    try:
        own = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        own = "not installed"
    return [
        f"Exported with {PACKAGE} {own} and torch {torch.__version__}.",
        "",
        "Licence: not stated. `sha256sum -c SHA256SUMS` checks the files.",
    ]


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(str(cell).replace('|', '∣') for cell in line)} |" for line in lines]
