"""The evaluation of molecules: against scikit-learn, RDKit and MoleculeNet's numbers, and for leaks."""

import csv
import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import nn

from contrastive.data.molecules import MoleculeDataset, read_molecules
from contrastive.data.splits import Parts, scaffold_split
from contrastive.errors import ContrastiveError
from contrastive.evaluation.molecule_finetune import finetune
from contrastive.evaluation.molecules import (
    frozen_probe,
    morgan_fingerprints,
    probe_molecules,
    summarise,
)
from contrastive.evaluation.roc_auc import mean_roc_auc, weighted_roc_auc
from contrastive.features import FrozenEncoder
from encoders.graph import GraphEncoder
from encoders.graph_batch import GraphBatch

pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")

RINGS = ["C1CC1", "C1CCC1", "C1CCCC1", "c1ccccc1", "c1ccncc1", "c1ccoc1", "C1CCNCC1", "C1CCOCC1", "c1ccsc1"]
TAILS = ["C", "CC", "CO", "CN", "CCl", "CCC", "C(=O)O", "C#N", "CF", "CCO", "C(C)C", "CS"]
SMILES = [ring + tail for ring in RINGS for tail in TAILS]
SPEC = {
    "class_path": "encoders.graph.GraphEncoder",
    "init_args": {"node_features": "atoms", "num_hidden": 16, "num_layers": 2, "readout": "mean"},
}


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    network = GraphEncoder(**SPEC["init_args"])
    return FrozenEncoder(network, nn.Identity(), {"model": {"encoder": SPEC}})


@pytest.fixture
def table(tmp_path):
    """Whether a molecule has an oxygen, a coin toss, and a target that is half unknown."""
    rng = np.random.default_rng(0)
    file = tmp_path / "toy.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["smiles", "oxygen", "coin", "sparse"])
        for name in SMILES:
            oxygen = int("O" in name or "o" in name)
            sparse = oxygen if rng.random() < 0.5 else ""
            writer.writerow([name, oxygen, rng.integers(2), sparse])
    return file


def test_blanks_and_tasks_of_one_class_are_left_out_of_the_roc_auc():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (50, 3)).astype(float)
    score = rng.normal(size=(50, 3))
    y[:, 2] = 1
    y[10:30, 1] = np.nan
    known = np.r_[0:10, 30:50]
    expected = (roc_auc_score(y[:, 0], score[:, 0]) + roc_auc_score(y[known, 1], score[known, 1])) / 2
    assert mean_roc_auc(y, score) == pytest.approx(expected)
    assert np.isnan(mean_roc_auc(y[:, 2:], score[:, 2:]))


def test_morgan_fingerprints_are_rdkits():
    from rdkit import Chem
    from rdkit.Chem import AllChem

    ours = morgan_fingerprints(SMILES[:20]).toarray()
    theirs = [AllChem.GetMorganFingerprintAsBitVect(Chem.MolFromSmiles(s), 2, 2048) for s in SMILES[:20]]
    np.testing.assert_array_equal(ours, np.array([list(bits) for bits in theirs]))


def test_the_probe_selects_on_validation_and_reports_scikit_learns_test_number():
    rng = np.random.default_rng(0)
    h = rng.normal(size=(300, 10))
    y = (h[:, :2] + rng.normal(size=(300, 2)) > 0).astype(float)
    y[rng.random((300, 2)) < 0.2] = np.nan
    parts = Parts(np.arange(200), np.arange(200, 250), np.arange(250, 300))
    result = frozen_probe(h, y, parts)

    def auc(c, part):
        scores = []
        for t in range(2):
            known, asked = (p[~np.isnan(y[p, t])] for p in (parts.train, part))
            model = LogisticRegression(C=c, max_iter=1000, tol=1e-6).fit(h[known], y[known, t])
            scores.append(roc_auc_score(y[asked, t], model.decision_function(h[asked])))
        return np.mean(scores)

    assert result["val"] == pytest.approx(max(auc(10.0**k, parts.val) for k in range(-4, 3)), abs=2e-3)
    assert result["test"] == pytest.approx(auc(result["c"], parts.test), abs=5e-3)
    assert result["test_ci95"][0] < result["test"] < result["test_ci95"][1]
    swapped = y.copy()
    swapped[parts.test] = 1 - swapped[parts.test]  # other test labels must choose the same C
    assert frozen_probe(h, swapped, parts)["c"] == result["c"]


