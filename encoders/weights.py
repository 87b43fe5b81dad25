"""Weights loaded strictly, and what is said of those that do not fit."""

from __future__ import annotations

from torch import Tensor, nn


def load_strictly(network: nn.Module, weights: dict[str, Tensor], source: str, name: str) -> None:
    """Load a state dict whose every key and shape must be the network's own.

    The counters of batch norms may be missing, as in most weights that torchvision publishes: torch before
    0.4.1 had none.

    Raises:
        ValueError: some are not; the message says that ``source`` does not fit ``name``, and lists them.
    """
    own = network.state_dict()
    problems = {
        "missing": sorted(k for k in own.keys() - weights.keys() if not k.endswith("num_batches_tracked")),
        "unexpected": sorted(weights.keys() - own.keys()),
        "of another shape": [
            f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
            for key in sorted(own.keys() & weights.keys())
            if own[key].shape != weights[key].shape
        ],
    }
    found = [
        f"{len(keys)} {what}: {', '.join(keys[:6])}{', …' if len(keys) > 6 else ''}"
        for what, keys in problems.items()
        if keys
    ]
    if found:
        raise ValueError(f"{source} does not fit {name}; keys {'; '.join(found)}")
    own.update(weights)  # it has the versions of layers too, without which MNASNet loads nothing
    network.load_state_dict(own)
