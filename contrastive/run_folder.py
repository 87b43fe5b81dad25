"""The folder of a run: which it is, that it can be written to, and that a run that did not begin has none."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from contrastive.errors import ContrastiveError
from contrastive.features import LAST
from contrastive.loggers import end_wandb

_FOLDER = "CONTRASTIVE_RUN"  # names the folder to the processes that a run starts


def settle_folder(given: str | None, recipe: str, asked: str | None) -> Path:
    """The run's folder, one for all processes.

    Raises:
        ContrastiveError: there is no run to resume; or processes started from outside were given no folder.
    """
    if given:
        return Path(given).expanduser()
    runs = Path("runs") / recipe
    if asked == "last":
        candidates = sorted(runs.glob(f"*/{LAST}"), key=lambda path: path.stat().st_mtime)
        if not candidates:
            raise ContrastiveError(f"no run in {runs} has a checkpoint to resume; name one with --run_dir")
        return candidates[-1].parent.parent
    if int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", 1))) == 1:
        os.environ[_FOLDER] = time.strftime("%Y-%m-%d_%H-%M-%S")  # for the processes that this one may start
    elif _FOLDER not in os.environ:
        raise ContrastiveError("several processes need one folder that they agree on; give --run_dir")
    return runs / os.environ[_FOLDER]


def make_folder(folder: Path) -> None:
    """Make a folder that can be written to, or say why not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ContrastiveError(f"cannot write to {folder}: {error.strerror}; give another folder") from error


def missing(folder: Path) -> list[Path]:
    """The folder and those above it that are not there, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_folders(made: Sequence[Path]) -> None:
    """Remove the folder of a run that ended before its first step, and those above it that hold nothing else.

    Args:
        made: what `missing` gave before the run made them; nothing of another run is in the first one.
    """
    if not made:
        return
    end_wandb()  # it writes there
    shutil.rmtree(made[0], ignore_errors=True)
    for folder in made[1:]:
        with contextlib.suppress(OSError):
            folder.rmdir()
