"""Images of tar shards and of litdata by their number: for what reads them once, or a few of them."""

from __future__ import annotations

import re
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from contrastive.data.image_dataset import ImageDataset, Item
from contrastive.data.image_litdata import litdata_sample, open_litdata
from contrastive.data.image_shards import IMAGES, check_end, find_shards, import_webdataset
from contrastive.data.image_sources import shorter_side
from contrastive.data.image_stream_dataset import Sample, class_number
from contrastive.data.loading import Split
from contrastive.errors import ContrastiveError, reading
from contrastive.report import track

LITDATA = "litdata:"
_METADATA = re.compile("__[^/]*__(/|$)")  # webdataset's own files in a shard


def is_stream(source: str) -> bool:
    """Whether a source is one that ``ImageStream`` reads: tar shards, or a folder of litdata."""
    return source.startswith(LITDATA) or source.endswith(".tar")


def open_stream(source: str, split: Split, image_size: int | None, channels: int) -> ImageDataset:
    """The images of shards, in the order of their files, or of a folder of litdata, each by its number.

    Args:
        source: as ``ImageStream`` takes it; shards must lie on a disk and be uncompressed.
        split: ``"train"``, which is all of them.
        image_size: side in pixels; None takes the first image's shorter side.
        channels: 1 or 3.

    Raises:
        ContrastiveError: the test split was asked for; a shard that is damaged, compressed or not on a disk;
            or an item of litdata that is no image.
    """
    if split == "test":
        raise ContrastiveError(
            f"{source} has no test split: give the shards, or the folder, of the test images"
        )
    if source.startswith(LITDATA):
        images: Any = _Litdata(source.removeprefix(LITDATA))
        labels, names = images.labels(), None
    else:
        places = [place for shard in find_shards(source) for place in _places(shard)]
        images = _Members(places)
        labels = [place.label for place in places]
        names = [Path(place.shard) / place.name for place in places]
    known = torch.tensor(labels)
    items = [Item(images, i) for i in range(len(labels))]

    return ImageDataset(
        items,
        known if bool((known >= 0).any()) else None,
        [str(i) for i in range(int(known.max()) + 1)],
        image_size=image_size or shorter_side(items),
        channels=channels,
        paths=names,
    )


class _Place(NamedTuple):
    """Where an image lies in a shard, in bytes, and its class or -1."""

    shard: str
    name: str
    offset: int
    size: int
    label: int


def _places(shard: str) -> list[_Place]:
    """The images of a shard, by the heads of its files; what is read of these are the classes.

    As of a stream a sample has one image, its first, and what webdataset passes over is none.
    """
    if not Path(shard).is_file():
        raise ContrastiveError(f"{shard} is not on a disk here; copy it, or pretrain on it by ImageStream")
    check_end(shard)
    split_name = import_webdataset().tariterators.base_plus_ext
    found: list[tuple[str, _Place]] = []
    classes: dict[str, int] = {}
    with reading(shard), tarfile.open(shard, "r:") as tar:
        for member in filter(tarfile.TarInfo.isfile, tar):
            key, extension = split_name(member.name)
            if extension is None or _METADATA.match(member.name):
                continue
            if extension.lower() in IMAGES:
                if not found or found[-1][0] != key:
                    found.append((key, _Place(shard, member.name, member.offset_data, member.size, -1)))
            elif extension.lower() == "cls":
                content: Any = tar.extractfile(member)
                classes[key] = class_number(content.read(), f"{member.name} of {shard}")
    if not found:
        raise ContrastiveError(f"{shard} holds no image")
    return [place._replace(label=classes.get(key, -1)) for key, place in found]


class _Members:
    """``members[place]`` are the bytes of an image in a shard."""

    def __init__(self, places: Sequence[_Place]) -> None:
        self.places = places

    def __getitem__(self, place: int) -> bytes:
        where = self.places[place]
        with open(where.shard, "rb") as stream:
            stream.seek(where.offset)
            return stream.read(where.size)

    def called(self, place: int) -> str:
        """What messages call an image: its file and its shard."""
        return f"{self.places[place].name} of {self.places[place].shard}"


class _Litdata:
    """``items[place]`` is the image of an item of litdata, which one thread at a time may ask for."""

    def __init__(self, folder: str) -> None:
        self.source, self.stream, self.lock = folder, open_litdata(folder), threading.Lock()

    def __getitem__(self, place: int) -> Any:
        image = self._sample(place).image
        return to_pil_image(image) if isinstance(image, Tensor) else image

    def called(self, place: int) -> str:
        """What messages call an image."""
        return f"item {place} of {self.source}"

    def labels(self) -> list[int]:
        """The class of each item, or -1."""
        with reading(self.source):
            return [self._sample(place).label for place in track(range(len(self.stream)), "Reading classes")]

    def _sample(self, place: int) -> Sample:
        with self.lock:
            number, item = self.stream[place]
        return litdata_sample(number, item, self.source)
