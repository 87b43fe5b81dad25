"""Images listed in one file, .csv, or held in one, .npz."""

from __future__ import annotations

import csv
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from contrastive.data.image_dataset import ImageDataset, fit
from contrastive.data.image_sources import held_out_split, shorter_side
from contrastive.data.loading import Split
from contrastive.errors import ContrastiveError

_MAX_CLASSES = 2**20  # more are numbers that stand for something else
_SPLITS = {"train": ("train",), "test": ("test", "val")}  # where there is no test split, val serves


def open_csv(file: Path, split: Split, image_size: int | None, channels: int) -> ImageDataset:
    """Images that a CSV file lists, UTF-8, with a header.

    The column ``path`` is where each image is, from the file's own folder; ``label`` its class, in words, and
    empty where it is not known; ``split`` is train, val or test. The last two may be missing: then there are
    no labels, and 30 % of the images are held out as test split.

    Raises:
        ContrastiveError: no such file or column, not UTF-8, an unknown split or an image that is not there;
            the message names the line.
    """
    listed = _read(file)
    classes = sorted(set(listed.labels or ()) - {""})
    has_splits = listed.splits is not None
    chosen = _of_split(listed, split, file)
    paths = [Path(listed.paths[i]) for i in chosen]
    for i, path in zip(chosen, paths):
        if not path.is_file():
            raise ContrastiveError(f"{file}, line {listed.lines[i]}: there is no image {path}")
    number = {name: i for i, name in enumerate(classes)} | {"": -1}
    labels = None if listed.labels is None else torch.tensor([number[listed.labels[i]] for i in chosen])
    size = image_size or shorter_side(paths)
    pool = ImageDataset(paths, labels, classes, image_size=size, channels=channels)
    return pool if has_splits else held_out_split(pool, split)


class _Listed(NamedTuple):
    """The columns of a file as they are, and the line each row ends at."""

    paths: list[str]
    labels: list[str] | None
    splits: list[str] | None
    lines: list[int]


def _read(file: Path) -> _Listed:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            return _columns(file, csv.reader(stream, strict=True))
    except UnicodeDecodeError as error:
        raise ContrastiveError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (OSError, csv.Error) as error:
        raise ContrastiveError(f"{file} cannot be read: {error}") from error


def _columns(file: Path, reader: Any) -> _Listed:
    header = next(reader, [])
    if header.count("path") != 1:
        found = ", ".join(header) or "none"
        raise ContrastiveError(
            f"{file} has {header.count('path') or 'no'} column path; its columns are {found}"
        )
    place = {name: header.index(name) for name in ("path", "label", "split") if name in header}
    listed = _Listed([], [] if "label" in place else None, [] if "split" in place else None, [])
    folder = str(file.parent)
    for row in filter(None, reader):
        if len(row) != len(header) or not row[place["path"]]:
            raise ContrastiveError(
                f"{file}, line {reader.line_num}: expected {len(header)} fields, path not empty"
            )
        listed.paths.append(os.path.join(folder, row[place["path"]]))
        listed.lines.append(reader.line_num)
        if listed.labels is not None:
            listed.labels.append(sys.intern(row[place["label"]]))  # a million rows name few classes
            if row[place["label"]] in ("nan", "NaN"):
                raise ContrastiveError(
                    f"{file}, line {reader.line_num}: label is {row[place['label']]}; leave it empty where "
                    "the class is not known"
                )
        if listed.splits is not None:
            listed.splits.append(sys.intern(row[place["split"]]))
    if not listed.paths:
        raise ContrastiveError(f"{file} lists no image")
    return listed


def _of_split(listed: _Listed, split: Split, file: Path) -> Sequence[int]:
    """The rows of a split; all of them where the file has none."""
    if listed.splits is None:
        return range(len(listed.paths))
    known = ("train", "val", "test")
    for line, name in zip(listed.lines, listed.splits):
        if name not in known:
            raise ContrastiveError(
                f"{file}, line {line}: split is {name!r}; expected one of {', '.join(known)}"
            )
    for wanted in _SPLITS[split]:
        chosen = [i for i, name in enumerate(listed.splits) if name == wanted]
        if chosen:
            return chosen
    raise ContrastiveError(f"{file} lists no image whose split is {' or '.join(_SPLITS[split])}")


def read_npz(file: Path, split: Split, image_size: int | None, channels: int | None) -> ImageDataset:
    """Images in an .npz file of MedMNIST's format (Yang et al. 2021, arXiv 2110.14795).

    ``train_images`` is uint8 ``(N, H, W)`` or ``(N, H, W, 3)``, ``train_labels`` integers ``(N,)`` or
    ``(N, 1)``; so for ``val`` and ``test``. Labels of several columns are left out.
    Objects, which would run code when they are loaded, are refused.

    Raises:
        ContrastiveError: not an .npz file, or arrays that are missing or of another shape; the message names
            them.
    """
    arrays = _arrays(file, split)
    images = arrays["images"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (3,)):
        raise ContrastiveError(
            f"{file}: images are {images.dtype} of {images.shape}; expected uint8 (N, H, W) or (N, H, W, 3)"
        )
    pixels = torch.from_numpy(images)
    pixels = pixels[:, None] if images.ndim == 3 else pixels.permute(0, 3, 1, 2)
    if channels is not None and channels != pixels.shape[1]:
        pixels = pixels.expand(-1, 3, -1, -1) if channels == 3 else TF.rgb_to_grayscale(pixels)
    size = image_size or min(pixels.shape[-2:])
    labels = _labels(arrays.get("labels"), len(pixels), file)
    classes = [] if labels is None else [str(i) for i in range(int(labels.max()) + 1)]
    pixels = fit(pixels, size).contiguous()
    return ImageDataset(pixels, labels, classes, image_size=size, channels=pixels.shape[1])


def _arrays(file: Path, split: Split) -> dict[str, np.ndarray]:
    """The images and, where there are any, the labels of a split; only they are read."""
    try:
        with zipfile.ZipFile(file), np.load(file, allow_pickle=False) as content:
            for name in _SPLITS[split]:
                if f"{name}_images" in content:
                    keys = {key: f"{name}_{key}" for key in ("images", "labels")}
                    found = {key: content[stored] for key, stored in keys.items() if stored in content}
                    if not all(isinstance(array, np.ndarray) for array in found.values()):
                        raise ValueError("a member has no head of an array")
                    return found
            stored = ", ".join(content.files)
    except Exception as error:  # NumPy's reader can fail in any way on damaged bytes
        reason = str(error) or type(error).__name__
        raise ContrastiveError(f"{file} is not an .npz file of plain arrays: {reason}") from error
    wanted = " or ".join(f"{name}_images" for name in _SPLITS[split])
    raise ContrastiveError(f"{file} has no array {wanted}; it holds {stored or 'nothing'}")


def _labels(labels: np.ndarray | None, num_images: int, file: Path) -> Tensor | None:
    if labels is None:
        return None
    if len(labels) != num_images or labels.dtype.kind not in "iub":
        raise ContrastiveError(
            f"{file}: labels are {labels.dtype} of {labels.shape}; expected {num_images} integers"
        )
    labels = labels.reshape(num_images, -1)
    if labels.shape[1] != 1:
        return None
    outside = (labels < 0) | (labels >= _MAX_CLASSES)
    if outside.any():
        row = int(outside.argmax())
        raise ContrastiveError(f"{file}: the label in row {row} is {labels[row, 0]}; number classes from 0")
    return torch.from_numpy(labels[:, 0].astype(np.int64))
