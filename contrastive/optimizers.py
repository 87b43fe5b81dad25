"""What torch does not have or not by default: LARS, groups without weight decay, fused steps, warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from contrastive.errors import ContrastiveError

ScheduleCallable = Callable[[Optimizer], LRScheduler]


class LARS(Optimizer):
    """SGD with momentum whose step is scaled to each layer's norm (You et al. 2017, arXiv 1708.03888).

    Parameters of one dimension (biases, norms) take plain SGD steps, as in SimCLR's code.

    Args:
        params: parameters or groups.
        lr: learning rate; SimCLR takes 0.3 × batch / 256.
        momentum: of the velocity.
        weight_decay: added to the gradient.
        trust_coefficient: η of the paper.
    """

    def __init__(
        self,
        params: Iterable,
        *,
        lr: float = 0.3,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust_coefficient: float = 1e-3,
    ) -> None:
        super().__init__(
            params,
            dict(lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient),
        )

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        """Take one step; ``closure`` is evaluated first where it is given."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                update = p.grad.add(p, alpha=group["weight_decay"])
                if p.ndim > 1:
                    norm = update.norm()
                    trust = group["trust_coefficient"] * p.norm() / norm
                    update.mul_(torch.where((norm > 0) & (p.norm() > 0), trust, 1.0))
                if "velocity" not in self.state[p]:
                    self.state[p]["velocity"] = torch.zeros_like(p)
                velocity = self.state[p]["velocity"].mul_(group["momentum"]).add_(update)
                p.sub_(velocity, alpha=group["lr"])
        return loss


def decay_groups(module: nn.Module) -> list[dict]:
    """Split the parameters in two groups: those that decay, and biases and norms, which do not."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def warmup_cosine(optimizer: Optimizer, *, warmup_steps: int, total_steps: int) -> LambdaLR:
    """Rise linearly for ``warmup_steps``, then fall along a half cosine to 0 (arXiv 1608.03983)."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)


def fuse(optimizer: Optimizer) -> None:
    """Have Adam and AdamW on CPUs take a step in one kernel; left alone, torch takes parameters one by one.

    The numbers are the same but for rounding. What the user set, ``foreach`` or ``fused``, stays.
    """
    for group in optimizer.param_groups if type(optimizer) in (Adam, AdamW) else ():
        # a shard is of another type, and the kernel has no complex numbers
        fits = all(type(p) is nn.Parameter and p.is_cpu and p.is_floating_point() for p in group["params"])
        if fits and group["fused"] is None and not (group["foreach"] or group["differentiable"]):
            group["fused"] = True


def built(name: str, make: Callable[..., Any], argument: Any) -> Any:
    """What a class of the configuration gives.

    Raises:
        ContrastiveError: it refuses a setting, which is the user's to mend.
    """
    try:
        return make(argument)
    except (ValueError, TypeError) as error:
        raise ContrastiveError(f"{name} cannot be built: {error}") from error


def scheduled(
    optimizer: Optimizer, trainer: Trainer, warmup_epochs: float, schedule: ScheduleCallable | None = None
) -> dict[str, Any]:
    """What ``configure_optimizers`` returns: the optimizer with a schedule, by default `warmup_cosine`.

    Raises:
        ContrastiveError: by default, where the end of the run is not known, or that of an epoch.
    """
    fuse(optimizer)
    make = schedule or _over_the_run(trainer, warmup_epochs)
    moved = built("model.schedule", make, optimizer)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": moved, "interval": "step"}}


def _over_the_run(trainer: Trainer, warmup_epochs: float) -> ScheduleCallable:
    trainer.fit_loop.setup_data()  # which is what tells the batches of an epoch; max_epochs -1 had not asked
    total = trainer.estimated_stepping_batches
    if not 0 <= total < math.inf:  # -1 of epochs without a known end
        raise ContrastiveError(
            "the learning rate falls to 0 at the end of the run, which is not known: give "
            "--trainer.max_steps, or a --model.schedule"
        )
    warmup = round(warmup_epochs * _steps_per_epoch(trainer, int(total))) if warmup_epochs else 0
    return partial(warmup_cosine, warmup_steps=min(warmup, int(total) // 2), total_steps=int(total))


def _steps_per_epoch(trainer: Trainer, total: int) -> float:
    """Optimizer steps an epoch, not fewer where ``max_steps`` ends the run; without an end, its share."""
    batches = trainer.num_training_batches
    if not math.isinf(batches):
        return math.ceil(batches / trainer.accumulate_grad_batches)
    epochs = trainer.max_epochs or -1
    if epochs < 0:
        raise ContrastiveError(
            "the data does not say how many batches an epoch has, by which warmup_epochs are counted: give "
            "--trainer.limit_train_batches, --model.warmup_epochs 0 or a --model.schedule"
        )
    return total / epochs
