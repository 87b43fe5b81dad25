"""Features computed once: a cache by what they follow from, the weights, the preprocessing and the items."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from itertools import chain
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from contrastive.data.image_dataset import ImageDataset, Item
from contrastive.errors import ContrastiveError
from contrastive.features import FrozenEncoder
from contrastive.items import encode_items
from contrastive.report import cache_home, write_whole

log = logging.getLogger("contrastive")


def cached_features(
    encoder: FrozenEncoder,
    dataset: Any,
    *,
    batch_size: int = 512,
    progress: str | None = None,
    enabled: bool = True,
) -> np.ndarray:
    """Features of a data set's items, float32 ``(N, num_features)``, from the cache where they are there.

    The cache is ``features`` in ``$XDG_CACHE_HOME/contrastive`` or ``~/.cache/contrastive``; a cache that
    cannot be read or written costs a warning, no more.

    Args:
        encoder: to encode with.
        dataset: as ``contrastive.items.read_items`` gives it.
        batch_size: items encoded at a time.
        progress: what the progress bar says.
        enabled: False computes and keeps nothing.

    Raises:
        ContrastiveError: a feature is not finite.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    if not enabled or _in_another_library(dataset):
        return _finite(encode_items(encoder, dataset, **options))
    file = cache_home() / "features" / f"{_key(encoder, dataset)}.safetensors"
    if file.exists():
        try:
            return load_file(file)["h"].numpy()
        except (SafetensorError, KeyError, OSError) as error:
            log.warning("%s cannot be read (%s); encoding anew", file, error)
    h = _finite(encode_items(encoder, dataset, **options))
    tensors = {"h": torch.from_numpy(np.ascontiguousarray(h))}
    try:
        write_whole(file, lambda part: save_file(tensors, part), advice="features are not kept")
    except ContrastiveError as error:
        log.warning("%s", error)
    return h


def _finite(h: np.ndarray) -> np.ndarray:
    wrong = ~np.isfinite(h).all(axis=1)
    if wrong.any():
        raise ContrastiveError(
            f"the features of {wrong.sum()} of {len(h)} items are not finite, first those of item "
            f"{wrong.argmax()}: look at it, or take a checkpoint from before training diverged"
        )
    return h


def _key(encoder: FrozenEncoder, dataset: Any) -> str:
    content = hashlib.sha256(f"2 {torch.__version__} {fingerprint_of(encoder)}".encode())
    _add_items(content, dataset)
    return content.hexdigest()[:32]


def fingerprint_of(encoder: FrozenEncoder) -> str:
    """A hash of an encoder's weights and of what they are the weights of, in hexadecimal digits."""
    content = hashlib.sha256(f"{encoder.encoder} {encoder.preprocess}".encode())
    for name, part in encoder.named_modules():  # not all print the readout, or whatever else they do
        content.update(f"{name} {type(part).__qualname__} {_settings(part)}".encode())
    for name, value in chain(encoder.named_parameters(), encoder.named_buffers()):
        content.update(name.encode() + _bytes(value))
    return content.hexdigest()[:32]


def _settings(part: nn.Module) -> dict[str, Any]:
    """The attributes of a module that are numbers, words, lists of such, or functions, by their names."""
    found = {}
    for name, value in vars(part).items():
        value = getattr(value, "__qualname__", value)
        if isinstance(value, (bool, int, float, str, list, tuple)) and name != "training":
            found[name] = value
    return found


def _in_another_library(dataset: Any) -> bool:
    """Whether another library decodes the images, so that nothing says whether they are the same ones."""
    images = getattr(dataset, "images", None)
    return images is not None and not isinstance(images, Tensor) and isinstance(images[0], Item)


def _add_items(content: Any, dataset: Any) -> None:
    """What the items are: tensors in memory by their numbers, files by name, size and time."""
    if isinstance(dataset, ImageDataset):
        content.update(f"{dataset.image_size} {dataset.channels} {len(dataset)}".encode())
        if isinstance(dataset.images, Tensor):
            content.update(_bytes(dataset.images))
            return
        for path in map(str, dataset.images):
            status = os.stat(path)
            content.update(json.dumps([path, status.st_size, status.st_mtime_ns]).encode())
        return
    graph = dataset.graphs if hasattr(dataset, "graphs") else dataset.graph
    x = graph.x if isinstance(graph.x, Tensor) else graph.x.dense()
    edges = (graph.edge_attr, graph.edge_weight, graph.edge_type, graph.node_type)
    for tensor in (graph.src, graph.dst, x, graph.ptr, *edges):
        if tensor is not None:
            content.update(str((tensor.dtype, tuple(tensor.shape))).encode() + _bytes(tensor))


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
