"""A frozen encoder as a transformer of scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from contrastive.features import FrozenEncoder, accelerator, evaluating, load_encoder
from contrastive.inputs import input_batches
from contrastive.report import track


class FeatureExtractor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Features of images or graphs by a pretrained encoder, for a ``Pipeline`` or ``GridSearchCV``.

    There is nothing to fit: ``FeatureExtractor(path).transform(X)`` works. The encoder is opened when it is
    first needed, and a pickle or a clone has its path, not its weights.

    Args:
        path: what ``contrastive.load_encoder`` opens, or a ``FrozenEncoder``.
        batch_size: items encoded at a time.
        device: of torch, as ``cpu`` or ``cuda:1``; None takes the accelerator where there is one.
        progress: whether to show a bar on a terminal.

    Raises:
        ContrastiveError: of every method, where the encoder cannot be opened.
    """

    def __init__(
        self,
        path: str | Path | FrozenEncoder,
        *,
        batch_size: int = 256,
        device: str | torch.device | None = None,
        progress: bool = False,
    ) -> None:
        self.path, self.batch_size, self.device, self.progress = path, batch_size, device, progress

    def fit(self, X: Any = None, y: Any = None) -> FeatureExtractor:
        """Open the encoder; nothing is learned from ``X`` or ``y``."""
        self._encoder()
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Encode items as float32 ``(N, num_features)``, in their order.

        Args:
            X: for an encoder of images, an array ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``, or
                ``(N, C·H·W)`` rows of pixels, of integers from 0 to 255, floats from 0 to 1 or bools; or a
                list of such arrays, PIL images and paths. They are converted to the channels and resized and
                cropped to the side that the encoder was trained with. For an encoder of graphs, a list of
                SMILES, DGLGraphs, ``Data`` of PyG or ``GraphBatch``, or one batched graph; of a
                ``NodeEncoder`` the rows are the graphs' nodes.

        Raises:
            ContrastiveError: an item that the encoder does not take or that cannot be read; it is named.
        """
        encoder = self._encoder()
        device = torch.device(self.device or accelerator())
        encoder.to(device)
        batches = input_batches(encoder, X, self.batch_size)
        total = -(-len(X) // self.batch_size) if hasattr(X, "__len__") else None
        with torch.inference_mode(), evaluating(encoder):  # one that is fine-tuned would use batch statistics
            shown = track(batches, "Encoding" if self.progress else None, total)
            return torch.cat([encoder(batch.to(device)).float().cpu() for batch in shown]).numpy()

    @property
    def _n_features_out(self) -> int:
        return self._encoder().num_features

    def _encoder(self) -> FrozenEncoder:
        if isinstance(self.path, FrozenEncoder):
            return self.path
        path, encoder = getattr(self, "_opened", (None, None))
        if encoder is None or path != self.path:  # set_params may have named another
            encoder = load_encoder(self.path)
            self._opened = (self.path, encoder)
        return encoder

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {key: value for key, value in state.items() if key != "_opened"}

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False  # rows of any numbers are no images
        tags.input_tags.three_d_array = tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
