"""Checkpoint files: written whole with a record of what was written, and checked before they are used."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from contrastive.errors import ContrastiveError
from contrastive.report import write_whole
from contrastive.saved import LAST, sha256

_ADVICE = "the checkpoint before it is whole: make room, then go on with --ckpt_path last"


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, then the record of its size and SHA-256, then moves it there."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint that is whole or not there.

        Raises:
            ContrastiveError: the disk is full or cannot be written to; what was there before remains.
        """
        path = Path(path)

        def write(part: Path) -> None:
            with part.open("wb") as file:
                stream = _Hashed(file)
                try:
                    torch.save(checkpoint, stream)  # type: ignore[arg-type]
                except RuntimeError as error:
                    raise stream.failure or error from None  # torch hides the first in the second
                file.flush()
                os.fsync(file.fileno())
            record = dict(size=part.stat().st_size, sha256=stream.digest.hexdigest())
            write_record(path, record | {"step": checkpoint["global_step"], "saved": _now(path.parent)})

        write_whole(path, write, advice=_ADVICE)


def _now(folder: Path) -> float:
    """The time, later than every checkpoint's there: a clock may have been set back, or be another node's."""
    return max([time.time(), *(record["saved"] + 0.001 for _, record in records(folder))])


class _Hashed:
    """A binary file whose SHA-256 is known when it is written."""

    failure: OSError | None = None

    def __init__(self, file: Any) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self.file.flush()


def record_of(path: Path) -> Path:
    """The file beside a checkpoint with its size, its SHA-256, its step and what it was judged by."""
    return path.with_suffix(".json")


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write what is known of a checkpoint beside it."""
    write_whole(record_of(path), lambda part: part.write_text(json.dumps(record) + "\n"), advice=_ADVICE)


def records(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The checkpoints of a folder with their records, the one that was saved last first."""
    found = [(path, record) for path in folder.glob("step-*.ckpt") if (record := read_record(path))]
    return sorted(found, key=lambda item: item[1]["saved"], reverse=True)


def read_record(path: Path) -> dict[str, Any] | None:
    """What is known of a checkpoint; None without a record, or of one that a crash of the system emptied."""
    try:
        return json.loads(record_of(path).read_text())
    except (FileNotFoundError, ValueError):
        return None


def verify(path: Path) -> None:
    """Compare a checkpoint with its record, where there is one.

    Raises:
        ContrastiveError: it is not the file that was written; the message says how.
    """
    path = path.resolve()
    record = read_record(path)
    if record is None:
        return
    if path.stat().st_size != record["size"]:
        raise ContrastiveError(
            f"{path} is damaged: it has {path.stat().st_size:,} bytes of {record['size']:,}"
        )
    if sha256(path) != record["sha256"]:
        raise ContrastiveError(f"{path} is damaged: its SHA-256 is not the one that was written down")


def holds_checkpoints(run_dir: Path) -> bool:
    """Whether a folder has a checkpoint, whole or not, though the link to the newest may be lost."""
    return (run_dir / LAST).exists() or any((run_dir / LAST.parent).glob("step-*.ckpt"))


def newest(run_dir: Path) -> Path:
    """The newest checkpoint of a run that is whole; those that are not are named and passed over.

    Raises:
        ContrastiveError: there is none.
    """
    recorded = [path for path, _ in records(run_dir / LAST.parent)]
    last = run_dir / LAST  # of a run that kept no records
    for path in recorded or ([last] if last.exists() else []):
        try:
            verify(path)
            return path
        except ContrastiveError as error:
            print(f"{error}; the checkpoint before it is used", flush=True)
    raise ContrastiveError(f"there is no checkpoint in {run_dir / LAST.parent} to resume from")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without its tensors' data, as weights alone: no code in it runs.

    Raises:
        ContrastiveError: it cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged pickle can fail in any way
        raise ContrastiveError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
