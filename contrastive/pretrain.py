"""``contrastive pretrain``: a configuration becomes a run folder."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from jsonargparse import ArgumentError
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from contrastive.batch_norm import SyncedOnCPU
from contrastive.callbacks import CollapseMeter, LearningRates, NonFiniteGuard, OnlineKNN, Progress
from contrastive.checkpoint_files import WholeFiles, read_checkpoint
from contrastive.checkpoints import Checkpoints, RecordConfig, has_begun
from contrastive.config_files import read_none_as_null, with_config_found
from contrastive.data.image_crops import refuse_second_crop
from contrastive.distributed import is_first_process
from contrastive.errors import ContrastiveError
from contrastive.faults import fit
from contrastive.help_pages import help_page
from contrastive.loggers import MetricsCSV, Wandb, wandb_logger
from contrastive.parse_errors import in_a_line, null_setting
from contrastive.report import write_whole
from contrastive.resume import changed_settings, find_checkpoint, lock
from contrastive.run_folder import make_folder, remove_folders, settle_folder
from contrastive.saved import CONFIG, LAST

_SAY_WHAT = ("--config", "-c", "--model", "--help", "-h", "--print_config")  # one of them is needed
_ROOM = "make room, or give another --run_dir"
_ANOTHER_OPTIMIZER = "optimizer.class_path was"  # it has no use for the state of the one before
_NOT_OF_THE_RUN = ("config", "run_dir", "ckpt_path", "allow_changes")


def pretrain(args: list[str]) -> Path:
    """Pretrain as ``args`` (the command line after ``contrastive pretrain``) say; return the run folder."""
    cli = parse(
        PretrainCLI, args, "pretrain", "Pretrain an encoder as a configuration says, into a run folder."
    )
    try:
        fit(cli.trainer, cli.model, cli.datamodule, cli.checkpoint)
    except BaseException:
        if not has_begun(cli.trainer):
            remove_folders(cli.made)
        raise
    if cli.trainer.is_global_zero:
        if _time_is_over(cli.trainer):
            print(
                f"trainer.max_time is over, in which the time before a resume counts, after step "
                f"{cli.trainer.global_step}; give more and go on with --ckpt_path last"
            )
        elif not has_begun(cli.trainer):
            print(f"nothing was left to train after step {cli.trainer.global_step}")
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
    if not any(arg.startswith(_SAY_WHAT) or ".help" in arg for arg in args):
        raise ContrastiveError("give --config FILE, as --config configs/image/simclr_digits.yaml")
    if page := help_page(args):
        print(page)
        sys.exit()
    read_none_as_null()
    return cls(
        LightningModule,  # a method of its own, as links are, need not be a ContrastiveModule
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        args=[with_config_found(arg) for arg in args],
        run=False,
        save_config_callback=None,
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
    made: Sequence[Path] = ()

    def __init__(self, *args: Any, **options: Any) -> None:
        try:
            super().__init__(*args, **options)
        except BaseException:
            remove_folders(self.made)
            raise

    def __deepcopy__(self, memo: dict[int, Any]) -> PretrainCLI:
        """Itself: an optimizer of the configuration holds it, and is copied with a model to be averaged."""
        return self

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and say in a line what is wrong."""
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            raise ArgumentError(None, in_a_line(str(error), parser.get_defaults().keys())) from error
        if said := null_setting(load_config(self)):
            raise ArgumentError(None, said)
        seed = self.config.seed_everything
        if not 0 <= seed < 2**32:
            raise ArgumentError(None, f"seed_everything is {seed}; give a number from 0 to {2**32 - 1}")
        if self.config.trainer.default_root_dir:
            raise ArgumentError(None, "trainer.default_root_dir has no effect: the run's folder is run_dir")

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed; Lightning's own may be true or false, which seed less than all that is random."""
        parser.add_argument(
            "--seed_everything", type=int, default=0, help="The seed of all that is random, 0 to 2³² − 1."
        )

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
            help="Checkpoint to resume; 'last' is the run's newest, 'auto' too, where it has one.",
        )
        parser.add_argument(
            "--init_from",
            type=str | None,
            default=None,
            help="A run folder, a checkpoint or an export whose encoder's weights training starts from.",
        )
        parser.add_argument(
            "--allow_changes",
            type=bool,
            default=False,
            help="Resume although settings were changed with which it is another run; they are named.",
        )
        parser.add_argument(
            "--wandb",
            type=Wandb,
            default="auto",
            help="Log to Weights & Biases: auto is online where an API key is set, else offline. Never asks.",
        )
        parser.add_lightning_class_args(OnlineKNN, "knn")
        parser.add_lightning_class_args(CollapseMeter, "collapse")
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.set_defaults({"model": {"class_path": "contrastive.module.ContrastiveModule"}})
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def before_instantiate_classes(self) -> None:
        """Settle the folder first, so that a folder that cannot be written costs no work."""
        recipe = Path(self.config.config[0].relative).stem if self.config.get("config") else "pretrain"
        self.run_dir = settle_folder(self.config.run_dir, recipe, self.config.ckpt_path)
        if is_first_process():
            made = make_folder(self.run_dir)
            self._lock = lock(self.run_dir)
            self.made = made  # from here on it is no other run's
            make_folder(self.run_dir / LAST.parent)
        self.checkpoint = find_checkpoint(self.run_dir, self.config.ckpt_path)
        if is_first_process():
            print(f"run folder: {self.run_dir}", flush=True)

    def instantiate_classes(self) -> None:
        """Build model, data and trainer; what their constructors refuse is the user's to mend."""
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise ContrastiveError(f"the configuration cannot be built: {in_a_line(str(error))}") from error
        _refuse_settings(self.model, self.trainer)
        if getattr(self.datamodule, "crop", None) is not None:
            refuse_second_crop(self.model)
        if self.config.init_from and not self.checkpoint:  # a resumed run goes on from its own weights
            _start_from(self.model, self.config.init_from)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add loggers, checkpoints and callbacks to the user's own, and write ``config.yaml``."""
        config = {k: v for k, v in load_config(self).items() if k not in _NOT_OF_THE_RUN}
        trainer_config = self._get(self.config_init, "trainer", default={})
        trainer_config["default_root_dir"] = str(self.run_dir)
        theirs = trainer_config.get("logger")
        trainer_config["logger"] = False if theirs is None else theirs
        plugins = [WholeFiles(), *_as_list(trainer_config.get("plugins"))]
        if trainer_config.get("sync_batchnorm") and _on_cpu(trainer_config):
            trainer_config["sync_batchnorm"] = False  # torch's has no kernel there
            plugins.append(SyncedOnCPU())
        trainer_config["plugins"] = plugins
        own: list[Callback] = [NonFiniteGuard(), RecordConfig(config)]
        if trainer_config["logger"] is not False or theirs is None:
            own.append(LearningRates(logging_interval="step"))
        if trainer_config.get("enable_progress_bar") is not False:
            own.append(Progress())
        trainer_config["callbacks"] = own + _as_list(trainer_config.get("callbacks"))
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except RuntimeError as error:  # of variables of SLURM's that do not go together
            raise ContrastiveError(f"the trainer cannot be built: {error}") from error
        _refuse_to_train_alone(trainer)
        step = self._resumed_step(config, trainer.world_size) if self.checkpoint else None
        if is_first_process():
            text = yaml.safe_dump(config, sort_keys=False)
            write_whole(self.run_dir / CONFIG, lambda part: part.write_text(text), advice=_ROOM)
        if theirs is None:
            trainer.loggers = [MetricsCSV(self.run_dir, step)]
            if self.config.wandb != "off":
                trainer.loggers.append(wandb_logger(self.run_dir, self.config.wandb))
        return trainer

    def _resumed_step(self, config: dict[str, Any], world_size: int) -> int:
        """Refuse settings with which a resume would be another run; return the steps that are done."""
        assert self.checkpoint is not None
        saved = read_checkpoint(self.checkpoint)
        changes = "\n  ".join(changed_settings(saved, config, world_size))
        if changes and (_ANOTHER_OPTIMIZER in changes or not self.config.allow_changes):
            other = "" if _ANOTHER_OPTIMIZER in changes else ", or pass --allow_changes true"
            raise ContrastiveError(
                f"{self.checkpoint} was written with other settings, and a resume would be another run:\n  "
                f"{changes}\nSet them back, start a new --run_dir{other}"
            )
        if changes and is_first_process():
            print(f"resuming with changed settings:\n  {changes}", flush=True)
            if ".optimizer." in changes:
                print("the optimizer's stay as they were: they are part of its state", flush=True)
        return saved["global_step"]


