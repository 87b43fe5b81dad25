"""What ends a run, said so that it can be mended."""

from __future__ import annotations

import linecache
import re
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from contrastive.checkpoints import Checkpoints
from contrastive.errors import ContrastiveError
from contrastive.saved import LAST
from contrastive.signals import Stopped
from encoders.graph_batch import GraphBatch

_LOST = re.compile(r"Connection (closed|reset)|Broken pipe|Timed out waiting|recv|NCCL", re.IGNORECASE)
_WORKER = re.compile(r"DataLoader worker \(pid|Pin memory thread exited")  # raised wherever the process is
_SHAPES = re.compile(
    r"shapes cannot be multiplied|size mismatch|must match the size|index out of range in self|"
    r"to have \d+ channels|Output size is too small|Kernel size can't be greater"
)
_DTYPES = re.compile(r"scalar type|dtype")
_OURS = ("augmentations.", "contrastive.", "encoders.")
_LIGHTNING = ("pytorch_lightning.", "lightning_fabric.")
_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory|bad_alloc", re.IGNORECASE)


def fit(trainer: Trainer, model: LightningModule, data: Any, checkpoint: Path | None) -> None:
    """Train, through signals that stop a run, and say what ended it otherwise.

    Raises:
        Stopped: a signal came; the run is saved.
        ContrastiveError: memory or the disk is full, or another process died.
    """
    # its handlers would take part in collectives; see `Signals`
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    if trainer.precision == "64-true":
        model.double()  # before a checkpoint is loaded: Lightning does it after, and would round its weights
    saving = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]
    try:
        with saving.signals:
            trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    except Stopped:
        if not trainer.is_global_zero:
            sys.exit(0)  # the first process speaks for all; another status would look like a death
        raise
    except BaseException as error:
        _end_children(trainer)
        known = explained(error, trainer)
        if known is None:
            raise
        raise known from error


def explained(error: BaseException, trainer: Trainer) -> ContrastiveError | None:
    """An error of the system's as one that says what to do; None where it is not known."""
    if isinstance(error, ContrastiveError):
        return error
    said = _of_settings(error, trainer) or _of_system(error, trainer)
    return ContrastiveError(said) if said else None


def _of_settings(error: BaseException, trainer: Trainer) -> str | None:
    """What is said of settings, data and networks that do not go together; None for other errors."""
    text = str(error)
    if isinstance(error, ValueError | NotImplementedError) and _is_said_by(_OURS, error):  # of losses, say
        return text
    if isinstance(error, Exception) and _is_said_by(_LIGHTNING, error):
        return text
    if "more than 1 value per channel" in text:  # torch's batch norms
        return (
            "a batch norm was given one sample, which has no spread: give a batch_size of 2 or "
            "more, and as many to each of the accumulate_negatives"
        )
    if trainer.precision not in ("32-true", "bf16-mixed", "16-mixed") and _DTYPES.search(text):
        return (
            f"trainer.precision {trainer.precision} does not fit views or encoder ({text.splitlines()[0]}); "
            "take bf16-mixed or 32-true"
        )
    if isinstance(error, ValueError) and "loaded state dict" in text:  # torch's optimizers
        return (
            "the optimizer's state in the checkpoint is of other parameters than those that are trained now, "
            "by the settings or by this version: set the model back, or start a new --run_dir"
        )
    return _misfit(error, trainer)


