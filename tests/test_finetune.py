"""Networks trained on labelled items: fine-tuned, their blocks, rates and norms."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from molecule_cases import RINGS, TAILS
from torch import nn

from contrastive.errors import ContrastiveError
from contrastive.evaluation.finetune import _groups, _Network, _Target, blocks, finetune
from contrastive.evaluation.protocol import Finetuning, Protocol
from contrastive.evaluation.tasks import read_task
from contrastive.features import FrozenEncoder, load_encoder
from encoders.graph_batch import GraphBatch
from encoders.image import ResNet

pytestmark = pytest.mark.usefixtures("own_cache")
QUICK = Finetuning(num_epochs=4, min_steps=20, batch_size=16, lr=1e-2)


def test_fine_tuning_leaves_the_encoder_alone_and_frozen_norms_as_they_are(digits_run):
    encoder = load_encoder(digits_run)
    task = read_task(encoder, Protocol("digits", labels_per_class=10, repeats=1))
    before = {k: v.clone() for k, v in encoder.encoder.state_dict().items()}
    result = finetune(encoder, task, task.draws[0], QUICK)
    assert (result.score.argmax(1) == task.y[task.draws[0].test]).mean() > 0.6
    assert all(torch.equal(v, before[k]) for k, v in encoder.encoder.state_dict().items())
    still = finetune(encoder, task, task.draws[0], Finetuning(num_epochs=1, min_steps=1, lr=0.0))
    np.testing.assert_allclose(still.score.sum(1), 1, atol=1e-5)


def test_early_stopping_keeps_the_best_epoch(molecule_encoder, molecule_table):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    task = read_task(molecule_encoder, Protocol(str(molecule_table), targets=("oxygen",), split="random"))
    settings = Finetuning(num_epochs=40, min_steps=1, patience=3, lr=3e-2)
    chosen = finetune(molecule_encoder, task, task.draws[0], settings).chosen
    assert chosen["num_epochs"] <= min(40, chosen["epoch"] + 3)


def test_of_epochs_that_are_equal_on_validation_the_surest_is_kept(digits_run, monkeypatch):
    encoder = load_encoder(digits_run)
    task = read_task(encoder, Protocol("digits", labels_per_class=1, repeats=1))
    standings, judged = [], _Target.judged

    def spied(self, model, items):
        p = torch.from_numpy(self.predict(model, items)).double()
        truth = torch.from_numpy(task.y[items])
        loss = torch.nn.functional.nll_loss((p + 1e-12).log(), truth).item()
        standings.append((float((p.argmax(1) == truth).numpy().mean()), -loss))
        return judged(self, model, items)

    monkeypatch.setattr(_Target, "judged", spied)
    draw = task.draws[0]._replace(val=task.draws[0].val[:3])
    result = finetune(encoder, task, draw, replace(QUICK, num_epochs=8))
    most = max(accuracy for accuracy, _ in standings)
    assert sum(accuracy == most for accuracy, _ in standings) > 1  # else nothing is tied
    assert result.val == most and result.chosen["epoch"] == 1 + standings.index(max(standings))
    assert standings.index(max(standings)) != [accuracy for accuracy, _ in standings].index(most)


def test_fine_tuning_that_diverges_or_has_nothing_to_choose_by_is_one_message(digits_run):
    encoder = load_encoder(digits_run)
    task = read_task(encoder, Protocol("digits", labels_per_class=2, repeats=1))
    with pytest.raises(ContrastiveError, match="training diverged, .*; lower --finetuning.lr"):
        finetune(encoder, task, task.draws[0], replace(QUICK, lr=1e30))
    y = (task.y == 1).astype(np.float32)[:, None]
    draw = task.draws[0]._replace(val=np.flatnonzero(task.y == 3)[:9])
    with pytest.raises(ContrastiveError, match="no target has two values in the validation part"):
        finetune(encoder, replace(task, y=y), draw, QUICK)


class Scaled(nn.Module):
    """The features of an encoder in another unit."""

    takes_graphs = True

    def __init__(self, encoder, scale):
        super().__init__()
        self.encoder, self.scale, self.num_features = encoder, scale, encoder.num_features

    def forward(self, batch):
        return self.scale * self.encoder(batch)


def test_fine_tuning_of_molecules_does_not_depend_on_the_unit_of_features(molecule_encoder, molecule_table):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    task = read_task(molecule_encoder, Protocol(str(molecule_table), targets=("oxygen",), split="random"))

    def score(scale, **options):
        scaled = FrozenEncoder(
            Scaled(molecule_encoder.encoder, scale), molecule_encoder.preprocess, molecule_encoder.config
        )
        # so many steps that the norm's running statistics have forgotten where they started
        settings = Finetuning(num_epochs=1, min_steps=100, batch_size=64, lr=1e-4, **options)
        return finetune(scaled, task, task.draws[0], settings).score

    np.testing.assert_allclose(score(10.0), score(100.0), atol=0.02)
    assert np.abs(score(10.0, feature_norm=False) - score(100.0, feature_norm=False)).max() > 1


def test_the_feature_norm_is_float64s(molecule_encoder):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    batch = GraphBatch.from_smiles([ring + tail for ring in RINGS for tail in TAILS])
    model = _Network(molecule_encoder, 3, Finetuning(), True).train()
    h = model.encoder(batch).detach().double()
    normed = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()
    expected = normed @ model.linear.weight.double().T + model.linear.bias.double()
    torch.testing.assert_close(model(batch).double(), expected, rtol=1e-4, atol=1e-4)
    rates = {id(p): g["lr"] for g in _groups(model, Finetuning(lr=1.0, encoder_lr=0.5)) for p in g["params"]}
    assert {rates[id(p)] for p in model.linear.parameters()} == {1.0}
    assert {rates[id(p)] for p in model.encoder.parameters()} == {0.5}


def test_the_blocks_of_a_resnet_are_its_stages_parts():
    network = ResNet(depth=18, width=8)
    names = {id(module): name for name, module in network.named_modules()}
    order = [names[id(block)] for block in blocks(network)]
    assert order == ["conv1", "bn1", *(f"layer{s}.{b}" for s in (1, 2, 3, 4) for b in (0, 1))]
    counted = sum(p.numel() for block in blocks(network) for p in block.parameters())
    assert counted == sum(p.numel() for p in network.parameters())
