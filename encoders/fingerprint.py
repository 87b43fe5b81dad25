"""Circular fingerprints of a batch of graphs, as tensors: no RDKit, on the batch's device."""

from __future__ import annotations

import torch
from torch import Tensor

from encoders.graph_batch import GraphBatch

_MIX = (-4658895280553007687, -7723592293110705685)  # the multipliers of splitmix64


def circular_fingerprint(batch: GraphBatch, *, radius: int = 2, num_bins: int = 2048) -> Tensor:
    """Count, for each graph, the surroundings of its nodes up to some bonds away, in hashed bins.

    Node v starts with a hash of its categories, c_v⁰ = H(x_v), and takes in its neighbours' round by round,
    c_vʳ⁺¹ = H(c_vʳ, Σ_{u→v} H(c_uʳ, e_uv)), as in Weisfeiler and Lehman's test and in the extended
    connectivity fingerprints (Rogers and Hahn 2010, doi 10.1021/ci100050t). Every c_vʳ, r ≤ radius, counts in
    one bin. Unlike there, duplicate surroundings of different radius are not removed.

    Args:
        batch: with integer ``x``, and ``edge_attr`` where bonds should tell.
        radius: rounds; 2 is the reach of ECFP4.
        num_bins: of the fingerprint.

    Returns:
        ``(num_graphs, num_bins)`` float32 counts.

    Raises:
        ValueError: ``x`` or ``edge_attr`` is not of categories.
    """
    for name, values in (("x", batch.x), ("edge_attr", batch.edge_attr)):
        if values is not None and values.is_floating_point():
            raise ValueError(
                f"{name} holds floats ({values.dtype}), expected categories, as from_smiles gives"
            )
    colour = _hash_rows(batch.x)
    bond = _hash_rows(batch.edge_attr) if batch.edge_attr is not None else torch.zeros_like(batch.src)
    colours = [colour]
    for _ in range(radius):
        messages = _mix(_mix(colour)[batch.src] ^ bond)
        # A sum of int64 wraps and does not depend on the order, so equal surroundings have equal colours.
        colour = _mix(_mix(colour) ^ torch.zeros_like(colour).index_add_(0, batch.dst, messages))
        colours.append(colour)
    bins = torch.stack(colours).remainder(num_bins) + batch.graph_of_node * num_bins
    counts = torch.bincount(bins.flatten(), minlength=batch.num_graphs * num_bins)
    return counts.view(batch.num_graphs, num_bins).float()


def _hash_rows(categories: Tensor) -> Tensor:
    """``(N,)`` int64 hashes of ``(N, C)`` integers."""
    key = torch.zeros(len(categories), dtype=torch.int64, device=categories.device)
    for column in categories.long().unbind(1):
        key = _mix(key ^ _mix(column + 1))
    return key


def _mix(x: Tensor) -> Tensor:
    for multiplier in _MIX:
        x = (x ^ ((x >> 31) & 0x1FFFFFFFF)) * multiplier
    return x ^ ((x >> 29) & 0x7FFFFFFFF)
