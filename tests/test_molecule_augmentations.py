"""Molecules: what is dropped and masked, and which groups and rings are spared."""

import pytest
import torch
from augmented_graphs import assert_fraction, molecules

from augmentations.molecule import AtomMask, BondDrop, functional_group_atoms
from encoders.graph_batch import GraphBatch

# Molecules.


def test_functional_groups():
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    expected = {
        "CC(=O)Oc1ccccc1C(=O)O": {1, 2, 3, 10, 11, 12},  # ester and acid, not the ring
        "CCCCCO": {5},
        "CC#N": {1, 2},
        "CC=CC": {1, 2},
        "COCOC": {1, 2, 3},  # the acetal's carbon
        "c1ccncc1": set(),  # an aromatic ring is the scaffold
        "CCCC": set(),
    }
    for smiles, atoms in expected.items():
        found = functional_group_atoms(GraphBatch.from_smiles(smiles)).nonzero().flatten().tolist()
        assert set(found) == atoms, smiles


def test_bond_drop_spares_groups_and_rings():
    batch = molecules(100)
    group = functional_group_atoms(batch)
    spared = group[batch.src] & group[batch.dst]
    ring = batch.edge_attr[:, 3] == 2
    tagged = batch.with_features(edge_weight=torch.arange(batch.num_edges).float())
    kept = torch.zeros(batch.num_edges).bool()
    kept[BondDrop(p=0.5)(tagged).edge_weight.long()] = True
    assert kept[spared].all()
    assert_fraction(int((~kept[~spared]).sum()) / 2, int((~spared).sum()) / 2, 0.5)
    reverse = {(u, v): k for u, v, k in zip(batch.src.tolist(), batch.dst.tolist(), kept.tolist())}
    assert all(reverse[v, u] == k for (u, v), k in reverse.items())
    kept = torch.zeros(batch.num_edges).bool()
    kept[BondDrop(p=1.0, keep_rings=True, keep_functional_groups=False)(tagged).edge_weight.long()] = True
    assert torch.equal(kept, ring)


def test_atom_mask_spares_groups():
    batch = molecules(100)
    out = AtomMask(p=0.5)(batch)
    group = functional_group_atoms(batch)
    masked = (out.x == 0).all(1)
    assert not masked[group].any()
    assert_fraction(int(masked[~group].sum()), int((~group).sum()), 0.5)
    touched = masked[batch.src] | masked[batch.dst]
    assert torch.equal((out.edge_attr == 0).all(1), touched)
