"""Pickles are read as NumPy's and SciPy's own unpickling reads them, and nothing in them is called."""

import io
import os
import pickle
import pickletools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes
from scipy import sparse

from contrastive.data.pickled_arrays import checked_csr, unpickle
from contrastive.errors import ContrastiveError

NUMBERS = scalar_dtypes().filter(
    lambda dtype: dtype.kind in "iufb" and dtype.name not in ("float128", "longdouble")
)


@given(arrays(NUMBERS, array_shapes(min_dims=0, max_dims=3, min_side=0)), st.integers(2, 5), st.booleans())
@settings(max_examples=80, deadline=None)
def test_arrays_round_trip(array, protocol, fortran):
    array = np.asfortranarray(array) if fortran else array
    read = unpickle(io.BytesIO(pickle.dumps(array, protocol)), "a")
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype.newbyteorder("=")


@given(st.integers(0, 6), st.integers(1, 6), st.integers(2, 5), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_sparse_matrices_round_trip(rows, columns, protocol, seed):
    matrix = sparse.random(rows, columns, 0.4, "csr", rng=np.random.default_rng(seed))
    matrix = sparse.csr_matrix(matrix)
    held = np.array(matrix, dtype=object)
    for value, read in ((matrix, lambda v: v), (held, lambda v: v.item())):
        again = read(unpickle(io.BytesIO(pickle.dumps(value, protocol)), "m"))
        assert again.shape == matrix.shape and (again != matrix).nnz == 0


@given(st.dictionaries(st.integers(), st.lists(st.integers())), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_lists_and_dictionaries_round_trip(content, protocol):
    assert unpickle(io.BytesIO(pickle.dumps(defaultdict(list, content), protocol)), "d") == content


class Code:
    def __reduce__(self):
        return os.system, ("touch /tmp/contrastive-was-here",)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [Code(), [Code()], np.array([Code()]), eval, ValueError("x"), {1: Code}])
def test_code_is_named_and_not_run(value, protocol):
    with pytest.raises(ContrastiveError, match="f was not opened: it names "):
        unpickle(io.BytesIO(pickle.dumps(value, protocol)), "f")
    assert not os.path.exists("/tmp/contrastive-was-here")


GLOBALS = [b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n"]
GLOBALS += [
    b"cnumpy.core.multiarray\nscalar\n",
    b"cnumpy.core.numeric\n_frombuffer\n",
    b"c__builtin__\nlist\n",
]
GLOBALS += [b"c_codecs\nencode\n", b"cscipy.sparse._csr\ncsr_matrix\n", b"ccollections\ndefaultdict\n"]
CODES = [code.code.encode("latin1") for code in pickletools.opcodes if code.arg is None]
PIECES = st.sampled_from([*GLOBALS, *CODES, b"K\x01", b"U\x02f4", b"U\x01<", b"C\x04abcd", b"N", b")", b"("])


@given(st.lists(PIECES, max_size=14))
@settings(max_examples=400, deadline=None)
def test_any_program_of_what_is_known_is_read_or_refused(pieces):
    """Pickles that are put together of the names that are let through, and every instruction there is."""
    try:
        unpickle(io.BytesIO(b"\x80\x04" + b"".join(pieces) + b"."), "p")
    except ContrastiveError as error:
        assert "p was not opened" in str(error)


def test_a_pickle_that_asks_for_all_memory_gets_none():
    asks = b"\x80\x04N" + b"r\xff\xff\xff\xff" + b"."  # puts None in place 4,294,967,295 of the memo
    assert unpickle(io.BytesIO(asks), "m") is None


@pytest.mark.parametrize(
    "parts",
    [
        ([1.0], [9], [0, 1], (1, 2)),  # a column that is not there, which SciPy's code would read
        ([1.0], [-1], [0, 1], (1, 2)),
        ([1.0], [0], [0, 9], (1, 2)),
        ([1.0], [0], [5, 1], (1, 2)),
        ([1.0], [0.5], [0, 1], (1, 2)),
        (["a"], [0], [0, 1], (1, 2)),
        ([], [], [0, 1, -5], (2, 2)),  # of which SciPy checks nothing
    ],
)
def test_indices_that_would_leave_the_matrix_are_refused(parts):
    data, indices, indptr, shape = parts
    with pytest.raises(ValueError):
        checked_csr(data, indices, indptr, shape)
