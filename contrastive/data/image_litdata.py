"""Images in a folder that ``litdata.optimize`` wrote, on disk or in a bucket, read in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from contrastive.data.image_decode import decode, to_tensor
from contrastive.data.image_stream_dataset import Sample, StreamDataset, class_number
from contrastive.errors import ContrastiveError, reading

_LABELS = ("label", "class", "cls")


class LitdataDataset(StreamDataset):
    """One process's batches of an epoch, read by ``litdata.StreamingDataset`` from its share of the chunks.

    An item is a dictionary with ``image`` and, where it is known, ``label``, ``class`` or ``cls``; or a tuple
    (image, label); or an image alone: encoded bytes, a PIL image, or a uint8 tensor ``(C, H, W)``. Its place
    is its number in the folder. litdata shuffles chunks, and items inside them, by (seed, epoch).

    Args:
        source: the folder, or an address that litdata reads, ``s3://…``.
        options: of ``StreamDataset``.
    """

    def __init__(self, source: str, **options: Any) -> None:
        super().__init__(**options)
        self.source = source

    def samples(self, worker: int, num_workers: int) -> Iterator[tuple[int, Any]]:
        """Numbers and items of a worker's share, again and again."""
        # opened here, where torch tells litdata which worker it is; a worker does not see the process's rank
        stream = open_litdata(
            self.source, world_size=self.world_size, rank=self.rank, shuffle=True, seed=self.seed
        )
        while True:
            stream.set_epoch(self.epoch + 1)  # litdata counts from 1, and on at the end of a pass
            found = False
            with reading(self.source):
                for numbered in stream:
                    found = True
                    yield numbered
            if not found:
                raise ContrastiveError(
                    f"{self.source} has no item for worker {worker} of process {self.rank}; "
                    "lower data.init_args.num_workers"
                )

    def read(self, sample: tuple[int, Any]) -> Sample:
        """An item, decoded."""
        number, item = sample
        name = f"item {number} of {self.source}"
        image, label = image_and_label(item, name)
        return Sample(_decoded(image, self.channels, name), label, number)


def open_litdata(source: str, *, world_size: int = 1, rank: int = 0, **options: Any) -> Any:
    """A ``StreamingDataset`` of (number, item) and a process's share; nothing in it is unpickled.

    Raises:
        ContrastiveError: litdata is missing, or there is no such folder.
    """
    try:
        from litdata import StreamingDataset
    except ImportError as error:
        raise ContrastiveError("litdata: sources need litdata: pip install litdata") from error

    class Numbered(StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[int, Any]:
            return getattr(index, "index", index), super().__getitem__(index)

    try:
        stream = Numbered(source, serializers={name: _Refused() for name in ("pickle", "graph")}, **options)
        environment = stream.distributed_env
        stream.distributed_env = type(environment)(world_size, rank, environment.num_nodes)
        len(stream)
    except Exception as error:  # litdata can fail in any way on a damaged index
        raise ContrastiveError(
            f"{source} cannot be read as a folder that litdata.optimize wrote: {error}"
        ) from error
    return stream


class _Refused:
    """Stands where litdata has the formats that unpickle, and a pickle can run any code."""

    def setup(self, metadata: Any) -> None:
        """Nothing; part of litdata's interface."""

    def deserialize(self, data: bytes) -> Any:
        raise ContrastiveError(
            "the items hold pickled objects, which could run code; "
            "write bytes, PIL images, tensors and numbers instead"
        )


def litdata_images(source: str, num_images: int, channels: int) -> list[Tensor]:
    """The first images of a folder, uint8 ``(channels, H, W)``."""
    stream = open_litdata(source)
    with reading(source):
        items = [stream[i] for i in range(min(num_images, len(stream)))]
    names = ((f"item {number} of {source}", item) for number, item in items)
    return [_decoded(image_and_label(item, name)[0], channels, name) for name, item in names]


def image_and_label(item: Any, name: str) -> tuple[Any, int]:
    """The image of an item, as it is held, and its class or -1."""
    label: Any = -1
    if isinstance(item, dict):
        if "image" not in item:
            raise ContrastiveError(f"{name} has no image; its keys are {', '.join(map(str, item))}")
        label = next((item[key] for key in _LABELS if key in item), -1)
        item = item["image"]
    elif isinstance(item, tuple | list):
        item, label = item
    return item, class_number(label, name)


def _decoded(image: Any, channels: int, name: str) -> Tensor:
    if isinstance(image, Tensor) and image.shape[0] == channels:
        return image
    if isinstance(image, bytes | bytearray | memoryview | Image.Image):
        return decode(image, channels, name)
    try:
        return to_tensor(to_pil_image(image), channels)
    except (ValueError, TypeError) as error:
        raise ContrastiveError(f"{name} is not a readable image ({error})") from error
