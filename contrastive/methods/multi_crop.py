"""Many crops of every image: a few large ones, each contrasted with all others."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from augmentations.random import SampleRandom
from contrastive.data import Batch
from contrastive.module import ContrastiveModule


class MultiCrop(ContrastiveModule):
    """Large crops of an image attract one another and its small crops (SwAV, Caron et al. 2020).

    In arXiv 2006.09882 a small crop has to tell what a large one would, and costs little to encode. The loss
    here is the mean of ``loss(z_i, z_j)`` over all pairs of crops of which i is large, each pair once; the
    paper's predicts cluster codes. With two large crops and no small one it is that of ContrastiveModule.

    Args:
        encoder: maps images of either size to ``(N, encoder.num_features)``. This is what is kept.
        views: one augmentation that gives a list of crops, those of the first one's size being the large
            ones: ``augmentations.image.multi_crop``.
        options: of ContrastiveModule, but for ``accumulate_negatives``.
    """

    def __init__(self, encoder: nn.Module, views: list[nn.Module], **options: Any) -> None:
        super().__init__(encoder, views, **options)
        if len(views) != 1 or self.accumulate_negatives > 1:
            raise ValueError("MultiCrop takes one augmentation, of all crops, and no accumulate_negatives")

    def augment(self, batch: Batch) -> list[Any]:
        """Draw the crops of every image, which follow from (seed, epoch, index) alone."""
        random = SampleRandom(batch.index, seed=self.seed, epoch=self.current_epoch)
        return self.views[0](batch.input, random)

    def encode(self, views: list[Any]) -> Tensor:
        """Features of all crops, ``(V·N, num_features)``, in one pass a size."""
        sizes = groupby(views, key=lambda view: view.shape)
        return torch.cat([self.encoder(torch.cat(list(crops))) for _, crops in sizes])

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """The loss ``()`` of a batch, and the features ``h`` and projections ``z`` of the large crops."""
        views = self.augment(batch)
        h = self.encode(views).chunk(len(views))
        z = self.projector(torch.cat(h)).chunk(len(views))
        num_large = sum(view.shape == views[0].shape for view in views)
        pairs = [(i, j) for i in range(num_large) for j in range(i + 1, len(views))]
        loss = torch.stack([self.loss(z[i], z[j]) for i, j in pairs]).mean()
        large = slice(num_large)
        return {"loss": loss, "h": torch.cat(h[large]).detach(), "z": torch.cat(z[large]).detach()}
