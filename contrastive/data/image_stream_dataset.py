"""The batches of images that are read one after the other, whatever they are read from."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from torchvision.transforms.v2.functional import to_pil_image

from contrastive.data import Batch
from contrastive.data.image_crops import Crop
from contrastive.data.image_dataset import REPAIR, fit
from contrastive.data.image_decode import decode, to_tensor
from contrastive.data.loading import MAX_CLASSES
from contrastive.errors import ContrastiveError

log = logging.getLogger("contrastive")

_Row = tuple[Any, int, int]  # an image or its two crops, its label and its place


class Sample(NamedTuple):
    """What a stream holds: an image, encoded or as an array, its class or -1, its place and its name."""

    image: Any
    label: int
    place: int
    name: str

    def decoded(self, channels: int) -> Tensor:
        """The image in its own size, uint8 ``(channels, H, W)``.

        Raises:
            ContrastiveError: it does not decode; the message names it.
        """
        try:
            if isinstance(self.image, Tensor) and self.image.shape[0] == channels:
                return self.image
            if isinstance(self.image, bytes | bytearray | memoryview | Image.Image):
                return decode(self.image, channels, self.name)
            return to_tensor(to_pil_image(self.image), channels)
        except ContrastiveError as error:
            raise ContrastiveError(f"{error}; {REPAIR}") from error
        except (ValueError, TypeError) as error:
            raise ContrastiveError(f"{self.name} is not a readable image ({error}); {REPAIR}") from error


def decoded(sample: Sample, channels: int, corrupt: set[str] | None) -> Tensor | None:
    """A sample's image, uint8 ``(channels, H, W)``; None if it does not decode, with why in ``corrupt``.

    Raises:
        ContrastiveError: it does not decode, and ``corrupt`` is None.
    """
    try:
        return sample.decoded(channels)
    except ContrastiveError as error:
        if corrupt is None:
            raise
        if str(error) not in corrupt:
            log.warning("skipped: %s", error)
        corrupt.add(str(error))
        return None


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

    A source gives ``samples`` and ``read``: samples as they are stored, again and again, and one as `Sample`.

    Args:
        image_size: side in pixels to which an image is resized (shorter side) and cropped (centre).
        channels: 1 or 3; an image is converted.
        crop: how two views are cut from each image in its own size; None resizes the image instead.
        skip_corrupt: for an image that does not decode take one of the next batch's that does, log it, and
            at the epoch's end how many there were.
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
        skip_corrupt: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.image_size, self.channels, self.crop = image_size, channels, crop
        self.skip_corrupt = skip_corrupt
        self.batch_size, self.num_batches, self.seed = batch_size, num_batches, seed
        self.rank, self.world_size = rank, world_size

    def samples(self, worker: int, num_workers: int) -> Iterator[Any]:
        """The samples of a worker's share, as they are stored, without an end."""
        raise NotImplementedError

    def read(self, sample: Any) -> Sample:
        """A sample, its image not decoded."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        samples = self.samples(worker, num_workers)
        deque(islice(samples, self.start * self.batch_size), maxlen=0)  # read, but not decoded
        ahead: list[Any] = []
        corrupt: set[str] = set()
        steps = range(worker + self.start * num_workers, self.num_batches, num_workers)
        for step in steps:
            batch = self._batch(samples, ahead, corrupt)
            if corrupt and step == steps[-1]:
                where = f"worker {worker} of process {self.rank}"
                log.warning(
                    "skipped %d images that do not decode in epoch %d, %s", len(corrupt), self.epoch, where
                )
            yield batch

    def _batch(self, samples: Iterator[Any], ahead: list[Any], corrupt: set[str]) -> Batch:
        """The next samples as a batch.

        What stands in for a corrupt image stays in the next batch too: a batch begins where it would without
        corrupt ones, so that a resumed run can pass over batches without decoding them.

        Args:
            samples: all that are not read yet.
            ahead: samples that are read, and in no batch as their own yet.
            corrupt: messages of images that do not decode; those met here are added.
        """
        rows: list[_Row] = []
        read = 0
        while len(rows) < self.batch_size:
            if read == len(ahead):
                ahead.append(next(samples))
            row = self._row(ahead[read], corrupt)
            read += 1
            if row is not None:
                rows.append(row)
            elif not rows and read > 2 * len(corrupt):  # more than end one pass and begin the next
                raise ContrastiveError(f"none of {len(corrupt)} images decodes; the first: {min(corrupt)}")
        del ahead[: self.batch_size]
        return self._stacked(rows)

    def _row(self, stored: Any, corrupt: set[str]) -> _Row | None:
        """An image of ``image_size`` or its two crops, its label and place; None where it does not decode."""
        sample = self.read(stored)
        image = decoded(sample, self.channels, corrupt if self.skip_corrupt else None)
        if image is None:
            return None
        # cut or resized here, so that no more than one is held in its own size
        if self.crop is None:
            return fit(image, self.image_size), sample.label, sample.place
        views = self.crop.views(image, sample.place, seed=self.seed, epoch=self.epoch)
        return views, sample.label, sample.place

    def _stacked(self, rows: Sequence[_Row]) -> Batch:
        inputs, labels, index = zip(*rows)
        known = None if all(label < 0 for label in labels) else torch.tensor(labels)
        if self.crop is None:
            return Batch(torch.stack(inputs), known, torch.tensor(index))
        return Batch(tuple(torch.stack(view) for view in zip(*inputs)), known, torch.tensor(index))
