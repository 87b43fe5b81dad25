"""Images: digits, a torchvision data set by name, or a folder, read into uint8 ``(C, H, W)``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import functional as TF

from contrastive.data import Batch
from contrastive.data.loading import PretrainingData, Split, split_indices
from contrastive.errors import ContrastiveError
from contrastive.report import track

log = logging.getLogger("contrastive")

_CACHE_BYTES = 4 * 2**30
_HELD_OUT = 0.3  # of a source that has no test split of its own
_HELD_OUT_SEED = 0  # a constant: the test images must not change with the seed of a run


class ImageDataset(Dataset):
    """Images of one size with their labels, read as a whole ``Batch`` at a time.

    Decoded images that fit in memory are held as one uint8 tensor, so that a batch is one indexing operation
    and needs no worker. Larger sets are decoded when they are asked for.

    Args:
        images: uint8 ``(N, C, H, W)``, or the paths of N files.
        labels: int64 ``(N,)``, or None.
        classes: the names of the labels.
        image_size: side in pixels to which a file is resized (shorter side) and cropped (centre).
        channels: 1 or 3; a file is converted.
    """

    def __init__(
        self,
        images: Tensor | Sequence[Path],
        labels: Tensor | None,
        classes: Sequence[str],
        *,
        image_size: int,
        channels: int,
    ) -> None:
        self.images, self.labels, self.classes = images, labels, list(classes)
        self.image_size, self.channels = image_size, channels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Batch:
        return self.__getitems__([i])

    def __getitems__(self, indices: list[int]) -> Batch:
        index = torch.as_tensor(indices, dtype=torch.int64)
        if isinstance(self.images, Tensor):
            images = self.images[index]
        else:
            images = torch.stack(
                [read_image(self.images[i], self.image_size, self.channels) for i in indices]
            )
        return Batch(images, None if self.labels is None else self.labels[index], index)

    def subset(self, indices: np.ndarray) -> ImageDataset:
        """The images at ``indices``, which are renumbered from 0."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        images = self.images[index] if isinstance(self.images, Tensor) else [self.images[i] for i in index]
        labels = None if self.labels is None else self.labels[index]
        return ImageDataset(images, labels, self.classes, image_size=self.image_size, channels=self.channels)

    def cached(self, skip_corrupt: bool) -> ImageDataset:
        """Decode every file once, in threads, into one uint8 tensor.

        Raises:
            ContrastiveError: a file that does not decode, unless ``skip_corrupt``; then it is left out and
                the log says how many were.
        """
        if isinstance(self.images, Tensor):
            return self

        def read(path: Path) -> Tensor | ContrastiveError:
            try:
                return read_image(path, self.image_size, self.channels)
            except ContrastiveError as error:
                return error

        with ThreadPoolExecutor() as pool:
            decoded = list(track(pool.map(read, self.images), "Decoding", len(self)))
        errors = [image for image in decoded if isinstance(image, ContrastiveError)]
        if errors and not skip_corrupt:
            raise errors[0]
        for error in errors:
            log.warning("skipped: %s", error)
        if errors:
            log.warning("skipped %d of %d images that do not decode", len(errors), len(self))
        kept = np.array([i for i, image in enumerate(decoded) if isinstance(image, Tensor)], dtype=np.int64)
        if not len(kept):
            raise ContrastiveError(f"none of the {len(self)} images decodes; the first: {errors[0]}")
        images = torch.stack([image for image in decoded if isinstance(image, Tensor)])
        labels = None if self.labels is None else self.labels[torch.as_tensor(kept)]
        return ImageDataset(images, labels, self.classes, image_size=self.image_size, channels=self.channels)


def read_image(path: Path, image_size: int, channels: int) -> Tensor:
    """Decode a file to uint8 ``(channels, image_size, image_size)``.

    Raises:
        ContrastiveError: the file is missing, truncated or not an image; the message names it.
    """
    try:
        with Image.open(path) as file:
            image = TF.pil_to_tensor(file.convert("RGB" if channels == 3 else "L"))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ContrastiveError(
            f"{path} is not a readable image ({error}); repair or remove it, or pass skip_corrupt=true"
        ) from error
    return _fit(image, image_size)


def _fit(image: Tensor, size: int) -> Tensor:
    """Resize the shorter side to ``size`` and crop the centre; an image of that size stays as it is."""
    if image.shape[-2:] == (size, size):
        return image
    return TF.center_crop(TF.resize(image, [size], antialias=True), [size, size])


def read_images(
    source: str,
    split: Split,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    download: bool = False,
    skip_corrupt: bool = False,
) -> ImageDataset:
    """Read one split of a source of images.

    Args:
        source: ``"digits"`` (scikit-learn's, which ship with it), a folder, or the name of a class of
            ``torchvision.datasets`` (``CIFAR10``), optionally with its root: ``CIFAR10:/data``. A folder may
            hold ``train`` and ``test`` (or ``val``) folders; each holds a folder a class, or images alone.
        split: ``"train"`` or ``"test"``. Where a source has no test split, 30 % of it, stratified, are held
            out; which ones does not depend on any seed of the run.
        image_size: side in pixels; None takes the first image's shorter side.
        channels: 1 or 3; None is 1 for digits and 3 for everything else.
        download: whether torchvision may download the data.
        skip_corrupt: leave out files that do not decode, and count them, instead of stopping.

    Raises:
        ContrastiveError: nothing there, or an image that does not decode.
    """
    if source == "digits":
        pool = _digits(channels or 1)
        return pool.subset(_pool_split(pool, split))
    folder = Path(source).expanduser()
    if folder.is_dir():
        has_splits = (folder / "train").is_dir()
        pool = _folder(_split_folder(folder, split) if has_splits else folder, image_size, channels or 3)
        if not has_splits:
            pool = pool.subset(_pool_split(pool, split))
        fits = len(pool) * pool.channels * pool.image_size**2 <= _CACHE_BYTES
        return pool.cached(skip_corrupt) if fits else pool
    return _torchvision(source, split, image_size, channels or 3, download)