def test_fine_tuning_learns_what_is_there_and_leaves_the_encoder_alone(encoder, table, tmp_path):
    dataset = read_molecules(table, targets=["oxygen", "sparse"], cache_dir=tmp_path)
    y = dataset.labels.numpy()
    order = np.random.default_rng(0).permutation(len(y))
    parts = Parts(order[:70], order[70:90], order[90:])
    before = {k: v.clone() for k, v in encoder.encoder.state_dict().items()}
    settings = dict(num_epochs=12, batch_size=16, dropout=0.0, lr=1e-2)
    result = finetune(encoder.encoder, dataset, y, parts, seed=0, **settings)
    assert result["test"] > 0.9 and result["test_last"] > 0.9
    assert all(torch.equal(v, before[k]) for k, v in encoder.encoder.state_dict().items())
    again = finetune(encoder.encoder, dataset, y, parts, seed=0, **settings)
    assert again == result and finetune(encoder.encoder, dataset, y, parts, seed=1, **settings) != result
    assert result["val"] >= result["val_last"]


def test_coin_tosses_are_predicted_at_chance(encoder):
    """A protocol that leaked test labels would do better."""
    rng = np.random.default_rng(0)
    smiles = SMILES * 4
    y = rng.integers(0, 2, (len(smiles), 1)).astype(np.float32)
    order = rng.permutation(len(smiles))
    parts = Parts(order[:200], order[200:230], order[230:])
    dataset = MoleculeDataset(GraphBatch.from_smiles(smiles), smiles, torch.from_numpy(y), ["coin"])
    settings = dict(num_epochs=4, batch_size=32, dropout=0.5, lr=1e-3)
    tuned = finetune(encoder.encoder, dataset, y, parts, seed=0, **settings)
    probed = frozen_probe(morgan_fingerprints(smiles), y, parts)
    assert abs(tuned["test"] - 0.5) < 0.13 and abs(probed["test"] - 0.5) < 0.13  # sd over 202: 0.04


def test_the_whole_table_and_its_resumption(encoder, table, tmp_path):
    output = tmp_path / "out.json"
    settings = dict(cache_dir=str(tmp_path), output=output, num_seeds=2, num_epochs=2, progress=False)
    settings["split"] = "random"
    result = probe_molecules(encoder, str(table), ["oxygen", "sparse"], **settings)
    kinds = [(row["kind"], row["num_seeds"]) for row in result["rows"]]
    assert kinds == [("morgan", 1), ("untrained", 2), ("frozen", 1), ("scratch", 2), ("finetuned", 2)]
    assert json.loads(output.read_text())["rows"][0]["test"] == result["rows"][0]["test"]
    assert sum(result["parts"].values()) == len(SMILES)

    cut = json.loads(output.read_text())
    cut["cells"] = cut["cells"][:5]
    cut["cells"][0]["test"] = 0.123  # shows that it is not computed again
    output.write_text(json.dumps(cut))
    resumed = probe_molecules(encoder, str(table), ["oxygen", "sparse"], **settings)
    assert resumed["rows"][0]["test"] == 0.123
    assert resumed["cells"][1:] == result["cells"][1:]

    with pytest.raises(ContrastiveError, match="another protocol or encoder"):
        probe_molecules(encoder, str(table), ["oxygen"], **settings)


def test_targets_that_are_no_classes_are_refused(encoder, tmp_path):
    file = tmp_path / "regression.csv"
    file.write_text("smiles,logp\n" + "".join(f"{s},2.5\n" for s in SMILES))
    with pytest.raises(ContrastiveError, match="logp holds 2.5; expected 0, 1 or a blank"):
        probe_molecules(encoder, str(file), ["logp"], cache_dir=str(tmp_path), progress=False)


def test_the_summary_averages_over_seeds():
    cells = [{"kind": "scratch", "seed": s, "val": 0.6, "test": t} for s, t in enumerate((0.5, 0.7))]
    row = summarise(cells)[0]
    half = 0.1 * 12.706  # Student's 97.5 % with one degree of freedom
    assert row["test"] == pytest.approx(0.6)
    assert row["test_ci95"] == pytest.approx([0.6 - half, 0.6 + half], abs=1e-3)


def test_the_roc_auc_of_resamplings_is_scikit_learns_with_ties():
    rng = np.random.default_rng(0)
    truth, score = rng.integers(0, 2, 60), rng.integers(0, 9, 60)
    draws = rng.integers(0, 60, (20, 60))
    weights = np.stack([np.bincount(draw, minlength=60) for draw in draws])
    expected = [roc_auc_score(truth[draw], score[draw]) for draw in draws]
    np.testing.assert_allclose(weighted_roc_auc(truth, score, weights), expected, rtol=1e-12)


def test_morgan_fingerprints_on_bbbp_are_where_the_literature_has_them(moleculenet, tmp_path):
    """MoleculeNet (arXiv 1703.00564) has 0.699 for logistic regression on ECFP and a scaffold split."""
    data = read_molecules(moleculenet / "bbbp.csv", targets=["p_np"], cache_dir=tmp_path)
    result = frozen_probe(morgan_fingerprints(data.smiles), data.labels.numpy(), scaffold_split(data.smiles))
    assert 0.63 < result["test"] < 0.75
