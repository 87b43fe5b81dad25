"""Where a run's numbers go: ``metrics.csv``, which a resume continues to the row, and Weights & Biases."""

from __future__ import annotations

import csv
import netrc
import os
import secrets
import sys
from pathlib import Path
from typing import Any, Literal, TextIO

from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from contrastive.distributed import is_first_process
from contrastive.report import write_whole

Wandb = Literal["auto", "online", "offline", "off"]

METRICS = "metrics.csv"  # in a run folder
_WANDB_PATIENCE = "30"  # seconds for its server to answer before the run goes offline


class MetricsCSV(Logger):
    """``metrics.csv`` in the run folder: a row a call, on disk when the call returns.

    Args:
        run_dir: the run's folder.
        steps_done: steps behind the checkpoint that the run resumes from; rows of later ones will be logged
            again and are dropped. None starts anew.
    """

    def __init__(self, run_dir: Path, steps_done: int | None = None) -> None:
        super().__init__()
        self._path = run_dir / METRICS
        self._file: TextIO | None = None
        self._columns: list[str] = []
        if is_first_process():
            rows = [] if steps_done is None else self._read()
            self._rewrite([row for row in rows if int(row["step"]) < (steps_done or 0)])

    @property
    def name(self) -> str:
        """None of its own: it is the run's."""
        return ""

    @property
    def version(self) -> str:
        """None: a resumed run continues the file."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: ``config.yaml`` has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Append a row; one with a new column rewrites the file."""
        row = {key: value.item() if isinstance(value, Tensor) else value for key, value in metrics.items()}
        row["step"] = step or 0
        if not row.keys() <= set(self._columns):
            self._rewrite(self._read(), sorted({*self._columns, *row}))
        assert self._file is not None
        csv.DictWriter(self._file, self._columns).writerow(row)
        self._file.flush()

    def _read(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        with self._path.open(newline="") as file:
            lines = [line for line in file if line.endswith("\n")]  # a full disk cuts a line off
        return [row for row in csv.DictReader(lines) if (row.get("step") or "").isdigit()]

    def _rewrite(self, rows: list[dict[str, Any]], columns: list[str] | None = None) -> None:
        self._columns = columns or (list(rows[0]) if rows else ["step"])

        def write(part: Path) -> None:
            with part.open("w", newline="") as file:
                writer = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")
                writer.writeheader()
                writer.writerows(rows)

        write_whole(self._path, write, advice="make room, then go on with --ckpt_path last")
        if self._file:
            self._file.close()
        self._file = self._path.open("a", newline="")


class PatientWandb(WandbLogger):
    """W&B that a run does not depend on: where its server does not answer, the run is logged offline."""

    @property
    def experiment(self) -> Any:
        """The run at W&B, begun when it is first asked for."""
        if self._experiment is not None or not is_first_process():
            return super().experiment
        import wandb

        try:
            return super().experiment
        except wandb.Error as error:  # such as CommError, UsageError (a key that the server refuses)
            reason = str(error).strip().splitlines()[0]
            print(
                f"Weights & Biases cannot be reached ({reason}); this run is logged offline in "
                f"{self._save_dir}/wandb, and `wandb sync` sends it later",
                flush=True,
            )
            _go_offline()
            wandb.teardown()
            self._wandb_init.update(mode="offline")
            return super().experiment


def wandb_logger(run_dir: Path, mode: Wandb) -> WandbLogger:
    """The run at W&B, the same one after a resume."""
    if mode == "auto":
        mode = "online" if _has_wandb_key() else "offline"
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else its own faults are sent to a third party
    os.environ.setdefault("WANDB_INIT_TIMEOUT", _WANDB_PATIENCE)
    if mode == "offline":
        _go_offline()
    id_file = run_dir / "wandb_id"
    if is_first_process() and not id_file.exists():
        id_file.write_text(secrets.token_hex(4))
    logger = PatientWandb(
        project=os.environ.get("WANDB_PROJECT", "contrastive"),
        name=f"{run_dir.parent.name}/{run_dir.name}",
        save_dir=run_dir,
        id=id_file.read_text().strip() if id_file.exists() else None,
        resume="allow",
        offline=mode == "offline",
    )
    logger._wandb_init.pop("anonymous", None)  # wandb warns of it, though it is not set
    return logger


def end_wandb(run_dir: Path) -> None:
    """Close a run at W&B as a failed one, where it has begun; one of the caller's own stays open."""
    wandb: Any = sys.modules.get("wandb")
    id_file = run_dir / "wandb_id"
    begun = wandb is not None and wandb.run is not None and id_file.exists()
    if begun and wandb.run.id == id_file.read_text().strip():
        wandb.finish(exit_code=1)


def _go_offline() -> None:
    # without it wandb asks for a key, even though offline is set elsewhere
    os.environ["WANDB_MODE"] = "offline"


def _has_wandb_key() -> bool:
    """Whether a key is set, found without wandb, which would fix its mode and may ask."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
