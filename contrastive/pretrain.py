"""``contrastive pretrain``: a configuration becomes a run folder."""

from __future__ import annotations

import csv
import logging
import netrc
import os
import secrets
import time
import warnings
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import yaml
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from contrastive.callbacks import CollapseMeter, NonFiniteGuard, OnlineKNN
from contrastive.data.image_crops import refuse_second_crop
from contrastive.errors import ContrastiveError
from contrastive.features import CONFIG, LAST

Wandb = Literal["auto", "online", "offline", "off"]


def pretrain(args: list[str]) -> Path:
    """Pretrain as ``args`` (the command line after ``contrastive pretrain``) say; return the run folder."""
    cli = parse(
        PretrainCLI, args, "pretrain", "Pretrain an encoder as a configuration says, into a run folder."
    )
    cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.checkpoint)
    if cli.trainer.is_global_zero:
        print(f"run folder: {cli.run_dir}")
    return cli.run_dir


def parse(cls: type[CLI], args: list[str], command: str, description: str) -> CLI:
    """Read a pretraining configuration from a command line, and build what ``cls`` builds of it.

    Args:
        cls: ``PretrainCLI``, or a class that adds to it.
        args: what follows the command's name.
        command: its name.
        description: of the ``--help``.
    """
    _quieten()
    return cls(
        LightningModule,  # a method of its own, as links are, need not be a ContrastiveModule
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        args=[_found(arg) for arg in args],
        run=False,
        save_config_callback=None,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_kwargs={
            "prog": f"contrastive {command}",
            "description": description,
            "exit_on_error": False,
        },
        trainer_defaults={"max_epochs": 100, "log_every_n_steps": 10, "enable_model_summary": False},
    )


