"""``contrastive export``: the encoder alone, as weights that cannot carry code or as a program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save
from torch import Tensor

from contrastive.card import model_card, predictor_card
from contrastive.errors import ContrastiveError
from contrastive.features import FrozenEncoder, load_encoder, takes_graphs
from contrastive.items import image_size_of, with_image_size
from contrastive.predictor import Predictor, load_predictor, write_head
from contrastive.report import whole_folder, write_whole
from contrastive.saved import EXPORT_CONFIG, EXPORT_SUMS, EXPORT_WEIGHTS, PREDICTOR, fetched, sha256

Format = Literal["safetensors", "onnx", "torch-export"]
CARD, ONNX, PROGRAM = "README.md", "encoder.onnx", "encoder.pt2"


def export(run: str, *, output: str, format: Format = "safetensors", image_size: int | None = None) -> None:
    """Write the encoder of a run into a folder of its own, for use elsewhere.

    Args:
        run: a run folder, a checkpoint, an export, or hf://OWNER/NAME; of what probe --save wrote, programs
            predict, and safetensors has the encoder
        output: the folder to make, for the encoder, its configuration, a model card written from the run, and
            SHA256SUMS; it must not exist yet
        format: safetensors holds the weights alone, for load_encoder and the Hugging Face Hub; onnx and
            torch-export are programs with the preprocessing inside, which run without this package on
            batches of any size of uint8 images, or of graphs as the tensors of a GraphBatch
        image_size: side in pixels of the images that a program takes (default: what the run was trained on)
    """
    with whole_folder(Path(output)) as folder:
        path = fetched(run)
        if format == "safetensors":
            write_safetensors(load_encoder(path), folder, Path(run))
        else:
            opened = load_predictor(path) if (path / PREDICTOR).is_file() else load_encoder(path)
            print(write_program(opened, folder, Path(run), format, image_size))
    print(f"export: {output}")


def write_safetensors(encoder: FrozenEncoder, folder: Path, run: Path | None) -> None:
    """Write the files that ``load_encoder`` reads, with a card, into a folder that exists.

    Args:
        encoder: with its configuration.
        folder: files of these names are replaced; a card that is there stays.
        run: whence the card takes data and metrics; None where it is not known.
    """
    weights = {key: value.contiguous() for key, value in encoder.encoder.state_dict().items()}
    write_whole(folder / EXPORT_WEIGHTS, lambda part: part.write_bytes(save(weights, {"format": "pt"})))
    _write_texts(encoder, folder, run, EXPORT_WEIGHTS)


def save_predictor(predictor: Predictor, folder: Path, run: Path) -> None:
    """Write a predictor whole or not at all: an export of its encoder, and beside it `PREDICTOR`.

    Args:
        predictor: what a probe fitted.
        folder: is made; it must not exist yet.
        run: whence the encoder came, for the card.
    """
    with whole_folder(folder) as part:
        write_head(predictor, part / PREDICTOR)
        write_safetensors(predictor, part, run)


def write_program(
    encoder: FrozenEncoder, folder: Path, run: Path | None, format: Format, image_size: int | None = None
) -> str:
    """Write an encoder as a program of ONNX or ``torch.export``, with its configuration and its card.

    Args:
        encoder: with its configuration.
        folder: a folder that exists.
        run: whence the card takes data and metrics; None where it is not known.
        format: ``onnx`` or ``torch-export``.
        image_size: side in pixels; None takes the size of the run's data.

    Returns:
        How far the program is from the encoder, in words.
    """
    from contrastive import programs

    if not takes_graphs(encoder.encoder):
        image_size = image_size or image_size_of(encoder)
    inputs = programs.example(encoder, image_size)
    file = folder / (ONNX if format == "onnx" else PROGRAM)
    save = programs.save_onnx if format == "onnx" else programs.save_program
    said = save(encoder, inputs, file)
    _write_texts(encoder, folder, run, file.name, programs.named(inputs))
    return said


def _card_of(run: Path | None, file: str) -> str | None:
    """The card of an export that is copied: it knows what its run knew."""
    if run is None or (run / PREDICTOR).exists() or not ((run / file).is_file() and (run / CARD).is_file()):
        return None
    return (run / CARD).read_text()


def _write_texts(
    encoder: FrozenEncoder,
    folder: Path,
    run: Path | None,
    file: str,
    inputs: dict[str, Tensor] | None = None,
) -> None:
    """Write what every format has beside its ``file``: configuration, card and sums."""
    if encoder.config is None:
        raise ContrastiveError(
            "this encoder does not record how it is built, so that nobody could open the export; give "
            'FrozenEncoder a config, {"model": {"encoder": {"class_path": …, "init_args": …}}}'
        )
    texts = {EXPORT_CONFIG: json.dumps(with_image_size(encoder), indent=2) + "\n"}
    if not (folder / CARD).exists():
        card: Any = predictor_card if isinstance(encoder, Predictor) else model_card
        texts[CARD] = _card_of(run, file) or card(encoder, run, file, inputs)
    for name, text in texts.items():
        write_whole(folder / name, lambda part, text=text: part.write_text(text))  # type: ignore[misc]
    names = [file, EXPORT_CONFIG, CARD, *[PREDICTOR] * (folder / PREDICTOR).exists()]
    sums = "".join(f"{sha256(folder / name)}  {name}\n" for name in names)
    write_whole(folder / EXPORT_SUMS, lambda part: part.write_text(sums))
