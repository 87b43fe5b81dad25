"""Fine-tuning an encoder of molecules on labels of which some are missing."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contrastive.data.molecules import MoleculeDataset
from contrastive.data.splits import Parts
from contrastive.evaluation.roc_auc import mean_roc_auc
from contrastive.features import accelerator


def finetune(
    encoder: nn.Module,
    dataset: MoleculeDataset,
    y: np.ndarray,
    parts: Parts,
    *,
    num_epochs: int,
    batch_size: int,
    lr: float,
    dropout: float,
    seed: int,
) -> dict[str, Any]:
    """Train a copy of an encoder with a linear layer: Adam, dropout, cross-entropy of the known labels.

    Args:
        encoder: where training starts; left as it is.
        dataset: the molecules.
        y: ``(N, T)`` of 0, 1 and NaN.
        parts: of the molecules.
        num_epochs: passes over the training part.
        batch_size: molecules a step.
        lr: Adam's learning rate, of encoder and classifier.
        dropout: after every layer of the encoder that has a ``dropout``, and before the classifier.
        seed: of the linear layer, the order and the dropout.

    Returns:
        ``val`` and ``test`` after the epoch with the best validation ROC-AUC, ``epoch`` (which, from 1), and
        ``val_last`` and ``test_last`` after the last.
    """
    torch.manual_seed(seed)
    model = _Classifier(encoder, y.shape[1], dropout).to(accelerator())
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    curve = []
    for _ in range(num_epochs):
        _train_epoch(model, optimizer, dataset, parts.train, batch_size)
        curve.append([_roc_auc_of(model, dataset, y, part) for part in (parts.val, parts.test)])
    vals = [val if val == val else -1.0 for val, _ in curve]
    best = int(np.argmax(vals))
    return {
        "val": curve[best][0],
        "test": curve[best][1],
        "epoch": best + 1,
        "val_last": curve[-1][0],
        "test_last": curve[-1][1],
    }


class _Classifier(nn.Module):
    def __init__(self, encoder: nn.Module, num_tasks: int, dropout: float) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).train().requires_grad_(True)
        own = getattr(self.encoder, "dropout", None)
        if isinstance(own, nn.Dropout) and not getattr(encoder, "share_equal_nodes", False):
            own.p = dropout
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(encoder.num_features, num_tasks)  # type: ignore[arg-type]

    def forward(self, graphs: Any) -> Tensor:
        return self.linear(self.dropout(self.encoder(graphs)))


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    dataset: MoleculeDataset,
    train: np.ndarray,
    batch_size: int,
) -> None:
    model.train()
    device = next(model.parameters()).device
    order = torch.from_numpy(train)[torch.randperm(len(train))]
    for chosen in order.split(batch_size):
        if len(chosen) < 2:  # batch norm has no variance of one molecule's single atom
            continue
        batch = dataset.__getitems__(chosen.tolist())
        assert batch.label is not None
        label = batch.label.to(device)
        known = ~label.isnan()
        logits = model(batch.input.to(device))
        loss = F.binary_cross_entropy_with_logits(logits[known], label[known])
        if known.any():
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.inference_mode()
def _roc_auc_of(model: nn.Module, dataset: MoleculeDataset, y: np.ndarray, part: np.ndarray) -> float:
    model.eval()
    device = next(model.parameters()).device
    scores = [
        model(dataset.__getitems__(chosen.tolist()).input.to(device)).cpu()
        for chosen in torch.from_numpy(part).split(512)
    ]
    return mean_roc_auc(y[part], torch.cat(scores).numpy())
