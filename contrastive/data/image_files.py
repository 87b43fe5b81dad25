"""Images listed in one file, .csv, or held in one, .npz."""

from __future__ import annotations

import csv
import logging
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
from contrastive.data.image_sources import SPLIT_NAMES, NoSplit, all_splits, held_out_split, shorter_side
from contrastive.data.loading import MAX_CLASSES, Split
from contrastive.data.tables import csv_fault
from contrastive.errors import ContrastiveError

log = logging.getLogger("contrastive")


def open_csv(
    file: Path, split: Split, image_size: int | None, channels: int, *, targets: Sequence[str] = ()
) -> ImageDataset:
    """Images that a CSV file lists, UTF-8, with a header.

    The column ``path`` is where each image is, from the file's own folder; ``label`` its class, in words, and
    empty where it is not known; ``split`` is one of ``SPLIT_NAMES``. The last two may be missing: then there
    are no labels, or 30 % of the labelled images are held out as test split. With ``targets`` the labels are
    these columns, ``(N, T)`` float32 with NaN where a cell is blank.

    Raises:
        ContrastiveError: no such file or column, not UTF-8, an unknown split, a target that is no number or
            an image that is not there; the message names the line.
    """
    listed = _read(file, targets)
    classes = list(targets) or sorted(set(listed.labels or ()) - {""})
    has_splits = listed.splits is not None
    chosen = _of_split(listed, split, file)
    paths = [Path(listed.paths[i]) for i in chosen]
    for i, path in zip(chosen, paths):
        if not path.is_file():
            raise ContrastiveError(f"{file}, line {listed.lines[i]}: there is no image {path}")
    number = {name: i for i, name in enumerate(classes)} | {"": -1}
    labels: Tensor | None = None
    if targets:
        labels = torch.tensor([listed.targets[i] for i in chosen])
    elif listed.labels is not None:
        labels = torch.tensor([number[listed.labels[i]] for i in chosen])
    size = image_size or shorter_side(paths)
    pool = ImageDataset(paths, labels, classes, image_size=size, channels=channels)
    return pool if has_splits else held_out_split(pool, split)


class _Listed(NamedTuple):
    """The columns of a file as they are, and the line each row ends at."""

    paths: list[str]
    labels: list[str] | None
    splits: list[str] | None
    targets: list[list[float]]
    lines: list[int]


def _read(file: Path, targets: Sequence[str]) -> _Listed:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            return _columns(file, reader, targets)
    except UnicodeDecodeError as error:
        raise ContrastiveError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except csv.Error as error:
        raise csv_fault(file, reader.line_num, error) from error
    except OSError as error:
        raise ContrastiveError(f"{file} cannot be read: {error}") from error


def _columns(file: Path, reader: Any, targets: Sequence[str]) -> _Listed:
    header = [name.strip() for name in next(reader, [])]
    if "path" not in header:
        raise ContrastiveError(f"{file} has no column path; its columns are {', '.join(header) or 'none'}")
    for name in targets:
        if name not in header:
            raise ContrastiveError(f"{file} has no column {name!r}; its columns are {', '.join(header)}")
    for name in ("path", "label", "split", *targets):
        if header.count(name) > 1:
            raise ContrastiveError(f"{file} has the column {name} more than once; rename the others")
    if not {"label", *targets} & {*header} and {*header} - {"path", "split"}:
        log.warning(
            "%s is read without labels: none of its columns is called label: %s", file, ", ".join(header)
        )
    place = {name: i for i, name in enumerate(header)}
    # lists of strings that rows share: a million rows name few classes and splits
    labels: list[str] | None = [] if "label" in place and not targets else None
    splits: list[str] | None = [] if "split" in place else None
    listed = _Listed([], labels, splits, [], [])
    for row in filter(None, reader):
        where = f"{file}, line {reader.line_num}"
        if len(row) != len(header) or not row[place["path"]]:
            raise ContrastiveError(f"{where}: expected {len(header)} fields, path not empty")
        listed.paths.append(os.path.join(file.parent, row[place["path"]]))
        listed.lines.append(reader.line_num)
        if labels is not None:
            labels.append(_label(row[place["label"]].strip(), where))
        if splits is not None:
            splits.append(sys.intern(row[place["split"]].strip()))
        if targets:
            listed.targets.append([_target(row[place[name]], name, where) for name in targets])
    if not listed.paths:
        raise ContrastiveError(f"{file} lists no image")
    return listed


def _label(text: str, where: str) -> str:
    if text in ("nan", "NaN"):
        raise ContrastiveError(f"{where}: label is {text}; leave it empty where the class is not known")
    return sys.intern(text)


def _target(text: str, name: str, where: str) -> float:
    try:
        return float(text) if text.strip() else float("nan")
    except ValueError:
        raise ContrastiveError(f"{where}: {name} is {text!r}, expected a number or a blank") from None