class PretrainCLI(LightningCLI):
    """LightningCLI that gives every run a folder, its loggers, its checkpoints and its callbacks."""

    run_dir: Path
    checkpoint: Path | None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's own options, and hand the seed on to model and data."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="The run's folder (default: runs/<recipe>/<time>).",
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to resume; 'last' is the run's newest.",
        )
        parser.add_argument(
            "--wandb",
            type=Wandb,
            default="auto",
            help="Log to Weights & Biases: auto is online where an API key is set, else offline. Never asks.",
        )
        parser.add_lightning_class_args(OnlineKNN, "knn")
        parser.add_lightning_class_args(CollapseMeter, "collapse")
        parser.set_defaults({"model": {"class_path": "contrastive.module.ContrastiveModule"}})
        parser.link_arguments("seed_everything", "model.init_args.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)

    def before_instantiate_classes(self) -> None:
        """Settle the folder first, so that a folder that cannot be written costs no work."""
        recipe = Path(self.config.config[0].relative).stem if self.config.get("config") else "pretrain"
        resume = self.config.ckpt_path
        self.run_dir = _run_dir(self.config.run_dir, recipe, resume == "last")
        self.checkpoint = self.run_dir / LAST if resume == "last" else Path(resume) if resume else None
        if self.checkpoint and not self.checkpoint.is_file():
            raise ContrastiveError(f"there is no checkpoint {self.checkpoint} to resume from")
        if not self.checkpoint and (self.run_dir / LAST).exists():
            raise ContrastiveError(
                f"{self.run_dir} already holds a run; resume with --ckpt_path last or give another --run_dir"
            )
        make_folder(self.run_dir / LAST.parent)
        print(f"run folder: {self.run_dir}", flush=True)

    def instantiate_classes(self) -> None:
        """Build model, data and trainer; what their constructors refuse is the user's to mend."""
        try:
            super().instantiate_classes()
        except (ValueError, TypeError) as error:
            raise ContrastiveError(f"the configuration cannot be built: {error}") from error
        if getattr(self.datamodule, "crop", None) is not None:
            refuse_second_crop(self.model)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add loggers, checkpoints and callbacks to the user's own, and write ``config.yaml``."""
        config = {k: v for k, v in load_config(self).items() if k not in ("config", "run_dir", "ckpt_path")}
        (self.run_dir / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
        trainer_config = self._get(self.config_init, "trainer", default={})
        if trainer_config.get("logger") is None:
            trainer_config["logger"] = _loggers(self.run_dir, self.config.wandb, self.checkpoint)
        trainer_config["default_root_dir"] = str(self.run_dir)
        own: list[Callback] = [
            ModelCheckpoint(
                self.run_dir / LAST.parent,
                filename="{epoch}-{step}",
                save_last=True,
                enable_version_counter=False,  # else a resumed run writes last-v1 and leaves last behind
            ),
            LearningRateMonitor(logging_interval="step"),
            NonFiniteGuard(),
            RecordConfig(config),
        ]
        if trainer_config.get("enable_progress_bar") is not False:
            own.append(RichProgressBar(leave=False))
        theirs = trainer_config.get("callbacks") or []
        trainer_config["callbacks"] = own + (theirs if isinstance(theirs, list) else [theirs])
        return super().instantiate_trainer(**kwargs)


CLI = TypeVar("CLI", bound=PretrainCLI)


def load_config(cli: PretrainCLI) -> dict[str, Any]:
    """The parsed configuration as plain data, with every default in it."""
    return yaml.safe_load(cli.parser.dump(cli.config, skip_none=False))


class RecordConfig(Callback):
    """Keep the configuration in every checkpoint, so that a checkpoint alone can be opened again."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the configuration, plain data that loads without running code."""
        checkpoint["config"] = self.config


class MetricsCSV(CSVLogger):
    """``metrics.csv`` in the run folder, which a resumed run continues where its checkpoint left off.

    Args:
        run_dir: the run's folder.
        resumed_step: rows after this step are dropped, for they will be logged again; None starts anew.
    """

    def __init__(self, run_dir: Path, resumed_step: int | None) -> None:
        super().__init__(run_dir, name="", version="", flush_logs_every_n_steps=50)
        path = run_dir / "metrics.csv"
        rows: list[dict] = []
        if resumed_step is not None and path.exists():
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= resumed_step]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*exists and is not empty.*")
            writer = self.experiment  # removes the old file
        if hasattr(writer, "metrics_file_path"):  # only rank 0 writes, the others get a dummy
            writer.metrics = [{k: v for k, v in row.items() if v != ""} for row in rows]


def _loggers(run_dir: Path, mode: Wandb, checkpoint: Path | None) -> list:
    step = None
    if checkpoint:
        step = torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"]
    loggers: list = [MetricsCSV(run_dir, step)]
    if mode != "off":
        loggers.append(_wandb_logger(run_dir, mode))
    return loggers


def _wandb_logger(run_dir: Path, mode: Wandb) -> WandbLogger:
    if mode == "auto":
        mode = "online" if _has_wandb_key() else "offline"
    os.environ.setdefault("WANDB_SILENT", "true")
    if mode == "offline":
        # without it wandb asks for a key, even though offline is set below
        os.environ["WANDB_MODE"] = "offline"
    id_file = run_dir / "wandb_id"
    if not id_file.exists():
        id_file.write_text(secrets.token_hex(4))
    return WandbLogger(
        project=os.environ.get("WANDB_PROJECT", "contrastive"),
        name=f"{run_dir.parent.name}/{run_dir.name}",
        save_dir=run_dir,
        id=id_file.read_text().strip(),
        resume="allow",
        offline=mode == "offline",
    )


def _has_wandb_key() -> bool:
    """Whether a key is set, found without wandb, which would fix its mode and may ask."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _run_dir(given: str | None, recipe: str, resume: bool) -> Path:
    if given:
        return Path(given).expanduser()
    runs = Path("runs") / recipe
    if resume:
        candidates = sorted(runs.glob(f"*/{LAST}"), key=lambda path: path.stat().st_mtime)
        if not candidates:
            raise ContrastiveError(f"no run in {runs} has a checkpoint to resume; name one with --run_dir")
        return candidates[-1].parent.parent
    return runs / time.strftime("%Y-%m-%d_%H-%M-%S")


def make_folder(folder: Path) -> None:
    """Make a folder that can be written to, or say why not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ContrastiveError(f"cannot write to {folder}: {error.strerror}; give another folder") from error


def find_config(path: str) -> Path:
    """A configuration by path; ``configs/…`` is also found in the installed package."""
    if Path(path).exists():
        return Path(path)
    name = Path(*Path(path).parts[1:]) if Path(path).parts[:1] == ("configs",) else Path(path)
    here = Path(__file__).parent
    for folder in (here / "configs", here.parent / "configs"):  # installed, or in a checkout
        if (folder / name).is_file():
            return folder / name
    raise ContrastiveError(f"there is no configuration {path}, here or among the ones installed")


def _found(arg: str) -> str:
    option, _, value = arg.partition("=")
    if option == "--config" and value:
        return f"--config={find_config(value)}"
    return str(find_config(arg)) if arg.endswith((".yaml", ".yml")) and not arg.startswith("-") else arg


def _quieten() -> None:
    """Hide what a user of this program can do nothing about."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*LightningCLI's args parameter.*")
