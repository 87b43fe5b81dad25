"""The batches of images that are read one after the other, whatever they are read from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from contrastive.data import Batch
from contrastive.data.image_crops import Crop
from contrastive.data.image_dataset import fit
from contrastive.data.loading import MAX_CLASSES
from contrastive.errors import ContrastiveError


class Sample(NamedTuple):
    """What a stream holds: a uint8 image ``(C, H, W)`` in its own size, its class or -1, and its place."""

    image: Tensor
    label: int
    place: int


def class_number(value: Any, name: str) -> int:
    """A class as a number from 0; -1 says that it is not known.

    Raises:
        ContrastiveError: no number, or none that numbers a class; ``name`` says of what.
    """
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ContrastiveError(f"{name}: its class is no number") from error
    if not -1 <= number < MAX_CLASSES:
        raise ContrastiveError(f"{name}: its class is {number}; number classes from 0")
    return number


class StreamDataset(IterableDataset):
    """One process's batches of an epoch, each worker from a share of its own.

    A source gives ``samples`` and ``read``: encoded samples, again and again, and one of them decoded.

    Args:
        image_size: side in pixels to which an image is resized (shorter side) and cropped (centre).
        channels: 1 or 3; an image is converted.
        crop: how two views are cut from each image in its own size; None resizes the image instead.
        batch_size: images a batch.
        num_batches: of an epoch, on each process.
        seed: of the order and the crops.
        rank: of the process.
        world_size: processes.

    Attributes:
        epoch: which one is read.
        start: batches of each worker that are passed over.
    """

    epoch = 0
    start = 0
    labels = None

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        batch_size: int,
        num_batches: int,
        seed: int,
        crop: Crop | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.image_size, self.channels, self.crop = image_size, channels, crop
        self.batch_size, self.num_batches, self.seed = batch_size, num_batches, seed
        self.rank, self.world_size = rank, world_size

    def samples(self, worker: int, num_workers: int) -> Iterator[Any]:
        """The samples of a worker's share, encoded, without an end."""
        raise NotImplementedError

    def read(self, sample: Any) -> Sample:
        """A sample, decoded."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        samples = self.samples(worker, num_workers)
        deque(islice(samples, self.start * self.batch_size), maxlen=0)  # read, but not decoded
        for _ in range(worker + self.start * num_workers, self.num_batches, num_workers):
            yield self._batch(islice(samples, self.batch_size))

    def _batch(self, samples: Iterator[Any]) -> Batch:
        inputs, labels, index = zip(*(self._fitted(self.read(sample)) for sample in samples))
        known = None if all(label < 0 for label in labels) else torch.tensor(labels)
        if self.crop is None:
            return Batch(torch.stack(inputs), known, torch.tensor(index))
        return Batch(tuple(torch.stack(view) for view in zip(*inputs)), known, torch.tensor(index))

    def _fitted(self, sample: Sample) -> tuple[Any, int, int]:
        """An image of ``image_size`` or its two crops, so that no more than one is held in its own size."""
        image, label, place = sample
        if self.crop is None:
            return fit(image, self.image_size), label, place
        return self.crop.views(image, place, seed=self.seed, epoch=self.epoch), label, place
