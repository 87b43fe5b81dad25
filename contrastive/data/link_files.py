"""Files of links between nodes: ``head, relation, tail``, Decagon's official columns, ratings."""

from __future__ import annotations

import csv
import gzip
import io
import logging
import math
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contrastive.data.link_columns import Columns, contract, known_layout
from contrastive.data.link_table import Links, select_relations, with_triples
from contrastive.data.tables import csv_fault
from contrastive.errors import ContrastiveError

log = logging.getLogger("contrastive")


@dataclass
class _Reading:
    """What has been read so far."""

    nodes: dict[tuple[str, str], int] = field(default_factory=dict)  # (type, name) to its number
    relations: dict[tuple[bool, str], int] = field(default_factory=dict)  # (context, name) to its number
    titles: dict[int, str] = field(default_factory=dict)
    undirected: dict[int, bool] = field(default_factory=dict)
    columns: tuple[array, array, array] = field(default_factory=lambda: (array("q"), array("q"), array("q")))


def read_links(
    sources: str | Path | Sequence[str | Path],
    *,
    context: Sequence[str | Path] = (),
    columns: dict[str, str] | None = None,
    types: Sequence[str] | None = None,
    undirected: bool | None = None,
    min_value: float | None = None,
) -> tuple[Links, Links]:
    """Read .csv or .tsv files, plain or gzipped, as one graph: the links to predict, and others beside them.

    The contract is a header with ``head``, ``relation`` and ``tail``. Without a ``relation`` every row is of
    the one relation ``link``. Optional columns ``head_type`` and ``tail_type`` name the nodes' types, which
    are parts of their names: user 7 is not item 7. The official files of Decagon are known by their columns.
    A context without types beside links that have them is told of: none of its nodes is one of theirs.

    Args:
        sources: the files of links to predict.
        context: files of links that are known and are not predicted, between the same nodes or others.
        columns: other names of the columns of ``sources``, as ``{head: userId, tail: movieId,
            value: rating}``; also ``relation``, ``title``, ``head_type`` and ``tail_type``.
        types: the type of all heads and that of all tails of ``sources``, as ``[user, item]``.
        undirected: whether every (u, r, v) says (v, r, u) too; by default only where the columns are
            Decagon's.
        min_value: rows whose ``value`` is below it are no links.

    Raises:
        ContrastiveError: a file that cannot be read, columns that are not there, a row that is too short, a
            blank name, a value that is no number, a node linked to itself by an undirected relation, or no
            link at all; the message names file and line.

    Returns:
        The links to predict, and those of the context, with the same nodes.
    """
    paths = [sources] if isinstance(sources, (str, Path)) else list(sources)
    reading = _Reading()
    for path in paths:
        _read_file(Path(path).expanduser(), reading, False, columns or {}, types, undirected, min_value)
    if not reading.columns[0]:
        raise ContrastiveError(f"{', '.join(map(str, paths))}: there is no link in it")
    kinds, num_nodes = dict.fromkeys(kind for kind, _ in reading.nodes), len(reading.nodes)
    for path in context:
        start = len(reading.columns[0])
        _read_file(Path(path).expanduser(), reading, True, {}, None, None, None)
        untyped = "node" not in kinds and any(kind == "node" for kind, _ in reading.nodes)
        if untyped and min(reading.columns[0][start:] + reading.columns[2][start:], default=0) >= num_nodes:
            log.warning(
                "%s: none of its nodes is one of the links to predict, which are of type %s; give it the "
                "columns head_type and tail_type",
                path,
                " and ".join(kinds),
            )
    everything = _links(reading)
    is_context = torch.tensor([context for context, _ in reading.relations])
    return select_relations(everything, ~is_context), select_relations(everything, is_context)


