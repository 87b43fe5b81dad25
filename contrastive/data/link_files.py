"""Files of links between nodes: ``head, relation, tail``, Decagon's official columns, ratings."""

from __future__ import annotations

import csv
import gzip
import io
import logging
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contrastive.data.link_table import Links, select_relations, with_triples
from contrastive.errors import ContrastiveError

log = logging.getLogger("contrastive")

CONTRACT = ("head", "relation", "tail")


@dataclass(frozen=True)
class Layout:
    """Which columns of a file hold what.

    Attributes:
        head: column of the first node.
        tail: column of the second.
        relation: column of the relation; None where the file is one relation, named ``name``.
        title: column of the relation's name for people, or None.
        head_type: type of the first node, the same in all rows.
        tail_type: of the second.
        undirected: whether (u, r, v) says the same as (v, r, u).
        name: of the relation where there is no column of it.
    """

    head: str
    tail: str
    relation: str | None = None
    title: str | None = None
    head_type: str = "node"
    tail_type: str = "node"
    undirected: bool = False
    name: str = "link"


# the columns of the Decagon distribution (Zitnik, Agrawal and Leskovec 2018, arXiv 1802.00543)
DECAGON = (
    Layout(
        "STITCH 1",
        "STITCH 2",
        "Polypharmacy Side Effect",
        "Side Effect Name",
        "drug",
        "drug",
        undirected=True,
    ),
    Layout("Gene 1", "Gene 2", None, None, "protein", "protein", undirected=True, name="protein-protein"),
    Layout("STITCH", "Gene", None, None, "drug", "protein", name="target"),
    Layout("STITCH", "Individual Side Effect", None, "Side Effect Name", "drug", "effect", name="has effect"),
)


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
    columns: dict[str, str],
    types: Sequence[str] | None,
    undirected: bool | None,
    min_value: float | None,
) -> None:
    with _rows(path) as reader:
        header = [name.strip() for name in next(reader, [])]
        layout = None if columns else _known(header)
        if layout is None:
            layout = _contract(path, header, columns, types)
        both = layout.undirected if undirected is None else undirected
        wanted = [layout.head, layout.relation, layout.tail, layout.title]
        places = [None if name is None or name not in header else header.index(name) for name in wanted]
        extra = {
            key: header.index(columns.get(key, key))
            for key in ("head_type", "tail_type", "value")
            if columns.get(key, key) in header
        }
        if min_value is not None and "value" not in extra:
            raise ContrastiveError(
                f"{path}: min_value needs a column of values, and none is named value; name it with "
                f"columns. Its columns: {', '.join(header)}"
            )
        _read_rows(path, reader, reading, context, layout, places, extra, both, min_value)


def _read_rows(
    path: Path,
    reader: Any,
    reading: _Reading,
    context: bool,
    layout: Layout,
    places: list[int | None],
    extra: dict[str, int],
    undirected: bool,
    min_value: float | None,
) -> None:
    """The hot loop: millions of rows."""
    head_place, relation_place, tail_place, title_place = places
    assert head_place is not None and tail_place is not None
    width = max(place for place in (*places, *extra.values()) if place is not None) + 1
    nodes, relations = reading.nodes, reading.relations
    heads, kinds, tails = reading.columns
    head_type, tail_type = layout.head_type, layout.tail_type
    for row in reader:
        if not row:
            continue
        if len(row) < width:
            raise ContrastiveError(
                f"{path}, line {reader.line_num}: {len(row)} columns, expected {width} or more"
            )
        if extra:
            if min_value is not None and _value(path, row[extra["value"]], reader.line_num) < min_value:
                continue
            head_type = row[extra["head_type"]] if "head_type" in extra else layout.head_type
            tail_type = row[extra["tail_type"]] if "tail_type" in extra else layout.tail_type
        head, tail = row[head_place].strip(), row[tail_place].strip()
        name = layout.name if relation_place is None else row[relation_place].strip()
        if not head or not tail or not name:
            raise ContrastiveError(f"{path}, line {reader.line_num}: a blank where a name should be")
        u = nodes.setdefault((head_type, head), len(nodes))
        v = nodes.setdefault((tail_type, tail), len(nodes))
        if undirected and u == v:
            raise ContrastiveError(f"{path}, line {reader.line_num}: {head} is linked to itself by {name}")
        r = relations.get((context, name))
        if r is None:
            r = relations[context, name] = len(relations)
            reading.undirected[r] = undirected
            if title_place is not None and relation_place is not None:
                reading.titles[r] = row[title_place].strip()
        heads.append(u)
        kinds.append(r)
        tails.append(v)


def _value(path: Path, text: str, line: int) -> float:
    try:
        return float(text)
    except ValueError:
        raise ContrastiveError(f"{path}, line {line}: the value is {text!r}, expected a number") from None


def _known(header: list[str]) -> Layout | None:
    for layout in DECAGON:
        if layout.head in header and layout.tail in header and (layout.relation or layout.head) in header:
            return layout
    return None


def _contract(path: Path, header: list[str], columns: dict[str, str], types: Sequence[str] | None) -> Layout:
    names = {key: columns.get(key, key) for key in (*CONTRACT, "title")}
    needed = [names["head"], names["tail"]] + ([names["relation"]] if "relation" in columns else [])
    missing = [name for name in needed if header.count(name) != 1]
    if missing:
        raise ContrastiveError(
            f"{path} has no column {' and no column '.join(missing)}; expected {', '.join(CONTRACT)} or the "
            f"columns of Decagon, or name them with columns. Its columns: {', '.join(header[:30])}"
        )
    if types is not None and len(types) != 2:
        raise ContrastiveError(f"types has {len(types)} names, expected the heads' and the tails'")
    head_type, tail_type = types or ("node", "node")
    return Layout(
        names["head"],
        names["tail"],
        names["relation"] if names["relation"] in header else None,
        names["title"] if names["title"] in header else None,
        head_type,
        tail_type,
    )


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
            reader = csv.reader(text, delimiter="," if kind[0] == ".csv" else "\t")
            yield reader
    except csv.Error as error:
        raise ContrastiveError(f"{path}: {error}") from error
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        what = getattr(error, "strerror", None) or error
        raise ContrastiveError(f"{path} cannot be read: {what}") from error
