"""Training on the labelled samples themselves: from scratch, the baseline pretraining has to beat."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from augmentations.random import SampleRandom
from contrastive.optimizers import decay_groups, warmup_cosine


def train_classifier(
    encoder: nn.Module,
    view: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    num_steps: int = 60,
    batch_size: int = 64,
    lr: float = 3e-3,
    weight_decay: float = 1e-2,
    seed: int = 0,
) -> nn.Module:
    """Train a copy of an encoder and a linear layer with cross-entropy on augmented labelled images.

    AdamW with warm-up and cosine; the last weights are taken, so nothing is selected on any other data.

    Args:
        encoder: where training starts; left as it is.
        view: the augmentation, called as ``view(images, random)``: the one pretraining used, to be fair.
        images: ``(N, C, H, W)`` uint8.
        labels: ``(N,)`` int64.
        num_classes: outputs of the classifier.
        num_steps: optimizer steps.
        batch_size: images a step, drawn without replacement; all of them where there are fewer.
        lr: peak learning rate.
        weight_decay: of the weights, not of biases and norms.
        seed: of the linear layer, the batches and the augmentations.

    Returns:
        A module in eval mode from preprocessed images to ``(N, num_classes)`` logits.
    """
    torch.manual_seed(seed)
    classifier = nn.Linear(encoder.num_features, num_classes)  # type: ignore[arg-type]
    model = nn.Sequential(copy.deepcopy(encoder), classifier)
    model.train().requires_grad_(True).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(decay_groups(model), lr=lr, weight_decay=weight_decay)
    schedule = warmup_cosine(optimizer, warmup_steps=num_steps // 10, total_steps=num_steps)
    for step in range(num_steps):
        chosen = torch.randperm(len(images))[:batch_size]
        views = view(images[chosen], SampleRandom(chosen, seed=seed, epoch=step))
        loss = F.cross_entropy(model(views), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()
