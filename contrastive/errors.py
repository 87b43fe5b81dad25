"""The one exception for what a user can mend: it is printed as a message, without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ContrastiveError(Exception):
    """Bad input, named: what was given, where, and what to do about it."""

    def __str__(self) -> str:
        # torch hands on what a DataLoader's worker raised as the text of its whole traceback
        return super().__str__().rpartition(f"{__name__}.ContrastiveError: ")[2].strip()


@contextmanager
def reading(source: object) -> Iterator[None]:
    """Turn whatever a parser raises on a damaged file into a ContrastiveError that names the source.

    For formats whose parsers, NumPy's, SciPy's and others, fail on damaged bytes in any way. A message
    of ours from within stays as it is, with the source before it where it does not name it.

    Raises:
        ContrastiveError: the block raised an Exception.
    """
    try:
        yield
    except ContrastiveError as error:
        if str(source) in str(error):
            raise
        raise ContrastiveError(f"{source}: {error}") from error
    except OSError as error:
        raise ContrastiveError(f"{source} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) and str(error) else repr(error)
        raise ContrastiveError(f"{source} cannot be read: {' '.join(reason.split())}") from error
