"""A labelled set to judge encoders by: its items, their targets, and which of them train, select and test."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from contrastive.data.image_dataset import ImageDataset, joined
from contrastive.data.image_sources import SPLITS
from contrastive.data.loading import labelled
from contrastive.data.molecules import MoleculeDataset
from contrastive.data.node_files import NodeDataset
from contrastive.data.splits import split_molecules
from contrastive.errors import ContrastiveError
from contrastive.evaluation.draws import (
    NUM_FOLDS,
    NUM_NODE_SPLITS,
    Draw,
    draws,
    folds,
    random_splits,
    set_aside,
    strata,
)
from contrastive.evaluation.linear import REGULARISATIONS
from contrastive.evaluation.metrics import Kind, kind_of
from contrastive.evaluation.protocol import Method, Protocol, SplitRule
from contrastive.features import FrozenEncoder
from contrastive.items import read_items, unit_of

log = logging.getLogger("contrastive")


@dataclass(frozen=True)
class Task:
    """Items with targets, and the draws that encoders are judged by.

    Attributes:
        unit: what the items are: images, graphs, nodes or molecules.
        dataset: an ``ImageDataset``, ``GraphDataset``, ``MoleculeDataset`` or ``NodeDataset``.
        y: ``(N,)`` int64 classes, or ``(N, T)`` float targets with NaN where unknown; a class that is not
            known, of a node that is in no draw, is -1.
        names: of the classes or targets.
        splits: what a source publishes or is usual, before labels are drawn.
        rule: what the splits are, in words.
        split: by which of a protocol's rules they are drawn; auto where it is none of them.
        draws: of the evaluation.
        default_method: what is usual for this kind of data.
        regularisations: that the linear probe chooses from.
        unit_length: whether it divides features by their lengths instead of standardising them.
    """

    unit: str
    dataset: Any
    y: np.ndarray
    names: list[str]
    splits: list[Draw]
    rule: str
    split: SplitRule = "auto"
    draws: list[Draw] = field(default_factory=list)
    default_method: Method = "linear"
    regularisations: tuple[float, ...] = REGULARISATIONS
    unit_length: bool = False

    def with_draws(self, protocol: Protocol) -> Task:
        """The same items, with the draws of a protocol."""
        return replace(self, draws=draws(self.splits, self.y, protocol))

    @property
    def kind(self) -> Kind:
        """Classes, labels or values."""
        return kind_of(self.y)

    def forward(
        self, model: nn.Module, index: np.ndarray, transform: Callable[..., Any] | None = None
    ) -> Tensor:
        """What a model of raw inputs says of some items, on the model's device.

        Args:
            model: maps a batch of raw inputs to a row each; for nodes, the whole graph to a row a node.
            index: the items.
            transform: applied to the raw inputs and the items' indices first, as an augmentation is.
        """
        device, place = next(model.parameters()).device, torch.from_numpy(index)
        if isinstance(self.dataset, NodeDataset):
            inputs = self.dataset.graph
        else:
            inputs, _, place = self.dataset.__getitems__(index.tolist())
        inputs, place = inputs.to(device), place.to(device)
        outputs = model(inputs if transform is None else transform(inputs, place))
        return outputs[place] if isinstance(self.dataset, NodeDataset) else outputs


def read_task(
    encoder: FrozenEncoder, protocol: Protocol, *, cache_dir: str | None = None, **options: Any
) -> Task:
    """Read what a protocol is about, as an encoder takes it.

    Args:
        encoder: says whether the items are images, graphs, nodes or molecules, and of what size.
        protocol: says the source and the draws.
        cache_dir: of molecules' features; None is the one that pretraining had.
        options: of reading images, such as ``download`` and ``skip_corrupt``; other items have none.

    Raises:
        ContrastiveError: nothing there, no targets, or too few labels for the draws.
    """
    unit = unit_of(encoder, protocol.data)
    if protocol.targets and unit in ("graphs", "nodes"):
        raise ContrastiveError(f"{protocol.data} has no columns; targets need a .csv of images or molecules")
    if unit == "images":
        task = _image_task(encoder, protocol, **options)
    elif unit == "nodes":
        task = _node_task(encoder, protocol)
    elif unit == "molecules":
        task = _molecule_task(encoder, protocol, cache_dir)
    else:
        task = _graph_task(encoder, protocol)
    if protocol.split not in ("auto", task.split):
        raise ContrastiveError(f"--split {protocol.split} is not for {protocol.data}, which has {task.rule}")
    _check_targets(task, protocol.data)
    _check_splits(task, protocol.data)
    task = task.with_draws(protocol)
    if len(task.draws) == 1 < (protocol.repeats or 1):
        log.warning("--repeats changes nothing: all labels are used, of one split (%s)", task.rule)
    return task


def _check_targets(task: Task, source: str) -> None:
    """Nothing can be learnt from targets that are the same for every item."""
    y = task.y[task.y >= 0] if task.kind == "classes" else task.y
    columns = y.reshape(len(y), -1).T
    distinct = [np.unique(column[~np.isnan(column)]) for column in columns.astype(float)]
    if any(len(values) > 1 for values in distinct):
        if task.kind == "values":
            _warn_of_classes(task, source, distinct)
        return
    if task.kind == "classes":
        raise ContrastiveError(f"{source} has one class only ({task.names[y[0]]}); a probe needs two or more")
    values = ", ".join(f"{value:g}" for column in distinct for value in column) or "blank"
    names = ", ".join(task.names)
    raise ContrastiveError(f"{names} of {source} is {values} throughout; a probe needs two values or more")


def _warn_of_classes(task: Task, source: str, distinct: Sequence[np.ndarray]) -> None:
    """Say of what may be classes, two values or a few whole numbers, that it is taken for a quantity."""
    for name, values in zip(task.names, distinct):
        few = 2 <= len(values) <= 10 and bool((values == np.round(values)).all())
        if few or len(values) == 2:
            *most, last = (f"{value:g}" for value in values)
            log.warning(
                "%s of %s is %s or %s, and is judged as a quantity; for classes write columns of 0 and 1, "
                "one a class, and probe them without the quantities",
                name, source, ", ".join(most), last,
            )  # fmt: skip


def _check_splits(task: Task, source: str) -> None:
    """Say before fitting that a part is empty, or has too few values for a metric to be defined."""
    for split in task.splits:
        for part, items in zip(("training", "validation", "test"), split):
            if not len(items):
                raise ContrastiveError(
                    f"{source}: no labelled {task.unit} are for {part} ({task.rule}); split otherwise, or "
                    "give more"
                )
    if task.kind == "classes":
        return
    _warn_of_unlearnt(task, source)
    for split in task.splits:
        test = task.y[split.test]
        known = [column[~np.isnan(column)] for column in test.T]
        if not any(len(np.unique(k) if task.kind == "labels" else k) > 1 for k in known):
            raise ContrastiveError(
                f"no target has two values among the {len(test)} test {task.unit} ({task.rule}); split "
                "otherwise, or give more items"
            )


def _warn_of_unlearnt(task: Task, source: str) -> None:
    """Name the targets that the training part does not tell of, which count in the means all the same."""
    needed, found = (2, "not both values") if task.kind == "labels" else (1, "no value")
    for name, column in zip(task.names, task.y.T):
        parts = [column[split.fit] for split in task.splits]
        if any(len(np.unique(part[~np.isnan(part)])) < needed for part in parts):
            log.warning(
                "%s of %s has %s among the training %s (%s): nothing is learnt of it, but it counts in the "
                "mean; leave it out of the targets",
                name, source, found, task.unit, task.rule,
            )  # fmt: skip


def _image_task(encoder: FrozenEncoder, protocol: Protocol, **options: Any) -> Task:
    train, test = labelled_splits(encoder, protocol.data, protocol.targets, **options)
    assert train.labels is not None and test.labels is not None
    y = torch.cat([train.labels, test.labels]).numpy()
    fit, val = set_aside(np.arange(len(train)), y[: len(train)], protocol.val_fraction, protocol.seed)
    split = Draw(fit, val, np.arange(len(train), len(y)))
    rule = f"training and test split; {protocol.val_fraction:.0%} of training to choose by"
    if train.num_skipped or test.num_skipped:
        rule += f"; {train.num_skipped} training and {test.num_skipped} test images do not decode: left out"
    return Task("images", joined(train, test), y, train.classes, [split], rule)


def labelled_splits(
    encoder: FrozenEncoder, source: str, targets: Sequence[str] = (), **options: Any
) -> tuple[ImageDataset, ImageDataset]:
    """Read the labelled training and test split, at the size and with the channels the run was trained on.

    Raises:
        ContrastiveError: no labels, or fewer than two classes.
    """
    parts = []
    for split in SPLITS:
        parts.append(read_items(encoder, source, split, targets=targets, **options).labelled())
        if parts[-1].labels is None or not len(parts[-1]):
            where = " in its test split" if split == "test" else ""
            raise ContrastiveError(
                f"{source} has no labels{where}: a probe needs a folder a class, or a column or array of "
                "labels"
            )
    train, test = parts
    if train.labels.ndim == 1 and len(train.labels.unique()) < 2:
        only = train.classes[train.labels[0]]
        raise ContrastiveError(f"{source} has one class only ({only}); a probe needs two or more")
    if train.classes != test.classes:
        raise ContrastiveError(
            f"the classes of {source} differ: {train.classes} in train, {test.classes} in test"
        )
    return train, test


def _graph_task(encoder: FrozenEncoder, protocol: Protocol) -> Task:
    dataset = read_items(encoder, protocol.data)
    if dataset.labels is None or not len(known := labelled(dataset.labels)):
        raise ContrastiveError(f"{protocol.data} has no labels; a probe needs a class for each graph")
    y = dataset.labels.numpy()
    if dataset.split is not None:
        names = dataset.classes or target_names(y)
        return Task("graphs", dataset, y, names, [Draw(*dataset.split)], "the published split")
    if y.ndim == 2:
        return _drawn_task("graphs", dataset, y, dataset.classes or target_names(y), protocol)
    if np.bincount(y[known]).min() < NUM_FOLDS:
        raise ContrastiveError(f"a class has fewer graphs than the {NUM_FOLDS} folds")
    rule = f"stratified {NUM_FOLDS}-fold cross-validation, folds dealt {protocol.repeats or 1} time(s)"
    if len(known) < len(y):
        rule += f", of the {len(known)} labelled of {len(y)} graphs"
        dataset, y = dataset.subset(known), y[known]
    splits = [split for deal in range(protocol.repeats or 1) for split in folds(y, protocol, deal)]
    return Task("graphs", dataset, y, dataset.classes, splits, rule, "stratified", default_method="svm")


def target_names(y: np.ndarray) -> list[str]:
    """What targets are called whose source does not name them."""
    return [f"target {i}" for i in range(y.shape[1])]


def _node_task(encoder: FrozenEncoder, protocol: Protocol) -> Task:
    dataset = read_items(encoder, protocol.data)
    if dataset.labels is None or not len(known := labelled(dataset.labels)):
        raise ContrastiveError(f"{protocol.data} has no labels; a probe needs labelled nodes")
    y = dataset.labels.numpy()
    numbers = target_names(y) if y.ndim == 2 else [str(c) for c in range(int(y.max()) + 1)]
    names = list(dataset.classes) or numbers
    number = protocol.repeats or NUM_NODE_SPLITS
    split: SplitRule = "random" if dataset.split is None else "auto"
    if dataset.split is not None:
        parts = map(np.asarray, dataset.split)
        splits, rule = [Draw(*(part[np.isin(part, known)] for part in parts))], "the public split"
    else:
        drawn = random_splits(len(known), num_splits=number, seed=protocol.seed)
        splits = [Draw(*(known[part] for part in split)) for split in drawn]
        rule = f"{number} random splits of 10/10/80 %"
    if len(known) < len(y):
        rule += f" of the {len(known)} labelled of {len(y)} nodes"
    strengths = tuple(10.0**k for k in range(-2, 6))
    return Task("nodes", dataset, y, names, splits, rule, split, regularisations=strengths, unit_length=True)


def _molecule_task(encoder: FrozenEncoder, protocol: Protocol, cache_dir: str | None) -> Task:
    if not protocol.targets:
        raise ContrastiveError(
            f"{protocol.data} holds molecules: give --data FILE.csv, a table with labels, and --targets "
            "COLUMN,COLUMN, those of its columns that are labels"
        )
    columns: dict[str, Any] = {"targets": protocol.targets, "smiles_column": protocol.smiles_column}
    dataset = read_items(encoder, protocol.data, cache_dir=cache_dir, **columns)
    return _drawn_task("molecules", dataset, dataset.labels.numpy(), list(protocol.targets), protocol)


def _drawn_task(unit: str, dataset: Any, y: np.ndarray, names: list[str], protocol: Protocol) -> Task:
    """80/10/10: molecules by scaffold where nothing else is asked for, everything else at random."""
    molecules = isinstance(dataset, MoleculeDataset)
    how: SplitRule = protocol.split if protocol.split != "auto" else "scaffold" if molecules else "random"
    if how == "scaffold" and not molecules:
        raise ContrastiveError("a scaffold split needs molecules; give --split random")
    number = 1 if how == "scaffold" or protocol.drawn else protocol.repeats or 1
    smiles = dataset.smiles if molecules else [""] * len(y)
    labels = strata(y) if y.shape[1] == 1 and kind_of(y) == "labels" and not np.isnan(y).any() else y
    splits = [
        Draw(*split_molecules(how, smiles, labels, seed=protocol.seed + i))  # type: ignore[arg-type]
        for i in range(number)
    ]
    return Task(unit, dataset, y, names, splits, f"{how} split 80/10/10", how)