def _of_system(error: BaseException, trainer: Trainer) -> str | None:
    """What is said of memory, disks and processes, and what is left; None for other errors."""
    step, kept = trainer.global_step, _kept(trainer)
    # amid the writing of a checkpoint it is what another error, of the file that was not ended, was raised in
    died = next((e for e in _chain(error) if _WORKER.search(str(e)) or _cut_off(e)), None)
    if died:
        return (
            f"a process that reads data died at step {step} ({_first_line(died)}). "
            "It crashed, or was killed, as the system does when memory runs out: lower "
            f"data.init_args.num_workers. {kept}"
        )
    short = next((e for e in _chain(error) if _is_of_memory(e)), None)
    if short:
        return (
            f"out of memory at step {step} ({_first_line(short)}). Lower data.init_args.batch_size, "
            "though fewer samples are fewer negatives and another loss; model.init_args.accumulate_negatives "
            "splits the batch and keeps its negatives. Or take a smaller encoder, or precision bf16-mixed. "
            f"{kept}"
        )
    if isinstance(error, OSError) and error.strerror:
        where = error.filename or f"a file in {trainer.default_root_dir}"
        return f"cannot write or read {where} at step {step}: {error.strerror}. {kept}"
    if trainer.world_size > 1 and isinstance(error, RuntimeError) and _LOST.search(str(error)):
        return (
            f"process {trainer.global_rank} lost another one at step {step}; its own error is "
            f"printed above, or it was killed, as the system does when memory runs out "
            f"({_first_line(error)}). {kept}"
        )
    return None


def _misfit(error: BaseException, trainer: Trainer) -> str | None:
    """What an encoder was given, and where in it torch says that shapes do not fit; None for other errors."""
    encoder = getattr(trainer.lightning_module, "encoder", None)
    if encoder is None or not _SHAPES.search(str(error)):
        return None
    stack = [*traceback.walk_tb(error.__traceback__)]
    inner = next((i for i, (frame, _) in enumerate(stack) if frame.f_locals.get("self") is encoder), None)
    if inner is None:
        return None
    forward = next((f for f, _ in stack[inner:] if f.f_code.co_name == "forward"), stack[inner][0])
    file, line = next(
        (frame.f_code.co_filename, line)
        for frame, line in reversed(stack)
        if not frame.f_globals.get("__name__", "").startswith("torch.")
    )
    return (
        f"{type(encoder).__name__} does not fit {_described(forward.f_locals.values())}: {error} ({file}, "
        f"line {line}). Give it arguments, model.encoder.init_args, that fit what data and views give, or "
        "mend that line"
    )


def _described(values: Iterable[Any]) -> str:
    """The first of some values that an encoder may take."""
    for value in values:
        if isinstance(value, GraphBatch):
            kind = "number(s)" if value.x.is_floating_point() else "categories"
            return f"graphs whose nodes have {value.x.shape[1]} {kind} each"
        if isinstance(value, Tensor):
            return f"images {tuple(value.shape)}" if value.ndim == 4 else f"inputs {tuple(value.shape)}"
    return "its inputs"


def _is_said_by(packages: tuple[str, ...], error: BaseException) -> bool:
    """Whether code of some packages raised an error on purpose, and not Python within a line of it."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    source = linecache.getline(frame.f_code.co_filename, line).strip()
    return frame.f_globals.get("__name__", "").startswith(packages) and source.startswith("raise ")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it was raised from or amid."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__  # also one that `from None` hides


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _is_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(_MEMORY.search(str(error)))


def _cut_off(error: BaseException) -> bool:
    """Whether the loader's connection to a worker broke, as torch says while a dying one counts as alive."""
    frames = traceback.walk_tb(error.__traceback__)
    broken = isinstance(error, ConnectionError | EOFError | FileNotFoundError)
    return broken and any(frame.f_code.co_name == "_try_get_data" for frame, _ in frames)


def _kept(trainer: Trainer) -> str:
    last = Path(trainer.default_root_dir) / LAST
    if not last.exists():
        return "No checkpoint was written yet"
    return f"{last.resolve()} is whole; go on from it with --ckpt_path last"


def _end_children(trainer: Trainer) -> None:
    """End the processes that this one started: they wait for it, and would say so at length."""
    launcher: Any = trainer.strategy.launcher
    if getattr(launcher, "procs", None):
        launcher.kill(signal.SIGKILL)
