"""What a user holds in Python, as the inputs of an encoder: arrays, pictures, paths, SMILES, graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from contrastive.data.graph_features import refuse_other_numbers, refuse_smiles
from contrastive.data.graphs import read_graphs
from contrastive.data.image_dataset import fit, read_image
from contrastive.data.image_decode import decode
from contrastive.data.rdkit_cache import import_rdkit
from contrastive.errors import ContrastiveError
from contrastive.features import FrozenEncoder, in_channels, takes_graphs
from contrastive.items import GRAPH_OPTIONS, image_size_of, unit_of
from encoders.graph_batch import GraphBatch
from encoders.molecules import read_molecule


def input_batches(encoder: FrozenEncoder, items: Any, batch_size: int) -> Iterator[Any]:
    """Yield what ``encoder`` takes, of ``batch_size`` items at a time, in their order.

    Args:
        encoder: of images or of graphs.
        items: see ``contrastive.FeatureExtractor.transform``.
        batch_size: items at a time.

    Raises:
        ContrastiveError: an item of another kind, one that cannot be read, or none at all.
    """
    items = _sequence(items)
    if not len(items):
        raise ContrastiveError("there is nothing to encode; give one item at least")
    graphs = takes_graphs(encoder.encoder)
    size = None if graphs else image_size_of(encoder)
    for start in range(0, len(items), batch_size):
        part = items[start : start + batch_size]
        yield graph_batch(encoder, part, start) if graphs else image_batch(encoder, part, size)


def _sequence(items: Any) -> Any:
    """Something with a length and slices: arrays and ``GraphBatch`` as they are, a list of anything else."""
    if isinstance(items, (str, Path, Image.Image)):
        raise ContrastiveError(f"expected several items, not one {type(items).__name__}: give a list")
    if isinstance(items, (Tensor, GraphBatch)):
        return items
    if hasattr(items, "to_data_list"):  # a Batch of PyG
        return items.to_data_list()
    if hasattr(items, "edge_index"):
        return [items]
    if hasattr(items, "canonical_etypes"):
        import dgl

        return dgl.unbatch(items)
    if hasattr(items, "to_numpy"):  # a column or a table of pandas
        items = np.asarray(items)
    if isinstance(items, np.ndarray):
        return items if items.dtype.kind in "biuf" else items.reshape(-1).tolist()  # else strings or objects
    return list(items)


def image_batch(encoder: FrozenEncoder, items: Any, size: int | None) -> Tensor:
    """Images as uint8, or float in [0, 1], ``(N, C, H, W)`` of an encoder's channels and side.

    Args:
        encoder: says how many channels.
        items: an array of images, or a list of arrays, PIL images and paths.
        size: side in pixels; None keeps their own.
    """
    channels = in_channels(encoder)
    if isinstance(items, (np.ndarray, Tensor)):
        return _from_array(items, channels, size)
    images = [_image(item, channels, size) for item in items]
    if len({image.shape for image in images}) > 1:
        raise ContrastiveError(
            "the images differ in size, and the side that the encoder was trained at is unknown: resize them"
        )
    if len({image.dtype for image in images}) > 1:
        images = [image if image.is_floating_point() else image.float() / 255 for image in images]
    return torch.stack(images)


def _image(item: Any, channels: int, size: int | None) -> Tensor:
    if isinstance(item, (str, Path)):
        return read_image(Path(item).expanduser(), size, channels)
    if isinstance(item, Image.Image):
        return fit(decode(item, channels, "a PIL image"), size)
    if isinstance(item, (np.ndarray, Tensor)):
        return _from_array(item[None], channels, size)[0]
    raise ContrastiveError(f"expected an array, a PIL image or a path, not {type(item).__name__}")


def _from_array(array: np.ndarray | Tensor, channels: int, size: int | None) -> Tensor:
    array = np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array  # no negative strides
    images = _in_range(torch.as_tensor(array))
    shape = tuple(images.shape)
    if images.ndim == 2 and size and shape[1] == channels * size**2:  # scikit-learn's rows of pixels
        images = images.reshape(-1, channels, size, size)
    elif images.ndim == 3:
        if shape[2] == 3 and min(shape[:2]) > 3:
            raise ContrastiveError(f"images of the shape {shape}; one image in colour is given as X[None]")
        images = images[:, None]
    elif images.ndim == 4:
        known = (channels, 1, 3)
        last = shape[3] in known and (isinstance(array, np.ndarray) or shape[1] not in known)
        images = images.permute(0, 3, 1, 2) if last else images
    else:
        rows = f", or (N, {channels * size**2}) rows of pixels" if size else ""
        raise ContrastiveError(
            f"images of the shape {shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W){rows}"
        )
    if images.shape[1] != channels:
        if {images.shape[1], channels} != {1, 3}:
            raise ContrastiveError(f"images of the shape {shape} for an encoder of {channels} channel(s)")
        images = images.expand(-1, 3, -1, -1) if channels == 3 else _gray(images)
    return fit(images, size)


def _gray(images: Tensor) -> Tensor:
    """Luma of colour images, rounded as PIL rounds it, so that a file and its array are the same image."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    if images.is_floating_point():
        return (images * weights).sum(1, keepdim=True).clamp(max=1)
    exact = (weights.double() * 2**16).round().long()  # PIL's fixed point
    return ((images.long() * exact).sum(1, keepdim=True) + 2**15 >> 16).to(torch.uint8)


