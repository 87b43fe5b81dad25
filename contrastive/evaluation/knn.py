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
    chunk: int = 1024,
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
        chunk: queries at a time, which bounds the memory to ``chunk × M``.
    """
    bank, queries = F.normalize(bank.float(), dim=1), F.normalize(queries.float(), dim=1)
    num_classes = int(max(bank_labels.max(), labels.max())) + 1
    correct = 0
    for start in range(0, len(queries), chunk):
        similarity, neighbour = (queries[start : start + chunk] @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(similarity), num_classes, device=bank.device)
        votes.scatter_add_(1, bank_labels[neighbour], (similarity / temperature).exp())
        correct += int((votes.argmax(1) == labels[start : start + chunk]).sum())
    return correct / len(queries)
