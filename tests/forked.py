"""Starts ``contrastive`` in processes of their own, forked from a server that has imported torch already."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(
    ["contrastive.pretrain", "contrastive.data.images", "contrastive.data.graphs", "dgl", "encoders.image"]
)


COMMON = {
    "trainer.max_epochs": 3,
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.log_every_n_steps": 1,
    "checkpoints.every_n_steps": 3,
    "collapse.every_n_steps": 2,
    "wandb": "off",
}
DATA = {
    "digits": {
        "config": "configs/image/simclr_digits.yaml",
        "model.encoder.init_args.width": 4,
        "data.init_args.train_subset": 320,
        "data.init_args.batch_size": 48,  # over all processes: 6 steps an epoch
        "knn.every_n_epochs": 1,
    },
    "graphs": {
        "config": "configs/graph/graphcl.yaml",
        "model.encoder.node_features": 65,
        "model.encoder.num_hidden": 8,
        "model.encoder.dropout": 0.2,  # torch's own random numbers
        "model.encoder.share_equal_nodes": "false",
        "data.init_args.batch_size": 16,
    },
}
DATA["queue"] = {"config": "", "model": "interruptions.Queued"} | DATA["digits"]
DATA["stream"] = {
    "config": "configs/image/simclr_cifar10.yaml",
    "data": "contrastive.data.image_streams.ImageStream",
    "data.init_args.image_size": 8,
    "data.init_args.epoch_size": 96,
    "data.init_args.batch_size": 16,
    "model.encoder.init_args.width": 4,
    "model.views.init_args.size": 8,
}


def write_rings(folder: Path, num_graphs: int = 96) -> Path:
    """Rings with chords, as TUDataset files without features."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    edges, indicator, first = [], [], 1
    for g in range(num_graphs):
        n = int(generator.integers(5, 9))
        chord = int(generator.integers(2, n - 1))
        for a, b in [*((i, (i + 1) % n) for i in range(n)), (0, chord)]:
            edges += [f"{first + a}, {first + b}", f"{first + b}, {first + a}"]
        indicator += [str(g + 1)] * n
        first += n
    (folder / "RINGS_A.txt").write_text("\n".join(edges))
    (folder / "RINGS_graph_indicator.txt").write_text("\n".join(indicator))
    return folder


@dataclass
class Run:
    """The processes of one run, the first of which is rank 0, and what they print."""

    processes: list[BaseProcess]
    log: Path

    def wait(self) -> int:
        """Wait for all; the exit status of rank 0."""
        first, *_ = [self.status(rank) for rank in range(len(self.processes))]
        return first

    def status(self, rank: int, timeout: float = 400) -> int:
        """The exit status of one process; negative is the signal that ended it.

        The time is what a busy machine may take, and less than the half hour that gloo waits for a lost one.
        """
        process = self.processes[rank]
        process.join(timeout)
        if process.is_alive():
            self.kill()
            raise TimeoutError(f"process {rank} still runs after {timeout} s:\n{self.printed}")
        return process.exitcode

    def kill(self):
        for process in self.processes:
            process.kill()

    @property
    def printed(self) -> str:
        return self.log.read_text(errors="replace")


def start(args: list, log: Path, *, world_size: int = 1, env: dict[str, str] | None = None) -> Run:
    """Start ``contrastive ARGS``, on several processes as torchrun does it."""
    port = free_port()
    processes = []
    for rank in range(world_size):
        several = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": world_size,
            "LOCAL_WORLD_SIZE": world_size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TORCHELASTIC_RUN_ID": "none",
        }
        variables = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} | (env or {})
        variables |= {key: str(value) for key, value in several.items()} if world_size > 1 else {}
        process = server.Process(target=_main, args=(list(map(str, args)), str(log), str(log), variables))
        process.start()
        processes.append(process)
    return Run(processes, log)


def run(args: tuple, *, cwd: Path | None, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run ``contrastive ARGS`` to its end; what it prints is text, as of ``subprocess.run``."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = server.Process(
            target=_main,
            args=(
                list(map(str, args)),
                str(out),
                str(err),
                {**os.environ, "COLUMNS": "200"},
                str(cwd or Path.cwd()),
            ),
        )
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(list(args), timeout, out.read_text(), err.read_text())
        printed = [file.read_text(errors="replace") for file in (out, err)]
        return subprocess.CompletedProcess(list(args), process.exitcode, *printed)


def pretrain(
    folder: Path,
    data: str = "digits",
    *,
    workers: int = 0,
    world_size: int = 1,
    end: tuple[str, int] | None = None,
    env: dict[str, str] | None = None,
    callbacks: tuple[str, ...] = (),
    **settings: Any,
) -> Run:
    """Start pretraining into ``folder``; ``end`` is a signal that ends it, and the step at which it comes."""
    options = {"config": ""} | COMMON | DATA[data]  # the configuration comes first
    options |= {"run_dir": folder, "data.init_args.num_workers": workers}
    options["data.init_args.batch_size"] //= world_size
    if data == "graphs":
        rings = folder.with_name(folder.name + "-data") / "RINGS"
        options["data.init_args.source"] = rings if rings.exists() else write_rings(rings)
    if world_size > 1:
        options |= {"trainer.devices": world_size, "trainer.strategy": "ddp"}
    args = [part for key, value in (options | settings).items() for part in (f"--{key}", value)]
    args += ["--trainer.callbacks+=interruptions.Losses", "--trainer.callbacks.file", f"{folder}/losses"]
    if end:
        args += ["--trainer.callbacks+=interruptions.SignalAt"]
        args += ["--trainer.callbacks.name", end[0], "--trainer.callbacks.step", end[1]]
    log = folder.with_name(f"{folder.name}-{time.monotonic_ns()}.log")
    return start(["pretrain", *args, *callbacks], log, world_size=world_size, env=env)


def free_port() -> int:
    """A port below those that the system gives to connections: one of them could take it before its use."""
    while True:
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", secrets.choice(range(20_000, 32_000))))
            return s.getsockname()[1]


def _main(args: list[str], out: str, err: str, variables: dict[str, str], cwd: str | None = None) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.environ.update(variables)
    os.chdir(cwd or ".")
    sys.path.insert(0, str(Path(__file__).parent))  # for callbacks that only tests have

    import torch
    from pytorch_lightning.utilities import rank_zero_only

    from contrastive.cli import main

    multiprocessing.set_start_method("fork", force=True)  # of data workers, as without a server
    sys.argv = ["contrastive", *args]  # with these Lightning starts further processes
    sys.modules["__main__"].__spec__ = find_spec("contrastive.cli")
    torch.set_num_threads(1)
    rank_zero_only.rank = int(variables.get("RANK", 0))  # the server imported it without one
    sys.exit(main(args))
