"""The evaluation of molecules: against scikit-learn, RDKit and MoleculeNet's numbers, and for leaks."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import nn

from contrastive.data.molecules import MoleculeDataset, read_molecules
from contrastive.data.splits import scaffold_split
from contrastive.errors import ContrastiveError
from contrastive.evaluation.classifiers import predict_linear
from contrastive.evaluation.draws import Draw
from contrastive.evaluation.finetune import finetune
from contrastive.evaluation.linear import REGULARISATIONS
from contrastive.evaluation.protocol import Finetuning, Protocol
from contrastive.evaluation.raw import morgan_fingerprints
from contrastive.evaluation.roc_auc import mean_roc_auc, weighted_roc_auc
from contrastive.evaluation.tasks import Task, read_task
from contrastive.features import FrozenEncoder
from contrastive.items import read_items
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


def test_a_test_part_of_one_value_is_one_message(encoder, tmp_path):
    file = tmp_path / "m.csv"  # the scaffold split tests the first ring, all 0
    file.write_text("smiles,y\n" + "".join(f"{s},{int(i >= 24) * (i % 2)}\n" for i, s in enumerate(SMILES)))
    protocol = Protocol(str(file), targets=("y",))
    with pytest.raises(ContrastiveError, match=r"no target has two values among the 1\d test molecules"):
        read_task(encoder, protocol, cache_dir=str(tmp_path))
    task = read_task(encoder, replace(protocol, split="stratified"), cache_dir=str(tmp_path))
    assert set(task.y[task.draws[0].test, 0]) == {0, 1}


def test_a_quantity_without_known_test_items_is_one_message(encoder, tmp_path):
    file = tmp_path / "m.csv"  # the scaffold split tests the first ring, all blank
    file.write_text("smiles,y\n" + "".join(f"{s},{i / 3 if i >= 24 else ''}\n" for i, s in enumerate(SMILES)))
    with pytest.raises(ContrastiveError, match=r"no target has two values among the 1\d test molecules"):
        read_task(encoder, Protocol(str(file), targets=("y",)), cache_dir=str(tmp_path))


def test_what_may_be_classes_among_quantities_is_told_of(encoder, tmp_path, caplog):
    file = tmp_path / "m.csv"
    rows = (f"{s},{i % 2 * 2 - 1},{i % 3},{i / 2}\n" for i, s in enumerate(SMILES))
    file.write_text("smiles,sign,phase,z\n" + "".join(rows))
    read_task(encoder, Protocol(str(file), targets=("sign", "z")), cache_dir=str(tmp_path))
    assert f"sign of {file} is -1 or 1, and is judged as a quantity" in caplog.text
    read_task(encoder, Protocol(str(file), targets=("phase",), split="random"), cache_dir=str(tmp_path))
    assert f"phase of {file} is 0, 1 or 2, and is judged as a quantity" in caplog.text
    assert "z of" not in caplog.text


def test_a_target_that_no_training_molecule_has_is_told_of(encoder, tmp_path, caplog):
    file, parts = tmp_path / "m.csv", scaffold_split(SMILES)
    rare = {i: i / 2 for i in (*parts.val, *parts.test)}
    rows = [f"{s},{i / 3},{rare.get(i, '')},{int(i in rare)},{i % 2}\n" for i, s in enumerate(SMILES)]
    file.write_text("smiles,z,rare,late,even\n" + "".join(rows))
    task = read_task(encoder, Protocol(str(file), targets=("z", "rare")), cache_dir=str(tmp_path))
    assert f"rare of {file} has no value among the training molecules" in caplog.text
    fitted = finetune(encoder, task, task.draws[0], Finetuning(num_epochs=1))
    assert np.isfinite(fitted.score).all() and np.abs(fitted.score[:, 1]).max() < 1e-6
    read_task(encoder, Protocol(str(file), targets=("late", "even")), cache_dir=str(tmp_path))
    assert f"late of {file} has not both values among" in caplog.text
    assert "z of" not in caplog.text and "even of" not in caplog.text


def test_the_column_of_smiles_that_pretraining_had_is_taken_again(encoder, tmp_path):
    file = tmp_path / "m.csv"
    file.write_text("smiles,canonical\nC,CC\nC,CCC\n")
    data = {"class_path": "contrastive.data.molecules.MoleculeData"}
    data["init_args"] = {"source": str(file), "smiles_column": "canonical", "cache_dir": str(tmp_path)}
    run = FrozenEncoder(encoder.encoder, nn.Identity(), {**encoder.config, "data": data})
    assert read_items(run, str(file)).smiles == ["CC", "CCC"]
    assert read_items(run, str(file), smiles_column="smiles").smiles == ["C", "C"]
    (tmp_path / "other.csv").write_text(file.read_text())
    assert read_items(run, str(tmp_path / "other.csv")).smiles == ["C", "C"]


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
    draw = Draw(np.arange(200), np.arange(200, 250), np.arange(250, 300))
    result = predict_linear(h, y, draw, "labels", regularisations=REGULARISATIONS)
    scaled = StandardScaler().fit(h[:250]).transform(h)

    def auc(c, part):
        scores = []
        for t in range(2):
            known, asked = (p[~np.isnan(y[p, t])] for p in (draw.fit, part))
            model = LogisticRegression(C=c, max_iter=1000, tol=1e-6).fit(scaled[known], y[known, t])
            scores.append(roc_auc_score(y[asked, t], model.decision_function(scaled[asked])))
        return np.mean(scores)

    assert result.val == pytest.approx(max(auc(10.0**k, draw.val) for k in range(-4, 3)), abs=2e-3)
    assert mean_roc_auc(y[draw.test], result.score) == pytest.approx(
        auc(result.chosen["C"], draw.test), abs=5e-3
    )
    swapped = y.copy()
    swapped[draw.test] = 1 - swapped[draw.test]  # other test labels must choose the same C
    again = predict_linear(h, swapped, draw, "labels", regularisations=REGULARISATIONS)
    assert again.chosen == result.chosen


def _task(dataset, sizes):
    y = dataset.labels.numpy()
    parts = np.split(np.random.default_rng(0).permutation(len(y)), np.cumsum(sizes))
    return Task("molecules", dataset, y, dataset.classes, [Draw(*parts)], "random"), Draw(*parts)


# as Hu et al. 2020 train: nothing ends early, and the last epoch counts too
PUBLISHED = dict(min_steps=1, weight_decay=0.0, schedule="constant", last_epoch=True)


def test_fine_tuning_learns_what_is_there_and_leaves_the_encoder_alone(encoder, table, tmp_path):
    dataset = read_molecules(table, targets=["oxygen", "sparse"], cache_dir=tmp_path)
    task, draw = _task(dataset, [70, 20])
    before = {k: v.clone() for k, v in encoder.encoder.state_dict().items()}
    settings = Finetuning(num_epochs=12, patience=12, batch_size=16, lr=1e-2, **PUBLISHED)
    result = finetune(encoder, task, draw, settings, seed=0)
    truth = task.y[draw.test]
    assert mean_roc_auc(truth, result.score) > 0.9 and mean_roc_auc(truth, result.last) > 0.9
    assert result.chosen["num_epochs"] == 12
    assert all(torch.equal(v, before[k]) for k, v in encoder.encoder.state_dict().items())
    again, other = (finetune(encoder, task, draw, settings, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(again.last, result.last)
    assert not np.array_equal(other.last, result.last)


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_steps_are_in_the_precision_asked_for_and_predictions_in_float32(
    encoder, table, tmp_path, monkeypatch, precision, dtype
):
    dataset = read_molecules(table, targets=["oxygen", "sparse"], cache_dir=tmp_path)
    task, draw = _task(dataset, [70, 20])
    seen = set()
    forward = nn.Linear.forward

    def watched(self, x):
        out = forward(self, x)
        seen.add((torch.is_grad_enabled(), out.dtype))
        return out

    monkeypatch.setattr(nn.Linear, "forward", watched)
    settings = Finetuning(
        num_epochs=12, patience=12, batch_size=16, lr=1e-2, precision=precision, **PUBLISHED
    )
    result = finetune(encoder, task, draw, settings, seed=0)
    assert seen == {(True, dtype), (False, torch.float32)}
    assert mean_roc_auc(task.y[draw.test], result.last) > 0.9


def test_dropout_reaches_an_encoder_that_shares_equal_nodes(table, tmp_path):
    """It must be trained as the same encoder that does not share."""
    dataset = read_molecules(table, targets=["oxygen", "sparse"], cache_dir=tmp_path)
    task, draw = _task(dataset, [70, 20])
    scores = []
    for shared in (False, True):
        torch.manual_seed(0)
        network = GraphEncoder(**SPEC["init_args"], share_equal_nodes=shared)
        start = FrozenEncoder(network, nn.Identity(), {"model": {"encoder": SPEC}})
        settings = Finetuning(num_epochs=2, batch_size=16, lr=1e-2, dropout=0.5, **PUBLISHED)
        scores.append(finetune(start, task, draw, settings, seed=0).last)
    np.testing.assert_allclose(*scores, atol=1e-4)  # predictions share, in another order of sums


def test_coin_tosses_are_predicted_at_chance(encoder):
    """A protocol that leaked test labels would do better."""
    rng = np.random.default_rng(0)
    smiles = SMILES * 4
    y = rng.integers(0, 2, (len(smiles), 1)).astype(np.float32)
    dataset = MoleculeDataset(GraphBatch.from_smiles(smiles), smiles, torch.from_numpy(y), ["coin"])
    task, draw = _task(dataset, [200, 30])
    tuned = finetune(encoder, task, draw, Finetuning(num_epochs=4, batch_size=32, dropout=0.5, **PUBLISHED))
    probed = predict_linear(morgan_fingerprints(smiles), y, draw, "labels", regularisations=REGULARISATIONS)
    for score in (tuned.score, tuned.last, probed.score):
        assert abs(mean_roc_auc(y[draw.test], score) - 0.5) < 0.13  # sd over 202: 0.04


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
    y, draw = data.labels.numpy(), Draw(*scaffold_split(data.smiles))
    result = predict_linear(
        morgan_fingerprints(data.smiles), y, draw, "labels", regularisations=REGULARISATIONS
    )
    assert 0.63 < mean_roc_auc(y[draw.test], result.score) < 0.75
