"""Encoders on the Hugging Face Hub: fetch one, publish one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from contrastive.errors import ContrastiveError
from contrastive.export import write_safetensors
from contrastive.features import FrozenEncoder, load_encoder
from contrastive.saved import EXPORT_CONFIG, EXPORT_SUMS, EXPORT_WEIGHTS, HUB, PREDICTOR

try:
    from huggingface_hub import PyTorchModelHubMixin, snapshot_download
except ImportError as missing:
    raise ContrastiveError(
        "the Hugging Face Hub needs huggingface_hub: pip install 'contrastive-pretraining[hub]'"
    ) from missing


class HubEncoder(FrozenEncoder, PyTorchModelHubMixin):
    """A `FrozenEncoder` with ``from_pretrained``, ``save_pretrained`` and ``push_to_hub``.

    ``HubEncoder.from_pretrained`` opens a run folder, an export folder, or the id ``OWNER/NAME``. What it
    saves and pushes is an export folder.
    """

    opened: Path | None = None  # whence the model card takes data and metrics

    def _save_pretrained(self, save_directory: Path) -> None:
        write_safetensors(self, save_directory, self.opened)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> HubEncoder:  # type: ignore[override]
        fetch = {name: options[name] for name in _FETCH if options.get(name) is not None}
        path = model_id if Path(model_id).is_dir() else download(f"{HUB}{model_id}", **fetch)
        encoder = load_encoder(path)
        opened = cls(encoder.encoder, encoder.preprocess, encoder.config)
        opened.opened = Path(path)
        return opened


_FETCH = ("revision", "token", "cache_dir", "force_download", "local_files_only")


def download(name: str, **options: Any) -> Path:
    """Fetch the files of an export or a predictor at ``hf://OWNER/NAME[@REVISION]``, and nothing else.

    Args:
        name: see above.
        options: of ``huggingface_hub.snapshot_download``, as ``token``.

    Returns:
        The folder in huggingface_hub's cache.

    Raises:
        ContrastiveError: a name of another form, no answer, or no safetensors there.
    """
    match = re.fullmatch(rf"{HUB}([\w.-]+/[\w.-]+)(?:@(\S+))?", name)
    if match is None:
        raise ContrastiveError(f"{name!r} is not of the form {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION")
    if match[2]:
        options["revision"] = match[2]
    files = [EXPORT_CONFIG, EXPORT_WEIGHTS, EXPORT_SUMS, PREDICTOR]
    try:
        folder = Path(snapshot_download(match[1], allow_patterns=files, **options))
    except Exception as error:  # no network, no such repository, no permission, …
        raise ContrastiveError(f"cannot fetch {name}: {str(error).splitlines()[0]}") from error
    for file in (EXPORT_WEIGHTS, EXPORT_CONFIG):
        if not (folder / file).exists():
            raise ContrastiveError(
                f"{name} holds no {file}, so it is nothing that contrastive export wrote. Weights of other "
                "formats, such as .bin and .ckpt, can carry code and are not fetched"
            )
    return folder
