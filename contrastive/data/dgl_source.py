"""Data sets of DGL by name."""

from __future__ import annotations

import inspect
from typing import Any

from contrastive.errors import ContrastiveError


def read_dgl_items(source: str) -> list[Any]:
    """The items of ``dgl:NAME``, a class of ``dgl.data``, optionally with arguments, ``dgl:NAME:ARGUMENT``.

    Raises:
        ContrastiveError: DGL is missing, has no such class, or cannot read the data.
    """
    _, name, *arguments = source.split(":")
    try:
        import dgl.data
    except ImportError as error:
        raise ContrastiveError("dgl: sources need DGL (Python < 3.12): pip install dgl==1.1.3") from error
    cls = getattr(dgl.data, name, None)
    if not inspect.isclass(cls) or not issubclass(cls, dgl.data.DGLDataset):  # others fetch, and unpack
        raise ContrastiveError(f"dgl.data has no {name}; see docs.dgl.ai for the names of its data sets")
    try:
        dataset: Any = cls(*arguments)
        return [dataset[i] for i in range(len(dataset))]
    except Exception as error:  # a data set of DGL's can fail in any way, downloading among them
        raise ContrastiveError(f"{source} cannot be read: {error}") from error
