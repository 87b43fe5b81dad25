"""Splits of molecules: what every split keeps, and the published procedure as an oracle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive.data.splits import scaffold, scaffold_split, split_molecules
from contrastive.errors import ContrastiveError

pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")

RINGS = ["C1CC1", "C1CCC1", "C1CCCC1", "c1ccccc1", "c1ccncc1", "c1ccoc1", "C1CCNCC1", "c1ccc2ccccc2c1"]
MOLECULES = st.lists(
    st.tuples(st.sampled_from([*RINGS, ""]), st.sampled_from(["", "C", "CC", "CO", "CN", "CCC"])).map(
        lambda pair: pair[0] + pair[1] or "C"
    ),
    min_size=30,
    max_size=80,
)


def published(scaffolds, frac_valid=0.1, frac_test=0.1):
    """Hu et al.'s procedure, written down from its description in MoleculeNet (arXiv 1703.00564)."""
    members = {name: [i for i, s in enumerate(scaffolds) if s == name] for name in set(scaffolds)}
    queue = sorted(members.values(), key=lambda m: (-len(m), -m[0]))
    limit = {"train": (1 - frac_valid - frac_test) * len(scaffolds), "val": (1 - frac_test) * len(scaffolds)}
    train, val, test = [], [], []
    for part in queue:
        if len(train) + len(part) <= limit["train"]:
            train += part
        elif len(train) + len(val) + len(part) <= limit["val"]:
            val += part
        else:
            test += part
    return [sorted(part) for part in (train, val, test)]


@settings(max_examples=40, deadline=None)
@given(smiles=MOLECULES)
def test_a_scaffold_split_is_disjoint_whole_and_shares_no_scaffold(smiles):
    scaffolds = [scaffold(s) for s in smiles]
    expected = published(scaffolds)
    if not all(expected):
        with pytest.raises(ContrastiveError, match="a scaffold split of"):
            scaffold_split(smiles)
        return
    parts = scaffold_split(smiles)
    assert sorted(np.concatenate(parts)) == list(range(len(smiles)))
    kinds = [{scaffolds[i] for i in part} for part in parts]
    assert not kinds[0] & kinds[1] and not kinds[0] & kinds[2] and not kinds[1] & kinds[2]
    assert [part.tolist() for part in parts] == expected


@settings(max_examples=40, deadline=None)
@given(num=st.integers(20, 200), seed=st.integers(0, 99), how=st.sampled_from(["random", "stratified"]))
def test_drawn_splits_are_disjoint_whole_and_repeatable(num, seed, how):
    y = (np.arange(num) % 4 == 0).astype(np.int64)
    parts = split_molecules(how, ["C"] * num, y, seed=seed)
    assert sorted(np.concatenate(parts)) == list(range(num))
    assert all(abs(len(part) - 0.1 * num) <= 1 for part in parts[1:])
    again = split_molecules(how, ["C"] * num, y, seed=seed)
    assert all((a == b).all() for a, b in zip(parts, again))
    if how == "stratified":
        assert all(abs(y[part].sum() - y.mean() * len(part)) <= 1.5 for part in parts)


def test_another_seed_draws_another_split():
    y = np.arange(100) % 2
    one, two = (split_molecules("random", ["C"] * 100, y, seed=seed) for seed in (0, 1))
    assert set(one.test) != set(two.test)


def test_stratifying_by_blanks_is_an_error():
    with pytest.raises(ContrastiveError, match="one target without blanks"):
        split_molecules("stratified", ["C"] * 4, np.array([0, 1, np.nan, 1]))


def test_scaffolds_of_known_molecules():
    from rdkit.Chem import CanonSmiles

    assert scaffold("CC(C)Cc1ccc(cc1)C(C)C(=O)O") == "c1ccccc1"  # ibuprofen
    assert scaffold("CN1C=NC2=C1C(=O)N(C(=O)N2C)C") == CanonSmiles("O=c1[nH]c(=O)c2[nH]cnc2[nH]1")  # caffeine
    assert scaffold("CCCO") == ""
    nicotine = "CN1CCC[C@H]1c1cccnc1"
    assert "@" in scaffold(nicotine) and scaffold(nicotine) != scaffold(nicotine.replace("@", "@@"))
