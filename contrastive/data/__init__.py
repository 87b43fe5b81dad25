"""Data: every module here yields the same ``Batch``, whatever its source."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """What a data module yields.

    Attributes:
        input: the raw samples: uint8 images ``(N, C, H, W)``, or a ``GraphBatch`` of N graphs.
        label: the targets, ``(N,)`` int64 for classes; ``None`` where the data has none.
        index: ``(N,)`` int64, each sample's place in the data set. Its random draws follow from it.
    """

    input: Any
    label: Tensor | None
    index: Tensor
