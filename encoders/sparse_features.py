"""SparseFeatures: rows of features most of which are zero, such as bags of words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from encoders.adjacency import Adjacency
from encoders.message_passing import aggregate


class SparseFeatures:
    """An ``(N, F)`` matrix in compressed rows that stands where a dense ``x`` would in a ``GraphBatch``.

    Coauthor-CS has 18,333 nodes with 6,805 words each, of which 60 are not zero: 0.5 GB a copy when dense,
    and every view is a copy. The product with a weight is message passing from words to nodes,
    W x_v = Σ_w x_vw W_w, on the same kernels. The features are constants: no gradient reaches them.

    Args:
        indptr: ``(N + 1,)`` int64, where the entries of each row start.
        column: ``(K,)`` int64.
        value: ``(K,)`` float.
        width: F.
    """

    def __init__(self, indptr: Tensor, column: Tensor, value: Tensor, width: int) -> None:
        self.indptr, self.column, self.value, self.width = indptr, column, value, width
        # structures by how many copies of the rows are stacked; shared by what has the same places
        self._structures: dict[int, Adjacency] = {}

    @staticmethod
    def from_dense(x: Tensor) -> SparseFeatures:
        """The entries of ``(N, F)`` that are not zero."""
        row, column = x.nonzero().unbind(1)
        counts = torch.bincount(row, minlength=len(x))
        return SparseFeatures(_offsets(counts), column, x[row, column], x.shape[1])

    def dense(self) -> Tensor:
        """``(N, F)``."""
        x = self.value.new_zeros(self.shape)
        x[self.row, self.column] = self.value
        return x

    @property
    def shape(self) -> torch.Size:
        """(N, F)."""
        return torch.Size((len(self), self.width))

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        return self.value.dtype

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.value.device

    @property
    def structure(self) -> Adjacency:
        """An edge from each column to each row where there is an entry; built once for all views."""
        if 1 not in self._structures:
            self._structures[1] = Adjacency(self.column, self.row, self.width, len(self))
        return self._structures[1]

    @property
    def row(self) -> Tensor:
        """``(K,)`` int64, ascending: the row of each entry."""
        rows = torch.arange(len(self), device=self.device)
        return rows.repeat_interleave(self.indptr.diff(), output_size=len(self.column))

    def is_floating_point(self) -> bool:
        """True."""
        return True

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __repr__(self) -> str:
        return f"SparseFeatures({len(self)}, {self.width}, {len(self.value)} entries)"

    def __getstate__(self) -> dict[str, Any]:
        """The tensors without the structure, which holds DGL handles and can be rebuilt."""
        return self.__dict__ | {"_structures": {}}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SparseFeatures:
        """The features on another device."""
        if torch.device(device) == self.device:
            return self
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SparseFeatures:
        """The features in page-locked memory."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> SparseFeatures:
        return SparseFeatures(function(self.indptr), function(self.column), function(self.value), self.width)

    def __getitem__(self, rows: Tensor) -> SparseFeatures:
        """The rows at an int64 or bool index."""
        index = torch.arange(len(self), device=self.device)[rows]
        counts = self.indptr.diff()[index]
        indptr = _offsets(counts)
        total = int(indptr[-1])
        first = (self.indptr[index] - indptr[:-1]).repeat_interleave(counts, output_size=total)
        entries = first + torch.arange(total, device=self.device)
        return SparseFeatures(indptr, self.column[entries], self.value[entries], self.width)

    def __mul__(self, factor: Tensor | float) -> SparseFeatures:
        """Times a number, or a factor a row ``(N, 1)``, a column ``(1, F)``, or a place ``(N, F)``."""
        if not isinstance(factor, Tensor):
            return self.with_values(self.value * factor)
        n, f = factor.shape
        row = self.row if n != 1 else 0
        column = self.column if f != 1 else 0
        return self.with_values(self.value * factor[row, column])

    def with_values(self, value: Tensor) -> SparseFeatures:
        """Other values in the same places."""
        product = SparseFeatures(self.indptr, self.column, value, self.width)
        product._structures = self._structures
        return product

    @staticmethod
    def cat(parts: Sequence[SparseFeatures]) -> SparseFeatures:
        """Rows of several, one below the other."""
        counts = torch.cat([part.indptr.diff() for part in parts])
        column = torch.cat([part.column for part in parts])
        stacked = SparseFeatures(
            _offsets(counts), column, torch.cat([p.value for p in parts]), parts[0].width
        )
        if all(part._structures is parts[0]._structures for part in parts):
            shared = parts[0]._structures
            if len(parts) not in shared:
                shared[len(parts)] = stacked.structure
            stacked._structures = {1: shared[len(parts)]}
        return stacked


def linear(x: Tensor | SparseFeatures, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b of dense or sparse features, ``(N, F)`` with W ``(O, F)`` → ``(N, O)``."""
    if isinstance(x, Tensor):
        if not x.is_cpu or x.ndim != 2 or torch.compiler.is_compiling():
            return F.linear(x, weight, bias)
        if short := _short_dtype(x):
            return _in_few_sizes(lambda rows: F.linear(rows, weight, bias), x.to(short))
        if weight.shape[1] >= weight.shape[0]:
            return F.linear(x, weight, bias)
        # x has fewer columns than the result: Wᵀ laid out anew makes the gradient of W the product xᵀ g; that
        # of F.linear is gᵀ x, for which MKL takes 2 to 8 times as long where x has fewer than 16 columns
        transposed = weight.T.contiguous()
        return x @ transposed if bias is None else torch.addmm(bias, x, transposed)
    product = aggregate(x.structure, weight.T.contiguous(), "sum", x.value)
    return product if bias is None else product + bias


def _offsets(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _short_dtype(x: Tensor) -> torch.dtype | None:
    """The 16-bit dtype that a product of ``x`` is computed in on a CPU; None for longer ones."""
    autocast = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    dtype = torch.get_autocast_dtype("cpu") if autocast else x.dtype
    return dtype if dtype.itemsize == 2 else None


def in_few_sizes(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function(x)`` of a function of each row alone, with `linear`'s rows of zeros added once for all."""
    if not x.is_cpu or x.ndim != 2 or torch.compiler.is_compiling() or _short_dtype(x) is None:
        return function(x)
    return _in_few_sizes(function, x)


def _in_few_sizes(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function`` of ``x`` and rows of zeros up to one of few numbers of rows.

    For products of 16-bit numbers oneDNN compiles and keeps a kernel for every size that it meets, and each
    batch of graphs has another number of nodes: that took half the time of 700 rows, and gigabytes.
    """
    step = max(64, 1 << max(0, len(x).bit_length() - 5))  # a sixteenth more rows at most, or 63
    missing = -len(x) % step
    return function(F.pad(x, (0, 0, 0, missing)))[: len(x)] if missing else function(x)
