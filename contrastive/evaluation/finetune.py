"""Training on the labelled items themselves: fine-tuning, and from scratch, which pretraining has to beat."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from augmentations.random import SampleRandom
from contrastive.errors import ContrastiveError
from contrastive.evaluation.classifiers import NO_VALIDATION, Prediction
from contrastive.evaluation.draws import Draw
from contrastive.evaluation.metrics import standing
from contrastive.evaluation.protocol import Finetuning
from contrastive.evaluation.tasks import Task
from contrastive.features import FrozenEncoder, accelerator
from contrastive.optimizers import decay_groups, warmup_cosine
from contrastive.predictor import Head

_SEQUENCES = (nn.Sequential, nn.ModuleList)


def finetune(
    encoder: FrozenEncoder,
    task: Task,
    draw: Draw,
    settings: Finetuning,
    *,
    view: Callable[..., Any] | None = None,
    seed: int = 0,
) -> Prediction:
    """Train a copy of an encoder and a linear layer on a draw; keep the epoch that is best on validation.

    AdamW, with warm-up and cosine where nothing else is asked for, lower rates for earlier blocks where asked
    for. The loss is cross-entropy of classes or labels, or squared error of standardised values; blanks are
    left out. Validation items are predicted after each epoch, test items once, by the weights of the best,
    and where ``last_epoch`` asks for it by the last ones too.

    Args:
        encoder: where training starts; left as it is.
        task: has the items.
        draw: what is fitted on, chosen by and predicted.
        settings: see `Finetuning`.
        view: an augmentation of training items, called as ``view(inputs, random)``; None for none.
        seed: of the linear layer, the order, the augmentations and the dropout.

    Returns:
        The prediction; ``chosen`` has the ``epoch``, from 1, and ``num_epochs``, how many were trained.

    Raises:
        ContrastiveError: training diverged, or validation has nothing to choose by.
    """
    torch.manual_seed(seed)
    target = _Target(task, draw, encoder)
    normed = task.unit != "images" if settings.feature_norm is None else settings.feature_norm
    model = _Network(encoder, target.width, settings, normed).to(accelerator())
    best, best_epoch, best_state, epoch = (-float("inf"), 0.0), 0, model.state_dict(), 0
    for epoch in _trained(model, target, draw.fit, settings, view, seed):
        val = target.judged(model, draw.val)
        if val > best or best_epoch == 0:
            best, best_epoch, best_state = val, epoch, copy.deepcopy(model.state_dict())
        if epoch - best_epoch >= settings.patience:
            break
    last = target.predict(model, draw.test) if settings.last_epoch else None
    model.load_state_dict(best_state)
    score = target.predict(model, draw.test)
    chosen: dict[str, float] = {"epoch": best_epoch, "num_epochs": epoch}
    return Prediction(score, abs(best[0]), chosen, last, model.head(target), model.encoder.cpu())


def _trained(
    model: _Network,
    target: _Target,
    items: np.ndarray,
    settings: Finetuning,
    view: Callable[..., Any] | None,
    seed: int,
) -> Iterator[int]:
    """Train epoch by epoch; yields each one's number, from 1, when its steps are taken."""
    epoch_steps = _epoch_steps(len(items), settings)
    optimizer = torch.optim.AdamW(_groups(model, settings), weight_decay=settings.weight_decay)
    schedule = _schedule(optimizer, settings, epoch_steps * settings.num_epochs)
    mixed = settings.precision == "bf16-mixed"
    precision = torch.autocast(accelerator(), torch.bfloat16, enabled=mixed)
    batches = _endless(items, settings.batch_size, seed)
    for epoch in range(1, settings.num_epochs + 1):
        model.train()
        for step in range(epoch_steps):
            index = next(batches)
            inputs = _augmented(view, target.encoder, seed, epoch * epoch_steps + step)
            with precision:
                output = target.task.forward(model, index, inputs)
            loss = target.loss(output.float(), index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        yield epoch


def _epoch_steps(num_items: int, settings: Finetuning) -> int:
    """Steps of an epoch, which goes over few items several times, so that all have ``min_steps`` at least."""
    once = max(1, num_items // settings.batch_size)
    return once * max(1, -(-settings.min_steps // (once * settings.num_epochs)))


def _schedule(
    optimizer: torch.optim.Optimizer, settings: Finetuning, total: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if settings.schedule == "constant":
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    return warmup_cosine(optimizer, warmup_steps=total // 10, total_steps=total)


def _augmented(
    view: Callable[..., Any] | None, encoder: FrozenEncoder, seed: int, step: int
) -> Callable[[Any, Tensor], Any]:
    """What makes the network's input of raw items: a view of each, or the preprocessing alone."""
    if view is None:
        return lambda x, _: encoder.preprocess(x)
    return lambda x, index: view(x, SampleRandom(index, seed=seed, epoch=step))


class _Target:
    """The loss of a kind of targets, and predictions in their units."""

    def __init__(self, task: Task, draw: Draw, encoder: FrozenEncoder) -> None:
        self.task, self.kind, self.encoder = task, task.kind, encoder
        self.y = torch.from_numpy(task.y)
        self.width = int(task.y.max()) + 1 if self.kind == "classes" else task.y.shape[1]
        if self.kind == "values":
            fitted = task.y[draw.fit]
            fitted = np.where(np.isnan(fitted).all(axis=0), 0, fitted)  # nothing is known: 0, as by ridge
            self.mean, self.std = np.nanmean(fitted, axis=0), np.maximum(np.nanstd(fitted, axis=0), 1e-8)
            self.y = torch.from_numpy(((task.y - self.mean) / self.std).astype(np.float32))

    def loss(self, output: Tensor, index: np.ndarray) -> Tensor:
        """The mean over known targets; 0 where none is known."""
        y = self.y[torch.from_numpy(index)].to(output.device)
        if self.kind == "classes":
            return F.cross_entropy(output, y)
        known = ~y.isnan()
        losses = F.binary_cross_entropy_with_logits if self.kind == "labels" else F.mse_loss
        return losses(output[known], y[known].to(output.dtype), reduction="sum") / max(int(known.sum()), 1)

    @torch.inference_mode()
    def predict(self, model: nn.Module, items: np.ndarray) -> np.ndarray:
        """Probabilities of classes, log-odds of labels, or values."""
        model.eval()
        parts = [items] if self.task.unit == "nodes" else np.array_split(items, -(-len(items) // 512))
        outputs = [self.task.forward(model, part, lambda x, _: self.encoder.preprocess(x)) for part in parts]
        score = torch.cat(outputs).float().cpu()
        if self.kind == "classes":
            return score.softmax(1).numpy()
        return score.numpy() if self.kind == "labels" else score.numpy() * self.std + self.mean

    def judged(self, model: nn.Module, items: np.ndarray) -> tuple[float, float]:
        """How good what a model predicts of some items is, see `standing`."""
        score = self.predict(model, items)
        if not np.isfinite(score).all():
            raise ContrastiveError("training diverged, its predictions are not finite; lower --finetuning.lr")
        value = standing(self.kind, self.task.y[items], score)
        if np.isnan(value[0]):
            raise ContrastiveError(NO_VALIDATION)
        return value


class _Network(nn.Module):
    """A copy of an encoder with batch norm where asked for, dropout and a linear layer."""

    def __init__(self, encoder: FrozenEncoder, num_outputs: int, settings: Finetuning, normed: bool) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder.encoder).requires_grad_(True)
        own = getattr(self.encoder, "dropout", None)
        if isinstance(own, nn.Dropout):
            own.p = settings.dropout
        width = encoder.num_features
        self.norm = nn.BatchNorm1d(width, affine=False) if normed else nn.Identity()
        self.dropout, self.linear = nn.Dropout(settings.dropout), nn.Linear(width, num_outputs)
        self.frozen_norms = [m for m in self.encoder.modules() if isinstance(m, _BatchNorm)]
        if not settings.freeze_batch_norm:
            self.frozen_norms = []
        for norm in self.frozen_norms:
            norm.requires_grad_(False)

    def train(self, mode: bool = True) -> _Network:
        super().train(mode)
        for norm in self.frozen_norms:
            norm.eval()
        return self

    def forward(self, inputs: Any) -> Tensor:
        """Map preprocessed inputs to ``(N, num_outputs)``."""
        return self.linear(self.dropout(self.norm(self.encoder(inputs))))

    def head(self, target: _Target) -> Head:
        """What follows the encoder, as a linear function that gives predictions in the targets' units."""
        weight, bias = (p.detach().cpu().double().numpy() for p in (self.linear.weight, self.linear.bias))
        mean, scale = np.zeros(weight.shape[1]), np.ones(weight.shape[1])
        if isinstance(self.norm, nn.BatchNorm1d):
            assert self.norm.running_mean is not None and self.norm.running_var is not None
            mean = self.norm.running_mean.cpu().double().numpy()
            scale = (self.norm.running_var.double() + self.norm.eps).sqrt().cpu().numpy()
        if target.kind == "values":
            weight, bias = weight * target.std[:, None], bias * target.std + target.mean
        return Head(weight, bias, mean, scale)


def _groups(model: _Network, settings: Finetuning) -> list[dict[str, Any]]:
    """Parameter groups: weights decay, biases and norms do not; earlier blocks have lower rates."""
    parts = [*blocks(model.encoder), model.linear]
    inside = {id(parameter) for part in parts for parameter in part.parameters()}
    # such as a token or an embedding of positions: as early as any
    loose = nn.ParameterList(p for p in model.encoder.parameters() if id(p) not in inside)
    encoder_lr = settings.lr if settings.encoder_lr is None else settings.encoder_lr
    groups = []
    for depth, part in enumerate([*reversed(parts), loose]):
        lr = encoder_lr * settings.layer_decay ** min(depth, len(parts) - 1) if depth else settings.lr
        groups += [group | {"lr": lr} for group in decay_groups(part)]
    return [group for group in groups if group["params"]]


def blocks(encoder: nn.Module) -> list[nn.Module]:
    """The parts of a network that have parameters, from input to output as they are registered.

    They are its children; of a sequence or a list its members, and of a child that holds more than half of
    the parameters its own children. Lists side by side, as of layers and of their norms, go together.
    """
    return list(_parts(encoder, _size(encoder) / 2))


def _parts(module: nn.Module, half: float) -> Iterator[nn.Module]:
    children = [child for child in module.children() if _size(child)]
    lists = [child for child in children if isinstance(child, nn.ModuleList)]
    if isinstance(module, _SEQUENCES) or len({len(members) for members in lists}) > 1:
        lists = []  # stages, one after another, or lists that do not go together
    for child in children:
        holds_most = not isinstance(module, _SEQUENCES) and _size(child) > half and any(child.children())
        if len(lists) > 1 and child in lists:
            if child is lists[0]:
                yield from map(nn.ModuleList, zip(*lists, strict=True))
        elif isinstance(child, _SEQUENCES) or holds_most:
            yield from _parts(child, half)
        else:
            yield child


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _endless(items: np.ndarray, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Batches of full size, of shuffled items without end; all of them where there are fewer."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(items)
        for start in range(0, max(1, len(order) - batch_size + 1), batch_size):
            yield order[start : start + batch_size]
