"""Arrays and sparse matrices out of pickles, without running what a pickle names.

A pickle is a program: it names classes and functions and calls them. Here every name stands for a record of
ours that keeps what it was called with, and other names are refused; the arrays are then made from the
records' bytes, with shapes, types and indices checked. NumPy and SciPy never see what a stranger wrote.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from scipy import sparse

from contrastive.errors import ContrastiveError

_NUMBERS = frozenset(f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8)) | {"b1", "O8", "O4", "O"}


class _Record:
    """What an object was made with: the arguments of the call that made it, and the state it was given."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments: tuple[Any, ...] = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _DType(_Record):
    """``numpy.dtype``."""

    def dtype(self) -> np.dtype:
        """The type, of numbers or of objects; no other is known."""
        name = self.arguments[0]
        if name not in _NUMBERS:
            raise ValueError(f"it holds an array of {name!r}, and numbers alone are read")
        order = self.state[1] if isinstance(self.state, tuple) else "="
        return np.dtype(name).newbyteorder({">": ">", "<": "<"}.get(order, "="))


class _Array(_Record):
    """An array by ``_reconstruct``, whose state is (version, shape, dtype, Fortran order, content)."""

    def value(self) -> Any:
        """The array."""
        _, shape, dtype, fortran, content = self.state
        return _array(content, dtype, shape, "F" if fortran else "C")


class _Buffer(_Record):
    """An array by ``_frombuffer``, as pickles of protocol 5 have it."""

    def value(self) -> Any:
        """The array."""
        content, dtype, shape, order = self.arguments[:4]
        return _array(content, dtype, shape, order)


class _Scalar(_Record):
    """A number by ``numpy…scalar``."""

    def value(self) -> Any:
        """The number."""
        dtype, content = self.arguments
        return _array(content, dtype, (), "C")[()]


class _Sparse(_Record):
    """``scipy.sparse.csr_matrix``."""

    def value(self) -> Any:
        """The matrix, every index of it checked."""
        state = {key: plain(value) for key, value in self.state.items()}
        shape = state["_shape"] if "_shape" in state else state["shape"]
        return checked_csr(state["data"], state["indices"], state["indptr"], shape)


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Record,
    ("numpy", "dtype"): _DType,
    # Python 3 writes bytes so for protocols that have none
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
    ("__builtin__", "bytes"): lambda *_: b"",
    ("collections", "defaultdict"): lambda *_: {},
    ("__builtin__", "list"): list,
    ("builtins", "list"): list,
    **{
        (f"numpy.{core}.{module}", name): record
        for core in ("core", "_core")
        for module, name, record in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _Scalar),
            ("numeric", "_frombuffer", _Buffer),
        )
    },
    **{(module, "csr_matrix"): _Sparse for module in ("scipy.sparse.csr", "scipy.sparse._csr")},
}


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined, misc]
    """Python's own, not that of C, whose memo takes 64 GB where a pickle of ten bytes says so."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither an array nor a list")
        return _KNOWN[module, name]


def unpickle(file: IO[bytes], where: str) -> Any:
    """Read arrays, SciPy's sparse matrices, and lists and dictionaries of numbers.

    Raises:
        ContrastiveError: damaged, or anything else in it, such as code; ``where`` is named.
    """
    try:
        return plain(_Unpickler(file, encoding="latin1").load())
    except Exception as error:  # a damaged pickle can fail in any way
        raise ContrastiveError(f"{where} was not opened: {str(error) or type(error).__name__}") from error


def plain(value: Any) -> Any:
    """A value with arrays where records stood."""
    if isinstance(value, dict):
        return {plain(key): plain(held) for key, held in value.items()}
    if isinstance(value, list):
        return [plain(held) for held in value]
    if isinstance(value, _Record):
        return value.value()  # type: ignore[attr-defined]
    return value


def _array(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    kind = dtype.dtype()
    shape = tuple(int(side) for side in shape)
    if kind.hasobject:
        array = np.empty(len(content), dtype=object)
        array[:] = [plain(held) for held in content]
        return array.reshape(shape, order=order)  # type: ignore[call-overload]
    raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
    return np.frombuffer(raw, dtype=kind).reshape(shape, order=order).astype(kind.newbyteorder("="))  # type: ignore[call-overload]


def checked_csr(data: Any, indices: Any, indptr: Any, shape: Any) -> sparse.csr_matrix:
    """A SciPy matrix whose every index is checked: its native code trusts them.

    Raises:
        ValueError: parts that are no matrix.
    """
    rows, columns = (int(side) for side in shape)
    parts = [np.asarray(part) for part in (data, indices, indptr)]
    kinds = [part.dtype.kind for part in parts]
    if any(part.ndim != 1 for part in parts) or kinds[0] not in "biuf" or not set(kinds[1:]) <= {"i", "u"}:
        raise ValueError("a sparse matrix has parts that are no rows of numbers")
    values, columns_of, starts = parts
    # SciPy's own check passes over all others where the last of these is negative
    if len(starts) != rows + 1 or starts[0] != 0 or (np.diff(starts.astype(np.int64)) < 0).any():
        raise ValueError("a sparse matrix has rows that do not start where the one before ends")
    if len(values) != len(columns_of) or len(values) < starts[-1]:
        raise ValueError(f"a sparse matrix has {len(values)} values where its rows say {int(starts[-1])}")
    matrix = sparse.csr_matrix((values, columns_of, starts), shape=(rows, columns))
    matrix.check_format(full_check=True)
    return matrix
