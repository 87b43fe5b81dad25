"""Batch norm over the batch of all processes, also where torch has no kernel for it: on CPUs."""

from __future__ import annotations

import torch
from pytorch_lightning.plugins.layer_sync import LayerSync
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from contrastive.distributed import num_processes, sum_over_ranks


class SyncBatchNorm(_BatchNorm):
    """Batch norm (Ioffe and Szegedy 2015, arXiv 1502.03167) with the mean and variance over all processes.

    Input and output are ``(N, C, …)`` with any N on each process. The gradient is that of the sum of all
    processes' losses, as `contrastive.distributed` has it, so that under DistributedDataParallel the result
    is one process's on the whole batch. Parameters and buffers are those of torch's batch norms.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, in float32 at least; in eval mode, and with one process, as torch does."""
        if not self.training or num_processes() == 1:
            return super().forward(x)
        return self._over_all(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)

    def _over_all(self, x: Tensor) -> Tensor:
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = x.new_tensor([x.numel() / x.shape[1]])
        total = sum_over_ranks(torch.cat([x.sum(dims), count]))
        mean = total[:-1] / total[-1]
        centred = x - mean.view(shape)
        variance = sum_over_ranks(centred.square().sum(dims)) / total[-1]
        self._track(mean.detach(), variance.detach(), float(total[-1].detach()))
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            return centred * (scale * self.weight).view(shape) + self.bias.view(shape)
        return centred * scale.view(shape)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: float) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        unbiased = variance * count / max(1.0, count - 1)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class SyncedOnCPU(LayerSync):
    """``trainer.sync_batchnorm`` for processes on CPUs: batch norms become `SyncBatchNorm`."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace the batch norms inside a model; parameters and buffers stay the same tensors."""
        for name, child in model.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, SyncBatchNorm):
                setattr(model, name, _synced(child))
            else:
                self.apply(child)
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Nothing: with one process, or in eval mode, they are torch's."""
        return model


def _synced(norm: _BatchNorm) -> SyncBatchNorm:
    synced = SyncBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    synced._parameters, synced._buffers = norm._parameters, norm._buffers
    return synced.train(norm.training)
