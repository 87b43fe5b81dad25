"""Features of the nodes of links, from a file of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contrastive.data.link_table import Links, places
from contrastive.errors import ContrastiveError


def read_features(file: str | Path, links: Links) -> Tensor:
    """Features of the nodes by name, ``(N, F)`` float32 with the mean 0 and the deviation 1 over those named.

    Nodes that the file does not name get zeros.

    Args:
        file: a .npz with ``names`` ``(M,)``, each once, and ``h`` ``(M, F)``; ``types`` ``(M,)`` too where a
            name is of nodes of several types, as user 7 and item 7.
        links: the nodes.

    Raises:
        ContrastiveError: no such file, no such arrays, a value that is not finite, a name that is there
            twice or of two nodes, or no node named.
    """
    names, types, h = _feature_arrays(file)
    keys, nodes = (names, links.nodes) if types is None else (list(zip(types, names)), links.typed_nodes)
    rows = places(keys, nodes)
    found = rows >= 0
    if not found.any():
        raise ContrastiveError(f"{file} has features of {len(names)} names, of which none is a node")
    counts = rows[found].bincount(minlength=len(names))
    for wrong, what in (
        (places(keys, keys) != torch.arange(len(keys)), "is named twice"),
        (counts > 1, "is the name of nodes of several types; add types (M,), those of the nodes"),
        ((counts > 0) & ~h.isfinite().all(dim=1), "has features that are not finite"),
    ):
        if wrong.any():
            raise ContrastiveError(f"{file}: {names[int(wrong.nonzero()[0])]} {what}")
    out = torch.zeros(links.num_nodes, h.shape[1])
    own = h[rows[found]]
    spread = own.std(dim=0, correction=min(1, len(own) - 1)).clamp(min=1e-6)
    out[found] = ((own - own.mean(dim=0)) / spread).float()
    return out


def _feature_arrays(file: str | Path) -> tuple[list[str], list[str] | None, Tensor]:
    """Names, types where given, and h ``(M, F)`` float64: in float32 a constant would have a spread."""
    try:
        with np.load(Path(file).expanduser(), allow_pickle=False) as arrays:
            names, h = arrays["names"].astype(str).tolist(), torch.from_numpy(arrays["h"]).double()
            types = arrays["types"].astype(str).tolist() if "types" in arrays else None
        if h.ndim != 2 or len(names) != len(h) or len(types or names) != len(h):
            raise ValueError(f"{len(names)} names for h of the shape {tuple(h.shape)}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ContrastiveError(f"{file} is no .npz with names (M,) and h (M, F) of nodes: {error}") from error
    return names, types, h
