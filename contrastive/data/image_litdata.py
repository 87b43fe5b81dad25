"""Images in a folder that ``litdata.optimize`` wrote, on disk or in a bucket, read in chunks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

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
        """An item, its image not decoded."""
        return litdata_sample(*sample, self.source)


def open_litdata(source: str, *, world_size: int = 1, rank: int = 0, **options: Any) -> Any:
    """A ``StreamingDataset`` of (number, item) and a process's share; nothing in it is unpickled.

    Raises:
        ContrastiveError: litdata is missing, or there is no such folder.
    """
    try:
        from litdata import StreamingDataset
    except ImportError as error:
        raise ContrastiveError("litdata: sources need litdata: pip install litdata") from error

    if "item_shuffle_window" in inspect.signature(StreamingDataset).parameters:
        # else blocks of 256 stay together: batches of the same images, and so the same negatives, every epoch
        options["item_shuffle_window"] = 0

    class Numbered(StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[int, Any]:
            return getattr(index, "index", index), super().__getitem__(index)

    try:
        serializers = dict.fromkeys(("pickle", "graph"), _Refused()) | dict.fromkeys(
            ("jpeg", "image"), _Encoded()
        )
        stream = Numbered(source, serializers=serializers, **options)
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


class _Encoded:
    """Stands where litdata would decode an image of a file: its bytes go to our decoder, as all images do."""

    def setup(self, metadata: Any) -> None:
        """Nothing; part of litdata's interface."""

    def deserialize(self, data: bytes) -> bytes:
        return bytes(data)


def litdata_samples(source: str) -> Iterator[Sample]:
    """The samples of a folder in their order."""
    stream = open_litdata(source)
    with reading(source):
        for i in range(len(stream)):
            yield litdata_sample(i, stream[i][1], source)


def litdata_sample(number: int, item: Any, source: str) -> Sample:
    """The item of a number, its image not decoded.

    Raises:
        ContrastiveError: it has no image, or its class is no number; the message names it.
    """
    name, label = f"item {number} of {source}", -1
    if isinstance(item, dict):
        if "image" not in item:
            raise ContrastiveError(f"{name} has no image; its keys are {', '.join(map(str, item))}")
        label = next((item[key] for key in _LABELS if key in item), -1)
        item = item["image"]
    elif isinstance(item, tuple | list):
        item, label = item
    return Sample(item, class_number(label, name), number, name)
