"""Data: every module here yields the same ``Batch``, whatever its source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """What a data module yields.

    Attributes:
        input: the raw samples: uint8 images ``(N, C, H, W)``, or a ``GraphBatch`` of N graphs. A tuple of two
            such where the views are drawn in part already, as images are that a worker crops.
        label: the targets, ``(N,)`` int64 for classes, -1 where a sample's is not known; ``None`` where the
            data has none.
        index: ``(N,)`` int64, each sample's place in the data set. Its random draws follow from it.
    """

    input: Any
    label: Tensor | None
    index: Tensor  # type: ignore[assignment]  # it hides tuple.index, which nobody calls


def concatenate(inputs: Sequence[Any]) -> Any:
    """Inputs of several batches as those of one: tensors, or ``GraphBatch``."""
    return torch.cat(list(inputs)) if isinstance(inputs[0], Tensor) else inputs[0].concatenate(inputs)


def split_batch(batch: Batch, num_parts: int) -> list[Batch]:
    """Split a batch in ``num_parts`` of equal size, to one sample.

    Raises:
        ValueError: fewer samples than parts.
    """
    if len(batch.index) < num_parts:
        raise ValueError(
            f"a batch of {len(batch.index)} samples cannot be split in {num_parts} micro-batches"
        )
    parts = []
    for place in torch.arange(len(batch.index), device=batch.index.device).tensor_split(num_parts):
        label = None if batch.label is None else batch.label[place]
        parts.append(Batch(_select(batch.input, place), label, batch.index[place]))
    return parts


def _select(input: Any, place: Tensor) -> Any:
    return tuple(view[place] for view in input) if isinstance(input, tuple) else input[place]
