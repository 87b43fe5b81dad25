"""Predicted links as a page to be read and checked."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote_plus

_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:62em;padding:0 1em}"
    "h1{font-size:1.6em}table{border-collapse:collapse;width:100%}"
    "td,th{padding:.35em .7em;text-align:left;border-bottom:1px solid #ddd}"
    "th{position:sticky;top:0;background:#fff;border-bottom:2px solid #888}"
    "td:nth-child(1),td:nth-child(5),td:nth-child(6),th:nth-child(5),th:nth-child(6)"
    "{text-align:right;font-variant-numeric:tabular-nums}"
)


def page(rows: Sequence[dict[str, Any]], run: str) -> str:
    """Predictions as a page whose rows ask PubMed for both ends and the relation."""
    lines = []
    for i, row in enumerate(rows, start=1):
        names = [_searchable(str(row[key])) for key in ("head", "tail", "title")]
        query = "https://pubmed.ncbi.nlm.nih.gov/?term=" + "+AND+".join(map(quote_plus, names))
        cells = [
            str(i),
            _linked(str(row["head"])),
            html.escape(str(row["title"])),
            _linked(str(row["tail"])),
            f"{row['score']:.2f}",
            f"{row['probability']:.4f}",
        ]
        row_cells = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f'<tr>{row_cells}<td><a href="{html.escape(query)}">PubMed</a></td></tr>\n')
    header = "".join(
        f"<th>{name}</th>" for name in ("", "head", "relation", "tail", "score", "probability", "check")
    )
    return (
        "<!doctype html><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>Predicted links</title><style>{_STYLE}</style>"
        "<h1>Predicted links that are not in the data</h1>"
        f"<p>The best scored pairs of <code>{html.escape(run)}</code>. A score is no evidence: each row is "
        "to be checked against the literature. The probability is that of training, with its sampled "
        "negatives, not that of the population.</p>\n"
        f"<table><thead><tr>{header}</tr></thead>\n"
        f"<tbody>{''.join(lines)}</tbody></table>\n"
    )


def _compound(name: str) -> int | None:
    """PubChem's number in an identifier of STITCH, 2173 in CID000002173."""
    return int(name[3:]) if name.startswith("CID") and name[3:].isdigit() else None


def _searchable(name: str) -> str:
    """What to ask a search for: a compound's number as PubChem writes it, another name as it is."""
    return name if _compound(name) is None else f"CID {_compound(name)}"


def _linked(name: str) -> str:
    """A compound as a link to its page at PubChem, which tells its names."""
    number = _compound(name)
    if number is None:
        return html.escape(name)
    return f'<a href="https://pubchem.ncbi.nlm.nih.gov/compound/{number}">{html.escape(name)}</a>'
