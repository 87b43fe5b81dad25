"""Augmentations that know chemistry, for what ``GraphBatch.from_smiles`` gives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from augmentations.graph import AttributeMask
from augmentations.graph_draws import check_probability, draws, edge_draws, node_draws, within
from augmentations.random import SampleRandom
from encoders.graph_batch import GraphBatch

# Columns and categories of encoders.molecules.
_ATOMIC_NUMBER, _HYBRIDIZATION, _AROMATIC = 0, 6, 7
_SP3, _YES = 4, 2
_BOND_TYPE, _BOND_IN_RING = 0, 3
_SINGLE, _DOUBLE, _TRIPLE = 1, 2, 3
_CARBON, _HYDROGEN = 6, 1


def functional_group_atoms(batch: GraphBatch) -> Tensor:
    """``(N,)`` bool: the atoms of functional groups (Ertl 2017, doi 10.1186/s13321-017-0225-z).

    Hetero atoms; carbons in a double or triple bond that is not aromatic; sp³ carbons with single
    bonds to two or more of O, N and S. Unlike the paper, hetero atoms in aromatic rings are left
    out, for these rings are the scaffold, and so are the carbons of oxirane-like rings.
    """
    number, edge_attr = _molecules(batch)
    hetero = (number != _CARBON) & (number != _HYDROGEN) & (number != 0) & (batch.x[:, _AROMATIC] != _YES)
    bond = edge_attr[:, _BOND_TYPE]
    multiple = (bond == _DOUBLE) | (bond == _TRIPLE)
    polar = (number == 7) | (number == 8) | (number == 16)
    carbon = number == _CARBON
    marked = hetero.clone()
    marked[batch.dst[multiple & carbon[batch.dst]]] = True
    single_to_polar = (bond == _SINGLE) & polar[batch.src]
    count = torch.bincount(batch.dst[single_to_polar], minlength=batch.num_nodes)
    marked |= carbon & (batch.x[:, _HYBRIDIZATION] == _SP3) & (count >= 2)
    return marked


def _molecules(batch: GraphBatch) -> tuple[Tensor, Tensor]:
    if batch.x.is_floating_point() or batch.edge_attr is None or batch.edge_attr.is_floating_point():
        raise ValueError(
            "expected molecules, with the categories of atoms and bonds that GraphBatch.from_smiles gives; "
            "for other graphs use EdgeDrop and AttributeMask"
        )
    return batch.x[:, _ATOMIC_NUMBER], batch.edge_attr


class BondDrop(nn.Module):
    """Delete each bond, both its directions, with probability ``p``.

    Args:
        p: probability, of the bonds that are not spared.
        keep_rings: spare bonds in rings.
        keep_functional_groups: spare bonds between two atoms of functional groups.
    """

    def __init__(
        self, *, p: float = 0.15, keep_rings: bool = False, keep_functional_groups: bool = True
    ) -> None:
        super().__init__()
        self.p = check_probability("p", p)
        self.keep_rings, self.keep_functional_groups = keep_rings, keep_functional_groups

    def forward(
        self, batch: GraphBatch, random: SampleRandom | None = None, some: Tensor | None = None
    ) -> GraphBatch:
        """Delete bonds; ValueError where the batch is not of molecules."""
        edge_attr = _molecules(batch)[1]
        keep = ~edge_draws(batch, draws(batch, random), undirected=True).bernoulli(self.p)
        if self.keep_rings:
            keep |= edge_attr[:, _BOND_IN_RING] == _YES
        if self.keep_functional_groups:
            group = functional_group_atoms(batch)
            keep |= group[batch.src] & group[batch.dst]
        return batch.edge_subgraph(~within(some, batch.graph_of_edge, ~keep))


class AtomMask(AttributeMask):
    """Mask each atom outside functional groups, and its bonds, with probability ``p``.

    Args:
        p: probability, of the atoms that are not spared.
        mask_edges: mask the bonds of masked atoms too.
    """

    def __init__(self, *, p: float = 0.2, mask_edges: bool = True) -> None:
        super().__init__(p=p, mask_edges=mask_edges)

    def forward(
        self, batch: GraphBatch, random: SampleRandom | None = None, some: Tensor | None = None
    ) -> GraphBatch:
        """Mask atoms; ValueError where the batch is not of molecules."""
        drawn = node_draws(batch, draws(batch, random)).bernoulli(self.p)
        masked = within(some, batch.graph_of_node, drawn & ~functional_group_atoms(batch))
        return self.mask(batch, masked)
