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
        views: one augmentation that gives a list of crops, the first ones, of one size, being the large
            ones: ``augmentations.image.multi_crop``.
        options: of ContrastiveModule, but for ``accumulate_negatives``.
    """

    def __init__(self, encoder: nn.Module, views: list[nn.Module], **options: Any) -> None:
        super().__init__(encoder, views, **options)
        if len(views) != 1 or self.accumulate_negatives > 1:
            raise ValueError("MultiCrop takes one augmentation, of all crops, and no accumulate_negatives")

    def augment(self, batch: Batch) -> list[Any]:
        """Draw the crops of every image, which follow from (seed, epoch, index) alone."""
        if isinstance(batch.input, tuple):
            raise ValueError("MultiCrop cuts crops by itself; leave out data.init_args.crop")
        random = SampleRandom(batch.index, seed=self.seed, epoch=self.current_epoch)
        crops = self.views[0](batch.input, random)
        if not isinstance(crops, list) or len(crops) < 2:
            raise ValueError("MultiCrop needs an augmentation that gives two crops or more: multi_crop")
        return crops

    def encode(self, views: list[Any]) -> Tensor:
        """Features of all crops, ``(V·N, num_features)``, in one pass a size."""
        return torch.cat([self.encoder(torch.cat(crops)) for crops in _by_size(views)])

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """The loss ``()`` of a batch, and the features ``h`` and projections ``z`` of the large crops."""
        views = self.augment(batch)
        h = self.encode(views)
        z = self.projector(h)
        num_large, crops = len(_by_size(views)[0]), z.chunk(len(views))
        pairs = [(i, j) for i in range(num_large) for j in range(i + 1, len(views))]
        loss = torch.stack([self.loss(crops[i], crops[j]) for i, j in pairs]).mean()
        large = slice(num_large * len(views[0]))
        return {"loss": loss, "h": h[large].detach(), "z": z[large].detach()}


def _by_size(views: list[Any]) -> list[list[Any]]:
    """Crops of one size that follow one another, together."""
    return [list(crops) for _, crops in groupby(views, key=lambda view: view.shape)]
