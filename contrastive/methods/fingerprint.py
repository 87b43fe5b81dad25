"""A graph against its own fingerprint and descriptors: two views of a molecule that no random change made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from augmentations.random import SampleRandom
from contrastive.data import Batch
from contrastive.module import ContrastiveModule
from encoders.fingerprint import circular_fingerprint
from encoders.heads import MLPHead


class FingerprintContrast(ContrastiveModule):
    """A view of a graph attracts the fingerprint of the whole graph and repels the others'.

    Two augmented views of a molecule agree in nearly everything, and telling molecules apart by them needs
    little chemistry. A fingerprint counts the molecule's substructures; to match it an encoder must find
    them. The contrast is between two modalities, as CLIP's (Radford et al. 2021, arXiv 2103.00020) and, with
    the molecule's geometry, GraphMVP's (Liu et al. 2022, arXiv 2110.07728); here the second modality is
    `circular_fingerprint`, which needs no label and no other data, through an MLP. InfoNCE, the loss where
    none is given, takes rows of the same modality as negatives too; CLIP's is ``CrossModalInfoNCE``. One
    graph a molecule is encoded, so that a step costs half of one with two views.

    With ``num_descriptors`` the second view has the molecule's descriptors too (``descriptors: true`` of
    ``MoleculeData``): what chemists describe a molecule by, such as its lipophilicity, polar surface, charges
    and functional groups. They are known without a measurement, so this is as self-supervised as a
    fingerprint. KPGT (Li et al. 2022, arXiv 2206.03364) has a network predict both where nodes are masked;
    here they are contrasted, and ``descriptor_weight`` adds predicting the descriptors.

    Args:
        encoder: maps a ``GraphBatch`` to ``(N, encoder.num_features)``. This is what is kept.
        views: one augmentation, of the graph alone.
        fingerprint_head: called with ``num_bins + num_descriptors``, maps log(1 + counts) and descriptors to
            projections as wide as the projector's.
        num_bins: of the fingerprint.
        radius: of the fingerprint, in bonds.
        num_descriptors: width of the labels of a batch, standardised descriptors; 0 does without.
        descriptor_weight: of the smooth L1 loss of a linear prediction of the descriptors from ``h``.
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
        num_descriptors: int = 0,
        descriptor_weight: float = 0.0,
        **arguments: Any,
    ) -> None:
        if len(views) != 1:
            raise ValueError(f"views has {len(views)} augmentations; give one: the fingerprint is the other")
        super().__init__(encoder, views, **arguments)
        if descriptor_weight and (not num_descriptors or self.accumulate_negatives > 1):
            raise ValueError("descriptor_weight needs num_descriptors, and accumulate_negatives of 1")
        self.fingerprint_head = fingerprint_head(num_bins + num_descriptors)
        self.num_bins, self.radius, self.num_descriptors = num_bins, radius, num_descriptors
        self.descriptor_weight = descriptor_weight
        if descriptor_weight:
            self.descriptor_head = nn.Linear(encoder.num_features, num_descriptors)  # type: ignore[arg-type]

    def project(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features ``(N, num_features)`` of a view; projections ``(2N, D)``, fingerprints last."""
        random = SampleRandom(batch.index, seed=self.seed, epoch=self.current_epoch)
        h = self.encoder(self.views[0](batch.input, random))
        counts = circular_fingerprint(batch.input, radius=self.radius, num_bins=self.num_bins)
        known = [counts.log1p(), self._descriptors(batch)] if self.num_descriptors else [counts.log1p()]
        return h, torch.cat([self.projector(h), self.fingerprint_head(torch.cat(known, dim=1))])

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """The contrast ``()``, with the prediction of descriptors where it has a weight; ``h`` and ``z``."""
        h, z = self.project(batch)
        loss = self.loss(*z.chunk(2))
        if self.descriptor_weight:
            predicted = F.smooth_l1_loss(self.descriptor_head(h), self._descriptors(batch))
            self.log("descriptor_loss", predicted, batch_size=len(batch.index), sync_dist=True)
            loss = loss + self.descriptor_weight * predicted
        return {"loss": loss, "h": h.detach(), "z": z.detach()}

    def _descriptors(self, batch: Batch) -> Tensor:
        width = None if batch.label is None or batch.label.ndim == 1 else batch.label.shape[1]
        if width != self.num_descriptors:
            raise ValueError(
                f"num_descriptors is {self.num_descriptors} but the batch has {width or 'none'}; set "
                "data.init_args.descriptors to true, and num_descriptors to their number"
            )
        assert batch.label is not None
        return batch.label
