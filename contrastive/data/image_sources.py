"""Where images come from: digits, a folder, a torchvision data set by name. Files are not decoded here."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from contrastive.data.image_dataset import ImageDataset, Item, joined, read_image
from contrastive.data.image_decode import image_size as size_of
from contrastive.data.loading import Split, hold_out, labelled
from contrastive.errors import ContrastiveError, reading

log = logging.getLogger("contrastive")

_UNPICKLES = ("LSUN", "LSUNClass")  # without a sum to know the file by
SPLITS: tuple[Split, Split] = ("train", "test")  # that a source may have
# what a source calls its part for a split; where it has no test part, that for validation serves
SPLIT_NAMES = {"train": ("train",), "test": ("test", "val", "valid", "validation")}
_LIKE_SPLITS = {"training", "testing", *(name for names in SPLIT_NAMES.values() for name in names)}
_HELD_OUT = 0.3  # of a source that has no test split of its own
_HELD_OUT_SEED = 0  # a constant: the test images must not change with the seed of a run


class NoSplit(ContrastiveError):
    """A source has splits, but not the one that was asked for."""


def all_splits(read: Callable[[Split], ImageDataset]) -> ImageDataset:
    """The training and the test images of a source with splits of its own, or those that there are."""
    try:
        test = read("test")
    except NoSplit:
        return read("train")
    try:
        return joined(read("train"), test)
    except NoSplit:
        return test


def held_out_split(pool: ImageDataset, split: Split) -> ImageDataset:
    """Training, test or all images of a source without splits of its own; no seed of a run moves them.

    Images without a label, and those of a source of one class, are all training images (`hold_out`).

    Raises:
        ContrastiveError: the test images where there are none.
    """
    if split == "all":
        return pool
    train, test = hold_out(len(pool), pool.labels, _HELD_OUT, _HELD_OUT_SEED)
    if split == "train":
        return pool.subset(train) if len(test) else pool
    if not len(test):
        known = pool.labels is not None and len(labelled(pool.labels))
        which = f"of one class only ({', '.join(pool.classes)})" if known else "without labels"
        raise ContrastiveError(f"images {which} have no test split: all are for training")
    return pool.subset(test)


def open_digits(channels: int) -> ImageDataset:
    """scikit-learn's 1,797 digits of 8×8 pixels, which ship with it."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(digits.target).to(torch.int64)
    classes = [str(name) for name in digits.target_names]
    return ImageDataset(
        images.expand(-1, channels, -1, -1).contiguous(), labels, classes, image_size=8, channels=channels
    )


def open_folder(folder: Path, split: Split, image_size: int | None, channels: int) -> ImageDataset:
    """A folder of images, flat or a folder a class; or with folders named as ``SPLIT_NAMES``."""
    has_splits = (folder / "train").is_dir()
    if has_splits and split == "all":
        return all_splits(lambda part: open_folder(folder, part, image_size, channels))
    pool = _open_images(_split_folder(folder, split) if has_splits else folder, image_size, channels)
    if has_splits:
        return pool
    if len(pool.classes) > 1 and {name.lower() for name in pool.classes} <= _LIKE_SPLITS:
        raise ContrastiveError(
            f"{folder} has the folders {', '.join(pool.classes)}, which would be read as classes; "
            "name those of its splits train and test"
        )
    return held_out_split(pool, split)


def _split_folder(folder: Path, split: Split) -> Path:
    for name in SPLIT_NAMES[split]:
        if (folder / name).is_dir():
            return folder / name
    raise NoSplit(f"{folder} has a train folder but none named {' or '.join(SPLIT_NAMES[split])}; add one")


def _open_images(folder: Path, image_size: int | None, channels: int) -> ImageDataset:
    paths = _image_files(folder)
    if not paths:
        raise ContrastiveError(
            f"{folder} holds no image ({', '.join(IMG_EXTENSIONS)}); "
            "give a folder of images, flat or a folder a class"
        )
    names = [path.relative_to(folder).parts[0] for path in paths]
    beside = sum(path.parent == folder for path in paths)
    if 0 < beside < len(paths):
        log.warning(
            "%s is read without classes: %d of its images, %s first, lie beside its folders, not in one",
            folder,
            beside,
            next(path.name for path in paths if path.parent == folder),
        )
    classes = [] if beside else sorted(set(names))
    number = {name: i for i, name in enumerate(classes)}
    labels = None if beside else torch.tensor([number[name] for name in names])
    size = image_size or shorter_side(paths)
    return ImageDataset(paths, labels, classes, image_size=size, channels=channels)


def _image_files(folder: Path) -> list[Path]:
    """The images in a folder and the folders in it, sorted; of what is hidden, by a dot, none."""
    try:
        return sorted(_walk(folder))
    except OSError as error:  # a folder went while it was listed, or may not be listed
        raise ContrastiveError(f"{error.filename or folder} cannot be listed: {error.strerror}") from error


