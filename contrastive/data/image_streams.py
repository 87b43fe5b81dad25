"""Images in tar shards (WebDataset), read one after the other: for sets too large for single files."""

from __future__ import annotations

import glob
import hashlib
import io
import random
import tarfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchvision.datasets.folder import IMG_EXTENSIONS

from contrastive.data import Batch
from contrastive.data.image_dataset import ImageDataset, fit, to_tensor
from contrastive.data.loading import as_is
from contrastive.errors import ContrastiveError

_IMAGES = {extension.removeprefix(".") for extension in IMG_EXTENSIONS}


class ImageStream(LightningDataModule):
    """Batches of unlabelled images from tar shards in WebDataset's format (``pip install webdataset``).

    A shard holds the files of a sample one after the other, ``0001.jpg``, ``0001.cls``, …; the class, a
    number, may be missing. Each process and worker reads shards of its own, in an order that follows from
    (seed, epoch), and mixes their samples in a buffer. A worker that comes to the end of its shards begins
    again, so that all processes take equally many steps. What an image's views draw follows from its key,
    wherever it is read.

    Args:
        source: paths or URLs with braces, ``train-{000000..000146}.tar``, or a path with ``*``.
        image_size: side in pixels to which an image is resized (shorter side) and cropped (centre).
        epoch_size: images of an epoch over all processes, as many as the shards hold or fewer.
        channels: 1 or 3; an image is converted.
        batch_size: images a process takes a step. Every other image in the batch is a negative.
        shuffle_buffer: samples, at least 1, among which a worker draws the next; held as encoded files.
        num_workers: processes that read and decode, for each process that trains; each needs a shard.
        seed: of the order; taken from ``seed_everything``.
    """

    def __init__(
        self,
        source: str,
        *,
        image_size: int,
        epoch_size: int,
        channels: int = 3,
        batch_size: int = 256,
        shuffle_buffer: int = 2000,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer is {shuffle_buffer}; it is at least 1")
        self.source, self.image_size, self.channels = source, image_size, channels
        self.epoch_size, self.batch_size, self.shuffle_buffer = epoch_size, batch_size, shuffle_buffer
        self.num_workers, self.seed = num_workers, seed
        self.train: ShardDataset | None = None
        self.val = None

    def setup(self, stage: str | None = None) -> None:
        """Find the shards.

        Raises:
            ContrastiveError: a shard is not there, fewer of them than workers, or an epoch below one batch.
        """
        world_size, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        num_batches = self.epoch_size // (self.batch_size * world_size)
        if num_batches == 0:
            raise ContrastiveError(
                f"epoch_size is {self.epoch_size}, fewer than one batch of {self.batch_size} on {world_size} "
                "process(es); lower data.init_args.batch_size"
            )
        shards = find_shards(self.source)
        readers = world_size * max(1, self.num_workers)
        if len(shards) < readers:
            raise ContrastiveError(
                f"{self.source} has {len(shards)} shards for {readers} readers, which need one each; "
                "lower data.init_args.num_workers"
            )
        self.train = ShardDataset(
            shards,
            image_size=self.image_size,
            channels=self.channels,
            batch_size=self.batch_size,
            num_batches=num_batches,
            shuffle_buffer=self.shuffle_buffer,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )

    def train_dataloader(self) -> DataLoader:
        """Whole batches, as many on each process."""
        assert self.train is not None and self.trainer is not None
        trainer = self.trainer
        return _EpochLoader(
            self.train,
            lambda: trainer.current_epoch,
            batch_size=None,
            num_workers=self.num_workers,
            collate_fn=as_is,
            pin_memory=torch.cuda.is_available(),
        )

    def examples(self, num_images: int) -> ImageDataset:
        """Read the first images of the first shards."""
        samples = islice(_samples(find_shards(self.source)), num_images)
        images = torch.stack([_decode(sample, self.image_size, self.channels) for sample in samples])
        return ImageDataset(images, None, [], image_size=self.image_size, channels=self.channels)


class _EpochLoader(DataLoader):
    """Tells the data set the epoch before its workers start; Lightning tells it to samplers alone."""

    def __init__(self, dataset: ShardDataset, epoch: Callable[[], int], **options: Any) -> None:
        super().__init__(dataset, **options)
        self._epoch = epoch

    def __iter__(self) -> Any:
        self.dataset.epoch = self._epoch()  # type: ignore[attr-defined]
        return super().__iter__()


class ShardDataset(IterableDataset):
    """One process's batches of an epoch, read from its share of the shards.

    Args:
        shards: all of them, at least one for each worker of each process.
        image_size: as in ``ImageStream``.
        channels: as in ``ImageStream``.
        batch_size: images a batch.
        num_batches: of an epoch, on each process.
        shuffle_buffer: as in ``ImageStream``.
        seed: of the order.
        rank: of the process.
        world_size: processes.
    """

    epoch = 0
    labels = None

    def __init__(
        self,
        shards: list[str],
        *,
        image_size: int,
        channels: int,
        batch_size: int,
        num_batches: int,
        shuffle_buffer: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.shards, self.image_size, self.channels = shards, image_size, channels
        self.batch_size, self.num_batches, self.shuffle_buffer = batch_size, num_batches, shuffle_buffer
        self.seed, self.rank, self.world_size = seed, rank, world_size

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        order = list(self.shards)
        random.Random(f"{self.seed} {self.epoch}").shuffle(order)  # the same in every process
        reader = self.rank * num_workers + worker
        own = order[reader :: self.world_size * num_workers]
        samples = self._mixed(own, random.Random(f"{self.seed} {self.epoch} {reader}"))
        for _ in range(worker, self.num_batches, num_workers):
            yield self._batch(list(islice(samples, self.batch_size)))

    def _mixed(self, shards: list[str], rng: random.Random) -> Iterator[dict[str, Any]]:
        """Samples of the shards, again and again, each drawn at random among ``shuffle_buffer``."""
        buffer: list[dict[str, Any]] = []
        while True:
            for sample in _samples(shards):
                if len(buffer) < self.shuffle_buffer:
                    buffer.append(sample)
                    continue
                place = rng.randrange(len(buffer))
                buffer[place], sample = sample, buffer[place]
                yield sample
            # drained before the shards are read again, so that each sample comes once before any comes twice
            rng.shuffle(buffer)
            yield from buffer
            buffer.clear()

    def _batch(self, samples: list[dict[str, Any]]) -> Batch:
        images = torch.stack([_decode(sample, self.image_size, self.channels) for sample in samples])
        labels = [_label(sample) for sample in samples]
        known = None if all(label < 0 for label in labels) else torch.tensor(labels)
        return Batch(images, known, torch.tensor([sample_index(sample["__key__"]) for sample in samples]))


def sample_index(key: str) -> int:
    """The place of a sample, which its random draws follow from: 63 bits of its key's hash."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def find_shards(source: str) -> list[str]:
    """The shards that a source names.

    Raises:
        ContrastiveError: none, or a local one that is not there; or webdataset is missing.
    """
    webdataset = _webdataset()
    if "*" in source:
        shards = sorted(glob.glob(str(Path(source).expanduser())))
    else:
        shards = webdataset.shardlists.expand_urls(source)
    if not shards:
        raise ContrastiveError(f"no shard fits {source}; give paths as train-{{000000..000146}}.tar")
    for shard in shards:
        if ":" not in shard and not Path(shard).is_file():
            raise ContrastiveError(f"there is no shard {shard}, which {source} names")
    return shards


def _webdataset() -> Any:
    try:
        import webdataset
    except ImportError as error:
        raise ContrastiveError("tar shards need webdataset: pip install webdataset") from error
    return webdataset


def _samples(shards: list[str]) -> Iterator[dict[str, Any]]:
    """The samples of shards, one shard after the other; each a dictionary of its files' bytes."""
    for shard in shards:
        found = False
        try:
            for sample in _webdataset().tariterators.tarfile_samples(iter([{"url": shard}])):
                found = True
                yield sample
        except (OSError, EOFError, ValueError, tarfile.TarError) as error:
            raise ContrastiveError(f"{shard} cannot be read as a tar: {error.args[0]}") from error
        if not found:
            raise ContrastiveError(f"{shard} holds no sample")


def _decode(sample: dict[str, Any], image_size: int, channels: int) -> Tensor:
    name = f"{sample['__key__']} of {sample['__url__']}"
    content = next((value for key, value in sample.items() if key.lower() in _IMAGES), None)
    if content is None:
        found = ", ".join(key for key in sample if not key.startswith("__"))
        raise ContrastiveError(f"{name} has no image; its files are {found}")
    try:
        with Image.open(io.BytesIO(content)) as file:
            return fit(to_tensor(file, channels), image_size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ContrastiveError(f"{name} is not a readable image ({error})") from error


def _label(sample: dict[str, Any]) -> int:
    content = sample.get("cls", b"-1")
    try:
        return int(content)
    except ValueError as error:
        raise ContrastiveError(
            f"{sample['__key__']} of {sample['__url__']}: its class is no number"
        ) from error
