"""What a probe fitted, kept with its encoder: raw inputs in, predictions out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from contrastive.errors import ContrastiveError, reading
from contrastive.features import FrozenEncoder, load_encoder
from contrastive.report import write_whole
from contrastive.saved import PREDICTOR, fetched

if TYPE_CHECKING:
    from contrastive.evaluation.metrics import Kind


class Head(NamedTuple):
    """A linear function of standardised features, W (h − mean) / scale + b.

    Attributes:
        weight: ``(K, D)``, a row a class or a target.
        bias: ``(K,)``; −∞ for a class that was not fitted.
        mean: ``(D,)``.
        scale: ``(D,)``.
        unit_length: whether features are divided by their length first.
        one_vs_rest: whether probabilities of classes are sigmoids over their sum, not a softmax.
    """

    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    unit_length: bool = False
    one_vs_rest: bool = False


class Predictor(FrozenEncoder):
    """A frozen encoder with the linear function that `contrastive probe` fitted to its features.

    Args:
        encoder: gives the features; of fine-tuning, the one that was trained.
        head: see `Head`.
        kind: what is predicted: ``classes``, one an item; ``labels``, each 0 or 1; or ``values``.
        names: of the classes or the targets, K of them.
        judged: the protocol and the numbers of the probe, for a reader.

    Raises:
        ContrastiveError: a head of another width or number of names, or of numbers that are not finite.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        encoder: FrozenEncoder,
        head: Head,
        kind: Kind,
        names: Sequence[str],
        judged: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(encoder.encoder, encoder.preprocess, encoder.config)
        self.unit_length, self.one_vs_rest = head.unit_length, head.one_vs_rest
        self.kind, self.names, self.judged = kind, list(names), judged or {}
        self.num_features = len(self.names)
        width, outputs = encoder.num_features, len(self.names)
        shapes = {"weight": (outputs, width), "bias": (outputs,), "mean": (width,), "scale": (width,)}
        for name, shape in shapes.items():
            values = getattr(head, name)
            if values.shape != shape:
                raise ContrastiveError(f"{name} has shape {values.shape}, not {shape}")
            if not (np.isfinite(values) | (np.isneginf(values) & (name == "bias"))).all():
                raise ContrastiveError(f"{name} is not finite, as of training that diverged")
        for name in TENSORS:
            self.register_buffer(name, torch.as_tensor(getattr(head, name), dtype=torch.float32))

    def forward(self, x: Any) -> Tensor:
        """Map raw inputs to probabilities of classes ``(N, K)``, of labels ``(N, K)``, or to values."""
        h = super().forward(x).float()
        h = F.normalize(h) if self.unit_length else h
        score = F.linear((h - self.mean) / self.scale, self.weight, self.bias)
        if self.kind == "values":
            return score
        if self.kind == "labels":
            return score.sigmoid()
        return (F.logsigmoid(score) if self.one_vs_rest else score).softmax(1)

    def predict(self, items: Any, *, batch_size: int = 256) -> np.ndarray:
        """Predict what `contrastive.FeatureExtractor.transform` takes: float32 ``(N, K)``, as of `forward`.

        Raises:
            ContrastiveError: an item that the encoder does not take or that cannot be read; it is named.
        """
        from contrastive.extractor import FeatureExtractor  # it brings the readers of data with it

        return FeatureExtractor(self, batch_size=batch_size).transform(items)


TENSORS = ("weight", "bias", "mean", "scale")
_SETTINGS = ("kind", "names", "unit_length", "one_vs_rest", "judged")


def write_head(predictor: Predictor, file: Path) -> None:
    """Write all of a predictor but its encoder, as safetensors."""
    tensors = {name: getattr(predictor, name).cpu().contiguous() for name in TENSORS}
    settings = {name: getattr(predictor, name) for name in _SETTINGS}
    content = save(tensors, {"predictor": json.dumps(settings)})
    write_whole(file, lambda part: part.write_bytes(content))


def load_predictor(path: str | Path) -> Predictor:
    """Open what ``contrastive probe RUN --save FOLDER`` wrote.

    Args:
        path: the folder, or ``hf://OWNER/NAME`` of the Hugging Face Hub.

    Raises:
        ContrastiveError: nothing there, no predictor, or files that do not fit.
    """
    folder = fetched(path)
    file = folder / PREDICTOR
    if not file.is_file():
        found = f"{path} holds no {PREDICTOR}" if folder.exists() else f"there is no {path}"
        raise ContrastiveError(f"{found}; contrastive probe RUN --data … --save FOLDER writes a predictor")
    encoder = load_encoder(folder)  # it checks the sums of all files
    with reading(file):
        with safe_open(file, "numpy") as opened:
            settings = json.loads(opened.metadata()["predictor"])
            tensors = {name: opened.get_tensor(name) for name in TENSORS}
        flags = {name: bool(settings[name]) for name in ("unit_length", "one_vs_rest")}
        shown = {name: settings[name] for name in ("kind", "names", "judged")}
        head = Head(**tensors, **flags)  # type: ignore[arg-type]
        return Predictor(encoder, head, **shown)