def _walk(folder: Path, around: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Files with an image's suffix, through links; broken ones too, which are told of when they are read.

    Args:
        folder: where to look.
        around: the folders that it lies in; a link to one of them is passed over, for it has no end.
    """
    inside = folder.resolve()
    if inside in around:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path), around | {inside})
            elif Path(entry.name).suffix.lower() in IMG_EXTENSIONS and (
                entry.is_file() or entry.is_symlink()
            ):
                yield Path(entry.path)


def shorter_side(items: Sequence[Path | Item]) -> int:
    """The shorter side of the first image that can be opened; the corrupt ones are reported later."""
    first: ContrastiveError | None = None
    for item in items:
        try:
            return min(size_of(item) if isinstance(item, Path) else read_image(item, None, 3).shape[1:])
        except ContrastiveError as error:
            first = first or error
    raise ContrastiveError(f"none of the {len(items)} images can be opened; the first: {first}")


class _FirstOfPair:
    """The images of a torchvision data set, which yields pairs of an image and a target."""

    def __init__(self, dataset: Any, source: str) -> None:
        self.dataset, self.source = dataset, source

    def __getitem__(self, place: int) -> Image.Image:
        return self.dataset[place][0]


def open_torchvision(
    source: str,
    split: Split,
    image_size: int | None,
    channels: int,
    *,
    download: bool,
    unlabelled: bool = False,
) -> ImageDataset:
    """A class of ``torchvision.datasets`` by its name, with its root after a colon (default: ``data``).

    With ``unlabelled`` the training split of STL10 has its 100,000 unlabelled images too, with label -1.
    """
    name, _, root = source.partition(":")
    cls = _torchvision_class(name, source)
    if split == "all":
        options = {"download": download, "unlabelled": unlabelled}
        return all_splits(lambda part: open_torchvision(source, part, image_size, channels, **options))
    if unlabelled and name != "STL10":
        raise ContrastiveError(f"unlabelled=true is for STL10, which has such a split; {source} has none")
    chosen = _torchvision_split(cls, split, download=download, unlabelled=unlabelled)
    try:
        dataset = _first_split(cls, root or "data", chosen)
    except RuntimeError as error:
        raise ContrastiveError(f"{source}: {error} (pass download=true to download it)") from error
    except Exception as error:  # a data set of torchvision's can fail in any way
        raise ContrastiveError(f"{source} cannot be opened: {str(error) or type(error).__name__}") from error
    with reading(source):
        labels = _targets(dataset)
    classes = getattr(dataset, "classes", None) or sorted(set(labels.tolist()))
    images = _FirstOfPair(dataset, source)
    return ImageDataset(
        [Item(images, i) for i in range(len(dataset))],
        labels,
        [str(c) for c in classes],
        image_size=image_size or _shorter_side(images),
        channels=channels,
    )


def _torchvision_class(name: str, source: str) -> Any:
    import torchvision.datasets

    cls = getattr(torchvision.datasets, name, None)
    if not inspect.isclass(cls) or not issubclass(cls, Dataset):
        raise ContrastiveError(
            f"{source!r} is neither a folder nor a .csv, .npz or .tar file in {Path.cwd()}, nor 'digits', "
            "nor in torchvision.datasets"
        )
    if name in _UNPICKLES:
        raise ContrastiveError(f"{source}: torchvision's {name} unpickles, which can run code; give a folder")
    return cls


def _torchvision_split(cls: Any, split: Split, *, download: bool, unlabelled: bool) -> list[dict[str, Any]]:
    """The arguments by which a class of torchvision's may choose a split: they are named in several ways."""
    parameters = inspect.signature(cls).parameters
    if "train" in parameters:
        chosen: list[dict[str, Any]] = [{"train": split == "train"}]
    else:
        names = ("train+unlabeled",) if unlabelled and split == "train" else SPLIT_NAMES[split]
        chosen = [{"split": name} for name in names]
    return [part | ({"download": download} if "download" in parameters else {}) for part in chosen]


def _first_split(cls: Any, root: str, choices: list[dict[str, Any]]) -> Any:
    """The data set of the first split that its class knows; of the others it raises ValueError."""
    for chosen in choices[:-1]:
        with suppress(ValueError):
            return cls(root, **chosen)
    return cls(root, **choices[-1])


def _shorter_side(images: _FirstOfPair) -> int:
    with reading(images.source):
        return min(images[0].size)


def _targets(dataset: Any) -> Tensor:
    """The classes, from where torchvision's classes keep them; read sample by sample where they do not."""
    for name in ("targets", "labels", "_labels"):
        targets = np.asarray(getattr(dataset, name, None))
        if targets.shape == (len(dataset),):  # QMNIST's have the writer and more beside the class
            return torch.as_tensor(targets).to(torch.int64)
    return torch.tensor([dataset[i][1] for i in range(len(dataset))])