def _digits(channels: int) -> ImageDataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(digits.target).to(torch.int64)
    classes = [str(name) for name in digits.target_names]
    return ImageDataset(
        images.expand(-1, channels, -1, -1).contiguous(), labels, classes, image_size=8, channels=channels
    )


def _split_folder(folder: Path, split: Split) -> Path:
    names = ["train"] if split == "train" else ["test", "val"]
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise ContrastiveError(f"{folder} has a train folder but none named {' or '.join(names)}; add one")


def _folder(folder: Path, image_size: int | None, channels: int) -> ImageDataset:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMG_EXTENSIONS and p.is_file())
    if not paths:
        raise ContrastiveError(
            f"{folder} holds no image ({', '.join(IMG_EXTENSIONS)}); "
            "give a folder of images, flat or a folder a class"
        )
    size = image_size or _shorter_side(paths)
    names = [path.relative_to(folder).parts[0] for path in paths]
    flat = any(path.parent == folder for path in paths)
    classes = [] if flat else sorted(set(names))
    number = {name: i for i, name in enumerate(classes)}
    labels = None if flat else torch.tensor([number[name] for name in names])
    return ImageDataset(paths, labels, classes, image_size=size, channels=channels)


def _shorter_side(paths: Sequence[Path]) -> int:
    """The shorter side of the first image whose header can be read; the corrupt ones are reported later."""
    for path in paths:
        try:
            with Image.open(path) as file:
                return min(file.size)
        except (OSError, SyntaxError, ValueError):
            continue
    raise ContrastiveError(f"none of the {len(paths)} images can be opened; the first is {paths[0]}")


def _torchvision(
    source: str, split: Split, image_size: int | None, channels: int, download: bool
) -> ImageDataset:
    import torchvision.datasets

    name, _, root = source.partition(":")
    cls = getattr(torchvision.datasets, name, None)
    if not inspect.isclass(cls) or not issubclass(cls, Dataset):
        raise ContrastiveError(
            f"{source!r} is neither a folder in {Path.cwd()}, nor 'digits', nor in torchvision.datasets"
        )
    parameters = inspect.signature(cls).parameters
    chosen: dict[str, Any] = {"train": split == "train"} if "train" in parameters else {"split": split}
    if "download" in parameters:
        chosen["download"] = download
    try:
        dataset: Any = cls(root or "data", **chosen)  # type: ignore[call-arg]
    except RuntimeError as error:
        raise ContrastiveError(f"{source}: {error} (pass download=true to download it)") from error
    images, labels = [], []
    for image, label in track(dataset, f"Decoding {name}", len(dataset)):
        image = TF.pil_to_tensor(image.convert("RGB" if channels == 3 else "L"))
        images.append(_fit(image, image_size or min(image.shape[-2:])))
        labels.append(label)
    classes = [str(c) for c in getattr(dataset, "classes", sorted(set(labels)))]
    size = images[0].shape[-1]
    return ImageDataset(
        torch.stack(images), torch.tensor(labels), classes, image_size=size, channels=channels
    )


def _pool_split(pool: ImageDataset, split: Split) -> np.ndarray:
    train, test = split_indices(len(pool), pool.labels, _HELD_OUT, _HELD_OUT_SEED)
    return train if split == "train" else test


class ImageData(PretrainingData):
    """Batches of unlabelled images for pretraining, and a labelled validation split to watch it by.

    Args:
        source: ``digits``, a folder, or a torchvision data set by name (see ``read_images``).
        image_size: side in pixels the images are read at; None takes the source's own.
        channels: 1 or 3; None is 1 for digits and 3 for everything else.
        batch_size: images a process takes a step. Every other image in the batch is a negative.
        val_fraction: share of the training split kept from pretraining, for the online evaluation.
        num_workers: processes that decode; 0 is fastest for images that fit in memory.
        download: whether torchvision may download the data.
        skip_corrupt: leave out files that do not decode, and count them, instead of stopping.
        seed: of the validation split and of the order of the images; taken from ``seed_everything``.
    """

    def __init__(
        self,
        source: str,
        *,
        image_size: int | None = None,
        channels: int | None = None,
        batch_size: int = 256,
        val_fraction: float = 0.1,
        num_workers: int = 0,
        download: bool = False,
        skip_corrupt: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            source, batch_size=batch_size, val_fraction=val_fraction, num_workers=num_workers, seed=seed
        )
        self._options = dict(
            image_size=image_size, channels=channels, download=download, skip_corrupt=skip_corrupt
        )

    def read(self, split: Split) -> ImageDataset:
        """Read a split with this module's settings, before any of it is set aside for validation."""
        return read_images(self.source, split, **self._options)  # type: ignore[arg-type]
