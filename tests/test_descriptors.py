"""Descriptors of molecules: RDKit's own numbers, their cache and their standardisation."""

import logging
import math

import numpy as np
import pytest
import torch

from contrastive.data.descriptors import DESCRIPTORS, read_descriptors, standardised
from contrastive.data.molecules import MoleculeData

pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")

SMILES = ["CCO", "c1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "C[N+](C)(C)CC(=O)[O-]", "C", "C[Hg]C"]


def test_every_number_is_rdkits(tmp_path):
    from rdkit import Chem
    from rdkit.Chem.Descriptors import CalcMolDescriptors

    ours = read_descriptors(SMILES, cache_dir=tmp_path, num_workers=1)
    assert ours.shape == (len(SMILES), len(DESCRIPTORS)) and ours.dtype == torch.float32
    for row, smiles in zip(ours.numpy(), SMILES):
        theirs = CalcMolDescriptors(Chem.MolFromSmiles(smiles), missingVal=math.nan)
        expected = np.array([theirs[name] for name in DESCRIPTORS])
        expected[~np.isfinite(expected)] = math.nan
        np.testing.assert_allclose(row, expected, rtol=1e-6, equal_nan=True)


def test_mercury_has_no_charge_and_keeps_its_other_descriptors(tmp_path):
    row = read_descriptors(["C[Hg]C"], cache_dir=tmp_path, num_workers=1)[0].tolist()
    mercury = dict(zip(DESCRIPTORS, row))
    assert math.isnan(mercury["MaxPartialCharge"]) and mercury["HeavyAtomCount"] == 3


def test_the_cache_is_read_and_a_damaged_one_is_replaced(tmp_path, caplog):
    first = read_descriptors(SMILES, cache_dir=tmp_path, num_workers=1)
    file = next(tmp_path.glob("descriptors-*.safetensors"))
    written = file.stat().st_mtime_ns
    again = read_descriptors(SMILES, cache_dir=tmp_path, num_workers=1)
    assert torch.equal(again.nan_to_num(), first.nan_to_num()) and file.stat().st_mtime_ns == written
    file.write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING, "contrastive"):
        mended = read_descriptors(SMILES, cache_dir=tmp_path, num_workers=1)
    assert torch.equal(mended.nan_to_num(), first.nan_to_num()) and "computing anew" in caplog.text


def test_a_molecule_that_takes_too_long_has_none(tmp_path, monkeypatch):
    import contrastive.data.descriptors as module

    real = module._descriptors

    def slow(smiles):
        while smiles == "C":
            pass
        return real(smiles)

    monkeypatch.setattr(module, "_descriptors", slow)  # the workers are forked, so they have it too
    rows = read_descriptors(["CCO", "C", "CC"], cache_dir=tmp_path, num_workers=1, time_limit=2.0)
    assert rows.isnan().all(dim=1).tolist() == [False, True, False]


def test_standardised_columns_are_numpys_but_for_tails_and_blanks():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=generator) * torch.tensor([1.0, 1e3, 1e-3, 0.0]) + 7
    x[3, 0], x[5, 1] = math.nan, 1e6
    z = standardised(x, limit=5.0)
    values = x.double().numpy()
    expected = (values - np.nanmean(values, 0)) / np.maximum(np.nanstd(values, 0), 1e-6)
    np.testing.assert_allclose(z, np.nan_to_num(expected).clip(-5, 5), atol=1e-4)
    assert z[3, 0] == 0 and z[5, 1] == 5 and not z[:, 3].any()


def test_the_data_module_gives_them_as_labels(tmp_path):
    (tmp_path / "m.smi").write_text("CCO\nC(\nCC\nc1ccccc1\nCCN\n")
    data = MoleculeData(str(tmp_path / "m.smi"), batch_size=4, cache_dir=str(tmp_path), descriptors=True)
    data.setup()
    kept = ["CCO", "CC", "c1ccccc1", "CCN"]
    assert data.train.smiles == kept and data.train.classes == list(DESCRIPTORS)
    expected = standardised(read_descriptors(kept, cache_dir=tmp_path, num_workers=1))
    assert torch.equal(data.train.__getitems__([2, 0]).label, expected[[2, 0]])
