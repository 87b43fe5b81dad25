"""The part of a model card that says how to open the export, in a few lines of Python."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from contrastive.backbones import resnet_name
from contrastive.features import FrozenEncoder, takes_graphs
from contrastive.predictor import Predictor
from contrastive.saved import EXPORT_WEIGHTS, HUB


def usage(encoder: FrozenEncoder, file: str, inputs: dict[str, Tensor] | None) -> list[str]:
    """The lines of Markdown that say how to open an export.

    Args:
        encoder: what is exported.
        file: the name of the file with the encoder.
        inputs: the tensors that a program was recorded with, by name; None for weights.
    """
    if inputs is None:
        return _of_predictor(encoder) if isinstance(encoder, Predictor) else _usage_of_weights(encoder)
    result, shape = result_of(encoder), f"  # (N, {encoder.num_features})"
    if file.endswith(".onnx"):
        code = [
            "import numpy, onnxruntime",
            "",
            f'session = onnxruntime.InferenceSession("{file}")',
            f"inputs = {_given(inputs, 'numpy.zeros({}, numpy.uint8)', '.numpy()')}",
            f"({result},) = session.run(None, inputs){shape}",
        ]
    else:
        code = [
            "import torch",
            "",
            f'program = torch.export.load("{file}").module()  # only from those you trust',
            f"inputs = {_given(inputs, 'torch.zeros({}, dtype=torch.uint8)', '')}",
            f"{result} = program(**inputs){shape}",
        ]
    return [*_code(code), "", *_described(inputs)]


def result_of(encoder: FrozenEncoder) -> str:
    """What an encoder's program gives: ``features``, or of a predictor ``predictions``."""
    return "predictions" if isinstance(encoder, Predictor) else "features"


def _given(inputs: dict[str, Tensor], zeros: str, suffix: str) -> str:
    if "images" in inputs:
        return '{"images": ' + zeros.format((4, *inputs["images"].shape[1:])) + "}"
    return f"{{name: getattr(batch, name){suffix} for name in {tuple(inputs)}}}  # of a GraphBatch"


def _described(inputs: dict[str, Tensor]) -> list[str]:
    if "images" in inputs:
        side = inputs["images"].shape[-1]
        return [
            f"`images` are uint8, any number of them, {side} × {side} pixels. The normalisation is inside.",
            "What is float in [0, 1] becomes `(255 * x).round()` in uint8 first.",
        ]
    counts = {"x": "nodes", "node_type": "nodes", "target": "nodes", "ptr": "graphs + 1"}
    lines = []
    for name, tensor in inputs.items():
        shape = ", ".join([counts.get(name, "edges"), *map(str, tensor.shape[1:])])
        lines.append(f"- `{name}`: {str(tensor.dtype).removeprefix('torch.')} ({shape})")
    return [
        *lines,
        "",
        "`src` and `dst` are the nodes at which each edge starts and ends, `ptr` the offsets of each graph's",
        "nodes.",
    ]


def _usage_of_weights(encoder: FrozenEncoder) -> list[str]:
    call = "encoder(images)  # uint8, or float in [0, 1], (N, C, H, W)"
    if takes_graphs(encoder.encoder):
        call = "encoder(batch)  # a GraphBatch"
    code = [
        "import contrastive",
        "",
        f'encoder = contrastive.load_encoder("FOLDER")  # this folder, or "{HUB}OWNER/NAME"',
        f"features = {call} → (N, {encoder.num_features})",
    ]
    name = resnet_name(encoder)
    if name is None or encoder.encoder.conv1.in_channels != 3:  # type: ignore[union-attr]
        return _code(code)
    theirs = [
        "import torch, torchvision",
        "from safetensors.torch import load_file",
        "",
        f"model = torchvision.models.{name}()",
        "model.fc = torch.nn.Identity()",
        f'model.load_state_dict(load_file("{EXPORT_WEIGHTS}"))',
    ]
    return [*_code(code), "", "The names of the weights are torchvision's and timm's:", "", *_code(theirs)]


def _of_predictor(predictor: Predictor) -> list[str]:
    what = (
        "SMILES, DGLGraphs, or Data of PyG" if takes_graphs(predictor.encoder) else "paths, images or arrays"
    )
    code = [
        "import contrastive",
        "",
        f'predictor = contrastive.load_predictor("FOLDER")  # this folder, or "{HUB}OWNER/NAME"',
        f"predictions = predictor.predict(items)  # {what} → (N, {predictor.num_features})",
    ]
    command = ["```console", "contrastive predict FOLDER --data SOURCE --output predictions.csv", "```"]
    return [*command, "", *_code(code)]


def _code(lines: Sequence[str]) -> list[str]:
    return ["```python", *lines, "```"]
