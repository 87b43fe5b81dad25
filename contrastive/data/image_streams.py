"""Images that are read one after the other: for sets too large for single files."""

from __future__ import annotations

import logging
from itertools import islice
from typing import Any

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import to_pil_image

from contrastive.data.epochs import EpochLoader
from contrastive.data.image_channels import check_shape, refuse_other_channels
from contrastive.data.image_crops import Crop
from contrastive.data.image_dataset import ImageDataset, Item
from contrastive.data.image_litdata import LitdataDataset, litdata_samples, open_litdata
from contrastive.data.image_shard_index import LITDATA, open_stream
from contrastive.data.image_shards import ShardDataset, find_shards, shard_sample, shard_samples
from contrastive.data.image_stream_dataset import StreamDataset, decoded
from contrastive.data.loading import Split, check_loading
from contrastive.errors import ContrastiveError

log = logging.getLogger("contrastive")


class ImageStream(LightningDataModule):
    """Batches of unlabelled images from tar shards (``pip install webdataset``) or of ``litdata``.

    A shard, in WebDataset's format, holds the files of a sample one after the other, ``0001.jpg``,
    ``0001.cls``, …; the class, a number, may be missing. A folder of litdata holds what ``litdata.optimize``
    wrote (see ``contrastive.data.image_litdata``). Each process and worker reads a share of its own, in an
    order that follows from (seed, epoch); samples of shards are mixed in a buffer. A worker that comes to the
    end of its share begins again, so that all processes take equally many steps. What an image's views draw
    follows from its key, or its number in the folder, wherever it is read.

    Args:
        source: paths or URLs with braces, ``train-{000000..000146}.tar``, or a path with ``*``; or
            ``litdata:FOLDER``, also of a bucket, ``litdata:s3://…``.
        image_size: side in pixels to which an image is resized (shorter side) and cropped (centre).
        epoch_size: images of an epoch over all processes, as many as there are or fewer; None takes what a
            folder of litdata holds.
        channels: 1 or 3; an image is converted.
        crop: cut a random crop for each view from the image in its own size, where it is decoded, instead of
            resizing it. The recipe of the views then takes ``scale: null``.
        batch_size: images a process takes a step. Every other image in the batch is a negative.
        shuffle_buffer: samples of shards, at least 1, among which a worker draws the next; held as encoded
            files.
        num_workers: processes that read and decode, for each process that trains; each needs a shard.
        skip_corrupt: for an image that does not decode take another, and count them, instead of stopping.
        seed: of the order; ``pretrain`` takes it from ``seed_everything``.
    """

    def __init__(
        self,
        source: str,
        *,
        image_size: int,
        epoch_size: int | None = None,
        channels: int = 3,
        crop: Crop | None = None,
        batch_size: int = 256,
        shuffle_buffer: int = 2000,
        num_workers: int = 0,
        skip_corrupt: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_loading(batch_size, num_workers)
        for name, value in (("shuffle_buffer", shuffle_buffer), ("epoch_size", epoch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it is at least 1")
        check_shape(image_size, channels)
        self.source, self.image_size, self.channels = source, image_size, channels
        self.crop = crop
        self.epoch_size, self.batch_size, self.shuffle_buffer = epoch_size, batch_size, shuffle_buffer
        self.num_workers, self.skip_corrupt, self.seed = num_workers, skip_corrupt, seed
        self.train: StreamDataset | None = None
        self.val = None

    def setup(self, stage: str | None = None) -> None:
        """Find the shards, or open the folder.

        Raises:
            ContrastiveError: it is not there, fewer shards than workers, an epoch below one batch, or the
                model to be trained takes other channels.
        """
        if self.trainer:
            parts = self.trainer.lightning_module.named_children()
            refuse_other_channels(parts, self.channels, self.source)
        world_size, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        options: dict[str, Any] = dict(
            image_size=self.image_size,
            channels=self.channels,
            crop=self.crop,
            skip_corrupt=self.skip_corrupt,
            batch_size=self.batch_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )
        if self._folder:
            epoch_size = self.epoch_size or len(open_litdata(self._folder))
            options["num_batches"] = self._num_batches(epoch_size, world_size)
            self.train = LitdataDataset(self._folder, **options)
            return
        if self.epoch_size is None:
            raise ContrastiveError(
                "shards do not say how many images they hold; give data.init_args.epoch_size"
            )
        options["num_batches"] = self._num_batches(self.epoch_size, world_size)
        shards = find_shards(self.source)
        readers = world_size * max(1, self.num_workers)
        if len(shards) < readers:
            raise ContrastiveError(
                f"{self.source} has {len(shards)} shards for {readers} readers, which need one each; "
                "lower data.init_args.num_workers"
            )
        self.train = ShardDataset(shards, shuffle_buffer=self.shuffle_buffer, **options)

    @property
    def _folder(self) -> str:
        """The folder of litdata that the source names; empty where it names shards."""
        return self.source.removeprefix(LITDATA) if self.source.startswith(LITDATA) else ""

    def _num_batches(self, epoch_size: int, world_size: int) -> int:
        num_batches = epoch_size // (self.batch_size * world_size)
        if num_batches == 0:
            raise ContrastiveError(
                f"epoch_size is {epoch_size}, fewer than one batch of {self.batch_size} on {world_size} "
                "process(es); lower data.init_args.batch_size"
            )
        return num_batches

    def train_dataloader(self) -> DataLoader:
        """Whole batches, as many on each process."""
        assert self.train is not None and self.trainer is not None
        return EpochLoader(self.train, self.trainer, batch_size=None, num_workers=self.num_workers)

    def read(self, split: Split) -> ImageDataset:
        """All images by their number, for what is encoded once; see ``open_stream``."""
        images = open_stream(self.source, split, self.image_size, self.channels)
        images.skip_corrupt = self.skip_corrupt
        return images

    def examples(self, num_images: int) -> ImageDataset:
        """Read the first images of the first shards or chunks."""
        if self._folder:
            samples = litdata_samples(self._folder)
        else:
            samples = map(shard_sample, shard_samples(find_shards(self.source)))
        corrupt: set[str] | None = set() if self.skip_corrupt else None
        images = (decoded(sample, self.channels, corrupt) for sample in samples)
        found = islice((image for image in images if image is not None), num_images)
        pictures = [to_pil_image(image) for image in found]
        if corrupt:
            log.warning("skipped %d images that do not decode", len(corrupt))
        if not pictures:
            raise ContrastiveError(f"none of the images of {self.source} decodes")
        items = [Item(pictures, i) for i in range(len(pictures))]
        return ImageDataset(items, None, [], image_size=self.image_size, channels=self.channels)
