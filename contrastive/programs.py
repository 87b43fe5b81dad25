"""Encoders as programs that run without this package and its Python: ``torch.export`` and ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from contrastive.card_usage import result_of
from contrastive.errors import ContrastiveError
from contrastive.features import FrozenEncoder, in_channels, model_args, takes_graphs
from encoders.graph_batch import GraphBatch
from encoders.molecules import categories

TOLERANCE = 1e-4
_DIMS = {"images": "batch", "src": "edges", "dst": "edges", "ptr": "offsets", "x": "nodes"} | {
    name: "edges" if name.startswith("edge_") else "nodes"
    for name in ("edge_attr", "edge_weight", "edge_type", "node_type", "target")
}

Example = Tensor | GraphBatch


class _OfImages(nn.Module):
    def __init__(self, encoder: FrozenEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder(images)


class _OfGraphs(_OfImages):
    def forward(  # type: ignore[override]
        self,
        src: Tensor,
        dst: Tensor,
        x: Tensor,
        ptr: Tensor,
        edge_attr: Tensor | None = None,
        edge_weight: Tensor | None = None,
        edge_type: Tensor | None = None,
        node_type: Tensor | None = None,
        target: Tensor | None = None,
    ) -> Tensor:
        edges = {"edge_attr": edge_attr, "edge_weight": edge_weight, "edge_type": edge_type}
        return self.encoder(GraphBatch(src, dst, x, ptr, **edges, node_type=node_type, target=target))


def example(encoder: FrozenEncoder, image_size: int | None = None) -> Example:
    """Inputs of the kind that an encoder takes: two uint8 images, or three graphs.

    Args:
        encoder: with the configuration of its run, where it takes graphs.
        image_size: side in pixels.

    Raises:
        ContrastiveError: the images' size, or the graphs' features, are not known.
    """
    if takes_graphs(encoder.encoder):
        return _example_graphs(encoder)
    if image_size is None:
        raise ContrastiveError(
            "a program is written for one size of images, which is not known here; give --image-size"
        )
    return torch.randint(0, 256, (2, in_channels(encoder), image_size, image_size), dtype=torch.uint8)


def _example_graphs(encoder: FrozenEncoder) -> GraphBatch:
    """Three graphs, the first of one node without edges, so that such a graph is tried too."""
    try:
        arguments = model_args(encoder.config or {})["encoder"]["init_args"]
        nodes = arguments["node_features"]
    except KeyError:
        raise ContrastiveError(
            f"{type(encoder.encoder).__name__} does not record its node_features, for which a program is "
            "written; give an example of its inputs to contrastive.programs.trace"
        ) from None
    edges = arguments.get("edge_features")
    src, dst, ptr = torch.tensor([2, 1, 3, 4, 5]), torch.tensor([1, 2, 4, 5, 6]), torch.tensor([0, 1, 3, 7])
    attributes = None if edges is None else _example_features(categories(edges), 5)
    x = _example_features(categories(nodes), 7)
    return GraphBatch(src=src, dst=dst, x=x, ptr=ptr, edge_attr=attributes)


def _example_features(features: int | list[int], count: int) -> Tensor:
    if isinstance(features, int):
        return torch.randn(count, features)
    return torch.stack([torch.randint(0, categories, (count,)) for categories in features], dim=1)


def trace(encoder: FrozenEncoder, inputs: Example) -> ExportedProgram:
    """Record an encoder as a program for batches of any size, and check it on two more.

    It takes ``images``, uint8 ``(N, C, H, W)`` where H and W are those of ``inputs``; or the tensors of a
    ``GraphBatch`` that ``inputs`` has, by their names.

    Args:
        encoder: on the CPU.
        inputs: an example of what it will take; at least two images, or two graphs.

    Raises:
        ContrastiveError: something in the encoder cannot be recorded.
    """
    if not isinstance(inputs, Tensor) and not isinstance(inputs.x, Tensor):
        raise ContrastiveError("a program takes no SparseFeatures; give it the nodes' x.dense()")
    tensors = named(inputs)
    module = (_OfImages if isinstance(inputs, Tensor) else _OfGraphs)(encoder).eval()
    sizes = {name: {0: Dim(_DIMS[name])} for name in tensors}
    try:
        # else torch takes a batch of one, or a node without a neighbour, for another program
        any_size = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
        with _quiet(), torch.no_grad(), any_size:
            program = torch.export.export(module, (), tensors, dynamic_shapes=sizes, strict=False)
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # the paths of this machine
            check(encoder, inputs, program.module())
    except Exception as error:  # what the exporter meets in an encoder, it raises as it is
        raise _refusal(encoder, "a program of torch.export", error) from error
    return program


def named(inputs: Example) -> dict[str, Tensor]:
    """The tensors of an input, by the names that a program knows them by."""
    if isinstance(inputs, Tensor):
        return {"images": inputs}
    tensors = {name: getattr(inputs, name) for name in inputs.__dataclass_fields__}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


@torch.no_grad()
def check(encoder: FrozenEncoder, inputs: Example, program: Any) -> float:
    """The largest difference between a program and its encoder, on batches of other sizes than ``inputs``.

    Args:
        encoder: the encoder.
        inputs: a batch, of which the first sample, and twice the whole, are tried.
        program: called with named tensors; returns ``(N, num_features)``.

    Raises:
        ContrastiveError: it is above 1e-4, where the features are larger than 1 in relation to them.
    """
    twice = [inputs, inputs]
    double = torch.cat(twice) if isinstance(inputs, Tensor) else GraphBatch.concatenate(twice)  # type: ignore[arg-type]
    largest = 0.0
    for batch in (inputs[[0]], inputs, double):
        expected = encoder(batch)
        difference = (program(**named(batch)) - expected).abs()
        if not bool((difference <= TOLERANCE * expected.abs().clamp(min=1)).all()):
            raise ContrastiveError(f"its {result_of(encoder)} differ by {difference.max():.2g}")
        largest = max(largest, float(difference.max()))
    return largest


def save_program(encoder: FrozenEncoder, inputs: Example, file: Path) -> str:
    """Write a ``.pt2`` file, which ``torch.export.load`` opens; return what to say of it."""
    program = trace(encoder, inputs)
    torch.export.save(program, file)
    with _quiet():
        loaded = torch.export.load(file).module()
    return f"torch.export differs from the encoder by {check(encoder, inputs, loaded):.1g} at most"


def save_onnx(encoder: FrozenEncoder, inputs: Example, file: Path) -> str:
    """Write an ``.onnx`` file by torch's dynamo exporter, checked in onnxruntime; return what to say of it.

    Raises:
        ContrastiveError: onnx or onnxscript is missing, or something in the encoder has no ONNX operator.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ContrastiveError(
            "--format onnx needs onnx and onnxscript: pip install 'contrastive-pretraining[onnx]'"
        ) from error
    program = trace(encoder, inputs)
    try:
        with _quiet():
            converted = torch.onnx.export(
                program, dynamo=True, verbose=False, output_names=[result_of(encoder)]
            )
            converted.save(file)  # type: ignore[union-attr]
        return _checked_in_onnxruntime(encoder, inputs, file)
    except Exception as error:  # an operator that ONNX lacks can show in any way
        raise _refusal(encoder, "ONNX", error) from error


def _checked_in_onnxruntime(encoder: FrozenEncoder, inputs: Example, file: Path) -> str:
    try:
        import onnxruntime
    except ImportError:
        return "not compared with the encoder: pip install onnxruntime for that"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(**tensors: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: t.numpy() for name, t in tensors.items()})[0])

    return f"onnxruntime differs from the encoder by {check(encoder, inputs, run):.1g} at most"


def _refusal(encoder: FrozenEncoder, what: str, error: Exception) -> ContrastiveError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ContrastiveError(
        f"{type(encoder.encoder).__name__} cannot be written as {what} ({reason}); --format safetensors "
        "takes every encoder"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the exporters log and warn of; what fails is raised."""
    disabled = logging.root.manager.disable  # by the caller
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
