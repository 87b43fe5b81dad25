"""Images of Hugging Face's ``datasets``: a folder that it saved, or a data set of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contrastive.data.image_dataset import ImageDataset, Item
from contrastive.data.image_sources import SPLIT_NAMES, all_splits, held_out_split
from contrastive.data.loading import Split
from contrastive.errors import ContrastiveError, reading


def is_saved_dataset(path: Path) -> bool:
    """Whether ``save_to_disk`` of Hugging Face's ``datasets`` wrote this folder."""
    return (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file()


class _Column:
    """The images of a data set's image column, as PIL images."""

    def __init__(self, dataset: Any, name: str, source: str) -> None:
        self.dataset, self.name, self.source = dataset.select_columns([name]), name, source

    def __getitem__(self, place: int) -> Any:
        return self.dataset[place][self.name]


def open_huggingface(
    source: str, split: Split, image_size: int | None, channels: int, *, download: bool
) -> ImageDataset:
    """Open a saved folder, or ``hf:NAME`` or ``hf:NAME:CONFIGURATION`` of the hub.

    The images are the first column of type ``Image``, the labels the first of type ``ClassLabel``. Without a
    test or validation split 30 % are held out.

    Raises:
        ContrastiveError: ``datasets`` is missing, the data set cannot be had, or has no such column.
    """
    try:
        import datasets
    except ImportError as error:
        raise ContrastiveError(f"{source} needs Hugging Face's datasets: pip install datasets") from error
    try:
        loaded = _load(source, download)
        _check(loaded)
    except Exception as error:  # the hub, the network and the cache fail in many ways
        hint = "" if download or not source.startswith("hf:") else " (pass download=true to download it)"
        raise ContrastiveError(f"{source} cannot be opened: {error}{hint}") from error
    parts = {"train": loaded} if isinstance(loaded, datasets.Dataset) else loaded
    if "train" not in parts:
        raise ContrastiveError(f"{source} has no split named train; its splits are {', '.join(parts)}")
    tests = [name for name in SPLIT_NAMES["test"] if name in parts]
    pooled = not tests
    if not pooled and split == "all":
        return all_splits(
            lambda part: open_huggingface(source, part, image_size, channels, download=download)
        )
    dataset = parts["train" if pooled or split == "train" else tests[0]]
    with reading(source):
        images = _images(dataset, source, image_size, channels)
    return held_out_split(images, split) if pooled else images


def _load(source: str, download: bool) -> Any:
    import datasets

    if not source.startswith("hf:"):
        return datasets.load_from_disk(str(Path(source).expanduser()))
    _, name, *configuration = source.split(":")
    offline = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = offline or not download  # the cache alone, and no waiting for a network
    try:
        return datasets.load_dataset(name, *configuration)
    finally:
        datasets.config.HF_HUB_OFFLINE = offline


def _check(loaded: Any) -> None:
    """Check the offsets in Arrow's tables, which its native code follows without looking."""
    for dataset in loaded.values() if isinstance(loaded, dict) else (loaded,):
        dataset.data.table.validate(full=True)


def _images(dataset: Any, source: str, image_size: int | None, channels: int) -> ImageDataset:
    import datasets

    kinds = {name: type(feature) for name, feature in dataset.features.items()}
    column = next((name for name, kind in kinds.items() if kind is datasets.Image), None)
    if column is None:
        found = ", ".join(f"{name} ({kind.__name__})" for name, kind in kinds.items())
        raise ContrastiveError(f"{source} has no column of type Image; its columns are {found}")
    target = next((name for name, kind in kinds.items() if kind is datasets.ClassLabel), None)
    labels: Tensor | None = None
    if target is not None:
        known = dataset.select_columns([target]).with_format("numpy")[target][:]
        labels = torch.as_tensor(known).to(torch.int64)
    images = _Column(dataset, column, source)
    return ImageDataset(
        [Item(images, i) for i in range(len(dataset))],
        labels,
        dataset.features[target].names if target else [],
        image_size=image_size or min(images[0].size),
        channels=channels,
    )