def _of_split(listed: _Listed, split: Split, file: Path) -> Sequence[int]:
    """The rows of a split; all of them where the file has none."""
    if listed.splits is None:
        return range(len(listed.paths))
    known = [name for names in SPLIT_NAMES.values() for name in names]
    for line, name in zip(listed.lines, listed.splits):
        if name not in known:
            raise ContrastiveError(
                f"{file}, line {line}: split is {name!r}; expected one of {', '.join(known)}"
            )
    if split == "all":
        return range(len(listed.paths))
    for wanted in SPLIT_NAMES[split]:
        chosen = [i for i, name in enumerate(listed.splits) if name == wanted]
        if chosen:
            return chosen
    raise ContrastiveError(f"{file} lists no image whose split is {' or '.join(SPLIT_NAMES[split])}")


def read_npz(file: Path, split: Split, image_size: int | None, channels: int | None) -> ImageDataset:
    """Images in an .npz file of MedMNIST's format (Yang et al. 2021, arXiv 2110.14795).

    ``train_images`` is uint8 ``(N, H, W)`` or ``(N, H, W, 3)``, ``train_labels`` integers ``(N,)`` or
    ``(N, 1)``; so for ``val`` and ``test``, and the classes are those of all splits. Labels of several
    columns, as ChestMNIST's, and floats are targets, ``(N, T)`` float32.
    Objects, which would run code when they are loaded, are refused.

    Raises:
        ContrastiveError: not an .npz file, or arrays that are missing or of another shape; the message names
            them.
    """
    if split == "all":
        return all_splits(lambda part: read_npz(file, part, image_size, channels))
    arrays, num_classes = _arrays(file, split)
    images = arrays["images"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (3,)):
        raise ContrastiveError(
            f"{file}: images are {images.dtype} of {images.shape}; expected uint8 (N, H, W) or (N, H, W, 3)"
        )
    if 0 in images.shape:
        raise ContrastiveError(f"{file} holds no image: its array has the shape {images.shape}")
    pixels = torch.from_numpy(images)
    pixels = pixels[:, None] if images.ndim == 3 else pixels.permute(0, 3, 1, 2)
    if channels is not None and channels != pixels.shape[1]:
        pixels = pixels.expand(-1, 3, -1, -1) if channels == 3 else TF.rgb_to_grayscale(pixels)
    size = image_size or min(pixels.shape[-2:])
    labels = _labels(arrays.get("labels"), len(pixels), file)
    number = 0 if labels is None else num_classes if labels.ndim == 1 else labels.shape[1]
    if number > MAX_CLASSES:
        raise ContrastiveError(f"{file}: a label of another split is {number - 1}; number classes from 0")
    classes = [str(i) for i in range(number)]
    pixels = fit(pixels, size).contiguous()
    return ImageDataset(pixels, labels, classes, image_size=size, channels=pixels.shape[1])


def _arrays(file: Path, split: Split) -> tuple[dict[str, np.ndarray], int]:
    """The images and, where there are any, the labels of a split, and how many classes all labels have."""
    try:
        with zipfile.ZipFile(file), np.load(file, allow_pickle=False) as content:
            for name in SPLIT_NAMES[split]:
                if f"{name}_images" in content:
                    keys = {key: f"{name}_{key}" for key in ("images", "labels")}
                    found = {key: content[stored] for key, stored in keys.items() if stored in content}
                    if not all(isinstance(array, np.ndarray) for array in found.values()):
                        raise ValueError("a member has no head of an array")
                    labels = [content[stored] for stored in content.files if stored.endswith("_labels")]
                    largest = [int(part.max()) for part in labels if part.dtype.kind in "iub" and part.size]
                    return found, 1 + max(largest, default=-1)
            stored = ", ".join(content.files)
    except Exception as error:  # NumPy's reader can fail in any way on damaged bytes
        reason = str(error) or type(error).__name__
        raise ContrastiveError(f"{file} is not an .npz file of plain arrays: {reason}") from error
    wanted = " or ".join(f"{name}_images" for name in SPLIT_NAMES[split])
    raise NoSplit(f"{file} has no array {wanted}; it holds {stored or 'nothing'}")


def _labels(labels: np.ndarray | None, num_images: int, file: Path) -> Tensor | None:
    if labels is None:
        return None
    if len(labels) != num_images or labels.dtype.kind not in "iubf":
        raise ContrastiveError(
            f"{file}: labels are {labels.dtype} of {labels.shape}; expected {num_images} numbers"
        )
    labels = labels.reshape(num_images, -1)
    if labels.shape[1] != 1 or labels.dtype.kind == "f":
        return torch.from_numpy(labels.astype(np.float32))
    outside = (labels < -1) | (labels >= MAX_CLASSES)
    if outside.any():
        row = int(outside.argmax())
        raise ContrastiveError(f"{file}: the label in row {row} is {labels[row, 0]}; number classes from 0")
    return torch.from_numpy(labels[:, 0].astype(np.int64))
