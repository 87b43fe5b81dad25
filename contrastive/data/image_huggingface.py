"""Images of Hugging Face's ``datasets``: a folder that it saved, or a data set of the hub."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contrastive.data.image_dataset import ImageDataset, Item
from contrastive.data.image_sources import SPLIT_NAMES, NoSplit, all_splits, held_out_split, shorter_side
from contrastive.data.loading import Split
from contrastive.errors import ContrastiveError, reading

log = logging.getLogger("contrastive")

_WANTED = "labels are a ClassLabel, or integers or words called label"
_CLASSES = ("int", "uint", "bool", "string", "large_string")  # types of a column whose values are classes
_UNKNOWN = {None, "", -1}  # values of one that are none


def is_saved_dataset(path: Path) -> bool:
    """Whether ``save_to_disk`` of Hugging Face's ``datasets`` wrote this folder."""
    return (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file()


class _Column:
    """``column[place]`` is an image as the data set stores it, its bytes or its file.

    Hugging Face's own decoder would take formats whose decoders run programs, and fetch what lies elsewhere.
    """

    def __init__(self, dataset: Any, name: str, source: str) -> None:
        import datasets

        stored = dataset.select_columns([name]).with_format(None)
        self.dataset = stored.cast_column(name, datasets.Image(decode=False))
        self.name, self.source = name, source

    def __getitem__(self, place: int) -> bytes | Path:
        image = self.dataset[place][self.name] or {"bytes": None, "path": None}
        if image["bytes"] is not None:
            return image["bytes"]
        if image["path"] is None:
            raise ValueError("the data set has none here")
        if not Path(image["path"]).is_file():
            raise ValueError(f"there is no file {image['path']}")
        return Path(image["path"])


def open_huggingface(
    source: str, split: Split, image_size: int | None, channels: int, *, download: bool
) -> ImageDataset:
    """Open a saved folder, or ``hf:NAME`` or ``hf:NAME:CONFIGURATION`` of the hub.

    The images are the first column of type ``Image``. The labels are the first of type ``ClassLabel``, else
    integers or words called ``label``, of which each distinct one is a class. Without a test or validation
    split 30 % are held out.

    Raises:
        ContrastiveError: ``datasets`` is missing, the data set cannot be had, or has no such column or split.
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

    def read(part: Split) -> ImageDataset:
        name = next((name for name in SPLIT_NAMES[part] if name in parts), None)
        if name is None:
            wanted = " or ".join(SPLIT_NAMES[part])
            raise NoSplit(f"{source} has no split named {wanted}; its splits are {', '.join(parts)}")
        with reading(source):
            return _images(parts, name, source, image_size, channels)

    if "train" in parts and not any(name in parts for name in SPLIT_NAMES["test"]):
        return held_out_split(read("train"), split)
    return all_splits(read) if split == "all" else read(split)


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


def _images(parts: Any, part: str, source: str, image_size: int | None, channels: int) -> ImageDataset:
    import datasets

    dataset = parts[part]
    kinds = {name: type(feature) for name, feature in dataset.features.items()}
    column = next((name for name, kind in kinds.items() if kind is datasets.Image), None)
    if column is None:
        found = ", ".join(f"{name} ({kind.__name__})" for name, kind in kinds.items())
        raise ContrastiveError(f"{source} has no column of type Image; its columns are {found}")
    images = _Column(dataset, column, source)
    items = [Item(images, i) for i in range(len(dataset))]
    labels, classes = _labels(parts, part, source)
    size = image_size or shorter_side(items)
    return ImageDataset(items, labels, classes, image_size=size, channels=channels)


def _labels(parts: Any, part: str, source: str) -> tuple[Tensor | None, list[str]]:
    """A split's labels, int64 ``(N,)``, -1 where none is known, and the names of all splits' classes."""
    from datasets import ClassLabel

    dataset = parts[part].with_format(None)
    target = next((name for name, kind in dataset.features.items() if isinstance(kind, ClassLabel)), "label")
    feature = dataset.features.get(target)
    if isinstance(feature, ClassLabel):
        values, names = list(range(feature.num_classes)), list(feature.names)
    elif getattr(feature, "dtype", "").startswith(_CLASSES):
        alike = [other for other in parts.values() if other.features.get(target) == feature]
        values = sorted({value for other in alike for value in other.unique(target)} - _UNKNOWN)
        names = [str(value) for value in values]
    else:
        if len(dataset.features) > 1:
            found = ", ".join(dataset.features)
            log.warning("%s is read without labels: its columns are %s; %s", source, found, _WANTED)
        return None, []
    number = {value: i for i, value in enumerate(values)} | dict.fromkeys(_UNKNOWN, -1)
    given = dataset[target][:]
    for row, value in enumerate(given):
        if value not in number:
            raise ContrastiveError(f"{source}: {target} of row {row} is {value}, of {len(names)} classes")
    return torch.tensor([number[value] for value in given], dtype=torch.int64), names
