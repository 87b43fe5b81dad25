"""What every data module for pretraining shares: the validation split, and full batches in a fixed order."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from pytorch_lightning import LightningDataModule
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import DataLoader

from contrastive.data.epochs import EpochLoader, EpochOrder
from contrastive.errors import ContrastiveError

Split = Literal["train", "test", "all"]
MAX_CLASSES = 2**20  # larger numbers are no classes and stand for something else


def check_loading(batch_size: int, num_workers: int) -> None:
    """See that batches can be read so.

    Raises:
        ValueError: no sample a batch, or a negative number of processes.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give 2 samples or more")
    if num_workers < 0:
        raise ValueError(f"num_workers is {num_workers}; give 0 to read in the training process itself")


class PretrainingData(LightningDataModule):
    """Batches of unlabelled samples, and a validation split to watch pretraining by.

    A source gives ``read(split)``: a data set that yields a ``Batch`` for a list of indices
    (``__getitems__``), and has ``labels`` (``(N,)`` int64 or None) and ``subset(indices)``.

    Args:
        source: where the data is; for messages.
        batch_size: samples a process takes a step. Every other sample in the batch is a negative.
        val_fraction: share of a labelled training split kept from pretraining, for the online evaluation.
        num_workers: processes that read.
        seed: of the validation split and of the order of the samples.

    Attributes:
        train: the data set that is pretrained on, after ``setup``.
        val: the one set aside, or None where ``val_fraction`` is 0 or nothing is held out (`hold_out`).
    """

    def __init__(
        self, source: str, *, batch_size: int, val_fraction: float, num_workers: int, seed: int
    ) -> None:
        super().__init__()
        check_loading(batch_size, num_workers)
        if not 0 <= val_fraction < 1:
            raise ValueError(
                f"val_fraction is {val_fraction}; give a share below 1, or 0 to set nothing aside"
            )
        self.source, self.batch_size, self.num_workers, self.seed = source, batch_size, num_workers, seed
        self.val_fraction = val_fraction
        self.train: Any = None
        self.val: Any = None

    def read(self, split: Split) -> Any:
        """Read a split, before any of it is set aside for validation."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Read the training split and set ``val_fraction`` of it aside, where there are labels (`hold_out`).

        Raises:
            ContrastiveError: fewer samples than one batch.
        """
        if self.train is not None:
            return
        pool = self.read("train")
        train = np.arange(len(pool))
        if self.val_fraction:
            train, val = hold_out(len(pool), pool.labels, self.val_fraction, self.seed)
            self.val = pool.subset(val) if len(val) else None
        world_size = self.trainer.world_size if self.trainer else 1
        if len(train) < self.batch_size * world_size:
            raise ContrastiveError(
                f"{self.source} leaves {len(train)} samples for pretraining, fewer than one batch of "
                f"{self.batch_size} on {world_size} process(es); lower data.init_args.batch_size"
            )
        self.train = pool if len(train) == len(pool) else pool.subset(train)

    def train_dataloader(self) -> DataLoader:
        """Full batches in an order that follows from (seed, epoch), each process its own share."""
        return self.loader(self.train)

    def loader(self, dataset: Any, sampler_class: type[EpochOrder] = EpochOrder) -> DataLoader:
        """Full batches of a data set that yields whole ones, in the order of a sampler."""
        assert dataset is not None and self.trainer is not None
        sampler = sampler_class(
            dataset,
            num_replicas=self.trainer.world_size,
            rank=self.trainer.global_rank,
            seed=self.seed,
            drop_last=True,
        )
        return EpochLoader(
            dataset,
            self.trainer,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            drop_last=True,
        )


def labelled(labels: Tensor) -> np.ndarray:
    """Which samples have a known class, of which -1 says that it is not, or a known target, not NaN alone."""
    known = labels >= 0 if labels.ndim == 1 else ~labels.isnan().all(dim=1)
    return known.nonzero()[:, 0].numpy()


def hold_out(num_items: int, labels: Tensor | None, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold a share of the labelled of ``0 … num_items-1`` out; those without a label are all kept.

    Nothing is held out that could not be evaluated: without labels, or where all are of one class.

    Args:
        num_items: how many.
        labels: ``(N,)`` int64 classes, ``(N, T)`` float targets, or None.
        share: of the labelled.
        seed: of the draw.

    Returns:
        What is kept and what is held out, both sorted.
    """
    known = np.empty(0, dtype=np.int64) if labels is None else labelled(labels)
    if labels is None or len(known) < 2 or (labels.ndim == 1 and len(labels[known].unique()) < 2):
        return np.arange(num_items), np.empty(0, dtype=np.int64)
    held = known[split_indices(len(known), labels[known], share, seed)[1]]
    return np.delete(np.arange(num_items), held), held


def draw_subset(num_items: int, labels: Tensor | None, size: int | float, seed: int) -> np.ndarray:
    """Draw ``size`` of ``0 … num_items-1``, a count or a share up to 1.0; stratified as ``split_indices``.

    Raises:
        ContrastiveError: more than there are, or none.
    """
    if isinstance(size, float) and size == 1:
        return np.arange(num_items)
    size = int(size) if size >= 1 else size  # a parsed YAML may give 20000.0
    if size > num_items:
        raise ContrastiveError(
            f"cannot draw {size} of {num_items} items: give train_subset fewer, or a share"
        )
    if size == num_items:
        return np.arange(num_items)
    return split_indices(num_items, labels, size, seed)[1]


def split_indices(
    num_items: int, labels: Tensor | None, held_out: int | float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split ``0 … num_items-1`` in two, both sorted; stratified where each part has room for every class.

    Args:
        num_items: how many.
        labels: ``(N,)`` int64 classes, or None; other labels do not stratify.
        held_out: share of the second part, or its number of items.
        seed: of the draw.

    Raises:
        ContrastiveError: a part would be empty.
    """
    stratify = None
    if labels is not None and labels.ndim == 1 and not labels.is_floating_point():
        _, counts = labels.unique(return_counts=True)
        size = held_out if isinstance(held_out, int) else math.ceil(held_out * num_items)
        if counts.min() >= 2 and len(counts) <= min(size, num_items - size):
            stratify = labels.numpy()
    try:
        kept, held = train_test_split(
            np.arange(num_items), test_size=held_out, stratify=stratify, random_state=seed
        )
    except ValueError as error:
        share = held_out if isinstance(held_out, int) else f"{held_out:.0%}"
        raise ContrastiveError(f"cannot draw {share} of {num_items} items: {error}") from error
    return np.sort(kept), np.sort(held)
