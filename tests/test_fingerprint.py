"""Circular fingerprints as tensors, and the contrast against them."""

import numpy as np
import pytest
import torch

from augmentations.graph import AttributeMask
from contrastive.data import Batch
from contrastive.methods.fingerprint import FingerprintContrast
from encoders.fingerprint import circular_fingerprint
from encoders.graph import GraphEncoder
from encoders.graph_batch import GraphBatch
from encoders.molecules import ATOM_FEATURES, KeepProperties

pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")

SMILES = ["CCO", "c1ccccc1C(=O)O", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "C"]


def test_it_depends_on_the_molecule_and_not_on_how_it_is_written_or_batched():
    from rdkit import Chem

    counts = circular_fingerprint(GraphBatch.from_smiles(SMILES))
    for i, name in enumerate(SMILES):
        molecule = Chem.MolFromSmiles(name)
        for root in range(molecule.GetNumAtoms()):
            other = Chem.MolToSmiles(molecule, rootedAtAtom=root, canonical=False)
            assert torch.equal(circular_fingerprint(GraphBatch.from_smiles(other))[0], counts[i])
    assert len(counts.unique(dim=0)) == len(SMILES)


def test_it_counts_every_atom_once_a_radius():
    batch = GraphBatch.from_smiles(SMILES)
    for radius in range(4):
        counts = circular_fingerprint(batch, radius=radius, num_bins=512)
        assert counts.shape == (len(SMILES), 512) and counts.dtype == torch.float32
        assert counts.sum(1).tolist() == [(radius + 1) * n for n in batch.nodes_per_graph.tolist()]


def test_equal_surroundings_are_those_of_rdkits_fingerprints():
    """Atom by atom, two surroundings of radius 1 are equal here where they are equal for RDKit."""
    from rdkit import Chem
    from rdkit.Chem import rdFingerprintGenerator

    for name in SMILES[1:4]:
        molecule = Chem.MolFromSmiles(name)
        extra = rdFingerprintGenerator.AdditionalOutput()
        extra.AllocateBitInfoMap()
        generator = rdFingerprintGenerator.GetMorganGenerator(
            radius=1, fpSize=2**20, includeRedundantEnvironments=True
        )
        generator.GetSparseCountFingerprint(molecule, additionalOutput=extra)
        theirs = sorted(len(hits) for hits in extra.GetBitInfoMap().values())
        counts = circular_fingerprint(GraphBatch.from_smiles(name), radius=1, num_bins=2**20)[0]
        assert sorted(counts[counts > 0].int().tolist()) == theirs


def test_it_tells_molecules_apart_as_rdkit_does():
    """The Tanimoto similarities of two fingerprints of another make agree."""
    from rdkit import RDConfig
    from rdkit.Chem import MolFromSmiles
    from scipy.stats import spearmanr

    from contrastive.evaluation.raw import morgan_fingerprints

    with open(RDConfig.RDDataDir + "/NCI/first_5K.smi") as file:
        names = [line.split()[0] for line in list(file)[:200]]
    names = [name for name in names if MolFromSmiles(name) is not None]

    def similarity(bits):
        common = bits @ bits.T
        total = bits.sum(1)
        return (common / (total[:, None] + total - common))[np.triu_indices(len(bits), 1)]

    ours = similarity((circular_fingerprint(GraphBatch.from_smiles(names)).numpy() > 0).astype(float))
    theirs = similarity(morgan_fingerprints(names).toarray())
    assert spearmanr(ours, theirs).statistic > 0.8


def test_floats_are_refused():
    with pytest.raises(ValueError, match="expected categories"):
        circular_fingerprint(GraphBatch.from_edges([(0, 1)], torch.ones(2, 3)))
    with pytest.raises(ValueError, match="edge_attr holds floats"):
        circular_fingerprint(GraphBatch.from_edges([(0, 1)], [[1], [2]], edge_attr=[[0.5]]))


