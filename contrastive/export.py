"""``contrastive export``: the encoder alone, as weights that cannot carry code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file

from contrastive.errors import ContrastiveError
from contrastive.features import EXPORT_CONFIG, EXPORT_WEIGHTS, load_encoder


def export(run: str, *, output: str) -> None:
    """Write the encoder of a run as safetensors with its configuration, for ``load_encoder`` elsewhere.

    Args:
        run: a run folder or a checkpoint.
        output: the folder to make; it must not exist yet.
    """
    folder = Path(output)
    if folder.exists():
        raise ContrastiveError(f"{folder} exists already; give a folder that does not")
    encoder = load_encoder(run)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        weights = {key: value.contiguous() for key, value in encoder.encoder.state_dict().items()}
        save_file(weights, part / EXPORT_WEIGHTS)
        (part / EXPORT_CONFIG).write_text(json.dumps(encoder.config, indent=2) + "\n")
        part.replace(folder)
    except OSError as error:
        raise ContrastiveError(f"cannot write {folder}: {error.strerror}") from error
    print(f"export: {folder}")
