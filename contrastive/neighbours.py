"""``contrastive neighbours``: the items most similar to some, as a page of pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contrastive.data.image_dataset import ImageDataset
from contrastive.data.link_table import Links
from contrastive.data.loading import Split
from contrastive.data.molecules import MoleculeDataset
from contrastive.data.node_files import NodeDataset
from contrastive.errors import ContrastiveError
from contrastive.evaluation.runs import results_folder
from contrastive.feature_cache import cached_features
from contrastive.features import FrozenEncoder, load_encoder
from contrastive.inputs import graph_batch, image_batch
from contrastive.items import image_size_of, num_items, read_items, source_of, unit_of
from contrastive.methods.links import is_link_run, node_features, open_links
from contrastive.nearest import Index, Query, nearest
from contrastive.neighbours_page import Picture, Row, picture_of, write_page, write_sheet
from contrastive.report import print_table, require_writable, write_json, write_whole


def neighbours(
    run: str,
    *,
    query: str,
    data: str | None = None,
    k: int = 10,
    index: Index = "sklearn",
    split: Split = "all",
    smiles_column: str | None = None,
    batch_size: int = 512,
    download: bool = False,
    cache: bool = True,
    output: str | None = None,
) -> None:
    """Show the items whose features are most similar to those of one item or several.

    Similarity is the cosine, and the search is exact. Prints a table, and writes neighbours.json,
    neighbours.html, a page with all pictures inside, and neighbours.png: images as they are read, molecules
    drawn by RDKit. Nodes and graphs without chemistry have the table alone. Nodes of a run of link prediction
    are called by their names.

    Args:
        run: a run folder, a checkpoint or an export.
        query: the file of an image, a SMILES, the number of an item of the data (a node, from 0), or the name
            of a node that has links; several as A,B or ["A", "B"].
        data: where neighbours are looked for, a source of the kind that the run was trained on (default: what
            it was trained on).
        k: neighbours.
        index: sklearn, or faiss, which is faster for many items (the extra faiss).
        split: of images, train, test, or all of the source, as embed writes them; other sources are searched
            whole.
        smiles_column: of a table of molecules (default: the one named smiles).
        batch_size: items encoded at a time.
        download: whether torchvision may download the data.
        cache: keep features in ~/.cache/contrastive and use those that are there.
        output: the folder to write to (default: plots/neighbours in the run folder).
    """
    if k < 1:
        raise ContrastiveError(f"--k is {k}; expected 1 or more")
    if is_link_run(run):
        neighbours_of_nodes(run, parse_names(query), k, index=index, source=data, output=output)
        return
    encoder = load_encoder(run)
    folder = Path(output) if output else results_folder(Path(run)).with_name("plots") / "neighbours"
    require_writable(folder / "neighbours.json")
    source = source_of(encoder, data)
    dataset = read_items(encoder, source, split, smiles_column=smiles_column, download=download)
    queries = [parse_query(name, encoder, dataset, source) for name in parse_names(query)]
    h = cached_features(encoder, dataset, batch_size=batch_size, progress="Encoding", enabled=cache)
    rows = [
        _row(asked, dataset, places, similarities)
        for asked, (places, similarities) in zip(queries, nearest(encoder, h, queries, k=k, index=index))
    ]
    _print(rows, source, len(h))
    write_json(folder / "neighbours.json", _content(rows, run, source, len(h)))
    print(f"result: {folder / 'neighbours.json'}")
    if rows[0].query.image is not None:
        title = f"The {k} nearest of {len(h)} {unit_of(encoder, source)} of {source}"
        page = write_page(rows, title)
        write_whole(folder / "neighbours.html", lambda part: part.write_text(page))
        write_whole(folder / "neighbours.png", lambda part: write_sheet(rows, part))
        print(f"page: {folder / 'neighbours.html'}\npicture: {folder / 'neighbours.png'}")


def neighbours_of_nodes(
    run: str,
    names: Sequence[str],
    k: int,
    *,
    index: Index = "sklearn",
    source: str | None = None,
    output: str | None = None,
) -> None:
    """Print and write the nodes most similar to some, of the same type, by the features of a link model.

    Args:
        run: a run folder of link prediction.
        names: of the nodes asked about.
        k: neighbours.
        index: what searches.
        source: the links, where they are no longer where the run read them.
        output: the folder of neighbours.json (default: plots/neighbours in the run folder).

    Raises:
        ContrastiveError: a name that no node has.
    """
    module, opened = open_links(run, source=source)
    assert opened.split is not None
    links = opened.split.links
    h = node_features(module).numpy()
    found = []
    asked = [(name, place) for name in names for place in _places(name, links, opened.source)]
    for name, place in asked:
        same = np.flatnonzero(links.node_type == links.node_type[place])
        query = Query(name, place=int(np.searchsorted(same, place)))
        ((places, cosines),) = nearest(None, h[same], [query], k=k, index=index)
        near = [(links.nodes[i], float(cosine)) for i, cosine in zip(same[places], cosines)]
        kind = links.node_types[int(links.node_type[place])]
        heading = f"nearest to {name}, of {len(same)} of type {kind}"
        print_table("", [heading, "cosine"], [[name, f"{cosine:.4f}"] for name, cosine in near])
        found.append({"query": name, "type": kind, "neighbours": [{"node": n, "cosine": c} for n, c in near]})
    folder = Path(output) if output else Path(run) / "plots" / "neighbours"
    write_json(folder / "neighbours.json", {"run": run, "source": opened.source, "queries": found})
    print(f"result: {folder / 'neighbours.json'}")


def _places(name: str, links: Links, source: Any) -> list[int]:
    """The nodes of a name, which differ in type: user 7 and item 7."""
    places = [place for place, node in enumerate(links.nodes) if node == name]
    if not places:
        raise ContrastiveError(
            f"{source} has no node {name!r}; its {links.num_nodes} nodes are called like "
            f"{', '.join(links.nodes[:3])}"
        )
    return places


def parse_names(text: str) -> list[str]:
    """Queries of a command line: ``A,B``, a JSON list, or a file whose name has a comma."""
    if Path(text).is_file():
        return [text]
    if text.startswith("["):  # an atom in brackets begins a SMILES too
        try:
            names = json.loads(text)
            if isinstance(names, list):
                return [str(name) for name in names]
        except ValueError:
            pass
    return [name.strip() for name in text.split(",")]


def parse_query(name: str, encoder: FrozenEncoder, dataset: Any, source: str) -> Query:
    """Find or read what a query names.

    Raises:
        ContrastiveError: a number beyond the data, or no image and no SMILES.
    """
    unit = unit_of(encoder, source)
    if name.isdecimal() and not Path(name).is_file():
        if int(name) >= num_items(dataset):
            raise ContrastiveError(
                f"{source} has {num_items(dataset)} {unit}, numbered from 0; there is no {name}"
            )
        return Query(name, place=int(name))
    if unit == "images":
        return Query(name, item=image_batch(encoder, [name], image_size_of(encoder) or dataset.image_size))
    if unit == "molecules":
        return Query(name, item=graph_batch(encoder, [name]))
    raise ContrastiveError(f"the query {name!r} is no number; give that of one of the {unit} of {source}")


def _row(query: Query, dataset: Any, places: np.ndarray, cosines: np.ndarray) -> Row:
    pictures = [
        Picture(_image(dataset, place), _caption(dataset, place), float(cosine))
        for place, cosine in zip(places.tolist(), cosines)
    ]
    if query.place is not None:
        return Row(
            Picture(_image(dataset, query.place), _caption(dataset, query.place)), pictures, query.place
        )
    shown = query.name if isinstance(dataset, MoleculeDataset) else query.item[0]
    return Row(Picture(picture_of(shown), query.name), pictures)


def _image(dataset: Any, place: int) -> Any:
    """A picture of an item; None where there is no drawing of it."""
    if isinstance(dataset, ImageDataset):
        return picture_of(dataset.__getitems__([place]).input[0])
    return picture_of(dataset.smiles[place]) if isinstance(dataset, MoleculeDataset) else None


def _caption(dataset: Any, place: int) -> str:
    """An item's number, its class or targets where they are known, and its path or SMILES."""
    words = [f"#{place}"]
    if dataset.labels is not None:
        label, names = dataset.labels[place], getattr(dataset, "classes", [])
        if label.ndim:
            words += [f"{label[i]:g}" for i in range(min(len(label), 3))]
        elif int(label) >= 0:
            words.append(names[int(label)] if names else str(int(label)))
    if isinstance(dataset, MoleculeDataset):
        words.append(dataset.smiles[place])
    elif isinstance(dataset, ImageDataset) and dataset.paths is not None:
        words.append(Path(dataset.paths[place]).name)
    elif isinstance(dataset, NodeDataset):
        words.append(f"degree {int((dataset.graph.dst == place).sum())}")
    return " · ".join(words)


def _print(rows: Sequence[Row], source: str, number: int) -> None:
    for row in rows:
        print_table(
            f"nearest to {row.query.caption}, of {number} of {source}",
            ("neighbour", "cosine"),
            [(picture.caption, f"{picture.cosine:.4f}") for picture in row.neighbours],
        )


def _content(rows: Sequence[Row], run: str, source: str, number: int) -> dict[str, Any]:
    return {
        "run": run,
        "data": source,
        "num_items": number,
        "metric": "cosine, exact",
        "rows": [
            {
                "query": row.query.caption,
                "place": row.place,
                "neighbours": [{"item": p.caption, "cosine": p.cosine} for p in row.neighbours],
            }
            for row in rows
        ],
    }
