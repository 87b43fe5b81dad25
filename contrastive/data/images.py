"""Images of any source, found or read as uint8 ``(C, H, W)``, and their batches for pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from contrastive.data.image_channels import check_shape, refuse_other_channels
from contrastive.data.image_crops import Crop, CroppedViews, EpochSampler
from contrastive.data.image_dataset import ImageDataset
from contrastive.data.image_files import open_csv, read_npz
from contrastive.data.image_huggingface import is_saved_dataset, open_huggingface
from contrastive.data.image_shard_index import is_stream, open_stream
from contrastive.data.image_sources import held_out_split, open_digits, open_folder, open_torchvision
from contrastive.data.loading import PretrainingData, Split, draw_subset
from contrastive.errors import ContrastiveError

_CACHE_BYTES = 4 * 2**30


def read_images(source: str, split: Split, *, skip_corrupt: bool = False, **options: Any) -> ImageDataset:
    """Read one split of a source of images, into memory where that takes no more than 4 GiB.

    Args:
        source: see ``open_images``, which takes the other options too.
        split: see `open_images`.
        skip_corrupt: leave out images that do not decode, and count them, instead of stopping.
        options: of ``open_images``.

    Raises:
        ContrastiveError: nothing there, or an image that does not decode.
    """
    return _held(open_images(source, split, **options), skip_corrupt)


def _held(dataset: ImageDataset, skip_corrupt: bool, on_demand: bool = False) -> ImageDataset:
    if dataset.num_bytes <= _CACHE_BYTES and not on_demand:
        return dataset.cached(skip_corrupt)
    dataset.skip_corrupt = skip_corrupt
    return dataset


def open_images(
    source: str,
    split: Split,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    targets: Sequence[str] = (),
    download: bool = False,
    unlabelled: bool = False,
) -> ImageDataset:
    """Find the images of one split of a source, with their labels, without decoding them.

    Args:
        source: one of

            - ``digits``: scikit-learn's, which ship with it;
            - a folder, of images or of a folder a class, or with ``train`` and ``test`` (or ``val``,
              ``valid``, ``validation``) folders of either; or one that Hugging Face's ``datasets`` saved;
            - a ``.npz`` file of MedMNIST's keys, ``train_images``, ``train_labels``, …;
            - a ``.csv`` file with a column ``path``, from the file's folder, and optionally ``label`` and
              ``split``;
            - tar shards, ``train-{000..146}.tar``, or a folder of litdata, ``litdata:FOLDER``, which are all
              of the training split (see ``contrastive.data.image_shard_index``);
            - ``hf:NAME``, or ``hf:NAME:CONFIGURATION``, of a data set on Hugging Face's hub;
            - a class of ``torchvision.datasets``, ``CIFAR10``, optionally with its root: ``CIFAR10:/data``.

        split: ``"train"``, ``"test"``, or ``"all"``: the whole source in its order, or where it has splits of
            its own these two. Without a test split 30 % of the labelled, stratified, are held out; which
            ones does not depend on any seed of the run.
        image_size: side in pixels; None takes the first image's shorter side.
        channels: 1 or 3; None is 1 for digits, what an .npz file has, and 3 for everything else.
        targets: columns of a .csv file to read as labels, numbers or blanks, instead of ``label``.
        download: whether torchvision or Hugging Face may download the data.
        unlabelled: add the unlabelled images of STL10 to its training split, with label -1.

    Raises:
        ContrastiveError: nothing there, or targets of another source than a .csv file.
    """
    if split not in ("train", "test", "all"):
        raise ContrastiveError(f"split is {split!r}; give train, test (or val, where there is none) or all")
    path, shape = Path(source).expanduser(), (image_size, channels or 3)
    kind = path.suffix.lower()
    if kind == ".csv":
        return open_csv(path, split, *shape, targets=targets)
    if targets:
        raise ContrastiveError(f"{source} has no columns {', '.join(targets)}; targets need a .csv file")
    if is_stream(source):
        return open_stream(source, split, *shape)
    if source == "digits":
        return held_out_split(open_digits(channels or 1), split)
    if source.startswith("hf:") or is_saved_dataset(path):
        return open_huggingface(source, split, *shape, download=download)
    if path.is_dir():
        return open_folder(path, split, *shape)
    if kind == ".npz":
        return read_npz(path, split, image_size, channels)
    return open_torchvision(source, split, *shape, download=download, unlabelled=unlabelled)


class ImageData(PretrainingData):
    """Batches of unlabelled images for pretraining, and a labelled validation split to watch it by.

    Args:
        source: ``digits``, a folder, a .csv or .npz file, a data set of torchvision (``CIFAR10``) or of
            Hugging Face (``hf:NAME``); see ``open_images``.
        image_size: side in pixels the images are read at; None takes the first image's shorter side.
        channels: 1 or 3; None is 1 for digits, what an .npz file has, and 3 for everything else.
        crop: cut a random crop for each view from the image in its own size, where it is decoded, instead of
            from ``image_size``, which remains what validation and probes read. The recipe of the views then
            takes ``scale: null``.
        batch_size: images a process takes a step. Every other image in the batch is a negative.
        train_subset: pretrain on so many images of the training split, or on this share of it, drawn with
            ``seed`` and stratified where there are labels; None takes them all.
        val_fraction: share of those images, where they have labels, kept from pretraining for the online
            evaluation.
        num_workers: processes that decode; 0 is fastest for images that fit in memory.
        download: whether torchvision or Hugging Face may download the data.
        unlabelled: pretrain on the unlabelled images of STL10 too.
        skip_corrupt: leave out files that do not decode, and count them, instead of stopping.
        seed: of the validation split and the images' order; ``pretrain`` takes it from ``seed_everything``.
    """

    def __init__(
        self,
        source: str,
        *,
        image_size: int | None = None,
        channels: int | None = None,
        crop: Crop | None = None,
        batch_size: int = 256,
        train_subset: int | float | None = None,
        val_fraction: float = 0.1,
        num_workers: int = 0,
        download: bool = False,
        unlabelled: bool = False,
        skip_corrupt: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            source, batch_size=batch_size, val_fraction=val_fraction, num_workers=num_workers, seed=seed
        )
        check_shape(image_size, channels)
        if train_subset is not None and train_subset <= 0:
            raise ValueError(f"train_subset is {train_subset}; give a number of images, a share, or null")
        self.skip_corrupt, self.train_subset, self.crop = skip_corrupt, train_subset, crop
        self._options: dict[str, Any] = dict(
            image_size=image_size, channels=channels, download=download, unlabelled=unlabelled
        )

    def open(self, split: Split) -> ImageDataset:
        """Find a split's images with this module's settings, decoding none."""
        images = open_images(self.source, split, **self._options)
        if split == "test" or self.train_subset is None:
            return images
        return images.subset(draw_subset(len(images), images.labels, self.train_subset, self.seed))

    def read(self, split: Split) -> ImageDataset:
        """Read a split with this module's settings, before any of it is set aside for validation.

        Raises:
            ContrastiveError: also where the model to be trained takes other channels.
        """
        images = self.open(split)
        if self.trainer:
            parts = self.trainer.lightning_module.named_children()
            refuse_other_channels(parts, images.channels, self.source)
        return _held(images, self.skip_corrupt, on_demand=self.crop is not None)

    def train_dataloader(self) -> DataLoader:
        """Full batches in an order that follows from (seed, epoch); of crops where ``crop`` says so."""
        if self.crop is None:
            return super().train_dataloader()
        return self.loader(CroppedViews(self.train, self.crop, self.seed), EpochSampler)

    def examples(self, num_images: int) -> ImageDataset:
        """A few training images, evenly spaced, so that a folder a class shows several classes."""
        images = self.open("train")
        chosen = np.linspace(0, len(images) - 1, min(num_images, len(images))).round().astype(int)
        images.skip_corrupt = self.skip_corrupt
        return images.subset(chosen)
