"""Contrastive pretraining of images and graphs, and transfer to small target sets."""

from contrastive.features import FrozenEncoder, load_encoder

__all__ = ["FrozenEncoder", "load_encoder"]
