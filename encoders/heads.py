"""Heads: what turns the features ``h`` of an encoder into the projections ``z`` of a loss."""

from __future__ import annotations

from torch import nn


class MLPHead(nn.Sequential):
    """Linear layers with ReLU between them: SimCLR's projector (Chen et al. 2020, arXiv 2002.05709).

    Maps ``(N, in_features)`` to ``(N, out_features)``, unnormalised: the losses normalise.

    Args:
        in_features: width of the encoder's features ``h``.
        hidden_features: width of every hidden layer; ``None`` takes ``in_features``, as SimCLR does.
        out_features: width of the projections ``z``.
        num_layers: linear layers in all; 1 is a linear head.
        batch_norm: batch norm after every hidden layer (SimCLR's own code has it, its paper does not say so).
    """

    def __init__(
        self,
        in_features: int,
        *,
        hidden_features: int | None = None,
        out_features: int = 128,
        num_layers: int = 2,
        batch_norm: bool = True,
    ) -> None:
        if num_layers < 1:
            raise ValueError(f"num_layers is {num_layers}; a head needs at least 1 layer")
        hidden = hidden_features or in_features
        layers: list[nn.Module] = []
        for _ in range(num_layers - 1):
            layers.append(nn.Linear(in_features, hidden, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm1d(hidden))
            layers.append(nn.ReLU(inplace=True))
            in_features = hidden
        super().__init__(*layers, nn.Linear(in_features, out_features))
