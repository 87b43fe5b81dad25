"""Images in tar shards (WebDataset), read one after the other: for sets too large for single files."""

from __future__ import annotations

import glob
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchvision.datasets.folder import IMG_EXTENSIONS

from contrastive.data.image_stream_dataset import Sample, StreamDataset, class_number
from contrastive.errors import ContrastiveError

_END = 1024  # bytes
IMAGES = {extension.removeprefix(".") for extension in IMG_EXTENSIONS}


class ShardDataset(StreamDataset):
    """One process's batches of an epoch, read from its share of the shards.

    Args:
        shards: all of them, at least one for each worker of each process.
        shuffle_buffer: samples among which a worker draws the next.
        options: of ``StreamDataset``.
    """

    def __init__(self, shards: list[str], *, shuffle_buffer: int, **options: Any) -> None:
        super().__init__(**options)
        self.shards, self.shuffle_buffer = shards, shuffle_buffer

    def samples(self, worker: int, num_workers: int) -> Iterator[dict[str, Any]]:
        """Samples of a worker's shards, again and again, each drawn at random among ``shuffle_buffer``."""
        order = list(self.shards)
        random.Random(f"{self.seed} {self.epoch}").shuffle(order)  # the same in every process
        reader = self.rank * num_workers + worker
        own = order[reader :: self.world_size * num_workers]
        return self._mixed(own, random.Random(f"{self.seed} {self.epoch} {reader}"))

    def _mixed(self, shards: list[str], rng: random.Random) -> Iterator[dict[str, Any]]:
        buffer: list[dict[str, Any]] = []
        while True:
            for sample in shard_samples(shards):
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

    def read(self, sample: dict[str, Any]) -> Sample:
        """A sample, its image not decoded; its place follows from its key."""
        return shard_sample(sample)


def sample_index(key: str) -> int:
    """The place of a sample, which its random draws follow from: 63 bits of its key's hash."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def find_shards(source: str) -> list[str]:
    """The shards that a source names.

    Raises:
        ContrastiveError: none, or a local one that is not there; or webdataset is missing.
    """
    webdataset = import_webdataset()
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


def import_webdataset() -> Any:
    """The package webdataset.

    Raises:
        ContrastiveError: it is not installed.
    """
    try:
        import webdataset
    except ImportError as error:
        raise ContrastiveError("tar shards need webdataset: pip install webdataset") from error
    return webdataset


def shard_samples(shards: list[str]) -> Iterator[dict[str, Any]]:
    """The samples of shards, one shard after the other; each a dictionary of its files' bytes."""
    for shard in shards:
        found = False
        check_end(shard)
        try:
            for sample in import_webdataset().tariterators.tarfile_samples(iter([{"url": shard}])):
                found = True
                yield sample
        except Exception as error:  # tarfile and webdataset can fail in any way on damaged bytes
            reason = error.args[0] if error.args else type(error).__name__
            raise ContrastiveError(f"{shard} cannot be read as a tar: {reason}") from error
        if not found:
            raise ContrastiveError(f"{shard} holds no sample")


def check_end(shard: str) -> None:
    """See that a tar ends as one: cut between two files it reads as a shorter one, without two empty blocks.

    Raises:
        ContrastiveError: it does not.
    """
    if not shard.endswith(".tar") or not Path(shard).is_file():
        return  # compressed, or not here
    with Path(shard).open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _END))
        if stream.read() != bytes(_END):
            raise ContrastiveError(
                f"{shard} cannot be read as a tar: it is cut short, it ends without the {_END} zeros; "
                "copy or write it again"
            )


def shard_sample(files: dict[str, Any]) -> Sample:
    """A sample by its files, its image not decoded.

    Raises:
        ContrastiveError: no image is among them, or the class is no number; the message names it.
    """
    name = f"{files['__key__']} of {files['__url__']}"
    extension = next((key for key in files if key.lower() in IMAGES), None)
    if extension is None:
        found = ", ".join(key for key in files if not key.startswith("__"))
        raise ContrastiveError(f"{name} has no image; its files are {found}")
    member = f"{files['__key__']}.{extension} of {files['__url__']}"
    label = class_number(files.get("cls", b"-1"), name)
    return Sample(files[extension], label, sample_index(files["__key__"]), member)
