"""A graph against its own fingerprint: two views of a molecule that no random change has made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from augmentations.random import SampleRandom
from contrastive.data import Batch
from contrastive.module import ContrastiveModule
from encoders.fingerprint import circular_fingerprint
from encoders.heads import MLPHead


class FingerprintContrast(ContrastiveModule):
    """A view of a graph attracts the fingerprint of the whole graph and repels the others'.

    Two augmented views of a molecule agree in nearly everything, and telling molecules apart by them needs
    little chemistry. A fingerprint counts the molecule's substructures; to match it an encoder must find
    them. The contrast is CLIP's (Radford et al. 2021, arXiv 2103.00020) between two modalities, as GraphMVP
    (Liu et al. 2022, arXiv 2110.07728) does it with the molecule's geometry; here the second modality is
    `circular_fingerprint`, which needs no label and no other data, through an MLP. One graph a molecule is
    encoded, so that a step costs half of one with two views.

    Args:
        encoder: maps a ``GraphBatch`` to ``(N, encoder.num_features)``. This is what is kept.
        views: one augmentation, of the graph alone.
        fingerprint_head: called with ``num_bins``, maps log(1 + counts) to projections as wide as the
            projector's.
        num_bins: of the fingerprint.
        radius: of the fingerprint, in bonds.
        arguments: those of ``ContrastiveModule``.
    """

    def __init__(
        self,
        encoder: nn.Module,
        views: list[nn.Module],
        *,
        fingerprint_head: Callable[[int], nn.Module] = MLPHead,
        num_bins: int = 2048,
        radius: int = 2,
        **arguments: Any,
    ) -> None:
        if len(views) != 1:
            raise ValueError(f"views has {len(views)} augmentations; give one: the fingerprint is the other")
        super().__init__(encoder, views, **arguments)
        self.fingerprint_head = fingerprint_head(num_bins)
        self.num_bins, self.radius = num_bins, radius

    def project(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features ``(N, num_features)`` of a view; projections ``(2N, D)``, fingerprints last."""
        random = SampleRandom(batch.index, seed=self.seed, epoch=self.current_epoch)
        h = self.encoder(self.views[0](batch.input, random))
        counts = circular_fingerprint(batch.input, radius=self.radius, num_bins=self.num_bins)
        return h, torch.cat([self.projector(h), self.fingerprint_head(counts.log1p())])
