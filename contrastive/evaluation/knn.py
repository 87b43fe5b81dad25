"""k nearest neighbours, weighted by similarity: the evaluation that needs no training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_QUERIES = 1024  # at a time, which bounds the memory to 1,024 × max(M, k T)


def knn_accuracy(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, *, k: int = 20) -> float:
    """Share of queries that `neighbour_vote` classifies right.

    Args:
        bank: ``(M, D)`` float features with known labels.
        bank_labels: ``(M,)`` int64.
        queries: ``(N, D)`` float.
        labels: ``(N,)`` int64, the truth.
        k: neighbours, at most M.
    """
    return float((neighbour_vote(bank, bank_labels, queries, k=k).argmax(1) == labels).float().mean())


def neighbour_vote(bank: Tensor, targets: Tensor, queries: Tensor, *, k: int) -> Tensor:
    """What the k nearest neighbours of each query say: the shares of the classes, or the mean of the targets.

    Similarity is the cosine, a neighbour's weight exp(cosine / 0.07), as in Wu et al. 2018 (arXiv
    1805.01978), which takes k = 200 of ImageNet; small sets want fewer.

    Args:
        bank: ``(M, D)`` float features.
        targets: ``(M,)`` int64 classes, or ``(M, T)`` float with NaN where unknown, which has no vote.
        queries: ``(N, D)`` float features.
        k: neighbours, at most M.

    Returns:
        ``(N, largest class + 1)`` or ``(N, T)`` float32; the mean of a target where no neighbour's is known.
    """
    bank, queries = F.normalize(bank.float(), dim=1), F.normalize(queries.float(), dim=1)
    votes = []
    for part in queries.split(_QUERIES):
        cosine, neighbour = (part @ bank.T).topk(min(k, len(bank)), dim=1)
        weight = ((cosine - 1) / 0.07).exp()  # at most 1
        if targets.ndim == 1:
            counts = weight.new_zeros(len(part), int(targets.max()) + 1)
            counts.scatter_add_(1, targets[neighbour], weight)
            votes.append(counts / counts.sum(1, keepdim=True))  # of one class exactly 1, which ties
        else:
            near = targets[neighbour].float()
            weight = weight[:, :, None] * ~near.isnan()
            total = weight.sum(1)
            vote = (weight * near.nan_to_num()).sum(1) / total.clamp_min(1e-30)
            votes.append(torch.where(total > 0, vote, targets.float().nanmean(0).nan_to_num()))
    return torch.cat(votes)
