"""Contrastive pretraining of images and graphs, and transfer to small target sets."""

from typing import Any

from contrastive.features import FrozenEncoder, load_encoder

__all__ = ["FeatureExtractor", "FrozenEncoder", "load_encoder"]


def __getattr__(name: str) -> Any:
    """``FeatureExtractor`` when it is asked for: it brings the readers of data with it."""
    if name != "FeatureExtractor":
        raise AttributeError(f"module 'contrastive' has no attribute {name!r}")
    from contrastive.extractor import FeatureExtractor

    return FeatureExtractor
