"""k nearest neighbours, weighted by similarity: the evaluation that needs no training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of queries that the weighted vote of their k nearest neighbours classifies right.

    Similarity is the cosine, a neighbour's weight exp(similarity / temperature), as in Wu et al. 2018
    (arXiv 1805.01978), which takes k = 200 of ImageNet; small sets want fewer.

    Args:
        bank: ``(M, D)`` float features with known labels.
        bank_labels: ``(M,)`` int64.
        queries: ``(N, D)`` float.
        labels: ``(N,)`` int64, the truth.
        k: neighbours, at most M.
        temperature: of the weights.
    """
    one_hot = F.one_hot(bank_labels, int(max(bank_labels.max(), labels.max())) + 1).float()
    votes = nearest_votes(bank, one_hot, queries, k=k, temperature=temperature)
    return float((votes.argmax(1) == labels).float().mean())


def nearest_votes(
    bank: Tensor, values: Tensor, queries: Tensor, *, k: int, temperature: float = 0.07, chunk: int = 1024
) -> Tensor:
    """The sum of the values of each query's k nearest neighbours, weighted by exp(cosine / temperature).

    Args:
        bank: ``(M, D)`` float features.
        values: ``(M, V)`` float.
        queries: ``(N, D)`` float features.
        k: neighbours, at most M.
        temperature: of the weights, which are divided by exp(1 / temperature) to keep them at most 1.
        chunk: queries at a time, which bounds the memory to ``chunk × max(M, k V)``.

    Returns:
        ``(N, V)`` float.
    """
    bank, queries = F.normalize(bank.float(), dim=1), F.normalize(queries.float(), dim=1)
    sums = []
    for part in queries.split(chunk):
        similarity, neighbour = (part @ bank.T).topk(min(k, len(bank)), dim=1)
        weight = ((similarity - 1) / temperature).exp()
        sums.append(torch.einsum("qk,qkv->qv", weight, values[neighbour]))
    return torch.cat(sums)
