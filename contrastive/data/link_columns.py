"""Which columns of a file of links hold what: ``head, relation, tail``, or Decagon's official ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from contrastive.errors import ContrastiveError

CONTRACT = ("head", "relation", "tail")
_OPTIONAL = ("title", "head_type", "tail_type", "value")


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


class Columns(NamedTuple):
    """Where in a row is what; None where there is no such column, or none that is used."""

    layout: Layout
    width: int  # of the header
    head: int
    tail: int
    relation: int | None
    title: int | None
    head_type: int | None
    tail_type: int | None
    value: int | None
    min_value: float | None

    @classmethod
    def of(cls, layout: Layout, header: list[str], names: dict[str, str], min_value: float | None) -> Columns:
        """Those of a header; ``names`` are other names of the optional ones."""

        def find(name: str | None) -> int | None:
            return header.index(name) if name in header else None

        head_type, tail_type, value = (find(names.get(key, key)) for key in _OPTIONAL[1:])
        ends = header.index(layout.head), header.index(layout.tail)
        relation = find(layout.relation)
        title = None if relation is None else find(layout.title)
        value = None if min_value is None else value
        return cls(layout, len(header), *ends, relation, title, head_type, tail_type, value, min_value)

    @property
    def needed(self) -> int:
        """Fields that a row must have."""
        return max(place for place in self[2:-1] if place is not None) + 1


def known_layout(header: list[str]) -> Layout | None:
    """That of Decagon's file which has the columns of a header, or None."""
    for layout in DECAGON:
        if layout.head in header and layout.tail in header and (layout.relation or layout.head) in header:
            return layout
    return None


def contract(
    path: Path, header: list[str], columns: dict[str, str], types: Sequence[str] | None, valued: bool
) -> Layout:
    """The layout of head, relation, tail, by those or other names.

    Without ``valued`` no value is used, without relations no title: of such columns there may be several.

    Raises:
        ContrastiveError: a column is missing or there twice, an unknown key of ``columns``, or not two types.
    """
    names = {key: columns.get(key, key) for key in (*CONTRACT, *_OPTIONAL)}
    if columns.keys() - names.keys():
        unknown = ", ".join(sorted(columns.keys() - names.keys()))
        raise ContrastiveError(f"columns names {unknown}, expected some of {', '.join(names)}")
    used = {"value": valued, "title": names["relation"] in header}
    twice = [name for key, name in names.items() if used.get(key, True) and header.count(name) > 1]
    if twice:
        raise ContrastiveError(f"{path} has the column {twice[0]} more than once; rename the others")
    missing = [names[key] for key in ("head", "tail", *columns) if names[key] not in header]
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
