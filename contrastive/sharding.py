"""Encoders that do not fit on one device: each process holds a share of every weight (FSDP2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed as dist
from torch import nn


def shard(module: nn.Module, mesh: Any) -> None:
    """Shard the networks of a module over processes, block by block.

    A block's weights are gathered when it is called and let go after (Zhao et al. 2023, arXiv 2304.11277).
    The module itself is not wrapped: its ``training_step`` is no ``forward``, at which weights are gathered.

    Args:
        module: its children with parameters are sharded: encoder, heads, a loss that learns.
        mesh: the processes, a ``DeviceMesh`` of one dimension.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    module.to(memory_format=torch.contiguous_format)  # FSDP refuses weights that lie channels last
    for network in module.children():
        if not any(True for _ in network.parameters()):
            continue
        scalars = {parameter for parameter in network.parameters() if parameter.ndim == 0}
        for block in _blocks(network):
            fully_shard(block, mesh=mesh, ignored_params=scalars)
        fully_shard(network, mesh=mesh, ignored_params=scalars)
        for scalar in scalars:  # cannot be shared out; its gradient is averaged as the others' are
            scalar.register_post_accumulate_grad_hook(_average_gradient)
        for method in ("nodes_and_graphs", "local"):  # what InfoGraph and DGI call
            if hasattr(network, method):
                register_fsdp_forward_method(network, method)


def _average_gradient(parameter: nn.Parameter) -> None:
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad)
    parameter.grad /= dist.get_world_size()


def is_sharded(module: nn.Module) -> bool:
    """Whether a forward pass needs all processes."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def _blocks(network: nn.Module) -> list[nn.Module]:
    """The members of a network's sequences and lists of modules, such as a transformer's blocks."""
    blocks: list[nn.Module] = []
    for child in network.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            inner = _blocks(child)
            blocks += inner or [part for part in child if any(True for _ in part.parameters())]
        else:
            blocks += _blocks(child)
    return blocks
