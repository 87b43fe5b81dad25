"""An epoch's batches, from any of them on: what a resumed run reads first is what it had not read yet."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from augmentations.random import seed_of
from contrastive.signals import end_workers_at_exit, ignore_in_worker


class EpochOrder(DistributedSampler):
    """A process's share of an epoch's order, which follows from (seed, epoch).

    Attributes:
        start: samples of the share that are passed over.
    """

    start = 0

    def __iter__(self) -> Iterator[int]:
        return islice(super().__iter__(), self.start, None)


class EpochLoader(DataLoader):
    """Whole batches that begin where the trainer stands: at an epoch's first, or amid it after a resume.

    Nothing is read before the first batch is asked for. Lightning makes the iterator before it restores the
    epoch, and workers that read ahead would read another one.

    Args:
        dataset: yields whole batches.
        trainer: asked for the epoch, and for its batches that are done.
        options: of ``DataLoader``. A ``sampler`` that is an ``EpochOrder`` takes ``start``, or the data set,
            where it is iterable, takes ``epoch`` and ``start``; else what is done is read and passed over.
    """

    def __init__(self, dataset: Any, trainer: Trainer, **options: Any) -> None:
        super().__init__(
            dataset,
            collate_fn=as_is,
            worker_init_fn=ignore_in_worker,
            pin_memory=torch.cuda.is_available(),
            **options,
        )
        self._trainer = trainer
        if self.num_workers:
            end_workers_at_exit()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        done = self._trainer.fit_loop.epoch_loop.batch_progress.current.ready
        passed = self._start_at(done)
        self.generator = torch.Generator().manual_seed(self._seed_of_workers())
        yield from islice(super().__iter__(), passed, None)

    def _seed_of_workers(self) -> int:
        """Of what a data set of one's own draws in its workers, other numbers in each process.

        It holds where workers start: those that persist go on from it, and a resumed run draws others.
        """
        seed = getattr(self._trainer.lightning_module, "seed", 0)
        return seed_of(seed, self._trainer.current_epoch, self._trainer.global_rank)

    def _start_at(self, done: int) -> int:
        """Have the order begin after ``done`` batches; return how many of its first to pass over as well."""
        if isinstance(self.sampler, EpochOrder):
            self.sampler.start = done * (self.batch_size or 1)
            return 0
        if not isinstance(self.dataset, IterableDataset):
            return done  # of another order, as trainer.overfit_batches gives one
        stream: Any = self.dataset
        stream.epoch = self._trainer.current_epoch
        workers = max(1, self.num_workers)  # batch k is worker k % workers': each skips equally many
        stream.start = done // workers
        return done % workers


def as_is(batch: Any) -> Any:
    """The ``collate_fn`` of data sets that yield whole batches."""
    return batch
