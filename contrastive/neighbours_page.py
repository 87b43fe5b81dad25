"""Queries and their neighbours as a page of HTML that holds its pictures, and as one picture."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from contrastive.data.rdkit_cache import import_rdkit

SIDE = 160  # pixels of a picture


@dataclass(frozen=True)
class Picture:
    """An item as it is shown.

    Attributes:
        image: a PIL image of it; None where there is no drawing.
        caption: what it is.
        cosine: its similarity to the query; None of a query.
    """

    image: Image.Image | None
    caption: str
    cosine: float | None = None


@dataclass(frozen=True)
class Row:
    """A query and its neighbours, the nearest first; ``place`` is the query's number in the data."""

    query: Picture
    neighbours: list[Picture]
    place: int | None = None


def picture_of(item: Tensor | str) -> Image.Image:
    """An image ``(C, H, W)``, or a molecule by its SMILES, as a square of 160 pixels."""
    if isinstance(item, str):
        chem = import_rdkit()
        from rdkit.Chem import Draw

        return Draw.MolToImage(chem.MolFromSmiles(item), size=(SIDE, SIDE)).convert("RGB")
    image = to_pil_image(item.cpu()).convert("RGB")
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # small images as the squares they are made of, large ones smoothly
    image = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    square = Image.new("RGB", (SIDE, SIDE), "white")
    square.paste(image, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return square


_STYLE = f"""
body {{ font: 13px/1.35 system-ui, sans-serif; margin: 24px; color: #222; }}
h1 {{ font-size: 17px; font-weight: 600; }}
.row {{ display: flex; flex-wrap: wrap; gap: 10px; margin: 0 0 20px; padding: 10px; background: #f6f6f4; }}
figure {{ margin: 0; width: {SIDE}px; }}
figure.query img {{ outline: 3px solid #c33; }}
img {{ width: {SIDE}px; height: {SIDE}px; display: block; background: #fff; }}
figcaption {{ overflow-wrap: anywhere; padding-top: 3px; }}
b {{ font-weight: 600; }}
"""


def write_page(rows: Sequence[Row], title: str) -> str:
    """The text of a page that needs no other file, a block a query."""
    blocks = []
    for row in rows:
        figures = [_figure(row.query, "query"), *(_figure(picture, "") for picture in row.neighbours)]
        blocks.append(f'<div class="row">{"".join(figures)}</div>')
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    body = [f"<h1>{html.escape(title)}</h1>", *blocks]
    lines = ["<!doctype html>", f'<html lang="en"><head>{head}</head><body>', *body, "</body></html>"]
    return "\n".join(lines) + "\n"


def _figure(picture: Picture, kind: str) -> str:
    data = io.BytesIO()
    assert picture.image is not None
    picture.image.save(data, "PNG")
    source = base64.b64encode(data.getvalue()).decode()
    first = "query" if picture.cosine is None else f"{picture.cosine:.3f}"
    caption = f"<b>{first}</b> {html.escape(picture.caption)}"
    alt = html.escape(picture.caption, quote=True)
    image = f'<img alt="{alt}" src="data:image/png;base64,{source}">'
    return f'<figure class="{kind}">{image}<figcaption>{caption}</figcaption></figure>'


def write_sheet(rows: Sequence[Row], file: Path) -> None:
    """Draw a row a query, the query first, with cosines and short captions, as a PNG."""
    from matplotlib.figure import Figure  # no pyplot, whose backend is the caller's; it takes long to import
    from matplotlib.patches import Rectangle

    width = 1 + max(len(row.neighbours) for row in rows)
    figure = Figure(figsize=(1.25 * width, 1.6 * len(rows)))
    axes = figure.subplots(len(rows), width, squeeze=False)
    for line, row in zip(axes, rows):
        for axis in line:
            axis.axis("off")
        for axis, picture in zip(line, [row.query, *row.neighbours]):
            axis.imshow(picture.image)
            axis.set_title(_short(picture), fontsize=6.5)
    for line in axes:
        box = Rectangle((0, 0), SIDE - 1, SIDE - 1, fill=False, edgecolor="#c33", linewidth=2)
        line[0].add_patch(box)
    figure.tight_layout(pad=0.4)
    figure.savefig(file, dpi=150, format="png")


def _short(picture: Picture) -> str:
    """The cosine over what fits in 20 letters: the number and the class, or the number alone."""
    words = picture.caption.split(" · ")
    shown = " ".join(words[:2])
    if len(shown) > 20:
        shown = words[0] if len(words) > 1 else f"{words[0][:19]}…"
    return f"{'query' if picture.cosine is None else f'{picture.cosine:.3f}'}\n{shown}"
