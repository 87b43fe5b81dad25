"""Starts ``contrastive`` in processes of their own without importing torch anew: forked from a server that has."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["contrastive.pretrain", "contrastive.data.images", "contrastive.data.graphs"])


@dataclass
class Run:
    """The processes of one run, the first of which is rank 0, and what they print."""

    processes: list[BaseProcess]
    log: Path

    def wait(self, timeout: float = 120) -> int:
        """The exit status of rank 0; negative is the signal that ended it."""
        for process in self.processes:
            process.join(timeout)
            if process.is_alive():
                self.kill()
                raise TimeoutError(f"still running after {timeout} s:\n{self.printed}")
        return self.processes[0].exitcode

    def kill(self):
        for process in self.processes:
            process.kill()

    @property
    def printed(self) -> str:
        return self.log.read_text(errors="replace")


def start(args: list, log: Path, *, world_size: int = 1, env: dict[str, str] | None = None) -> Run:
    """Start ``contrastive ARGS``, on several processes as torchrun does it."""
    port = _free_port()
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
        process = _server.Process(target=_main, args=(list(map(str, args)), str(log), variables))
        process.start()
        processes.append(process)
    return Run(processes, log)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _main(args: list[str], log: str, variables: dict[str, str]) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)
    sys.stderr = open(2, "w", buffering=1, closefd=False)
    os.environ.update(variables)
    sys.path.insert(0, str(Path(__file__).parent))  # for callbacks that only tests have

    import torch
    from pytorch_lightning.utilities import rank_zero_only

    from contrastive.cli import main

    torch.set_num_threads(1)
    rank_zero_only.rank = int(variables.get("RANK", 0))  # the server imported it without one
    sys.exit(main(args))