CLI = TypeVar("CLI", bound=PretrainCLI)


def _time_is_over(trainer: Trainer) -> bool:
    """Whether ``max_time`` has ended training."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    left = [callback.time_remaining() for callback in callbacks if isinstance(callback, Timer)]
    return trainer.should_stop and any(seconds is not None and seconds <= 0 for seconds in left)


def _start_from(model: LightningModule, path: str) -> None:
    start: Callable[[str], None] | None = getattr(model, "start_from", None)
    if start is None:
        raise ContrastiveError(
            f"{type(model).__name__} has no method start_from(path), which --init_from calls"
        )
    start(path)


def _refuse_settings(model: LightningModule, trainer: Trainer) -> None:
    """Raise ContrastiveError for what the trainer takes, but does nothing with, or the wrong thing."""
    every, clip = trainer.accumulate_grad_batches, trainer.gradient_clip_val
    if every < 1 or (clip or 0) < 0:
        raise ContrastiveError(
            f"trainer.accumulate_grad_batches is {every} and trainer.gradient_clip_val {clip}; "
            "give 1 or more, and 0 or more"
        )
    if getattr(model, "accumulate_negatives", 1) > 1 and (every > 1 or clip):
        raise ContrastiveError(
            "model.accumulate_negatives takes its steps by itself: leave out trainer.accumulate_grad_batches "
            "and trainer.gradient_clip_val"
        )
    if trainer.overfit_batches and trainer.world_size > 1:  # type: ignore[attr-defined]
        raise ContrastiveError("trainer.overfit_batches is for one process: take --trainer.devices 1")
    if 0 in (trainer.max_epochs, trainer.max_steps, trainer.limit_train_batches):
        raise ContrastiveError(
            "nothing would be trained: trainer.max_epochs, max_steps or limit_train_batches is 0"
        )


def _refuse_to_train_alone(trainer: Trainer) -> None:
    """Raise ContrastiveError in one of several processes that would each be a run, all in one folder."""
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE") or 1) > 1
    if trainer.world_size == 1 and (by_torchrun or not is_first_process()):
        raise ContrastiveError(
            "the environment (WORLD_SIZE, RANK, LOCAL_RANK, SLURM_PROCID or NODE_RANK) says that this is one "
            "of several processes, but trainer.devices times trainer.num_nodes is 1, and each would train "
            "alone: give --trainer.devices and --trainer.num_nodes, or unset those variables"
        )


def load_config(cli: PretrainCLI) -> dict[str, Any]:
    """The parsed configuration as plain data, with every default in it."""
    return yaml.safe_load(cli.parser.dump(cli.config, skip_none=False))


def _on_cpu(trainer_config: Any) -> bool:
    return trainer_config.get("accelerator") == "cpu" or not torch.cuda.is_available()


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _quieten() -> None:
    """Hide what a user of this program can do nothing about."""
    for name in ("pytorch_lightning", "lightning_fabric"):  # the second one says which seed was set
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # where a summary was asked for
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")  # ours is: `EpochLoader`
    warnings.filterwarnings("ignore", ".*`IterableDataset` has `__len__`.*")  # each worker reads its share
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*LightningCLI's args parameter.*")
