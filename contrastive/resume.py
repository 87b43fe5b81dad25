"""What a run goes on from, whether its settings are still those, and who else writes its folder."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import IO, Any

from contrastive.checkpoint_files import holds_checkpoints, newest, verify
from contrastive.errors import ContrastiveError

# What may change between a checkpoint and its resume: where a run computes and reports, not what.
FREE = re.compile(
    r"(wandb|run_dir|ckpt_path|allow_changes|config|knn|collapse|checkpoints)(\.|$)"
    r"|data\.(init_args\.)?(num_workers|cache_dir|download|time_limit|batch_size)$"
    r"|trainer\.(accelerator|strategy|devices|num_nodes|logger|callbacks|log_every_n_steps|enable_\w+|profiler"
    r"|plugins|default_root_dir|detect_anomaly|benchmark|barebones|inference_mode|num_sanity_\w+"
    r"|limit_(val|test|predict)\w+|check_val\w+|val_check\w+|max_time)(\.|$)"
)
STREAMS = "contrastive.data.image_streams.ImageStream"  # its order follows the workers


def find_checkpoint(run_dir: Path, asked: str | None) -> Path | None:
    """The checkpoint that ``--ckpt_path`` asks for, checked.

    Args:
        run_dir: the run's folder.
        asked: ``last`` is the run's newest that is whole; so is ``auto``, None where it has none; or a file.

    Raises:
        ContrastiveError: it is not there or damaged; or nothing is asked for, and the folder holds a run.
    """
    if asked == "auto" and not holds_checkpoints(run_dir):
        return None
    if asked in ("last", "auto"):
        return newest(run_dir)
    if asked is None:
        if holds_checkpoints(run_dir):
            raise ContrastiveError(
                f"{run_dir} already holds a run; resume with --ckpt_path last or give another --run_dir"
            )
        return None
    path = Path(asked).expanduser()
    if not path.is_file():
        raise ContrastiveError(f"there is no checkpoint {path} to resume from")
    verify(path)
    return path


def changed_settings(checkpoint: dict[str, Any], config: dict[str, Any], world_size: int) -> list[str]:
    """The settings with which a resumed run would not be the one that was interrupted, one a line.

    The number of processes may change where the batch over all of them does not: it is the negatives.

    Args:
        checkpoint: with the ``config`` and the ``world_size`` of the run that wrote it.
        config: of the run that resumes, with every default.
        world_size: its processes.
    """
    saved = checkpoint.get("config") or {}
    # that of a module from Python says how inputs are normalised, and nothing of a run
    before, now = _flat(saved if "trainer" in saved else config), _flat(config)
    changed = [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not FREE.match(key)
    ]
    changed += _changed_batch(before, now, checkpoint.get("world_size", world_size), world_size)
    return changed


def _changed_batch(before: dict[str, Any], now: dict[str, Any], processes: int, world_size: int) -> list[str]:
    keys = [key for key in now if re.fullmatch(r"data\.(init_args\.)?batch_size", key)]
    old, new = ([config.get(key) for key in keys] for config in (before, now))
    if [(size or 0) * processes for size in old] != [(size or 0) * world_size for size in new]:
        return [f"{keys[0]} was {old[0]} on {processes} process(es) and is {new[0]} on {world_size}"]
    if now.get("data.class_path") != STREAMS:
        return []
    key = "data.init_args.num_workers"
    readers, readers_now = (before.get(key), processes), (now.get(key), world_size)
    if readers == readers_now:
        return []
    return ["{} was {} on {} process(es) and is {} on {}".format(key, *readers, *readers_now)]


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": [1]}}`` as ``{"a.b.0": 1}``."""
    if isinstance(config, list):
        config = dict(enumerate(config))
    if not isinstance(config, dict):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def lock(run_dir: Path) -> IO[str]:
    """Keep other runs out of a folder until this process ends, however it ends.

    The lock is the process's own (``lockf``): a data worker that outlives it does not hold it.

    Raises:
        ContrastiveError: another run writes there.
    """
    file = (run_dir / ".lock").open("a+")
    try:
        import fcntl  # not on Windows

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise ContrastiveError(f"{run_dir} is being written by {holder}; give another --run_dir") from None
    except (OSError, ImportError):  # a system without locks
        return file
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file
