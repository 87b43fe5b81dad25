"""Files of SMILES: .csv and .tsv tables with targets, .smi and .txt lists."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contrastive.errors import ContrastiveError

_TABLES = {".csv": ",", ".tsv": "\t"}
_WORDS = {"": np.nan, "na": np.nan, "n/a": np.nan, "true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
_LISTS = (".smi", ".smiles", ".txt")
_LARGEST = float(np.finfo(np.float32).max)  # larger ones are infinite in the targets
_HEADERS = ("smiles", "canonical_smiles", "isomeric_smiles")


@dataclass(frozen=True)
class SmilesTable:
    """SMILES as they are written, with where they are from.

    Attributes:
        source: the file.
        smiles: one a molecule; an empty one where a table has a blank.
        lines: the line each ends at, from 1.
        targets: ``(N, T)`` float32 with NaN where blank, or None.
        target_names: the T columns.
    """

    source: str
    smiles: list[str]
    lines: list[int]
    targets: np.ndarray | None = None
    target_names: tuple[str, ...] = ()


def read_smiles(
    source: str | Path, *, smiles_column: str | None = None, targets: Sequence[str] = ()
) -> SmilesTable:
    """Read a file of SMILES; none of them is parsed yet.

    A table is UTF-8 and has a header. Its columns are separated by what its name says, or by what the header
    shows: a comma, a semicolon or a tab. Of targets a blank or NA is NaN, true and yes are 1, false and no 0.

    Raises:
        ContrastiveError: no such file, another kind of file, a column that is not there, or a target that is
            no number; the message names it, with its line.
    """
    path = Path(source).expanduser()
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]
    if kind not in (*_TABLES, *_LISTS):
        raise ContrastiveError(
            f"{source}: expected a .csv, .tsv, .smi or .txt file of SMILES, plain or gzipped"
        )
    text = _text(path)
    if kind in _TABLES:
        return _read_table(str(source), text, _TABLES[kind], smiles_column, targets)
    if targets or smiles_column:
        raise ContrastiveError(f"{source} has no named columns to read; targets need a .csv or .tsv")
    return _read_list(str(source), text)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ContrastiveError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        what = getattr(error, "strerror", None) or error
        raise ContrastiveError(f"{path} cannot be read: {what}") from error


def _read_list(source: str, text: str) -> SmilesTable:
    """The first token of each line; a header, blank lines and comments are left out, as RDKit does."""
    smiles: list[str] = []
    lines: list[int] = []
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        tokens = line.split(maxsplit=1)
        if not tokens or tokens[0].startswith("#") or (not smiles and tokens[0].lower() in _HEADERS):
            continue
        smiles.append(tokens[0])
        lines.append(number)
    return SmilesTable(source, smiles, lines)


def _read_table(
    source: str, text: str, delimiter: str, smiles_column: str | None, targets: Sequence[str]
) -> SmilesTable:
    if not text.strip():
        raise ContrastiveError(f"{source} is empty; give a table with a header")
    separator = _separator(text, delimiter, smiles_column)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        place = _smiles_place(source, header, smiles_column)
        places = [_place(source, header, name) for name in targets]
        smiles: list[str] = []
        lines: list[int] = []
        numbers: list[list[float]] = []
        for row in reader:
            if not row:
                continue
            if any(row[len(header) :]):
                raise ContrastiveError(
                    f"{source}, line {reader.line_num}: {len(row)} fields, but the header has {len(header)}; "
                    f"put a field that holds {separator!r} in quotation marks"
                )
            smiles.append(row[place].strip() if place < len(row) else "")
            lines.append(reader.line_num)
            numbers.append([_number(source, row, header, i, reader.line_num) for i in places])
    except csv.Error as error:
        raise csv_fault(source, reader.line_num, error) from error
    values = np.array(numbers, dtype=np.float32).reshape(-1, len(places)) if places else None
    return SmilesTable(source, smiles, lines, values, tuple(targets))


def csv_fault(source: object, line: int, error: csv.Error) -> ContrastiveError:
    """What a user can do about a table that the strict reader of ``csv`` refuses, at the line it got to."""
    return ContrastiveError(
        f'{source}, line {line}: {error}; a field that begins with " ends with one and doubles those inside'
    )


def _separator(text: str, usual: str, smiles_column: str | None) -> str:
    """The usual one, unless the header has the column of SMILES by another, as Excel's ``;``, alone."""
    head = text.splitlines()[0]
    for separator in (usual, ",", ";", "\t"):
        try:
            names = [name.strip() for name in next(csv.reader([head], delimiter=separator), [])]
        except csv.Error:  # which the reading of the table meets too, and names
            continue
        if smiles_column in names or (smiles_column is None and "smiles" in map(str.lower, names)):
            return separator
    return usual


def _smiles_place(source: str, header: list[str], name: str | None) -> int:
    if name is not None:
        return _place(source, header, name)
    found = [i for i, column in enumerate(header) if column.lower() == "smiles"]
    if len(found) != 1:
        raise ContrastiveError(
            f"{source} has {len(found)} columns named smiles, expected 1; name it with smiles_column. "
            f"Its columns: {_listed(header)}"
        )
    return found[0]


def _place(source: str, header: list[str], name: str) -> int:
    if header.count(name) != 1:
        close = ", ".join(difflib.get_close_matches(name, header, n=5))
        raise ContrastiveError(
            f"{source} has {header.count(name)} columns named {name!r}, expected 1"
            f"{f'; the nearest: {close}' if close else ''}. Its columns: {_listed(header)}"
        )
    return header.index(name)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:30]) + (f", … ({len(names)} in all)" if len(names) > 30 else "")


def _number(source: str, row: list[str], header: list[str], place: int, line: int) -> float:
    text = row[place].strip() if place < len(row) else ""
    try:
        number = _WORDS[text.lower()] if text.lower() in _WORDS else float(text)
        if abs(number) > _LARGEST:
            raise ValueError
        return number
    except ValueError:
        raise ContrastiveError(
            f"{source}, line {line}: {header[place]} is {text!r}, expected a number or a blank; "
            "write classes as 0 and 1, and decimals with a point"
        ) from None