def _in_range(images: Tensor) -> Tensor:
    """uint8 as it is, other integers of 0 to 255 as uint8, and floats of 0 to 1, or bools, as float32."""
    dtype = str(images.dtype).removeprefix("torch.")
    if dtype == "uint8":
        return images
    if dtype == "bool":
        return images.float()
    if not images.is_floating_point():
        images = images.long()  # torch hardly computes with uint16 and longer
    top = 1.0 if images.is_floating_point() else 255
    low, high = (float(end) for end in images.aminmax()) if images.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= top):  # NaN is neither
        raise ContrastiveError(
            f"pixels of {dtype} from {low:g} to {high:g}; expected floats "
            "from 0 to 1, or integers from 0 to 255: scale them"
        )
    return images.float() if images.is_floating_point() else images.to(torch.uint8)


def graph_batch(encoder: FrozenEncoder, items: Any, first: int = 0) -> GraphBatch:
    """Graphs as one ``GraphBatch``.

    Args:
        encoder: whose run says how nodes without features are described.
        items: a ``GraphBatch``, or a list of such, of SMILES, DGLGraphs or ``Data`` of PyG.
        first: the place of the first item, for messages.
    """
    if isinstance(items, GraphBatch):
        return items
    if all(isinstance(item, str) for item in items):
        refuse_smiles(encoder)
        return _molecules(items, first)
    if all(isinstance(item, GraphBatch) for item in items):
        return GraphBatch.concatenate(items)
    options = {key: encoder.data[key] for key in GRAPH_OPTIONS if key in encoder.data}
    graphs = read_graphs(items, **options).graphs
    if unit_of(encoder, "") == "molecules":  # whatever the items are
        refuse_other_numbers(graphs, f"the graphs from item {first}")
    return graphs


def _molecules(smiles: Sequence[str], first: int) -> GraphBatch:
    chem = import_rdkit()
    try:
        graphs = GraphBatch.from_smiles(smiles)
    except ValueError as error:
        place = next(i for i, name in enumerate(smiles) if read_molecule(chem, name) is None)
        raise ContrastiveError(
            f"item {first + place}, {smiles[place]!r}, is no SMILES that RDKit can read; remove or mend it"
        ) from error
    for place in (graphs.nodes_per_graph == 0).nonzero().flatten().tolist():
        raise ContrastiveError(f"item {first + place}, {smiles[place]!r}, has no atoms; remove or mend it")
    return graphs
