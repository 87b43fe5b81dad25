"""The items whose features are most similar to those of others, found exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from contrastive.errors import ContrastiveError
from contrastive.features import FrozenEncoder, accelerator

Index = Literal["sklearn", "faiss"]


@dataclass(frozen=True)
class Query:
    """What neighbours are asked for.

    Attributes:
        name: an item's number, a path, or a SMILES.
        place: its number in the data; None where it is not of the data.
        item: what the encoder takes of it, a batch of one; None where it is of the data.
    """

    name: str
    place: int | None = None
    item: Any = None


def nearest(
    encoder: FrozenEncoder | None,
    h: np.ndarray,
    queries: Sequence[Query],
    *,
    k: int,
    index: Index = "sklearn",
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The k items nearest to each query by the cosine of their features, exactly; a query is not its own.

    Args:
        encoder: encodes the queries that are not of the data; None where all are.
        h: ``(N, D)`` float32 features of the data.
        queries: at least one.
        k: neighbours; all where there are fewer.
        index: what searches.

    Returns:
        For each query, int64 places and float32 cosines, the greatest first.
    """
    bank = _unit(h)
    asked = np.stack([bank[q.place] if q.place is not None else _encoded(encoder, q) for q in queries])
    search = _search_faiss if index == "faiss" else _search_sklearn
    places, cosines = search(bank, asked, min(k + 1, len(bank)))
    found = []
    for query, place, cosine in zip(queries, places, cosines):
        others = place != query.place if query.place is not None else np.ones(len(place), bool)
        found.append((place[others][:k], cosine[others][:k]))
    return found


def _unit(h: np.ndarray) -> np.ndarray:
    return (h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-12)).astype(np.float32)


@torch.inference_mode()
def _encoded(encoder: FrozenEncoder | None, query: Query) -> np.ndarray:
    assert encoder is not None
    device = accelerator()
    return _unit(encoder.to(device)(query.item.to(device)).float().cpu().numpy())[0]


def _search_sklearn(bank: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    distances, places = (
        NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(bank).kneighbors(queries)
    )
    return places, 1 - distances


def _search_faiss(bank: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        import faiss
    except ImportError as error:
        raise ContrastiveError(
            "--index faiss needs faiss: pip install 'contrastive-pretraining[faiss]'"
        ) from error
    flat = faiss.IndexFlatIP(bank.shape[1])
    flat.add(bank)
    cosines, places = flat.search(queries, k)
    return places, cosines
