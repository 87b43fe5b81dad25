"""D-MPNN: messages on directed bonds (Yang et al. 2019, arXiv 1904.01561; Stokes et al. 2020; chemprop)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from encoders.adjacency import Adjacency
from encoders.feature_encoder import FeatureEncoder, Linear
from encoders.graph_batch import GraphBatch
from encoders.message_passing import aggregate_edges, gather_src
from encoders.molecules import categories
from encoders.readout import Readout


class DMPNN(nn.Module):
    r"""Encode molecules by messages between bonds, none of which returns along the bond that it came by.

    a_vw = W_i [x_v ‖ e_vw]; h_vw = relu(a_vw); m_vw = Σ_{k ∈ N(v)∖w} h_kv; h_vw = relu(a_vw + W_m m_vw),
    ``num_layers`` − 1 times; h_v = relu(W_a [x_v ‖ Σ_k h_kv] + b); the readout sums or averages h_v.
    Every round adds a_vw, as in chemprop; in the paper it adds relu(a_vw). The sum without w is the sum
    at v less the message of the reversed bond, so a round costs one sum and one lookup. Categories are
    embedded at width ``num_hidden`` where chemprop writes them as one-hot vectors.

    Args:
        node_features: the width of float ``x``, or the categories of each integer column; ``atoms`` is what
            ``GraphBatch.from_smiles`` gives.
        edge_features: the same for ``edge_attr``; ``bonds`` is what ``from_smiles`` gives.
        num_hidden: width.
        num_layers: chemprop's depth; the initial messages count as the first.
        dropout: probability, after every activation.
        readout: ``sum`` or ``mean``.

    Attributes:
        num_features: width of the rows of ``encoder(batch)`` and of ``encoder.nodes(batch)``.
    """

    takes_graphs = True

    def __init__(
        self,
        *,
        node_features: int | list[int] | Literal["atoms"] = "atoms",
        edge_features: int | list[int] | Literal["bonds"] = "bonds",
        num_hidden: int = 300,
        num_layers: int = 3,
        dropout: float = 0.0,
        readout: Literal["sum", "mean"] = "mean",
    ) -> None:
        super().__init__()
        atoms, bonds = categories(node_features), categories(edge_features)
        # W_i [x ‖ e] = W_ix x + W_ie e: the atoms' half is computed once an atom, not once a bond.
        self.atom_input = FeatureEncoder(atoms, num_hidden)
        self.bond_input = FeatureEncoder(bonds, num_hidden)
        self.message = Linear(num_hidden, num_hidden, bias=False)
        self.atom_output = FeatureEncoder(atoms, num_hidden)
        self.output = Linear(num_hidden, num_hidden)
        self.num_layers, self.dropout = num_layers, nn.Dropout(dropout)
        self.readout, self.num_features = Readout(readout), num_hidden

    def forward(self, batch: GraphBatch) -> Tensor:
        """Features of the graphs, ``(num_graphs, num_features)``."""
        return self.readout(batch, self.nodes(batch))

    def nodes(self, batch: GraphBatch) -> Tensor:
        """Features of the nodes, ``(num_nodes, num_features)``."""
        if batch.edge_attr is None:
            raise ValueError("D-MPNN needs edge_attr and the batch's is None; from_smiles gives it")
        adjacency, reverse = batch.adjacency, reverse_edges(batch)
        initial = gather_src(adjacency, self.atom_input(batch.x)) + self.bond_input(batch.edge_attr)
        h = self.dropout(torch.relu(initial))
        for _ in range(self.num_layers - 1):
            # Both terms are linear, so W_m goes first and the sum at v is taken of its result.
            mapped = self.message(h)
            at_node = gather_src(adjacency, aggregate_edges(adjacency, mapped))
            h = self.dropout(
                torch.relu(initial + at_node - aggregate_edges(reverse, gather_src(reverse, mapped)))
            )
        return self.dropout(
            torch.relu(self.atom_output(batch.x) + self.output(aggregate_edges(adjacency, h)))
        )


def reverse_edges(batch: GraphBatch) -> Adjacency:
    """From each edge w → v to the edge v → w, edges taken as nodes; without a reverse, no entry.

    Two parallel edges are not told apart: each takes the first of the reverses.
    """
    forward, backward = batch.src * batch.num_nodes + batch.dst, batch.dst * batch.num_nodes + batch.src
    ordered, order = forward.sort(stable=True)
    place = torch.searchsorted(ordered, backward).clamp(max=max(batch.num_edges - 1, 0))
    edges = (ordered[place] == backward).nonzero().squeeze(1)
    return Adjacency(order[place[edges]], edges, batch.num_edges, batch.num_edges)