def _links(reading: _Reading) -> Links:
    node_types: dict[str, int] = {}
    for kind, _ in reading.nodes:
        node_types.setdefault(kind, len(node_types))
    names = [name for _, name in reading.relations]
    triples = torch.from_numpy(np.stack([np.frombuffer(c, dtype=np.int64) for c in reading.columns], axis=1))
    links = Links(
        nodes=[name for _, name in reading.nodes],
        node_type=torch.tensor([node_types[kind] for kind, _ in reading.nodes]),
        node_types=list(node_types),
        relations=names,
        titles=[reading.titles.get(i, name) for i, name in enumerate(names)],
        undirected=torch.tensor([reading.undirected[i] for i in range(len(names))]),
        triples=triples,
    )
    return with_triples(links, triples)


def _read_file(
    path: Path,
    reading: _Reading,
    context: bool,
    names: dict[str, str],
    types: Sequence[str] | None,
    undirected: bool | None,
    min_value: float | None,
) -> None:
    with _rows(path) as reader:
        header = [name.strip() for name in next(reader, [])]
        layout = None if names else known_layout(header)
        if layout is None:
            layout = contract(path, header, names, types, min_value is not None)
        columns = Columns.of(layout, header, names, min_value)
        if min_value is not None and columns.value is None:
            raise ContrastiveError(
                f"{path}: min_value needs a column of values, and none is named value; name it with "
                f"columns. Its columns: {', '.join(header)}"
            )
        both = layout.undirected if undirected is None else undirected
        _read_rows(path, reader, reading, context, columns, both)


def _read_rows(
    path: Path, reader: Any, reading: _Reading, context: bool, columns: Columns, undirected: bool
) -> None:
    """Number what the rows name: the hot loop, of millions, so all in one."""
    nodes, relations = reading.nodes, reading.relations
    heads, kinds, tails = reading.columns
    layout, width, *places, value_place, lowest = columns
    head_place, tail_place, relation_place, title_place, head_type_place, tail_type_place = places
    head_type, tail_type, name, needed = layout.head_type, layout.tail_type, layout.name, columns.needed
    for row in reader:
        if len(row) != width and (len(row) < needed or any(row[width:])):
            if not row:
                continue
            raise ContrastiveError(f"{path}, line {reader.line_num}: {len(row)} columns, expected {width}")
        if lowest is not None and _value(path, row[value_place], reader.line_num) < lowest:
            continue
        if head_type_place is not None:
            head_type = row[head_type_place].strip()
        if tail_type_place is not None:
            tail_type = row[tail_type_place].strip()
        if relation_place is not None:
            name = row[relation_place].strip()
        head, tail = row[head_place].strip(), row[tail_place].strip()
        if not (head and tail and name and head_type and tail_type):
            raise ContrastiveError(f"{path}, line {reader.line_num}: a blank where a name should be")
        u = nodes.setdefault((head_type, head), len(nodes))
        v = nodes.setdefault((tail_type, tail), len(nodes))
        if undirected and u == v:
            raise ContrastiveError(f"{path}, line {reader.line_num}: {head} is linked to itself by {name}")
        r = relations.get((context, name))
        if r is None:
            r = relations[context, name] = len(relations)
            reading.undirected[r] = undirected
            if title_place is not None:
                reading.titles[r] = row[title_place].strip()
        heads.append(u)
        kinds.append(r)
        tails.append(v)


def _value(path: Path, text: str, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ContrastiveError(f"{path}, line {line}: the value is {text!r}, expected a number")
    return value


@contextmanager
def _rows(path: Path) -> Iterator[Any]:
    """The rows of a file as it is read; what is wrong with it is the user's to mend."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = (suffixes[-2:-1] if packed else suffixes[-1:]) or [""]
    if kind[0] not in (".csv", ".tsv"):
        raise ContrastiveError(f"{path}: expected a .csv or .tsv file of links, plain or gzipped")
    try:
        with (
            (gzip.open if packed else open)(path, "rb") as raw,
            io.TextIOWrapper(raw, "utf-8-sig", newline="") as text,
        ):
            reader = csv.reader(text, delimiter="," if kind[0] == ".csv" else "\t", strict=True)
            yield reader
    except csv.Error as error:
        raise csv_fault(path, reader.line_num, error) from error
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        what = getattr(error, "strerror", None) or error
        raise ContrastiveError(f"{path} cannot be read: {what}") from error
