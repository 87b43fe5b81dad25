"""What nodes and edges come with, numbers or categories, brought to the width of a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from encoders.adjacency import exporting
from encoders.message_passing import pick
from encoders.sparse_features import SparseFeatures, linear


class FeatureEncoder(nn.Module):
    """W x for floating-point features, Σ_c Embedding_c[x_c] for categorical ones.

    Args:
        num_features: the width of floating-point features, or the number of categories of each column.
        num_out: width of the result.

    Shape: ``(N, num_features)`` float, dense or sparse, or ``(N, C)`` int64 → ``(N, num_out)``.
    """

    def __init__(self, num_features: int | Sequence[int], num_out: int) -> None:
        super().__init__()
        self.categories = None if isinstance(num_features, int) else list(num_features)
        if self.categories is None:
            self.linear = Linear(num_features, num_out)  # type: ignore[arg-type]
            return
        # One table for all columns: one lookup, one gradient.
        self.embedding = nn.EmbeddingBag(sum(self.categories), num_out, mode="sum")
        nn.init.normal_(self.embedding.weight, std=1 / len(self.categories) ** 0.5)
        # no buffer: a moving average of weights and buffers would round it down
        self.first = self._first()

    def _first(self) -> Tensor:
        """``(C,)`` int64, the row of the table where each column's categories begin."""
        sizes = [0, *cast("list[int]", self.categories)[:-1]]
        return torch.tensor(sizes, device=self.embedding.weight.device).cumsum(0)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FeatureEncoder:
        super()._apply(fn, recurse)
        if self.categories is not None:  # made anew: ``fn`` may change the type, or leave no values
            self.first = self._first()
        return self

    def forward(self, x: Tensor | SparseFeatures) -> Tensor:
        """Embed ``x``; ValueError where columns, type or (on the CPU) categories are not those promised."""
        require_columns(x, self.linear.in_features if self.categories is None else self.categories)
        if self.categories is None:
            return linear(x, self.linear.weight, self.linear.bias)
        assert isinstance(x, Tensor)
        if exporting():  # the bag's offsets do not go into an ONNX program
            return nn.functional.embedding(x + self.first, self.embedding.weight).sum(1)
        if not x.is_cpu or torch.compiler.is_compiling():
            return self.embedding(x + self.first)
        if found := beyond(x, self.categories):
            raise ValueError(
                "column {} has the category {}, expected one of {}, numbered from 0; set node_features or "
                "edge_features".format(*found)
            )
        fewer = math.prod(self.categories) < len(x)
        return self._embed_combinations(x) if fewer else self.embedding(x + self.first)

    def _embed_combinations(self, x: Tensor) -> Tensor:
        """Embed every combination of categories once, where they are fewer than rows, such as of bonds."""
        columns = [torch.arange(number) for number in cast("list[int]", self.categories)]
        combinations = torch.cartesian_prod(*columns).view(-1, len(columns))
        place = torch.zeros(len(x), dtype=torch.int64)  # x may be of bytes
        for column, values in zip(columns, x.unbind(1)):
            place = place * len(column) + values
        return pick(self.embedding(combinations + self.first), place)


def beyond(x: Tensor, categories: Sequence[int]) -> tuple[int, int, int] | None:
    """The first column of ``x``, ``(N, C)`` int64, with a category beyond its own, where others' are.

    Returns:
        The column, its category that is furthest out, and how many it has; None where all are within.
    """
    if not len(x):
        return None
    ends = (end.tolist() for end in x.aminmax(dim=0))
    found = ((c, low if low < 0 else high, n) for c, (low, high, n) in enumerate(zip(*ends, categories)))
    return next((column for column in found if not 0 <= column[1] < column[2]), None)


def require_columns(x: Tensor | SparseFeatures, expected: int | list[int]) -> None:
    """ValueError unless ``x`` has so many float columns, or a column of categories for each of a list."""
    number, kind = (expected, "float") if isinstance(expected, int) else (len(expected), "int64 categories")
    if x.is_floating_point() != (kind == "float") or x.shape[1] != number:
        raise ValueError(
            f"features have shape {tuple(x.shape)} and dtype {x.dtype}, expected {number} columns of {kind}; "
            "set node_features or edge_features"
        )


class Linear(nn.Linear):
    """W x + b of ``(N, num_in)`` features, fast on CPUs for few features and in 16 bits; see `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` to ``(N, num_out)``."""
        return linear(x, self.weight, self.bias)