@pytest.fixture
def module():
    torch.manual_seed(0)
    encoder = GraphEncoder(node_features="atoms", num_hidden=16, num_layers=2)
    return FingerprintContrast(encoder, [AttributeMask(p=0.2)], num_bins=256)


def test_training_learns_which_fingerprint_is_whose(module):
    names = ["C" * n + end for n in range(1, 9) for end in ("O", "N", "C#N", "Cl")]
    batch = Batch(GraphBatch.from_smiles(names), None, torch.arange(len(names)))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        h, z = module.project(batch)
        losses.append(module.loss(*z.chunk(2)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert h.shape == (32, 16) and z.shape == (64, 128)
    assert losses[-1] < 0.7 * losses[0]


def test_two_views_are_refused(module):
    with pytest.raises(ValueError, match="give one: the fingerprint is the other"):
        FingerprintContrast(module.encoder, [AttributeMask(), AttributeMask()])


@pytest.fixture
def descriptor_module():
    torch.manual_seed(0)
    encoder = GraphEncoder(node_features="atoms", num_hidden=16, num_layers=2)
    return FingerprintContrast(
        encoder, [AttributeMask(p=0.2)], num_bins=256, num_descriptors=3, descriptor_weight=2.0
    )


def test_descriptors_join_the_fingerprint_and_are_predicted(descriptor_module):
    descriptors = torch.randn(len(SMILES), 3)
    batch = Batch(GraphBatch.from_smiles(SMILES), descriptors, torch.arange(len(SMILES)))
    module = descriptor_module.eval()  # no batch statistics, so that each molecule is by itself
    h, z = module.project(batch)
    known = torch.cat([circular_fingerprint(batch.input, num_bins=256).log1p(), descriptors], dim=1)
    assert torch.allclose(z, torch.cat([module.projector(h), module.fingerprint_head(known)]), atol=1e-6)
    error = (module.descriptor_head(h) - descriptors).abs()
    smooth_l1 = torch.where(error < 1, error**2 / 2, error - 0.5).mean()
    loss = module.step(batch)["loss"]
    assert torch.isclose(loss, module.loss(*z.chunk(2)) + 2 * smooth_l1, atol=1e-5)
    loss.backward()
    used = [p for name, p in module.named_parameters() if not name.startswith("encoder.embed")]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in used)


def test_descriptors_of_another_width_are_refused(descriptor_module):
    graphs, index = GraphBatch.from_smiles(SMILES), torch.arange(len(SMILES))
    with pytest.raises(ValueError, match="num_descriptors is 3 but the batch has none"):
        descriptor_module.project(Batch(graphs, None, index))
    with pytest.raises(ValueError, match="num_descriptors is 3 but the batch has 2"):
        descriptor_module.project(Batch(graphs, torch.zeros(len(SMILES), 2), index))
    encoder = descriptor_module.encoder
    with pytest.raises(ValueError, match="descriptor_weight needs num_descriptors"):
        FingerprintContrast(encoder, [AttributeMask()], descriptor_weight=1.0)


def test_properties_that_are_not_kept_are_not_seen():
    batch = GraphBatch.from_smiles(["C[C@H](N)C(=O)O", "c1ccccc1[N+](=O)[O-]"])
    out = KeepProperties()(batch)
    columns = list(ATOM_FEATURES)
    kept = [columns.index(name) for name in ("atomic_number", "chirality")]
    assert torch.equal(out.x[:, kept], batch.x[:, kept]) and (batch.x > 0).all()
    assert (np.delete(out.x.numpy(), kept, axis=1) == 0).all()
    assert torch.equal(out.edge_attr[:, 0], batch.edge_attr[:, 0]) and (out.edge_attr[:, 1:] == 0).all()
    charged = KeepProperties(atoms=["formal_charge"], bonds=[])(batch)
    assert charged.x.count_nonzero(0).nonzero().flatten().tolist() == [columns.index("formal_charge")]
    assert charged.edge_attr.count_nonzero() == 0
    with pytest.raises(ValueError, match="atoms has no mass; it has atomic_number, chirality"):
        KeepProperties(atoms=["mass"])
