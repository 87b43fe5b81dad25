"""The folder of a run: which it is, that it can be written to, and that a run that did not begin has none."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from contrastive.errors import ContrastiveError
from contrastive.loggers import METRICS, end_wandb
from contrastive.saved import CONFIG, LAST

_AT_THE_START = {CONFIG, METRICS, ".lock", "wandb", "wandb_id", LAST.parent.name}
_FOLDER = "CONTRASTIVE_RUN"  # names the folder to the processes that a run starts


def settle_folder(given: str | None, recipe: str, asked: str | None) -> Path:
    """The run's folder, one for all processes.

    Raises:
        ContrastiveError: there is no run to resume; or processes started from outside, or a job that is to
            find its run again, were given no folder.
    """
    if given:
        return Path(given).expanduser()
    if asked == "auto":
        raise ContrastiveError(
            "--ckpt_path auto goes on with what is in --run_dir, which is not given: name it"
        )
    runs = Path("runs") / recipe
    if asked == "last":
        candidates = sorted(runs.glob(f"*/{LAST}"), key=lambda path: path.stat().st_mtime)
        if not candidates:
            raise ContrastiveError(f"no run in {runs} has a checkpoint to resume; name one with --run_dir")
        return candidates[-1].parent.parent
    if int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) == 1:
        os.environ[_FOLDER] = time.strftime("%Y-%m-%d_%H-%M-%S")  # for the processes that this one may start
    elif _FOLDER not in os.environ:
        raise ContrastiveError("several processes need one folder that they agree on; give --run_dir")
    return runs / os.environ[_FOLDER]


def make_folder(folder: Path) -> list[Path]:
    """Make a folder that can be written to, or say why not.

    Returns:
        The folders that this call made, itself first; none where it was there before.
    """
    made: list[Path] = []
    try:
        for path in (*reversed(folder.parents), folder):
            try:
                path.mkdir()
            except OSError:  # it is there, or cannot be made, of which there is more than one error
                if not path.is_dir():
                    raise
            else:
                made.insert(0, path.absolute())
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ContrastiveError(f"cannot write to {folder}: {error.strerror}; give another folder") from error
    return made if folder.absolute() in made else []


def remove_folders(made: Sequence[Path]) -> None:
    """Remove the folder of a run that ended before its first step, and those above it that hold nothing else.

    Args:
        made: what `make_folder` made for a run that then held its lock. A folder with a checkpoint, a row of
            metrics, or anything that a run does not write at its start is left alone.
    """
    if not made or not made[0].is_dir():
        return
    run = made[0]
    end_wandb(run)  # it writes there
    if _has_more(run):
        return
    shutil.rmtree(run, ignore_errors=True)
    for folder in made[1:]:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _has_more(run: Path) -> bool:
    """Whether a step left something: processes that Lightning forks take it unseen by the one that forked."""
    names = {path.name for path in run.iterdir()}
    checkpoints, metrics = run / LAST.parent, run / METRICS
    return (
        not names <= _AT_THE_START
        or (checkpoints.exists() and any(checkpoints.iterdir()))
        or (metrics.exists() and len(metrics.read_text().splitlines()) > 1)  # more than their names
    )
