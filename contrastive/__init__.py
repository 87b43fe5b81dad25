"""Contrastive pretraining of images and graphs, and transfer to small target sets."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contrastive.extractor import FeatureExtractor
    from contrastive.features import FrozenEncoder, load_encoder
    from contrastive.predictor import Predictor, load_predictor

__all__ = ["FeatureExtractor", "FrozenEncoder", "Predictor", "load_encoder", "load_predictor"]


def __getattr__(name: str) -> Any:
    """What is public, when it is asked for: torch takes seconds to import, a mistyped command none."""
    if name not in __all__:
        raise AttributeError(f"module 'contrastive' has no attribute {name!r}")
    if name == "FeatureExtractor":  # it brings the readers of data with it
        from contrastive import extractor as module
    elif name in ("Predictor", "load_predictor"):
        from contrastive import predictor as module  # type: ignore[no-redef]
    else:
        from contrastive import features as module  # type: ignore[no-redef]
    return getattr(module, name)
