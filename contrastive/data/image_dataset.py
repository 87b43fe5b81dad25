"""Images of one size as a data set that yields whole batches, held in memory or decoded when asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as TF

from contrastive.data import Batch
from contrastive.data.image_decode import decode
from contrastive.data.loading import labelled
from contrastive.errors import ContrastiveError
from contrastive.report import track

log = logging.getLogger("contrastive")

REPAIR = "repair or remove it, or pass skip_corrupt=true"  # what to do about an image that does not decode
_MAX_ASPECT = 64  # of a longer strip the middle alone is resized: a line of pixels would fill the memory


class Item(NamedTuple):
    """An image of another library's: ``images[place]`` is a PIL image, encoded bytes, or a file.

    What messages call it is ``images.called(place)``, where there is one, or its number in ``images.source``.
    """

    images: Any
    place: int

    def __str__(self) -> str:
        if hasattr(self.images, "called"):
            return self.images.called(self.place)
        return f"image {self.place} of {getattr(self.images, 'source', type(self.images).__name__)}"


class ImageDataset(Dataset):
    """Images of one size with their labels, read as a whole ``Batch`` at a time.

    Images held as one uint8 tensor make a batch one indexing operation, which needs no worker; the others are
    decoded when they are asked for.

    Args:
        images: uint8 ``(N, C, H, W)``, or where each of N images is: a file's path, or an ``Item``.
        labels: int64 ``(N,)``, -1 where it is not known; float ``(N, T)``, NaN where it is not; or None.
        classes: the names of the labels, or of the T targets.
        image_size: side in pixels to which an image is resized (shorter side) and cropped (centre).
        channels: 1 or 3; an image is converted.
        skip_corrupt: read the next image that decodes instead of one that does not, and log it, so that a
            batch keeps its size.
        paths: what images are called that are no files, or are held as a tensor.

    Attributes:
        paths: of the images' files, or within their shards; None where they have no names.
        num_skipped: images that do not decode and were left out, before any subset was taken.
    """

    num_skipped = 0

    def __init__(
        self,
        images: Tensor | Sequence[Path | Item],
        labels: Tensor | None,
        classes: Sequence[str],
        *,
        image_size: int,
        channels: int,
        skip_corrupt: bool = False,
        paths: Sequence[Path] | None = None,
    ) -> None:
        self.images, self.labels, self.classes = images, labels, list(classes)
        are_files = not isinstance(images, Tensor) and all(isinstance(image, Path) for image in images)
        self.paths: Any = images if are_files else paths
        self.image_size, self.channels, self.skip_corrupt = image_size, channels, skip_corrupt

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Batch:
        return self.__getitems__([i])

    def __getitems__(self, indices: list[int]) -> Batch:
        if isinstance(self.images, Tensor):
            index = torch.as_tensor(indices, dtype=torch.int64)
            images = self.images[index]
        else:
            places, decoded = zip(*(self.decode(i, self.image_size) for i in indices))
            index, images = torch.as_tensor(places, dtype=torch.int64), torch.stack(decoded)
        return Batch(images, None if self.labels is None else self.labels[index], index)

    def decode(self, place: int, image_size: int | None = None) -> tuple[int, Tensor]:
        """The image at ``place``, or the next one that can be read, in its own size; before it its place."""
        if isinstance(self.images, Tensor):
            return place, fit(self.images[place], image_size)
        for i in range(place, place + len(self)):
            try:
                return i % len(self), read_image(self.images[i % len(self)], image_size, self.channels)
            except ContrastiveError as error:
                if not self.skip_corrupt:
                    raise
                log.warning("skipped: %s", error)
        raise ContrastiveError(f"none of the {len(self)} images decodes")

    @property
    def num_bytes(self) -> int:
        """What the decoded images take."""
        return len(self) * self.channels * self.image_size**2

    def subset(self, indices: np.ndarray) -> ImageDataset:
        """The images at ``indices``, which are renumbered from 0."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        images = self.images[index] if isinstance(self.images, Tensor) else [self.images[i] for i in index]
        labels = None if self.labels is None else self.labels[index]
        part = ImageDataset(
            images,
            labels,
            self.classes,
            image_size=self.image_size,
            channels=self.channels,
            skip_corrupt=self.skip_corrupt,
            paths=None if self.paths is None else [self.paths[i] for i in index],
        )
        part.num_skipped = self.num_skipped
        return part

    def labelled(self) -> ImageDataset:
        """The images of which a label is known; all of them where the data set has no labels at all."""
        if self.labels is None:
            return self
        known = labelled(self.labels)
        return self if len(known) == len(self) else self.subset(known)

    def cached(self, skip_corrupt: bool = False) -> ImageDataset:
        """Decode every image once, in threads, into one uint8 tensor.

        Raises:
            ContrastiveError: an image that does not decode, unless ``skip_corrupt``; then it is left out and
                the log says how many were.
        """
        if isinstance(self.images, Tensor):
            return self
        shape: dict[str, Any] = {"image_size": self.image_size, "channels": self.channels}
        images = torch.empty(len(self), self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        kept = self._decode(images.__setitem__, skip_corrupt)
        held = ImageDataset(images, self.labels, self.classes, **shape, paths=self.paths)
        held.num_skipped = len(self) - len(kept)
        return held.subset(kept) if held.num_skipped else held

    def readable(self) -> ImageDataset:
        """The images that decode, for which each is decoded once and not kept; the log counts the others.

        Raises:
            ContrastiveError: none decodes.
        """
        if isinstance(self.images, Tensor):
            return self
        kept = self.subset(self._decode(lambda place, image: None, skip_corrupt=True))
        kept.skip_corrupt, kept.num_skipped = False, len(self) - len(kept)
        return kept

    def _decode(self, use: Callable[[int, Tensor], object], skip_corrupt: bool) -> np.ndarray:
        """Decode all in threads, each for ``use(place, image)``; returns the places of those that decode."""
        items: Any = self.images

        def read(place: int) -> ContrastiveError | None:
            try:
                use(place, read_image(items[place], self.image_size, self.channels))
                return None
            except ContrastiveError as error:
                return error

        errors = {}
        starts = range(0, len(self), 1024)  # a part at a time: futures of a million images are a gigabyte
        with ThreadPoolExecutor() as pool:
            parts = (pool.map(read, range(len(self))[start : start + 1024]) for start in starts)
            for place, error in enumerate(track(chain.from_iterable(parts), "Decoding", len(self))):
                if error and not skip_corrupt:
                    pool.shutdown(cancel_futures=True)
                    raise error
                if error:
                    errors[place] = error
                    log.warning("skipped: %s", error)
        if len(errors) == len(self):
            raise ContrastiveError(f"none of the {len(self)} images decodes; the first: {errors[0]}")
        if errors:
            log.warning("skipped %d of %d images that do not decode", len(errors), len(self))
        return np.delete(np.arange(len(self)), [*errors])


def joined(train: ImageDataset, test: ImageDataset) -> ImageDataset:
    """Two splits of one source, of the same size and channels, as one data set, the training images first.

    Classes are those of both; an image of a split without labels has the label -1. Targets of other names
    than the other split's are left out.
    """
    classes = max(train.classes, test.classes, key=len)
    if not {*train.classes, *test.classes} <= {*classes}:
        classes = sorted({*train.classes, *test.classes})
    if isinstance(train.images, Tensor) and isinstance(test.images, Tensor):
        images: Any = torch.cat([train.images, test.images])
    else:
        images = [*train.images, *test.images]
    labels = _joined_labels((train, test), classes)
    paths = None
    if train.paths is not None and test.paths is not None:
        paths = [*train.paths, *test.paths]
    shape: dict[str, Any] = {"image_size": train.image_size, "channels": train.channels}
    return ImageDataset(images, labels, classes, **shape, skip_corrupt=train.skip_corrupt, paths=paths)


def _joined_labels(parts: Sequence[ImageDataset], classes: list[str]) -> Tensor | None:
    """The labels of splits by the classes of all."""
    known = [part.labels for part in parts if part.labels is not None]
    if any(labels.ndim == 2 for labels in known):
        same = len(known) == len(parts) and all(part.classes == classes for part in parts)
        return torch.cat(known) if same else None
    return torch.cat([_renumbered(part, classes) for part in parts]) if known else None


def _renumbered(part: ImageDataset, classes: list[str]) -> Tensor:
    """Numbers of classes as those of ``classes``; -1 is not known."""
    if part.labels is None:
        return torch.full((len(part),), -1)
    number = torch.tensor([*(classes.index(name) for name in part.classes), -1])  # -1 stays -1
    return number[part.labels]


def read_image(item: Path | Item, image_size: int | None, channels: int) -> Tensor:
    """Decode an image to uint8 ``(channels, image_size, image_size)``, or with None in its own size.

    Raises:
        ContrastiveError: the file is missing, truncated or not an image; the message names it.
    """
    try:
        if isinstance(item, Item):
            return fit(decode(_picture(item), channels, item), image_size)
        return fit(decode(item, channels, item), image_size)
    except ContrastiveError as error:
        raise ContrastiveError(f"{error}; {REPAIR}") from error


def _picture(item: Item) -> Image.Image | bytes | Path:
    try:
        return item.images[item.place]
    except Exception as error:  # another library's decoder can fail in any way
        raise ContrastiveError(f"{item} is not a readable image ({error})") from error


def fit(image: Tensor, size: int | None) -> Tensor:
    """Resize the shorter side to ``size`` and crop the centre; an image of that size stays as it is.

    Args:
        image: uint8 ``(C, H, W)`` or ``(N, C, H, W)``.
        size: the side in pixels; None keeps the image as it is.
    """
    if size is None or image.shape[-2:] == (size, size):
        return image
    height, width = image.shape[-2:]
    longest = _MAX_ASPECT * min(height, width)
    if max(height, width) > longest:
        image = TF.center_crop(image, [min(height, longest), min(width, longest)])
    return TF.center_crop(TF.resize(image, [size], antialias=True), [size, size])
