"""Metrics of predicted links: of each relation, and of rankings."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def by_relation(
    relation: np.ndarray, truth: np.ndarray, score: np.ndarray, *, num_relations: int, k: int = 50
) -> dict[str, np.ndarray]:
    """AUROC, AUPRC and AP@k of every relation, from one sort of all scores.

    Args:
        relation: ``(M,)`` int, of each scored pair.
        truth: ``(M,)`` bool, whether it is a link.
        score: ``(M,)`` float, higher for links; a NaN is the lowest.
        num_relations: R.
        k: of AP@k.

    Returns:
        ``auroc``, ``auprc`` (average precision: the mean over links of the precision at their rank, equal
        scores counted as one rank) and ``ap_at_k``, each ``(R,)`` with NaN where a relation has no link or
        no other pair. AP@k is the average precision within the k best scored pairs, Σ_{i≤k} precision@i ·
        [i is a link] / min(k, #links), as Decagon's code has it (arXiv 1802.00543). Of equal scores it takes
        a random order, always the same: in the given one, links first, a constant score would have 1.
    """
    relation, truth = np.asarray(relation, dtype=np.int64), np.asarray(truth, dtype=bool)
    score = np.where(np.isnan(score), -np.inf, score)
    shuffled = np.random.default_rng(0).permutation(len(truth))
    order = np.lexsort((shuffled, -score, relation))
    relation, truth, score = relation[order], truth[order], score[order]
    counts = np.bincount(relation, minlength=num_relations)
    starts = (counts.cumsum() - counts)[relation]
    place = np.arange(len(relation)) - starts + 1
    before = np.concatenate([[0], truth.cumsum()])
    hits = before[1:] - before[starts]  # links at this place or better
    last = _last_of_ties(relation, score)
    links = np.bincount(relation, weights=truth, minlength=num_relations)
    others = counts - links
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = (hits / place)[last]
        auprc = np.bincount(relation, weights=truth * precision, minlength=num_relations) / links
        rank = (place[last] + place[_first_of_ties(relation, score)]) / 2  # from the best, ties averaged
        rank_sum = np.bincount(
            relation, weights=truth * (counts[relation] + 1 - rank), minlength=num_relations
        )
        auroc = (rank_sum - links * (links + 1) / 2) / (links * others)
        within = truth & (place <= k)
        total = np.bincount(relation, weights=within * hits / place, minlength=num_relations)
        ap_at_k = total / np.minimum(links, k)
    defined = (links > 0) & (others > 0)
    return {
        name: np.where(defined, values, np.nan)
        for name, values in (("auroc", auroc), ("auprc", auprc), ("ap_at_k", ap_at_k))
    }


def _last_of_ties(relation: np.ndarray, score: np.ndarray) -> np.ndarray:
    """For each place of a sorted table, the last one with the same relation and score."""
    ends = np.ones(len(score), dtype=bool)
    ends[:-1] = (relation[1:] != relation[:-1]) | (score[1:] != score[:-1])
    places = ends.nonzero()[0]
    return places[np.searchsorted(places, np.arange(len(score)))]


def _first_of_ties(relation: np.ndarray, score: np.ndarray) -> np.ndarray:
    starts = np.ones(len(score), dtype=bool)
    starts[1:] = (relation[1:] != relation[:-1]) | (score[1:] != score[:-1])
    places = starts.nonzero()[0]
    return places[np.searchsorted(places, np.arange(len(score)), side="right") - 1]


def summary(values: dict[str, np.ndarray]) -> dict[str, float]:
    """``mean_…`` and ``median_…`` over the relations in which a metric is defined."""
    found = {}
    for name, numbers in values.items():
        known = numbers[~np.isnan(numbers)]
        found[f"mean_{name}"] = float(known.mean()) if len(known) else float("nan")
        found[f"median_{name}"] = float(np.median(known)) if len(known) else float("nan")
    return found


def filtered_ranks(scores: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """The rank of each query's target among the candidates that are not known links (Bordes et al. 2013).

    Args:
        scores: ``(Q, N)`` of every candidate.
        target: ``(Q,)`` int64, the candidate that is the link in question.
        known: ``(Q, N)`` bool, the other links, which are left out.

    Returns:
        ``(Q,)`` float, 1 the best; the mean rank where candidates tie, so that a constant is no success.
    """
    own = scores.gather(1, target.unsqueeze(1))
    others = ~known.scatter(1, target.unsqueeze(1), True)
    better = (~(scores <= own) & others).sum(dim=1)  # than a NaN all are, of a model that diverged
    equal = ((scores == own) & others).sum(dim=1)
    return 1 + better + equal / 2


def ranking(ranks: Tensor) -> dict[str, float]:
    """MRR and hits@k of ranks ``(Q,)``: the mean of 1/rank, and the share of ranks up to k, 1, 3 and 10."""
    ranks = ranks.double()
    hits = {f"hits@{k}": float((ranks <= k).double().mean()) for k in (1, 3, 10)}
    return {"mrr": float((1 / ranks).mean())} | hits


def recommendation(
    scores: Tensor, relevant: Tensor, known: Tensor, ks: tuple[int, ...] = (10, 20)
) -> dict[str, Tensor]:
    """hits@k, recall@k, NDCG@k and the reciprocal rank of every user's list of items.

    Args:
        scores: ``(U, N)`` of every item.
        relevant: ``(U, N)`` bool, the held-out links; every user has one or more.
        known: ``(U, N)`` bool, links seen in training, which are not recommended again.
        ks: lengths of the lists.

    Returns:
        Each ``(U,)`` float64: ``hits@k`` is 1 where the list has a relevant item; ``ndcg@k`` =
        Σ_{i≤k} [item i relevant]/log₂(i + 1) over the same of the best list (Järvelin and Kekäläinen 2002);
        ``mrr`` 1/rank of the first relevant item. Items of equal scores have a random order, always the same:
        in the files' own the much linked ones are first, so that a constant score would be a success.
    """
    scores = scores.masked_fill(known & ~relevant, -torch.inf)
    draws = torch.rand(scores.shape, generator=torch.Generator().manual_seed(0))
    shuffled = draws.argsort(dim=1, stable=True)
    order = shuffled.gather(1, scores.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    hit = relevant.gather(1, order).double()
    place = torch.arange(1, hit.shape[1] + 1)
    discount = 1 / (place + 1).double().log2()
    ideal = discount.cumsum(0)
    count = relevant.sum(dim=1)
    found = {"mrr": (hit / place).amax(dim=1)}
    for k in ks:
        k_max = min(k, hit.shape[1])
        best = ideal[count.clamp(max=k_max) - 1]
        found[f"hits@{k}"] = (hit[:, :k].sum(dim=1) > 0).double()
        found[f"recall@{k}"] = hit[:, :k].sum(dim=1) / count
        found[f"ndcg@{k}"] = (hit[:, :k] * discount[:k]).sum(dim=1) / best
    return found
