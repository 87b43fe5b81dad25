"""A large batch's gradient in the memory of a small one (GradCache, Gao et al. 2021, arXiv:2101.06983)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

Batch = TypeVar("Batch")


def cached_backward(
    encode: Callable[[Batch], Sequence[Tensor]],
    micro_batches: Sequence[Batch],
    loss: Callable[..., Tensor],
    backward: Callable[[Tensor], None],
    *,
    no_sync: Callable[[], AbstractContextManager] = nullcontext,
) -> Tensor:
    """Back-propagate one loss over all micro-batches while holding the graph of one at a time.

    Every micro-batch is encoded without a graph; the loss of all projections gives the gradient by each of
    them; every micro-batch is encoded again, with the random numbers of the first time, and takes its part of
    that gradient to the parameters. So the samples of one micro-batch are negatives for those of the others,
    which accumulating gradients does not give.

    The result is that of the concatenated batch if ``encode`` treats samples one by one. Batch norm does
    not: it normalises by the micro-batch, and moves its running statistics twice a step. Only torch's
    generators are replayed: draw numbers from ``random`` or NumPy beforehand.

    Args:
        encode: maps a micro-batch to projections ``(B, D)``, one tensor a view.
        micro_batches: at least one.
        loss: called with one ``(ΣB, D)`` tensor a view, in float32 at least, gives the scalar. The parameters
            of an ``nn.Module`` receive their gradients too.
        backward: adds the gradient of a scalar to the parameters: ``manual_backward`` in Lightning, which
            scales it under mixed precision, or ``torch.Tensor.backward``. The scalar's value means nothing.
        no_sync: gives the context in which DistributedDataParallel does not average, entered for all
            micro-batches but the last.

    Returns:
        The loss ``()``, detached.

    In the training step of a LightningModule with ``automatic_optimization = False``::

        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = cached_backward(
            encode=self.project,  # micro-batch -> (z0, z1)
            micro_batches=micro_batches,
            loss=self.loss,
            backward=self.manual_backward,
            no_sync=getattr(self.trainer.strategy, "block_backward_sync", nullcontext),
        )
        optimizer.step()
    """
    states, cache = [], []
    with torch.no_grad():
        for micro_batch in micro_batches:
            states.append(_random_state())
            cache.append(encode(micro_batch))
    torch.clear_autocast_cache()  # older torch would reuse weights cast without a graph
    value, gradients = _loss_and_gradients(loss, cache)
    parameters = _parameters(loss)

    for i, micro_batch in enumerate(micro_batches):
        last = i == len(micro_batches) - 1
        with nullcontext() if last else no_sync():
            _set_random_state(states[i])
            outputs = [*encode(micro_batch), *(parameters if last else [])]
            # linear in the outputs, with the gradients as its slopes
            products = [(output * gradient).sum() for output, gradient in zip(outputs, gradients[i])]
            backward(torch.stack(products).sum())
    return value


def _loss_and_gradients(
    loss: Callable[..., Tensor], cache: Sequence[Sequence[Tensor]]
) -> tuple[Tensor, list[list[Tensor]]]:
    """The loss, its gradients by each micro-batch's projections and, after the last's, by its parameters."""
    # in float32 where the projections are float16, which would lose small gradients before they are scaled
    views = [torch.cat(view) for view in zip(*cache)]
    views = [view.to(torch.promote_types(view.dtype, torch.float32)).requires_grad_() for view in views]
    with torch.enable_grad():
        value = loss(*views)
    parameters = _parameters(loss)
    gradients = torch.autograd.grad(value, [*views, *parameters])
    sizes = [len(projections[0]) for projections in cache]
    split = [gradient.split(sizes) for gradient in gradients[: len(views)]]
    by_micro_batch = [list(parts) for parts in zip(*split)]
    by_micro_batch[-1] += gradients[len(views) :]
    return value.detach(), by_micro_batch


def _parameters(loss: Callable[..., Tensor]) -> list[nn.Parameter]:
    return [p for p in loss.parameters() if p.requires_grad] if isinstance(loss, nn.Module) else []


def _random_state() -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    cpu, cuda = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda)
